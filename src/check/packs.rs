//! Checking the packs: each is there with its size, and on request every byte of it is read.

use std::collections::HashMap;
use std::sync::Mutex;

use super::records::Segments;
use super::{Damage, Error, Result, Run, damage};
use crate::fault::Kind;
use crate::format::{Malformed, Name, PACK_MAGIC, PackEntry};
use crate::id::PackId;
use crate::mutex::{into_inner, lock};
use crate::pool::{self, Pool, cores};
use crate::progress::{Amount, Phase};
use crate::repository::Repository;
use crate::store::{PackReader, footer_of, unshared};

/// What reading one pack found.
#[derive(Default)]
struct Read {
    chunks: u64,
    bytes: u64,
    damage: Vec<Damage>,
    bad_chunks: Vec<(PackId, u32)>,
    bad_pack: Option<PackId>,
}

impl Run<'_> {
    /// Every pack that a segment lists.
    pub(super) fn packs(&mut self, segments: &Segments, read_data: bool) -> Result<()> {
        let there: HashMap<PackId, u64> =
            self.repository.packs()?.into_iter().map(|(_, id, size)| (id, size)).collect();
        self.report.packs = segments.packs.len() as u64;
        self.report.unused_packs = there.keys().filter(|id| !segments.packs.contains_key(id)).count() as u64;
        let mut whole = Vec::new();
        for pack in segments.packs.values() {
            let file = Run::pack_name(pack.kind, pack.id);
            match there.get(&pack.id) {
                None => self.bad_pack(pack.id, damage("pack", file, "it is missing")),
                Some(&size) if size != pack.size => {
                    let what = format!("it is {size} bytes long and should be {}", pack.size);
                    self.bad_pack(pack.id, damage("pack", file, what));
                }
                Some(_) => whole.push(pack),
            }
        }
        if read_data { self.read_packs(&whole) } else { Ok(()) }
    }

    fn bad_pack(&mut self, id: PackId, damage: Damage) {
        self.bad_packs.insert(id);
        self.note(damage);
    }

    /// Reads packs to the last byte, as many at once as there is memory for where they come from far away, else one for
    /// each core.
    fn read_packs(&mut self, packs: &[&PackEntry]) -> Result<()> {
        let context = self.repository.context();
        context.progress.begin(Phase { name: "reading packs", unit: "packs" });
        let bytes = packs.iter().map(|pack| pack.size).sum();
        context.progress.expect(Amount { items: packs.len() as u64, bytes });
        context.progress.settled();
        let (repository, results) = (self.repository, Mutex::new(Vec::new()));
        let read = |(): &mut (), pack: &PackEntry| {
            let read = read_pack(repository, pack)?;
            lock(&results).push(read);
            repository.context().progress.advance(Amount { items: 1, bytes: pack.size });
            Ok(())
        };
        let give = |pool: &Pool<'_, _, Error>| packs.iter().try_for_each(|pack| Ok(pool.give(*pack)?));
        let storage = repository.storage();
        let most = if storage.is_remote() { storage.at_once() } else { cores() };
        let at_once = most.min(context.memory.packs()).min(packs.len());
        pool::run(at_once, at_once, || (), read, give)?;
        for read in into_inner(results) {
            let Read { chunks, bytes, damage, bad_chunks, bad_pack } = read;
            self.report.chunks_read += chunks;
            self.report.bytes_read += bytes;
            self.report.damage.extend(damage);
            self.bad_chunks.extend(bad_chunks);
            self.bad_packs.extend(bad_pack);
        }
        Ok(())
    }
}

fn read_pack(repository: &Repository, pack: &PackEntry) -> Result<Read> {
    repository.context().cancel.check()?;
    let file = Name::Pack(pack.kind, pack.id).to_string();
    let mut read = Read::default();
    let mut bytes = match repository.storage().get(&file) {
        Ok(bytes) => unshared(bytes),
        Err(error) if error.kind() == Kind::NotFound => {
            read.bad_pack = Some(pack.id);
            read.damage.push(damage("pack", file, "it is missing"));
            return Ok(read);
        }
        Err(error) => return Err(error.into()),
    };
    read.bytes = bytes.len() as u64;
    if !bytes.starts_with(PACK_MAGIC) {
        read.damage.push(damage("pack", file.clone(), Malformed::Magic("pack")));
    }
    read.damage.extend(check_footer(repository, pack, &bytes).map(|what| damage("pack", file.clone(), what)));
    let reader = PackReader::new(pack.id, pack.kind, repository.seal_secret());
    let namer = repository.namer();
    for (chunk, position) in pack.chunks.iter().zip(0u32..) {
        repository.context().cancel.check()?;
        let range = chunk.offset as usize..chunk.offset as usize + chunk.stored as usize;
        let opened = match bytes.get_mut(range) {
            Some(sealed) => reader.open(&namer, position, chunk, sealed).err().map(|error| error.to_string()),
            None => Some(Malformed::Length(read.bytes as usize).to_string()),
        };
        if let Some(what) = opened {
            read.bad_chunks.push((pack.id, position));
            read.damage.push(damage("pack", file.clone(), format!("chunk {position}: {what}")));
        }
        read.chunks += 1;
    }
    Ok(read)
}

/// The footer says the same as the index: the index could be made anew from it.
fn check_footer(repository: &Repository, pack: &PackEntry, bytes: &[u8]) -> Option<String> {
    match footer_of(bytes, repository.seal_secret(), pack.kind, pack.id) {
        Ok(footer) if footer.chunks == pack.chunks => None,
        Ok(_) => Some("its footer lists other chunks than the index".into()),
        Err(what) => Some(format!("its footer: {what}")),
    }
}
