//! The collection protocol in every interleaving.
//!
//! Writers, readers, collectors and forgets run beside each other against a medium. One listing of a
//! folder (or one page of it), one put, one batch of deletions is one step; between two of its steps any
//! other actor may take any number of steps, and none is ever forced: an actor that stops for ever and
//! one that wakes late are both among the paths. An answer may be lost, and what was put then comes late,
//! or never. What the actors decide they decide by the functions of `icecore::collection`, which the program
//! runs. Each of the protocol's rules can be broken: then a path to a loss must be found.
//!
//! The small configurations run with the other tests; `ICECORE_SOAK=1` runs the large ones too.

mod actors;
mod medium;

use std::collections::{BTreeSet, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;

use actors::{Actor, At, Early, Judging, Move, Role, State};
use icecore::collection::{MARK, Step};
use icecore::format::SegmentName;
use icecore::id::{PackId, SessionId};
use medium::*;
use stateright::{Checker, HasDiscoveries, Model, Property};

/// The rules. Each says what an actor does; without it a loss must be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// A writer reuses no chunk through a condemned pack.
    Exclude,
    /// A session counts only if its label is still the newest when it judges the lists.
    Reread,
    /// Names are listed first, the newest verdict after.
    After,
    /// The index on this machine answers only through segments that are valid now.
    Cache,
    /// Of older labels, a writer uses only segments of committed sessions, or that the verdict names.
    Uncommitted,
    /// The parent is checked to be valid after the session is put.
    ParentCheck,
    /// A claim whose name is taken is compared; one that is not mine means failed.
    ExistsCompare,
    /// After its claim the writer looks for a newer verdict that does not name it.
    PostCheck,
    /// A snapshot older than the newest verdict is valid only if that names it.
    VoidSnapshot,
    /// So is a segment.
    VoidSegment,
    /// A collector's segment is valid only if the newest verdict names it.
    MergedNamed,
    /// Segments inside claims are not valid below the newest verdict.
    InlineVoid,
    /// A forget puts a tombstone; nothing is deleted without a verdict.
    Tombstone,
    /// Sessions to wait for are listed after the condemned list is put.
    ListAfter,
    /// The verdict waits until every older writer has a claim.
    Wait,
    /// The mark that decides is made after the wait.
    Remark,
    /// It includes what open sessions pin.
    Pins,
    /// A pinned record stays, with its tombstone.
    PinRecord,
    /// It lists snapshots before sessions.
    MarkOrder,
    /// Every needed chunk keeps a copy in a listed pack that does not die.
    Copies,
    /// The verdict keeps every pack that does not die listed.
    KeepAll,
    /// The verdict is put by create-if-absent, and carried out as it is stored.
    StoredVerdict,
    /// After its verdict a collector looks whether a newer one exists; then it does nothing.
    VerdictCheck,
    /// A new condemned list is put only once the last one has its verdict.
    Serial,
    /// The newest verdict stays until the next one exists.
    KeepLast,
}

/// Every rule, and the configuration in which breaking it is found out.
const RULES: [(Rule, &str); 25] = [
    (Rule::Exclude, "a writer and a collector"),
    (Rule::Reread, "a writer and a collector"),
    (Rule::After, "a writer and a collector"),
    (Rule::Cache, "a writer and a collector"),
    (Rule::Uncommitted, "two writers"),
    (Rule::ParentCheck, "a writer and a collector"),
    (Rule::ExistsCompare, "a writer and a collector"),
    (Rule::PostCheck, "a writer and a collector"),
    (Rule::VoidSnapshot, "a writer and a collector"),
    (Rule::VoidSegment, "a writer and a collector"),
    (Rule::MergedNamed, "two collectors that copy"),
    (Rule::InlineVoid, "inside a record"),
    (Rule::Tombstone, "a writer and a collector"),
    (Rule::ListAfter, "a writer and a collector"),
    (Rule::Wait, "a writer and a collector"),
    (Rule::Remark, "a writer and a collector"),
    (Rule::Pins, "a writer and a collector"),
    (Rule::PinRecord, "a reader and a lost answer"),
    (Rule::MarkOrder, "a writer and a collector"),
    (Rule::Copies, "a writer and a collector"),
    (Rule::KeepAll, "waste"),
    (Rule::StoredVerdict, "two collectors"),
    (Rule::VerdictCheck, "two collectors"),
    (Rule::Serial, "two collectors and a lost answer"),
    (Rule::KeepLast, "a writer and a collector"),
];

