//! The index on this machine: chunk → places, in RocksDB, imported from the repository's segments.
//!
//! It is a cache: deleting it costs time, never data. Entries are tagged with the segment that they
//! came from, and only entries of segments that are valid now are believed. Several commands share
//! it: one is the primary while it imports, under an exclusive file lock; everyone looks up through a
//! secondary instance of their own, opened under a shared lock. What few chunks have come since the last
//! import a command keeps in memory: an import costs more than a small backup does.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rocksdb::{DB, DBRawIterator, Direction, IteratorMode, Options, WaitForCompactOptions, WriteBatch};
use rustix::fs::{FlockOperation, flock};

use super::import::Import;
use super::table::{DEAD, PLACE_LEN, chunk_key, options, pack_key, segment_key, word};
use super::{Error, Result};
use crate::context::Random;
#[cfg(test)]
use crate::format::PackEntry;
use crate::format::{PackedChunk, Segment};
use crate::id::{ChunkId, PackId, draw};
use crate::lifeline::{Lifeline, is_cut};
use crate::{mutex, pool};

/// Dead places are swept out by starting anew once there are more of them than of live ones.
const SWEEP_FROM: u64 = 100_000;
/// Imports before a command gives up against others that keep changing the table.
const IMPORTS: usize = 3;
/// Segments read at once: no more than these, of so many bytes. A server answers late.
pub const READ_AT_ONCE: (usize, u64) = (32, 24 << 20);
/// Up to so many chunks that came or went since the last import, none is made.
const BESIDE: u64 = 10_000;
/// Of look-ups in order: so many entries are stepped over before the next one is sought.
const STEPS: usize = 8;
/// A command's directory has beside it a lifeline of its name with this ending.
pub(super) const ALIVE: &str = "alive";

/// Where a chunk's sealed bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The pack.
    pub pack: PackId,
    /// The pack's size.
    pub pack_size: u32,
    /// Its position in the pack; part of the nonce.
    pub position: u32,
    /// Where its sealed bytes begin.
    pub offset: u32,
    /// How many they are.
    pub stored: u32,
    /// How many plain bytes it has.
    pub plain: u32,
}

/// A segment that is valid now.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// Its file's full name; a snapshot's for the segment inside it.
    pub name: String,
    /// Its file's size.
    pub size: u64,
    /// Whether new snapshots may refer to what it lists.
    pub reusable: bool,
    /// The segment, where it is at hand.
    pub segment: Option<&'a Segment>,
}

/// Reads a segment, by its file's full name.
pub type Load<'a> = dyn Fn(&str) -> Result<Segment> + Sync + 'a;

/// A place of a chunk, and whether it may be referred to.
type Beside = HashMap<ChunkId, Vec<(Place, bool)>>;

/// Look-ups of one command.
pub struct Index {
    db: DB,
    /// Numbers of valid segments, and whether each may be reused.
    live: HashMap<u32, bool>,
    known: HashMap<String, Known>,
    /// Segments that are valid and not in the table.
    beside: Beside,
    beside_listings: Vec<Listing>,
    /// Packs that a running collection may delete.
    condemned: HashSet<PackId>,
    packs: Mutex<HashMap<u32, (PackId, u32)>>,
    home: PathBuf,
    own: PathBuf,
    _lifeline: Option<Lifeline>,
}

/// Opens the table for `wanted`, importing with `load` what is new and dropping what vanished.
struct Opening<'a> {
    home: &'a Path,
    wanted: &'a [Wanted<'a>],
    load: &'a Load<'a>,
    options: Options,
}

fn fail(home: &Path, what: impl std::fmt::Display) -> Error {
    Error::Cache { directory: home.display().to_string(), what: what.to_string() }
}

/// A segment as the table knows it.
struct Known {
    number: u32,
    chunks: u64,
    first_pack: u32,
    packs: u32,
}

/// A valid segment and the packs that it lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Its file's full name; a snapshot's for the segment inside it.
    pub name: String,
    /// How many chunks it lists.
    pub chunks: u64,
    /// Its packs.
    pub packs: Vec<PackId>,
}

fn known_segments(db: &DB, home: &Path) -> Result<HashMap<String, Known>> {
    let mut known = HashMap::new();
    for item in db.iterator(IteratorMode::From(b"s", Direction::Forward)) {
        let (key, value) = item.map_err(|e| fail(home, e))?;
        let Some(name) = key.strip_prefix(b"s") else { break };
        let name = String::from_utf8_lossy(name).into_owned();
        let chunks = u64::from(word(&value, 4)) | u64::from(word(&value, 8)) << 32;
        let (number, first_pack, packs) = (word(&value, 0), word(&value, 12), word(&value, 16));
        known.insert(name, Known { number, chunks, first_pack, packs });
    }
    Ok(known)
}

