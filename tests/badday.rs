//! Networks, servers, disks and clocks on their bad days, below a backup: either it ends well, or it says what
//! is wrong; nothing is lost, and the next run goes on.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::Server;
use common::bucket::{After, COST, PASSPHRASE, World, content, new_bucket, objects};
use common::proxy::{Fate, Proxy, SLOW_DOWN};
use icecore::backup::{self, Report};
use icecore::browse::{Browser, Side};
use icecore::context::{Context, FixedClock, Seeded};
use icecore::fault::Kind;
use icecore::format::Name;
use icecore::repository::{Access, Point, Repository};
use icecore::restore;
use icecore::storage::{
    Cause, CredentialVars, Faulty, Injected, Local, Location, Operation, PROBE_FOLDER, Patience, Requests,
    Retried, S3, S3Address, Storage, connect,
};
use icecore::store::Tuning;

/// Small objects and a large one that is read in ranges.
fn mixed() -> Vec<(String, Vec<u8>)> {
    objects(60).chain([("large".to_owned(), content(9000, (18 << 20) + 7))]).collect()
}

/// The repository behind a medium that fails as `plan` says.
fn open_faulty(
    world: &World,
    plan: impl Fn(Operation, &str) -> Option<Injected> + Send + Sync + 'static,
) -> Repository {
    let faulty = Faulty::new(Local::new(world.path("repository")), plan);
    let pause = Duration::from_millis(1);
    let patience = Patience { pause, deadline: Duration::from_secs(5), first_answer: Duration::from_secs(5) };
    let context = world.context();
    let random = Arc::new(Seeded::new(7));
    let storage = Arc::new(Retried::new(faulty, patience, random, context.cancel.clone()));
    let requests = Arc::new(Requests::default());
    Repository::open_on(&context, &world.access(), storage, requests, PASSPHRASE).unwrap()
}

fn no_space() -> Injected {
    Injected::Instead(Cause::Refused(Kind::NoSpace, "no space left on device".into()))
}

/// Many files for little content.
fn small_packs(world: &World) -> backup::Options {
    let tuning =
        Tuning { data_pack: 32 << 10, segment_every: Duration::ZERO, inline_chunks: 0, ..Tuning::default() };
    backup::Options { tuning, ..world.options() }
}

fn counts(report: &Report) -> (u64, u64) {
    let (_, counts) = report.objects.as_ref().unwrap();
    (counts.count, counts.added)
}

// The medium.

#[test]
fn a_disk_that_fills_up_at_any_file_fails_the_backup_says_so_and_the_next_one_ends_well() {
    let world = World::new();
    world.fill(objects(40));
    let mut room = 0;
    loop {
        let left = AtomicUsize::new(room);
        let full = move |operation, _: &str| {
            let fits = || left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
            (operation == Operation::Put && !fits()).then(no_space)
        };
        match backup::run(&open_faulty(&world, full), &small_packs(&world)) {
            Ok(_) => break,
            Err(error) => assert_eq!(error.kind(), Kind::NoSpace, "room for {room} files: {error}"),
        }
        assert!(world.open().view().unwrap().snapshots.is_empty(), "room for {room} files");
        world.is_whole();
        room += 1;
    }
    assert!(room > 4, "{room}");
    world.is_whole();
    world.holds(objects(40));
}

#[test]
fn answers_that_are_lost_after_the_deed_and_requests_that_fail_once_change_nothing() {
    let world = World::new();
    world.fill(objects(40));
    let count = Arc::new(AtomicUsize::new(0));
    let plan = {
        let count = count.clone();
        // Every second request fails; its repetition is the next one. A probe's winner may be told nothing five
        // times in a row, which rightly ends the backup.
        move |operation, name: &str| match (count.fetch_add(1, Ordering::SeqCst) % 2, operation) {
            _ if name.starts_with(PROBE_FOLDER) => None,
            (0, Operation::Put) => Some(Injected::After(Cause::Uncertain("lost".into()))),
            (0, _) => Some(Injected::Instead(Cause::Transient("try again".into()))),
            _ => None,
        }
    };
    let repository = open_faulty(&world, plan);
    assert_eq!(counts(&backup::run(&repository, &small_packs(&world)).unwrap()), (40, 40));
    assert!(count.load(Ordering::SeqCst) > 40);
    world.is_whole();
    world.holds(objects(40));
    let view = world.open().view().unwrap();
    assert_eq!(view.snapshots.len(), 1, "a lost answer made a second snapshot");
}

#[test]
fn a_medium_that_fails_in_the_middle_fails_the_backup_and_the_next_one_goes_on() {
    let world = World::new();
    world.fill(objects(200));
    let puts = AtomicUsize::new(0);
    let broken = move |operation, name: &str| {
        let late = operation == Operation::Put && puts.fetch_add(1, Ordering::SeqCst) > 30;
        (late && name.starts_with("packs/"))
            .then(|| Injected::Instead(Cause::Refused(Kind::Failed, "input/output error".into())))
    };
    let error = backup::run(&open_faulty(&world, broken), &small_packs(&world)).unwrap_err();
    assert!(error.to_string().contains("input/output error"), "{error}");
    let report = world.backup().unwrap();
    assert!(report.objects.as_ref().unwrap().1.resumed > 0);
    world.holds(objects(200));
    world.is_whole();
}

