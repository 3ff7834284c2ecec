//! ls of what belongs to a bucket beside its current objects: versions and settings.

use std::io::{BufWriter, Write};

use icecore::browse::{Browser, version_id};
use icecore::format::{Attributes, Item};
use icecore::selection::Selection;
use serde_json::json;

use super::args::{Globs, Side};
use super::failure::Failure;
use super::read::{find_in, kind_of};
use super::show::{key_json, key_text, local_time, size, utc};
use super::{Outcome, Session};

fn check_side(side: Side) -> Result<(), Failure> {
    match side {
        Side::Objects => Ok(()),
        Side::Etcd => Err(Failure::usage("versions and settings are of objects, not of etcd")),
    }
}

pub fn ls(
    session: &Session,
    point: &str,
    side: Side,
    prefix: &[u8],
    long: bool,
    globs: Globs,
) -> Result<Outcome, Failure> {
    check_side(side)?;
    let selection = Selection::new(globs.include, globs.exclude)?;
    let repository = session.open()?;
    let view = repository.view()?;
    let moment = find_in(session, &view, point)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    Browser::over(&repository, &view)?.versions(&moment, prefix, |key, item| match selection.takes(key) {
        true => Ok(writeln!(out, "{}", line(session, key, item, long))?),
        false => Ok(()),
    })?;
    out.flush()?;
    Ok(Outcome::Done)
}

fn line(session: &Session, key: &[u8], item: &Item, long: bool) -> String {
    let (kind, id) = (kind_of(item), version_id(item));
    if session.json {
        let Attributes::Object(attributes) = &item.attributes else { return String::new() };
        let retention = attributes.retention.as_ref();
        let fields = json!({
            "kind": kind, "version": id, "size": item.size, "etag": attributes.etag,
            "modified": utc(item.modified), "storage_class": attributes.storage_class,
            "encryption": attributes.encryption, "legal_hold": attributes.legal_hold,
            "retention": retention.map(|r| json!({"mode": r.mode, "until": utc(r.until)})),
        });
        return key_json(key, fields).to_string();
    }
    let note = if kind == "object" { String::new() } else { format!(" ({kind})") };
    match long {
        true => {
            format!("{:>10}  {}  {id}  {}{note}", size(item.size), local_time(item.modified), key_text(key))
        }
        false => format!("{id}  {}{note}", key_text(key)),
    }
}

pub fn settings(session: &Session, point: &str, side: Side) -> Result<Outcome, Failure> {
    check_side(side)?;
    let repository = session.open()?;
    let view = repository.view()?;
    let moment = find_in(session, &view, point)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    for setting in Browser::over(&repository, &view)?.settings(&moment)? {
        match session.json {
            true => writeln!(out, "{}", json!({"name": setting.name, "body": setting.body}))?,
            false => writeln!(out, "{}: {}", setting.name, setting.body.trim())?,
        }
    }
    out.flush()?;
    Ok(Outcome::Done)
}
