//! How a Milvus's collections are shown.

use std::collections::BTreeMap;
use std::io::Write;

use icecore::browse::{Listed, Milvus, Totals};
use icecore::context::Nanos;
use icecore::milvus::Collection;
use serde_json::{Value, json};

use super::show::{local_time, number, size, utc};

pub fn full_name(listed: &Listed) -> String {
    format!("{}.{}", listed.database, listed.collection.name)
}

fn millis(time: u64) -> Nanos {
    Nanos::try_from(time).unwrap_or_default().saturating_mul(1_000_000)
}

pub fn totals_json(totals: &Totals) -> Value {
    json!({
        "rows": totals.rows, "deletes": totals.deletes, "segments": totals.segments,
        "growing_segments": totals.growing, "growing_most_rows": totals.growing_most_rows, "objects": totals.held.objects, "bytes": totals.held.bytes,
        "index_bytes": totals.held.index_bytes, "missing": totals.held.missing,
    })
}

pub fn collection_json(milvus: &Milvus, listed: &Listed, long: bool) -> Value {
    let Collection { state, created, shards, consistency, replicas, .. } = &listed.collection;
    let indexes: Vec<Value> = indexes(&listed.collection)
        .map(|(name, field, parameters)| json!({"name": name, "field": field, "parameters": parameters}))
        .collect();
    let mut line = json!({
        "root": milvus.instance.root, "version": milvus.instance.version, "database": listed.database,
        "name": listed.collection.name, "id": listed.id, "state": state, "created": utc(millis(*created)),
        "shards": shards, "consistency": consistency, "replicas": replicas, "totals": totals_json(&listed.totals),
        "indexes": indexes, "partitions": listed.collection.partitions.values().collect::<Vec<_>>(),
        "aliases": listed.collection.aliases,
    });
    if let Some(line) = line.as_object_mut().filter(|_| long) {
        let fields: Vec<Value> = listed.collection.fields.values().map(|field| {
            json!({"id": field.id, "name": field.name, "type": field.data_type, "roles": field.roles, "parameters": field.parameters})
        }).collect();
        line.insert("fields".into(), json!(fields));
        line.insert("dynamic".into(), json!(listed.collection.dynamic));
        line.insert("functions".into(), json!(listed.collection.functions));
        line.insert("properties".into(), json!(listed.collection.properties));
    }
    line
}

/// Name, field and parameters of each index.
fn indexes(collection: &Collection) -> impl Iterator<Item = (&str, &str, &BTreeMap<String, String>)> {
    collection.indexes.values().map(|index| {
        let field = collection.fields.get(&index.field).map_or("", |field| &field.name);
        (&index.name[..], field, &index.parameters)
    })
}

pub fn print_head(out: &mut dyn Write, milvus: &Milvus) -> std::io::Result<()> {
    let instance = &milvus.instance;
    let version = instance.version.as_deref().unwrap_or("of unknown version (no server was running)");
    write!(out, "Milvus {version}, root {:?} in etcd", instance.root)?;
    match &milvus.checked {
        None => writeln!(out, "; the snapshot has no objects")?,
        Some(checked) => writeln!(out, ", {:?} in the bucket", checked.bucket_root)?,
    }
    for (part, keys) in &instance.unknown {
        writeln!(
            out,
            "not known to icecore, and captured as it is: {} keys below meta/{part}",
            number(*keys)
        )?;
    }
    if instance.unreadable_count > 0 {
        writeln!(
            out,
            "{} values could not be read, for example of {}",
            number(instance.unreadable_count),
            instance.unreadable[0]
        )?;
    }
    Ok(())
}

pub fn print_table(out: &mut dyn Write, milvus: &Milvus, collections: &[Listed]) -> std::io::Result<()> {
    let width = collections.iter().map(|listed| full_name(listed).chars().count()).max().unwrap_or(0).max(10);
    writeln!(
        out,
        "{:<width$}  {:>12}  {:>10}  {:>8}  {:>10}  {:>10}  STATE",
        "COLLECTION", "ROWS", "DELETED", "SEGMENTS", "SIZE", "INDEXES"
    )?;
    for listed in collections {
        let totals = &listed.totals;
        let mut state = vec![listed.collection.state.to_owned()];
        state.extend(listed.collection.replicas.map(|_| "loaded".to_owned()));
        let kinds = indexes(&listed.collection)
            .filter_map(|(_, _, parameters)| parameters.get("index_type").cloned());
        state.extend(kinds);
        if totals.growing > 0 {
            let most = number(totals.growing_most_rows);
            state.push(format!("{} segments not flushed (at most {most} rows more)", totals.growing));
        }
        if totals.held.missing > 0 {
            state.push(format!("INCOMPLETE: {} objects missing", number(totals.held.missing)));
        }
        writeln!(
            out,
            "{:<width$}  {:>12}  {:>10}  {:>8}  {:>10}  {:>10}  {}",
            full_name(listed),
            number(totals.rows),
            number(totals.deletes),
            number(totals.segments),
            size(totals.held.bytes - totals.held.index_bytes),
            size(totals.held.index_bytes),
            state.join(", ")
        )?;
    }
    let catalog = &milvus.instance.catalog;
    writeln!(
        out,
        "{} databases, {} collections, {} users, {} roles",
        catalog.databases.len().max(1),
        collections.len(),
        catalog.users.len(),
        catalog.roles.len()
    )
}

pub fn print_long(out: &mut dyn Write, milvus: &Milvus, collections: &[Listed]) -> std::io::Result<()> {
    for listed in collections {
        let collection = &listed.collection;
        writeln!(
            out,
            "\n{} (id {}), made {}, {} shards, consistency {}",
            full_name(listed),
            listed.id,
            local_time(millis(collection.created)),
            collection.shards,
            collection.consistency
        )?;
        for field in collection.fields.values() {
            let mut notes: Vec<String> = field.roles.iter().map(|role| (*role).to_owned()).collect();
            notes.extend(field.parameters.iter().map(|(key, value)| format!("{key}={value}")));
            writeln!(out, "  field {:<20} {:<14} {}", field.name, field.data_type, notes.join(", "))?;
        }
        for (name, field, parameters) in indexes(collection) {
            let parameters: Vec<String> =
                parameters.iter().map(|(key, value)| format!("{key}={value}")).collect();
            writeln!(out, "  index {name} on {field}: {}", parameters.join(", "))?;
        }
        print_names(out, "partitions", collection.partitions.values())?;
        print_names(out, "aliases", collection.aliases.iter())?;
        print_names(out, "functions", collection.functions.iter())?;
        let properties: Vec<String> = collection.properties.iter().map(|(k, v)| format!("{k}={v}")).collect();
        print_names(out, "properties", properties.iter())?;
    }
    let catalog = &milvus.instance.catalog;
    writeln!(out)?;
    print_names(out, "users", catalog.users.iter())?;
    for (name, role) in &catalog.roles {
        writeln!(out, "  role {name}")?;
        print_names(out, "  users", role.users.iter())?;
        print_names(out, "  may", role.grants.iter())?;
    }
    print_names(out, "resource groups", catalog.resource_groups.iter())
}

fn print_names<'a>(
    out: &mut dyn Write,
    what: &str,
    names: impl Iterator<Item = &'a String>,
) -> std::io::Result<()> {
    let names: Vec<&str> = names.map(String::as_str).collect();
    if names.is_empty() { Ok(()) } else { writeln!(out, "  {what}: {}", names.join(", ")) }
}