/// What the medium holds at first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// A snapshot of a.
    Live,
    /// Its pack also holds b, which nobody needs.
    Waste,
    /// Nobody needs the pack that holds a: its session ended without a snapshot.
    Garbage,
    /// Two packs hold a.
    Twice,
    /// The pack is listed in the snapshot's record.
    Inline,
}

/// What is explored.
#[derive(Debug, Clone)]
pub struct Config {
    name: &'static str,
    init: Init,
    writers: Vec<Chunks>,
    readers: u8,
    collectors: u8,
    rounds: u8,
    most: u64,
    forgets: u8,
    lost: u8,
    /// Sessions a writer may try.
    attempts: u8,
    parents: bool,
    /// Listings of sessions, claims and segments have two pages.
    pages: bool,
    /// Of two folders that are listed at once the second one comes first.
    swapped: bool,
    /// Each chunk has a pack and a segment of its own, the last one inside the claim.
    several: bool,
    /// Only what nobody needs, or all packs, or also none.
    condemn: &'static [Choice],
    /// Needed chunks of condemned packs are copied, or whole packs stay.
    rewrite: &'static [bool],
    /// Segments without dead packs may stay as they are.
    keep_segments: bool,
    /// Deletions may be left undone.
    lazy: bool,
    /// A writer may find nothing in its index.
    forgetful: bool,
    /// All deletions but those of packs are one step.
    coarse: bool,
    clean: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Choice {
    Dead,
    All,
    Nothing,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            name: "",
            init: Init::Live,
            writers: vec![],
            readers: 0,
            collectors: 1,
            rounds: 2,
            most: 2,
            forgets: 1,
            lost: 0,
            attempts: 2,
            parents: true,
            pages: false,
            swapped: false,
            several: false,
            condemn: &[Choice::Dead, Choice::All],
            rewrite: &[true, false],
            keep_segments: false,
            lazy: false,
            forgetful: false,
            coarse: true,
            clean: true,
        }
    }
}

/// What is explored, and which rule is broken.
pub struct World {
    config: Config,
    broken: Option<Rule>,
    /// Media from which one undisturbed prune was seen to leave no garbage.
    cleaned: Mutex<HashSet<u64>>,
    hasher: RandomState,
}

impl World {
    fn new(config: Config, broken: Option<Rule>) -> World {
        World { config, broken, cleaned: Mutex::default(), hasher: RandomState::new() }
    }

    /// The medium at first.
    fn first(&self) -> Medium {
        let (s0, s1) = (sid(200, 0, 0), sid(201, 0, 0));
        let (p0, p1) =
            (pack(100, (0, 0), if self.config.init == Init::Waste { AB } else { A }), pack(101, (0, 0), A));
        let mut medium = Medium::default();
        let mut session = |sid: SessionId, pack: PackId, claim: Claim| {
            medium.packs.insert(pack);
            if self.config.init != Init::Inline {
                medium.segments.insert(SegmentName::Session(sid, 0), vec![pack]);
            }
            medium.sessions.insert(sid, (false, None));
            medium.claims.insert(sid, claim);
        };
        match self.config.init {
            Init::Live | Init::Waste => session(s0, p0, Claim::Snapshot(A, vec![])),
            Init::Inline => session(s0, p0, Claim::Snapshot(A, vec![p0])),
            Init::Garbage => session(s0, p0, Claim::Closed),
            Init::Twice => {
                session(s0, p0, Claim::Snapshot(A, vec![]));
                session(s1, p1, Claim::Closed);
            }
        }
        medium
    }

