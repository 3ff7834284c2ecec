//! `icecore key`.

use std::io::Write;

use serde_json::json;

use super::access::new_passphrase;
use super::args::Key;
use super::failure::Failure;
use super::show::{local_time, utc};
use super::{Outcome, Session};

pub fn run(session: &Session, command: &Key) -> Result<Outcome, Failure> {
    let repository = session.open()?;
    let mut out = std::io::stdout().lock();
    let (id, done) = match command {
        Key::List => return list(session, &repository, &mut out),
        Key::Add { new_passphrase_file } => {
            let passphrase = new_passphrase(new_passphrase_file.as_deref())?;
            (repository.add_key(&passphrase, Default::default())?, "added")
        }
        Key::Passwd { new_passphrase_file } => {
            let passphrase = new_passphrase(new_passphrase_file.as_deref())?;
            (repository.change_passphrase(&passphrase, Default::default())?, "in the place of the old one")
        }
        Key::Remove { id } => {
            repository.remove_key(id)?;
            (id.clone(), "removed")
        }
    };
    match session.json {
        true => writeln!(out, "{}", json!({ "id": id }))?,
        false => writeln!(out, "key {id} {done}")?,
    }
    Ok(Outcome::Done)
}

fn list(
    session: &Session,
    repository: &icecore::repository::Repository,
    out: &mut dyn Write,
) -> Result<Outcome, Failure> {
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