/// The lock on the table: shared to open a secondary, exclusive to be the primary.
fn lock(home: &Path, operation: FlockOperation) -> Result<File> {
    fs::create_dir_all(home).map_err(|e| fail(home, e))?;
    let file = File::create(home.join("lock")).map_err(|e| fail(home, e))?;
    flock(&file, operation).map_err(|e| fail(home, e))?;
    Ok(file)
}

impl Opening<'_> {
    fn table(&self) -> PathBuf {
        self.home.join("table-3")
    }

    /// A secondary and the known segments, if the table is there and has what is wanted, but for a little
    /// that is at hand.
    fn try_current(&self, own: &Path) -> Result<Option<(DB, HashMap<String, Known>)>> {
        let _shared = lock(self.home, FlockOperation::LockShared)?;
        if !self.table().join("CURRENT").exists() {
            return Ok(None);
        }
        // A table that does not open is damaged; the caller makes it anew.
        let Ok(db) = DB::open_as_secondary(&self.options, self.table(), own.to_owned()) else {
            return Ok(None);
        };
        let known = known_segments(&db, self.home)?;
        Ok(self.is_current(&known).then_some((db, known)))
    }

    fn is_current(&self, known: &HashMap<String, Known>) -> bool {
        let (mut there, mut changed) = (0, 0);
        for wanted in self.wanted {
            match (known.get(&wanted.name), wanted.segment) {
                (Some(known), _) => there += known.chunks,
                (None, Some(segment)) => changed += segment.chunks() as u64,
                (None, None) => return false,
            }
        }
        let all: u64 = known.values().map(|known| known.chunks).sum();
        changed + (all - there) <= BESIDE
    }

    /// Brings the table up to date, alone.
    fn import(&self) -> Result<()> {
        let _exclusive = lock(self.home, FlockOperation::LockExclusive)?;
        let db = match DB::open(&self.options, self.table()) {
            Ok(db) => db,
            Err(_) => self.start_anew()?,
        };
        let db = match self.drop_vanished(&db)? {
            true => db,
            false => {
                drop(db);
                self.start_anew()?
            }
        };
        let known = known_segments(&db, self.home)?;
        let mut import = Import::begin(&db, &self.options, self.home).map_err(|e| fail(self.home, e))?;
        let added = self.add(&mut import, |wanted| !known.contains_key(&wanted.name));
        // What came before a segment that cannot be had need not be read again.
        import.finish().map_err(|e| fail(self.home, e))?;
        added?;
        // Who closes a table breaks off its compactions, and look-ups go through every file. The table is whole
        // without this one: its failure, of a disk that is full, is no reason to end a command.
        let _ = db.wait_for_compact(&WaitForCompactOptions::default());
        Ok(())
    }

    /// Adds the segments that are new: those at hand, then files, in their order, several of which are read at once.
    fn add(&self, import: &mut Import, is_new: impl Fn(&Wanted) -> bool) -> Result<()> {
        let new: Vec<&Wanted> = self.wanted.iter().filter(|wanted| is_new(wanted)).collect();
        let mut add =
            |name: &str, segment: &Segment| import.add(name, segment).map_err(|e| fail(self.home, e));
        for (wanted, segment) in new.iter().filter_map(|wanted| Some((wanted, wanted.segment?))) {
            add(&wanted.name, segment)?;
        }
        let files: Vec<&Wanted> = new.into_iter().filter(|wanted| wanted.segment.is_none()).collect();
        for several in pool::parts(&files, READ_AT_ONCE, |wanted| wanted.size) {
            let segments = pool::each(several, |wanted| (self.load)(&wanted.name));
            several.iter().zip(segments).try_for_each(|(wanted, segment)| add(&wanted.name, &segment?))?;
        }
        Ok(())
    }

    fn start_anew(&self) -> Result<DB> {
        match fs::remove_dir_all(self.table()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(fail(self.home, e)),
            _ => {}
        }
        DB::open(&self.options, self.table()).map_err(|e| fail(self.home, e))
    }

    /// Forgets segments that vanished. False when so much is dead that the table should be made anew.
    fn drop_vanished(&self, db: &DB) -> Result<bool> {
        let wanted: HashSet<&str> = self.wanted.iter().map(|w| w.name.as_str()).collect();
        let known = known_segments(db, self.home)?;
        let (live, gone): (Vec<_>, Vec<_>) =
            known.iter().partition(|(name, _)| wanted.contains(name.as_str()));
        let chunks = |list: &[(&String, &Known)]| list.iter().map(|(_, known)| known.chunks).sum::<u64>();
        let before = db.get(DEAD).map_err(|e| fail(self.home, e))?.unwrap_or_default();
        let dead = before.try_into().map_or(0, u64::from_le_bytes).saturating_add(chunks(&gone));
        if !gone.is_empty() {
            let mut batch = WriteBatch::default();
            gone.iter().for_each(|(name, _)| batch.delete(segment_key(name)));
            batch.put(DEAD, dead.to_le_bytes());
            db.write(batch).map_err(|e| fail(self.home, e))?;
        }
        Ok(dead < SWEEP_FROM || dead < chunks(&live))
    }
}

