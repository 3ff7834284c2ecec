//! What is to stand where in a directory, and what that takes.

use std::io;
use std::iter::Peekable;

use super::{Error, Listed, Plan, Result, Run, text};
use crate::directory::{Entry, Status, Step, split};
use crate::format::{Attributes, FileKind, Item, ItemState};
use crate::progress::Amount;
use crate::repository::{self, first_name, unlinked};
use crate::sorter::{Sorted, Sorter, Spool, paired};
use crate::target::{DirectoryTarget, Wanted, is_leftover};

/// The longest name that file systems hold.
const MOST_NAME: usize = 255;

/// What is to stand under a path.
enum Goal {
    /// A directory of which the snapshot says nothing, above something that is restored.
    Above,
    Item(Box<Item>),
}

/// What is to be done, spooled: a plan may be larger than memory.
pub(super) struct Steps {
    /// From the last key to the first: a directory after what is in it.
    pub deletes: Sorter,
    /// Directories and files. The value is a byte, whether something is replaced, and the item or nothing.
    pub makes: Sorter,
    pub links: Sorter,
    /// Attributes of directories, from the last key to the first.
    pub dirs: Sorter,
}

/// Why no file can have this path.
fn unholdable(path: &[u8]) -> Option<&'static str> {
    let of_name = |name: &[u8]| match name {
        b"" => Some("an empty name"),
        b"." | b".." => Some("a name that means a directory"),
        name if name.contains(&0) => Some("a zero byte"),
        name if name.len() > MOST_NAME => Some("a name of more than 255 bytes"),
        name if is_leftover(name) => Some("a name that icecore uses itself"),
        _ => None,
    };
    path.split(|byte| *byte == b'/').find_map(of_name)
}

/// Sorts after everything that begins with `key`, and before what `key` sorts after.
fn backwards(key: &[u8]) -> Vec<u8> {
    key.iter().map(|byte| !byte).chain([0xff]).collect()
}

/// The key that [`backwards`] was made of.
pub(super) fn forwards(mut key: Vec<u8>) -> Vec<u8> {
    key.pop();
    key.iter().map(|byte| !byte).collect()
}

impl Run<'_> {
    /// The snapshot's files by their paths in the target, and what is above them.
    fn wanted_files(&mut self) -> Result<Sorted> {
        let scope = self.options.objects_scope();
        let mut sorter = self.repository.spool().sorter();
        let (mut unheld, mut above) = (Listed::default(), Vec::new());
        self.for_each_chosen(|key, value, _| {
            let failed = |e| self.spool_failed(e);
            let mut item = Item::decode(&value)?;
            let is_root = key == b"." && matches!(item.attributes, Attributes::File(_));
            let path = if is_root { key.clone() } else { scope.renamed(&key) };
            if let Some(first) = first_name(&item) {
                // Without its first name it is a file by itself.
                match scope.takes(first) {
                    true => {}
                    false => item = unlinked(&self.nodes, self.moment, item)?,
                }
            }
            if item.state != ItemState::Present {
                return Ok(());
            }
            if let Some(why) = unholdable(&path).filter(|_| !is_root) {
                unheld.add(|| format!("{} ({why})", text(&path)));
                return Ok(());
            }
            let (directory, _) = split(&path);
            let ends = directory.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
            for end in ends.chain((!directory.is_empty()).then_some(directory.len())) {
                let known = above.len() >= end && above[..end] == directory[..end];
                if !known || !matches!(above.get(end), None | Some(b'/')) {
                    sorter.push(&directory[..end], Vec::new()).map_err(failed)?;
                }
            }
            above = directory.to_vec();
            sorter.push(path, item.encode()).map_err(failed)
        })?;
        self.warnings.extend(unheld.warning("keys cannot be paths of files and were not restored"));
        sorter.finish().map_err(|e| self.spool_failed(e))
    }

    /// Finds what is to be done.
    pub(super) fn plan_files(
        &mut self,
        target: &DirectoryTarget,
        plan: &mut Plan,
    ) -> Result<(Steps, Amount)> {
        let sorter = || self.repository.spool().sorter();
        let mut steps = Steps { deletes: sorter(), makes: sorter(), links: sorter(), dirs: sorter() };
        let sorted = self.wanted_files()?;
        let mut below = Listed::default();
        let goals = Goals { sorted: sorted.peekable(), spool: &self.repository.spool(), below: &mut below };
        let beginning = self.options.objects_scope().target_beginning();
        let near = |key: &[u8]| {
            let shared = key.len().min(beginning.len());
            key[..shared] == beginning[..shared]
        };
        let walk = target.walk(near)?;
        let found = walk.into_iter().flatten().filter_map(|step| match step {
            Step::Found(entry) if entry.key == b"." => None,
            // What goes away meanwhile is not there.
            Step::Found(entry) => entry.status.is_ok().then(|| Ok((entry.key.clone(), entry))),
            Step::Closed(key, error) => Some(Err(Error::from(target.fail("list", &key, error)))),
        });
        let mut expected = Amount::default();
        let mut planning = Planning { run: self, target, plan, steps: &mut steps, expected: &mut expected };
        for pair in paired(goals, found) {
            self.repository.context().cancel.check()?;
            let (key, goal, entry) = pair?;
            match (goal, entry) {
                (Some(goal), entry) => planning.wanted(key, goal, entry)?,
                (None, Some(entry)) => planning.extra(entry)?,
                (None, None) => {}
            }
        }
        self.warnings.extend(
            below.warning("keys cannot be files, since others stand below them, and were not restored"),
        );
        Ok((steps, expected))
    }
}

