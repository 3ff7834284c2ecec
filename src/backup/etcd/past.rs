//! Whether this etcd has the past that the parent saw. One that was restored from a backup, or made anew under
//! the same name, has the same cluster id, and may have grown beyond the parent's revision by now.

use std::collections::HashSet;

use super::super::{Error, Result, Run};
use super::Line;
use crate::etcd::{Etcd, Present};
use crate::fault::Kind;
use crate::format::{Content, EtcdCapture, KeyState};
use crate::repository::outcome;
use crate::source;
use crate::tree;

impl Run<'_> {
    /// Compares what the parent saw last with what etcd has at the parent's revision. Where etcd was compacted
    /// beyond it there is nothing to compare, and neither a watch nor the file goes on from the parent's state;
    /// ranges compare every key with it.
    pub(super) fn check_past(&self, etcd: &Etcd, line: &Line) -> Result<()> {
        let Some(parent) = line.parent else { return Ok(()) };
        let Some((key, then)) = self.last_seen(parent)? else { return Ok(()) };
        match etcd.at(&key, parent.revision) {
            Err(error) if error.is_out_of_reach() || error.kind() == Kind::Denied => Ok(()),
            Err(error) => Err(source::Error::from(error).into()),
            Ok(now) if is_same(then.as_ref(), now.as_ref()) => Ok(()),
            Ok(_) => Err(other_past(&key, parent.revision)),
        }
    }

    /// The key that was put last of those alive at the parent's revision, and its state, as far as one leaf of
    /// the history tells: that a key is not there would be true of many pasts. Without events, the anchor's last.
    fn last_seen(&self, parent: &EtcdCapture) -> Result<Option<(Vec<u8>, Option<KeyState>)>> {
        let (mut later, mut gone) = (HashSet::new(), None);
        let events = tree::last_leaf(&self.nodes, parent.history.as_ref())?;
        for tree::Entry { key: at, value } in events.into_iter().rev() {
            let (key, state) = outcome(&self.nodes, &at, &value)?;
            // What `etcdutl snapshot restore --bump-revision` leaves has no key.
            if key.is_empty() || !later.insert(key.clone()) {
                continue;
            }
            if state.is_some() {
                return Ok(Some((key, state)));
            }
            gone.get_or_insert((key, None));
        }
        if gone.is_some() {
            return Ok(gone);
        }
        let last = tree::last_leaf(&self.nodes, parent.anchor.root.as_ref())?.pop();
        let state = |entry: tree::Entry| Ok((entry.key, Some(KeyState::decode(&entry.value)?)));
        last.filter(|entry| !entry.key.is_empty()).map(state).transpose()
    }
}

fn is_same(then: Option<&KeyState>, now: Option<&Present>) -> bool {
    let (Some(then), Some(now)) = (then, now) else { return then.is_none() && now.is_none() };
    let value = match &then.value {
        Content::Inline(bytes) => *bytes == now.value,
        stored => stored.len() == now.value.len() as u64,
    };
    let counted = (then.create_revision, then.mod_revision, then.version);
    value && counted == (now.create_revision, now.mod_revision, now.version)
}

/// A source with another past is another one.
pub(super) fn other_past(key: &[u8], revision: i64) -> Error {
    Error::SourceChanged(format!(
        "key {:?} was another one in the last snapshot, at revision {revision}: was etcd restored from a backup?",
        String::from_utf8_lossy(key)
    ))
}
