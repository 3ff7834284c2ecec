//! One contract, which every medium keeps: directories, wrappers, real S3 servers.

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::Server;
use icecore::context::{Cancel, Random, Seeded, SystemRandom};
use icecore::fault::Kind;
use icecore::storage::{
    Cause, Counted, CredentialVars, Error, Faulty, Injected, Limited, Local, Operation, Patience, Requests,
    Retried, S3, S3Access, S3Address, Storage, arbitrates, connect,
};
use tokio::runtime::Runtime;

/// A part of the contract, tried in a folder of its own: empty, ends in `/`.
type Part = fn(&dyn Storage, &str);

const CONTRACT: &[(&str, Part)] = &[
    ("what was put is read back", what_was_put_is_read_back),
    ("a range is cut at the end of the file", a_range_is_cut_at_the_end_of_the_file),
    ("an empty file is a file", an_empty_file_is_a_file),
    ("a large file comes back whole", a_large_file_comes_back_whole),
    ("a taken name keeps its bytes", a_taken_name_keeps_its_bytes),
    ("what is not there is told apart", what_is_not_there_is_told_apart),
    ("a listing shows a folder and nothing else", a_listing_shows_a_folder_and_nothing_else),
    ("a listing has no longest length", a_listing_has_no_longest_length),
    ("a listing ends with the callers error", a_listing_ends_with_the_callers_error),
    ("what was deleted is gone", what_was_deleted_is_gone),
];

fn keep_the_contract(storage: &dyn Storage) {
    for (number, (what, part)) in CONTRACT.iter().enumerate() {
        // Shown where the test fails: the last line says what was broken.
        println!("{}: {what}", storage.medium());
        part(storage, &format!("contract-{number}/"));
    }
}

fn put(storage: &dyn Storage, name: &str, bytes: impl Into<Vec<u8>>) {
    storage.put(name, Bytes::from(bytes.into())).unwrap_or_else(|error| panic!("{error}"));
}

fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    Seeded::new(length as u64).fill(&mut bytes);
    bytes
}

fn what_was_put_is_read_back(storage: &dyn Storage, folder: &str) {
    // Every shape that names of a repository have, and nested deeper.
    for name in ["config", "packs/data/ab/00ff", "collections/3.condemned", "a/b/c/d/e-1"] {
        let name = format!("{folder}{name}");
        put(storage, &name, name.clone());
        assert_eq!(storage.get(&name).unwrap(), name.as_bytes());
    }
}

fn a_range_is_cut_at_the_end_of_the_file(storage: &dyn Storage, folder: &str) {
    let (name, bytes) = (format!("{folder}file"), noise(1000));
    put(storage, &name, bytes.clone());
    let range = |offset, length| storage.get_range(&name, offset, length).unwrap();
    assert_eq!(range(0, 1000), bytes);
    assert_eq!(range(400, 200), bytes[400..600]);
    assert_eq!(range(999, 1), bytes[999..]);
    assert_eq!(range(900, 200), bytes[900..], "over the end");
    assert_eq!(range(900, 1 << 40), bytes[900..], "far over the end");
    assert_eq!(range(1000, 10), "", "at the end");
    assert_eq!(range(5000, 10), "", "behind the end");
    assert_eq!(range(400, 0), "", "nothing");
    assert_eq!(range(5000, 0), "", "nothing behind the end");
}

fn an_empty_file_is_a_file(storage: &dyn Storage, folder: &str) {
    let name = format!("{folder}empty");
    put(storage, &name, "");
    assert_eq!(storage.get(&name).unwrap(), "");
    assert_eq!(storage.get_range(&name, 0, 10).unwrap(), "");
    assert_eq!(sizes(storage, folder), BTreeMap::from([(name.clone(), 0)]));
    let again = storage.put(&name, Bytes::from_static(b"more"));
    assert!(again.unwrap_err().is_exists());
}

fn a_large_file_comes_back_whole(storage: &dyn Storage, folder: &str) {
    let (name, bytes) = (format!("{folder}large"), Bytes::from(noise(40 << 20)));
    storage.put(&name, bytes.clone()).unwrap();
    // Not assert_eq: nobody wants to read 40 MiB.
    assert!(storage.get(&name).unwrap() == bytes);
    let middle = storage.get_range(&name, 13 << 20, 20 << 20).unwrap();
    assert!(middle == bytes[13 << 20..33 << 20]);
    assert_eq!(sizes(storage, folder)[&name], 40 << 20);
}

