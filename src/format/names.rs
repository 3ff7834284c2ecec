//! The names of a repository's files.

use crate::id::{ChunkKind, PackId, SessionId};

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name<'a> {
    /// Format version, repository id, parameters.
    Config,
    /// The secrets under one passphrase.
    Key(&'a str),
    /// Many sealed chunks of one kind.
    Pack(ChunkKind, PackId),
    /// The `k`th segment of a session.
    Segment(SessionId, u32),
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
            Name::Segment(sid, k) => write!(f, "index/{sid}-{k}"),
            Name::Session(sid) => write!(f, "sessions/{sid}"),
            Name::Claim(sid) => write!(f, "snapshots/{sid}"),
            Name::Forgotten(sid) => write!(f, "forgotten/{sid}"),
            Name::Condemned(n) => write!(f, "collections/{n}.condemned"),
            Name::Verdict(n) => write!(f, "collections/{n}.verdict"),
        }
    }
}

/// Of a name below `index/`: the session that wrote it and its number, `None` for a segment that
/// a collection wrote (`m<n>-<random>`) and for names that are not ours.
pub fn segment_of(name: &str) -> Option<(SessionId, u32)> {
    let (sid, k) = name.rsplit_once('-')?;
    Some((sid.parse().ok()?, k.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Seeded;

    #[test]
    fn a_segment_name_gives_its_session_back() {
        let sid = SessionId::draw(&Seeded::new(1), 12);
        let name = Name::Segment(sid, 3).to_string();
        assert_eq!(segment_of(name.strip_prefix("index/").unwrap()), Some((sid, 3)));
        assert_eq!(segment_of("m4-00ff"), None);
    }
}
