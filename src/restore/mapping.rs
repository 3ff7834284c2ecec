//! New beginnings for keys.

use std::str::FromStr;

/// Keys that begin with `from` begin with `to` instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    /// The old beginning.
    pub from: Vec<u8>,
    /// The new one.
    pub to: Vec<u8>,
}

/// A map that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no map: write FROM=TO")]
pub struct BadMap(String);

impl FromStr for Map {
    type Err = BadMap;

    fn from_str(text: &str) -> Result<Map, BadMap> {
        let (from, to) = text.split_once('=').ok_or_else(|| BadMap(text.into()))?;
        Ok(Map { from: from.into(), to: to.into() })
    }
}

/// `key` under the map with the longest beginning that fits.
pub(super) fn apply(maps: &[Map], key: &[u8]) -> Vec<u8> {
    let fitting = maps.iter().filter(|map| key.starts_with(&map.from));
    match fitting.max_by_key(|map| map.from.len()) {
        Some(map) => [&map.to, &key[map.from.len()..]].concat(),
        None => key.to_vec(),
    }
}

/// Whether a key of the target belongs to what is restored: below a map's target, or below `prefix` and
/// not below what a map moves away from there. With maps and no prefix only the maps' targets count.
pub(super) fn in_scope(maps: &[Map], prefix: &[u8], key: &[u8]) -> bool {
    let below = key.starts_with(prefix);
    if maps.is_empty() {
        return below;
    }
    if maps.iter().any(|map| key.starts_with(&map.to)) {
        return true;
    }
    below && !prefix.is_empty() && !maps.iter().any(|map| key.starts_with(&map.from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_map_moves_away_is_left_alone() {
        let maps: Vec<Map> = vec!["a/=b/".parse().unwrap()];
        assert!(in_scope(&maps, b"a/", b"b/x"));
        assert!(!in_scope(&maps, b"a/", b"a/x"), "the originals would be deleted");
        assert!(!in_scope(&maps, b"", b"c"));
        assert!(in_scope(&maps, b"c/", b"c/x"));
        assert!(in_scope(&[], b"", b"anything"));
        assert!(!in_scope(&[], b"a/", b"b/x"));
    }

    #[test]
    fn the_longest_beginning_wins() {
        let maps: Vec<Map> = ["a/=x/", "a/b/=y/"].iter().map(|m| m.parse().unwrap()).collect();
        assert_eq!(apply(&maps, b"a/b/c"), b"y/c");
        assert_eq!(apply(&maps, b"a/c"), b"x/c");
        assert_eq!(apply(&maps, b"c"), b"c");
        assert!("a/".parse::<Map>().is_err());
    }
}