fn a_taken_name_keeps_its_bytes(storage: &dyn Storage, folder: &str) {
    let name = format!("{folder}taken");
    put(storage, &name, "first");
    for bytes in ["second", "", "first"] {
        let error = storage.put(&name, bytes.into()).unwrap_err();
        assert!(error.is_exists(), "{error}");
        assert_eq!(error.kind(), Kind::Exists);
        assert_eq!(storage.get(&name).unwrap(), "first");
    }
}

fn what_is_not_there_is_told_apart(storage: &dyn Storage, folder: &str) {
    put(storage, &format!("{folder}there"), "x");
    for name in ["absent", "no/such/folder", "ther", "there-not"] {
        let name = format!("{folder}{name}");
        for error in [storage.get(&name).unwrap_err(), storage.get_range(&name, 3, 10).unwrap_err()] {
            assert!(error.is_not_found(), "{error}");
            assert_eq!((error.kind(), error.name.as_str()), (Kind::NotFound, name.as_str()));
        }
    }
    assert!(sizes(storage, &format!("{folder}empty/")).is_empty());
}

fn sizes(storage: &dyn Storage, folder: &str) -> BTreeMap<String, u64> {
    let mut sizes = BTreeMap::new();
    let shown = storage.list(folder, &mut |listed| {
        let twice = sizes.insert(listed.name, listed.size);
        assert_eq!(twice, None, "shown twice");
        Ok(())
    });
    shown.unwrap();
    sizes
}

fn a_listing_shows_a_folder_and_nothing_else(storage: &dyn Storage, folder: &str) {
    let names = ["in/a", "in/b", "in/deep/c", "in/deep/er/d", "inside", "in-side/e", "out/in/f", "z"];
    let mut all = BTreeMap::new();
    for (size, name) in names.iter().enumerate() {
        let name = format!("{folder}{name}");
        put(storage, &name, vec![7; size * 100]);
        // At once, not some time later.
        all.insert(name, size as u64 * 100);
        assert_eq!(sizes(storage, folder), all);
    }
    let inside = format!("{folder}in/");
    let below: BTreeMap<_, _> = all.iter().filter(|(name, _)| name.starts_with(&inside)).collect();
    assert_eq!(below.len(), 4);
    assert_eq!(sizes(storage, &inside).iter().collect::<BTreeMap<_, _>>(), below);
    assert_eq!(storage.names(&inside).unwrap(), ["a", "b", "deep/c", "deep/er/d"]);
    let whole = sizes(storage, "");
    assert!(all.iter().all(|(name, size)| whole.get(name) == Some(size)), "the empty folder is everything");
}

/// An S3 server shows a thousand names at once.
fn a_listing_has_no_longest_length(storage: &dyn Storage, folder: &str) {
    let name = |number: usize| format!("{folder}{:02x}/{number}", number % 7);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let work = || {
            let numbers = std::iter::repeat_with(|| next.fetch_add(1, Ordering::SeqCst));
            numbers
                .take_while(|&number| number < 2100)
                .for_each(|number| put(storage, &name(number), [1, 2, 3]));
        };
        (0..8).for_each(|_| drop(scope.spawn(work)));
    });
    let expected: BTreeMap<_, _> = (0..2100).map(|number| (name(number), 3)).collect();
    assert_eq!(sizes(storage, folder), expected);
    assert_eq!(sizes(storage, &format!("{folder}00/")).len(), 300);
}

fn a_listing_ends_with_the_callers_error(storage: &dyn Storage, folder: &str) {
    (0..3).for_each(|number| put(storage, &format!("{folder}{number}"), ""));
    let mut shown = 0;
    let ended = storage.list(folder, &mut |listed| {
        shown += 1;
        Err(Error { action: "show", name: listed.name, medium: storage.medium(), cause: Cause::Interrupted })
    });
    assert_eq!(ended.unwrap_err().cause, Cause::Interrupted);
    assert_eq!(shown, 1);
}

fn what_was_deleted_is_gone(storage: &dyn Storage, folder: &str) {
    let (name, neighbour) = (format!("{folder}x/gone"), format!("{folder}x/gone-not"));
    put(storage, &name, "old");
    put(storage, &neighbour, "stays");
    for _ in 0..2 {
        // The second time there is nothing to delete, which is as good.
        storage.delete(&name).unwrap();
        assert!(storage.get(&name).unwrap_err().is_not_found());
        assert_eq!(storage.names(folder).unwrap(), ["x/gone-not"]);
    }
    storage.delete(&format!("{folder}no/such/folder")).unwrap();
    put(storage, &name, "new");
    assert_eq!(storage.get(&name).unwrap(), "new");
}

