//! Which items are taken: `--include` and `--exclude`.
//!
//! A glob is matched against the whole key: `*` and `?` stay within one component, `**` crosses them,
//! `[ab]` and `{a,b}` choose. One without a slash fits the last component at any depth (`*.log`); one
//! that begins with a slash is the same as without it, but only at the top (`/tmp`). What fits a glob
//! is meant with everything below it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// A glob that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{glob:?} is no glob: {why}")]
pub struct BadGlob {
    /// As it was given.
    pub glob: String,
    /// What is wrong with it.
    pub why: String,
}

/// Which items are taken.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Only what one of these fits; everything where there is none.
    pub include: Vec<String>,
    /// Nothing that one of these fits.
    pub exclude: Vec<String>,
    included: GlobSet,
    excluded: GlobSet,
}

impl Selection {
    /// From globs as the user wrote them.
    pub fn new(include: Vec<String>, exclude: Vec<String>) -> Result<Selection, BadGlob> {
        let (included, excluded) = (set_of(&include)?, set_of(&exclude)?);
        Ok(Selection { include, exclude, included, excluded })
    }

    /// Whether everything is taken.
    pub fn is_all(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    /// Whether the item of this key is taken.
    pub fn takes(&self, key: &[u8]) -> bool {
        (self.include.is_empty() || fits(&self.included, key)) && self.may_hold(key)
    }

    /// Whether anything below the directory of this key may be taken.
    pub fn may_hold(&self, key: &[u8]) -> bool {
        self.exclude.is_empty() || !fits(&self.excluded, key)
    }
}

/// Whether a glob fits the key or a directory above it.
fn fits(set: &GlobSet, key: &[u8]) -> bool {
    let slashes = key.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    slashes.chain([key.len()]).any(|end| set.is_match(OsStr::from_bytes(&key[..end])))
}

fn set_of(globs: &[String]) -> Result<GlobSet, BadGlob> {
    let mut set = GlobSetBuilder::new();
    for text in globs {
        let bad = |why: String| BadGlob { glob: text.clone(), why };
        let inner = text.trim_end_matches('/');
        let glob = match inner.strip_prefix('/') {
            Some(anchored) => anchored.to_owned(),
            None if inner.contains('/') => inner.to_owned(),
            None => format!("**/{inner}"),
        };
        if glob.is_empty() || inner.is_empty() {
            return Err(bad("it is empty".into()));
        }
        let glob = GlobBuilder::new(&glob).literal_separator(true).backslash_escape(true).build();
        set.add(glob.map_err(|e| bad(e.kind().to_string()))?);
    }
    set.build().map_err(|e| BadGlob { glob: globs.join(" "), why: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(include: &[&str], exclude: &[&str]) -> Selection {
        let owned = |globs: &[&str]| globs.iter().map(|glob| (*glob).to_owned()).collect();
        Selection::new(owned(include), owned(exclude)).unwrap()
    }

    #[test]
    fn nothing_said_takes_everything() {
        let all = selection(&[], &[]);
        assert!(all.is_all() && all.takes(b"a/b") && all.takes(b"\xff") && all.takes(b""));
    }

    #[test]
    fn a_glob_without_slash_fits_at_any_depth_and_one_with_slash_from_the_top() {
        let logs = selection(&["*.log"], &[]);
        assert!(logs.takes(b"x.log") && logs.takes(b"a/b/x.log") && !logs.takes(b"x.txt"));
        let top = selection(&["/tmp"], &[]);
        assert!(top.takes(b"tmp/x") && !top.takes(b"a/tmp/x"));
        let path = selection(&["a/*/c"], &[]);
        assert!(path.takes(b"a/b/c") && !path.takes(b"a/b/b/c") && !path.takes(b"x/a/b/c"));
        assert!(selection(&["a/**/c"], &[]).takes(b"a/b/b/c"));
    }

    #[test]
    fn what_fits_is_meant_with_everything_below_and_exclude_wins() {
        let some = selection(&["data/"], &["*.tmp", "data/cache"]);
        assert!(some.takes(b"data") && some.takes(b"data/a/b"));
        assert!(!some.takes(b"data/a.tmp") && !some.takes(b"data/cache/x") && !some.may_hold(b"data/cache"));
        assert!(!some.takes(b"other"));
    }

    #[test]
    fn names_that_are_no_utf8_are_matched_by_their_bytes() {
        assert!(!selection(&[], &["*.log"]).takes(b"\xff\xfe.log"));
        assert!(selection(&["?"], &[]).takes(b"\xff"));
    }

    #[test]
    fn what_is_no_glob_is_refused_by_name() {
        for glob in ["[", "{a", "", "/"] {
            let error = Selection::new(vec![glob.into()], vec![]).unwrap_err();
            assert_eq!(error.glob, glob, "{error}");
        }
    }
}