/// What is to stand under each path, once and in order.
struct Goals<'a> {
    sorted: Peekable<Sorted>,
    spool: &'a Spool,
    below: &'a mut Listed,
}

impl Goals<'_> {
    fn group(&mut self) -> Result<Option<(Vec<u8>, Goal)>> {
        let failed = |e| Error::Spool(self.spool.to_string(), e);
        let Some(record) = self.sorted.next() else { return Ok(None) };
        let (key, value) = record.map_err(failed)?;
        let (mut items, mut above) = (Vec::new(), false);
        let mut next = Some(value);
        while let Some(value) = next {
            match value.is_empty() {
                true => above = true,
                false => items.push(Item::decode(&value)?),
            }
            let same = self.sorted.next_if(|record| record.as_ref().map_or(true, |(k, _)| *k == key));
            next = same.transpose().map_err(failed)?.map(|(_, value)| value);
        }
        if items.len() > 1 {
            let what = format!("the maps give two objects the name {}", text(&key));
            return Err(repository::Error::Usage(what).into());
        }
        let goal = match items.pop() {
            None => Goal::Above,
            Some(item) if above && *Wanted::new(&item).kind() != FileKind::Directory => {
                self.below.add(|| text(&key));
                Goal::Above
            }
            Some(item) => Goal::Item(Box::new(item)),
        };
        Ok(Some((key, goal)))
    }
}

impl Iterator for Goals<'_> {
    type Item = Result<(Vec<u8>, Goal)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.group().transpose()
    }
}

/// A plan being made.
struct Planning<'a, 'r> {
    run: &'a Run<'r>,
    target: &'a DirectoryTarget,
    plan: &'a mut Plan,
    steps: &'a mut Steps,
    expected: &'a mut Amount,
}

impl Planning<'_, '_> {
    fn spooled(&self, pushed: io::Result<()>) -> Result<()> {
        pushed.map_err(|e| self.run.spool_failed(e))
    }

