//! What differs between two snapshots.

use super::{Browser, Error, Result, Side, lacks};
use crate::context::Nanos;
use crate::format::{Attributes, Item, KeyState};
use crate::repository::{SnapshotInfo, state};
use crate::tree;

/// A key or object that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiffLine {
    /// The side it is on.
    pub side: Side,
    /// The key.
    pub key: Vec<u8>,
    /// As it was; `None` where it was added.
    pub before: Option<Summary>,
    /// As it is; `None` where it was removed.
    pub after: Option<Summary>,
}

/// One version of a key or object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of the value or body.
    pub size: u64,
    /// The revision of a key's value.
    pub mod_revision: Option<i64>,
    /// An object's ETag.
    pub etag: Option<String>,
    /// When an object or file was last modified.
    pub modified: Option<Nanos>,
}

fn of_key(state: &KeyState) -> Summary {
    Summary { size: state.value.len(), mod_revision: Some(state.mod_revision), etag: None, modified: None }
}

fn of_object(value: &[u8]) -> Result<Summary> {
    let item = Item::decode(value)?;
    let etag = match item.attributes {
        Attributes::Object(attributes) => Some(attributes.etag),
        Attributes::File(_) => None,
    };
    Ok(Summary { size: item.size, mod_revision: None, etag, modified: Some(item.modified) })
}

/// Shows every key and object that differs and begins with `prefix`, in order.
pub fn diff(
    browser: &Browser,
    (before, after): (&SnapshotInfo, &SnapshotInfo),
    side: Side,
    prefix: &[u8],
    show: &mut dyn FnMut(DiffLine) -> Result<()>,
) -> Result<()> {
    match side {
        Side::Etcd => keys(browser, before, after, prefix, show),
        Side::Objects => objects(browser, before, after, prefix, show),
    }
}

fn keys(
    browser: &Browser,
    before: &SnapshotInfo,
    after: &SnapshotInfo,
    prefix: &[u8],
    show: &mut dyn FnMut(DiffLine) -> Result<()>,
) -> Result<()> {
    let capture = |info: &SnapshotInfo| info.snapshot.etcd.clone().ok_or_else(|| lacks(info, Side::Etcd));
    let (capture_a, capture_b) = (capture(before)?, capture(after)?);
    let (nodes_a, nodes_b) = (browser.nodes(), browser.nodes());
    let spool = browser.repository.spool();
    let mut a = state(&nodes_a, &capture_a, &spool)?.peekable();
    let mut b = state(&nodes_b, &capture_b, &spool)?.peekable();
    loop {
        browser.repository.context().cancel.check()?;
        let order = match (a.peek(), b.peek()) {
            (None, None) => return Ok(()),
            (Some(Ok((x, _))), Some(Ok((y, _)))) => x.cmp(y),
            (Some(_), None) | (Some(Err(_)), _) => std::cmp::Ordering::Less,
            (None, Some(_)) | (_, Some(Err(_))) => std::cmp::Ordering::Greater,
        };
        let x = if order.is_le() { a.next().transpose()? } else { None };
        let y = if order.is_ge() { b.next().transpose()? } else { None };
        let same = matches!((&x, &y), (Some((_, x)), Some((_, y))) if x.mod_revision == y.mod_revision && x.value == y.value);
        let Some(key) = x.as_ref().or(y.as_ref()).map(|(key, _)| key.clone()) else { return Ok(()) };
        if !same && key.starts_with(prefix) {
            let (before, after) = (x.map(|(_, x)| of_key(&x)), y.map(|(_, y)| of_key(&y)));
            show(DiffLine { side: Side::Etcd, key, before, after })?;
        }
    }
}

fn objects(
    browser: &Browser,
    before: &SnapshotInfo,
    after: &SnapshotInfo,
    prefix: &[u8],
    show: &mut dyn FnMut(DiffLine) -> Result<()>,
) -> Result<()> {
    let root = |info: &SnapshotInfo| match &info.snapshot.objects {
        Some(objects) => Ok(objects.root),
        None => Err(lacks(info, Side::Objects)),
    };
    let (root_a, root_b) = (root(before)?, root(after)?);
    let nodes = browser.nodes();
    tree::diff(&nodes, root_a.as_ref(), root_b.as_ref(), |change| {
        browser.repository.context().cancel.check()?;
        if !change.key.starts_with(prefix) {
            return Ok(());
        }
        let (before, after) =
            (change.before.as_deref().map(of_object), change.after.as_deref().map(of_object));
        let (before, after) = (before.transpose()?, after.transpose()?);
        show(DiffLine { side: Side::Objects, key: change.key, before, after })?;
        Ok::<(), Error>(())
    })
}