/// A listing that does not show the newest files breaks what a storage must keep. Then it may be an older
/// state that is seen, or damage is said; other data is never given out.
#[test]
fn a_listing_that_lags_shows_an_older_state_or_damage_and_never_other_data() {
    let world = World::new();
    world.fill(objects(40));
    backup::run(&world.open(), &small_packs(&world)).unwrap();
    let before: Vec<String> = world.open().storage().names("").unwrap();
    world.fill((0..20).map(|n| (format!("99/{n}"), content(1000 + n, 9000))));
    backup::run(&world.open(), &small_packs(&world)).unwrap();
    for hidden in ["snapshots/", "index/", "sessions/", "packs/"] {
        let lagging = Lagging { inner: Local::new(world.path("repository")), hidden, shown: before.clone() };
        let access = Access { cache: world.path(&format!("cache-{}", hidden.len())), ..world.access() };
        let requests = Arc::new(Requests::default());
        let (context, storage) = (world.context(), Arc::new(lagging));
        let repository = Repository::open_on(&context, &access, storage, requests, PASSPHRASE).unwrap();
        let info = repository.view().unwrap().find(&Point::Latest(0), "default").unwrap().info;
        let verified = icecore::check::verify(&repository, &info.clone().into()).unwrap();
        assert_eq!(verified.damage.is_empty(), hidden != "index/", "{hidden}: {:?}", verified.damage);
        for (key, body) in objects(40) {
            let mut found = Vec::new();
            let browser = Browser::open(&repository).unwrap();
            match browser.cat(&info.clone().into(), Side::Objects, key.as_bytes(), None, &mut found) {
                Ok(_) => assert!(found == body, "{hidden}: {key}"),
                Err(error) => assert_eq!(error.kind(), Kind::Damage, "{hidden}: {key}: {error}"),
            }
            if hidden != "index/" {
                break;
            }
        }
    }
    world.is_whole();
}

/// Of `hidden`, lists only what is in `shown`.
struct Lagging {
    inner: Local,
    hidden: &'static str,
    shown: Vec<String>,
}

impl Storage for Lagging {
    fn medium(&self) -> Arc<str> {
        self.inner.medium()
    }
    fn is_remote(&self) -> bool {
        self.inner.is_remote()
    }
    fn get(&self, name: &str) -> icecore::storage::Result<Bytes> {
        self.inner.get(name)
    }
    fn get_range(&self, name: &str, offset: u64, length: u64) -> icecore::storage::Result<Bytes> {
        self.inner.get_range(name, offset, length)
    }
    fn put_once(&self, name: &str, bytes: Bytes) -> icecore::storage::Result<()> {
        self.inner.put_once(name, bytes)
    }
    fn list(
        &self,
        folder: &str,
        show: &mut dyn FnMut(icecore::storage::Listed) -> icecore::storage::Result<()>,
    ) -> icecore::storage::Result<()> {
        self.inner.list(folder, &mut |listed| {
            let late = listed.name.starts_with(self.hidden) && !self.shown.contains(&listed.name);
            if late { Ok(()) } else { show(listed) }
        })
    }
    fn delete(&self, name: &str) -> icecore::storage::Result<()> {
        self.inner.delete(name)
    }
}

#[test]
fn garbage_of_runs_that_were_cut_short_anywhere_is_no_damage() {
    let world = World::new();
    world.fill(objects(60));
    // No claim, no segment: as if killed.
    for room in [1, 2, 5, 9] {
        let left = AtomicUsize::new(room);
        let gone = move |operation, _: &str| {
            let fits = || left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
            (operation == Operation::Put && !fits()).then(no_space)
        };
        backup::run(&open_faulty(&world, gone), &small_packs(&world)).unwrap_err();
        let report = icecore::check::run(&world.open(), icecore::check::Options { read_data: true }).unwrap();
        assert_eq!(report.damage, [], "room for {room} files");
    }
    world.backup().unwrap();
    world.is_whole();
}

// The network to a source.

#[test]
fn a_network_that_breaks_in_the_middle_of_bodies_and_listings_costs_time_only() {
    let world = World::new();
    world.fill(mixed());
    let proxy = Proxy::before(&world.minio.url, |number| match number % 4 {
        _ if number > 60 => Fate::Pass,
        0 => Fate::CutDown(3000 + 10_000 * (number % 7)),
        1 => Fate::CutDown(3 << 20),
        2 => Fate::CutUp(700),
        _ => Fate::Refuse,
    });
    backup::run(&world.open(), &world.options_by(&proxy.url)).unwrap();
    assert!(proxy.count.load(Ordering::SeqCst) > 20, "the network was not broken often enough");
    world.holds(mixed());
    world.is_whole();
}

#[test]
fn a_source_that_throttles_is_waited_for() {
    let world = World::new();
    world.fill(mixed());
    // A good connection is good for a few answers only.
    let proxy = Proxy::before(&world.minio.url, |number| match number % 2 {
        _ if number > 50 => Fate::Pass,
        1 => Fate::CutDown(60_000),
        _ => Fate::Answer(SLOW_DOWN),
    });
    backup::run(&world.open(), &world.options_by(&proxy.url)).unwrap();
    assert!(proxy.count.load(Ordering::SeqCst) > 20, "{:?} connections", proxy.count);
    world.holds(mixed());
}

/// A server that heeds no condition, and an object that is always another one by its second piece.
#[test]
fn an_object_that_changes_faster_than_it_is_read_is_named_and_the_others_are_kept() {
    const SECOND: &str = "bytes 4194304-";
    let world = World::new();
    world.fill(mixed());
    let changed = |head: &str| match head.contains(SECOND) {
        true => head.replace("ETag: \"", "ETag: \"another"),
        false => head.to_owned(),
    };
    let proxy = Proxy::before(&world.minio.url, move |_| Fate::Head(Arc::new(changed)));
    let report = backup::run(&world.open(), &world.options_by(&proxy.url)).unwrap();
    let [warning] = &report.warnings[..] else { panic!("{:?}", report.warnings) };
    assert!(warning.contains("\"large\"") && warning.contains("changes faster"), "{warning}");
    world.is_whole();
    let counts = world.backup().unwrap().objects.unwrap().1;
    assert_eq!((counts.read_count, counts.unchanged), (1, 60), "it alone is read again");
    world.holds(mixed());
}

