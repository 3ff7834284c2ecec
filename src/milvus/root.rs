//! Where in an etcd a Milvus has its root, without reading all keys.

use std::collections::{BTreeSet, VecDeque};

use super::key;
use crate::format::Root;
use crate::repository::{self, EtcdAt, Result};
use crate::tree::{self, Nodes};

/// Components of a root path.
const DEPTH: usize = 3;
/// Keys and directories looked at, the upper ones first.
const MOST: usize = 10_000;

/// Every Milvus makes keys below these when it starts for the first time.
const SIGNS: [&str; 2] = ["root-coord/credential/roles/", "root-coord/database/db-info/"];

/// Whether the key, below `<root>/meta/`, is a sign of a Milvus.
pub(super) fn is_sign(rest: &str) -> bool {
    SIGNS.iter().any(|sign| rest.starts_with(sign))
}

/// Root paths of every Milvus.
pub(super) fn roots(nodes: &dyn Nodes, etcd: EtcdAt) -> Result<BTreeSet<String>> {
    let (base, history) = etcd.base();
    let mut roots = BTreeSet::new();
    if history.is_some() {
        repository::for_each_event(nodes, history, etcd.revision, &[], |key, _| {
            if let Some(key) = key::parse(&key).filter(|key| is_sign(key.rest)) {
                roots.insert(key.root.to_owned());
            }
            Ok::<(), repository::Error>(())
        })?;
    }
    let mut waiting = VecDeque::from([(Vec::new(), 0)]);
    let mut left = MOST;
    while let Some((directory, depth)) = waiting.pop_front() {
        if let Some(root) = root_at(nodes, base, &directory)? {
            roots.insert(root);
        }
        if depth < DEPTH {
            for below in directories(nodes, base, &directory, &mut left)? {
                waiting.push_back((below, depth + 1));
            }
        }
    }
    Ok(roots)
}

/// The first key from `from` on.
fn first(nodes: &dyn Nodes, base: Option<&Root>, from: &[u8]) -> Result<Option<Vec<u8>>> {
    Ok(tree::scan(nodes, base, from)?.next().transpose()?.map(|entry| entry.key))
}

/// The root path, where a Milvus has it in `directory` (which ends with a slash, or is empty).
fn root_at(nodes: &dyn Nodes, base: Option<&Root>, directory: &[u8]) -> Result<Option<String>> {
    for sign in SIGNS {
        let sign = [directory, b"meta/", sign.as_bytes()].concat();
        if first(nodes, base, &sign)?.is_some_and(|key| key.starts_with(&sign)) {
            let root = directory.strip_suffix(b"/").unwrap_or(directory);
            return Ok(String::from_utf8(root.to_vec()).ok());
        }
    }
    Ok(None)
}

/// The directories right below one, as far as `left` goes.
fn directories(
    nodes: &dyn Nodes,
    base: Option<&Root>,
    above: &[u8],
    left: &mut usize,
) -> Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    let mut from = above.to_vec();
    'hop: loop {
        for entry in tree::scan(nodes, base, &from)? {
            let key = entry?.key;
            if *left == 0 || !key.starts_with(above) {
                return Ok(found);
            }
            *left -= 1;
            // A slash at the very beginning ends no component.
            let slash = key.iter().skip(above.len() + 1).position(|byte| *byte == b'/');
            if let Some(at) = slash {
                let name = &key[..above.len() + 1 + at];
                found.push([name, b"/"].concat());
                from = [name, &[b'/' + 1]].concat();
                continue 'hop;
            }
        }
        return Ok(found);
    }
}
