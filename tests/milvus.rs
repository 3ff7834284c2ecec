//! What real Milvus servers stored, read back: keys as `etcdctl get` gave them (values in base64) and the
//! listing of the bucket, each trimmed to a part of its segments.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::RwLock;

use bytes::Bytes;
use data_encoding::BASE64;
use icecore::format::{
    Anchor, Attributes, CapturePath, Content, EtcdCapture, Event, Item, ItemState, KeyState, Root, TreeShape,
    history_key,
};
use icecore::id::{ChunkId, ChunkKind};
use icecore::milvus::{
    self, Checked, Found, Instance, Lack, Lacking, Objects, SegmentState, Survey, Woodpecker,
};
use icecore::repository::EtcdAt;
use icecore::secret::{ChunkNamer, ContentSecret};
use icecore::sorter::Spool;
use icecore::store;
use icecore::tree::{Builder, Nodes, Shape};

struct Memory {
    namer: ChunkNamer,
    chunks: RwLock<HashMap<ChunkId, Bytes>>,
}

impl Nodes for Memory {
    fn get(&self, kind: ChunkKind, id: &ChunkId) -> store::Result<Bytes> {
        self.chunks.read().unwrap().get(id).cloned().ok_or(store::Error::Missing { kind, id: *id })
    }

    fn put(&self, kind: ChunkKind, bytes: Vec<u8>) -> store::Result<ChunkId> {
        let id = self.namer.name(kind, &bytes);
        self.chunks.write().unwrap().insert(id, bytes.into());
        Ok(id)
    }
}

type Keys = BTreeMap<String, Vec<u8>>;
type Sizes = BTreeMap<String, u64>;
/// What is in objects, where it matters.
type Contents = BTreeMap<String, Vec<u8>>;

const WORDS: i64 = 470688361406267576;

fn keys() -> Keys {
    keys_in(include_str!("milvus/2.3.5.keys"))
}

fn keys_in(text: &str) -> Keys {
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.map(|(key, value)| (key.to_owned(), BASE64.decode(value.as_bytes()).unwrap())).collect()
}

fn sizes() -> Sizes {
    sizes_in(include_str!("milvus/2.3.5.objects"))
}

fn sizes_in(text: &str) -> Sizes {
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.map(|(size, key)| (key.to_owned(), size.parse().unwrap())).collect()
}

/// For far more than any test sorts.
fn spool() -> Spool {
    Spool::new(std::env::temp_dir(), 8 << 20)
}

fn survey(keys: &Keys) -> Found {
    let mut survey = Survey::new(&spool());
    for (key, value) in keys {
        survey.add(key.as_bytes(), value).unwrap();
    }
    survey.finish()
}

fn only(keys: &Keys) -> Instance {
    let mut instances = survey(keys).instances;
    assert_eq!(instances.len(), 1);
    instances.remove(0)
}

fn memory() -> Memory {
    Memory { namer: ContentSecret::from_bytes([1; 32]).namer(), chunks: RwLock::default() }
}

fn build(nodes: &Memory, entries: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) -> Option<Root> {
    let key = ContentSecret::from_bytes([1; 32]).boundary();
    let shape = Shape { sizes: TreeShape { window: 16, most: 256, key_bytes: 1 << 20 }, key };
    let mut builder = Builder::new(nodes, shape);
    for (key, value) in entries {
        builder.push(key, value, 0).unwrap();
    }
    builder.finish().unwrap()
}

fn tree(nodes: &Memory, sizes: &Sizes, contents: &Contents) -> Option<Root> {
    let item = |(key, &size): (&String, &u64)| {
        let content = contents.get(key).cloned().unwrap_or_default();
        let item = Item {
            state: if size == u64::MAX { ItemState::Gone } else { ItemState::Present },
            size,
            modified: 0,
            content: Content::Inline(content),
            attributes: Attributes::Object(Box::default()),
        };
        (key.clone().into_bytes(), item.encode())
    };
    build(nodes, sizes.iter().map(item))
}

/// What is in `anchor` at revision 2, and `events` after it.
fn capture(nodes: &Memory, anchor: &Keys, events: &Keys) -> EtcdCapture {
    let state = |(key, value): (&String, &Vec<u8>)| {
        let value = Content::Inline(value.clone());
        let state = KeyState { create_revision: 2, mod_revision: 2, sub: None, version: 1, lease: 0, value };
        (key.clone().into_bytes(), state.encode())
    };
    let event = |(n, (key, value)): (usize, (&String, &Vec<u8>))| {
        let (key, value) = (Content::Inline(key.clone().into()), Content::Inline(value.clone()));
        let event = Event::Put { key, create_revision: 3 + n as i64, version: 1, lease: 0, value };
        (history_key(3 + n as i64, 0).to_vec(), event.encode())
    };
    EtcdCapture {
        cluster_id: 1,
        member_id: 1,
        server_version: String::new(),
        prefix: Vec::new(),
        revision: 3 + events.len() as i64,
        compact_revision: Some(0),
        keys: 0,
        events: 0,
        anchor: Anchor { revision: 2, root: build(nodes, anchor.iter().map(state)) },
        history: build(nodes, events.iter().enumerate().map(event)),
        state: None,
        system: None,
        gaps: Vec::new(),
        hash_kv: None,
        path: CapturePath::Snapshot,
        marks: Vec::new(),
    }
}

