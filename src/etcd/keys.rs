//! The keys of an etcd, page by page, at one revision.

use etcd_client::GetOptions;

use super::{Etcd, Result};

/// Keys of a first page.
const FIRST_PAGE: i64 = 100;
/// Bytes that a page should have.
const PAGE_BYTES: usize = 2 << 20;
/// Keys that a page may have.
const MOST_KEYS: i64 = 100_000;
/// Larger answers are refused, and asked for again with fewer keys. A single value may have this size.
const MAX_ANSWER: usize = 32 << 20;

/// A key as it is at the revision that is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// The key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
    /// Its lease, 0 for none.
    pub lease: i64,
    /// The revision of this value.
    pub mod_revision: i64,
    /// The revision that made the key.
    pub create_revision: i64,
    /// How many times it was put since.
    pub version: i64,
}

/// A range of keys: `from` and all up to `to`, without it; `\0` there is the end of all keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The first key.
    pub from: Vec<u8>,
    /// The first key behind it.
    pub to: Vec<u8>,
}

impl Span {
    /// The keys that begin with `prefix`; all for an empty one.
    pub fn of_prefix(prefix: &[u8]) -> Span {
        let from = if prefix.is_empty() { vec![0] } else { prefix.to_vec() };
        Span { from, to: prefix_end(prefix) }
    }

    /// What of it comes before the key `to`.
    pub fn until(&self, to: &[u8]) -> Span {
        let beyond = to == [0] || self.to != [0] && to > self.to.as_slice();
        let to = if beyond { &self.to } else { to };
        Span { from: self.from.clone(), to: to.to_vec() }
    }
}

/// The first key behind those that begin with `prefix`; `\0` where there is none.
fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// How many keys a range has, and the revision at which they were counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// The newest revision at that moment.
    pub revision: i64,
    /// Keys.
    pub keys: u64,
}

impl Etcd {
    /// Counts the keys of `span` at `revision`, 0 for the newest.
    pub fn count(&self, span: &Span, revision: i64) -> Result<Counted> {
        let options = GetOptions::new().with_range(span.to.clone()).with_count_only().with_revision(revision);
        let mut client = self.client();
        let answer = self.answered("count the keys of", client.get(span.from.clone(), Some(options)))?;
        let revision = answer.header().map_or(0, |header| header.revision());
        Ok(Counted { revision, keys: answer.count().try_into().unwrap_or_default() })
    }

    /// A key as the member has it at `revision`; `None` where it is not there.
    pub fn at(&self, key: &[u8], revision: i64) -> Result<Option<Present>> {
        let options = GetOptions::new().with_revision(revision).with_serializable();
        let mut client = self.client().kv_client().max_decoding_message_size(MAX_ANSWER);
        let mut answer = self.answered("read", client.get(key, Some(options)))?;
        Ok(answer.take_kvs().pop().map(present))
    }

    /// The first key of `span` at `revision`.
    pub fn first(&self, span: &Span, revision: i64) -> Result<Option<Vec<u8>>> {
        let options = GetOptions::new()
            .with_range(span.to.clone())
            .with_keys_only()
            .with_limit(1)
            .with_revision(revision);
        let mut client = self.client();
        let mut answer = self.answered("read", client.get(span.from.clone(), Some(options)))?;
        Ok(answer.take_kvs().pop().map(|kv| kv.into_key_value().0))
    }
}

/// The keys of an etcd in order, at one revision.
pub struct Keys<'a> {
    etcd: &'a Etcd,
    next: Option<Vec<u8>>,
    to: Vec<u8>,
    revision: i64,
    limit: i64,
    page: std::vec::IntoIter<Present>,
}

impl<'a> Keys<'a> {
    /// The keys that begin with `prefix` at `revision`; 0 for the newest.
    pub fn at(etcd: &'a Etcd, prefix: &[u8], revision: i64) -> Keys<'a> {
        Keys::of(etcd, Span::of_prefix(prefix), revision)
    }

    /// The keys of `span` at `revision`.
    pub fn of(etcd: &'a Etcd, span: Span, revision: i64) -> Keys<'a> {
        let page = Vec::new().into_iter();
        Keys { etcd, next: Some(span.from), to: span.to, revision, limit: FIRST_PAGE, page }
    }

    /// The next page; `None` at the end. Not to be mixed with reading key by key.
    pub fn page(&mut self) -> Result<Option<Vec<Present>>> {
        let Some(from) = self.next.take() else { return Ok(None) };
        let mut answer = loop {
            match self.ask(&from) {
                Err(error) if error.is_too_large() && self.limit > 1 => self.limit = (self.limit / 8).max(1),
                answer => break answer?,
            }
        };
        if self.revision == 0 {
            self.revision = answer.header().map_or(0, |header| header.revision());
        }
        let more = answer.more();
        let page: Vec<Present> = answer.take_kvs().into_iter().map(present).collect();
        let bytes: usize = page.iter().map(|p| p.key.len() + p.value.len() + 32).sum();
        if !page.is_empty() {
            // As many keys as make a page of the right size, at most eight times as many as before.
            let fitting = (PAGE_BYTES * page.len() / bytes.max(1)) as i64;
            self.limit = fitting.clamp(1, self.limit * 8).min(MOST_KEYS);
        }
        self.next = page.last().filter(|_| more).map(|last| [&last.key[..], &[0]].concat());
        Ok(Some(page))
    }

    fn ask(&self, from: &[u8]) -> Result<etcd_client::GetResponse> {
        let options =
            GetOptions::new().with_range(self.to.clone()).with_limit(self.limit).with_revision(self.revision);
        let mut kv = self.etcd.client().kv_client().max_decoding_message_size(MAX_ANSWER);
        let answer = self.etcd.runtime().block_on(kv.get(from, Some(options)));
        answer.map_err(|e| self.etcd.fail("read", &e))
    }
}

fn present(kv: etcd_client::KeyValue) -> Present {
    let (lease, mod_revision) = (kv.lease(), kv.mod_revision());
    let (create_revision, version) = (kv.create_revision(), kv.version());
    let (key, value) = kv.into_key_value();
    Present { key, value, lease, mod_revision, create_revision, version }
}

impl Iterator for Keys<'_> {
    type Item = Result<Present>;

    fn next(&mut self) -> Option<Result<Present>> {
        loop {
            if let Some(present) = self.page.next() {
                return Some(Ok(present));
            }
            match self.page() {
                Ok(page) => self.page = page?.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        assert_eq!(prefix_end(b"a/"), b"a0");
        assert_eq!(prefix_end(b"a\xff"), b"b");
        assert_eq!(prefix_end(b"\xff\xff"), b"\0");
        assert_eq!(prefix_end(b""), b"\0");
    }
}
