//! A network between a client and a server that has bad days.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

/// What a listing, or the head of an answer, is made into.
pub type Edit = Arc<dyn Fn(&str) -> String + Send + Sync>;
/// The answer to a request, by its first line, where the server is not to be asked.
pub type Reply = Arc<dyn Fn(&str) -> Option<&'static str> + Send + Sync>;

/// What becomes of one connection.
#[derive(Clone)]
pub enum Fate {
    /// It is a good one.
    Pass,
    /// It breaks after so many bytes of answers.
    CutDown(usize),
    /// It breaks after so many bytes of requests.
    CutUp(usize),
    /// Its first request is answered so, and it ends.
    Answer(&'static str),
    /// It is not accepted.
    Refuse,
    /// Answers come late.
    Slow(Duration),
    /// It serves one request; a listing (ListObjectsV2) comes as this makes it.
    Listing(Edit),
    /// It serves one request; the head of the answer comes as this makes it.
    Head(Edit),
    /// It serves one request, or answers it itself.
    Instead(Reply),
}

/// Throttling, as S3 says it.
pub const SLOW_DOWN: &str = "HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: 90\r\n\
Connection: close\r\n\r\n<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>   ";

/// Stands before a server until it is dropped.
pub struct Proxy {
    /// What clients connect to.
    pub url: String,
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<Weak<TcpStream>>>>,
    /// Connections so far.
    pub count: Arc<AtomicUsize>,
}

impl Proxy {
    /// Before the server at `url`; `fate` decides for the nth connection, from 0 on.
    pub fn before(url: &str, fate: impl Fn(usize) -> Fate + Send + Sync + 'static) -> Proxy {
        let server: SocketAddr = url.strip_prefix("http://").unwrap().parse().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (ended, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let open: Arc<Mutex<Vec<Weak<TcpStream>>>> = Arc::default();
        let (end, counter, clients) = (ended.clone(), count.clone(), open.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                let number = counter.fetch_add(1, Ordering::SeqCst);
                let fate = fate(number);
                // Not held here: a connection that is served no more is to be closed.
                let client = Arc::new(client);
                clients.lock().unwrap().push(Arc::downgrade(&client));
                std::thread::spawn(move || serve(client, server, fate));
            }
        });
        Proxy { url: format!("http://{address}"), address, ended, open, count }
    }
}

impl Proxy {
    /// Every connection breaks.
    pub fn cut(&self) {
        for client in self.open.lock().unwrap().drain(..).filter_map(|client| client.upgrade()) {
            let _ = client.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        self.cut();
    }
}

fn serve(client: Arc<TcpStream>, server: SocketAddr, fate: Fate) {
    match fate {
        Fate::Refuse => {
            let _ = client.shutdown(Shutdown::Both);
            return;
        }
        Fate::Answer(text) => {
            let mut request = [0; 64 << 10];
            let _ = (&*client).read(&mut request);
            let _ = (&*client).write_all(text.as_bytes());
            let _ = client.shutdown(Shutdown::Write);
            // What else is sent is taken, so that the answer is not lost to a reset.
            let _ = client.set_read_timeout(Some(Duration::from_secs(2)));
            while (&*client).read(&mut request).is_ok_and(|n| n > 0) {}
            let _ = client.shutdown(Shutdown::Both);
            return;
        }
        _ => {}
    }
    let Ok(upstream) = TcpStream::connect(server) else {
        let _ = client.shutdown(Shutdown::Both);
        return;
    };
    let upstream = Arc::new(upstream);
    if let Fate::Listing(_) | Fate::Head(_) | Fate::Instead(_) = fate {
        let _ = relay(client, upstream, fate);
        return;
    }
    let (from_client, to_server) = (client.clone(), upstream.clone());
    let up = if let Fate::CutUp(most) = fate { most } else { usize::MAX };
    let down = if let Fate::CutDown(most) = fate { most } else { usize::MAX };
    let late = if let Fate::Slow(by) = fate { by } else { Duration::ZERO };
    let upward = std::thread::spawn(move || pump(from_client, to_server, up, Duration::ZERO));
    pump(upstream, client, down, late);
    let _ = upward.join();
}

/// What comes up to the end of a request's or an answer's head, and what came behind it.
fn head(mut from: &TcpStream) -> io::Result<(Vec<u8>, Vec<u8>)> {
    const END: &[u8] = b"\r\n\r\n";
    let (mut came, mut buffer) = (Vec::new(), [0; 16 << 10]);
    loop {
        if let Some(at) = came.windows(END.len()).position(|window| window == END) {
            let behind = came.split_off(at + END.len());
            return Ok((came, behind));
        }
        match from.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => came.extend_from_slice(&buffer[..n]),
        }
    }
}

/// One request and its answer.
fn relay(client: Arc<TcpStream>, upstream: Arc<TcpStream>, fate: Fate) -> io::Result<()> {
    let (mut request, behind) = head(&client)?;
    let end = request.windows(2).position(|window| window == b"\r\n").unwrap();
    let line = String::from_utf8_lossy(&request[..end]).into_owned();
    if let Fate::Instead(reply) = &fate
        && let Some(answer) = reply(&line)
    {
        (&*client).write_all(answer.as_bytes())?;
        return client.shutdown(Shutdown::Both);
    }
    // So that the next request comes on a connection of its own, and the answer's end is seen.
    request.splice(end..end, *b"\r\nConnection: close");
    request.extend(behind);
    (&*upstream).write_all(&request)?;
    let edit = match fate {
        Fate::Listing(edit) if line.contains("list-type=2") => edit,
        fate => {
            if let Fate::Head(edit) = fate {
                let (head, behind) = head(&upstream)?;
                (&*client).write_all(edit(&String::from_utf8_lossy(&head)).as_bytes())?;
                (&*client).write_all(&behind)?;
            }
            let (from_client, to_server) = (client.clone(), upstream.clone());
            std::thread::spawn(move || pump(from_client, to_server, usize::MAX, Duration::ZERO));
            pump(upstream, client, usize::MAX, Duration::ZERO);
            return Ok(());
        }
    };
    let mut answer = String::new();
    (&*upstream).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let body = edit(body);
    let head = head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("content-length:"));
    let head = head.collect::<Vec<_>>().join("\r\n");
    write!(&*client, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    client.shutdown(Shutdown::Both)
}

/// Copies up to `most` bytes; then both sides are cut.
fn pump(from: Arc<TcpStream>, to: Arc<TcpStream>, most: usize, late: Duration) {
    let mut buffer = [0; 16 << 10];
    let mut left = most;
    while left > 0 {
        let n = match (&*from).read(&mut buffer) {
            Ok(n) if n > 0 => n.min(left),
            _ => break,
        };
        std::thread::sleep(late);
        if (&*to).write_all(&buffer[..n]).is_err() {
            break;
        }
        left -= n;
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