fn check(instance: &mut Instance, sizes: &Sizes, root: Option<&str>) -> Checked {
    check_with(instance, sizes, &Contents::new(), root)
}

fn check_with(instance: &mut Instance, sizes: &Sizes, contents: &Contents, root: Option<&str>) -> Checked {
    let nodes = memory();
    let tree = tree(&nodes, sizes, contents);
    instance.check(&nodes, Objects::Tree(tree.as_ref()), root, &spool()).unwrap()
}

fn names<'a>(names: impl IntoIterator<Item = &'a String>) -> Vec<&'a str> {
    names.into_iter().map(String::as_str).collect()
}

#[test]
fn the_catalog_is_what_the_client_had_made() {
    let Instance { root, version, catalog, unknown, unreadable, .. } = only(&keys());
    assert_eq!((root.as_str(), version.as_deref()), ("by-dev", Some("2.3.5")));
    assert!(unknown.is_empty() && unreadable.is_empty(), "{unknown:?} {unreadable:?}");
    assert_eq!(names(catalog.databases.values().map(|database| &database.name)), ["default", "library"]);
    let words = &catalog.collections[&WORDS];
    assert_eq!((&words.name[..], words.state, words.shards, words.dynamic), ("words", "created", 2, true));
    assert_eq!((words.consistency, words.replicas), ("Bounded", Some(1)));
    let fields =
        words.fields.values().map(|field| (&field.name[..], &field.data_type[..])).collect::<Vec<_>>();
    assert_eq!(fields, [("id", "Int64"), ("word", "VarChar"), ("vector", "FloatVector"), ("$meta", "JSON")]);
    assert_eq!(words.fields[&100].roles, ["primary key"]);
    assert_eq!(words.fields[&102].parameters["dim"], "32");
    assert_eq!(names(words.partitions.values()), ["_default", "new", "newer"]);
    assert_eq!(names(&words.aliases), ["w"]);
    assert_eq!(words.properties["collection.ttl.seconds"], "0");
    let index = words.indexes.values().next().unwrap();
    assert_eq!(
        (&index.name[..], index.field, &index.parameters["index_type"][..]),
        ("by_vector", 102, "IVF_FLAT")
    );
    let dropped = catalog.collections.values().find(|c| c.name == "cold").unwrap();
    assert!(dropped.state == "dropping" && dropped.indexes.is_empty());
    let pages = catalog.collections.values().find(|c| c.name == "pages").unwrap();
    assert_eq!(catalog.databases[&pages.database].name, "library");
    assert_eq!(pages.fields[&101].roles, ["partition key"]);
    assert_eq!(names(&catalog.users), ["late", "reader", "root", "writer"]);
    let readers = &catalog.roles["readers"];
    assert_eq!(names(&readers.users), ["reader"]);
    assert_eq!(
        names(&readers.grants),
        ["Query on Collection default.words", "Search on Collection default.words"]
    );
    assert_eq!(names(&catalog.resource_groups), ["__default_resource_group"]);
    assert_eq!(catalog.checkpoints.len(), 7);
}

/// Collections stood below `root-coord/collection/` before there were databases. The server kept its files in
/// a directory, and those of indexes not at all: it had no bucket.
#[test]
fn the_layout_before_databases_is_read_as_well() {
    let mut instance = only(&keys_in(include_str!("milvus/2.2.8.keys")));
    assert_eq!(instance.version.as_deref(), Some("2.2.8-pre+dev"));
    assert!(instance.unknown.is_empty() && instance.unreadable.is_empty(), "{:?}", instance.unknown);
    let (id, words) = instance.catalog.collections.first_key_value().unwrap();
    let id = *id;
    assert_eq!((&words.name[..], words.state, words.database), ("words", "created", 1));
    assert_eq!(names(words.fields.values().map(|field| &field.name)), ["id", "word", "vector"]);
    assert_eq!(
        (names(&words.aliases), names(words.partitions.values())),
        (vec!["w"], vec!["_default", "new"])
    );
    let rows: u64 = instance.catalog.segments.values().map(|segment| segment.rows).sum();
    assert_eq!(rows, 3000);
    let checked = check(&mut instance, &sizes_in(include_str!("milvus/2.2.8.objects")), None);
    assert_eq!((&checked.bucket_root[..], checked.held[&id].objects), ("", 12));
    assert!(checked.missing.iter().all(|missing| missing.key.starts_with("index_files/")));
    assert_eq!(checked.missing_count, 4, "two files of two indexes");
}