/// What restores the same ETag is worth having, and no more than that.
#[test]
fn an_object_whose_parts_the_server_does_not_tell_is_kept() {
    let world = World::new();
    let (key, parts) = ("in parts", [content(1, 5 << 20), content(2, 77)]);
    world.put_in_parts(key, &parts);
    for (series, answer) in [
        ("a", "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        ("b", "HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
    ] {
        let asked = |line: &str| line.contains("attributes") || line.contains("partNumber");
        let reply = Arc::new(move |line: &str| asked(line).then_some(answer));
        let proxy = Proxy::before(&world.minio.url, move |_| Fate::Instead(reply.clone()));
        let options = backup::Options { series: series.into(), ..world.options_by(&proxy.url) };
        let report = backup::run(&world.open(), &options).unwrap();
        assert_eq!((report.warnings.len(), report.objects.unwrap().1.read_count), (0, 1), "{answer}");
        world.holds([(key.to_owned(), parts.concat())]);
    }
}

#[test]
fn a_source_that_is_gone_for_good_fails_the_backup_and_what_was_read_is_gone_on_with() {
    let world = World::new();
    world.fill(objects(300));
    let proxy =
        Arc::new(std::sync::Mutex::new(Some(Proxy::before(&world.minio.url, |_| Fate::CutDown(200_000)))));
    let url = proxy.lock().unwrap().as_ref().unwrap().url.clone();
    let mut context = world.context();
    let end = proxy.clone();
    context.progress = After::new(100, move || drop(end.lock().unwrap().take()));
    let mut options = world.options_by(&url);
    options.objects.as_mut().unwrap().access.attempts = 2;
    let error = backup::run(&world.open_with(&context), &options).unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable, "{error}");
    let report = world.backup().unwrap();
    assert!(report.objects.as_ref().unwrap().1.resumed >= 90);
    world.holds(objects(300));
    world.is_whole();
}

/// A listing that says it is all there is after its first 50 objects.
fn ended_early(listing: &str) -> String {
    const OBJECT: &str = "</Contents>";
    let end = listing.match_indices(OBJECT).nth(49).map_or(listing.len(), |(at, _)| at + OBJECT.len());
    let rest = listing[end..].replace("<IsTruncated>true", "<IsTruncated>false");
    let rest = rest.rfind(OBJECT).map_or(&rest[..], |at| &rest[at + OBJECT.len()..]);
    format!("{}{rest}", &listing[..end])
}

#[test]
fn a_source_listing_that_ends_early_is_made_again_and_loses_nothing() {
    let world = World::new();
    world.fill(objects(300));
    world.backup().unwrap();
    let listings = AtomicUsize::new(0);
    // The very first asks for one object, to see whether the bucket is there.
    let first = Arc::new(move |listing: &str| match listings.fetch_add(1, Ordering::SeqCst) {
        1 => ended_early(listing),
        _ => listing.to_owned(),
    });
    let proxy = Proxy::before(&world.minio.url, move |_| Fate::Listing(first.clone()));
    let error = backup::run(&world.open(), &world.options_by(&proxy.url)).unwrap_err();
    assert!(error.to_string().contains("250 of 300 objects are missing from a first listing"), "{error}");
    assert_eq!(world.open().view().unwrap().snapshots.len(), 1);
    assert_eq!(
        backup::run(&world.open(), &world.options_by(&proxy.url)).unwrap().objects.unwrap().1.removed,
        0
    );
    world.holds(objects(300));
    world.is_whole();
}

#[test]
fn a_loss_that_two_listings_show_is_believed_and_the_snapshot_before_still_has_it() {
    let world = World::new();
    world.fill(objects(300));
    world.backup().unwrap();
    let proxy = Proxy::before(&world.minio.url, |_| Fate::Listing(Arc::new(ended_early)));
    let report = backup::run(&world.open(), &world.options_by(&proxy.url)).unwrap();
    assert_eq!(report.objects.unwrap().1.removed, 250);
    let before = world.open().view().unwrap().snapshots.remove(0);
    assert_eq!(before.snapshot.objects.as_ref().unwrap().root.unwrap().count, 300);
    world.is_whole();
}

/// A listing that says there is more, and not where.
fn without_a_token(listing: &str) -> String {
    listing.replace("<IsTruncated>false", "<IsTruncated>true")
}

/// The beginning of a listing, between two objects.
fn cut_in_the_middle(listing: &str) -> String {
    // The very first asks for one object, to see whether the bucket is there.
    let Some((end, _)) = listing.match_indices("</Contents>").nth(49) else { return listing.to_owned() };
    format!("{}</Contents>", &listing[..end])
}

#[test]
fn a_source_listing_that_is_not_whole_fails_the_backup_even_the_first() {
    for broken in [without_a_token, cut_in_the_middle] {
        let world = World::new();
        world.fill(objects(300));
        let proxy = Proxy::before(&world.minio.url, move |_| Fate::Listing(Arc::new(broken)));
        let mut options = world.options_by(&proxy.url);
        options.objects.as_mut().unwrap().access.attempts = 2;
        let error = backup::run(&world.open(), &options).unwrap_err();
        let said = ["it is cut short", "does not say how to go on"];
        assert!(said.iter().any(|said| error.to_string().contains(said)), "{error}");
        assert!(world.open().view().unwrap().snapshots.is_empty());
    }
}

#[test]
fn slow_answers_are_waited_for() {
    let world = World::new();
    world.fill(objects(40));
    let proxy = Proxy::before(&world.minio.url, |_| Fate::Slow(Duration::from_millis(200)));
    backup::run(&world.open(), &world.options_by(&proxy.url)).unwrap();
    world.holds(objects(40));
}

