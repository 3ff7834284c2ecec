//! Everything below a directory, in the order of a tree's keys.
//!
//! A key is the path below the root, `.` for the root itself. Keys are sorted by their bytes, where `a.txt`
//! stands between `a` and `a/b`: so a directory has two places among its neighbours, one for itself, and
//! one, as if its name ended with a slash, for what is below it.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::sync::Arc;

use rustix::fs::{FileType, RawDir, fstat};
use rustix::io::{Errno, pread};

use super::{Dir, Status};

/// Directories that are held open on the way down; others are opened again on the way back.
const HELD: usize = 64;

/// What a cache directory's tag begins with (<https://bford.info/cachedir/>).
const CACHE_TAG: &CStr = c"CACHEDIR.TAG";
const CACHE_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// Tells of a key.
pub type Wish<'a> = Box<dyn Fn(&[u8]) -> bool + 'a>;

/// What is walked over.
pub struct Rules<'a> {
    /// Whether an entry, with everything below it, is looked at.
    pub wanted: Wish<'a>,
    /// Of a directory with a valid `CACHEDIR.TAG` only the tag.
    pub exclude_caches: bool,
    /// Nothing of other file systems but the directories they are mounted on.
    pub one_file_system: bool,
}

/// A name that was found.
pub struct Entry {
    /// Where it stands.
    pub dir: Arc<Dir>,
    /// The key.
    pub key: Vec<u8>,
    name_at: usize,
    /// What it is; an error where it vanished meanwhile.
    pub status: io::Result<Status>,
}

impl Entry {
    /// An entry that was not met on a walk.
    pub fn at(dir: Arc<Dir>, key: Vec<u8>) -> Entry {
        let name_at = key.len() - super::split(&key).1.len();
        let status = dir.status(&key[name_at..]);
        Entry { dir, key, name_at, status }
    }

    /// Its name in its directory.
    pub fn name(&self) -> &[u8] {
        &self.key[self.name_at..]
    }
}

/// One step of a walk.
pub enum Step {
    /// An entry.
    Found(Entry),
    /// The entry with this key, which came before, is a directory that cannot be listed.
    Closed(Vec<u8>, io::Error),
}

/// Names of one directory, sorted.
#[derive(Default)]
struct Names {
    bytes: Vec<u8>,
    /// Where a name begins, its length, and whether what is below it is meant.
    places: Vec<(usize, u16, bool)>,
}

impl Names {
    fn push(&mut self, name: &[u8], is_dir: bool) {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(name);
        self.places.push((begin, name.len() as u16, false));
        if is_dir {
            self.places.push((begin, name.len() as u16, true));
        }
    }

    fn name(&self, (begin, length, _): (usize, u16, bool)) -> &[u8] {
        &self.bytes[begin..begin + usize::from(length)]
    }

    fn sort(&mut self) {
        let mut places = std::mem::take(&mut self.places);
        places.sort_unstable_by(|&a, &b| {
            let (x, y) = (self.name(a), self.name(b));
            let shared = x.len().min(y.len());
            let slash = |below: bool| below.then_some(b'/');
            x[..shared].cmp(&y[..shared]).then_with(|| {
                let rest = |name: &[u8], below| name[shared..].first().copied().or(slash(below));
                // A name has no slash, so at most one more byte decides.
                rest(x, a.2).cmp(&rest(y, b.2))
            })
        });
        self.places = places;
    }
}

struct Frame {
    dir: Option<Arc<Dir>>,
    /// The key's length up to and with the slash.
    prefix: usize,
    names: Names,
    next: usize,
}

/// A walk; holds the names of the directories on the way to where it is.
pub struct Walk<'a> {
    rules: Rules<'a>,
    root: Arc<Dir>,
    device: u64,
    /// The directory that is walked now, with its slash.
    path: Vec<u8>,
    frames: Vec<Frame>,
    buffer: Vec<u8>,
}

