//! Looking at the versions of objects.

use super::{Browser, Result, lacks, name};
use crate::format::{Attributes, Item, ItemState, Setting};
use crate::repository::{self, Moment, versions};

/// The id of a version: `null` for one from before the bucket kept versions.
pub fn version_id(item: &Item) -> &str {
    match &item.attributes {
        Attributes::Object(attributes) => attributes.version.as_deref().unwrap_or("null"),
        Attributes::File(_) => "null",
    }
}

impl Browser<'_> {
    /// Shows the versions of the objects that begin with `prefix`: by key, the oldest first.
    pub fn versions(
        &self,
        moment: &Moment,
        prefix: &[u8],
        mut show: impl FnMut(&[u8], &Item) -> Result<()>,
    ) -> Result<()> {
        let root = moment.with_versions()?.versions;
        let nodes = self.nodes();
        for entry in versions(&nodes, root.as_ref(), prefix)? {
            self.repository.context().cancel.check()?;
            let (key, all) = entry?;
            all.iter().try_for_each(|(_, item)| show(&key, item))?;
        }
        Ok(())
    }

    /// The version `id` of the object `key`.
    pub(super) fn version(&self, moment: &Moment, key: &[u8], id: &str) -> Result<Item> {
        let root = moment.with_versions()?.versions;
        let nodes = self.nodes();
        let (text, place) = (String::from_utf8_lossy(key), name(moment));
        let none = |why: String| repository::Error::PointNotFound(why).into();
        // The key itself sorts before all that it is the beginning of.
        let of_key = versions(&nodes, root.as_ref(), key)?.next().transpose()?.filter(|(k, _)| k == key);
        let all = of_key.map(|(_, all)| all).unwrap_or_default();
        match all.into_iter().map(|(_, item)| item).find(|item| version_id(item) == id) {
            None => Err(none(format!("there is no version {id:?} of {text:?} in {place}"))),
            Some(item) if item.state == ItemState::Deleted => {
                Err(none(format!("version {id:?} of {text:?} is a delete marker")))
            }
            Some(item) => Ok(item),
        }
    }

    /// The settings of the bucket.
    pub fn settings<'m>(&self, moment: &'m Moment) -> Result<&'m [Setting]> {
        let capture = moment.info.snapshot.objects.as_ref();
        capture.map(|capture| capture.settings.as_slice()).ok_or_else(|| lacks(moment, "objects"))
    }
}
