//! Keys at one revision, by ranged reads: several parts of the key space at once.

use std::thread;

use crossbeam_channel::{Sender, bounded};

use super::super::{Error, Result};
use crate::context::Cancel;
use crate::etcd::{Counted, Etcd, Keys, Present, Span};

/// Parts read at once, at most.
const PARTS: u32 = 4;
/// Fewer keys are not divided.
const DIVIDE: u64 = 20_000;
/// Pages waiting between all readers and whoever takes them.
const WAITING: usize = 2;
/// Common beginnings that are looked below in search of a middle.
const DEEP: usize = 16;

/// Shows the keys of `span` at the revision they were counted at, page by page; pages come in no order.
pub fn ranges<E: From<Error>>(
    etcd: &Etcd,
    span: &Span,
    counted: Counted,
    cancel: &Cancel,
    mut show: impl FnMut(Vec<Present>) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let server = Server { etcd, revision: counted.revision };
    let parts = divide(&server, span, counted.keys, PARTS)?;
    let (full, pages) = bounded(WAITING);
    thread::scope(|scope| {
        for part in parts {
            let full = full.clone();
            scope.spawn(move || read(etcd, part, counted.revision, cancel, &full));
        }
        // The channel ends with its last reader. An error ends the readers, whose pages nobody takes.
        drop(full);
        pages.into_iter().try_for_each(|page| show(page?))
    })
}

fn read(etcd: &Etcd, part: Span, revision: i64, cancel: &Cancel, full: &Sender<Result<Vec<Present>>>) {
    let mut keys = Keys::of(etcd, part, revision);
    loop {
        let page = cancel.check().map_err(Error::from).and_then(|()| keys.page().map_err(Error::from));
        let Some(page) = page.transpose() else { return };
        let failed = page.is_err();
        if full.send(page).is_err() || failed {
            return;
        }
    }
}

/// What dividing asks of the keys.
trait Count {
    fn count(&self, span: &Span) -> Result<u64>;
    fn first(&self, span: &Span) -> Result<Option<Vec<u8>>>;
}

struct Server<'a> {
    etcd: &'a Etcd,
    revision: i64,
}

impl Count for Server<'_> {
    fn count(&self, span: &Span) -> Result<u64> {
        Ok(self.etcd.count(span, self.revision)?.keys)
    }

    fn first(&self, span: &Span) -> Result<Option<Vec<u8>>> {
        Ok(self.etcd.first(span, self.revision)?)
    }
}

/// `span`, which has `keys` keys, in up to `parts` parts of similar size, in order.
fn divide(asked: &dyn Count, span: &Span, keys: u64, parts: u32) -> Result<Vec<Span>> {
    if parts < 2 || keys < DIVIDE {
        return Ok(vec![span.clone()]);
    }
    let Some((middle, before)) = middle(asked, span, keys)? else { return Ok(vec![span.clone()]) };
    let left = Span { from: span.from.clone(), to: middle.clone() };
    let right = Span { from: middle, to: span.to.clone() };
    let mut all = divide(asked, &left, before, parts / 2)?;
    all.extend(divide(asked, &right, keys - before, parts - parts / 2)?);
    Ok(all)
}

/// A key with a quarter to three quarters of the span's keys before it, and how many those are. Nothing
/// but counts is asked: below the longest beginning that most keys share, the next byte is halved.
fn middle(asked: &dyn Count, span: &Span, keys: u64) -> Result<Option<(Vec<u8>, u64)>> {
    let mut crowd = span.clone();
    for _ in 0..DEEP {
        let Some(first) = asked.first(&crowd)? else { return Ok(None) };
        let beginning = shared(asked, &crowd, &first)?;
        let (mut low, mut high) = (0u8, 255u8);
        while low < high {
            let byte = low + (high - low).div_ceil(2);
            let key = [beginning, &[byte]].concat();
            let count = asked.count(&span.until(&key))?;
            match count {
                _ if count < keys / 4 => low = byte,
                _ if count > keys - keys / 4 => high = byte - 1,
                _ => return Ok(Some((key, count))),
            }
        }
        // Most keys have this byte next.
        crowd = Span::of_prefix(&[beginning, &[low]].concat()).until(&span.to);
    }
    Ok(None)
}

/// The longest beginning of `first`, the first key of `span`, that all of its keys have.
fn shared<'a>(asked: &dyn Count, span: &Span, first: &'a [u8]) -> Result<&'a [u8]> {
    let keys = asked.count(span)?;
    let (mut all, mut none) = (0, first.len() + 1);
    while none - all > 1 {
        let length = (all + none) / 2;
        match asked.count(&span.until(&Span::of_prefix(&first[..length]).to))? >= keys {
            true => all = length,
            false => none = length,
        }
    }
    Ok(&first[..all])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Keys, and the range that may be asked about.
    struct Known(BTreeSet<Vec<u8>>, Span);

    impl Known {
        fn within(&self, span: &Span) -> impl Iterator<Item = &Vec<u8>> {
            assert!(span.from >= self.1.from && self.1.until(&span.to).to == span.to, "{span:?}");
            let to = span.to.clone();
            self.0.range(span.from.clone()..).take_while(move |key| to == [0] || **key < to)
        }
    }

    impl Count for Known {
        fn count(&self, span: &Span) -> Result<u64> {
            Ok(self.within(span).count() as u64)
        }

        fn first(&self, span: &Span) -> Result<Option<Vec<u8>>> {
            Ok(self.within(span).next().cloned())
        }
    }

    fn divided(keys: impl Iterator<Item = String>, prefix: &str) -> Vec<u64> {
        let span = Span::of_prefix(prefix.as_bytes());
        let known = Known(keys.map(String::into_bytes).collect(), span.clone());
        let count = known.count(&span).unwrap();
        let parts = divide(&known, &span, count, PARTS).unwrap();
        assert_eq!((&parts[0].from, &parts[parts.len() - 1].to), (&span.from, &span.to));
        assert!(parts.windows(2).all(|pair| pair[0].to == pair[1].from), "{parts:?}");
        let counts: Vec<u64> = parts.iter().map(|part| known.count(part).unwrap()).collect();
        assert_eq!(counts.iter().sum::<u64>(), count);
        counts
    }

    #[test]
    fn many_keys_are_divided_into_parts_of_similar_size() {
        let deep = |n: u32| format!("by-dev/meta/datacoord/segment/{n:08}");
        for counts in [
            divided((0..40_000).map(deep), ""),
            divided((0..40_000).map(deep), "by-dev/"),
            divided((0..20_000).map(|n| format!("{n}")).chain((0..20_000).map(deep)), ""),
        ] {
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(counts.len() >= 3 && most / least <= 9, "{counts:?}");
        }
    }

    #[test]
    fn keys_without_a_middle_are_read_as_one() {
        assert_eq!(divided((0..90_000).map(|n| "x".repeat(n % 300) + &n.to_string()), ""), [90_000]);
    }

    #[test]
    fn few_keys_are_read_as_one() {
        assert_eq!(divided((0..19_999).map(|n| n.to_string()), ""), [19_999]);
        assert_eq!(divided(std::iter::empty(), "a/"), [0]);
    }
}