#[test]
fn a_source_that_is_restarted_in_the_middle_is_waited_for() {
    // The server is killed by another thread than the one that owns the world.
    let server = Arc::new(std::sync::Mutex::new(Server::minio()));
    let (url, access) = {
        let server = server.lock().unwrap();
        (server.url.clone(), server.access())
    };
    let world = World::new();
    let runtime = common::runtime();
    let bucket = new_bucket();
    server.lock().unwrap().make_bucket(&runtime, &bucket);
    let fill: Vec<_> = objects(300).collect();
    common::bucket::fill(&runtime, &access, &bucket, fill.clone());
    let mut context = world.context();
    let once = AtomicUsize::new(0);
    context.progress = After::new(60, move || {
        if once.fetch_add(1, Ordering::SeqCst) == 0 {
            server.lock().unwrap().restart();
        }
    });
    let mut options = world.options_by(&url);
    let objects = options.objects.as_mut().unwrap();
    objects.bucket = bucket;
    backup::run(&world.open_with(&context), &options).unwrap();
    world.holds(fill);
    world.is_whole();
}

/// Does something to the bucket while it is read.
trait Meanwhile {
    /// A context with which `act` is done once 20 objects are read: then, or whenever one is read from then on.
    fn meanwhile(
        &self,
        once: bool,
        act: impl Fn(&tokio::runtime::Runtime, &aws_sdk_s3::Client, &str) + Send + Sync + 'static,
    ) -> Context;
}

impl Meanwhile for World {
    fn meanwhile(
        &self,
        once: bool,
        act: impl Fn(&tokio::runtime::Runtime, &aws_sdk_s3::Client, &str) + Send + Sync + 'static,
    ) -> Context {
        let (access, bucket, act) = (self.minio.access(), self.bucket.clone(), Arc::new(act));
        let done = AtomicBool::new(false);
        let progress = After::new(20, move || {
            if done.swap(true, Ordering::SeqCst) && once {
                return;
            }
            let (access, bucket, act) = (access.clone(), bucket.clone(), act.clone());
            // What reads objects is a runtime, which must not wait for another.
            let acting = std::thread::spawn(move || {
                let runtime = common::runtime();
                act(&runtime, &runtime.block_on(connect(&access)).unwrap(), &bucket);
            });
            acting.join().unwrap();
        });
        Context { progress, ..self.context() }
    }
}

/// Blocks of a segment of a write-ahead log.
fn blocks(count: usize) -> impl Iterator<Item = (String, Vec<u8>)> {
    (0..count).map(|n| (format!("files/wp/1/7/{n}.blk"), content(n, 900)))
}

/// As Woodpecker compacts a segment: the blocks go last, or stay where they cannot be deleted.
fn compacted_while_it_is_read(blocks_go: bool) {
    let world = World::new();
    let others = || objects(30).chain([("files/wp/1/6/0.blk".to_owned(), content(6, 700))]);
    let footer = ("files/wp/1/7/footer.blk".to_owned(), b"of blocks".to_vec());
    world.fill(blocks(600).chain(others()).chain([footer.clone()]));
    let merged: Vec<_> = [("files/wp/1/7/m_0.blk", 70), ("files/wp/1/7/m_1.blk", 71)]
        .map(|(key, seed)| (key.to_owned(), content(seed, 90_000)))
        .into_iter()
        .chain([(footer.0.clone(), b"of merged blocks".to_vec())])
        .collect();
    let put = merged.clone();
    let context = world.meanwhile(true, move |runtime, client, bucket| {
        for (key, body) in put.clone() {
            let request = client.put_object().bucket(bucket).key(key).body(body.into());
            runtime.block_on(request.send()).unwrap();
        }
        for (key, _) in blocks(600).filter(|_| blocks_go) {
            runtime.block_on(client.delete_object().bucket(bucket).key(key).send()).unwrap();
        }
    });
    let report = backup::run(&world.open_with(&context), &world.options()).unwrap();
    let left = if blocks_go { 0 } else { 600 };
    let (capture, counts) = report.objects.unwrap();
    assert_eq!((capture.gone, counts.count), (0, 34 + left), "{:?}", report.warnings);
    world.holds(others().chain(merged).chain(blocks(600).filter(|_| !blocks_go)));
    world.is_whole();
}

#[test]
fn a_segment_of_a_log_that_is_compacted_while_it_is_read_is_captured_as_it_is_afterwards() {
    compacted_while_it_is_read(true);
}

#[test]
fn a_footer_is_never_captured_without_the_blocks_that_it_names() {
    compacted_while_it_is_read(false);
}

#[test]
fn a_segment_of_a_log_that_never_rests_is_told() {
    let world = World::new();
    world.fill(blocks(60));
    let round = AtomicUsize::new(0);
    let context = world.meanwhile(false, move |runtime, client, bucket| {
        let body = content(round.fetch_add(1, Ordering::SeqCst), 100).into();
        let request = client.put_object().bucket(bucket).key("files/wp/1/7/0.blk").body(body);
        runtime.block_on(request.send()).unwrap();
    });
    let report = backup::run(&world.open_with(&context), &world.options()).unwrap();
    let told = |warning: &String| warning.contains("1 segments of the write-ahead log changed whenever");
    assert!(report.warnings.iter().any(told), "{:?}", report.warnings);
    assert_eq!(report.objects.unwrap().1.count, 60);
    world.is_whole();
}