impl<'a> Walk<'a> {
    /// Begins at `root`, which was just opened.
    pub fn new(root: Arc<Dir>, rules: Rules<'a>) -> io::Result<Walk<'a>> {
        let device = Status::of(&fstat(&*root)?).device;
        let mut walk = Walk {
            rules,
            root: root.clone(),
            device,
            path: Vec::new(),
            frames: Vec::new(),
            buffer: Vec::with_capacity(32 << 10),
        };
        let mut names = walk.list(&root)?;
        names.push(b".", false);
        names.sort();
        walk.frames.push(Frame { dir: Some(root), prefix: 0, names, next: 0 });
        Ok(walk)
    }

    /// The names of a directory that are wanted; its key is `self.path`.
    fn list(&mut self, dir: &Dir) -> io::Result<Names> {
        let (mut names, mut tagged) = (Names::default(), false);
        let mut key = self.path.clone();
        let spare: &mut [MaybeUninit<u8>] = self.buffer.spare_capacity_mut();
        let mut listing = RawDir::new(dir, spare);
        while let Some(entry) = listing.next() {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            key.truncate(self.path.len());
            key.extend_from_slice(name.to_bytes());
            if !(self.rules.wanted)(&key) {
                continue;
            }
            tagged |= name == CACHE_TAG;
            let is_dir = match entry.file_type() {
                FileType::Directory => true,
                FileType::Unknown => dir.status(name.to_bytes()).is_ok_and(|status| status.is_dir()),
                _ => false,
            };
            names.push(name.to_bytes(), is_dir);
        }
        if tagged && self.rules.exclude_caches && is_cache(dir) {
            names = Names::default();
            names.push(CACHE_TAG.to_bytes(), false);
        }
        Ok(names)
    }

    /// The directory of the top frame, opened again where it was let go.
    fn here(&mut self) -> io::Result<Arc<Dir>> {
        let held = self.frames.iter().rposition(|frame| frame.dir.is_some());
        let Some(frame) = held.map(|at| &self.frames[at]) else { return Ok(self.root.clone()) };
        let Some(nearest) = &frame.dir else { return Ok(self.root.clone()) };
        let rest = &self.path[frame.prefix..];
        if rest.is_empty() {
            return Ok(nearest.clone());
        }
        let dir = Arc::new(nearest.descend(rest)?);
        if let Some(top) = self.frames.last_mut() {
            top.dir = Some(dir.clone());
        }
        Ok(dir)
    }

    /// Into a directory of the top frame.
    fn down(&mut self, name: &[u8]) -> io::Result<()> {
        let dir = self.here()?.enter(name)?;
        if self.rules.one_file_system && Status::of(&fstat(&dir)?).device != self.device {
            return Ok(());
        }
        let before = self.path.len();
        self.path.extend_from_slice(name);
        self.path.push(b'/');
        let listed = self.list(&dir);
        let mut names = match listed {
            Ok(names) => names,
            Err(error) => {
                self.path.truncate(before);
                return Err(error);
            }
        };
        names.sort();
        let mut held = self.frames.iter_mut().filter(|frame| frame.dir.is_some()).skip(HELD / 2);
        // One in the middle: the way back begins at the nearest, and every way at the first ones.
        if let Some(middle) = held.next()
            && held.count() >= HELD / 2
        {
            middle.dir = None;
        }
        let prefix = self.path.len();
        self.frames.push(Frame { dir: Some(Arc::new(dir)), prefix, names, next: 0 });
        Ok(())
    }
}

fn is_cache(dir: &Dir) -> bool {
    let mut begin = [0; CACHE_SIGNATURE.len()];
    let tag = dir.open_file(CACHE_TAG.to_bytes());
    let read = tag.and_then(|tag| Ok(pread(&tag, &mut begin, 0)?));
    read.is_ok_and(|read| begin[..read] == *CACHE_SIGNATURE)
}

/// Whether a directory has become something else, or nothing, since it was seen.
fn is_gone(error: &io::Error) -> bool {
    let gone = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP].map(|errno| errno.raw_os_error());
    error.raw_os_error().is_some_and(|errno| gone.contains(&errno))
}

