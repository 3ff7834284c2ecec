//! Events since a revision, by `Watch`.
//!
//! A watch may end at any message, and servers of some versions show events twice, out of order, or not
//! at all. So what was shown is counted, and what is left out is noticed where all keys are watched:
//! there every revision has an event.

use std::time::{Duration, Instant};

use etcd_client::{WatchOptions, WatchResponse, WatchStream};
use tokio::time::timeout;

use super::super::Error;
use crate::context::Cancel;
use crate::etcd::{ANSWER, Etcd, Span};
use crate::etcd_file::{KeyRecord, KeyValue};

/// Larger messages end a watch. Those of more than one event are divided by the server, at about 2 MiB.
const MAX_MESSAGE: usize = 64 << 20;
/// A watch that ended so often without a new revision is given up.
const ATTEMPTS: u32 = 6;
/// A watch that shows nothing is asked how far it is after this time.
const ASK: Duration = Duration::from_millis(250);

/// How a watch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    /// Every event was shown.
    Reached,
    /// The first of them are compacted.
    Compacted,
    /// The server left some out.
    Lost,
}

/// A watch that was begun before its events are wanted. A server looks only ten times a second after watches
/// that begin in the past, so that the first event takes a while.
pub struct Early {
    after: i64,
    stream: WatchStream,
}

impl Early {
    /// Begins to watch what comes after `after`. Why that fails is told to whoever watches later.
    pub fn begin(etcd: &Etcd, span: &Span, after: i64) -> Option<Early> {
        open(etcd, span, after + 1).ok().map(|stream| Early { after, stream })
    }
}

/// A stream of the events of `span` from a revision on.
fn open(etcd: &Etcd, span: &Span, from: i64) -> crate::etcd::Result<WatchStream> {
    let options = WatchOptions::new().with_range(span.to.clone()).with_start_revision(from).with_fragment();
    let mut client = etcd.client().watch_client().max_decoding_message_size(MAX_MESSAGE);
    let begun = client.watch(span.from.clone(), Some(options));
    let begun = etcd.runtime().block_on(async { timeout(ANSWER, begun).await });
    begun.map_err(|_| etcd.silent("watch"))?.map_err(|error| etcd.fail("watch", &error))
}

/// Shows every event of the keys in `span` with after < revision <= until, in order. `until` has been
/// reached by the member. Places within a revision count the events shown: they are etcd's own where all
/// keys are watched. `early` is a watch of the same keys.
pub fn watch<E: From<Error>>(
    etcd: &Etcd,
    span: &Span,
    (after, until): (i64, i64),
    early: Option<Early>,
    cancel: &Cancel,
    mut show: impl FnMut(KeyRecord) -> std::result::Result<(), E>,
) -> std::result::Result<Watched, E> {
    let mut order = Order::new(after, *span == Span::of_prefix(&[]));
    let (mut failures, mut last) = (0, after);
    let mut early = early.filter(|early| early.after == after).map(|early| early.stream);
    while order.done < until {
        let mut session = Session { etcd, cancel, until, quiet: Instant::now(), early: early.take() };
        let error = match session.follow(span, &mut order, &mut show)? {
            End::Watched(watched) => return Ok(watched),
            End::Cut(error) => error,
        };
        if order.done > last {
            (failures, last) = (0, order.done);
        }
        failures += 1;
        if failures == ATTEMPTS {
            return Err(Error::from(error).into());
        }
        pause(failures, cancel).map_err(Error::from)?;
    }
    Ok(Watched::Reached)
}

/// Longer each time, some fifteen seconds altogether: time for a member to come back.
fn pause(failures: u32, cancel: &Cancel) -> std::result::Result<(), crate::context::Interrupted> {
    cancel.wait(ASK * (1 << failures))
}

/// How one stream ended.
enum End {
    Watched(Watched),
    /// To be gone on with by another stream.
    Cut(crate::etcd::Error),
}

/// One stream.
struct Session<'a> {
    etcd: &'a Etcd,
    cancel: &'a Cancel,
    until: i64,
    /// Since when no event came.
    quiet: Instant,
    /// The stream, where it was begun already.
    early: Option<WatchStream>,
}

