//! Looking into snapshots: list, show, compare, count.

mod diff;
mod log;
mod milvus;
mod prefixes;
mod revisions;
mod stats;
mod versions;

use std::io::Write;

use crate::context::Interrupted;
use crate::fault::Kind;
use crate::format::{Attributes, Content, FileKind, Item, ItemState, KeyState, Malformed};
use crate::id::ChunkKind;
use crate::repository::{
    self, Certainty, EtcdAt, Moment, Repository, View, content_bytes, keys_at, object, objects, state,
    unlinked,
};
use crate::store::{self, Reader};
use crate::tree::{self, Nodes, ReadWrite};

pub use diff::{DiffLine, DiffStat, Summary, diff};
pub use log::{Keys, LogLine, Logged, log};
pub use milvus::{Changed, Listed, Milvus, Totals, milvus_diff};
pub use prefixes::{Prefix, Prefixes};
pub use revisions::{Knowledge, Reason, Revisions, revisions};
pub use stats::{Held, Stats, Volume, alone, held, stats};
pub use versions::version_id;

/// Why a snapshot could not be looked into.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The repository.
    #[error(transparent)]
    Repository(#[from] repository::Error),
    /// Whoever is given the lines failed.
    #[error("cannot write: {0}")]
    Output(#[from] std::io::Error),
}

/// The result of looking.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The kind of failure.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Repository(error) => error.kind(),
            Error::Output(_) => Kind::Failed,
        }
    }
}

repository::through_repository!(Error: store::Error, tree::Error, Malformed, Interrupted);

/// The two sides of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Keys.
    Etcd,
    /// Objects.
    Objects,
}

/// An open snapshot.
pub struct Browser<'a> {
    repository: &'a Repository,
    reader: Reader,
}

impl<'a> Browser<'a> {
    /// For any snapshot that is valid now.
    pub fn open(repository: &'a Repository) -> Result<Browser<'a>> {
        Browser::over(repository, &repository.view()?)
    }

    /// For the snapshots of a view.
    pub fn over(repository: &'a Repository, view: &View) -> Result<Browser<'a>> {
        Ok(Browser { repository, reader: repository.reader(view)? })
    }

    fn nodes(&self) -> ReadWrite<'_> {
        ReadWrite::new(&self.reader, None)
    }

    /// Shows the keys that begin with `prefix`, in order.
    pub fn keys(
        &self,
        moment: &Moment,
        prefix: &[u8],
        mut show: impl FnMut(&[u8], &KeyState) -> Result<()>,
    ) -> Result<()> {
        let nodes = self.nodes();
        for entry in state(&nodes, etcd_of(moment)?, prefix, &self.repository.spool())? {
            self.repository.context().cancel.check()?;
            let (key, state) = entry?;
            show(&key, &state)?;
        }
        Ok(())
    }

    /// Shows the objects that begin with `prefix`, in order.
    pub fn objects(
        &self,
        moment: &Moment,
        prefix: &[u8],
        mut show: impl FnMut(&[u8], &Item, Certainty) -> Result<()>,
    ) -> Result<()> {
        check_objects(moment)?;
        let nodes = self.nodes();
        for entry in objects(&nodes, moment, prefix)? {
            self.repository.context().cancel.check()?;
            let (key, value, certainty) = entry?;
            show(&key, &Item::decode(&value)?, certainty)?;
        }
        Ok(())
    }

    /// Writes the value of a key, or the body of an object or of one of its versions.
    pub fn cat(
        &self,
        moment: &Moment,
        side: Side,
        key: &[u8],
        version: Option<&str>,
        out: &mut dyn Write,
    ) -> Result<()> {
        let nodes = self.nodes();
        let missing = || {
            let key = String::from_utf8_lossy(key).into_owned();
            Error::from(repository::Error::PointNotFound(format!("there is no {key:?} in {}", name(moment))))
        };
        let content = match side {
            Side::Etcd => {
                let found = keys_at(&nodes, etcd_of(moment)?, &[key.to_vec()].into())?;
                let state = found.get(key).ok_or_else(missing)?;
                Content::Inline(content_bytes(&nodes, &state.value)?)
            }
            Side::Objects => {
                check_objects(moment)?;
                let entry = match version {
                    Some(id) => self.version(moment, key, id)?,
                    None => {
                        let (value, _) = object(&nodes, moment, key)?.ok_or_else(missing)?;
                        unlinked(&nodes, moment, Item::decode(&value)?)?
                    }
                };
                if let Attributes::File(file) = &entry.attributes
                    && file.kind != FileKind::Regular
                {
                    let key = String::from_utf8_lossy(key).into_owned();
                    return Err(
                        repository::Error::Usage(format!("{key:?} has no content: it is no file")).into()
                    );
                }
                if entry.state != ItemState::Present {
                    let key = String::from_utf8_lossy(key).into_owned();
                    let id = moment.info.id;
                    let why = format!("{key:?} could not be read when snapshot {id} was taken");
                    return Err(repository::Error::PointNotFound(why).into());
                }
                entry.content
            }
        };
        if let Content::Inline(bytes) = &content {
            return Ok(out.write_all(bytes)?);
        }
        tree::read_chunks(&nodes, &content, |id, _| {
            self.repository.context().cancel.check()?;
            Ok(out.write_all(&nodes.get(ChunkKind::Data, &id)?)?)
        })
    }
}

/// A moment as messages name it.
fn name(moment: &Moment) -> String {
    match moment.revision.filter(|_| !moment.is_whole()) {
        Some(revision) => format!("revision {revision} (of snapshot {})", moment.info.id),
        None => format!("snapshot {}", moment.info.id),
    }
}

fn lacks(moment: &Moment, what: &str) -> Error {
    repository::Error::Usage(format!("snapshot {} has no {what}", moment.info.id)).into()
}

fn etcd_of(moment: &Moment) -> Result<EtcdAt<'_>> {
    moment.etcd().ok_or_else(|| lacks(moment, "etcd"))
}

fn check_objects(moment: &Moment) -> Result<()> {
    moment.info.snapshot.objects.as_ref().map(|_| ()).ok_or_else(|| lacks(moment, "objects"))
}