    /// Everybody is gone, and one collector prunes undisturbed.
    fn prune(&self, medium: &mut Medium) -> Result<(), &'static str> {
        for round in 0..4 {
            let numbers = medium.numbers();
            let number = numbers.open().unwrap_or(numbers.newest() + 1);
            if numbers.open().is_none() {
                self.execute(medium);
                medium.condemned.insert(number, medium.packs.clone());
            }
            let open: Vec<SessionId> =
                medium.sessions.keys().copied().filter(|sid| !medium.claims.contains_key(sid)).collect();
            medium.claims.extend(open.into_iter().map(|sid| (sid, Claim::Closed)));
            let mut seen = Seen::default();
            for folder in MARK.concat() {
                seen.take(medium, folder, |_| true);
            }
            let condemned = medium.condemned[&number].iter().copied().collect();
            let early = Early::default();
            let judging = Judging { name: 250 + round, number, seen: &seen, condemned, early: &early };
            let (puts, verdict) = self.judge(&judging, true, false).ok_or("damage is found")?;
            puts.iter().for_each(|put| medium.put(put));
            medium.verdicts.insert(number, verdict);
            self.execute(medium);
        }
        Ok(())
    }

    fn execute(&self, medium: &mut Medium) {
        let number = medium.numbers().verdict;
        if let Some(verdict) = medium.verdicts.get(&number).cloned() {
            let validity = medium.validity();
            PARTS.into_iter().for_each(|part| medium.delete(&validity, &verdict.dead, part));
        }
    }

    /// What one undisturbed prune leaves behind, if it should not.
    fn garbage(&self, medium: &Medium) -> Result<(), &'static str> {
        if !self.cleaned.lock().unwrap().insert(self.hasher.hash_one(medium)) {
            return Ok(());
        }
        let mut medium = medium.clone();
        self.prune(&mut medium)?;
        let snapshots = self.snapshots(&medium, &medium.validity());
        let needed = snapshots.iter().fold(0, |all, (_, chunks)| all | chunks);
        let stored: u32 = medium.packs.iter().map(|pack| holds(pack).count_ones()).sum();
        if all_of(&medium.packs) != needed || stored != needed.count_ones() {
            return Err("packs stay that nobody needs");
        }
        if medium.segments.len() > 1 || !medium.sessions.is_empty() || !medium.tombstones.is_empty() {
            return Err("records stay that nobody needs");
        }
        if medium.claims.len() != snapshots.len() {
            return Err("dead claims stay");
        }
        Ok(())
    }
}

impl Model for World {
    type State = State;
    type Action = Move;

    fn init_states(&self) -> Vec<State> {
        let actor = |name: u8, role: Role, at: At| Actor {
            name,
            role,
            sid: None,
            attempt: 0,
            executed: 0,
            early: Early::default(),
            at,
        };
        let config = &self.config;
        let mut actors = Vec::new();
        actors
            .extend(config.writers.iter().zip(1..).map(|(goal, n)| actor(n, Role::Writer(*goal), At::Begin)));
        actors.extend((0..config.readers).map(|n| actor(20 + n, Role::Reader, At::Begin)));
        let collector = |n| actor(10 + n, Role::Collector(config.rounds), At::Step(Step::Look));
        actors.extend((0..config.collectors).map(collector));
        let medium = self.first();
        let promised = self.snapshots(&medium, &medium.validity()).into_iter().map(|(sid, _)| sid).collect();
        vec![State {
            medium,
            limbo: BTreeSet::new(),
            may_lose: config.lost,
            may_forget: config.forgets,
            forgotten: BTreeSet::new(),
            promised,
            actors,
        }]
    }

    fn actions(&self, state: &State, moves: &mut Vec<Move>) {
        moves.extend(self.moves(state));
    }

    fn next_state(&self, _: &State, step: Move) -> Option<State> {
        Some(step.to)
    }

    fn format_action(&self, step: &Move) -> String {
        format!("{} {}", step.who, step.what)
    }