/// As a garbage collector does.
#[test]
fn objects_that_are_deleted_between_listing_and_reading_are_recorded_as_gone() {
    const ALL: usize = 600;
    let world = World::new();
    world.fill(objects(ALL));
    let mut last: Vec<String> = objects(ALL).map(|(key, _)| key).collect();
    last.sort();
    let deleted = last.split_off(ALL - 20);
    let keys = deleted.clone();
    let context = world.meanwhile(true, move |runtime, client, bucket| {
        for key in &keys {
            runtime.block_on(client.delete_object().bucket(bucket).key(key).send()).unwrap();
        }
    });
    let report = backup::run(&world.open_with(&context), &world.options()).unwrap();
    let info = world.open().view().unwrap().snapshots.remove(0);
    assert_eq!(info.snapshot.objects.as_ref().unwrap().gone, 20, "{:?}", report.warnings);
    let repository = world.open();
    let browser = Browser::open(&repository).unwrap();
    for (key, body) in objects(ALL) {
        let mut found = Vec::new();
        let shown = browser.cat(&info.clone().into(), Side::Objects, key.as_bytes(), None, &mut found);
        assert_eq!(shown.is_ok() && found == body, !deleted.contains(&key), "{key}");
    }
    world.is_whole();
    // They are not listed any more.
    let report = world.backup().unwrap();
    assert_eq!(report.objects.unwrap().0.gone, 0);
    world.holds(objects(ALL).filter(|(key, _)| !deleted.contains(key)));
}

// A repository in a bucket.

/// A repository on the world's server, by way of `url`.
fn in_bucket(world: &World, url: &str, bucket: &str) -> Access {
    let address = S3Address { endpoint: Some(url.into()), ..S3Address::default() };
    let credentials: Option<CredentialVars> = world.minio.access().credentials;
    let location = Location::S3 { address, bucket: bucket.into(), prefix: "r".into() };
    Access { location, credentials, ..world.access() }
}

/// Makes a repository in a new bucket of the world's server, which it gives.
fn new_repository(world: &World) -> String {
    let bucket = new_bucket();
    world.minio.make_bucket(&world.runtime, &bucket);
    let access = in_bucket(world, &world.minio.url, &bucket);
    Repository::init(&world.context(), &access, PASSPHRASE, COST).unwrap();
    bucket
}

#[test]
fn a_repository_whose_server_is_restarted_in_the_middle_is_waited_for() {
    let server = Arc::new(std::sync::Mutex::new(Server::minio()));
    let world = World::new();
    world.fill(objects(300));
    let bucket = new_bucket();
    let url = server.lock().unwrap().url.clone();
    server.lock().unwrap().make_bucket(&world.runtime, &bucket);
    let access = in_bucket(&world, &url, &bucket);
    let mut context = world.context();
    Repository::init(&context, &access, PASSPHRASE, COST).unwrap();
    let once = AtomicUsize::new(0);
    context.progress = After::new(60, move || {
        if once.fetch_add(1, Ordering::SeqCst) == 0 {
            server.lock().unwrap().restart();
        }
    });
    let repository = Repository::open(&context, &access, PASSPHRASE).unwrap();
    backup::run(&repository, &small_packs(&world)).unwrap();
    let report = icecore::check::run(&repository, icecore::check::Options { read_data: true }).unwrap();
    assert_eq!((report.damage, report.snapshots), (vec![], 1));
}

#[test]
fn a_listing_on_another_machine_fetches_tree_packs_of_a_server_that_answers_late_side_by_side() {
    let world = World::new();
    world.fill(objects(1000));
    let (context, bucket) = (world.context(), new_repository(&world));
    let access = in_bucket(&world, &world.minio.url, &bucket);
    let tuning = Tuning { tree_pack: 1, ..Tuning::default() };
    let options = backup::Options { tuning, ..world.options() };
    backup::run(&Repository::open(&context, &access, PASSPHRASE).unwrap(), &options).unwrap();

    // A connection serves one request after the other.
    let proxy = Proxy::before(&world.minio.url, |_| Fate::Slow(Duration::from_millis(30)));
    let access = Access { cache: world.path("elsewhere"), ..in_bucket(&world, &proxy.url, &bucket) };
    let repository = Repository::open(&context, &access, PASSPHRASE).unwrap();
    let moment = repository.view().unwrap().snapshots.remove(0).into();
    let mut keys = Vec::new();
    let show = |key: &[u8], _: &_, _| {
        keys.push(key.to_vec());
        Ok(())
    };
    Browser::open(&repository).unwrap().objects(&moment, b"", show).unwrap();
    assert_eq!(keys.len(), 1000);
    assert!(proxy.count.load(Ordering::SeqCst) >= 4, "{:?} connections", proxy.count);
}

/// A snapshot of a thousand objects in some twenty packs, in a bucket of which `plan` decides how it answers.
fn far_away(
    world: &World,
    plan: impl Fn(Operation, &str) -> Option<Injected> + Send + Sync + 'static,
) -> Repository {
    world.fill(objects(1000));
    let (context, bucket) = (world.context(), new_repository(world));
    let access = in_bucket(world, &world.minio.url, &bucket);
    let tuning = Tuning { data_pack: 256 << 10, ..Tuning::default() };
    let options = backup::Options { tuning, ..world.options() };
    backup::run(&Repository::open(&context, &access, PASSPHRASE).unwrap(), &options).unwrap();

    let client = world.runtime.block_on(connect(&world.minio.access())).unwrap();
    let server = S3::new(client, world.runtime.handle().clone(), &bucket, "r/", &bucket);
    let storage = Arc::new(Faulty::new(server, plan));
    Repository::open_on(&context, &access, storage, Arc::new(Requests::default()), PASSPHRASE).unwrap()
}

fn restore_to(out: &Path, repository: &Repository) -> restore::Result<restore::Report> {
    let moment = repository.view().unwrap().snapshots.remove(0).into();
    let options = restore::Options { directory: Some(out.to_owned()), ..restore::Options::default() };
    restore::run(repository, &moment, &options, &|_| ())
}

