//! Writers, readers and collectors, one step at a time.

use std::collections::{BTreeSet, HashSet};

use icecore::collection::{self, Folder, LOOK, MARK, Numbers, Reuse, Step, Survival, Validity};
use icecore::format::{SegmentName, SessionKind};
use icecore::id::{PackId, SessionId};

use super::medium::*;
use super::{Choice, Rule, World};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum At {
    // A writer.
    Begin,
    /// Label, and what collections said then.
    Announce(Box<Collections>),
    Look {
        pin: Option<SessionId>,
        first: Box<Collections>,
        next: (u8, bool),
        seen: Box<Seen>,
    },
    /// What is left to put before the claim; the parent's chunks.
    Store {
        puts: Vec<Put>,
        claim: Claim,
        parent: Chunks,
    },
    Check,
    Succeeded,
    // A reader.
    Reading(Chunks),
    // A collector.
    Step(Step),
    /// The list to put, and what was seen when it was chosen.
    Publish {
        number: u64,
        packs: BTreeSet<PackId>,
    },
    Wait {
        number: u64,
        listed: BTreeSet<SessionId>,
    },
    Mark {
        number: u64,
        next: (u8, bool),
        seen: Box<Seen>,
    },
    Decide {
        number: u64,
        puts: Vec<Put>,
        verdict: Verdict,
    },
    Delete {
        number: u64,
        verdict: Verdict,
        part: u8,
    },
    Ended,
}

/// What a collector saw before its list was put; only broken ones use it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Early {
    pub sessions: Option<BTreeSet<SessionId>>,
    pub needed: Option<Chunks>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Wants these chunks in a snapshot.
    Writer(Chunks),
    Reader,
    /// May begin this many collections.
    Collector(u8),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Actor {
    pub name: u8,
    pub role: Role,
    pub sid: Option<SessionId>,
    pub attempt: u8,
    /// The verdict that a collector carried out last.
    pub executed: u64,
    pub early: Early,
    pub at: At,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub medium: Medium,
    /// Sent, not answered, and perhaps still to come.
    pub limbo: BTreeSet<Put>,
    pub may_lose: u8,
    pub may_forget: u8,
    pub forgotten: BTreeSet<SessionId>,
    /// Snapshots whose writers were told of success.
    pub promised: BTreeSet<SessionId>,
    pub actors: Vec<Actor>,
}

/// A step, and where it leads.
#[derive(Debug, Clone, PartialEq)]
pub struct Move {
    pub who: u8,
    pub what: &'static str,
    pub to: State,
}

impl World {
    fn keeps(&self, rule: Rule) -> bool {
        self.broken != Some(rule)
    }

    // What is valid, where the rules about it may be broken.

    pub fn segment_valid(&self, validity: &Validity, name: &SegmentName) -> bool {
        match name {
            _ if !self.keeps(Rule::VoidSegment) => true,
            SegmentName::Merged(number, _)
                if !self.keeps(Rule::MergedNamed) && *number > validity.verdict =>
            {
                true
            }
            name => validity.segment(name),
        }
    }

    pub fn snapshot_valid(&self, validity: &Validity, sid: &SessionId) -> bool {
        !self.keeps(Rule::VoidSnapshot) || validity.snapshot(sid)
    }

