//! `icecore key`.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use icecore::repository::{KeyCost, Repository, generate_passphrase};
use serde_json::json;

use super::access::new_passphrase;
use super::args::Key;
use super::failure::Failure;
use super::show::{local_time, utc};
use super::{Outcome, Session};

pub fn run(session: &Session, command: &Key) -> Result<Outcome, Failure> {
    let (id, done) = match command {
        Key::Generate { file } => return generate(session, file.as_deref()),
        Key::List => return list(session, &session.open()?),
        Key::Add { new_passphrase_file } => {
            let repository = session.open()?;
            let passphrase = new_passphrase(new_passphrase_file.as_deref())?;
            (repository.add_key(&passphrase, KeyCost::of(&passphrase))?, "added")
        }
        Key::Passwd { new_passphrase_file } => {
            let repository = session.open()?;
            let passphrase = new_passphrase(new_passphrase_file.as_deref())?;
            let id = repository.change_passphrase(&passphrase, KeyCost::of(&passphrase))?;
            (id, "in the place of the old one")
        }
        Key::Remove { id } => {
            session.open()?.remove_key(id)?;
            (id.clone(), "removed")
        }
    };
    let mut out = std::io::stdout().lock();
    match session.json {
        true => writeln!(out, "{}", json!({ "id": id }))?,
        false => writeln!(out, "key {id} {done}")?,
    }
    Ok(Outcome::Done)
}

/// To a new file that only its owner may read, or to the standard output.
fn generate(session: &Session, file: Option<&Path>) -> Result<Outcome, Failure> {
    let passphrase = generate_passphrase(&*session.context.random);
    let mut out = std::io::stdout().lock();
    let Some(path) = file else {
        match session.json {
            true => writeln!(out, "{}", json!({ "passphrase": *passphrase }))?,
            false => writeln!(out, "{}", *passphrase)?,
        }
        return Ok(Outcome::Done);
    };
    let failed = |e: std::io::Error| Failure::usage(format!("cannot make {}: {e}", path.display()));
    let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    writeln!(new, "{}", *passphrase).and_then(|()| new.sync_all()).map_err(failed)?;
    if session.json {
        writeln!(out, "{}", json!({ "file": path.display().to_string() }))?;
    }
    if !session.quiet {
        eprintln!("{} holds a new passphrase; keep a copy of it elsewhere", path.display());
    }
    Ok(Outcome::Done)
}

fn list(session: &Session, repository: &Repository) -> Result<Outcome, Failure> {
    let mut out = std::io::stdout().lock();
    for key in repository.keys(&session.passphrase()?)? {
        if session.json {
            let created = key.created.map(utc);
            writeln!(
                out,
                "{}",
                json!({"id": key.id, "current": key.current, "created": created, "host": key.host})
            )?;
            continue;
        }
        let mark = if key.current { "*" } else { " " };
        let made = match (key.created, &key.host) {
            (Some(created), Some(host)) => format!("{} on {host}", local_time(created)),
            _ => "another passphrase".into(),
        };
        writeln!(out, "{mark} {}  {made}", key.id)?;
    }
    Ok(Outcome::Done)
}
