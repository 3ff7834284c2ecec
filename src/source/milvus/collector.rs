//! The management port of a Milvus: its garbage collector, paused while objects are read.
//!
//! One request of HTTP/1.1 at a time; no client is worth its weight for that.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

/// Whoever does not answer in this time is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// A pause ends by itself after this many seconds, whatever becomes of us.
const PAUSE_SECONDS: u32 = 3600;
/// Of an answer this much is read.
const MOST_ANSWER: u64 = 64 << 10;

/// A collector that stands still. It goes on when this is dropped.
pub struct Paused {
    runtime: Handle,
    address: String,
}

/// Pauses the collector of the Milvus whose management port is at `url` (`http://host:9091`).
pub fn pause_collector(runtime: &Handle, url: &str) -> Result<Paused, String> {
    let address = address(url)?;
    runtime.block_on(get(&address, &format!("pause?pause_seconds={PAUSE_SECONDS}")))?;
    Ok(Paused { runtime: runtime.clone(), address })
}

impl Drop for Paused {
    fn drop(&mut self) {
        // Where nobody answers it ends by itself.
        let _ = self.runtime.block_on(get(&self.address, "resume"));
    }
}

fn address(url: &str) -> Result<String, String> {
    let rest = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    match rest.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() && !rest.contains('/') => {
            Ok(rest.into())
        }
        _ => Err(format!("{url:?} is no address of a management port; write http://host:9091")),
    }
}

/// One request to the collector's part of the management port.
async fn get(address: &str, what: &str) -> Result<(), String> {
    let path = format!("/management/datacoord/garbage_collection/{what}");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(MOST_ANSWER).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(PATIENCE, exchange).await;
    let answer = answer.map_err(|_| format!("{address} does not answer"))?;
    let answer = answer.map_err(|e| format!("{address}: {e}"))?;
    let text = String::from_utf8_lossy(&answer);
    let status = text.split(' ').nth(1).unwrap_or_default();
    match status {
        "200" => Ok(()),
        "404" => Err(format!("{address} knows no {path}: Milvus has it since 2.4")),
        _ => Err(format!("{address} answered {:?} to {path}", text.lines().next().unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_management_port_has_a_host_and_a_port() {
        assert_eq!(address("http://milvus:9091/"), Ok("milvus:9091".into()));
        assert_eq!(address("[::1]:9091"), Ok("[::1]:9091".into()));
        for bad in ["https://milvus:9091/x", "milvus", ":9091", "http://milvus:port"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    /// Answers each request with `status`; gives the address and the requests' first lines.
    fn server(runtime: &Handle, status: &'static str) -> (String, Arc<Mutex<Vec<String>>>) {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let lines = seen.clone();
        runtime.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.unwrap();
                let text = String::from_utf8_lossy(&request[..length]).into_owned();
                lines.lock().unwrap().push(text.lines().next().unwrap().to_owned());
                stream.write_all(format!("HTTP/1.1 {status}\r\n\r\n{{}}").as_bytes()).await.unwrap();
            }
        });
        (address, seen)
    }

    #[test]
    fn a_pause_ends_with_its_value_also_when_what_it_was_for_fails() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let (address, seen) = server(runtime.handle(), "200 OK");
        let fails = || -> Result<(), String> {
            let _paused = pause_collector(runtime.handle(), &address)?;
            Err("it failed".into())
        };
        assert_eq!(fails(), Err("it failed".into()));
        let before = "GET /management/datacoord/garbage_collection/";
        let expected = ["pause?pause_seconds=3600", "resume"].map(|what| format!("{before}{what} HTTP/1.1"));
        assert_eq!(*seen.lock().unwrap(), expected);
    }

    #[test]
    fn a_milvus_that_cannot_pause_says_so() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let (address, seen) = server(runtime.handle(), "404 Not Found");
        let error = pause_collector(runtime.handle(), &address).err().unwrap();
        assert!(error.contains("since 2.4"), "{error}");
        assert_eq!(seen.lock().unwrap().len(), 1, "what was not paused is not resumed");
    }
}
