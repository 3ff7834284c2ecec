//! Where things stand in etcd: `<root>/meta/<part>/…`.

/// What Milvus puts first below `<root>/meta/`, in the versions known.
const PARTS: [&str; 17] = [
    "channelwatch",
    "datacoord-meta",
    "field-index",
    "queryCoord-Collection-Target",
    "queryCoord-ResourceGroup",
    "querycoord-collection-loadinfo",
    "querycoord-partition-loadinfo",
    "querycoord-replica",
    "replicating-meta",
    "root-coord",
    "segment-index",
    "session",
    "session-id",
    "snapshots",
    "streamingcoord-meta",
    "streamingnode-meta",
    "wal-meta",
];

/// A key below `<root>/meta/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key<'a> {
    /// The root path.
    pub root: &'a str,
    /// What comes after `<root>/meta/`.
    pub rest: &'a str,
    /// Whether the first part of it is one of ours.
    pub known: bool,
}

/// The key's root and the rest. The first `meta` with a known part behind it counts, else the first.
pub(super) fn parse(key: &[u8]) -> Option<Key<'_>> {
    let text = std::str::from_utf8(key).ok()?;
    let at_begin = text.strip_prefix("meta/").map(|rest| Key { root: "", rest, known: is_known(rest) });
    let inside = text.match_indices("/meta/").map(|(at, meta)| {
        let rest = &text[at + meta.len()..];
        Key { root: &text[..at], rest, known: is_known(rest) }
    });
    let all: Vec<Key> = at_begin.into_iter().chain(inside).collect();
    all.iter().find(|key| key.known).or(all.first()).copied()
}

fn is_known(rest: &str) -> bool {
    let part = rest.split('/').next().unwrap_or_default();
    PARTS.contains(&part)
}

/// A key of the Milvus at `root`.
pub(super) fn of(root: &str, rest: &str) -> Vec<u8> {
    if root.is_empty() { rest.into() } else { format!("{root}/{rest}").into() }
}

/// What the keys begin with that say what the Milvus at `root` holds.
pub fn metadata_prefix(root: &str) -> Vec<u8> {
    of(root, "meta/")
}

/// What the keys begin with that belong to the running servers of the Milvus at `root`, and mean nothing to
/// the next ones.
pub fn session_prefix(root: &str) -> Vec<u8> {
    of(root, "meta/session/")
}

/// What the keys begin with in which the Milvus at `root` remembers which ids and timestamps it has given
/// away: numbers of eight bytes, the greatest byte first, that only grow.
pub fn counters_prefix(root: &str) -> Vec<u8> {
    of(root, "kv/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_what_stands_before_meta_and_a_known_part() {
        let key = |root, rest, known| Some(Key { root, rest, known });
        assert_eq!(parse(b"by-dev/meta/root-coord/x"), key("by-dev", "root-coord/x", true));
        assert_eq!(parse(b"a/meta/b/meta/session/id"), key("a/meta/b", "session/id", true));
        assert_eq!(parse(b"meta/field-index/1"), key("", "field-index/1", true));
        assert_eq!(parse(b"by-dev/meta/new-thing/1"), key("by-dev", "new-thing/1", false));
        assert_eq!(parse(b"by-dev/kv/gid/timestamp"), None);
        assert_eq!(parse(b"by-dev/meta/root-coord/\xff"), None);
    }

    #[test]
    fn session_keys_stand_below_the_root() {
        assert_eq!(session_prefix("a/b"), b"a/b/meta/session/");
        assert_eq!(session_prefix(""), b"meta/session/");
    }
}