/// Whether a request is for contents.
fn is_contents(operation: Operation, name: &str) -> bool {
    operation == Operation::Get && name.starts_with("packs/data/")
}

#[test]
fn a_restore_asks_a_server_that_answers_late_for_several_packs_of_contents_at_once() {
    let world = World::new();
    let most = Arc::new(AtomicUsize::new(0));
    let (seen, asked, begun) = (most.clone(), Mutex::new(Vec::new()), OnceLock::new());
    let repository = far_away(&world, move |operation, name| {
        if is_contents(operation, name) {
            let mut now = asked.lock().unwrap();
            now.push(name.to_owned());
            seen.fetch_max(now.iter().collect::<BTreeSet<_>>().len(), Ordering::SeqCst);
            drop(now);
            // None is answered before so many were asked for, or not for long.
            let begun = begun.get_or_init(Instant::now);
            while seen.load(Ordering::SeqCst) < 6 && begun.elapsed() < Duration::from_secs(10) {
                std::thread::sleep(Duration::from_millis(1));
            }
            let mut now = asked.lock().unwrap();
            let at = now.iter().position(|asked| asked == name).unwrap();
            now.remove(at);
        }
        None
    });
    let out = world.path("out");
    restore_to(&out, &repository).unwrap();
    for (key, body) in objects(1000) {
        assert!(fs::read(out.join(&key)).unwrap() == body, "{key}");
    }
    assert!(most.load(Ordering::SeqCst) >= 6, "{most:?} at once");
}

#[test]
fn a_restore_succeeds_where_what_it_asks_for_early_fails() {
    let world = World::new();
    let seen = Mutex::new(BTreeSet::new());
    let repository = far_away(&world, move |operation, name| {
        let fails = is_contents(operation, name) && seen.lock().unwrap().insert(name.to_owned());
        fails.then(|| Injected::Instead(Cause::Refused(Kind::Failed, "made up".into())))
    });
    let out = world.path("out");
    restore_to(&out, &repository).unwrap();
    for (key, body) in objects(1000) {
        assert!(fs::read(out.join(&key)).unwrap() == body, "{key}");
    }
}

#[test]
fn a_restore_of_which_a_pack_far_away_is_lost_says_so_and_what_it_made_is_whole() {
    let world = World::new();
    let lost = OnceLock::new();
    let repository = far_away(&world, move |operation, name| {
        let is_lost = is_contents(operation, name) && lost.get_or_init(|| name.to_owned()) == name;
        is_lost.then_some(Injected::Instead(Cause::NotFound))
    });
    let out = world.path("out");
    assert_eq!(restore_to(&out, &repository).unwrap_err().kind(), Kind::Damage);
    for (key, body) in objects(1000) {
        assert!(
            fs::read(out.join(&key)).is_ok_and(|found| found == body) || !out.join(&key).exists(),
            "{key}"
        );
    }
}

#[test]
fn a_network_that_breaks_while_packs_are_put_and_read_costs_time_only() {
    let world = World::new();
    world.fill(mixed());
    let (context, bucket) = (world.context(), new_repository(&world));
    let proxy = Proxy::before(&world.minio.url, |number| match number % 5 {
        _ if number > 40 => Fate::Pass,
        0 => Fate::CutUp(1 << 20),
        1 => Fate::CutDown(2500),
        2 => Fate::CutUp(300),
        3 => Fate::Answer(SLOW_DOWN),
        _ => Fate::CutDown(1 << 20),
    });
    let access = in_bucket(&world, &proxy.url, &bucket);
    let repository = Repository::open(&context, &access, PASSPHRASE).unwrap();
    let mut options = world.options();
    options.tuning.data_pack = 4 << 20;
    backup::run(&repository, &options).unwrap();
    let report = icecore::check::run(&repository, icecore::check::Options { read_data: true }).unwrap();
    assert_eq!(report.damage, []);
    let info = repository.view().unwrap().snapshots.remove(0);
    assert_eq!(icecore::check::verify(&repository, &info.clone().into()).unwrap().damage, []);
    assert!(proxy.count.load(Ordering::SeqCst) > 8, "{:?} connections", proxy.count);
}

#[test]
fn a_large_object_whose_upload_breaks_is_read_and_sent_again() {
    let world = World::new();
    let large = content(7, 20 << 20);
    world.fill([("large".to_owned(), large.clone())]);
    let repository = world.open();
    backup::run(&repository, &world.options()).unwrap();
    // It is sent as it is read, so that the client cannot do it.
    let proxy = Proxy::before(&world.minio.url, |number| match number {
        0..3 => Fate::CutUp(9 << 20),
        _ => Fate::Pass,
    });
    let to = new_bucket();
    world.minio.make_bucket(&world.runtime, &to);
    let mut access = world.minio.access();
    access.address.endpoint = Some(proxy.url.clone());
    let moment = repository.view().unwrap().snapshots.remove(0).into();
    let options = restore::Options { bucket: Some((access, to.clone())), ..restore::Options::default() };
    let report = restore::run(&repository, &moment, &options, &|_| ()).unwrap();
    assert_eq!(report.warnings, [] as [String; 0]);
    let copy = world.client().get_object().bucket(&to).key("large");
    let copy = world.runtime.block_on(async { copy.send().await.unwrap().body.collect().await.unwrap() });
    assert!(copy.into_bytes() == large, "what arrived is not what was backed up");
    assert!(proxy.count.load(Ordering::SeqCst) > 2, "{:?} connections", proxy.count);
}

