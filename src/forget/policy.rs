//! Which snapshots are kept: a function without I/O.

use std::collections::{BTreeMap, HashSet};

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};

use crate::context::Nanos;
use crate::id::SessionId;

/// What is kept. A snapshot stays where any rule keeps it. Without a rule all stay.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// All that are at most this much older than the newest.
    pub within: Option<Span>,
    /// So many of the newest.
    pub last: u64,
    /// The newest of each of so many periods that have any.
    pub periods: BTreeMap<Period, u64>,
    /// All with one of these tags.
    pub tags: Vec<String>,
    /// A bound for the size says what is dropped: then tags alone only protect.
    pub bounded: bool,
    /// So many of the newest, whatever a bound says.
    pub at_least: u64,
}

/// A stretch of the calendar, in local time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Period {
    /// An hour; the one that is repeated when summer time ends counts as two.
    Hour,
    /// A day, whatever its length.
    Day,
    /// From Monday to Sunday.
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
}

/// Why a snapshot is kept, or is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The newest of its series always stays.
    Newest,
    /// One of the last.
    Last,
    /// Young enough.
    Within,
    /// The newest of this hour, day …
    Period(Period),
    /// It has this tag.
    Tag(String),
    /// One of those that stay whatever a bound says.
    AtLeast,
    /// No rule was given.
    NoRule,
    /// Another series than the one that was named.
    OtherSeries,
    /// No rule keeps it.
    NotKept,
    /// It was named to be forgotten.
    Named,
    /// The repository would be too large with it.
    Size,
}

impl Reason {
    /// As people and scripts read it.
    pub fn text(&self) -> String {
        match self {
            Reason::Newest => "newest".into(),
            Reason::Last => "last".into(),
            Reason::Within => "within".into(),
            Reason::Period(Period::Hour) => "hourly".into(),
            Reason::Period(Period::Day) => "daily".into(),
            Reason::Period(Period::Week) => "weekly".into(),
            Reason::Period(Period::Month) => "monthly".into(),
            Reason::Period(Period::Year) => "yearly".into(),
            Reason::Tag(tag) => format!("tag {tag}"),
            Reason::AtLeast => "at least".into(),
            Reason::NoRule => "no rule".into(),
            Reason::OtherSeries => "other series".into(),
            Reason::NotKept => "no rule keeps it".into(),
            Reason::Named => "named".into(),
            Reason::Size => "size".into(),
        }
    }

    /// Whether a size bound leaves a snapshot alone that is kept for this.
    pub fn protects(&self) -> bool {
        matches!(self, Reason::Newest | Reason::Tag(_) | Reason::AtLeast | Reason::OtherSeries)
    }
}

/// A snapshot as rules see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: SessionId,
    /// Its series.
    pub series: String,
    /// Its line of history, revision and generation: with them the newest is found as `latest` finds it.
    pub order: (u32, i64, u32),
    /// When it was taken.
    pub time: Nanos,
    /// Its tags.
    pub tags: Vec<String>,
}

impl Policy {
    /// Whether no rule says what is dropped.
    pub fn is_empty(&self) -> bool {
        let tags = !self.tags.is_empty() && !self.bounded;
        let periods = self.periods.values().any(|count| *count > 0);
        self.within.is_none() && self.last == 0 && !periods && !tags
    }
}

fn local(time: Nanos, zone: &TimeZone) -> Zoned {
    Timestamp::from_nanosecond(time.into()).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(zone.clone())
}

/// What tells one period from the next.
fn number(period: Period, at: &Zoned) -> (i32, i16, i32) {
    let (year, week) = (i32::from(at.year()), at.date().iso_week_date());
    match period {
        Period::Hour => (400 * year + i32::from(at.day_of_year()), at.hour().into(), at.offset().seconds()),
        Period::Day => (year, at.day_of_year(), 0),
        Period::Week => (week.year().into(), week.week().into(), 0),
        Period::Month => (year, at.month().into(), 0),
        Period::Year => (year, 0, 0),
    }
}

/// For each snapshot, in their order, why it is kept; empty where no rule keeps it. Each series is judged by
/// itself. Durations reach back from the newest snapshot, or from now where that is earlier: where backups
/// have stopped, or a clock is wrong, nothing more is dropped.
pub fn decide(policy: &Policy, candidates: &[Candidate], now: Nanos, zone: &TimeZone) -> Vec<Vec<Reason>> {
    let mut reasons = vec![Vec::new(); candidates.len()];
    let mut series: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (place, candidate) in candidates.iter().enumerate() {
        series.entry(&candidate.series).or_default().push(place);
    }
    for mut places in series.into_values() {
        // Newest first.
        places.sort_by_key(|&place| std::cmp::Reverse((candidates[place].time, candidates[place].id)));
        decide_series(policy, candidates, &places, (now, zone), &mut reasons);
    }
    reasons
}

