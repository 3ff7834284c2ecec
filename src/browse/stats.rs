//! What a repository costs and what it holds.

use super::Result;
use crate::repository::Repository;

/// Numbers about a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Valid snapshots.
    pub snapshots: u64,
    /// Files and bytes by the first part of their names.
    pub files: Vec<(String, u64, u64)>,
    /// All bytes.
    pub bytes: u64,
    /// Plain bytes of the objects of all snapshots together, as if each were a full copy.
    pub full_copies: u64,
    /// Plain bytes of content that is stored.
    pub content: u64,
}

/// Counts.
pub fn stats(repository: &Repository) -> Result<Stats> {
    let view = repository.view()?;
    let mut stats = Stats { snapshots: view.snapshots.len() as u64, ..Stats::default() };
    let mut files: std::collections::BTreeMap<String, (u64, u64)> = Default::default();
    let listed = repository.storage().list("", &mut |listed| {
        let folder = match listed.name.split('/').collect::<Vec<_>>()[..] {
            ["packs", kind, ..] => format!("packs/{kind}"),
            [first, ..] => first.to_owned(),
            [] => String::new(),
        };
        let entry = files.entry(folder).or_default();
        *entry = (entry.0 + 1, entry.1 + listed.size);
        Ok(())
    });
    listed.map_err(crate::repository::Error::from)?;
    stats.bytes = files.values().map(|(_, bytes)| bytes).sum();
    stats.files = files.into_iter().map(|(name, (count, bytes))| (name, count, bytes)).collect();
    for info in &view.snapshots {
        let objects = info.snapshot.objects.as_ref().and_then(|objects| objects.root);
        stats.full_copies += crate::tree::weight(objects.as_ref());
        stats.content += info.snapshot.stored.new_bytes;
    }
    Ok(stats)
}
