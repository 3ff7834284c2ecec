//! What a Milvus held: its collections rather than keys and objects.

use std::collections::{BTreeMap, BTreeSet};

use super::{Browser, Result};
use crate::milvus::{
    Catalog, Checked, Collection, Held, Instance, Objects, SegmentState, Woodpecker, survey,
};
use crate::repository::Moment;

/// A Milvus in a snapshot.
pub struct Milvus {
    /// What its keys say.
    pub instance: Instance,
    /// Whether its objects are there; `None` where the snapshot has no objects.
    pub checked: Option<Checked>,
}

/// Sums over the segments of a collection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Rows in the bucket, deleted ones with them.
    pub rows: u64,
    /// How many rows were deleted of these.
    pub deletes: u64,
    /// Segments in use.
    pub segments: u64,
    /// Those of them that still take rows; what is not flushed is in the message queue only.
    pub growing: u64,
    /// Rows that they may have in the queue: as many as still fit.
    pub growing_most_rows: u64,
    /// Objects and bytes, where the snapshot has objects.
    pub held: Held,
}

/// A collection with its names and sums.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub id: i64,
    /// Its database.
    pub database: String,
    /// What is known of it.
    pub collection: Collection,
    /// Sums over its segments.
    pub totals: Totals,
}

impl Browser<'_> {
    /// Every Milvus at a moment; `bucket_root` where the user knows it.
    pub fn milvus(&self, moment: &Moment, bucket_root: Option<&str>) -> Result<Vec<Milvus>> {
        let (nodes, spool) = (self.nodes(), self.repository.spool());
        let etcd = super::etcd_of(moment)?;
        let instances = survey(&nodes, etcd, &spool)?.instances;
        // Reading keys means reading the history, which is not done for a Milvus that has no such log.
        let logs = match instances.iter().any(|instance| instance.write_ahead) {
            true => Woodpecker::at(&nodes, etcd, &spool)?,
            false => None,
        };
        let check = |mut instance: Instance| {
            let objects = Objects::At(moment);
            if moment.info.snapshot.objects.is_none() {
                return Ok(Milvus { instance, checked: None });
            }
            let mut checked = instance.check(&nodes, objects, bucket_root, &spool)?;
            let root = &checked.bucket_root;
            checked.lacks_of_log = instance.lacks_of_log(logs.as_ref(), &nodes, objects, root)?;
            Ok(Milvus { instance, checked: Some(checked) })
        };
        instances.into_iter().map(check).collect()
    }
}

impl Milvus {
    /// Its collections by database and name, each with its sums.
    pub fn collections(&self) -> Vec<Listed> {
        let catalog = &self.instance.catalog;
        let mut totals = totals(catalog);
        let held = self.checked.as_ref().map(|checked| &checked.held);
        let list = |(&id, collection): (&i64, &Collection)| {
            let mut totals = totals.remove(&id).unwrap_or_default();
            totals.held = held.and_then(|held| held.get(&id)).copied().unwrap_or_default();
            Listed {
                id,
                database: database_name(catalog, collection),
                collection: collection.clone(),
                totals,
            }
        };
        let mut listed: Vec<Listed> = catalog.collections.iter().map(list).collect();
        // Fields and partitions outlive their collection for a while.
        listed.retain(|listed| !listed.collection.name.is_empty() || listed.totals.segments > 0);
        listed.sort_by(|a, b| {
            (&a.database, &a.collection.name, a.id).cmp(&(&b.database, &b.collection.name, b.id))
        });
        listed
    }

    /// A collection's name with its database, for people; its id where it has none any more.
    pub fn name_of(&self, id: i64) -> String {
        let catalog = &self.instance.catalog;
        match catalog.collections.get(&id).filter(|collection| !collection.name.is_empty()) {
            Some(collection) => format!("{}.{}", database_name(catalog, collection), collection.name),
            None => format!("a dropped collection ({id})"),
        }
    }
}

fn database_name(catalog: &Catalog, collection: &Collection) -> String {
    match catalog.databases.get(&collection.database) {
        Some(database) => database.name.clone(),
        // Older versions have one database, without a key.
        None if collection.database <= 1 => "default".into(),
        None => collection.database.to_string(),
    }
}

fn totals(catalog: &Catalog) -> BTreeMap<i64, Totals> {
    let mut all: BTreeMap<i64, Totals> = BTreeMap::new();
    for segment in catalog.segments.values().filter(|segment| segment.state.is_live()) {
        let totals = all.entry(segment.collection).or_default();
        totals.segments += 1;
        totals.rows += segment.rows;
        totals.deletes += segment.deletes;
        if segment.state != SegmentState::Flushed {
            totals.growing += 1;
            totals.growing_most_rows += segment.most_rows.saturating_sub(segment.rows);
        }
    }
    all
}