impl Session<'_> {
    fn follow<E: From<Error>>(
        &mut self,
        span: &Span,
        order: &mut Order,
        show: &mut impl FnMut(KeyRecord) -> std::result::Result<(), E>,
    ) -> std::result::Result<End, E> {
        let from = order.resume();
        let mut stream = match self.early.take().map_or_else(|| open(self.etcd, span, from), Ok) {
            Ok(stream) => stream,
            Err(error) => return Ok(End::Cut(error)),
        };
        loop {
            self.cancel.check().map_err(Error::from)?;
            let message = match self.message(&mut stream) {
                Ok(Some(message)) => message,
                Ok(None) if self.quiet.elapsed() < ANSWER => continue,
                // The stream is alive and shows nothing: the revision that is waited for has no event.
                Ok(None) if order.whole => return Ok(End::Watched(Watched::Lost)),
                Ok(None) => return Ok(End::Cut(self.etcd.silent("watch"))),
                Err(error) => return Ok(End::Cut(error)),
            };
            if let Some(end) = self.take(message, order, show)? {
                return Ok(end);
            }
        }
    }

    /// The next message; `None` when there is none for a while.
    fn message(&mut self, stream: &mut WatchStream) -> crate::etcd::Result<Option<WatchResponse>> {
        let message = self.etcd.runtime().block_on(async { timeout(ASK, stream.message()).await });
        match message {
            Ok(Ok(Some(message))) => Ok(Some(message)),
            Ok(Ok(None)) => Err(self.etcd.broken("watch", "the server ended the watch")),
            Ok(Err(error)) => Err(self.etcd.fail("watch", &error)),
            Err(_) => {
                let asked = self.etcd.runtime().block_on(stream.request_progress());
                asked.map(|()| None).map_err(|error| self.etcd.fail("watch", &error))
            }
        }
    }

    fn take<E: From<Error>>(
        &mut self,
        message: WatchResponse,
        order: &mut Order,
        show: &mut impl FnMut(KeyRecord) -> std::result::Result<(), E>,
    ) -> std::result::Result<Option<End>, E> {
        if message.compact_revision() > 0 {
            return Ok(Some(End::Watched(Watched::Compacted)));
        }
        if message.canceled() {
            let why = message.cancel_reason();
            let error =
                self.etcd.broken("watch", if why.is_empty() { "the watch was cancelled" } else { why });
            return match error.kind() {
                crate::fault::Kind::Denied => Err(Error::from(error).into()),
                _ => Ok(Some(End::Cut(error))),
            };
        }
        let (more, created, quiet) = (message.0.fragment, message.created(), message.0.events.is_empty());
        let revision = message.header().map_or(0, |header| header.revision());
        if !quiet {
            self.quiet = Instant::now();
        }
        for event in message.0.events {
            let Some(kv) = event.kv else { continue };
            if kv.mod_revision > self.until {
                let all = order.complete() && (!order.whole || order.done >= self.until);
                return Ok(Some(End::Watched(if all { Watched::Reached } else { Watched::Lost })));
            }
            let sub = match order.place(kv.mod_revision) {
                Place::New(sub) => sub,
                Place::Shown => continue,
                Place::Astray => return Ok(Some(End::Watched(Watched::Lost))),
            };
            // A deletion; other types than put and delete there are none.
            let tombstone = event.r#type == 1;
            let (revision, create_revision) = (kv.mod_revision, kv.create_revision);
            let (version, lease) = (kv.version, kv.lease);
            let kv = match tombstone {
                true => KeyValue { key: kv.key, ..KeyValue::default() },
                false => {
                    let (key, value) = (kv.key, kv.value);
                    KeyValue { key, value, create_revision, mod_revision: revision, version, lease }
                }
            };
            show(KeyRecord { revision, sub, tombstone, kv })?;
        }
        if !more && !quiet && !order.complete() {
            return Ok(Some(End::Watched(Watched::Lost)));
        }
        if quiet && !created && !order.whole {
            if order.is_short() && revision >= order.current {
                return Ok(Some(End::Watched(Watched::Lost)));
            }
            order.nothing_before(revision);
        }
        let reached = order.done >= self.until;
        Ok(reached.then_some(End::Watched(Watched::Reached)))
    }
}

/// What has been shown so far.
struct Order {
    /// All keys are watched: every revision has an event.
    whole: bool,
    /// Everything up to here.
    done: i64,
    /// The revision under way.
    current: i64,
    /// How many of its events were shown.
    shown: i64,
    /// How many of them this stream has brought.
    position: i64,
}