    /// The packs that a claim lists itself, where they may be believed.
    pub fn inline<'a>(
        &self,
        validity: &Validity,
        sid: &SessionId,
        claim: &'a Claim,
    ) -> Option<&'a Vec<PackId>> {
        let Claim::Snapshot(_, packs) = claim else { return None };
        let believed = validity.inline(sid) || !self.keeps(Rule::InlineVoid);
        (believed && !packs.is_empty() && self.snapshot_valid(validity, sid)).then_some(packs)
    }

    /// Chunks that valid segments list in packs that are there.
    pub fn readable(&self, medium: &Medium, validity: &Validity) -> Chunks {
        let segments = medium.segments.iter().filter(|(name, _)| self.segment_valid(validity, name));
        let inline = medium.claims.iter().filter_map(|(sid, claim)| self.inline(validity, sid, claim));
        let listed = segments.map(|(_, packs)| packs).chain(inline).flatten();
        all_of(listed.filter(|pack| medium.packs.contains(*pack)))
    }

    /// Valid snapshots and their chunks.
    pub fn snapshots(&self, medium: &Medium, validity: &Validity) -> Vec<(SessionId, Chunks)> {
        let one = |(sid, claim): (&SessionId, &Claim)| match claim {
            Claim::Snapshot(chunks, _)
                if !medium.tombstones.contains(sid) && self.snapshot_valid(validity, sid) =>
            {
                Some((*sid, *chunks))
            }
            _ => None,
        };
        medium.claims.iter().filter_map(one).collect()
    }

    /// Every step that anybody may take.
    pub fn moves(&self, state: &State) -> Vec<Move> {
        let mut moves = Vec::new();
        for put in &state.limbo {
            let mut to = state.clone();
            to.limbo.remove(put);
            to.medium.put(put);
            moves.push(Move { who: 0, what: "a lost put comes late", to });
        }
        if state.may_forget > 0 {
            for (sid, _) in self.snapshots(&state.medium, &state.medium.validity()) {
                let mut to = state.clone();
                to.may_forget -= 1;
                to.forgotten.insert(sid);
                match self.keeps(Rule::Tombstone) {
                    true => drop(to.medium.tombstones.insert(sid)),
                    false => drop(to.medium.claims.remove(&sid)),
                }
                moves.push(Move { who: 0, what: "a snapshot is forgotten", to });
            }
        }
        for who in 0..state.actors.len() {
            let mut turn = Turn { world: self, state, who, moves: &mut moves };
            match state.actors[who].role {
                Role::Writer(goal) => turn.writer(goal),
                Role::Reader => turn.reader(),
                Role::Collector(rounds) => turn.collector(rounds),
            }
        }
        moves
    }

    /// What verdict `number` says of what was seen, and what must be put before it. `None` is damage.
    pub fn judge(
        &self,
        judging: &Judging,
        rewrite: bool,
        keep_segments: bool,
    ) -> Option<(Vec<Put>, Verdict)> {
        let Judging { name, number, seen, early, .. } = judging;
        let validity = seen.collections.validity();
        let open = seen.sessions.iter().map(|(sid, (_, pin))| (*sid, *pin));
        let mut pinned = collection::pins(open, |sid| seen.claims.contains_key(sid));
        if !self.keeps(Rule::Pins) {
            pinned.clear();
        }
        let (mut needed, mut snapshots, mut lists) = (0, Vec::new(), Vec::new());
        for (sid, claim) in &seen.claims {
            lists.extend(self.inline(&validity, sid, claim).map(|packs| (sid.label < *number, None, packs)));
            let Claim::Snapshot(chunks, _) = claim else { continue };
            if !self.snapshot_valid(&validity, sid) {
                continue;
            }
            let (forgotten, pins) = (seen.tombstones.contains(sid), pinned.contains(sid));
            if !forgotten || pins {
                needed |= chunks;
            }
            if collection::kept(*number, sid, forgotten, pins && self.keeps(Rule::PinRecord)) {
                snapshots.push(*sid);
            }
        }
        needed = early.needed.unwrap_or(needed);
        let valid = seen.segments.iter().filter(|(name, _)| self.segment_valid(&validity, name));
        lists.extend(valid.map(|(name, packs)| (collection::covered(*number, name), Some(*name), packs)));
        let listed: Vec<PackId> = lists.iter().flat_map(|(_, _, packs)| packs.iter().copied()).collect();
        let (new, dead) = self.condemn(judging, needed, &listed, rewrite)?;
        let stays =
            |pack: &PackId| !dead.contains(pack) && (self.keeps(Rule::KeepAll) || holds(pack) & needed != 0);
        let (mut segments, mut merged): (Vec<SegmentName>, BTreeSet<PackId>) = Default::default();
        for (_, name, packs) in lists.iter().filter(|(covered, ..)| *covered) {
            match name {
                Some(name) if keep_segments && packs.iter().all(stays) => segments.push(*name),
                _ => merged.extend(packs.iter().copied().filter(stays)),
            }
        }
        merged.extend(new);
        let mut puts: Vec<Put> = new.into_iter().map(Put::Pack).collect();
        if !merged.is_empty() {
            let random = [*name, keep_segments.into(), rewrite.into(), 0, 0, 0, 0, 0];
            let name = SegmentName::Merged(*number, random);
            puts.push(Put::Segment(name, merged.into_iter().collect()));
            segments.push(name);
        }
        segments.sort();
        let dead = dead.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        Some((puts, Verdict { dead, segments, snapshots }))
    }

    /// The new pack, if chunks are copied, and the packs that die.
    fn condemn(
        &self,
        judging: &Judging,
        needed: Chunks,
        listed: &[PackId],
        rewrite: bool,
    ) -> Option<(Option<PackId>, HashSet<PackId>)> {
        let Judging { name, number, condemned, .. } = judging;
        if !self.keeps(Rule::Copies) {
            // A copy in any other pack is thought good enough.
            let others = |pack: &PackId| all_of(listed.iter().filter(|other| *other != pack));
            let dead = condemned.iter().filter(|pack| holds(pack) & needed & !others(pack) == 0);
            return Some((None, dead.copied().collect()));
        }
        let mut endangered = 0;
        for chunk in [A, B].into_iter().filter(|chunk| needed & chunk != 0) {
            let places: Vec<PackId> =
                listed.iter().copied().filter(|pack| holds(pack) & chunk != 0).collect();
            match collection::survival(&places, condemned) {
                Survival::Safe(_) => {}
                Survival::Endangered => endangered |= chunk,
                Survival::Lost => return None,
            }
        }
        if rewrite || endangered == 0 {
            let new = (endangered != 0).then(|| pack(*name, (*number, 9), endangered));
            return Some((new, condemned.clone()));
        }
        let (mut dead, mut left) = (condemned.clone(), endangered);
        for pack in listed.iter().filter(|pack| condemned.contains(*pack)) {
            if holds(pack) & left != 0 {
                left &= !holds(pack);
                dead.remove(pack);
            }
        }
        Some((None, dead))
    }
}

