//! Values in which Milvus keeps keys of objects, or places in its message queue, changed where they stand.
//!
//! Messages are walked by their wire format: what is not known stays as it is, to the byte.

use prost::encoding::{decode_varint, encode_varint};

use super::key;
use super::queue;

/// What stands in a field.
enum Part {
    /// The key of an object, from the top of the bucket on.
    Path,
    /// A JSON that names what the keys of files begin with.
    Manifest,
    /// A message's id.
    Place,
    /// Another message.
    Inside(Shape),
}

/// Fields by their numbers.
type Shape = &'static [(u64, Part)];

/// `msgpb.MsgPosition`, and `commonpb.KeyDataPair`, which has the id in the same field.
const POSITION: Shape = &[(2, Part::Place)];
/// `datapb.FieldBinlog`.
const LOGS: Shape = &[(2, Part::Inside(&[(4, Part::Path)]))];
/// An entry of a map to `datapb.TextIndexStats` or `JsonKeyStats`.
const STATS: Shape = &[(2, Part::Inside(&[(3, Part::Path)]))];
/// `datapb.SegmentInfo`.
const SEGMENT: Shape = &[
    (9, Part::Inside(POSITION)),
    (10, Part::Inside(POSITION)),
    (11, Part::Inside(LOGS)),
    (12, Part::Inside(LOGS)),
    (13, Part::Inside(LOGS)),
    (26, Part::Inside(STATS)),
    (27, Part::Inside(LOGS)),
    (29, Part::Inside(STATS)),
    (32, Part::Manifest),
];
/// `datapb.ChannelWatchInfo` and its `VchannelInfo`.
const WATCH: Shape = &[(
    1,
    Part::Inside(&[
        (3, Part::Inside(POSITION)),
        (4, Part::Inside(SEGMENT)),
        (5, Part::Inside(SEGMENT)),
        (6, Part::Inside(SEGMENT)),
        (11, Part::Inside(SEGMENT)),
        (14, Part::Inside(POSITION)),
    ]),
)];
/// `etcdpb.CollectionInfo`: where its channels begin.
const COLLECTION: Shape = &[(11, Part::Inside(POSITION))];
/// `indexpb.SegmentIndex`.
const INDEX: Shape = &[(11, Part::Path)];

/// Folders below the root path; a text without one is no key of an object.
const FOLDERS: [&str; 10] = [
    "insert_log",
    "delta_log",
    "stats_log",
    "bm25_stats",
    "index_files",
    "index_v1",
    "text_log",
    "json_key_index_log",
    "json_stats",
    "part_stats",
];

/// What the value of a key looks like, where it may hold what can be changed.
fn shape_of(rest: &str) -> Option<Shape> {
    // Old forms of the same values, each with a time behind its key.
    let rest = rest.strip_prefix("snapshots/").unwrap_or(rest);
    let parts: Vec<&str> = rest.split('/').collect();
    match parts[..] {
        ["datacoord-meta", "s", _, _, _] => Some(SEGMENT),
        ["datacoord-meta", "binlog" | "deltalog" | "statslog" | "bm25log", ..] => Some(LOGS),
        ["datacoord-meta", "channel-cp", _] => Some(POSITION),
        ["segment-index", ..] => Some(INDEX),
        ["channelwatch", ..] => Some(WATCH),
        ["root-coord", "collection", _] | ["root-coord", "database", "collection-info", _, _] => {
            Some(COLLECTION)
        }
        _ => None,
    }
}

/// How values are changed.
pub struct Rewrite<'a> {
    /// The new key of an object, where it has one.
    pub path: &'a dyn Fn(&str) -> Option<String>,
    /// Whether places in the message queue become its begin.
    pub new_queue: bool,
}

/// The key is cut off or no message.
struct Torn;