impl Index {
    /// Opens the index kept in `home` for the segments that are valid now. `load` reads one.
    pub fn open(
        home: &Path,
        wanted: &[Wanted],
        condemned: HashSet<PackId>,
        random: &dyn Random,
        load: &Load,
    ) -> Result<Index> {
        let name = format!("{}-{:016x}", std::process::id(), u64::from_le_bytes(draw(random)));
        let own = home.join("commands").join(name);
        let lifeline = Lifeline::hold(&own.with_extension(ALIVE)).ok();
        fs::create_dir_all(&own).map_err(|e| fail(home, e))?;
        sweep_dead_commands(home);
        let opening = Opening { home, wanted, load, options: options() };
        // Another command may bring in a segment, or drop one, between import and look.
        for attempt in 0..=IMPORTS {
            if let Some((db, known)) = opening.try_current(&own)? {
                let live =
                    wanted.iter().filter_map(|w| Some((known.get(&w.name)?.number, w.reusable))).collect();
                let packs = Mutex::default();
                let (home, _lifeline) = (home.to_owned(), lifeline);
                let (beside, beside_listings) = beside(wanted, &known);
                return Ok(Index {
                    db,
                    live,
                    known,
                    beside,
                    beside_listings,
                    condemned,
                    packs,
                    home,
                    own,
                    _lifeline,
                });
            }
            if attempt < IMPORTS {
                opening.import()?;
            }
        }
        Err(fail(home, "other commands keep changing it; try again"))
    }

    /// A pack and its size, by its number.
    fn pack(&self, number: u32) -> Result<Option<(PackId, u32)>> {
        let mut packs = mutex::lock(&self.packs);
        if let Some(&pack) = packs.get(&number) {
            return Ok(Some(pack));
        }
        let found = self.db.get(pack_key(number)).map_err(|e| fail(&self.home, e))?;
        let pack = found.and_then(|row| Some((PackId(*row.first_chunk()?), word(&row, size_of::<PackId>()))));
        if let Some(pack) = pack {
            packs.insert(number, pack);
        }
        Ok(pack)
    }

    /// The valid places in `value`; with `reuse`, only those that a new snapshot may refer to.
    fn places(&self, value: &[u8], reuse: bool) -> Result<Vec<Place>> {
        let mut places = Vec::new();
        for place in value.chunks_exact(PLACE_LEN) {
            let believed = self.live.get(&word(place, 0)).is_some_and(|&reusable| reusable || !reuse);
            if !believed {
                continue;
            }
            let Some((pack, pack_size)) = self.pack(word(place, 4))? else { continue };
            if reuse && self.condemned.contains(&pack) {
                continue;
            }
            let (position, offset) = (word(place, 8), word(place, 12));
            let (stored, plain) = (word(place, 16), word(place, 20));
            places.push(Place { pack, pack_size, position, offset, stored, plain });
        }
        Ok(places)
    }

