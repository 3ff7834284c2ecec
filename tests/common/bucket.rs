//! A bucket on a server, and a repository beside it, both small.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use aws_sdk_s3::Client;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use futures::{StreamExt, stream};
use icecore::backup::{self, Report};
use icecore::browse::{Browser, Side};
use icecore::context::{Cancel, Context};
use icecore::progress::{Amount, Phase, Progress};
use icecore::repository::{Access, KeyCost, Repository};
use icecore::selection::Selection;
use icecore::source::BucketOptions;
use icecore::storage::{ATTEMPTS, Location, S3Access, S3Address, connect};
use icecore::store::Tuning;
use tokio::runtime::Runtime;

use super::Server;

pub const PASSPHRASE: &str = "a long sentence";
/// Guessing costs nothing here.
pub const COST: KeyCost = KeyCost { memory: 64, passes: 1 };

/// A bucket on MinIO, and a directory for a repository.
pub struct World {
    pub runtime: Runtime,
    pub directory: tempfile::TempDir,
    pub minio: Arc<Server>,
    pub bucket: String,
}

/// One server for all tests of a program that run at the same time.
fn shared() -> Arc<Server> {
    static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
    // A server that did not start is no reason for others not to try.
    let mut shared = SHARED.lock().unwrap_or_else(|e| e.into_inner());
    shared.upgrade().unwrap_or_else(|| {
        let minio = Arc::new(Server::minio());
        *shared = Arc::downgrade(&minio);
        minio
    })
}

/// A name that no other test of this program has.
pub fn new_bucket() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("bucket-{}", COUNT.fetch_add(1, Ordering::SeqCst))
}

impl World {
    /// An empty bucket and a new repository.
    pub fn new() -> World {
        World::on(shared())
    }