/// MinIO's answer where a bucket's quota is used up.
const QUOTA: &str = "HTTP/1.1 507 Insufficient Storage\r\nContent-Type: application/xml\r\nContent-Length: 103\r\n\
Connection: close\r\n\r\n<Error><Code>XMinioAdminBucketQuotaExceeded</Code><Message>Bucket quota exceeded</Message></Error>     ";

#[test]
fn a_full_bucket_fails_the_backup_says_so_and_with_more_room_it_goes_on() {
    let world = World::new();
    world.fill(objects(120));
    let bucket = new_bucket();
    world.minio.make_bucket(&world.runtime, &bucket);
    let full = Arc::new(AtomicBool::new(false));
    let proxy = {
        let full = full.clone();
        Proxy::before(&world.minio.url, move |_| match full.load(Ordering::SeqCst) {
            true => Fate::Answer(QUOTA),
            false => Fate::Pass,
        })
    };
    let proxy = Arc::new(proxy);
    let access = in_bucket(&world, &proxy.url, &bucket);
    let mut context = world.context();
    Repository::init(&context, &access, PASSPHRASE, COST).unwrap();
    let (now_full, cut) = (full.clone(), proxy.clone());
    context.progress = After::new(60, move || {
        if !now_full.swap(true, Ordering::SeqCst) {
            cut.cut();
        }
    });
    let repository = Repository::open(&context, &access, PASSPHRASE).unwrap();
    let error = backup::run(&repository, &small_packs(&world)).unwrap_err();
    assert_eq!(error.kind(), Kind::NoSpace, "{error}");
    assert!(error.to_string().contains("quota"), "{error}");
    full.store(false, Ordering::SeqCst);
    proxy.cut();
    let context = world.context();
    let repository = Repository::open(&context, &access, PASSPHRASE).unwrap();
    assert!(repository.view().unwrap().snapshots.is_empty());
    assert_eq!(counts(&backup::run(&repository, &small_packs(&world)).unwrap()), (120, 120));
    let report = icecore::check::run(&repository, icecore::check::Options { read_data: true }).unwrap();
    assert_eq!(report.damage, []);
}

#[test]
fn credentials_that_may_only_read_are_enough_to_read_and_a_backup_says_what_is_missing() {
    let world = World::new();
    world.fill(objects(40));
    world.backup().unwrap();
    let denied = |operation, _: &str| {
        (operation == Operation::Put)
            .then(|| Injected::Instead(Cause::Refused(Kind::Denied, "AccessDenied: Access Denied.".into())))
    };
    let repository = open_faulty(&world, denied);
    let info = repository.view().unwrap().snapshots.remove(0);
    assert_eq!(icecore::check::verify(&repository, &info.clone().into()).unwrap().damage, []);
    let report = icecore::check::run(&repository, icecore::check::Options { read_data: true }).unwrap();
    assert_eq!(report.damage, []);
    drop(repository.begin_read(info.id).unwrap());
    let error = backup::run(&repository, &world.options()).unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    assert!(error.to_string().contains("sessions/"), "{error}");
}

// Versions, clocks and caches.

/// The first file of a folder, with one byte other.
fn poke(root: &Path, folder: &str, at: usize, byte: impl Fn(u8) -> u8) -> String {
    let mut names: Vec<_> = fs::read_dir(root.join(folder))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let path = root.join(folder).join(&names[0]);
    let mut bytes = fs::read(&path).unwrap();
    bytes[at] = byte(bytes[at]);
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
    names.remove(0)
}

#[test]
fn what_a_newer_version_wrote_is_said_to_be_newer_and_not_damaged() {
    /// The frame's version.
    const VERSION: usize = 5;
    for folder in ["snapshots", "index"] {
        let world = World::new();
        world.fill(objects(40));
        backup::run(&world.open(), &small_packs(&world)).unwrap();
        poke(&world.path("repository"), folder, VERSION, |version| version + 1);
        fs::remove_dir_all(world.path("cache")).unwrap();
        let repository = world.open();
        let read = || -> Result<(), icecore::repository::Error> {
            let view = repository.view()?;
            view.find(&Point::Latest(0), "default")?;
            repository.reader(&view).map(|_| ())
        };
        let error = read().unwrap_err();
        assert_eq!(error.kind(), Kind::NewerFormat, "{folder}: {error}");
        assert!(error.to_string().contains("format 2"), "{folder}: {error}");
    }
}

#[test]
fn a_record_that_seems_newer_hides_no_other_damage_from_a_check() {
    let world = World::new();
    world.fill(objects(40));
    backup::run(&world.open(), &small_packs(&world)).unwrap();
    poke(&world.path("repository"), "sessions", 5, |version| version + 1);
    poke(&world.path("repository"), "index", 40, |byte| byte ^ 1);
    let options = icecore::check::Options { read_data: true };
    let report = icecore::check::run(&world.open(), options).unwrap();
    let kinds: BTreeSet<&str> = report.damage.iter().map(|damage| damage.kind).collect();
    assert!(kinds.contains("session") && kinds.contains("segment"), "{:?}", report.damage);
}

#[test]
fn a_repository_of_a_newer_format_is_said_to_be_newer() {
    let world = World::new();
    let path = world.path("repository").join("config");
    let mut bytes = fs::read(&path).unwrap();
    // The clear part of config: the version, the repository's id, and their hash.
    bytes[12] += 1;
    let hash = blake3::hash(&bytes[12..30]);
    bytes[30..38].copy_from_slice(&hash.as_bytes()[..8]);
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
    let error = Repository::open(&world.context(), &world.access(), PASSPHRASE).err().unwrap();
    assert_eq!(error.kind(), Kind::NewerFormat, "{error}");
    assert!(error.to_string().contains("format 2"), "{error}");
}