    /// Every valid segment with its packs.
    pub fn listings(&self) -> Result<Vec<Listing>> {
        let mut listings = self.beside_listings.clone();
        for (name, known) in self.known.iter().filter(|(_, known)| self.live.contains_key(&known.number)) {
            let mut packs = Vec::with_capacity(known.packs as usize);
            for number in known.first_pack..known.first_pack + known.packs {
                let pack = self.pack(number)?;
                packs.push(pack.ok_or_else(|| fail(&self.home, "a pack's number is not known"))?.0);
            }
            listings.push(Listing { name: name.clone(), chunks: known.chunks, packs });
        }
        listings.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listings)
    }

    /// Every valid place of a chunk.
    pub fn find(&self, id: &ChunkId) -> Result<Vec<Place>> {
        let value = self.db.get_pinned(chunk_key(id)).map_err(|e| fail(&self.home, e))?;
        self.with_beside(id, value.as_deref())
    }

    fn with_beside(&self, id: &ChunkId, value: Option<&[u8]>) -> Result<Vec<Place>> {
        let mut places = value.map_or(Ok(Vec::new()), |value| self.places(value, false))?;
        places.extend(self.beside.get(id).into_iter().flatten().map(|(place, _)| *place));
        Ok(places)
    }

    /// Looks many chunks up.
    pub fn cursor(&self) -> Cursor<'_> {
        Cursor { index: self, entries: self.db.raw_iterator(), last: chunk_key(&ChunkId([0; 32])) }
    }

    /// Whether a new snapshot may refer to a chunk without storing it again.
    pub fn reusable(&self, id: &ChunkId) -> Result<bool> {
        let value = self.db.get_pinned(chunk_key(id)).map_err(|e| fail(&self.home, e))?;
        let places = value.map_or(Ok(Vec::new()), |value| self.places(&value, true))?;
        let mut beside = self.beside.get(id).into_iter().flatten();
        let is_beside =
            |(place, reusable): &(Place, bool)| *reusable && !self.condemned.contains(&place.pack);
        Ok(!places.is_empty() || beside.any(is_beside))
    }
}

/// Look-ups of many chunks, several times as fast as one by one if they come in the order of their names.
pub struct Cursor<'a> {
    index: &'a Index,
    /// At the first entry that is not before `last`, or nowhere.
    entries: DBRawIterator<'a>,
    last: [u8; 33],
}

impl Cursor<'_> {
    /// Every valid place of a chunk.
    pub fn find(&mut self, id: &ChunkId) -> Result<Vec<Place>> {
        let key = chunk_key(id);
        self.go_to(key);
        self.entries.status().map_err(|e| fail(&self.index.home, e))?;
        let found = self.entries.item().filter(|(at, _)| *at == key);
        self.index.with_beside(id, found.map(|(_, value)| value))
    }

    fn go_to(&mut self, key: [u8; 33]) {
        let is_before = |entries: &DBRawIterator| entries.key().is_some_and(|at| at < &key[..]);
        let ahead = key >= std::mem::replace(&mut self.last, key);
        for _ in 0..STEPS {
            if !ahead || !is_before(&self.entries) {
                break;
            }
            self.entries.next();
        }
        if !ahead || !self.entries.valid() || is_before(&self.entries) {
            self.entries.seek(key);
        }
    }
}

/// What the table lacks of `wanted`.
fn beside(wanted: &[Wanted], known: &HashMap<String, Known>) -> (Beside, Vec<Listing>) {
    let (mut beside, mut listings) = (Beside::new(), Vec::new());
    for Wanted { name, reusable, segment, .. } in wanted.iter().filter(|w| !known.contains_key(&w.name)) {
        let Some(segment) = segment else { continue };
        let packs = segment.packs.iter().map(|pack| pack.id).collect();
        listings.push(Listing { name: name.clone(), chunks: segment.chunks() as u64, packs });
        for pack in &segment.packs {
            let pack_size = u32::try_from(pack.size).unwrap_or(u32::MAX);
            for (chunk, position) in pack.chunks.iter().zip(0..) {
                let &PackedChunk { id, offset, stored, plain } = chunk;
                let place = Place { pack: pack.id, pack_size, position, offset, stored, plain };
                beside.entry(id).or_default().push((place, *reusable));
            }
        }
    }
    (beside, listings)
}

impl Drop for Index {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.own);
    }
}

/// Removes what killed commands left.
fn sweep_dead_commands(home: &Path) {
    let Ok(entries) = fs::read_dir(home.join("commands")) else { return };
    let lifelines = entries.flatten().map(|entry| entry.path());
    for path in lifelines.filter(|path| path.extension().is_some_and(|end| end == ALIVE) && is_cut(path)) {
        let _ = fs::remove_dir_all(path.with_extension(""));
        let _ = fs::remove_file(path);
    }
}