/// What to do with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Show it; its place in its revision.
    New(i64),
    /// It was shown.
    Shown,
    /// It cannot come here.
    Astray,
}

impl Order {
    fn new(after: i64, whole: bool) -> Order {
        Order { whole, done: after, current: after, shown: 0, position: 0 }
    }

    /// A new stream is to begin with this revision.
    fn resume(&mut self) -> i64 {
        self.position = 0;
        self.done + 1
    }

    /// The next event is of this revision.
    fn place(&mut self, revision: i64) -> Place {
        if revision <= self.done {
            return Place::Shown;
        }
        if revision < self.current {
            return Place::Astray;
        }
        if revision > self.current {
            if !self.complete() || self.whole && revision != self.current + 1 {
                return Place::Astray;
            }
            (self.current, self.shown, self.position) = (revision, 0, 0);
        }
        let sub = self.position;
        self.position += 1;
        if sub < self.shown {
            return Place::Shown;
        }
        self.shown = self.position;
        Place::New(sub)
    }

    /// Whether this stream has not brought all that was shown of the revision under way.
    fn is_short(&self) -> bool {
        self.current > self.done && self.position < self.shown
    }

    /// The revision under way has no more events. False where it is short.
    fn complete(&mut self) -> bool {
        let whole = !self.is_short();
        if whole {
            self.done = self.done.max(self.current);
        }
        whole
    }

    /// The server says that it has shown everything up to `revision`.
    fn nothing_before(&mut self, revision: i64) {
        self.done = self.done.max(revision);
        self.current = self.current.max(revision);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The places of events of these revisions; -1 for those shown before, -2 for those astray.
    fn places(order: &mut Order, revisions: &[i64]) -> Vec<i64> {
        let place = |&revision: &i64| match order.place(revision) {
            Place::New(sub) => sub,
            Place::Shown => -1,
            Place::Astray => -2,
        };
        revisions.iter().map(place).collect()
    }

    #[test]
    fn events_are_counted_within_their_revision() {
        let mut order = Order::new(4, true);
        assert_eq!(order.resume(), 5);
        assert_eq!(places(&mut order, &[5, 5, 6, 7, 7, 7]), [0, 1, 0, 0, 1, 2]);
        assert_eq!(order.done, 6);
        assert!(order.complete());
        assert_eq!(order.done, 7);
    }

    #[test]
    fn a_stream_that_was_cut_goes_on_where_it_was() {
        let all = [5, 5, 6, 6, 6, 7, 8, 8];
        for cut in 0..=all.len() {
            let mut order = Order::new(4, true);
            let mut shown: Vec<i64> = places(&mut order, &all[..cut]);
            let from = order.resume();
            let rest: Vec<i64> = all.iter().copied().filter(|revision| *revision >= from).collect();
            shown.extend(places(&mut order, &rest).into_iter().filter(|place| *place != -1));
            assert_eq!(shown, [0, 1, 0, 1, 2, 0, 0, 1], "cut after {cut}");
        }
    }

    #[test]
    fn what_was_shown_is_not_shown_again() {
        let mut order = Order::new(4, true);
        assert_eq!(places(&mut order, &[5, 6, 6]), [0, 0, 1]);
        assert!(order.complete());
        assert_eq!(places(&mut order, &[6, 6, 5, 7]), [-1, -1, -1, 0]);
    }

    #[test]
    fn what_was_left_out_is_noticed() {
        assert_eq!(places(&mut Order::new(4, true), &[5, 7]), [0, -2]);
        assert_eq!(places(&mut Order::new(4, true), &[6]), [-2]);
        assert_eq!(places(&mut Order::new(4, false), &[6, 9, 8]), [0, 0, -2]);
        // After a cut a revision has fewer events than before.
        let mut order = Order::new(4, true);
        assert_eq!(places(&mut order, &[5, 5]), [0, 1]);
        order.resume();
        assert_eq!(places(&mut order, &[5, 6]), [-1, -2]);
        order.resume();
        assert!(!order.complete() && order.done == 4, "nor is it whole where nothing else comes");
    }

    #[test]
    fn a_word_of_the_server_is_enough_where_revisions_may_have_no_event() {
        let mut order = Order::new(4, false);
        assert_eq!(places(&mut order, &[7]), [0]);
        order.nothing_before(9);
        assert_eq!((order.done, order.resume()), (9, 10));
        assert_eq!(places(&mut order, &[9, 12]), [-1, 0]);
    }
}
