//! The names of a repository's files.

use std::str::FromStr;

use data_encoding::HEXLOWER;

use crate::context::Random;
use crate::id::{ChunkKind, PackId, SessionId, draw};

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name<'a> {
    /// Format version, repository id, parameters.
    Config,
    /// The secrets under one passphrase.
    Key(&'a str),
    /// Many sealed chunks of one kind.
    Pack(ChunkKind, PackId),
    /// A segment.
    Segment(SegmentName),
    /// A session's beginning.
    Session(SessionId),
    /// A session's end.
    Claim(SessionId),
    /// A tombstone.
    Forgotten(SessionId),
    /// A collection's proposal.
    Condemned(u64),
    /// A collection's verdict.
    Verdict(u64),
}

impl std::fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Name::Config => f.write_str("config"),
            Name::Key(id) => write!(f, "keys/{id}"),
            Name::Pack(kind, id) => write!(f, "packs/{}/{:02x}/{id}", kind.folder(), id.0[0]),
            Name::Segment(name) => write!(f, "index/{name}"),
            Name::Session(sid) => write!(f, "sessions/{sid}"),
            Name::Claim(sid) => write!(f, "snapshots/{sid}"),
            Name::Forgotten(sid) => write!(f, "forgotten/{sid}"),
            Name::Condemned(n) => write!(f, "collections/{n}.condemned"),
            Name::Verdict(n) => write!(f, "collections/{n}.verdict"),
        }
    }
}

/// A segment's name below `index/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SegmentName {
    /// `<sid>-<k>`: the `k`th of a session.
    Session(SessionId, u32),
    /// `m<n>-<random>`: made by collection `n`.
    Merged(u64, [u8; 8]),
}

impl SegmentName {
    /// A new segment of collection `number`.
    pub fn merged(number: u64, random: &dyn Random) -> SegmentName {
        SegmentName::Merged(number, draw(random))
    }
}

impl std::fmt::Display for SegmentName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SegmentName::Session(sid, k) => write!(f, "{sid}-{k}"),
            SegmentName::Merged(number, random) => write!(f, "m{number}-{}", HEXLOWER.encode(random)),
        }
    }
}

/// A name that is not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a segment")]
pub struct NotASegment;

impl FromStr for SegmentName {
    type Err = NotASegment;

    fn from_str(text: &str) -> Result<SegmentName, NotASegment> {
        let parse = || {
            let (begin, end) = text.rsplit_once('-')?;
            let name = match begin.strip_prefix('m') {
                Some(number) => {
                    let random = HEXLOWER.decode(end.as_bytes()).ok()?.try_into().ok()?;
                    SegmentName::Merged(number.parse().ok()?, random)
                }
                None => SegmentName::Session(begin.parse().ok()?, end.parse().ok()?),
            };
            // One spelling only.
            (name.to_string() == text).then_some(name)
        };
        parse().ok_or(NotASegment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Seeded;

    #[test]
    fn a_segment_name_reads_back_from_its_text() {
        let random = Seeded::new(1);
        let sid = SessionId::draw(&random, 12);
        for name in [SegmentName::Session(sid, 3), SegmentName::merged(4, &random)] {
            let text = Name::Segment(name).to_string();
            assert_eq!(text.strip_prefix("index/").unwrap().parse(), Ok(name));
        }
        for other in ["m4-00ff", "m04-0011223344556677", "m-0011223344556677", &format!("{sid}-03"), "x"] {
            assert!(other.parse::<SegmentName>().is_err(), "{other}");
        }
    }
}
