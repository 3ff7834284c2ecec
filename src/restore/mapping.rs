//! Which keys are restored, and under which names.

use std::collections::BTreeSet;
use std::str::FromStr;

use crate::selection::Selection;

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

/// What of one side is restored. `prefix` and `selection` narrow each other; `keys` are restored whatever
/// those say, and alone where those say nothing.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub prefix: &'a [u8],
    pub keys: &'a BTreeSet<Vec<u8>>,
    pub selection: &'a Selection,
    pub maps: &'a [Map],
    /// Keys that are restored only by their names.
    pub left_out: &'a BTreeSet<Vec<u8>>,
}

impl Scope<'_> {
    /// Whether more than single keys are restored.
    fn is_range(&self) -> bool {
        self.keys.is_empty() || !self.prefix.is_empty() || !self.selection.is_all()
    }

    /// Whether a key of the snapshot is restored.
    pub fn takes(&self, key: &[u8]) -> bool {
        let in_range = self.is_range() && key.starts_with(self.prefix) && self.selection.takes(key);
        in_range && !self.left_out.contains(key) || self.keys.contains(key)
    }

    /// The key's name in the target: under the map with the longest beginning that fits.
    pub fn renamed(&self, key: &[u8]) -> Vec<u8> {
        let fitting = self.maps.iter().filter(|map| key.starts_with(&map.from));
        match fitting.max_by_key(|map| map.from.len()) {
            Some(map) => [&map.to, &key[map.from.len()..]].concat(),
            None => key.to_vec(),
        }
    }

    /// Whether a key of the target belongs to what is restored: some key, if the snapshot had it, would be
    /// restored under this name. With maps and no choice only what the maps move counts, so that a copy
    /// beside its originals never makes these superfluous.
    pub fn holds(&self, target: &[u8]) -> bool {
        let makes = |key: &[u8]| self.renamed(key) == target && self.takes(key);
        let moved = self.maps.iter().filter_map(|map| {
            let rest = target.strip_prefix(&map.to[..])?;
            Some([&map.from, rest].concat())
        });
        let chosen = !self.prefix.is_empty() || !self.keys.is_empty() || !self.selection.include.is_empty();
        moved.into_iter().any(|key| makes(&key)) || (self.maps.is_empty() || chosen) && makes(target)
    }

    /// What every key that is restored begins with.
    pub fn beginning(&self) -> Vec<u8> {
        let range = self.is_range().then(|| self.prefix.to_vec());
        common(range.into_iter().chain(self.keys.iter().cloned()))
    }

    /// What every key that is written or may be deleted begins with.
    pub fn target_beginning(&self) -> Vec<u8> {
        let mut all: Vec<Vec<u8>> = self.keys.iter().map(|key| self.renamed(key)).collect();
        if self.is_range() {
            all.push(self.renamed(self.prefix));
            // Maps that move only a part of what begins with the prefix.
            let finer = self.maps.iter().filter(|map| map.from.starts_with(self.prefix));
            all.extend(finer.map(|map| map.to.clone()));
        }
        common(all.into_iter())
    }
}

/// The longest beginning that all have.
fn common(mut all: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut shared = all.next().unwrap_or_default();
    for one in all {
        let length = shared.iter().zip(&one).take_while(|(a, b)| a == b).count();
        shared.truncate(length);
    }
    shared
}