    fn properties(&self) -> Vec<Property<World>> {
        vec![
            Property::always(
                "no valid snapshot refers to a missing chunk",
                |world: &World, state: &State| {
                    let validity = state.medium.validity();
                    let there = world.readable(&state.medium, &validity);
                    world.snapshots(&state.medium, &validity).iter().all(|(_, chunks)| chunks & !there == 0)
                },
            ),
            Property::always(
                "no acknowledged snapshot is lost but by forget",
                |world: &World, state: &State| {
                    let valid = world.snapshots(&state.medium, &state.medium.validity());
                    let is_valid = |sid: &SessionId| valid.iter().any(|(valid, _)| valid == sid);
                    state.promised.iter().all(|sid| is_valid(sid) || state.forgotten.contains(sid))
                },
            ),
            Property::always(
                "a prune that nobody disturbs leaves no garbage",
                |world: &World, state: &State| !world.config.clean || world.garbage(&state.medium).is_ok(),
            ),
            Property::always("a pinned reader misses nothing", |world: &World, state: &State| {
                let there = world.readable(&state.medium, &state.medium.validity());
                let misses = |actor: &Actor| matches!(actor.at, At::Reading(chunks) if chunks & !there != 0);
                !state.actors.iter().any(misses)
            }),
            Property::always("a writer can read its parent", |world: &World, state: &State| {
                let there = world.readable(&state.medium, &state.medium.validity());
                let misses = |actor: &Actor| match (&actor.at, actor.sid) {
                    (At::Store { parent, .. }, Some(sid)) => {
                        let runs = state.medium.sessions.contains_key(&sid)
                            && !state.medium.claims.contains_key(&sid);
                        runs && parent & !there != 0
                    }
                    _ => false,
                };
                world.broken == Some(Rule::ParentCheck) || !state.actors.iter().any(misses)
            }),
        ]
    }
}

const ALL: &[Choice] = &[Choice::All];
const BOTH: &[bool] = &[true, false];

/// Few steps, each by itself.
fn small() -> Vec<Config> {
    let fine = Config { coarse: false, forgetful: true, ..Config::default() };
    let base = Config::default();
    vec![
        Config { name: "a writer and a collector", writers: vec![AB], ..fine.clone() },
        Config {
            name: "waste",
            init: Init::Waste,
            writers: vec![B],
            condemn: &[Choice::Nothing, Choice::All],
            ..fine.clone()
        },
        Config { name: "a reader and a lost answer", readers: 1, lost: 1, ..fine.clone() },
        Config {
            name: "garbage and a lost answer",
            init: Init::Garbage,
            writers: vec![A],
            lost: 1,
            ..base.clone()
        },
        Config { name: "two copies", init: Init::Twice, writers: vec![A], forgetful: true, ..base.clone() },
        Config {
            name: "segments stay",
            init: Init::Waste,
            writers: vec![AB],
            keep_segments: true,
            ..base.clone()
        },
        Config {
            name: "inside a record",
            init: Init::Inline,
            writers: vec![AB],
            several: true,
            ..base.clone()
        },
        Config { name: "deletions are left", writers: vec![AB], lazy: true, ..base.clone() },
        Config { name: "a reader, deletions are left", readers: 1, lazy: true, ..base.clone() },
        Config { name: "pages", writers: vec![A], rounds: 1, pages: true, attempts: 1, condemn: ALL, ..base },
    ]
}

/// A million states or two.
fn middle() -> Vec<Config> {
    let base = Config::default();
    vec![
        Config {
            name: "two writers",
            writers: vec![AB, AB],
            rounds: 1,
            most: 1,
            attempts: 1,
            condemn: ALL,
            ..base.clone()
        },
        Config {
            name: "two collectors",
            writers: vec![A],
            collectors: 2,
            rounds: 1,
            attempts: 1,
            parents: false,
            condemn: ALL,
            rewrite: &[false],
            clean: false,
            ..base.clone()
        },
        Config {
            name: "two collectors and a lost answer",
            init: Init::Waste,
            collectors: 2,
            lost: 1,
            condemn: ALL,
            ..base.clone()
        },
        Config {
            name: "two collectors that copy",
            writers: vec![A],
            collectors: 2,
            rounds: 1,
            most: 1,
            attempts: 1,
            parents: false,
            condemn: ALL,
            rewrite: &[true],
            clean: false,
            ..base
        },
    ]
}

