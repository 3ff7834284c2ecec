//! The objects of a snapshot, among which those of a Milvus are looked for.

use crate::format::Root;
use crate::repository::{self, Error, Moment, Result};
use crate::tree::{self, Nodes};

/// The folders below the root path in a bucket.
const FOLDERS: [&str; 7] =
    ["insert_log", "delta_log", "stats_log", "bm25_stats", "index_files", "index_v1", "wp"];

/// Objects to look among.
#[derive(Clone, Copy)]
pub enum Objects<'a> {
    /// Those of a moment.
    At(&'a Moment),
    /// Those of a tree.
    Tree(Option<&'a Root>),
}

/// Keys and encoded items, in order.
pub(super) type Entries<'a> = Box<dyn Iterator<Item = Result<(Vec<u8>, Vec<u8>)>> + 'a>;

impl<'a> Objects<'a> {
    fn trees(self) -> Vec<Option<&'a Root>> {
        let Objects::At(moment) = self else {
            let Objects::Tree(root) = self else { return Vec::new() };
            return vec![root];
        };
        let infos = [Some(&moment.info), moment.earlier.as_ref()];
        let captures = infos.into_iter().flatten().filter_map(|info| info.snapshot.objects.as_ref());
        captures.map(|objects| objects.root.as_ref()).collect()
    }

    pub(super) fn get(self, nodes: &dyn Nodes, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(match self {
            Objects::At(moment) => repository::object(nodes, moment, key)?.map(|(value, _)| value),
            Objects::Tree(root) => tree::get(nodes, root, key)?,
        })
    }

    pub(super) fn below<'n>(self, nodes: &'n dyn Nodes, prefix: &[u8]) -> Result<Entries<'n>> {
        Ok(match self {
            Objects::At(moment) => {
                let all = repository::objects(nodes, moment, prefix)?;
                Box::new(all.map(|entry| entry.map(|(key, value, _)| (key, value))))
            }
            Objects::Tree(root) => {
                let all = tree::scan(nodes, root, prefix)?;
                Box::new(all.map(|entry| entry.map(|e| (e.key, e.value)).map_err(Error::from)))
            }
        })
    }

    /// Root paths that hold folders of Milvus.
    pub(super) fn bucket_roots(self, nodes: &dyn Nodes) -> Result<Vec<String>> {
        let mut roots = Vec::new();
        for tree in self.trees() {
            bucket_roots(nodes, tree, &mut roots)?;
        }
        Ok(roots)
    }
}

fn bucket_roots(nodes: &dyn Nodes, objects: Option<&Root>, roots: &mut Vec<String>) -> Result<()> {
    let mut from = Vec::new();
    'hop: loop {
        for entry in tree::scan(nodes, objects, &from)? {
            let key = entry?.key;
            if let Some((root, folder)) = folder_of(&key) {
                // Nothing more is to be learned from this folder.
                from = [key[..folder].to_vec(), vec![b'/' + 1]].concat();
                if !roots.contains(&root) {
                    roots.push(root);
                }
                continue 'hop;
            }
        }
        return Ok(());
    }
}

/// The root path of an object of Milvus, and where its folder ends: `<root>/<folder>/<number>/…`.
fn folder_of(key: &[u8]) -> Option<(String, usize)> {
    let text = std::str::from_utf8(key).ok()?;
    FOLDERS.iter().find_map(|folder| {
        let (at, _) = text.match_indices(folder).find(|&(at, _)| {
            let begins = at == 0 || key[at - 1] == b'/';
            let rest = text[at + folder.len()..].strip_prefix('/');
            begins && rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        })?;
        Some((text[..at].trim_end_matches('/').to_owned(), at + folder.len()))
    })
}

/// The object's key below a root path.
pub(super) fn below(root: &str, key: &[u8]) -> Vec<u8> {
    match root.trim_matches('/') {
        "" => key.to_vec(),
        root => [root.as_bytes(), b"/", key].concat(),
    }
}