fn decide_series(
    policy: &Policy,
    all: &[Candidate],
    newest_first: &[usize],
    (now, zone): (Nanos, &TimeZone),
    reasons: &mut [Vec<Reason>],
) {
    let latest = newest_first.iter().max_by_key(|&&place| (all[place].order, all[place].time, all[place].id));
    let newest = newest_first.first();
    let from = newest.map(|&place| all[place].time.min(now)).zip(policy.within.as_ref());
    // A span beyond what calendars know keeps all.
    let from = from.map(|(time, span)| local(time, zone).checked_sub(*span).ok());
    let mut seen: BTreeMap<Period, HashSet<(i32, i16, i32)>> = BTreeMap::new();
    for (&place, rank) in newest_first.iter().zip(0u64..) {
        let (candidate, kept) = (&all[place], &mut reasons[place]);
        if Some(&place) == newest || Some(&place) == latest {
            kept.push(Reason::Newest);
        }
        if rank < policy.at_least {
            kept.push(Reason::AtLeast);
        }
        let tags = policy.tags.iter().filter(|tag| candidate.tags.contains(tag));
        kept.extend(tags.cloned().map(Reason::Tag));
        if policy.is_empty() {
            kept.push(Reason::NoRule);
            continue;
        }
        if rank < policy.last {
            kept.push(Reason::Last);
        }
        let at = local(candidate.time, zone);
        if from.as_ref().is_some_and(|from| from.as_ref().is_none_or(|from| at >= *from)) {
            kept.push(Reason::Within);
        }
        for (&period, &most) in &policy.periods {
            let seen = seen.entry(period).or_default();
            if (seen.len() as u64) < most && seen.insert(number(period, &at)) {
                kept.push(Reason::Period(period));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;
    use proptest::prelude::*;

    use super::*;
    use crate::context::Seeded;

    /// New York's rules, whatever the machine knows of time zones.
    fn new_york() -> TimeZone {
        TimeZone::posix("EST5EDT,M3.2.0,M11.1.0").unwrap()
    }

    fn at(text: &str) -> Nanos {
        text.parse::<Timestamp>().unwrap().as_nanosecond() as Nanos
    }

    fn candidate(n: u64, series: &str, time: Nanos, tags: &[&str]) -> Candidate {
        let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        Candidate {
            id: SessionId::draw(&Seeded::new(n), 0),
            series: series.into(),
            order: (0, 0, 0),
            time,
            tags,
        }
    }

    fn times(texts: &[&str]) -> Vec<Candidate> {
        texts.iter().zip(0..).map(|(text, n)| candidate(n, "default", at(text), &[])).collect()
    }

    fn kept(policy: &Policy, candidates: &[Candidate], now: &str, zone: &TimeZone) -> Vec<usize> {
        let decided = decide(policy, candidates, at(now), zone);
        decided
            .iter()
            .enumerate()
            .filter(|(_, reasons)| !reasons.is_empty())
            .map(|(place, _)| place)
            .collect()
    }

    fn every(period: Period, n: u64) -> Policy {
        Policy { periods: [(period, n)].into(), ..Policy::default() }
    }

    /// The rules again, each snapshot by itself, with the calendar as text.
    fn stays(policy: &Policy, all: &[Candidate], own: &Candidate, now: Nanos, zone: &TimeZone) -> bool {
        let series = || all.iter().filter(|other| other.series == own.series);
        let newer = || series().filter(|other| (other.time, other.id) > (own.time, own.id));
        if newer().count() == 0 || series().all(|o| (o.order, o.time, o.id) <= (own.order, own.time, own.id))
        {
            return true;
        }
        if policy.is_empty() || (newer().count() as u64) < policy.last.max(policy.at_least) {
            return true;
        }
        if policy.tags.iter().any(|tag| own.tags.contains(tag)) {
            return true;
        }
        if let Some(span) = policy.within {
            let newest = series().map(|other| other.time).max().unwrap().min(now);
            if local(newest, zone).checked_sub(span).map_or(true, |from| local(own.time, zone) >= from) {
                return true;
            }
        }
        policy.periods.iter().any(|(period, most)| {
            let format = match period {
                Period::Hour => "%Y-%m-%d %H %z",
                Period::Day => "%Y-%m-%d",
                Period::Week => "%G-%V",
                Period::Month => "%Y-%m",
                Period::Year => "%Y",
            };
            let text = |c: &Candidate| local(c.time, zone).strftime(format).to_string();
            let before: HashSet<String> = newer().map(text).collect();
            !before.contains(&text(own)) && (before.len() as u64) < *most
        })
    }

    fn policies() -> impl Strategy<Value = Policy> {
        let count = || 0..4u64;
        let periods = (count(), count(), count(), count(), count());
        (proptest::option::of(0..2000i64), count(), periods, any::<bool>(), count()).prop_map(
            |(within, last, (hours, days, weeks, months, years), tag, at_least)| Policy {
                within: within.map(|hours| Span::new().hours(hours)),
                last,
                periods: [
                    (Period::Hour, hours),
                    (Period::Day, days),
                    (Period::Week, weeks),
                    (Period::Month, months),
                    (Period::Year, years),
                ]
                .into(),
                tags: if tag { vec!["keep".into()] } else { vec![] },
                bounded: false,
                at_least,
            },
        )
    }

    proptest! {
        #[test]
        fn decisions_are_what_the_rules_say_of_each_snapshot_by_itself(
            policy in policies(),
            snapshots in proptest::collection::vec((0..3_000i64, 0..2u8, any::<bool>(), 0..3i64), 0..40),
            minutes in 1..40i64,
            now in 0..120_000i64,
        ) {
            let begin = at("2027-10-20T00:00:00Z");
            let time = |minutes: i64| begin + minutes * 60_000_000_000;
            let all: Vec<Candidate> = snapshots
                .iter()
                .zip(0..)
                .map(|(&(step, series, tagged, revision), n)| {
                    let tags: &[&str] = if tagged { &["keep"] } else { &[] };
                    let one = candidate(n, if series == 0 { "a" } else { "b" }, time(step * minutes), tags);
                    Candidate { order: (0, revision, 0), ..one }
                })
                .collect();
            let (now, zone) = (time(now), new_york());
            let decided = decide(&policy, &all, now, &zone);
            for (own, reasons) in all.iter().zip(decided) {
                prop_assert_eq!(!reasons.is_empty(), stays(&policy, &all, own, now, &zone), "{:?}", own);
            }
        }
    }

    #[test]
    fn the_hour_that_comes_twice_is_two_hours_and_its_day_one_day() {
        // 01:30 EDT, 01:30 EST, 23:30 EST of 2026-11-01, and the day after.
        let all = times(&[
            "2026-11-01T05:30:00Z",
            "2026-11-01T06:30:00Z",
            "2026-11-02T04:30:00Z",
            "2026-11-02T05:30:00Z",
        ]);
        let now = "2026-11-02T06:00:00Z";
        assert_eq!(kept(&every(Period::Hour, 9), &all, now, &new_york()), [0, 1, 2, 3]);
        assert_eq!(kept(&every(Period::Day, 9), &all, now, &new_york()), [2, 3]);
        assert_eq!(kept(&every(Period::Day, 9), &all, now, &TimeZone::UTC), [1, 3]);
    }

    #[test]
    fn a_day_back_is_the_same_time_of_day_also_when_the_clocks_were_set() {
        // 25 hours lie between the two noons; a day has them both, 24 hours only the later one.
        let all = times(&["2026-10-31T16:00:00Z", "2026-11-01T17:00:00Z"]);
        let now = "2026-11-01T17:00:00Z";
        let within = |span: Span| Policy { within: Some(span), ..Policy::default() };
        assert_eq!(kept(&within(1.day()), &all, now, &new_york()), [0, 1]);
        assert_eq!(kept(&within(24.hours()), &all, now, &new_york()), [1]);
    }

    #[test]
    fn leap_days_and_weeks_across_new_year_count() {
        let all = times(&["2027-02-27T12:00:00Z", "2027-02-28T12:00:00Z", "2028-02-29T12:00:00Z"]);
        let year = Policy { within: Some(1.year()), ..Policy::default() };
        assert_eq!(kept(&year, &all, "2028-02-29T12:00:00Z", &TimeZone::UTC), [1, 2]);
        // Thursday and Friday of one week, in two years.
        let all = times(&["2026-12-31T12:00:00Z", "2027-01-01T12:00:00Z"]);
        assert_eq!(kept(&every(Period::Week, 5), &all, "2027-01-02T00:00:00Z", &TimeZone::UTC), [1]);
        assert_eq!(kept(&every(Period::Year, 5), &all, "2027-01-02T00:00:00Z", &TimeZone::UTC), [0, 1]);
    }

    #[test]
    fn when_backups_have_stopped_or_a_clock_is_wrong_nothing_more_is_dropped() {
        let all = times(&["2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z", "2026-11-03T00:00:00Z"]);
        let days = Policy { within: Some(2.days()), ..Policy::default() };
        assert_eq!(kept(&days, &all, "2026-11-03T00:00:00Z", &TimeZone::UTC), [0, 1, 2]);
        assert_eq!(kept(&days, &all, "2036-01-01T00:00:00Z", &TimeZone::UTC), [0, 1, 2]);
        let mut future = all;
        future.push(candidate(9, "default", at("2099-01-01T00:00:00Z"), &[]));
        assert_eq!(kept(&days, &future, "2026-11-03T00:00:00Z", &TimeZone::UTC), [0, 1, 2, 3]);
    }

    #[test]
    fn without_a_rule_all_stay_and_the_newest_stays_always() {
        let all = times(&["2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z"]);
        let now = "2026-11-03T00:00:00Z";
        assert_eq!(kept(&Policy::default(), &all, now, &TimeZone::UTC), [0, 1]);
        let tag = Policy { tags: vec!["none has it".into()], ..Policy::default() };
        assert_eq!(kept(&tag, &all, now, &TimeZone::UTC), [1]);
        assert_eq!(kept(&Policy { bounded: true, ..tag }, &all, now, &TimeZone::UTC), [0, 1]);
        assert_eq!(
            kept(&Policy { last: 1, at_least: 2, ..Policy::default() }, &all, now, &TimeZone::UTC),
            [0, 1]
        );
    }
}
