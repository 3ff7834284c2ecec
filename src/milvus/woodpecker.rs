//! Woodpecker, in which Milvus 2.6 keeps its write-ahead log: keys below `woodpecker/` in etcd, whatever the
//! root path of Milvus is, and objects `<root>/wp/<log>/<segment>/<file>` in the bucket, files of a segment
//! being its blocks, those merged into larger ones, a footer that names them, and its writer's lock.
//!
//! From `meta/constant.go`, `proto/meta.proto` and `server/storage/objectstorage` of Woodpecker 0.1.

use std::collections::BTreeMap;

use prost::Message;

use super::objects::{Objects, below};
use super::survey::Instance;
use crate::repository::{EtcdAt, Result, content_bytes, state};
use crate::sorter::Spool;
use crate::tree::Nodes;

/// Where its keys are.
const KEYS: &str = "woodpecker/";
/// The folder of its objects, below the root path.
const FOLDER: &[u8] = b"wp";

/// `LogMeta`.
#[derive(Clone, PartialEq, Message)]
struct LogMeta {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(int64, tag = "8")]
    truncated_segment: i64,
}

/// What etcd knew of the logs at a revision.
pub struct Woodpecker {
    /// The last number that was given to a log.
    last_log: i64,
    /// The last segment of each log that is there.
    logs: BTreeMap<i64, i64>,
}

impl Woodpecker {
    /// What etcd knew at a revision; `None` where there is no Woodpecker.
    pub fn at(nodes: &dyn Nodes, etcd: EtcdAt, spool: &Spool) -> Result<Option<Woodpecker>> {
        let mut found = Woodpecker { last_log: i64::MAX, logs: BTreeMap::new() };
        let mut is_there = false;
        let mut names: BTreeMap<String, i64> = BTreeMap::new();
        for entry in state(nodes, etcd, KEYS.as_bytes(), spool)? {
            let (key, state) = entry?;
            let Some(Ok(key)) = key.strip_prefix(KEYS.as_bytes()).map(std::str::from_utf8) else { continue };
            match key.split('/').collect::<Vec<_>>()[..] {
                ["logidgen"] => {
                    let value = content_bytes(nodes, &state.value)?;
                    let number = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
                    found.last_log = number.unwrap_or(found.last_log);
                    is_there = true;
                }
                ["logs", name] => {
                    let Ok(log) = LogMeta::decode(&content_bytes(nodes, &state.value)?[..]) else { continue };
                    names.insert(name.into(), log.id);
                    found.logs.insert(log.id, log.truncated_segment.max(-1));
                }
                // Keys are in order: the log's own comes before.
                ["logs", name, "segments", segment] => {
                    if let (Some(log), Ok(segment)) = (names.get(name), segment.parse()) {
                        let last = found.logs.entry(*log).or_insert(segment);
                        *last = segment.max(*last);
                    }
                }
                _ => {}
            }
        }
        Ok((is_there || !found.logs.is_empty()).then_some(found))
    }

    /// Whether an object is of a segment that was begun after the revision. A log that goes on from the
    /// revision makes that segment itself, and cannot where it finds another's files.
    pub fn is_later(&self, key: &[u8]) -> bool {
        let Some(InSegment { log, segment, .. }) = segment_of(key) else { return false };
        match self.logs.get(&log) {
            Some(last) => segment > *last,
            // Of a log that is there no more its number is not given out again.
            None => log > self.last_log,
        }
    }
}

/// What a snapshot lacks of a write-ahead log that Milvus has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lacking {
    /// Its keys.
    Keys,
    /// Its objects.
    Objects,
}

impl Instance {
    /// What the snapshot lacks of the log, where it has the rest.
    pub fn lacks_of_log(
        &self,
        logs: Option<&Woodpecker>,
        nodes: &dyn Nodes,
        objects: Objects,
        bucket_root: &str,
    ) -> Result<Option<Lacking>> {
        if !self.write_ahead {
            return Ok(None);
        }
        let folder = below(bucket_root, &[FOLDER, b"/"].concat());
        let first = objects.below(nodes, &folder)?.next().transpose()?;
        let here = first.is_some_and(|(key, _)| key.starts_with(&folder) && log_folder(&key).is_some());
        let begun = |logs: &Woodpecker| logs.logs.values().any(|segment| *segment >= 0);
        Ok(match (logs, here) {
            (None, true) => Some(Lacking::Keys),
            (Some(logs), false) if begun(logs) => Some(Lacking::Objects),
            _ => None,
        })
    }
}

/// The folder (with its slash) of the segment of a log that an object is of.
pub fn log_folder(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(segment_of(key)?.folder).ok()
}

/// The root path that an object of a log is below.
pub fn log_root(key: &[u8]) -> Option<&[u8]> {
    Some(segment_of(key)?.root)
}

/// Whether an object is the footer of a segment: it names the blocks that make it up.
pub fn is_log_footer(key: &[u8]) -> bool {
    key.ends_with(b"/footer.blk") && segment_of(key).is_some()
}

/// The segment that an object is of.
struct InSegment<'a> {
    root: &'a [u8],
    folder: &'a [u8],
    log: i64,
    segment: i64,
}

fn segment_of(key: &[u8]) -> Option<InSegment<'_>> {
    let mut parts = key.rsplitn(5, |byte| *byte == b'/');
    let file = parts.next()?;
    let segment = number(parts.next()?)?;
    let log = number(parts.next()?)?;
    let known = file.ends_with(b".blk") || file.ends_with(b".lock");
    let folder = &key[..key.len() - file.len()];
    (known && parts.next()? == FOLDER).then(|| InSegment {
        root: parts.next().unwrap_or_default(),
        folder,
        log,
        segment,
    })
}

fn number(part: &[u8]) -> Option<i64> {
    let digits = part.first()?.is_ascii_digit();
    std::str::from_utf8(part).ok().filter(|_| digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_segments_belong_to_a_log() {
        assert_eq!(log_folder(b"files/wp/1/20/m_3.blk"), Some("files/wp/1/20/"));
        assert_eq!(log_folder(b"wp/1/2/write.lock"), Some("wp/1/2/"));
        for other in
            ["files/wp/1/2", "files/wp/1/x/0.blk", "files/wp/-1/2/0.blk", "files/wq/1/2/0.blk", "0.blk"]
        {
            assert_eq!(log_folder(other.as_bytes()), None, "{other}");
        }
        assert_eq!(log_folder(b"files/wp/1/2/0.txt"), None);
        assert!(is_log_footer(b"files/wp/1/2/footer.blk") && !is_log_footer(b"files/footer.blk"));
        for (key, root) in
            [("a/b/wp/1/20/m_3.blk", Some("a/b")), ("wp/1/2/0.blk", Some("")), ("other/key", None)]
        {
            assert_eq!(log_root(key.as_bytes()), root.map(str::as_bytes), "{key}");
        }
    }

    #[test]
    fn later_is_what_has_a_number_that_was_not_given_out_yet() {
        let log = Woodpecker { last_log: 7, logs: [(1, 4), (7, -1)].into() };
        for later in ["a/wp/1/5/0.blk", "wp/1/10/footer.blk", "a/wp/7/0/write.lock", "a/wp/8/0/0.blk"] {
            assert!(log.is_later(later.as_bytes()), "{later}");
        }
        // 3 was deleted, and 1/4 goes on.
        for kept in ["a/wp/1/4/0.blk", "a/wp/1/0/m_0.blk", "a/wp/3/9/0.blk", "insert_log/1/5/0.blk"] {
            assert!(!log.is_later(kept.as_bytes()), "{kept}");
        }
    }
}
