//! Every Milvus in an etcd, from its keys.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use prost::{DecodeError, Message};

use super::catalog::{Catalog, TOMBSTONE};
use super::key::{self, Key};
use super::proto::{
    Binlog, CollectionLoadInfo, FieldBinlog, FieldIndex, MsgPosition, SegmentIndex, SegmentInfo,
};
use super::reference::{Object, Part, Reference};
use super::root;
use crate::repository::{self, Error, EtcdAt, Result, content_bytes};
use crate::sorter::{Sorter, Spool};
use crate::tree::Nodes;

/// Roots that are told apart in one etcd.
const MOST_ROOTS: usize = 16;
/// Parts that are not known, and values that cannot be read, named for each Milvus; more are counted.
const NAMED: usize = 20;
/// Segments of which not everything can be read.
const MOST_UNREAD: usize = 1000;

/// One Milvus, as its keys say.
pub struct Instance {
    /// Its root path in etcd.
    pub root: String,
    /// The version of the server that ran when the keys were captured, where one ran.
    pub version: Option<String>,
    /// What it holds.
    pub catalog: Catalog,
    /// Parts below `<root>/meta/` that are not known, and how many keys each has.
    pub unknown: BTreeMap<String, u64>,
    /// Keys whose values could not be read.
    pub unreadable: Vec<String>,
    /// How many there are.
    pub unreadable_count: u64,
    /// Segments of which a key cannot be read, or is of a kind of logs that is not known; and that key.
    pub(super) unread: BTreeMap<i64, String>,
    /// Keys that its servers keep for as long as they run.
    pub sessions: BTreeSet<Vec<u8>>,
    /// Keys of what was loaded when it last stopped, with places in its queue. It goes without them.
    pub targets: BTreeSet<Vec<u8>>,
    /// The root path in the bucket, where its keys say so.
    pub bucket_root: Option<String>,
    /// Whether it keeps its own places in a write-ahead log (2.6).
    pub write_ahead: bool,
    pub(super) references: Sorter,
    /// Rows that delta logs delete, by segment.
    deletes: HashMap<i64, u64>,
    /// Segments with an index in a place that is not known.
    elsewhere: BTreeSet<i64>,
    /// Segments and indexes, where etcd names no file of the index.
    pub(super) without_files: HashSet<(i64, i64)>,
    recognised: bool,
}

/// Looks for Milvus among keys.
pub struct Survey {
    spool: Spool,
    instances: BTreeMap<String, Instance>,
    left_out: BTreeSet<String>,
}

/// Every Milvus in an etcd.
pub struct Found {
    /// Those that were looked at, by their roots.
    pub instances: Vec<Instance>,
    /// Roots that were too many to look at.
    pub left_out: BTreeSet<String>,
}

/// Every Milvus in what was captured of an etcd.
pub fn survey(nodes: &dyn Nodes, etcd: EtcdAt, spool: &Spool) -> Result<Found> {
    let mut survey = Survey::new(spool);
    for root in root::roots(nodes, etcd)? {
        for entry in repository::state(nodes, etcd, &key::of(&root, "meta/"), spool)? {
            let (key, state) = entry?;
            survey.add(&key, &content_bytes(nodes, &state.value)?)?;
        }
    }
    Ok(survey.finish())
}

impl Survey {
    /// Of no keys yet; what it sorts goes to `spool`.
    pub fn new(spool: &Spool) -> Survey {
        Survey { spool: spool.clone(), instances: BTreeMap::new(), left_out: BTreeSet::new() }
    }

    /// One more key; they come in order.
    pub fn add(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let Some(key) = key::parse(key) else { return Ok(()) };
        if !self.instances.contains_key(key.root) {
            if self.instances.len() >= MOST_ROOTS {
                self.make_room();
            }
            if self.instances.len() >= MOST_ROOTS {
                if self.left_out.len() < NAMED && key.known {
                    self.left_out.insert(key.root.into());
                }
                return Ok(());
            }
            self.instances.insert(key.root.into(), Instance::new(key.root, &self.spool));
        }
        match self.instances.get_mut(key.root) {
            Some(instance) => instance.add(key, value, &self.spool),
            None => Ok(()),
        }
    }

    /// Keys come in order, so the keys of a root that was no Milvus so far may be over.
    fn make_room(&mut self) {
        self.instances.retain(|_, instance| instance.recognised);
    }