#[test]
fn segments_have_their_rows_deletes_and_states() {
    let catalog = only(&keys()).catalog;
    let words: Vec<_> = catalog.segments.values().filter(|segment| segment.collection == WORDS).collect();
    assert_eq!(words.iter().map(|s| s.rows).sum::<u64>(), 3000 + 1500);
    assert_eq!(words.iter().map(|s| s.deletes).sum::<u64>(), 15 + 3);
    assert!(words.iter().all(|s| s.state == SegmentState::Flushed));
    let dropped = catalog.segments.values().filter(|s| s.state == SegmentState::Dropped).count();
    assert_eq!(dropped, 2, "those of the dropped collection");
}

#[test]
fn what_is_there_is_complete_and_counted() {
    let checked = check(&mut only(&keys()), &sizes(), None);
    assert!(checked.is_complete(), "{:?}", checked.missing);
    assert_eq!(checked.bucket_root, "files");
    let words = checked.held[&WORDS];
    let own = |folder: &str| {
        let fits = |key: &&String| key.starts_with(folder) && key.contains(&WORDS.to_string());
        sizes().iter().filter(|(key, _)| fits(key)).map(|(_, size)| size).sum::<u64>()
    };
    let logs: u64 = ["files/insert_log/", "files/delta_log/", "files/stats_log/"].map(own).iter().sum();
    assert_eq!(words.bytes - words.index_bytes, logs);
    assert_eq!(words.index_bytes, 178_900 + 178_138);
}

#[test]
fn any_object_that_is_missing_is_named_unless_only_what_is_dropped_needs_it() {
    let all = sizes();
    let cold = only(&keys()).catalog;
    let dropped: BTreeSet<String> =
        cold.segments.iter().filter(|(_, s)| !s.state.is_live()).map(|(id, _)| id.to_string()).collect();
    for key in all.keys() {
        let mut without = all.clone();
        without.remove(key);
        let checked = check(&mut only(&keys()), &without, None);
        if dropped.iter().any(|segment| key.contains(segment)) {
            assert!(checked.is_complete(), "{key}");
            continue;
        }
        assert_eq!(checked.missing_count, 1, "{key}");
        let missing = &checked.missing[0];
        assert_eq!((&missing.key, missing.lack), (key, Lack::Missing));
        assert!(key.contains(&missing.segment.to_string()), "{missing:?}");
    }
}

#[test]
fn an_object_that_could_not_be_read_or_has_another_size_is_named() {
    let of_stats = |key: &&String| key.contains("/stats_log/") && key.contains(&WORDS.to_string());
    let key = sizes().keys().find(of_stats).unwrap().clone();
    let mut gone = sizes();
    gone.insert(key.clone(), u64::MAX);
    assert_eq!(check(&mut only(&keys()), &gone, None).missing[0].lack, Lack::Unread);
    let mut short = sizes();
    let recorded = short.insert(key, 7).unwrap();
    assert_eq!(check(&mut only(&keys()), &short, None).missing[0].lack, Lack::Size { recorded, found: 7 });
}

/// What etcd has of the logs of "words", as `FieldBinlog`s of one log: its id, its size and what it takes in
/// memory.
fn log(id: u8, size: u8, memory: u8) -> Vec<u8> {
    vec![0x12, 8, 0x08, 3, 0x28, size, 0x30, id, 0x38, memory]
}

fn ids_of_words(keys: &Keys) -> String {
    let place = format!("/s/{WORDS}/");
    keys.keys()
        .find_map(|key| Some(key.split_once("/s/")?.1.to_owned()).filter(|_| key.contains(&place)))
        .unwrap()
}

#[test]
fn sizes_that_milvus_does_not_mean_are_not_required() {
    let (mut keys, mut objects) = (keys(), sizes());
    let ids = ids_of_words(&keys);
    objects.insert(format!("files/delta_log/{ids}/77"), 300);
    objects.insert(format!("files/insert_log/{ids}/0/78"), 300);
    let (deletes, inserts) = (
        format!("by-dev/meta/datacoord-meta/deltalog/{ids}/0"),
        format!("by-dev/meta/datacoord-meta/binlog/{ids}/199"),
    );
    keys.insert(deletes, log(77, 60, 70));
    // What was the memory in old versions stands in both places where a later one wrote it again.
    keys.insert(inserts.clone(), log(78, 60, 60));
    assert!(check(&mut only(&keys), &objects, None).is_complete());
    keys.insert(inserts, log(78, 60, 70));
    let lack = check(&mut only(&keys), &objects, None).missing[0].lack;
    assert_eq!(lack, Lack::Size { recorded: 60, found: 300 });
}

#[test]
fn logs_may_stand_in_the_segment_itself() {
    let (mut keys, objects) = (keys(), sizes());
    let ids = ids_of_words(&keys);
    let value = keys.get_mut(&format!("by-dev/meta/datacoord-meta/s/{ids}")).unwrap();
    for (field, id) in [(11, 71), (12, 72), (13, 73)] {
        value.extend([&[field << 3 | 2, 10][..], &log(id, 1, 2)].concat());
    }
    let missing = check(&mut only(&keys), &objects, None).missing;
    let names: Vec<&str> = missing.iter().map(|missing| &missing.key[..]).collect();
    let expected = [
        format!("files/delta_log/{ids}/73"),
        format!("files/insert_log/{ids}/0/71"),
        format!("files/stats_log/{ids}/0/72"),
    ];
    assert_eq!(names, expected);
}