/// Eight at once, several rounds: one is told that it won, and its bytes are there.
fn one_put_of_eight_wins(storage: &dyn Storage) {
    for round in 0..10 {
        let name = format!("contended/{round}");
        let barrier = Barrier::new(8);
        let put = |writer: usize| {
            barrier.wait();
            storage.put(&name, vec![writer as u8; 1000 + writer].into())
        };
        let answers: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|writer| scope.spawn(move || put(writer))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let winners: Vec<_> = (0..8).filter(|&writer| answers[writer].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{answers:?}");
        let others = answers.iter().filter_map(|answer| answer.as_ref().err());
        others.for_each(|error| assert!(error.is_exists(), "{error}"));
        assert_eq!(storage.get(&name).unwrap(), vec![winners[0] as u8; 1000 + winners[0]]);
    }
}

/// Tries as the repository does, only sooner.
fn retried<S: Storage>(storage: S) -> Retried<S> {
    let pause = Duration::from_millis(1);
    Retried::new(
        storage,
        Patience { pause, ..Patience::default() },
        Arc::new(Seeded::new(1)),
        Cancel::default(),
    )
}

type Stack = Retried<Limited<Counted<Faulty<Local>>>>;

/// A directory behind every wrapper; `plan` is told how many requests came before.
fn wrapped(
    directory: &tempfile::TempDir,
    plan: impl Fn(usize, Operation) -> Option<Injected> + Send + Sync + 'static,
) -> (Stack, Arc<Requests>) {
    let before = AtomicUsize::new(0);
    let plan = move |operation, _: &str| plan(before.fetch_add(1, Ordering::SeqCst), operation);
    let faulty = Faulty::new(Local::new(directory.path()), plan);
    let requests = Arc::new(Requests::default());
    let counted = Counted::new(faulty, requests.clone());
    let limited = Limited::new(counted, Some(4 << 30), Some(4 << 30), Cancel::default());
    (retried(limited), requests)
}

#[test]
fn a_directory_keeps_the_contract() {
    let directory = tempfile::tempdir().unwrap();
    // Not there yet, parents neither.
    let local = Local::new(directory.path().join("not/yet"));
    assert!(local.names("").unwrap().is_empty());
    keep_the_contract(&local);
    one_put_of_eight_wins(&local);
    assert!(arbitrates(&local, &SystemRandom).unwrap());
}

#[test]
fn the_wrappers_keep_the_contract() {
    let directory = tempfile::tempdir().unwrap();
    let (storage, requests) = wrapped(&directory, |_, _| None);
    keep_the_contract(&storage);
    one_put_of_eight_wins(&storage);
    assert!(arbitrates(&storage, &SystemRandom).unwrap());
    let counted = [&requests.gets, &requests.puts, &requests.lists, &requests.deletes, &requests.read];
    assert!(counted.iter().all(|counter| counter.load(Ordering::SeqCst) > 0));
    // The large file, once up; each byte is counted once.
    assert!((40 << 20..44 << 20).contains(&requests.written.load(Ordering::SeqCst)));
}

#[test]
fn the_wrappers_keep_the_contract_while_every_third_request_fails() {
    let directory = tempfile::tempdir().unwrap();
    let busy = || Injected::Instead(Cause::Transient("busy".into()));
    let (storage, _) = wrapped(&directory, move |before, _| (before % 3 == 2).then(busy));
    keep_the_contract(&storage);
    one_put_of_eight_wins(&storage);
}

#[test]
fn the_wrappers_keep_the_contract_while_every_third_answer_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let lost = |operation| match operation {
        Operation::Put => Injected::After(Cause::Uncertain("lost".into())),
        _ => Injected::After(Cause::Transient("lost".into())),
    };
    let (storage, _) =
        wrapped(&directory, move |before, operation| (before % 3 == 2).then(|| lost(operation)));
    keep_the_contract(&storage);
    one_put_of_eight_wins(&storage);
}

fn bucket(runtime: &Runtime, access: &S3Access, bucket: &str, prefix: &str) -> S3 {
    let client = runtime.block_on(connect(access)).unwrap();
    S3::new(client, runtime.handle().clone(), bucket, prefix, &format!("{bucket}/{prefix}"))
}

