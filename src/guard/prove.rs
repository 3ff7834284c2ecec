//! A restore onto empty servers, and what is there afterwards, read back from them.

use super::{Error, Found, Options, Result};
use crate::browse::{Browser, Milvus};
use crate::etcd::Etcd;
use crate::format::{Attributes, Item, ItemState};
use crate::milvus::{Instance, Survey, Woodpecker};
use crate::progress::{Amount, Phase};
use crate::repository::{self, Moment, Repository, objects};
use crate::restore;
use crate::selection::Selection;
use crate::sorter::paired;
use crate::source::{self, Bucket, BucketOptions, Listed};
use crate::target::EtcdTarget;
use crate::tree::ReadWrite;

/// Differences that are named; more are counted.
const NAMED: usize = 20;

/// What a proof found.
pub struct Proof {
    /// The restore.
    pub restored: restore::Report,
    /// Every Milvus, and whether the snapshot has what it needs.
    pub milvus: Vec<Found>,
    /// Collections that the restored keys name.
    pub collections: u64,
    /// Rows that their segments have, deleted ones with them.
    pub rows: u64,
    /// Objects that are in the bucket as they are in the snapshot.
    pub objects: u64,
    /// Those of them that have another ETag, which says nothing of their bytes.
    pub other_etags: u64,
    /// What is other than in the snapshot, the first of it.
    pub differences: Vec<String>,
    /// How much there is.
    pub difference_count: u64,
}

/// Restores to the servers of `options`, reads both back, and compares with the snapshot.
pub fn prove(
    repository: &Repository,
    moment: &Moment,
    options: &restore::Options,
    milvus: &Options,
) -> Result<Proof> {
    let (Some(_), Some(_)) = (&options.etcd, &options.bucket) else {
        let why = "a proof needs both: --to-etcd, and --to-s3 with --to-bucket".to_owned();
        return Err(repository::Error::Usage(why).into());
    };
    let found = Browser::open(repository)?.milvus(moment, milvus.bucket_root.as_deref())?;
    let restored = restore::run(repository, moment, options, &|_| {})?;
    let (milvus, catalogs) = (found.iter().map(Found::from).collect(), found);
    let mut proof = Proof {
        restored,
        milvus,
        collections: 0,
        rows: 0,
        objects: 0,
        other_etags: 0,
        differences: Vec::new(),
        difference_count: 0,
    };
    proof.compare_catalogs(&catalogs, &survey_target(repository, options)?);
    proof.compare_objects(repository, moment, options)?;
    Ok(proof)
}

/// Every Milvus in the etcd that was restored to.
fn survey_target(repository: &Repository, options: &restore::Options) -> Result<Vec<Instance>> {
    let context = repository.context();
    context.progress.begin(Phase { name: "reading keys back", unit: "keys" });
    let access = options.etcd.clone().unwrap_or_default();
    let etcd = Etcd::connect(&context.runtime, &access).map_err(source::Error::from)?.0;
    let mut survey = Survey::new(&repository.spool());
    for present in EtcdTarget::new(etcd).keys(&[]) {
        let present = present.map_err(source::Error::from)?;
        context.progress.advance(Amount { items: 1, bytes: 0 });
        survey.add(&present.key, &present.value)?;
    }
    Ok(survey.finish().instances)
}

impl Proof {
    fn differs(&mut self, what: String) {
        self.difference_count += 1;
        if self.differences.len() < NAMED {
            self.differences.push(what);
        }
    }

    /// Whether all is there and as it should be.
    pub fn holds(&self) -> bool {
        self.difference_count == 0 && self.milvus.iter().all(|found| found.checked.is_complete())
    }

    fn compare_catalogs(&mut self, wanted: &[Milvus], there: &[Instance]) {
        for milvus in wanted {
            let root = &milvus.instance.root;
            let Some(back) = there.iter().find(|instance| instance.root == *root) else {
                self.differs(format!("there is no Milvus at {root:?} in the restored etcd"));
                continue;
            };
            let (before, after) = (&milvus.instance.catalog, &back.catalog);
            self.collections += after.collections.values().filter(|c| c.state == "created").count() as u64;
            let live = after.segments.values().filter(|segment| segment.state.is_live());
            self.rows += live.map(|segment| segment.rows).sum::<u64>();
            for (id, collection) in &before.collections {
                if after.collections.get(id) != Some(collection) {
                    self.differs(format!("collection {} ({id})", milvus.name_of(*id)));
                }
            }
            if before != after {
                self.differs(format!("the catalog of Milvus at {root:?}"));
            }
        }
    }

    fn compare_objects(
        &mut self,
        repository: &Repository,
        moment: &Moment,
        options: &restore::Options,
    ) -> Result<()> {
        let Some((access, bucket)) = options.bucket.clone() else { return Ok(()) };
        let prefix = options.to_prefix.clone();
        let context = repository.context();
        context.progress.begin(Phase { name: "reading the listing back", unit: "objects" });
        let place = BucketOptions {
            access,
            bucket,
            prefix: prefix.clone(),
            selection: Selection::default(),
            versions: false,
        };
        let bucket = Bucket::open(&context.runtime, &place)?;
        let listed = bucket.list()?.map(|listed| {
            let listed = listed.map_err(Error::from)?;
            Ok((listed.key.as_bytes()[prefix.len()..].to_vec(), listed))
        });
        let reader = repository.reader(&repository.view()?)?;
        let nodes = ReadWrite::new(&reader, None);
        let wanted = objects(&nodes, moment, &[])?.map(|entry| {
            let (key, value, _) = entry?;
            Ok::<_, Error>((key, Item::decode(&value).map_err(repository::Error::from)?))
        });
        let etcd = moment.etcd();
        let logs = etcd.map(|etcd| Woodpecker::at(&nodes, etcd, &repository.spool())).transpose()?.flatten();
        let later = |key: &[u8]| logs.as_ref().is_some_and(|logs| logs.is_later(key));
        let wanted = wanted.filter(|entry| {
            entry.as_ref().map_or(true, |(key, item)| item.state == ItemState::Present && !later(key))
        });
        for pair in paired(wanted, listed) {
            context.cancel.check().map_err(repository::Error::from)?;
            context.progress.advance(Amount { items: 1, bytes: 0 });
            let (key, wanted, there) = pair?;
            self.compare_object(&key, wanted, there);
        }
        Ok(())
    }

    fn compare_object(&mut self, key: &[u8], wanted: Option<Item>, there: Option<Listed>) {
        let key = String::from_utf8_lossy(key);
        match (wanted, there) {
            (Some(_), None) => self.differs(format!("object {key} is not in the restored bucket")),
            (Some(item), Some(listed)) if item.size != listed.size => {
                self.differs(format!("object {key} has {} bytes and not {}", listed.size, item.size));
            }
            (Some(item), Some(listed)) => {
                self.objects += 1;
                let same = matches!(&item.attributes, Attributes::Object(o) if o.etag == listed.etag);
                self.other_etags += u64::from(!same);
            }
            // What was there before is none of ours.
            (None, _) => {}
        }
    }
}