#[test]
fn a_segment_of_which_something_is_not_understood_is_never_called_complete() {
    let kinds = ["s/{}", "binlog/{}/100", "statslog/{}/100"].map(|kind| format!("datacoord-meta/{kind}"));
    let ids = ids_of_words(&keys());
    let segment = ids.rsplit('/').next().unwrap().parse().unwrap();
    let cut = |rest: &str, value: &[u8]| {
        let rest = rest.replace("{}", &ids);
        let mut keys = keys();
        keys.insert(format!("by-dev/meta/{rest}"), value.to_vec());
        let checked = check(&mut only(&keys), &sizes(), None);
        let why = format!("what etcd has under by-dev/meta/{rest} is not understood");
        assert_eq!(checked.unchecked.get(&segment), Some(&why));
        assert!(!checked.is_complete());
    };
    kinds.iter().for_each(|kind| cut(kind, b"\x0a\xff"));
    cut("segment-index/{}/9", b"\x0a\xff");
    cut("datacoord-meta/a-new-log/{}/1", b"");
    cut("datacoord-meta/s/{}", b"");
}

#[test]
fn values_that_are_cut_off_are_counted_and_hide_nothing_else() {
    let whole = only(&keys()).catalog;
    for (key, value) in
        keys().iter().filter(|(key, value)| !value.is_empty() && !key.contains("/credential/"))
    {
        for length in [0, 1, value.len() / 2, value.len() - 1] {
            let mut cut = keys();
            cut.insert(key.clone(), value[..length].to_vec());
            let instance = only(&cut);
            assert!(instance.unreadable_count <= 1);
            assert!(instance.unreadable.iter().all(|unreadable| unreadable == key));
            assert!(instance.catalog.users == whole.users);
        }
    }
}

#[test]
fn fields_that_newer_versions_add_are_passed_over() {
    // Field 3000, a number; and field 3001, bytes.
    let more = [0xc0, 0xbb, 0x01, 0x2a, 0xca, 0xbb, 0x01, 0x02, 0x01, 0x02];
    let text =
        |key: &str| ["/credential/", "/session/", "/channelwatch/"].iter().any(|part| key.contains(part));
    let newer = keys().into_iter().map(|(key, value)| match text(&key) {
        true => (key, value),
        false => (key, [&value[..], &more].concat()),
    });
    let newer: Keys = newer.collect();
    let (old, mut new) = (only(&keys()), only(&newer));
    assert_eq!(new.unreadable_count, 0);
    assert_eq!(old.catalog, new.catalog);
    assert!(check(&mut new, &sizes(), None).is_complete());
}

#[test]
fn parts_that_are_not_known_are_counted_and_tombstones_are_no_values() {
    let mut keys = keys();
    keys.insert("by-dev/meta/a-new-part/1".into(), b"x".to_vec());
    keys.insert("by-dev/meta/root-coord/a-new-thing/7/8".into(), b"x".to_vec());
    keys.insert("by-dev/meta/root-coord/database/aliases/1/w".into(), vec![0xe2, 0x9b, 0xbc]);
    let instance = only(&keys);
    let unknown: Vec<_> = instance.unknown.iter().map(|(part, count)| (&part[..], *count)).collect();
    assert_eq!(unknown, [("a-new-part", 1), ("root-coord/a-new-thing", 1)]);
    assert!(instance.catalog.collections[&WORDS].aliases.is_empty() && instance.unreadable_count == 0);
}

/// A segment of "words" whose files are listed in a manifest (storage version 3), with `ver` and what it holds.
struct Listed {
    keys: Keys,
    objects: Sizes,
    contents: Contents,
    /// What the keys of its files begin with.
    base: String,
    manifest: String,
    segment: i64,
}

