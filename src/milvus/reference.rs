//! Objects that keys refer to.

use super::manifest::Place;
use super::proto::{Binlog, SegmentIndex, SegmentInfo};

/// What an object is of its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// A log, but for those of inserts.
    Log,
    /// A log of inserts.
    Inserts,
    /// The list of its files.
    Manifest,
    /// A file in that list.
    Listed,
    /// A log in that list, under the key that it would have without one.
    Named,
    /// A part of an index.
    Index(i64),
}

impl Part {
    fn number(self) -> i64 {
        match self {
            Part::Log => 0,
            Part::Inserts => -1,
            Part::Manifest => -2,
            Part::Listed => -3,
            Part::Named => -4,
            Part::Index(id) => id,
        }
    }

    fn of(number: i64) -> Part {
        match number {
            0 => Part::Log,
            -1 => Part::Inserts,
            -2 => Part::Manifest,
            -3 => Part::Listed,
            -4 => Part::Named,
            id => Part::Index(id),
        }
    }
}

/// Who needs an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reference {
    pub collection: i64,
    pub segment: i64,
    pub part: Part,
    /// Its size, where it is recorded.
    pub size: u64,
}

impl Reference {
    pub fn encode(self) -> Vec<u8> {
        let Reference { collection, segment, part, size } = self;
        let part = part.number();
        [collection.to_le_bytes(), segment.to_le_bytes(), part.to_le_bytes(), size.to_le_bytes()].concat()
    }

    pub fn decode(bytes: &[u8]) -> Reference {
        let word =
            |at: usize| bytes.get(8 * at..8 * at + 8).and_then(|b| b.try_into().ok()).unwrap_or_default();
        let number = |at| i64::from_le_bytes(word(at));
        Reference {
            collection: number(0),
            segment: number(1),
            part: Part::of(number(2)),
            size: u64::from_le_bytes(word(3)),
        }
    }
}

/// An object that is referred to.
pub(super) struct Object {
    /// Its key below the root path.
    pub key: String,
    /// The root path, where it is recorded.
    pub root: Option<String>,
    /// Its size, where it is recorded; else 0.
    pub size: u64,
}

impl Object {
    /// The object of a log: by its path where that is recorded, else built from ids.
    pub fn of_log(
        kind: &str,
        [collection, partition, segment]: [i64; 3],
        field: i64,
        log: &Binlog,
    ) -> Object {
        let folder = match kind {
            "binlog" => "insert_log",
            "deltalog" => "delta_log",
            "statslog" => "stats_log",
            _ => "bm25_stats",
        };
        // Where the memory is not recorded, the size of an insert log is what it takes in memory.
        let size = if log.memory > 0 || kind != "binlog" { log.size.max(0) as u64 } else { 0 };
        let at = log.path.rfind(&format!("{folder}/"));
        if let Some(at) = at.filter(|&at| at == 0 || log.path.as_bytes()[at - 1] == b'/') {
            let root = log.path[..at].trim_end_matches('/').to_owned();
            return Object { key: log.path[at..].to_owned(), root: Some(root), size };
        }
        let key = match kind {
            "deltalog" => format!("{folder}/{collection}/{partition}/{segment}/{}", log.id),
            _ => format!("{folder}/{collection}/{partition}/{segment}/{field}/{}", log.id),
        };
        Object { key, root: None, size }
    }

    /// The manifest of a segment whose files are listed in one.
    pub fn of_manifest(info: &SegmentInfo) -> Option<(Object, Reference)> {
        let (place, root) = Place::parse(&info.manifest)?;
        let SegmentInfo { collection, id: segment, .. } = *info;
        let reference = Reference { collection, segment, part: Part::Manifest, size: 0 };
        Some((Object { key: place.key()?, root, size: 0 }, reference))
    }

    /// The files of an index that is built.
    pub fn of_index(built: &SegmentIndex) -> Vec<(String, Reference)> {
        const FINISHED: i32 = 3;
        if built.state != FINISHED || built.deleted {
            return Vec::new();
        }
        let SegmentIndex { collection, partition, segment, index, build, version, .. } = *built;
        // The size of several files is recorded as one sum.
        let size = if built.files.len() == 1 { built.size } else { 0 };
        let folder = match built.path_version {
            0 => format!("index_files/{build}/{version}/{partition}/{segment}"),
            1 => format!("index_v1/{collection}/{partition}/{segment}/{build}/{version}"),
            _ => return Vec::new(),
        };
        let name = |file: &String| format!("{folder}/{}", file.rsplit('/').next().unwrap_or_default());
        let reference = Reference { collection, segment, part: Part::Index(index), size };
        built.files.iter().map(|file| (name(file), reference)).collect()
    }
}