    /// Every Milvus that was found.
    pub fn finish(self) -> Found {
        let found = self.instances.into_values().filter(|instance| instance.recognised);
        let finished = found.map(|mut instance| {
            instance.catalog.join_grants();
            for (segment, deletes) in std::mem::take(&mut instance.deletes) {
                if let Some(segment) = instance.catalog.segments.get_mut(&segment) {
                    segment.deletes = deletes;
                }
            }
            for segment in std::mem::take(&mut instance.elsewhere) {
                if let Some(segment) = instance.catalog.segments.get_mut(&segment) {
                    segment.elsewhere = true;
                }
            }
            instance
        });
        Found { instances: finished.collect(), left_out: self.left_out }
    }
}

impl Instance {
    fn new(root: &str, spool: &Spool) -> Instance {
        Instance {
            root: root.into(),
            version: None,
            catalog: Catalog::default(),
            unknown: BTreeMap::new(),
            unreadable: Vec::new(),
            unreadable_count: 0,
            unread: BTreeMap::new(),
            sessions: BTreeSet::new(),
            targets: BTreeSet::new(),
            bucket_root: None,
            write_ahead: false,
            references: spool.small_sorter(),
            deletes: HashMap::new(),
            elsewhere: BTreeSet::new(),
            without_files: HashSet::new(),
            recognised: false,
        }
    }

    fn add(&mut self, key: Key, value: &[u8], spool: &Spool) -> Result<()> {
        let parts: Vec<&str> = key.rest.split('/').collect();
        // Of a key that was deleted the old forms are still there.
        if value == TOMBSTONE {
            return Ok(());
        }
        self.recognised |= root::is_sign(key.rest);
        match self.read(&parts, value) {
            Ok(Some(references)) => {
                for (object, reference) in references {
                    let pushed = self.references.push(object.into_bytes(), reference.encode());
                    pushed.map_err(|e| Error::File(spool.to_string(), e.to_string()))?;
                }
            }
            Ok(None) => {
                if matches!(parts[..], ["datacoord-meta", kind, _, _, _, ..] if kind.ends_with("log")) {
                    self.note_unread(&parts);
                }
                self.note_unknown(&parts);
            }
            Err(_) => {
                self.note_unread(&parts);
                self.unreadable_count += 1;
                if self.unreadable.len() < NAMED {
                    self.unreadable.push(format!("{}/meta/{}", key.root, key.rest));
                }
            }
        }
        Ok(())
    }

    /// Of the segment of a key not every file can be told.
    fn note_unread(&mut self, parts: &[&str]) {
        let segment = match parts {
            ["datacoord-meta", _, _, _, segment, ..] | ["segment-index", _, _, segment, ..] => {
                segment.parse()
            }
            _ => return,
        };
        if let Ok(segment) = segment.map_err(drop)
            && self.unread.len() < MOST_UNREAD
        {
            self.unread.entry(segment).or_insert_with(|| parts.join("/"));
        }
    }

    fn note_unknown(&mut self, parts: &[&str]) {
        let two = parts.iter().take(2).copied().collect::<Vec<_>>().join("/");
        // Of the second part only its kind is of interest, not an id.
        let part = if parts.len() > 2 { two } else { parts[0].to_owned() };
        if self.unknown.len() < NAMED || self.unknown.contains_key(&part) {
            *self.unknown.entry(part).or_default() += 1;
        }
    }

