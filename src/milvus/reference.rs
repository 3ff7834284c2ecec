//! Objects that keys refer to.

use super::manifest::Place;
use super::proto::{Binlog, FieldStats, SegmentIndex, SegmentInfo};

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
    /// A part of the index by which words of a text are found.
    Text,
    /// A part of what is known of the keys of a JSON, in a format of this number.
    Json(i64),
}

/// Formats of JSON statistics are counted down from here.
const JSON: i64 = -6;

impl Part {
    fn number(self) -> i64 {
        match self {
            Part::Log => 0,
            Part::Inserts => -1,
            Part::Manifest => -2,
            Part::Listed => -3,
            Part::Named => -4,
            Part::Index(id) => id,
            Part::Text => -5,
            Part::Json(format) => JSON - format,
        }
    }

    fn of(number: i64) -> Part {
        match number {
            0 => Part::Log,
            -1 => Part::Inserts,
            -2 => Part::Manifest,
            -3 => Part::Listed,
            -4 => Part::Named,
            -5 => Part::Text,
            ..=JSON => Part::Json(JSON - number),
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
        let size = match kind {
            // Some versions note a quarter of what the deletes take in memory.
            "deltalog" => 0,
            // Before 2.4.3 it was the memory; later versions copied it there.
            "binlog" if log.memory <= 0 || log.memory == log.size => 0,
            _ => log.size.max(0) as u64,
        };
        if let Some((root, key)) = split(&log.path, folder) {
            return Object { key, root: Some(root), size };
        }
        let key = match kind {
            "deltalog" => format!("{folder}/{collection}/{partition}/{segment}/{}", log.id),
            _ => format!("{folder}/{collection}/{partition}/{segment}/{field}/{}", log.id),
        };
        Object { key, root: None, size }
    }

    /// The files of a segment's statistics of texts and of JSONs.
    ///
    /// Where they lie is said in Milvus' `pkg/util/metautil` (`BuildTextIndexPrefix`, `BuildJSONKeyStatsPrefix`)
    /// and, for the formats before the second, in its garbage collector.
    pub fn of_statistics(info: &SegmentInfo) -> Vec<(Object, Reference)> {
        let SegmentInfo { collection, id: segment, .. } = *info;
        let mut all = Vec::new();
        let mut add = |folder: &str, format: Option<i64>, stats: &FieldStats, part| {
            let format = format.map(|format| format!("/{format}")).unwrap_or_default();
            let FieldStats { build, version, field, .. } = *stats;
            let place = format!(
                "{folder}{format}/{build}/{version}/{collection}/{}/{segment}/{field}",
                info.partition
            );
            let reference = Reference { collection, segment, part, size: 0 };
            for file in &stats.files {
                let (root, key) = match split(file, folder) {
                    Some((root, key)) => (Some(root), key),
                    None => (None, format!("{place}/{file}")),
                };
                all.push((Object { key, root, size: 0 }, reference));
            }
        };
        info.text_stats.values().for_each(|stats| add("text_log", None, stats, Part::Text));
        for stats in info.json_stats.values() {
            let format = stats.json_format();
            let part = Part::Json(format);
            match format {
                ..2 => add("json_key_index_log", None, stats, part),
                _ => add("json_stats", Some(format), stats, part),
            }
        }
        all
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

/// The root path before a folder of Milvus in a key, and the key below it.
fn split(path: &str, folder: &str) -> Option<(String, String)> {
    let at = path.rfind(&format!("{folder}/")).filter(|&at| at == 0 || path.as_bytes()[at - 1] == b'/')?;
    Some((path[..at].trim_end_matches('/').to_owned(), path[at..].to_owned()))
}