fn listed(version: i64, bytes: &[u8]) -> Listed {
    let (mut keys, mut objects) = (keys(), sizes());
    let place = format!("/s/{WORDS}/");
    let (key, value) = keys.iter_mut().find(|(key, _)| key.contains(&place)).unwrap();
    let ids = key.split_once("/s/").unwrap().1.to_owned();
    let segment = ids.rsplit('/').next().unwrap().to_owned();
    let base = format!("files/insert_log/{ids}");
    let json = format!(r#"{{"ver":{version},"base_path":"{base}"}}"#);
    value.extend([&[0x82, 0x02, json.len() as u8][..], json.as_bytes()].concat());
    objects.retain(|key, _| !key.contains("_log/") || !key.contains(&format!("/{segment}/")));
    keys.retain(|key, _| {
        !["deltalog", "statslog"].iter().any(|kind| key.contains(&format!("/{kind}/{ids}/")))
    });
    let manifest = format!("{base}/_metadata/manifest-{version}.avro");
    objects.insert(manifest.clone(), bytes.len() as u64);
    let contents = Contents::from([(manifest.clone(), bytes.to_vec())]);
    Listed { keys, objects, contents, base, manifest, segment: segment.parse().unwrap() }
}

impl Listed {
    fn check(&self) -> Checked {
        check_with(&mut only(&self.keys), &self.objects, &self.contents, None)
    }

    fn unchecked(&self) -> Vec<(i64, String)> {
        let checked = self.check();
        assert!(!checked.is_complete());
        checked.unchecked.into_iter().collect()
    }

    /// All that the manifest lists.
    fn add_files(&mut self) -> Vec<String> {
        let partition = self.base.rsplit_once('/').unwrap().0.to_owned();
        let files = [
            ("_data/0_aa.parquet", 4000),
            ("_data/0_bb.parquet", 5000),
            ("_data/1_cc.parquet", 60000),
            ("_delta/77", 1),
            ("_stats/bloom_filter.100/1", 2),
            ("_stats/bloom_filter.100/11", 3),
        ];
        let mut files = files.map(|(name, size)| (format!("{}/{name}", self.base), size)).to_vec();
        files.push((format!("{partition}/lobs/102/_data/dd.vortex"), 700));
        self.objects.extend(files.clone());
        files.into_iter().map(|(key, _)| key).collect()
    }
}

const MANIFEST: &[u8] = include_bytes!("milvus/manifest-6.avro");

#[test]
fn every_file_that_a_manifest_lists_must_be_there_and_the_manifest() {
    let mut whole = listed(4, MANIFEST);
    let files = whole.add_files();
    let checked = whole.check();
    assert!(checked.is_complete(), "{:?} {:?}", checked.missing, checked.unchecked);
    for key in files.iter().chain([&whole.manifest]) {
        let size = whole.objects.remove(key).unwrap();
        let checked = whole.check();
        let missing: Vec<_> = checked.missing.iter().map(|missing| (&missing.key, missing.lack)).collect();
        if *key == whole.manifest {
            assert_eq!(checked.unchecked[&whole.segment], format!("its manifest {} is not there", &key[6..]));
        }
        assert_eq!(missing, [(key, Lack::Missing)]);
        assert_eq!((checked.missing[0].segment, checked.missing[0].collection), (whole.segment, WORDS));
        whole.objects.insert(key.clone(), size);
    }
    whole.objects.insert(files[0].clone(), 3999);
    assert_eq!(whole.check().missing[0].lack, Lack::Size { recorded: 4000, found: 3999 });
}

#[test]
fn a_manifest_that_is_not_understood_is_said_and_never_called_complete() {
    let mut whole = listed(4, MANIFEST);
    whole.add_files();
    let key = whole.manifest["files/".len()..].to_owned();
    let mut why = |bytes: &[u8]| {
        whole.contents.insert(whole.manifest.clone(), bytes.to_vec());
        whole.unchecked()
    };
    let said = |text: &str| {
        vec![(listed(4, MANIFEST).segment, format!("its manifest {key} is not understood: {text}"))]
    };
    assert_eq!(why(&MANIFEST[..MANIFEST.len() / 2]), said("it is cut off or damaged"));
    assert_eq!(why(&[0xac, 0xb1, 0xca, 0xd4, 0x09, 0x12]), said("its version 9 is not known"));
    assert_eq!(why(b"hello"), said("it does not begin as a manifest"));
    whole.contents.insert(whole.manifest.clone(), MANIFEST.to_vec());
    whole.objects.insert(whole.manifest.clone(), 1 << 30);
    assert!(whole.unchecked()[0].1.contains("more than one ever has"));
}

#[test]
fn a_segment_without_a_manifest_yet_needs_none() {
    let mut new = listed(0, b"");
    new.objects.remove(&new.manifest);
    assert!(new.check().is_complete());
}

/// The first versions kept logs of deletes in etcd, and as files; later ones keep their size there.
#[test]
fn a_log_beside_a_manifest_is_there_or_listed_or_not_checked() {
    let mut whole = listed(4, MANIFEST);
    whole.add_files();
    let ids = whole.base["files/insert_log/".len()..].to_owned();
    let log = |id: u8| vec![0x12, 0x04, 0x08, 0x03, 0x30, id];
    let key = format!("by-dev/meta/datacoord-meta/deltalog/{ids}/0");
    whole.keys.insert(key.clone(), log(77));
    assert!(whole.check().is_complete(), "the manifest lists it");
    whole.keys.insert(key, log(78));
    let file = format!("files/delta_log/{ids}/78");
    assert_eq!(
        whole.unchecked(),
        [(whole.segment, format!("etcd has a log of it that is not there: {file}"))]
    );
    whole.objects.insert(file, 1);
    assert!(whole.check().is_complete(), "it is a file");
}

#[test]
fn the_files_of_an_index_are_those_of_etcd_or_of_the_manifest() {
    let mut whole = listed(4, MANIFEST);
    whole.add_files();
    // The index of the manifest has the id 8; no index of etcd has it.
    assert!(whole.check().is_complete());
    let index = [&[0x08][..], &varint(WORDS), &[0x10, 0x66, 0x20, 0x08]].concat();
    let field_index = [&[0x0a, index.len() as u8][..], &index].concat();
    whole.keys.insert(format!("by-dev/meta/field-index/{WORDS}/8"), field_index);
    let ids = whole.base["files/insert_log/".len()..].to_owned();
    // collection 1, segment 3, index 5, build 6, version 8, state 9: finished
    let built = |files: &[u8]| {
        let segment = varint(whole.segment);
        [&[0x08][..], &varint(WORDS), &[0x18], &segment, &[0x28, 8, 0x30, 9, 0x40, 4, 0x48, 3], files]
            .concat()
    };
    let (with, without) = (built(b"\x5a\x01x"), built(b""));
    let key = format!("by-dev/meta/segment-index/{ids}/9");
    whole.keys.insert(key.clone(), without);
    let missing = whole.check().missing;
    let names: Vec<&str> = missing.iter().map(|missing| &missing.key[..]).collect();
    assert_eq!(names, ["files/index_v1/1/2/3/9/4/HNSW_0", "files/index_v1/1/2/3/9/4/HNSW_1"]);
    whole.keys.insert(key, with);
    let missing = whole.check().missing;
    assert_eq!(missing.len(), 1);
    assert!(missing[0].key.starts_with("files/index_files/9/4/"), "{missing:?}");
}

/// `SegmentInfo` with statistics of a field, as an entry of one of its maps: 26 of texts, 29 of JSONs.
fn statistics(map: i64, field: i64, files: &[&str], format: i64) -> Vec<u8> {
    let inside =
        |tag: i64, bytes: &[u8]| [varint(tag << 3 | 2), varint(bytes.len() as i64), bytes.to_vec()].concat();
    let number = |tag: i64, number: i64| [varint(tag << 3), varint(number)].concat();
    let files = files.iter().map(|file| inside(3, file.as_bytes())).collect::<Vec<_>>().concat();
    let stats = [number(1, field), number(2, 4), files, number(6, 9), number(7, format)].concat();
    inside(map, &[number(1, field), inside(2, &stats)].concat())
}

#[test]
fn files_of_text_and_json_statistics_must_be_there() {
    let mut keys = keys();
    let place = format!("/s/{WORDS}/");
    let (key, value) = keys.iter_mut().find(|(key, _)| key.contains(&place)).unwrap();
    let ids = key.split_once("/s/").unwrap().1.to_owned();
    let whole = format!("files/text_log/8/4/{ids}/102/b.pos");
    value.extend(statistics(26, 101, &["a.pos", "a.term"], 0));
    value.extend(statistics(26, 102, &[&whole], 0));
    value.extend(statistics(29, 103, &["shared_key_index/a", "b"], 3));
    let mut needed = vec![
        format!("files/json_stats/3/9/4/{ids}/103/b"),
        format!("files/json_stats/3/9/4/{ids}/103/shared_key_index/a"),
        whole,
        format!("files/text_log/9/4/{ids}/101/a.pos"),
        format!("files/text_log/9/4/{ids}/101/a.term"),
    ];
    let missing = |keys: &Keys, objects: &Sizes| {
        let checked = check(&mut only(keys), objects, None);
        assert!(checked.unchecked.is_empty());
        checked.missing.into_iter().map(|missing| missing.key).collect::<Vec<_>>()
    };
    assert_eq!(missing(&keys, &sizes()), needed);
    let mut objects = sizes();
    objects.extend(needed.iter().map(|key| (key.clone(), 1)));
    assert_eq!(missing(&keys, &objects), Vec::<String>::new());

    // Statistics of JSONs in an older format are neither loaded nor kept by Milvus.
    let (_, value) = keys.iter_mut().find(|(key, _)| key.contains("/s/") && !key.contains(&ids)).unwrap();
    value.extend(statistics(29, 103, &["b"], 2));
    assert_eq!(missing(&keys, &objects), Vec::<String>::new());
    objects.retain(|key, _| !key.contains("/json_stats/"));
    needed.truncate(2);
    assert_eq!(missing(&keys, &objects), needed);
}

#[test]
fn json_statistics_of_the_first_format_lie_in_a_folder_of_their_own() {
    let mut keys = keys();
    let place = format!("/s/{WORDS}/");
    let (key, value) = keys.iter_mut().find(|(key, _)| key.contains(&place)).unwrap();
    let ids = key.split_once("/s/").unwrap().1.to_owned();
    value.extend(statistics(29, 103, &["a"], 1));
    let checked = check(&mut only(&keys), &sizes(), None);
    assert_eq!(checked.missing[0].key, format!("files/json_key_index_log/9/4/{ids}/103/a"));
}

fn varint(number: i64) -> Vec<u8> {
    let mut number = number as u64;
    let mut bytes = Vec::new();
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

#[test]
fn an_index_in_a_place_that_is_not_known_is_not_looked_for_and_not_called_complete() {
    let (mut keys, mut objects) = (keys(), sizes());
    let place = format!("/segment-index/{WORDS}/");
    let (key, value) = keys.iter_mut().find(|(key, _)| key.contains(&place)).unwrap();
    // path_version = 2
    value.extend([0xb0, 0x01, 0x02]);
    let build = key.rsplit('/').next().unwrap().to_owned();
    objects.retain(|key, _| !key.contains(&format!("/index_files/{build}/")));
    let checked = check(&mut only(&keys), &objects, None);
    assert_eq!((checked.missing_count, checked.unchecked.len()), (0, 1));
    assert!(!checked.is_complete());
}

#[test]
fn an_index_below_its_collection_is_looked_for_there() {
    let (mut keys, mut objects) = (keys(), sizes());
    let place = format!("/segment-index/{WORDS}/");
    let (key, value) = keys.iter_mut().find(|(key, _)| key.contains(&place)).unwrap();
    // path_version = 1
    value.extend([0xb0, 0x01, 0x01]);
    let ids = key.split_once("/segment-index/").unwrap().1.to_owned();
    let build = ids.rsplit('/').next().unwrap();
    let old: Vec<_> =
        objects.keys().filter(|key| key.contains(&format!("/index_files/{build}/"))).cloned().collect();
    assert!(!old.is_empty());
    for key in old {
        let parts: Vec<&str> = key.split('/').collect();
        let (version, name) = (parts[3], parts[6]);
        let size = objects.remove(&key).unwrap();
        objects.insert(format!("files/index_v1/{ids}/{version}/{name}"), size);
    }
    let checked = check(&mut only(&keys), &objects, None);
    assert!(checked.is_complete(), "{:?} {:?}", checked.missing, checked.unchecked);
    objects.retain(|key, _| !key.contains("/index_v1/"));
    assert!(check(&mut only(&keys), &objects, None).missing_count > 0);
}

#[test]
fn two_milvus_in_one_etcd_and_one_bucket_are_told_apart() {
    let rename = |key: &String| key.replacen("by-dev/", "deep/er/", 1);
    let (mut keys, mut objects) = (keys(), sizes());
    keys.extend(keys.clone().iter().map(|(key, value)| (rename(key), value.clone())));
    // The same ids in another place of the bucket, but for one object.
    let other: Sizes = objects.iter().map(|(key, size)| (key.replacen("files/", "a/b/", 1), *size)).collect();
    objects.insert("a/insert_log/readme".into(), 1);
    objects.extend(other.clone());
    let key = objects
        .keys()
        .find(|key| key.starts_with("a/b/insert_log/") && key.contains("/100/"))
        .unwrap()
        .clone();
    objects.remove(&key);
    let found = survey(&keys);
    let roots: Vec<&str> = found.instances.iter().map(|instance| &instance.root[..]).collect();
    assert_eq!(roots, ["by-dev", "deep/er"]);
    for mut instance in found.instances {
        // Of two roots that hold the same ids the user has to say which.
        let root = if instance.root == "by-dev" { "files" } else { "a/b" };
        let checked = check(&mut instance, &objects, Some(root));
        let missing = checked.missing.iter().map(|missing| &missing.key).collect::<Vec<_>>();
        assert_eq!(missing, if root == "files" { vec![] } else { vec![&key] });
    }
}

#[test]
fn a_milvus_is_found_among_the_keys_of_others_whether_they_are_old_or_new() {
    let mut others = Keys::new();
    for n in 0..5000 {
        others.insert(format!("/registry/kind-{}/space-{}/thing-{n}", n % 40, n % 7), b"value".to_vec());
    }
    others.extend((0..2000).map(|n| (format!("flat-{n}"), b"value".to_vec())));
    let deep: Keys =
        keys().iter().map(|(key, value)| (key.replacen("by-dev/", "a/b/c/", 1), value.clone())).collect();
    let both = |one: &Keys, other: &Keys| one.clone().into_iter().chain(other.clone()).collect::<Keys>();
    for (anchor, events) in [(both(&others, &keys()), deep.clone()), (both(&others, &deep), keys())] {
        let nodes = memory();
        let capture = capture(&nodes, &anchor, &events);
        let found = milvus::survey(&nodes, EtcdAt::whole(&capture), &spool()).unwrap();
        let roots: Vec<&str> = found.instances.iter().map(|instance| &instance.root[..]).collect();
        assert_eq!(roots, ["a/b/c", "by-dev"]);
        let whole = only(&keys()).catalog;
        assert!(found.instances.iter().all(|instance| instance.catalog == whole));
        let capture = self::capture(&nodes, &others, &Keys::new());
        let found = milvus::survey(&nodes, EtcdAt::whole(&capture), &spool()).unwrap();
        assert!(found.instances.is_empty());
    }
}

/// Keys and objects of a write-ahead log with one segment.
fn log_of_one_segment() -> (Keys, Sizes) {
    let keys = [
        ("woodpecker/logidgen", b"1".to_vec()),
        ("woodpecker/logs/by-dev-rootcoord-dml_0", vec![8, 1]),
        ("woodpecker/logs/by-dev-rootcoord-dml_0/segments/0", vec![]),
    ];
    let objects = [("files/wp/1/0/0.blk", 100), ("files/wp/1/0/write.lock", 10)];
    (
        keys.map(|(key, value)| (key.into(), value)).into(),
        objects.map(|(key, size)| (key.into(), size)).into(),
    )
}

#[test]
fn a_write_ahead_log_lacks_its_keys_or_its_objects_only_where_it_has_the_other() {
    let (log_keys, log_objects) = log_of_one_segment();
    let mut keys = keys();
    let lacks = |keys: &Keys, with_keys: bool, with_objects: bool| {
        let mut all = (keys.clone(), sizes());
        all.0.extend(log_keys.clone().into_iter().filter(|_| with_keys));
        all.1.extend(log_objects.clone().into_iter().filter(|_| with_objects));
        let nodes = memory();
        let (tree, capture) = (tree(&nodes, &all.1, &Contents::new()), capture(&nodes, &all.0, &Keys::new()));
        let logs = Woodpecker::at(&nodes, EtcdAt::whole(&capture), &spool()).unwrap();
        assert_eq!(logs.is_some(), with_keys);
        let objects = Objects::Tree(tree.as_ref());
        only(&all.0).lacks_of_log(logs.as_ref(), &nodes, objects, "files").unwrap()
    };
    assert_eq!(lacks(&keys, true, false), None, "a Milvus before 2.6 has none");
    keys.insert("by-dev/meta/streamingcoord-meta/pchannel/by-dev-rootcoord-dml_0".into(), vec![]);
    assert_eq!(lacks(&keys, true, false), Some(Lacking::Objects));
    assert_eq!(lacks(&keys, false, true), Some(Lacking::Keys));
    assert_eq!(lacks(&keys, true, true), None);
    assert_eq!(lacks(&keys, false, false), None, "the log may be Kafka or Pulsar");
}

#[test]
fn segments_that_etcd_does_not_know_yet_are_later() {
    let (log_keys, _) = log_of_one_segment();
    let later: Keys = [("woodpecker/logs/by-dev-rootcoord-dml_0/segments/1".to_owned(), vec![])].into();
    let nodes = memory();
    let capture = capture(&nodes, &log_keys, &later);
    let at = |revision| {
        let etcd = EtcdAt { revision, ..EtcdAt::whole(&capture) };
        Woodpecker::at(&nodes, etcd, &spool()).unwrap().unwrap()
    };
    let (before, after) = (at(2), at(3));
    assert!(before.is_later(b"files/wp/1/1/0.blk") && !before.is_later(b"files/wp/1/0/0.blk"));
    assert!(!after.is_later(b"files/wp/1/1/0.blk") && after.is_later(b"files/wp/1/2/0.blk"));
    assert!(after.is_later(b"files/wp/2/0/0.blk"), "of a log that is made later");
    let none_yet: Keys = [("woodpecker/logidgen".to_owned(), b"0".to_vec())].into();
    let capture = self::capture(&nodes, &none_yet, &Keys::new());
    let logs = Woodpecker::at(&nodes, EtcdAt::whole(&capture), &spool()).unwrap();
    assert!(logs.unwrap().is_later(b"files/wp/1/0/0.blk"), "of the first log");
}

/// Before anything is flushed there is nothing else below the root path.
#[test]
fn a_root_path_with_nothing_but_a_write_ahead_log_is_found() {
    let empty: Keys = [("by-dev/meta/root-coord/credential/roles/admin".to_owned(), vec![])].into();
    let (_, log_objects) = log_of_one_segment();
    assert_eq!(check(&mut only(&empty), &log_objects, None).bucket_root, "files");
}

#[test]
fn a_bucket_without_root_path_is_found_and_an_empty_one_lacks_everything() {
    let top: Sizes = sizes().iter().map(|(key, size)| (key.replacen("files/", "", 1), *size)).collect();
    let checked = check(&mut only(&keys()), &top, None);
    assert!(checked.is_complete() && checked.bucket_root.is_empty(), "{checked:?}");
    let checked = check(&mut only(&keys()), &Sizes::new(), None);
    assert!(checked.missing_count > 50, "{}", checked.missing_count);
}

#[test]
fn an_etcd_of_others_has_no_milvus() {
    let mut survey = Survey::new(&spool());
    for key in ["/registry/pods/meta/x", "app/meta/session/1", "meta/thing"] {
        survey.add(key.as_bytes(), b"value").unwrap();
    }
    for n in 0..1000 {
        survey.add(format!("z{n:04}/meta/session/1").as_bytes(), b"value").unwrap();
    }
    assert!(survey.finish().instances.is_empty());
}