impl Rewrite<'_> {
    /// The value of a key of a Milvus as it should be; `None` where it stays as it is.
    pub fn value(&self, key: &[u8], value: &[u8]) -> Option<Vec<u8>> {
        let shape = shape_of(key::parse(key)?.rest)?;
        self.message(value, shape).ok().flatten()
    }

    fn message(&self, whole: &[u8], shape: Shape) -> Result<Option<Vec<u8>>, Torn> {
        let mut rest = whole;
        let (mut made, mut changed) = (Vec::with_capacity(whole.len()), false);
        while !rest.is_empty() {
            let begin = rest;
            let tag = varint(&mut rest)?;
            let length = match tag & 7 {
                0 => {
                    varint(&mut rest)?;
                    0
                }
                1 => 8,
                2 => usize::try_from(varint(&mut rest)?).map_err(|_| Torn)?,
                5 => 4,
                _ => return Err(Torn),
            };
            let (content, behind) = rest.split_at_checked(length).ok_or(Torn)?;
            rest = behind;
            let part = shape.iter().find(|(number, _)| tag == number << 3 | 2);
            match part.map(|(_, part)| self.part(content, part)).transpose()?.flatten() {
                None => made.extend_from_slice(&begin[..begin.len() - rest.len()]),
                Some(content) => {
                    encode_varint(tag, &mut made);
                    encode_varint(content.len() as u64, &mut made);
                    made.extend(content);
                    changed = true;
                }
            }
        }
        Ok(changed.then_some(made))
    }

    fn part(&self, content: &[u8], part: &Part) -> Result<Option<Vec<u8>>, Torn> {
        Ok(match part {
            Part::Inside(shape) => self.message(content, shape)?,
            Part::Place => self.new_queue.then(|| queue::begin(content)).flatten(),
            Part::Path => {
                std::str::from_utf8(content).ok().and_then(|key| self.key(key)).map(String::into_bytes)
            }
            Part::Manifest => std::str::from_utf8(content).ok().and_then(|text| self.manifest(text)),
        })
    }

    fn key(&self, key: &str) -> Option<String> {
        let is_key = key.split('/').any(|part| FOLDERS.contains(&part)) && key.contains('/');
        if is_key { (self.path)(key).filter(|new| new != key) } else { None }
    }

    fn manifest(&self, text: &str) -> Option<Vec<u8>> {
        let mut json: serde_json::Value = serde_json::from_str(text).ok()?;
        let base = json.get_mut("base_path")?;
        *base = self.key(base.as_str()?)?.into();
        Some(json.to_string().into_bytes())
    }
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Torn> {
    decode_varint(bytes).map_err(|_| Torn)
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::super::proto::{Binlog, FieldBinlog, MsgPosition, SegmentIndex};
    use super::*;

    fn moved(key: &str) -> Option<String> {
        Some(format!("new/{}", key.strip_prefix("old/")?))
    }

    fn rewrite(new_queue: bool) -> Rewrite<'static> {
        Rewrite { path: &moved, new_queue }
    }

    /// Field 3000, a number; field 3001, a text; field 3002, eight bytes; field 3003, four.
    const MORE: [u8; 28] = [
        0xc0, 0xbb, 0x01, 0x2a, 0xca, 0xbb, 0x01, 0x02, 0x01, 0x02, 0xd1, 0xbb, 0x01, 1, 2, 3, 4, 5, 6, 7, 8,
        0xdd, 0xbb, 0x01, 1, 2, 3, 4,
    ];

    #[test]
    fn paths_get_their_new_beginning_and_all_else_stays() {
        let log = |path: &str| Binlog { entries: 3, path: path.into(), size: 9, id: 7, memory: 1 };
        let logs = |paths: &[&str]| FieldBinlog {
            field: 100,
            binlogs: paths.iter().map(|path| log(path)).collect(),
        };
        let before = [
            logs(&["old/insert_log/1/2/3/100/7", "other/insert_log/1", "old/7", ""]).encode_to_vec(),
            MORE.to_vec(),
        ];
        let after = [
            logs(&["new/insert_log/1/2/3/100/7", "other/insert_log/1", "old/7", ""]).encode_to_vec(),
            MORE.to_vec(),
        ];
        let key = b"by-dev/meta/datacoord-meta/binlog/1/2/3/100";
        assert_eq!(rewrite(false).value(key, &before.concat()), Some(after.concat()));
        assert_eq!(rewrite(false).value(key, &after.concat()), None);
        assert_eq!(rewrite(false).value(b"by-dev/meta/session/x", &before.concat()), None);
        let names =
            SegmentIndex { files: vec!["IVF_FLAT".into()], ..SegmentIndex::default() }.encode_to_vec();
        assert_eq!(rewrite(false).value(b"by-dev/meta/segment-index/1/2/3/4", &names), None);
    }

    #[test]
    fn segments_hold_paths_deeper_inside() {
        let text = [b"\x1a\x13", &b"old/text_log/1/2/3/"[..]].concat();
        let entry = [&[0x08, 0x05, 0x12, text.len() as u8][..], &text].concat();
        let manifest = br#"{"ver":3,"base_path":"old/insert_log/1/2/3"}"#;
        let segment = |entry: &[u8], manifest: &[u8]| {
            [
                &[0x08, 0x03, 0xd2, 0x01, entry.len() as u8][..],
                entry,
                &[0x82, 0x02, manifest.len() as u8],
                manifest,
            ]
            .concat()
        };
        let key = b"by-dev/meta/datacoord-meta/s/1/2/3";
        let found = rewrite(false).value(key, &segment(&entry, manifest)).unwrap();
        let text = String::from_utf8_lossy(&found).into_owned();
        assert!(
            text.contains("new/text_log/1/2/3/") && text.contains(r#""base_path":"new/insert_log/1/2/3""#),
            "{text}"
        );
        assert!(text.contains(r#""ver":3"#) && !text.contains("old/"), "{text}");
    }

    #[test]
    fn places_become_the_begin_of_their_kind_of_queue_only_where_wanted() {
        let position =
            |message: Vec<u8>| MsgPosition { channel: "c".into(), message, timestamp: 5 }.encode_to_vec();
        let key = b"by-dev/meta/datacoord-meta/channel-cp/c";
        let rocksmq = position(vec![8, 10, 0, 0x94, 0x6f, 0x2d, 0x39, 6]);
        assert_eq!(rewrite(false).value(key, &rocksmq), None);
        assert_eq!(rewrite(true).value(key, &rocksmq), Some(position(vec![0; 8])));
        let pulsar = position(vec![8, 90, 16, 7, 24, 0, 32, 0, 48, 0]);
        let begin = MsgPosition::decode(&rewrite(true).value(key, &pulsar).unwrap()[..]).unwrap();
        assert_eq!((begin.timestamp, queue::Queue::of(&begin.message)), (5, queue::Queue::Pulsar));
        assert!(begin.message.starts_with(&[8, 0xff, 0xff]), "{:?}", begin.message);
        assert_eq!(rewrite(true).value(key, &position(vec![])), None, "none is the begin already");
        assert_eq!(rewrite(true).value(key, &position(vec![0xff; 20])), None, "not understood");
    }

    #[test]
    fn what_is_cut_off_stays_as_it_is() {
        let logs = FieldBinlog {
            field: 100,
            binlogs: vec![Binlog { path: "old/insert_log/1/2/3/100/7".into(), ..Binlog::default() }],
        };
        let whole = logs.encode_to_vec();
        for length in 0..whole.len() {
            let key = b"by-dev/meta/datacoord-meta/binlog/1/2/3/100";
            assert!(rewrite(true).value(key, &whole[..length]).is_none(), "{length}");
        }
    }
}