/// A beginning that two maps move to different places.
pub(super) fn conflict(maps: &[Map]) -> Option<&Map> {
    maps.iter().find(|map| maps.iter().any(|other| other.from == map.from && other.to != map.to))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a scope borrows.
    #[derive(Default, Debug)]
    struct Choice {
        prefix: Vec<u8>,
        keys: BTreeSet<Vec<u8>>,
        selection: Selection,
        maps: Vec<Map>,
        left_out: BTreeSet<Vec<u8>>,
    }

    impl Choice {
        fn new(prefix: &str, keys: &[&str], include: &[&str], maps: &[&str]) -> Choice {
            let globs = include.iter().map(|glob| (*glob).to_owned()).collect();
            Choice {
                prefix: prefix.into(),
                keys: keys.iter().map(|key| key.as_bytes().to_vec()).collect(),
                selection: Selection::new(globs, vec![]).unwrap(),
                maps: maps.iter().map(|map| map.parse().unwrap()).collect(),
                left_out: BTreeSet::new(),
            }
        }

        fn scope(&self) -> Scope<'_> {
            let Choice { prefix, keys, selection, maps, left_out } = self;
            Scope { prefix, keys, selection, maps, left_out }
        }

        fn holds(&self, key: &str) -> bool {
            self.scope().holds(key.as_bytes())
        }
    }

    #[test]
    fn what_is_left_out_is_restored_only_by_name() {
        let mut all = Choice::new("", &[], &[], &[]);
        all.left_out = [1, 2].map(|n| format!("a/session/{n}").into_bytes()).into();
        assert!(all.scope().takes(b"a/x") && !all.scope().takes(b"a/session/1"));
        assert!(!all.holds("a/session/1"), "one in the target is not superfluous");
        all.keys = [b"a/session/1".to_vec()].into();
        assert!(all.scope().takes(b"a/session/1") && !all.scope().takes(b"a/session/2"));
    }

    #[test]
    fn what_a_map_moves_away_is_left_alone() {
        let copy = Choice::new("a/", &[], &[], &["a/=b/"]);
        assert!(copy.holds("b/x"));
        assert!(!copy.holds("a/x"), "the originals would be deleted");
        let all = Choice::new("", &[], &[], &["a/=b/"]);
        assert!(all.holds("b/x") && !all.holds("c") && !all.holds("a/x"));
        let other = Choice::new("c/", &[], &[], &["a/=b/"]);
        assert!(other.holds("c/x") && !other.holds("b/x"), "nothing is restored below b/");
        assert!(Choice::default().holds("anything"));
        assert!(!Choice::new("a/", &[], &[], &[]).holds("b/x"));
    }

    #[test]
    fn only_what_the_choice_could_have_made_is_held() {
        let part = Choice::new("a/1/", &[], &[], &["a/=b/"]);
        assert!(part.holds("b/1/x") && !part.holds("b/2/x"), "a/2/ is not restored");
        let into_itself = Choice::new("", &[], &[], &["a/=a/old/"]);
        assert!(into_itself.holds("a/old/x") && !into_itself.holds("a/x"));
        let swapped = Choice::new("", &[], &[], &["a/=b/", "b/=a/"]);
        assert!(swapped.holds("a/x") && swapped.holds("b/x") && !swapped.holds("c/x"));
        let longest = Choice::new("", &[], &[], &["a/=x/", "a/b/=y/"]);
        assert!(longest.holds("x/c") && longest.holds("y/c") && !longest.holds("x/b/c"));
        let globs = Choice::new("", &[], &["*.log"], &["a/=b/"]);
        assert!(
            globs.holds("b/x.log") && globs.holds("c.log") && !globs.holds("b/x") && !globs.holds("a/x.log")
        );
        let single = Choice::new("", &["a/x", "c"], &[], &["a/=b/"]);
        assert!(single.holds("b/x") && single.holds("c") && !single.holds("b/y") && !single.holds("a/x"));
    }

    #[test]
    fn the_longest_beginning_wins_and_two_maps_of_one_beginning_are_seen() {
        let choice = Choice::new("", &[], &[], &["a/=x/", "a/b/=y/"]);
        let renamed = |key: &str| choice.scope().renamed(key.as_bytes());
        assert_eq!(renamed("a/b/c"), b"y/c");
        assert_eq!(renamed("a/c"), b"x/c");
        assert_eq!(renamed("c"), b"c");
        assert!("a/".parse::<Map>().is_err());
        assert!(conflict(&choice.maps).is_none());
        assert!(conflict(&Choice::new("", &[], &[], &["a/=x/", "a/=y/"]).maps).is_some());
    }

    #[test]
    fn single_keys_are_taken_beside_a_prefix_or_alone() {
        let alone = Choice::new("", &["k"], &[], &[]);
        assert!(alone.scope().takes(b"k") && !alone.scope().takes(b"other"));
        let beside = Choice::new("a/", &["k"], &[], &[]);
        assert!(beside.scope().takes(b"k") && beside.scope().takes(b"a/x") && !beside.scope().takes(b"b"));
        assert_eq!(alone.scope().beginning(), b"k");
        assert_eq!(Choice::new("", &["ab1", "ab2"], &[], &[]).scope().target_beginning(), b"ab");
        assert_eq!(Choice::new("", &["ab1"], &[], &["a=x"]).scope().target_beginning(), b"xb1");
    }

    fn word() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(proptest::sample::select(vec![b'a', b'b', b'/']), 0..5)
    }

    proptest! {
        /// Whatever is written lies below the beginning that is listed, and is held where it can be extra.
        #[test]
        fn what_is_restored_lies_where_the_target_is_read(
            prefix in word(),
            keys in proptest::collection::btree_set(word(), 0..3),
            maps in proptest::collection::vec((word(), word()), 0..3),
            key in word(),
        ) {
            let maps: Vec<Map> = maps.into_iter().map(|(from, to)| Map { from, to }).collect();
            prop_assume!(conflict(&maps).is_none());
            let choice = Choice { prefix, keys, maps, ..Choice::default() };
            let scope = choice.scope();
            if scope.takes(&key) {
                let target = scope.renamed(&key);
                prop_assert!(key.starts_with(&scope.beginning()));
                prop_assert!(target.starts_with(&scope.target_beginning()));
                let moved = choice.maps.iter().any(|map| key.starts_with(&map.from));
                prop_assert!(scope.holds(&target) || !moved);
            }
            // What could be deleted is read, and a key would have been restored there.
            if scope.holds(&key) {
                prop_assert!(key.starts_with(&scope.target_beginning()));
            }
        }
    }
}