impl Iterator for Walk<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        loop {
            let frame = self.frames.last_mut()?;
            let Some(&place) = frame.names.places.get(frame.next) else {
                self.frames.pop();
                self.path.truncate(self.frames.last()?.prefix);
                continue;
            };
            frame.next += 1;
            let key = [&self.path[..], frame.names.name(place)].concat();
            let name_at = self.path.len();
            let name = &key[name_at..];
            if place.2 {
                match self.down(name) {
                    Err(error) if !is_gone(&error) => return Some(Step::Closed(key, error)),
                    _ => continue,
                }
            }
            return Some(match self.here() {
                Ok(dir) => {
                    let status = dir.status(name);
                    Step::Found(Entry { dir, key, name_at, status })
                }
                // The directory itself went away, and this with it.
                Err(error) => Step::Found(Entry { dir: self.root.clone(), key, name_at, status: Err(error) }),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn keys(root: &std::path::Path, rules: Rules<'_>) -> Vec<String> {
        let walk = Walk::new(Arc::new(Dir::open(root).unwrap()), rules).unwrap();
        let keys = walk.map(|step| match step {
            Step::Found(entry) => String::from_utf8(entry.key).unwrap(),
            Step::Closed(key, error) => panic!("{key:?}: {error}"),
        });
        keys.collect()
    }

    fn all<'a>() -> Rules<'a> {
        Rules { wanted: Box::new(|_| true), exclude_caches: false, one_file_system: false }
    }

    #[test]
    fn keys_come_in_the_order_of_their_bytes() {
        let tree = tempfile::tempdir().unwrap();
        for dir in ["a", "a.b", "a-", "a/b", "z/y/x", "-d"] {
            fs::create_dir_all(tree.path().join(dir)).unwrap();
        }
        for file in ["a.txt", "a/b/c", "a/b.c", "a.b/c", "a0", "-", "+", "z/y.x", "a-/x", "-d/e", ".hidden"] {
            fs::write(tree.path().join(file), b"").unwrap();
        }
        let found = keys(tree.path(), all());
        let mut sorted = found.clone();
        sorted.sort();
        assert_eq!(found, sorted);
        assert_eq!(found.len(), 20);
        assert!(found.contains(&".".to_owned()));
    }

    #[test]
    fn a_tree_far_deeper_than_descriptors_reach_is_walked_in_order() {
        let tree = tempfile::tempdir().unwrap();
        let depth = 3 * HELD;
        let mut dir = Dir::open(tree.path()).unwrap();
        for _ in 0..depth {
            rustix::fs::mkdirat(&dir, "d", 0o755.into()).unwrap();
            // Sorts after `d/`, so that every directory is gone back to.
            rustix::fs::mkdirat(&dir, "e", 0o755.into()).unwrap();
            dir = dir.enter(b"d").unwrap();
        }
        let found = keys(tree.path(), all());
        assert_eq!(found.len(), 2 * depth + 1);
        assert!(found.is_sorted());
    }

    #[test]
    fn of_a_cache_only_the_tag_is_left_and_only_where_it_is_one() {
        let tree = tempfile::tempdir().unwrap();
        for dir in ["cache", "not"] {
            fs::create_dir(tree.path().join(dir)).unwrap();
            fs::write(tree.path().join(dir).join("x"), b"").unwrap();
        }
        fs::write(tree.path().join("cache/CACHEDIR.TAG"), CACHE_SIGNATURE).unwrap();
        fs::write(tree.path().join("not/CACHEDIR.TAG"), &CACHE_SIGNATURE[..42]).unwrap();
        let found = keys(tree.path(), Rules { exclude_caches: true, ..all() });
        assert_eq!(found, [".", "cache", "cache/CACHEDIR.TAG", "not", "not/CACHEDIR.TAG", "not/x"]);
        assert_eq!(keys(tree.path(), all()).len(), 7);
    }

    #[test]
    fn what_is_not_wanted_is_not_gone_into() {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir_all(tree.path().join("a/b")).unwrap();
        fs::create_dir_all(tree.path().join("c/d")).unwrap();
        let wanted = |key: &[u8]| {
            assert!(!key.starts_with(b"a/"), "nothing below it is looked at");
            key != b"a"
        };
        let rules = Rules { wanted: Box::new(wanted), ..all() };
        assert_eq!(keys(tree.path(), rules), [".", "c", "c/d"]);
    }
}