/// Whatever is asked fails, and for this reason.
fn fails_with(storage: &dyn Storage, kind: Kind) {
    let answers = [
        ("get", storage.get("a").err()),
        ("get_range", storage.get_range("a", 0, 5).err()),
        ("put", storage.put("a", Bytes::from_static(b"x")).err()),
        ("list", storage.names("").err()),
        ("delete", storage.delete("a").err()),
    ];
    for (request, error) in answers {
        let error = error.unwrap_or_else(|| panic!("{request} succeeded, {kind:?} was expected"));
        assert_eq!(error.kind(), kind, "{request}: {error}");
    }
}

fn wrong_credentials_are_told(runtime: &Runtime, server: &Server) {
    let right = server.access().credentials.unwrap();
    let nobody = CredentialVars { id: "nobody-there".into(), ..right.clone() };
    let forged = CredentialVars { secret: "not-the-secret".into(), ..right };
    for wrong in [nobody, forged] {
        let access = S3Access { credentials: Some(wrong), ..server.access() };
        fails_with(&bucket(runtime, &access, "contract", ""), Kind::Denied);
    }
}

/// The contract in a bucket, in a prefix of one, and what goes wrong before it.
fn a_server_keeps_the_contract(runtime: &Runtime, server: &Server) {
    server.make_bucket(runtime, "contract");
    let whole = bucket(runtime, &server.access(), "contract", "");
    keep_the_contract(&whole);
    // A neighbour of the prefix with the same beginning is not in it.
    put(&whole, "some/prefix-not/x", "x");
    let prefixed = bucket(runtime, &server.access(), "contract", "/some/prefix/");
    assert!(prefixed.names("").unwrap().is_empty());
    put(&prefixed, "folder/y", "y");
    assert_eq!(prefixed.names("").unwrap(), ["folder/y"]);
    assert_eq!(whole.get("some/prefix/folder/y").unwrap(), "y");
    wrong_credentials_are_told(runtime, server);
}

#[test]
fn minio_keeps_the_contract() {
    let (runtime, server) = (common::runtime(), Server::minio());
    a_server_keeps_the_contract(&runtime, &server);
    fails_with(&bucket(&runtime, &server.access(), "no-such-bucket", ""), Kind::NoBucket);
    let storage = retried(bucket(&runtime, &server.access(), "contract", "one"));
    one_put_of_eight_wins(&storage);
    assert!(arbitrates(&storage, &SystemRandom).unwrap());
}

#[test]
fn seaweedfs_keeps_the_contract() {
    let (runtime, server) = (common::runtime(), Server::weed());
    a_server_keeps_the_contract(&runtime, &server);
    let missing = bucket(&runtime, &server.access(), "no-such-bucket", "");
    assert_eq!(missing.get("a").unwrap_err().kind(), Kind::NoBucket);
    assert_eq!(missing.get_range("a", 0, 5).unwrap_err().kind(), Kind::NoBucket);
    assert_eq!(missing.names("").unwrap_err().kind(), Kind::NoBucket);
    // A put makes the bucket there, for who may; so a repository looks before it writes.
    let storage = retried(bucket(&runtime, &server.access(), "contract", "one"));
    one_put_of_eight_wins(&storage);
    // Nothing it promises; what it does on one node.
    let arbitrated: Vec<bool> = (0..10).map(|_| arbitrates(&storage, &SystemRandom).unwrap()).collect();
    println!("SeaweedFS arbitrates between writers: {arbitrated:?}");
    assert_eq!(arbitrated, [true; 10]);
}

#[test]
fn a_server_that_is_not_there_is_told_soon() {
    let runtime = common::runtime();
    let endpoint = Some(format!("http://127.0.0.1:{}", common::free_port()));
    let keys = CredentialVars { id: "a".into(), secret: "b".into(), token: None };
    let address = S3Address { endpoint, ..S3Address::default() };
    let access = S3Access { address, credentials: Some(keys), attempts: 1 };
    fails_with(&bucket(&runtime, &access, "contract", ""), Kind::Unreachable);
    // Behind the wrapper, as a repository is opened.
    let (random, cancel) = (Arc::new(Seeded::new(1)), Cancel::default());
    let storage =
        Retried::new(bucket(&runtime, &access, "contract", ""), Patience::default(), random, cancel);
    let requests: [fn(&dyn Storage) -> Option<Error>; 3] =
        [|s| s.get("a").err(), |s| s.put("a", Bytes::new()).err(), |s| s.names("").err()];
    for request in requests {
        let begun = Instant::now();
        assert_eq!(request(&storage).unwrap().kind(), Kind::Unreachable);
        assert!(begun.elapsed() < Duration::from_secs(15), "after {:?}", begun.elapsed());
    }
}
