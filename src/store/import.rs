//! Entering segments into the index's table. Places are gathered, sorted and written as a table file that
//! RocksDB takes in whole: a third of the work of entering them one by one, and a crash leaves none or all of
//! a file in the table.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rocksdb::{DB, Error, Options, SstFileWriter};

use super::table::{NUMBERS, chunk_key, pack_key, segment_key, word};
use crate::format::Segment;
use crate::id::ChunkId;

/// A file has so many places and at the most a pack's more; they are 15 to 30 MB of memory.
const GATHERED: usize = 250_000;

/// An import that goes on.
pub(super) struct Import<'a> {
    db: &'a DB,
    options: &'a Options,
    /// Where a file is made.
    file: PathBuf,
    next_segment: u32,
    next_pack: u32,
    places: Vec<(ChunkId, [u32; 6])>,
    /// Segments and packs, by their keys.
    names: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl<'a> Import<'a> {
    /// Enters into `db`, which has these options, by way of a file in `home`.
    pub fn begin(db: &'a DB, options: &'a Options, home: &Path) -> Result<Import<'a>, Error> {
        let numbers = db.get(NUMBERS)?.unwrap_or_default();
        let (next_segment, next_pack) = (word(&numbers, 0), word(&numbers, 4));
        let file = home.join("import.sst");
        Ok(Import { db, options, file, next_segment, next_pack, places: vec![], names: BTreeMap::new() })
    }

    /// Enters a segment. It counts as known only with its last place.
    pub fn add(&mut self, name: &str, segment: &Segment) -> Result<(), Error> {
        let (number, first_pack) = (self.next_segment, self.next_pack);
        self.next_segment += 1;
        for pack in &segment.packs {
            let pack_number = self.next_pack;
            self.next_pack += 1;
            let size = u32::try_from(pack.size).unwrap_or(u32::MAX);
            self.names.insert(pack_key(pack_number), [&pack.id.0[..], &size.to_le_bytes()].concat());
            let places = pack.chunks.iter().zip(0u32..).map(|(chunk, position)| {
                (chunk.id, [number, pack_number, position, chunk.offset, chunk.stored, chunk.plain])
            });
            self.places.extend(places);
            if self.places.len() >= GATHERED {
                self.write()?;
            }
        }
        let chunks = segment.chunks() as u64;
        let words = [number, chunks as u32, (chunks >> 32) as u32, first_pack, segment.packs.len() as u32];
        self.names.insert(segment_key(name), words.map(u32::to_le_bytes).concat());
        Ok(())
    }

    /// Enters what is gathered.
    pub fn finish(mut self) -> Result<(), Error> {
        if self.names.is_empty() { Ok(()) } else { self.write() }
    }

    /// Makes a file and has it taken in.
    fn write(&mut self) -> Result<(), Error> {
        // A copy is taken: no file of the table ever has a second name, under which it could be written to.
        let entered = self.make().and_then(|()| self.db.ingest_external_file(vec![&self.file]));
        let _ = std::fs::remove_file(&self.file);
        entered
    }

    /// The numbers that a file uses up are in the file itself, so that a half import is never taken for part of a
    /// later one.
    fn make(&mut self) -> Result<(), Error> {
        self.places.sort_unstable();
        let numbers = [self.next_segment, self.next_pack].map(u32::to_le_bytes).concat();
        self.names.insert(NUMBERS.to_vec(), numbers);
        let mut file = SstFileWriter::create(self.options);
        file.open(&self.file)?;
        for same in self.places.chunk_by(|(one, _), (other, _)| one == other) {
            let words: Vec<[u32; 6]> = same.iter().map(|(_, words)| *words).collect();
            let bytes: Vec<[u8; 4]> = words.into_flattened().into_iter().map(u32::to_le_bytes).collect();
            file.merge(chunk_key(&same[0].0), bytes.as_flattened())?;
        }
        self.places.clear();
        for (key, value) in std::mem::take(&mut self.names) {
            file.put(key, value)?;
        }
        file.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::super::index::{Index, Wanted};
    use super::super::table::options;
    use super::*;
    use crate::context::Seeded;
    use crate::format::{PackEntry, PackedChunk};
    use crate::id::{ChunkKind, PackId};

    const PACKS: u32 = 3;
    /// Of a pack. The second pack fills a file.
    const CHUNKS: u32 = GATHERED as u32 / 2;

    fn id(number: u32) -> ChunkId {
        ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    fn large() -> Segment {
        let chunk = |number| PackedChunk { id: id(number), offset: number, stored: 20, plain: 3 };
        let pack = |pack: u32| {
            let chunks = (pack * CHUNKS..(pack + 1) * CHUNKS).map(chunk).collect();
            PackEntry { id: PackId([pack as u8; 16]), kind: ChunkKind::Data, size: 100, chunks }
        };
        Segment { packs: (0..PACKS).map(pack).collect() }
    }

    fn open(home: &Path, names: &[&str], loads: &AtomicU32) -> crate::store::Result<Index> {
        let load = |name: &str| {
            loads.fetch_add(1, Ordering::SeqCst);
            let failure =
                crate::store::Error::Cache { directory: name.into(), what: "it cannot be read".into() };
            if name == "large" { Ok(large()) } else { Err(failure) }
        };
        let wanted = |name: &&str| Wanted { name: (*name).into(), size: 100, reusable: true, segment: None };
        let all: Vec<_> = names.iter().map(wanted).collect();
        Index::open(home, &all, HashSet::new(), &Seeded::new(1), &load)
    }

    #[test]
    fn a_segment_of_several_files_is_found_whole_also_after_an_import_that_broke_off() {
        let home = tempfile::tempdir().unwrap();
        let options = options();
        let db = DB::open(&options, home.path().join("table-3")).unwrap();
        let mut import = Import::begin(&db, &options, home.path()).unwrap();
        import.add("large", &large()).unwrap();
        assert!(import.places.len() < large().chunks(), "a file of it was taken in");
        drop(import);
        drop(db);
        let index = open(home.path(), &["large"], &AtomicU32::new(0)).unwrap();
        for number in (0..PACKS * CHUNKS).step_by(1009) {
            let places = index.find(&id(number)).unwrap();
            let found: Vec<_> = places.iter().map(|place| (place.pack.0[0], place.offset)).collect();
            assert_eq!(found, [((number / CHUNKS) as u8, number)]);
        }
        assert!(index.find(&id(PACKS * CHUNKS)).unwrap().is_empty());
        assert!(!home.path().join("import.sst").exists());
    }

    #[test]
    fn what_came_before_a_segment_that_cannot_be_had_is_not_read_again() {
        let (home, loads) = (tempfile::tempdir().unwrap(), AtomicU32::new(0));
        assert!(open(home.path(), &["large", "missing"], &loads).is_err());
        open(home.path(), &["large"], &loads).unwrap();
        assert_eq!(loads.into_inner(), 2);
    }
}