impl Listed {
    /// Whether clients see it; one that is being dropped is gone for everybody but Milvus.
    pub fn is_there(&self) -> bool {
        self.collection.state == "created"
    }
}

/// A collection that differs between two points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The root path of its Milvus.
    pub root: String,
    /// `collection`, `database`, `user`, `role`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Before and after, where it was there.
    pub before: Option<Totals>,
    /// After.
    pub after: Option<Totals>,
    /// What of it differs: `rows`, `schema`, …
    pub what: Vec<&'static str>,
}

/// What differs between two points: collections by their ids, so that one that was renamed is one.
pub fn milvus_diff(before: &[Milvus], after: &[Milvus]) -> Vec<Changed> {
    let mut changes = Vec::new();
    let roots: BTreeSet<&str> = before.iter().chain(after).map(|milvus| &milvus.instance.root[..]).collect();
    for root in roots {
        let is_it = |milvus: &&Milvus| milvus.instance.root == root;
        let (old, new) = (before.iter().find(is_it), after.iter().find(is_it));
        compare_collections(root, old, new, &mut changes);
        compare_names(root, old, new, &mut changes);
    }
    changes
}

fn compare_collections(root: &str, old: Option<&Milvus>, new: Option<&Milvus>, changes: &mut Vec<Changed>) {
    let by_id = |milvus: Option<&Milvus>| -> BTreeMap<i64, Listed> {
        let all = milvus.map(Milvus::collections).unwrap_or_default();
        all.into_iter().filter(Listed::is_there).map(|listed| (listed.id, listed)).collect()
    };
    let (mut old, new) = (by_id(old), by_id(new));
    let name = |listed: &Listed| format!("{}.{}", listed.database, listed.collection.name);
    let mut change = |name, before: Option<Totals>, after: Option<Totals>, what| {
        changes.push(Changed { root: root.to_owned(), kind: "collection", name, before, after, what });
    };
    for (id, after) in new {
        match old.remove(&id) {
            None => change(name(&after), None, Some(after.totals), vec![]),
            Some(before) => {
                let what = differences(&before, &after);
                if !what.is_empty() {
                    change(name(&after), Some(before.totals), Some(after.totals), what);
                }
            }
        }
    }
    for before in old.into_values() {
        change(name(&before), Some(before.totals), None, vec![]);
    }
}

/// What differs of a collection. Segments alone are no difference: Milvus merges them by itself.
fn differences(before: &Listed, after: &Listed) -> Vec<&'static str> {
    let (a, b) = (&before.collection, &after.collection);
    let rows = |totals: &Totals| totals.rows.saturating_sub(totals.deletes);
    let all = [
        ("name", a.name != b.name || before.database != after.database),
        ("schema", (&a.fields, &a.functions, a.dynamic) != (&b.fields, &b.functions, b.dynamic)),
        ("properties", a.properties != b.properties),
        ("partitions", a.partitions != b.partitions),
        ("aliases", a.aliases != b.aliases),
        ("indexes", a.indexes != b.indexes),
        ("load state", a.replicas != b.replicas),
        ("rows", rows(&before.totals) != rows(&after.totals)),
    ];
    all.into_iter().filter(|(_, differs)| *differs).map(|(what, _)| what).collect()
}

/// Databases, users and roles: by name, and what belongs to it.
fn named(milvus: Option<&Milvus>) -> BTreeMap<(&'static str, String), String> {
    let mut all = BTreeMap::new();
    let Some(catalog) = milvus.map(|milvus| &milvus.instance.catalog) else { return all };
    for database in catalog.databases.values() {
        all.insert(("database", database.name.clone()), format!("{:?}", database.properties));
    }
    for user in &catalog.users {
        all.insert(("user", user.clone()), String::new());
    }
    for (name, role) in &catalog.roles {
        all.insert(("role", name.clone()), format!("{role:?}"));
    }
    all
}

fn compare_names(root: &str, old: Option<&Milvus>, new: Option<&Milvus>, changes: &mut Vec<Changed>) {
    let (mut old, new) = (named(old), named(new));
    let mut change = |(kind, name), before: bool, after: bool, what| {
        let totals = |there: bool| there.then(Totals::default);
        let (before, after) = (totals(before), totals(after));
        changes.push(Changed { root: root.to_owned(), kind, name, before, after, what });
    };
    for (key, after) in new {
        match old.remove(&key) {
            None => change(key, false, true, vec![]),
            Some(before) if before != after => {
                let what = if key.0 == "role" { "users or privileges" } else { "properties" };
                change(key, true, true, vec![what]);
            }
            Some(_) => {}
        }
    }
    for key in old.into_keys() {
        change(key, true, false, vec![]);
    }
}