    fn wanted(&mut self, key: Vec<u8>, goal: Goal, entry: Option<Entry>) -> Result<()> {
        let status = entry.as_ref().and_then(|entry| entry.status.as_ref().ok().copied());
        let there_is_dir = status.is_some_and(|status| status.is_dir());
        let item = match goal {
            Goal::Above if there_is_dir => return Ok(()),
            Goal::Above => return self.make(key, None, status.is_some()),
            Goal::Item(item) => item,
        };
        let wanted = Wanted::new(&item);
        match wanted.kind() {
            FileKind::Directory => {
                let pushed = self.steps.dirs.push(backwards(&key), item.encode());
                self.spooled(pushed)?;
                if there_is_dir || key == b"." {
                    // Its attributes are set in any case: an interrupted restore left them so.
                    self.plan.counts.identical += 1;
                    return Ok(());
                }
                self.make(key, Some(&item), status.is_some())
            }
            FileKind::HardLink(first) => {
                let first = self.run.options.objects_scope().renamed(first);
                let same = status.is_some_and(|status| is_name_of(self.target, &first, &status));
                let replaces = status.is_some();
                match (same, replaces) {
                    (true, _) => self.plan.counts.identical += 1,
                    (false, true) => {
                        self.plan.counts.overwritten += 1;
                        self.plan.note(&key);
                    }
                    (false, false) => {}
                }
                let record = [&[u8::from(replaces), u8::from(same)][..], &first].concat();
                let pushed = self.steps.links.push(key, record);
                self.spooled(pushed)
            }
            _ => {
                let same = match (&entry, &status) {
                    (Some(entry), Some(status)) => self.target.is_same(entry, status, &wanted),
                    _ => Ok(false),
                };
                if same.map_err(|e| self.target.fail("look at", &key, e))? {
                    self.run.repository.context().progress.advance(Amount { items: 1, bytes: 0 });
                    self.plan.counts.identical += 1;
                    return Ok(());
                }
                (self.expected.items, self.expected.bytes) =
                    (self.expected.items + 1, self.expected.bytes + item.size);
                self.make(key, Some(&item), status.is_some())
            }
        }
    }

    fn make(&mut self, key: Vec<u8>, item: Option<&Item>, replaces: bool) -> Result<()> {
        if replaces {
            self.plan.counts.overwritten += 1;
            self.plan.note(&key);
        }
        let record = [&[u8::from(replaces)][..], &item.map(Item::encode).unwrap_or_default()].concat();
        let pushed = self.steps.makes.push(key, record);
        self.spooled(pushed)
    }

    /// Something that the snapshot does not have.
    fn extra(&mut self, entry: Entry) -> Result<()> {
        let leftover = is_leftover(entry.name());
        if !leftover {
            if !self.run.options.objects_scope().holds(&entry.key) {
                return Ok(());
            }
            self.plan.counts.extra += 1;
            self.plan.note(&entry.key);
        }
        let pushed = self.steps.deletes.push(backwards(&entry.key), vec![u8::from(leftover)]);
        self.spooled(pushed)
    }
}

/// Whether the file at `path` is the one that `status` is of.
fn is_name_of(target: &DirectoryTarget, path: &[u8], status: &Status) -> bool {
    let (above, name) = split(path);
    let there = target.dirs().and_then(|mut dirs| dirs.get(above).ok()?.status(name).ok());
    there.is_some_and(|there| (there.device, there.inode) == (status.device, status.inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_path_can_be_is_told_with_the_reason() {
        for path in ["", "/a", "a//b", "a/", "a/./b", "..", ".", "a\0b"] {
            assert!(unholdable(path.as_bytes()).is_some(), "{path:?}");
        }
        assert!(unholdable(&[b'x'; 256]).is_some() && unholdable(&[b'x'; 255]).is_none());
        assert!(unholdable(b"a/...").is_none() && unholdable(b"\xff\n/ ").is_none());
    }

    #[test]
    fn keys_sort_backwards_with_what_is_below_first() {
        let mut keys = [&b"a"[..], b"a.txt", b"a/b", b"a/b/c", b"b", b"", b"a\xff"];
        keys.sort_by_key(|key| backwards(key));
        assert!(keys.is_sorted_by(|a, b| a >= b), "{keys:?}");
        assert!(keys.iter().all(|key| forwards(backwards(key)) == *key));
    }
}
