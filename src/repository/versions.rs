//! The versions of objects, key by key.

use super::{Error, Moment, Result};
use crate::format::{Item, ObjectCapture, Root, parse_version_key, version_key};
use crate::tree::{self, Nodes};

/// A key with its versions from the oldest to the newest, each with the key of its entry.
pub type VersionsOf = (Vec<u8>, Vec<(Vec<u8>, Item)>);

/// The keys that begin with `prefix`, in order, with their versions. Those of one key are held together.
pub fn versions<'a>(
    nodes: &'a dyn Nodes,
    root: Option<&Root>,
    prefix: &[u8],
) -> Result<impl Iterator<Item = Result<VersionsOf>> + 'a> {
    let mut beginning = version_key(prefix, 0, 0);
    // Without the end of the key, the time and the place.
    beginning.truncate(beginning.len() - 12);
    let mut entries = tree::scan(nodes, root, &beginning)?
        .take_while(move |entry| entry.as_ref().map_or(true, |e| e.key.starts_with(&beginning)))
        .map(|entry| {
            let tree::Entry { key: entry, value } = entry?;
            Ok((parse_version_key(&entry)?, (entry, Item::decode(&value)?)))
        })
        .peekable();
    Ok(std::iter::from_fn(move || {
        let (key, first) = match entries.next()? {
            Ok(first) => first,
            Err(error) => return Some(Err(error)),
        };
        let mut all = vec![first];
        // An error is told in its turn.
        while let Some(Ok((_, next))) = entries.next_if(|next| next.as_ref().is_ok_and(|(k, _)| *k == key)) {
            all.push(next);
        }
        Some(Ok((key, all)))
    }))
}

impl Moment {
    /// The bucket, where all its versions were captured. They are of a snapshot, not of a revision between
    /// two.
    pub fn with_versions(&self) -> Result<&ObjectCapture> {
        let id = self.info.id;
        let capture = self.info.snapshot.objects.as_ref().filter(|capture| capture.with_versions);
        match (capture, &self.earlier) {
            (Some(capture), None) => Ok(capture),
            (Some(_), Some(_)) => {
                Err(Error::Usage(format!("versions are those of a snapshot: name one, as {id}")))
            }
            (None, _) => {
                Err(Error::Usage(format!("snapshot {id} has no versions: they are captured by --versions")))
            }
        }
    }
}