#[test]
fn a_clock_that_was_set_back_a_year_changes_neither_what_is_latest_nor_what_is_there() {
    let world = World::new();
    world.fill(objects(30));
    let year = 365 * 24 * 3_600_000_000_000_i64;
    let now = world.context().clock.now();
    let at = |time: i64| {
        let mut context: Context = world.context();
        context.clock = Arc::new(FixedClock(time));
        backup::run(&world.open_with(&context), &world.options()).unwrap()
    };
    let first = at(now);
    world.fill([("00/more".to_owned(), content(777, 6000))]);
    let second = at(now - year);
    let view = world.open().view().unwrap();
    assert_eq!(view.snapshots.len(), 2);
    assert_eq!(second.parent, Some(first.id));
    let latest = view.find(&Point::Latest(0), "default").unwrap().info;
    assert_eq!(latest.id, second.id, "what was made against another snapshot is later than it");
    world.fill([("00/most".to_owned(), content(778, 6000))]);
    let third = at(now - year / 2);
    assert_eq!(third.parent, Some(second.id));
    assert_eq!(third.objects.as_ref().unwrap().1.read_count, 1);
    // Also without the snapshot between them.
    let repository = world.open();
    let second = view.snapshots.iter().find(|info| info.id == second.id).unwrap();
    icecore::forget::forget(&repository, second).unwrap();
    let view = repository.view().unwrap();
    assert_eq!(view.find(&Point::Latest(0), "default").unwrap().info.id, third.id);
    assert_eq!(view.find(&Point::Latest(1), "default").unwrap().info.id, first.id);
    world.is_whole();
}

#[test]
fn a_cache_that_is_damaged_or_of_another_repository_is_never_believed() {
    let (world, other) = (World::new(), World::new());
    for (world, count) in [(&world, 40), (&other, 50)] {
        world.fill(objects(count));
        backup::run(&world.open(), &small_packs(world)).unwrap();
    }
    let cache = |world: &World| world.path("cache").join(world.open().id().to_string());
    let (own, foreign) = (cache(&world), cache(&other));
    // The other's under our name.
    fs::remove_dir_all(&own).unwrap();
    fs::rename(&foreign, &own).unwrap();
    world.is_whole();
    world.holds(objects(40));
    // Every file of it, one after another, then all of them, with other bytes.
    let files = files_below(&own);
    assert!(files.len() > 5, "{files:?}");
    for (number, file) in files.iter().enumerate() {
        let length = fs::metadata(file).map_or(100, |m| m.len() as usize);
        fs::write(file, content(number, length)).unwrap();
        world.holds(objects(40));
    }
    for (number, file) in files_below(&own).iter().enumerate() {
        let length = fs::metadata(file).map_or(100, |m| m.len() as usize);
        fs::write(file, content(number, length)).unwrap();
    }
    world.is_whole();
    assert_eq!(counts(&backup::run(&world.open(), &small_packs(&world)).unwrap()), (40, 0));
    world.is_whole();
}

fn files_below(path: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

// Shapes of buckets.

/// How many; 100,000 by hand.
fn many() -> usize {
    std::env::var("ICECORE_MANY").map_or(3000, |text| text.parse().unwrap())
}

#[test]
fn many_objects_in_one_prefix_and_many_prefixes_of_one_object_are_listed_and_kept() {
    let world = World::new();
    let all = move || {
        let flat = (0..many()).map(|n| (format!("flat/{n:06}"), n.to_le_bytes().to_vec()));
        flat.chain((0..many()).map(|n| (format!("deep/{n:06}/one"), n.to_le_bytes().to_vec())))
    };
    world.fill(all());
    let report = world.backup().unwrap();
    assert_eq!(counts(&report), (2 * many() as u64, 2 * many() as u64));
    let again = world.backup().unwrap();
    let (_, counts) = again.objects.as_ref().unwrap();
    assert_eq!((counts.unchanged, counts.read_count), (2 * many() as u64, 0));
    assert!(again.stored.written_bytes < 64 << 10, "{}", again.stored.written_bytes);
    world.is_whole();
    let repository = world.open();
    let info = repository.view().unwrap().snapshots.pop().unwrap();
    let mut keys = 0;
    let seen = |_: &[u8], _: &icecore::format::Item, _| {
        keys += 1;
        Ok(())
    };
    Browser::open(&repository).unwrap().objects(&info.into(), b"deep/", seen).unwrap();
    assert_eq!(keys, many());
}

#[test]
fn keys_of_1024_bytes_are_kept_and_found() {
    let world = World::new();
    // MinIO takes no part above 255 bytes.
    let key = |number: usize| {
        let parts: Vec<String> =
            (0..4).map(|part| format!("{part}-{number:03}-{}", "x".repeat(249))).collect();
        let key = parts.join("/");
        key[..1024.min(key.len())].to_owned()
    };
    let all = || (0..60).map(move |number| (key(number), content(number, 100 + 90 * number)));
    assert_eq!(key(1).len(), 1023);
    world.fill(all());
    world.backup().unwrap();
    world.holds(all());
    assert_eq!(world.backup().unwrap().objects.unwrap().1.read_count, 0);
    world.is_whole();
}

#[test]
fn a_record_that_is_damaged_is_told_by_the_next_backup_too() {
    let world = World::new();
    world.fill(objects(30));
    world.backup().unwrap();
    world.fill([("00/more".to_owned(), content(777, 6000))]);
    let second = world.backup().unwrap();
    let name = Name::Claim(second.id).to_string();
    let path = world.path("repository").join(&name);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    fs::remove_dir_all(world.path("cache")).unwrap();
    let third = world.backup().unwrap();
    assert!(third.warnings.iter().any(|warning| warning.contains(&name)), "{:?}", third.warnings);
    world.holds(objects(30).chain([("00/more".to_owned(), content(777, 6000))]));
}