    /// What a key says; `None` for one that is not known.
    fn read(
        &mut self,
        parts: &[&str],
        value: &[u8],
    ) -> std::result::Result<Option<Vec<(String, Reference)>>, DecodeError> {
        let nothing = Ok(Some(Vec::new()));
        match parts {
            ["root-coord", rest @ ..] => {
                let known = self.catalog.add_root_coord(rest, value)?;
                return Ok(known.then(Vec::new));
            }
            ["datacoord-meta", "s", _, _, segment] => {
                let info = SegmentInfo::decode(value)?;
                if segment.parse() != Ok(info.id) {
                    self.note_unread(parts);
                }
                return Ok(Some(self.segment(info)));
            }
            ["datacoord-meta", kind @ ("binlog" | "deltalog" | "statslog" | "bm25log"), c, p, s, _] => {
                let place = [c, p, s].map(|id| id.parse().unwrap_or(0));
                return Ok(Some(self.logs(kind, place, FieldBinlog::decode(value)?)));
            }
            ["datacoord-meta", "channel-cp", channel] => {
                self.catalog.add_checkpoint(channel, MsgPosition::decode(value)?);
            }
            // Work that is under way or done; it begins anew or is over.
            [
                "datacoord-meta",
                "channel-removal"
                | "compaction-task"
                | "import-job"
                | "import-task"
                | "preimport-task"
                | "stats-task"
                | "analyze-task"
                | "partition-stats"
                | "partition-stats-info"
                | "gc-info"
                | "file-resource_info",
                ..,
            ] => {}
            ["field-index", _, _] => self.catalog.add_index(FieldIndex::decode(value)?),
            ["segment-index", _, _, _, _] => {
                let index = SegmentIndex::decode(value)?;
                if !(0..=1).contains(&index.path_version) && !index.deleted {
                    self.elsewhere.insert(index.segment);
                }
                if index.files.is_empty() && !index.deleted {
                    self.without_files.insert((index.segment, index.index));
                }
                return Ok(Some(Object::of_index(&index)));
            }
            ["querycoord-collection-loadinfo", _] => {
                self.catalog.add_load(CollectionLoadInfo::decode(value)?)
            }
            ["queryCoord-ResourceGroup", group] => drop(self.catalog.resource_groups.insert((*group).into())),
            ["querycoord-partition-loadinfo" | "querycoord-replica", ..] => {}
            ["queryCoord-Collection-Target", ..] => drop(self.targets.insert(self.key_of(parts))),
            // The last id that was given to a server; an id that comes twice is taken for the old server.
            ["session", "id"] => {}
            ["session", ..] => {
                self.sessions.insert(self.key_of(parts));
                self.read_session(value);
            }
            ["streamingcoord-meta" | "streamingnode-meta" | "wal-meta", ..] => self.write_ahead = true,
            ["snapshots" | "channelwatch" | "session-id" | "replicating-meta", ..] => {}
            _ => return Ok(None),
        }
        nothing
    }

    fn key_of(&self, parts: &[&str]) -> Vec<u8> {
        key::of(&self.root, &format!("meta/{}", parts.join("/")))
    }

    /// Running servers say their version, in a JSON of many fields.
    fn read_session(&mut self, value: &[u8]) {
        let text = String::from_utf8_lossy(value);
        let version = text.split_once("\"Version\":\"").and_then(|(_, rest)| rest.split('"').next());
        if let Some(version) = version.filter(|version| !version.is_empty()) {
            self.version = Some(version.to_owned());
        }
    }

    fn segment(&mut self, mut info: SegmentInfo) -> Vec<(String, Reference)> {
        let place = [info.collection, info.partition, info.id];
        let inside = [
            ("binlog", std::mem::take(&mut info.binlogs)),
            ("statslog", std::mem::take(&mut info.statslogs)),
            ("deltalog", std::mem::take(&mut info.deltalogs)),
        ];
        let manifest = Object::of_manifest(&info).into_iter();
        let mut objects = self.noted(manifest.chain(Object::of_statistics(&info)));
        for (kind, logs) in inside {
            objects.extend(logs.into_iter().flat_map(|logs| self.logs(kind, place, logs)));
        }
        self.catalog.add_segment(info);
        objects
    }

    fn logs(&mut self, kind: &str, place: [i64; 3], logs: FieldBinlog) -> Vec<(String, Reference)> {
        let [collection, partition, segment] = place;
        if kind == "deltalog" {
            let deletes = self.deletes.entry(segment).or_default();
            let logs = logs.binlogs.iter().map(|log| log.entries.max(0).unsigned_abs());
            *deletes = logs.fold(*deletes, u64::saturating_add);
        }
        let field = logs.field;
        let part = if kind == "binlog" { Part::Inserts } else { Part::Log };
        let object = |log: &Binlog| {
            let object = Object::of_log(kind, [collection, partition, segment], field, log);
            let reference = Reference { collection, segment, part, size: object.size };
            (object, reference)
        };
        self.noted(logs.binlogs.iter().map(object))
    }

    /// Objects by their keys; what they say of the root path is kept.
    fn noted(&mut self, found: impl IntoIterator<Item = (Object, Reference)>) -> Vec<(String, Reference)> {
        let noted = found.into_iter().map(|(object, reference)| {
            if self.bucket_root.is_none() {
                self.bucket_root.clone_from(&object.root);
            }
            (object.key, reference)
        });
        noted.collect()
    }
}