/// Millions of states.
fn large() -> Vec<Config> {
    let base = Config::default();
    let one = Config { attempts: 1, condemn: ALL, ..Config::default() };
    vec![
        Config { name: "two lost answers", writers: vec![A], lost: 2, ..base.clone() },
        Config {
            name: "waste and a lost answer",
            init: Init::Waste,
            writers: vec![B],
            lost: 1,
            ..base.clone()
        },
        Config {
            name: "garbage, two writers",
            init: Init::Garbage,
            writers: vec![A, A],
            parents: false,
            ..one.clone()
        },
        Config {
            name: "a reader and a writer",
            init: Init::Waste,
            writers: vec![B],
            readers: 1,
            ..one.clone()
        },
        Config {
            name: "a writer and two collectors",
            writers: vec![A],
            collectors: 2,
            rounds: 1,
            ..one.clone()
        },
        Config { name: "two writers, two rounds", writers: vec![AB, AB], clean: false, ..one.clone() },
        Config {
            name: "two writers, a lost answer",
            writers: vec![A, AB],
            lost: 1,
            parents: false,
            rewrite: &[false],
            clean: false,
            ..one.clone()
        },
        Config {
            name: "two collectors, deletions are left",
            writers: vec![A],
            collectors: 2,
            rounds: 1,
            parents: false,
            rewrite: &[true],
            lazy: true,
            clean: false,
            ..one.clone()
        },
        Config {
            name: "two writers, two collectors",
            writers: vec![A, A],
            collectors: 2,
            rounds: 1,
            most: 1,
            parents: false,
            rewrite: &[true],
            clean: false,
            ..one.clone()
        },
        Config { name: "pages, two rounds", writers: vec![AB], pages: true, several: true, ..one.clone() },
        Config {
            name: "pages and a reader",
            init: Init::Inline,
            writers: vec![A],
            readers: 1,
            rounds: 1,
            pages: true,
            rewrite: BOTH,
            ..one
        },
    ]
}

/// Explores everything; says what was violated, with the way there.
fn explore(config: Config, broken: Option<Rule>) -> (usize, Option<String>) {
    let began = std::time::Instant::now();
    let name = config.name;
    let checker = World::new(config, broken).checker().threads(2).finish_when(HasDiscoveries::Any);
    let checker = checker.spawn_bfs().join();
    let states = checker.unique_state_count();
    let found = checker.discoveries().into_iter().next();
    let told = found.map(|(property, path)| {
        let steps = path.into_actions().into_iter().map(|step| format!("  {} {}\n", step.who, step.what));
        format!("{property}:\n{}", steps.collect::<String>())
    });
    println!("{name}: {states} states, {:.1} s", began.elapsed().as_secs_f64());
    (states, told)
}

fn holds_in(configs: Vec<Config>) {
    for config in configs {
        let name = config.name;
        let (states, violated) = explore(config, None);
        assert!(violated.is_none(), "{name}: {}", violated.unwrap_or_default());
        assert!(states > 1000, "{name}: only {states} states, nothing was explored");
    }
}

#[test]
fn the_protocol_holds_in_every_interleaving() {
    holds_in(small());
}

#[test]
fn the_protocol_holds_whichever_comes_first_of_what_is_listed_at_once() {
    holds_in(small().into_iter().map(|config| Config { swapped: true, ..config }).collect());
}

#[test]
fn the_protocol_holds_in_millions_of_states() {
    if std::env::var_os("ICECORE_SOAK").is_some() {
        // They take gigabytes of memory; ICECORE_SOAK_ONLY="NAME;NAME" chooses some.
        let only = std::env::var("ICECORE_SOAK_ONLY").unwrap_or_default();
        let chosen = |config: &Config| only.is_empty() || only.split(';').any(|name| name == config.name);
        let all = middle().into_iter().chain(large()).filter(chosen);
        holds_in(all.flat_map(|config| [config.clone(), Config { swapped: true, ..config }]).collect());
    }
}

#[test]
fn without_any_one_of_its_rules_the_protocol_loses_something() {
    for (rule, where_found) in RULES {
        let config = small().into_iter().chain(middle()).find(|config| config.name == where_found).unwrap();
        let (_, violated) = explore(config, Some(rule));
        let violated = violated.unwrap_or_else(|| panic!("{rule:?} can be broken, and nothing is lost"));
        println!("without {rule:?}, {violated}");
    }
}

/// Not a test: says in which of the small configurations a broken rule is found out.
#[test]
#[ignore = "fills the empty places of the table of rules"]
fn where_broken_rules_are_found() {
    for (rule, _) in RULES.iter().filter(|(_, where_found)| where_found.is_empty()) {
        let rule = *rule;
        for config in small().into_iter().chain(middle()) {
            let name = config.name;
            if explore(Config { clean: rule == Rule::VoidSegment, ..config }, Some(rule)).1.is_some() {
                println!("FOUND {rule:?} in {name:?}");
                break;
            }
        }
    }
}
