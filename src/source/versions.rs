//! Listing every version and delete marker of a bucket.

use std::sync::atomic::Ordering;

use aws_sdk_s3::types::EncodingType;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::bucket::Bucket;
use super::listing::{Keep, Listed, Lister, Page, extension};
use super::{Error, Result};
use crate::fault::Kind;
use crate::storage::{Cause, classify};

/// Pages listed ahead of the reader.
const PAGES_AHEAD: usize = 3;

impl Bucket {
    /// Whether the bucket keeps versions, or has kept them.
    pub fn keeps_versions(&self) -> Result<bool> {
        self.requests.settings.fetch_add(1, Ordering::Relaxed);
        let request = self.client.get_bucket_versioning().bucket(&self.bucket);
        match self.runtime.block_on(request.send()).map_err(|e| classify(&e, false)) {
            Ok(answer) => Ok(answer.status().is_some()),
            // Whoever may not ask is told by the listing.
            Err(Cause::Refused(Kind::Denied, _)) => Ok(true),
            Err(Cause::NotFound | Cause::Refused(Kind::Failed, _)) => Ok(self.shows_versions()),
            Err(cause) => {
                let what = format!("bucket {}", self.bucket);
                Err(Error::S3 { action: "read the versioning of", what, cause })
            }
        }
    }

    /// Whether the listing shows versions that have names; asked where the server does not say it otherwise.
    fn shows_versions(&self) -> bool {
        self.requests.list();
        let request = self.client.list_object_versions().bucket(&self.bucket).max_keys(1);
        // A server that cannot list them keeps none.
        self.runtime.block_on(request.send()).is_ok_and(|page| {
            let named = |id: Option<&str>| id.is_some_and(|id| id != "null");
            let mut ids = page.versions().iter().map(|version| version.version_id());
            ids.any(named) || page.delete_markers().iter().any(|marker| named(marker.version_id()))
        })
    }
}

/// The key and version that a page begins after.
type Marker = (Option<String>, Option<String>);

impl Lister {
    async fn versions(&self, prefix: &str, after: Marker) -> Result<Page> {
        self.requests.list();
        let keep = Keep::default();
        let request = self
            .client
            .list_object_versions()
            .bucket(&self.bucket)
            .set_prefix((!prefix.is_empty()).then(|| prefix.to_owned()))
            .encoding_type(EncodingType::Url)
            .set_key_marker(after.0)
            .set_version_id_marker(after.1)
            .customize()
            .interceptor(keep.clone())
            .mutate_request(extension(self.extended));
        request.send().await.map_err(|e| self.fail(classify(&e, false)))?;
        let mut page = self.parsed(&keep.body())?;
        // Some servers give the versions of all keys first and the delete markers after them.
        page.objects.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(page)
    }

    async fn walk_versions(self, prefix: String, pages: mpsc::Sender<Result<Vec<Listed>>>) {
        let mut after = Marker::default();
        loop {
            let page = self.versions(&prefix, after.clone()).await;
            let (page, next) = match page {
                Ok(page) if page.next_version == after && after.0.is_some() => {
                    let why = "the listing of versions does not get on".to_owned();
                    (Err(self.fail(Cause::Refused(Kind::Failed, why))), Marker::default())
                }
                Ok(page) => (Ok(page.objects), page.next_version),
                Err(error) => (Err(error), Marker::default()),
            };
            after = next;
            // A reader that is gone wants no more.
            if pages.send(page).await.is_err() || after.0.is_none() {
                return;
            }
        }
    }
}

/// The versions of a bucket: key by key in order, those of a key from the newest to the oldest.
pub struct Versions {
    runtime: Handle,
    pages: mpsc::Receiver<Result<Vec<Listed>>>,
    page: std::iter::Peekable<std::vec::IntoIter<Listed>>,
    last: Option<String>,
    failed: bool,
}

impl Versions {
    pub(super) fn begin(runtime: &Handle, lister: Lister, prefix: &str) -> Versions {
        let (sender, pages) = mpsc::channel(PAGES_AHEAD);
        runtime.spawn(lister.walk_versions(prefix.to_owned(), sender));
        let page = Vec::new().into_iter().peekable();
        Versions { runtime: runtime.clone(), pages, page, last: None, failed: false }
    }

    /// The next version's key is at hand, or there is none.
    fn fill(&mut self) -> Result<Option<&Listed>> {
        while self.page.peek().is_none() {
            match self.runtime.block_on(self.pages.recv()) {
                Some(page) => self.page = page?.into_iter().peekable(),
                None => return Ok(None),
            }
        }
        Ok(self.page.peek())
    }

    fn next_key(&mut self) -> Result<Option<Vec<Listed>>> {
        let Some(key) = self.fill()?.map(|first| first.key.clone()) else { return Ok(None) };
        if self.last.as_ref().is_some_and(|last| *last >= key) {
            let why = format!("the listing of versions is not in order at {key:?}");
            let cause = Cause::Refused(Kind::Failed, why);
            return Err(Error::S3 { action: "list", what: "the bucket".into(), cause });
        }
        let mut versions = Vec::new();
        while self.fill()?.is_some_and(|next| next.key == key) {
            versions.extend(self.page.next());
        }
        self.last = Some(key);
        newest_first(&mut versions);
        Ok(Some(versions))
    }
}

/// As servers list versions of a key, but those that list delete markers apart.
fn newest_first(versions: &mut [Listed]) {
    let older = |listed: &Listed| !listed.version.as_ref().is_some_and(|version| version.latest);
    versions.sort_by_key(|listed| (older(listed), std::cmp::Reverse(listed.modified)));
}

impl Iterator for Versions {
    type Item = Result<Vec<Listed>>;

    fn next(&mut self) -> Option<Result<Vec<Listed>>> {
        if self.failed {
            return None;
        }
        let next = self.next_key();
        self.failed = next.is_err();
        next.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::super::listing::Version;
    use super::*;

    fn listed(id: &str, modified: i64, latest: bool) -> Listed {
        let version = Some(Version { id: id.into(), latest, deleted: false });
        Listed { key: "k".into(), size: 0, etag: String::new(), modified, shown: None, version }
    }

    #[test]
    fn the_current_version_comes_first_then_the_newest_and_ties_stay_as_listed() {
        let mut versions =
            [listed("a", 5, false), listed("b", 7, false), listed("c", 7, false), listed("d", 6, true)];
        newest_first(&mut versions);
        let ids = versions.map(|listed| listed.version.unwrap().id);
        assert_eq!(ids, ["d", "b", "c", "a"]);
    }
}