/// A segment's packs by their chunks, for tests.
#[cfg(test)]
fn segment_of(packs: &[(u8, &[u8])]) -> Segment {
    use crate::id::ChunkKind;
    let entry = |&(pack, chunks): &(u8, &[u8])| PackEntry {
        id: PackId([pack; 16]),
        kind: ChunkKind::Data,
        size: 100,
        chunks: chunks
            .iter()
            .map(|&c| PackedChunk { id: ChunkId([c; 32]), offset: c.into(), stored: 20, plain: 3 })
            .collect(),
    };
    Segment { packs: packs.iter().map(entry).collect() }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::context::Seeded;

    fn wanted<'a>(names: &[&str]) -> Vec<Wanted<'a>> {
        let one = |&name: &&str| Wanted {
            name: name.into(),
            size: 100,
            reusable: !name.starts_with('x'),
            segment: None,
        };
        names.iter().map(one).collect()
    }

    fn load(name: &str) -> Result<Segment> {
        Ok(match name {
            "a" => segment_of(&[(1, &[1, 2])]),
            "b" => segment_of(&[(2, &[2, 3])]),
            _ => segment_of(&[(3, &[4])]),
        })
    }

    fn open(home: &Path, names: &[&str], condemned: &[u8]) -> Index {
        let condemned = condemned.iter().map(|&p| PackId([p; 16])).collect();
        Index::open(home, &wanted(names), condemned, &Seeded::new(1), &load).unwrap()
    }

    fn packs(index: &Index, chunk: u8) -> Vec<u8> {
        index.find(&ChunkId([chunk; 32])).unwrap().iter().map(|place| place.pack.0[0]).collect()
    }

    #[test]
    fn every_valid_place_of_a_chunk_is_found_and_a_vanished_segment_is_not_believed() {
        let home = tempfile::tempdir().unwrap();
        let index = open(home.path(), &["a", "b"], &[]);
        assert_eq!(packs(&index, 2), [1, 2]);
        assert!(packs(&index, 9).is_empty());
        drop(index);
        let index = open(home.path(), &["b"], &[]);
        assert!(packs(&index, 1).is_empty());
        assert_eq!(packs(&index, 2), [2]);
    }

    #[test]
    fn a_cursor_finds_what_single_look_ups_do_in_any_order() {
        let home = tempfile::tempdir().unwrap();
        let many: Vec<u8> = (10..200).step_by(3).collect();
        let load = |name: &str| match name {
            "many" => Ok(segment_of(&[(4, &many)])),
            name => load(name),
        };
        let open =
            || Index::open(home.path(), &wanted(&["a", "b", "many"]), HashSet::new(), &Seeded::new(1), &load);
        let index = open().unwrap();
        let orders: [Vec<u8>; 3] = [
            (0..=255).collect(),
            (0..=255).rev().flat_map(|n| [n, n]).collect(),
            (0..=255).map(|n: u8| n.wrapping_mul(77)).collect(),
        ];
        for order in orders {
            let mut cursor = index.cursor();
            for id in order.into_iter().map(|n| ChunkId([n; 32])) {
                assert_eq!(cursor.find(&id).unwrap(), index.find(&id).unwrap(), "{id}");
            }
        }
    }

    #[test]
    fn what_is_condemned_or_of_an_unfinished_session_is_read_and_not_reused() {
        let home = tempfile::tempdir().unwrap();
        let index = open(home.path(), &["a", "b", "x"], &[1]);
        assert_eq!(packs(&index, 1), [1]);
        let reusable = [1, 2, 3, 4, 9].map(|c| index.reusable(&ChunkId([c; 32])).unwrap());
        assert_eq!(reusable, [false, true, true, false, false]);
    }

    #[test]
    fn a_deleted_or_damaged_cache_is_made_anew() {
        let home = tempfile::tempdir().unwrap();
        drop(open(home.path(), &["a"], &[]));
        for entry in fs::read_dir(home.path().join("table-3")).unwrap().flatten() {
            fs::write(entry.path(), b"damaged").unwrap();
        }
        assert_eq!(packs(&open(home.path(), &["a"], &[]), 1), [1]);
        fs::remove_dir_all(home.path()).unwrap();
        assert_eq!(packs(&open(home.path(), &["a"], &[]), 1), [1]);
    }

    #[test]
    fn a_command_goes_on_looking_up_while_another_imports() {
        let home = tempfile::tempdir().unwrap();
        let first = open(home.path(), &["a"], &[]);
        let second = open(home.path(), &["a", "b"], &[]);
        let third = open(home.path(), &["b"], &[]);
        assert_eq!(packs(&first, 1), [1]);
        assert_eq!(packs(&second, 3), [2]);
        assert!(packs(&third, 1).is_empty());
    }

    #[test]
    fn a_segment_is_listed_with_its_packs() {
        let home = tempfile::tempdir().unwrap();
        drop(open(home.path(), &["a"], &[]));
        let index = open(home.path(), &["b", "x"], &[]);
        let listings = index.listings().unwrap();
        let told = listings.iter().map(|l| (l.name.as_str(), l.chunks, l.packs[0].0[0], l.packs.len()));
        assert_eq!(told.collect::<Vec<_>>(), [("b", 2, 2, 1), ("x", 1, 3, 1)]);
    }

    #[test]
    fn a_little_that_is_at_hand_is_found_without_an_import() {
        let home = tempfile::tempdir().unwrap();
        drop(open(home.path(), &["a"], &[]));
        let (b, x) = (load("b").unwrap(), load("x").unwrap());
        let mut all = wanted(&["b", "x"]);
        (all[0].segment, all[1].segment) = (Some(&b), Some(&x));
        let none = |_: &str| -> Result<Segment> { panic!("it is at hand") };
        for condemned in [HashSet::new(), HashSet::from([PackId([2; 16])])] {
            let reused = condemned.is_empty();
            let index = Index::open(home.path(), &all, condemned, &Seeded::new(1), &none).unwrap();
            // "a" vanished; "x" belongs to a session that has not ended.
            assert_eq!([1, 2, 3, 4].map(|chunk| packs(&index, chunk)), [vec![], vec![2], vec![2], vec![3]]);
            let reusable = [1, 2, 3, 4].map(|c| index.reusable(&ChunkId([c; 32])).unwrap());
            assert_eq!(reusable, [false, reused, reused, false]);
            let listings = index.listings().unwrap();
            let told = listings.iter().map(|l| (l.name.as_str(), l.chunks, l.packs[0].0[0]));
            assert_eq!(told.collect::<Vec<_>>(), [("b", 2, 2), ("x", 1, 3)]);
            assert_eq!(index.known.len(), 1, "only \"a\" is in the table");
        }
    }

    #[test]
    fn much_that_is_at_hand_is_imported_once() {
        let home = tempfile::tempdir().unwrap();
        let chunks: Vec<u8> = vec![7; BESIDE as usize + 1];
        let much = segment_of(&[(9, &chunks)]);
        let mut all = wanted(&["much"]);
        all[0].segment = Some(&much);
        let index = Index::open(home.path(), &all, HashSet::new(), &Seeded::new(1), &load).unwrap();
        assert_eq!((index.known.len(), index.beside.len()), (1, 0));
    }

    #[test]
    fn a_table_is_made_anew_once_most_of_it_is_dead_however_little_dies_at_once() {
        let home = tempfile::tempdir().unwrap();
        let chunks: Vec<u8> = vec![7; SWEEP_FROM as usize / 3 + 1];
        let much = segment_of(&[(9, &chunks)]);
        let open = |name: &str| {
            let mut all = wanted(&[name]);
            all[0].segment = Some(&much);
            let index = Index::open(home.path(), &all, HashSet::new(), &Seeded::new(1), &load).unwrap();
            index.known[name].number
        };
        assert_eq!(["1", "2", "3", "4", "5"].map(open), [0, 1, 2, 0, 1]);
    }

    #[test]
    fn a_segment_is_loaded_once() {
        let home = tempfile::tempdir().unwrap();
        let loads = AtomicU32::new(0);
        let counting = |name: &str| {
            loads.fetch_add(1, Ordering::SeqCst);
            load(name)
        };
        for _ in 0..3 {
            Index::open(home.path(), &wanted(&["a", "b"]), HashSet::new(), &Seeded::new(1), &counting)
                .unwrap();
        }
        assert_eq!(loads.into_inner(), 2);
    }

    #[test]
    fn segments_are_read_several_at_once() {
        let home = tempfile::tempdir().unwrap();
        let together = Barrier::new(READ_AT_ONCE.0);
        let names: Vec<String> = (0..2 * READ_AT_ONCE.0).map(|number| number.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let waiting = |name: &str| {
            together.wait();
            let number = name.parse().unwrap();
            Ok(segment_of(&[(number, &[100 + number])]))
        };
        let index =
            Index::open(home.path(), &wanted(&names), HashSet::new(), &Seeded::new(1), &waiting).unwrap();
        for number in 0..names.len() as u8 {
            assert_eq!(packs(&index, 100 + number), [number]);
        }
    }
}