/// What a collector has seen and is about to judge.
pub struct Judging<'a> {
    pub name: u8,
    pub number: u64,
    pub seen: &'a Seen,
    pub condemned: HashSet<PackId>,
    pub early: &'a Early,
}

/// One actor's turn.
struct Turn<'a> {
    world: &'a World,
    state: &'a State,
    who: usize,
    moves: &'a mut Vec<Move>,
}

impl Turn<'_> {
    fn me(&self) -> &Actor {
        &self.state.actors[self.who]
    }

    fn medium(&self) -> &Medium {
        &self.state.medium
    }

    /// A step that changes this actor, and perhaps more.
    fn step(&mut self, what: &'static str, change: impl FnOnce(&mut State, usize)) {
        let mut to = self.state.clone();
        change(&mut to, self.who);
        self.moves.push(Move { who: self.me().name, what, to });
    }

    fn go(&mut self, what: &'static str, at: At) {
        self.step(what, |to, who| to.actors[who].at = at);
    }

    /// Puts; where the answer is lost the actor changes as `lost` says, and the put may come late.
    fn put(&mut self, what: &'static str, put: Put, at: At, lost: impl FnOnce(&mut Actor)) {
        let may_lose = self.state.may_lose > 0 && !self.state.limbo.contains(&put);
        let sent = put.clone();
        self.step(what, |to, who| {
            to.medium.put(&put);
            to.actors[who].at = at;
        });
        if may_lose {
            self.step("puts, and the answer is lost", |to, who| {
                to.limbo.insert(sent);
                to.may_lose -= 1;
                lost(&mut to.actors[who]);
            });
        }
    }

    /// The order in which this actor lists.
    fn order(&self, marks: bool) -> Vec<Folder> {
        let mut order = if marks { MARK } else { LOOK }.concat();
        if !marks && self.world.config.swapped {
            // Whichever of two that are listed at once comes first.
            order.swap(0, 1);
        }
        if !marks && !self.world.keeps(Rule::After) {
            order.rotate_right(1);
        }
        if marks && !self.world.keeps(Rule::MarkOrder) {
            order[..3].rotate_right(1);
        }
        order
    }

    /// Lists a folder, or a page; gives what is seen now and what comes next.
    fn list(&self, order: &[Folder], next: (u8, bool), seen: &Seen) -> (Seen, (u8, bool)) {
        let folder = order[next.0 as usize];
        let mut seen = seen.clone();
        let paged = self.world.config.pages && folder != Folder::Collections;
        seen.take(self.medium(), folder, |sid| !paged || second_page(sid) == next.1);
        if folder == Folder::Collections && !self.world.keeps(Rule::Serial) {
            // Be generous: all lists on record count.
            seen.collections.condemned = self.medium().condemned.values().flatten().copied().collect();
        }
        let next = if paged && !next.1 { (next.0, true) } else { (next.0 + 1, false) };
        (seen, next)
    }

    /// The session is given up, and another begun where that is allowed.
    fn again(actor: &mut Actor, attempts: u8) {
        actor.attempt += 1;
        actor.sid = None;
        actor.at = if actor.attempt < attempts { At::Begin } else { At::Ended };
    }

    fn begin_session(&mut self) {
        let first = self.medium().collections();
        let label = collection::label(first.numbers);
        let looks_back = !(self.world.keeps(Rule::Reread));
        self.step("takes its label", |to, who| {
            let actor = &mut to.actors[who];
            actor.sid = Some(sid(actor.name, actor.attempt, label));
            actor.at = At::Announce(Box::new(if looks_back { first } else { Collections::default() }));
        });
    }

    fn announce(&mut self, first: &Collections, reads: bool) {
        let Some(own) = self.me().sid else { return };
        let claims = self.medium().claims.iter();
        let snapshots = claims.filter(|(_, claim)| matches!(claim, Claim::Snapshot(..)));
        let mut pins: Vec<Option<SessionId>> = snapshots.map(|(sid, _)| Some(*sid)).collect();
        if !self.world.config.parents && !reads {
            pins.clear();
        }
        if !reads {
            pins.push(None);
        }
        let attempts = if reads { 0 } else { self.world.config.attempts };
        for pin in pins {
            let at = At::Look { pin, first: Box::new(first.clone()), next: (0, false), seen: Box::default() };
            // After an unclear answer the id is given up.
            let lost = move |actor: &mut Actor| Turn::again(actor, attempts);
            self.put("puts its session", Put::Session(own, reads, pin), at, lost);
        }
    }

    fn writer(&mut self, goal: Chunks) {
        match self.me().at.clone() {
            At::Begin => self.begin_session(),
            At::Announce(first) => self.announce(&first, false),
            At::Look { pin, first, next, seen } => {
                let order = self.order(false);
                let (seen, next) = self.list(&order, next, &seen);
                match usize::from(next.0) == order.len() {
                    true => self.dedup(goal, pin, &first, &seen),
                    false => self.go("lists", At::Look { pin, first, next, seen: Box::new(seen) }),
                }
            }
            At::Store { mut puts, claim, parent } => {
                if puts.is_empty() {
                    return self.commit(claim);
                }
                let put = puts.remove(0);
                self.put("stores", put, At::Store { puts, claim, parent }, |_| {});
            }
            At::Check => {
                let Some(own) = self.me().sid else { return };
                if !self.world.snapshot_valid(&self.medium().validity(), &own) {
                    return self.go("finds that it is void", At::Ended);
                }
                self.step("reports success", |to, who| {
                    to.promised.insert(own);
                    to.actors[who].at = At::Succeeded;
                });
            }
            _ => {}
        }
    }

    /// All is listed: what is there already, and what is to be stored?
    fn dedup(&mut self, goal: Chunks, pin: Option<SessionId>, first: &Collections, seen: &Seen) {
        let (world, Some(own)) = (self.world, self.me().sid) else { return };
        let reread = world.keeps(Rule::Reread);
        if reread && !collection::established(&own, seen.collections.numbers) {
            let attempts = world.config.attempts;
            return self.step("a collection began: begins again", |to, who| {
                Turn::again(&mut to.actors[who], attempts);
            });
        }
        let collections = if reread { &seen.collections } else { first };
        let validity = collections.validity();
        let snapshot = |sid: &SessionId| match seen.claims.get(sid) {
            Some(Claim::Snapshot(chunks, _)) if !seen.tombstones.contains(sid) => {
                world.snapshot_valid(&validity, sid).then_some(*chunks)
            }
            _ => None,
        };
        let parent = match pin {
            Some(_) if !world.keeps(Rule::ParentCheck) => A,
            pin => pin.as_ref().and_then(snapshot).unwrap_or(0),
        };
        let committed = seen.claims.keys().copied().filter(|sid| snapshot(sid).is_some()).collect();
        let reuse = Reuse { sid: own, validity: &validity, committed: &committed };
        let free = !world.keeps(Rule::Uncommitted);
        let segments = seen.segments.iter().filter(|(name, _)| {
            let merged = matches!(name, SegmentName::Merged(..)) && !world.keeps(Rule::MergedNamed);
            world.segment_valid(&validity, name) && (free || merged || reuse.segment(name))
        });
        let inline = seen.claims.iter().filter_map(|(sid, claim)| {
            world.inline(&validity, sid, claim).filter(|_| free || reuse.inline(sid))
        });
        let listed = segments.map(|(_, packs)| packs).chain(inline).flatten();
        let usable =
            listed.filter(|pack| !world.keeps(Rule::Exclude) || !collections.condemned.contains(pack));
        let mut there = parent | all_of(usable);
        if !world.keeps(Rule::Cache) {
            there |= all_of(world.first().packs.iter());
        }
        self.store(goal, goal & !there, parent);
        if world.config.forgetful && goal & !parent != goal & !there {
            self.store(goal, goal & !parent, parent);
        }
    }

    fn store(&mut self, goal: Chunks, new: Chunks, parent: Chunks) {
        let Some(own) = self.me().sid else { return };
        let (name, round) = (self.me().name, (own.label, self.me().attempt));
        let (mut puts, mut inline) = (Vec::new(), Vec::new());
        if self.world.config.several {
            let chunks: Vec<Chunks> = [A, B].into_iter().filter(|chunk| new & chunk != 0).collect();
            for (chunk, k) in chunks.iter().zip(0..) {
                let pack = pack(name, round, *chunk);
                puts.push(Put::Pack(pack));
                match k + 1 == chunks.len() as u32 {
                    true => inline.push(pack),
                    false => puts.push(Put::Segment(SegmentName::Session(own, k), vec![pack])),
                }
            }
        } else if new != 0 {
            let pack = pack(name, round, new);
            puts = vec![Put::Pack(pack), Put::Segment(SegmentName::Session(own, 0), vec![pack])];
        }
        self.go("looks up", At::Store { puts, claim: Claim::Snapshot(goal, inline), parent });
    }

    fn commit(&mut self, claim: Claim) {
        let Some(own) = self.me().sid else { return };
        match self.medium().claims.get(&own) {
            Some(there) if *there == claim || !self.world.keeps(Rule::ExistsCompare) => {
                self.go("its claim is there", At::Check);
            }
            Some(_) => self.go("was closed", At::Ended),
            None => {
                self.put("claims", Put::Claim(own, claim), At::Check, |_| {});
                if !self.world.keeps(Rule::PostCheck) {
                    let unchecked = self.moves.iter_mut().rev().find(|step| step.what == "claims");
                    if let Some(step) = unchecked {
                        step.to.promised.insert(own);
                    }
                }
            }
        }
    }

    fn reader(&mut self) {
        match self.me().at.clone() {
            At::Begin => self.begin_session(),
            At::Announce(first) => self.announce(&first, true),
            At::Look { pin, first, next, seen } => {
                let order = self.order(false);
                let (seen, next) = self.list(&order, next, &seen);
                if usize::from(next.0) < order.len() {
                    return self.go("lists", At::Look { pin, first, next, seen: Box::new(seen) });
                }
                let validity = seen.collections.validity();
                let pin = pin.filter(|pin| {
                    !seen.tombstones.contains(pin) && self.world.snapshot_valid(&validity, pin)
                });
                match pin.and_then(|pin| seen.claims.get(&pin)) {
                    Some(Claim::Snapshot(chunks, _)) => self.go("reads", At::Reading(*chunks)),
                    _ => self.go("its snapshot is gone", At::Ended),
                }
            }
            At::Reading(_) => {
                let Some(own) = self.me().sid else { return };
                if !self.medium().claims.contains_key(&own) {
                    // It reads no more, whether it hears of that or not.
                    let lost = |actor: &mut Actor| actor.at = At::Ended;
                    self.put("ends", Put::Claim(own, Claim::Closed), At::Ended, lost);
                }
            }
            _ => {}
        }
    }

    fn collector(&mut self, rounds: u8) {
        match self.me().at.clone() {
            At::Step(step) => self.collect(step, rounds),
            At::Publish { number, packs } => self.publish(number, packs),
            At::Wait { number, listed } => {
                let claims = &self.medium().claims;
                let open: Vec<SessionId> =
                    listed.iter().copied().filter(|sid| !claims.contains_key(sid)).collect();
                if open.is_empty() || !self.world.keeps(Rule::Wait) {
                    let Step::Judge(number) = Step::waited(number) else { return };
                    let at = At::Mark { number, next: (0, false), seen: Box::default() };
                    return self.go("all older writers have ended", at);
                }
                for sid in open {
                    let at = self.me().at.clone();
                    self.put("closes an older session", Put::Claim(sid, Claim::Closed), at, |_| {});
                }
            }
            At::Mark { number, next, seen } => {
                let order = self.order(true);
                let (seen, next) = self.list(&order, next, &seen);
                match usize::from(next.0) == order.len() {
                    true => self.judge(number, &seen),
                    false => self.go("lists", At::Mark { number, next, seen: Box::new(seen) }),
                }
            }
            At::Decide { number, mut puts, verdict } => {
                if puts.is_empty() {
                    return self.decide(number, verdict);
                }
                let put = puts.remove(0);
                self.put("puts what the verdict needs", put, At::Decide { number, puts, verdict }, |_| {});
            }
            At::Delete { number, verdict, part } => self.delete(number, verdict, part),
            _ => {}
        }
    }

    fn collect(&mut self, step: Step, rounds: u8) {
        let numbers = self.medium().numbers();
        let more = rounds > 0 && numbers.newest() < self.world.config.most;
        let step = match step {
            Step::Look if !self.world.keeps(Rule::Serial) => match more {
                true => Step::Condemn(numbers.newest() + 1),
                false => Step::Done,
            },
            Step::Look => Step::looked(numbers, self.me().executed, more),
            Step::Confirm(number) => Step::confirmed(number, numbers),
            step => step,
        };
        match step {
            Step::Execute(number) => {
                let Some(verdict) = self.medium().verdicts.get(&number).cloned() else { return };
                self.go("reads the verdict", At::Delete { number, verdict, part: 0 });
                if self.world.config.lazy && more {
                    self.step("leaves the deletions undone", |to, who| {
                        to.actors[who].executed = number;
                        to.actors[who].at = At::Step(Step::Look);
                    });
                }
            }
            Step::Condemn(number) => self.choose(number, rounds),
            Step::Wait(number) => self.wait(number),
            step => self.go("goes on", At::Step(step)),
        }
    }

    fn awaited(&self, number: u64) -> BTreeSet<SessionId> {
        let verdict = self.medium().numbers().verdict;
        let kind = |reads| if reads { SessionKind::Read } else { SessionKind::Write };
        let sessions = self.medium().sessions.iter();
        let awaited = sessions
            .filter(|(sid, (reads, _))| collection::awaited(number, verdict, sid, kind(*reads), false));
        awaited.map(|(sid, _)| *sid).collect()
    }

    fn wait(&mut self, number: u64) {
        let listed = self.me().early.sessions.clone().unwrap_or_else(|| self.awaited(number));
        self.go("lists sessions", At::Wait { number, listed });
    }

    /// Any set of packs may be condemned.
    fn choose(&mut self, number: u64, rounds: u8) {
        let medium = self.medium();
        let snapshots = self.world.snapshots(medium, &medium.validity());
        let needed = snapshots.iter().fold(0, |all, (_, chunks)| all | chunks);
        let early = Early {
            sessions: (!self.world.keeps(Rule::ListAfter)).then(|| self.awaited(number)),
            needed: (!self.world.keeps(Rule::Remark)).then_some(needed),
        };
        let mut choices: Vec<BTreeSet<PackId>> = Vec::new();
        for choice in self.world.config.condemn {
            let packs: BTreeSet<PackId> = match choice {
                Choice::Dead => medium.packs.iter().copied().filter(|p| holds(p) & needed == 0).collect(),
                Choice::All => medium.packs.clone(),
                Choice::Nothing => BTreeSet::new(),
            };
            if !choices.contains(&packs) && (!packs.is_empty() || *choice == Choice::Nothing) {
                choices.push(packs);
            }
        }
        if choices.is_empty() {
            return self.go("has nothing to do", At::Step(Step::Done));
        }
        for packs in choices {
            let early = early.clone();
            self.step("chooses packs", |to, who| {
                to.actors[who].role = Role::Collector(rounds - 1);
                to.actors[who].early = early;
                to.actors[who].at = At::Publish { number, packs };
            });
        }
    }

    fn publish(&mut self, number: u64, packs: BTreeSet<PackId>) {
        let there = self.medium().condemned.contains_key(&number);
        let goes_on =
            [Rule::Serial, Rule::Remark, Rule::ListAfter].into_iter().any(|rule| !self.world.keeps(rule));
        let at = match goes_on {
            true if there => return self.go("another was faster", At::Step(Step::Look)),
            true => At::Step(Step::Wait(number)),
            false => At::Step(Step::condemned()),
        };
        let keeps_last = self.world.keeps(Rule::KeepLast) || there;
        let same = self.me().at.clone();
        let before = self.moves.len();
        self.put("puts the condemned list", Put::Condemned(number, packs), at, |actor| actor.at = same);
        for step in &mut self.moves[before..] {
            if !keeps_last {
                step.to.medium.verdicts.remove(&(number - 1));
            }
        }
    }

    fn judge(&mut self, number: u64, seen: &Seen) {
        let over = Step::marked(number, seen.collections.numbers);
        if let Some(step) = over.filter(|_| self.world.keeps(Rule::Serial)) {
            return self.go("the collection is over", At::Step(step));
        }
        let Some(list) = self.medium().condemned.get(&number) else {
            return self.go("the collection is over", At::Step(Step::Look));
        };
        let condemned: HashSet<PackId> = list.iter().copied().collect();
        let early = &self.me().early;
        let judging = Judging { name: self.me().name, number, seen, condemned, early };
        let keep: &[bool] = if self.world.config.keep_segments { &[false, true] } else { &[false] };
        let ways =
            self.world.config.rewrite.iter().flat_map(|rewrite| keep.iter().map(|keep| (*rewrite, *keep)));
        let mut judged = Vec::new();
        for (rewrite, keep) in ways {
            match self.world.judge(&judging, rewrite, keep) {
                None => return self.go("finds damage and stops", At::Ended),
                Some(found) if judged.contains(&found) => {}
                Some(found) => judged.push(found),
            }
        }
        for (puts, verdict) in judged {
            self.go("judges", At::Decide { number, puts, verdict });
        }
    }

    fn decide(&mut self, number: u64, verdict: Verdict) {
        let created = !self.medium().verdicts.contains_key(&number);
        let own =
            !self.world.keeps(Rule::StoredVerdict) || (created && !self.world.keeps(Rule::VerdictCheck));
        let at = match own {
            true => At::Delete { number, verdict: verdict.clone(), part: 0 },
            false => At::Step(Step::judged(number)),
        };
        self.put("puts the verdict", Put::Verdict(number, verdict), at, |_| {});
    }

    fn delete(&mut self, number: u64, verdict: Verdict, part: u8) {
        let collections = Collections {
            numbers: Numbers { condemned: number, verdict: number },
            verdict: Some(verdict.clone()),
            condemned: BTreeSet::new(),
        };
        let validity = collections.validity();
        let parts = match (self.world.config.coarse, part) {
            (false, part) => part..part + 1,
            (true, 0) => 0..3,
            (true, _) => 3..5,
        };
        let end = parts.end;
        self.step("deletes by the verdict", |to, who| {
            for part in parts {
                to.medium.delete(&validity, &verdict.dead, PARTS[usize::from(part)]);
            }
            let actor = &mut to.actors[who];
            if usize::from(end) < PARTS.len() {
                actor.at = At::Delete { number, verdict, part: end };
            } else {
                actor.executed = actor.executed.max(number);
                actor.at = At::Step(Step::Look);
            }
        });
    }
}