    /// The same on a server of one's own.
    pub fn on(minio: Arc<Server>) -> World {
        let (runtime, directory, bucket) = (super::runtime(), tempfile::tempdir().unwrap(), new_bucket());
        minio.make_bucket(&runtime, &bucket);
        let world = World { runtime, directory, minio, bucket };
        Repository::init(&world.context(), &world.access(), PASSPHRASE, COST).unwrap();
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn context(&self) -> Context {
        Context::system(self.runtime.handle().clone())
    }

    pub fn access(&self) -> Access {
        let location = Location::Local(self.path("repository"));
        Access { location, credentials: None, cache: self.path("cache"), upload: None, download: None }
    }

    pub fn open_with(&self, context: &Context) -> Repository {
        Repository::open(context, &self.access(), PASSPHRASE).unwrap()
    }

    pub fn open(&self) -> Repository {
        self.open_with(&self.context())
    }

    pub fn client(&self) -> Client {
        self.runtime.block_on(connect(&self.minio.access())).unwrap()
    }

    /// Puts objects, many at once.
    pub fn fill(&self, objects: impl IntoIterator<Item = (String, Vec<u8>)>) {
        fill(&self.runtime, &self.minio.access(), &self.bucket, objects);
    }

    /// Uploads an object in these parts.
    pub fn put_in_parts(&self, key: &str, parts: &[Vec<u8>]) {
        let (client, bucket) = (self.client(), &self.bucket);
        self.runtime.block_on(async {
            let begun = client.create_multipart_upload().bucket(bucket).key(key).send().await.unwrap();
            let mut done = CompletedMultipartUpload::builder();
            for (number, part) in (1..).zip(parts) {
                let put = client.upload_part().bucket(bucket).key(key).part_number(number);
                let put = put.set_upload_id(begun.upload_id.clone()).body(part.clone().into());
                let put = put.send().await.unwrap();
                let part = CompletedPart::builder().part_number(number).set_e_tag(put.e_tag).build();
                done = done.parts(part);
            }
            let complete = client.complete_multipart_upload().bucket(bucket).key(key);
            let complete = complete.set_upload_id(begun.upload_id).multipart_upload(done.build());
            complete.send().await.unwrap();
        });
    }

    /// What backs the bucket up.
    pub fn options(&self) -> backup::Options {
        options(S3Access { attempts: ATTEMPTS, ..self.minio.access() }, &self.bucket)
    }

    /// The same by way of another address.
    pub fn options_by(&self, url: &str) -> backup::Options {
        let address = S3Address { endpoint: Some(url.into()), ..S3Address::default() };
        options(S3Access { address, attempts: ATTEMPTS, ..self.minio.access() }, &self.bucket)
    }

    pub fn backup(&self) -> backup::Result<Report> {
        backup::run(&self.open(), &self.options())
    }

    /// The newest snapshot holds these objects and no others.
    pub fn holds(&self, objects: impl IntoIterator<Item = (String, Vec<u8>)>) {
        let repository = self.open();
        let info = repository.view().unwrap().snapshots.pop().unwrap();
        let moment = info.clone().into();
        let browser = Browser::open(&repository).unwrap();
        let mut count = 0;
        for (key, body) in objects {
            let mut found = Vec::new();
            browser.cat(&moment, Side::Objects, key.as_bytes(), None, &mut found).unwrap();
            assert!(found == body, "{key}");
            count += 1;
        }
        assert_eq!(info.snapshot.objects.as_ref().unwrap().root.map_or(0, |root| root.count), count);
    }

    /// Every byte of every snapshot is as it was.
    pub fn is_whole(&self) {
        let repository = self.open();
        let report = icecore::check::run(&repository, icecore::check::Options { read_data: true }).unwrap();
        assert_eq!(report.damage, []);
        for info in repository.view().unwrap().snapshots {
            assert_eq!(icecore::check::verify(&repository, &info.clone().into()).unwrap().damage, []);
        }
    }
}

/// Puts objects, many at once.
pub fn fill(
    runtime: &Runtime,
    access: &S3Access,
    bucket: &str,
    objects: impl IntoIterator<Item = (String, Vec<u8>)>,
) {
    let client = runtime.block_on(connect(access)).unwrap();
    let puts = stream::iter(objects).map(|(key, body)| {
        let put = client.put_object().bucket(bucket).key(key).body(body.into());
        async move { put.send().await.map(|_| ()).unwrap() }
    });
    runtime.block_on(puts.buffer_unordered(32).collect::<()>());
}

/// What backs up a bucket.
pub fn options(access: S3Access, bucket: &str) -> backup::Options {
    let (prefix, selection) = (String::new(), Selection::default());
    let objects = BucketOptions { access, bucket: bucket.into(), prefix, selection, versions: false };
    backup::Options {
        series: "default".into(),
        name: None,
        tags: Vec::new(),
        etcd: None,
        objects: Some(objects),
        directory: None,
        new_line: false,
        max_size: None,
        prove: false,
        tuning: Tuning::default(),
    }
}

/// Bytes that no two `number`s share, and that do not compress.
pub fn content(number: usize, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Objects that are too large to stand in their entries.
pub fn objects(count: usize) -> impl Iterator<Item = (String, Vec<u8>)> {
    (0..count).map(|number| (format!("{:02}/{number:06}", number % 20), content(number, 5000 + number % 500)))
}

/// Does something once so many objects were read.
pub struct After<F> {
    count: u64,
    seen: AtomicU64,
    act: F,
}

impl<F: Fn() + Send + Sync> After<F> {
    pub fn new(count: u64, act: F) -> Arc<After<F>> {
        Arc::new(After { count, seen: AtomicU64::new(0), act })
    }
}

/// Ctrl-C once so many objects were read.
pub fn interrupt_after(count: u64, cancel: Cancel) -> Arc<dyn Progress> {
    After::new(count, move || cancel.cancel())
}

impl<F: Fn() + Send + Sync> Progress for After<F> {
    fn begin(&self, _: Phase) {}
    fn expect(&self, _: Amount) {}
    fn settled(&self) {}
    fn advance(&self, more: Amount) {
        if self.seen.fetch_add(more.items, Ordering::SeqCst) + more.items >= self.count {
            (self.act)();
        }
    }
    fn note(&self, _: &str) {}
    fn end(&self) {}
}
