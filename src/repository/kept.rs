//! Claims that this machine has read, in one file: a command need not open a thousand. They are kept sealed as
//! they are in the repository, each bound to its name, so that nothing here is believed.
//!
//! ```text
//! u8 length of the session's id | id as text | u32 length of the claim | claim
//! ```

use std::collections::{HashMap, HashSet};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::id::SessionId;

const FILE: &str = "claims";
/// The file is made anew once so much more of it is useless than of use.
const USELESS: usize = 256 << 10;

/// What was read of the file. A failure to write costs requests next time.
pub(super) struct Kept {
    path: PathBuf,
    bytes: Vec<u8>,
    there: HashMap<SessionId, Range<usize>>,
    /// Ends in half a record, or in what is none.
    torn: bool,
}

/// The next record from `at` on: its session, where its claim lies, and where it ends.
fn next(bytes: &[u8], at: usize) -> Option<(SessionId, Range<usize>)> {
    let id_at = at + 1;
    let id_end = id_at + usize::from(*bytes.get(at)?);
    let sid = std::str::from_utf8(bytes.get(id_at..id_end)?).ok()?.parse().ok()?;
    let length = bytes.get(id_end..)?.first_chunk().map(|length| u32::from_le_bytes(*length))?;
    let claim = id_end + 4..(id_end + 4).checked_add(length as usize)?;
    bytes.get(claim.clone())?;
    Some((sid, claim))
}

fn append(to: &mut Vec<u8>, sid: SessionId, claim: &[u8]) {
    let sid = sid.to_string();
    to.push(sid.len() as u8);
    to.extend_from_slice(sid.as_bytes());
    to.extend_from_slice(&(claim.len() as u32).to_le_bytes());
    to.extend_from_slice(claim);
}

impl Kept {
    /// Reads what the cache in this directory has.
    pub fn read(cache: &Path) -> Kept {
        let path = cache.join(FILE);
        let bytes = fs::read(&path).unwrap_or_default();
        let (mut there, mut at) = (HashMap::new(), 0);
        while let Some((sid, claim)) = next(&bytes, at) {
            at = claim.end;
            there.insert(sid, claim);
        }
        Kept { path, torn: at < bytes.len(), bytes, there }
    }

    /// The sealed claim, if it is here.
    pub fn get(&self, sid: &SessionId) -> Option<&[u8]> {
        self.bytes.get(self.there.get(sid)?.clone())
    }

    /// Keeps new claims, and those of `wanted` that are here.
    pub fn keep(self, new: &[(SessionId, Bytes)], wanted: &[SessionId]) {
        let mut added = Vec::new();
        new.iter().for_each(|(sid, claim)| append(&mut added, *sid, claim));
        let wanted: HashSet<&SessionId> = wanted.iter().collect();
        let used = self.there.iter().filter(|(sid, _)| wanted.contains(sid));
        let of_use: usize = used.clone().map(|(_, claim)| claim.len()).sum();
        let made_anew = self.torn || self.bytes.len() > 2 * of_use + USELESS;
        let _ = match made_anew {
            true => {
                let mut whole = Vec::with_capacity(of_use + added.len());
                used.for_each(|(sid, claim)| append(&mut whole, *sid, &self.bytes[claim.clone()]));
                whole.extend_from_slice(&added);
                self.replace(&whole)
            }
            false if added.is_empty() => Ok(()),
            false => self.extend(&added),
        };
    }

    fn replace(&self, whole: &[u8]) -> io::Result<()> {
        let temporary = self.path.with_extension(std::process::id().to_string());
        let written = fs::write(&temporary, whole).and_then(|()| fs::rename(&temporary, &self.path));
        written.inspect_err(|_| drop(fs::remove_file(&temporary)))
    }

    /// In one write, so that what several commands add does not mix.
    fn extend(&self, added: &[u8]) -> io::Result<()> {
        self.path.parent().map(fs::create_dir_all).transpose()?;
        OpenOptions::new().append(true).create(true).open(&self.path)?.write_all(added)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Seeded;

    #[test]
    fn what_was_kept_is_there_and_what_is_useless_goes() {
        let directory = tempfile::tempdir().unwrap();
        let random = Seeded::new(1);
        let sids: Vec<SessionId> = (0..40).map(|label| SessionId::draw(&random, label)).collect();
        let claim = |n: usize| Bytes::from(vec![n as u8; 20_000]);
        for (n, sid) in sids.iter().enumerate() {
            Kept::read(directory.path()).keep(&[(*sid, claim(n))], &sids[n.saturating_sub(3)..]);
        }
        let size = || fs::metadata(directory.path().join(FILE)).unwrap().len();
        assert!(size() < 500_000, "{}", size());
        let kept = Kept::read(directory.path());
        assert_eq!(kept.get(&sids[0]), None);
        assert!((36..40).all(|n| kept.get(&sids[n]) == Some(&claim(n))));
    }

    #[test]
    fn a_file_that_is_torn_is_read_up_to_there_and_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let random = Seeded::new(1);
        let sids = [0, 1, 2].map(|label| SessionId::draw(&random, label));
        let claims = sids.map(|sid| (sid, Bytes::from_static(b"sealed")));
        Kept::read(directory.path()).keep(&claims[..2], &sids);
        let file = directory.path().join(FILE);
        let whole = fs::read(&file).unwrap();
        for end in 0..whole.len() {
            fs::write(&file, &whole[..end]).unwrap();
            let kept = Kept::read(directory.path());
            assert_eq!(kept.get(&sids[0]).is_some(), end >= whole.len() / 2, "{end}");
            assert_eq!(kept.get(&sids[1]), None);
            kept.keep(&claims[1..], &sids);
            let kept = Kept::read(directory.path());
            assert!(sids[1..].iter().all(|sid| kept.get(sid) == Some(b"sealed")), "{end}");
        }
    }
}
