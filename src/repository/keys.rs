//! The two secrets under passphrases: `keys/<id>`, one file a passphrase, Argon2id (RFC 9106).
//!
//! A key's id is a hash of the file, so that damage is told from a wrong passphrase; the seal is bound
//! to the folder's name.
//!
//! Stretching makes a passphrase that somebody chose slow to guess. One that was drawn by
//! [`generate_passphrase`] cannot be guessed, and opens a repository at once.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use data_encoding::{BASE32_NOPAD, HEXLOWER};
use rustix::mm::{Advice, madvise};
use zeroize::Zeroizing;

use super::{Error, Repository, Result};
use crate::context::{Context, Nanos, Random};
use crate::format::{KeyParameters, KeySecrets, Malformed, Name, open, read_clear, seal};
use crate::id::{RepositoryId, draw};
use crate::secret::{ContentSecret, SealKey, SealSecret};
use crate::storage::Storage;

const FOLDER: &str = "keys/";

/// What guessing a passphrase costs.
#[derive(Debug, Clone, Copy)]
pub struct KeyCost {
    /// Memory in KiB.
    pub memory: u32,
    /// Passes over it.
    pub passes: u32,
}

impl KeyCost {
    /// RFC 9106's second recommendation: 64 MiB, three passes.
    const CHOSEN: KeyCost = KeyCost { memory: 64 << 10, passes: 3 };
    /// The least there is.
    const GENERATED: KeyCost = KeyCost { memory: 8 * LANES, passes: 1 };

    /// What suits a passphrase.
    pub fn of(passphrase: &str) -> KeyCost {
        match is_generated(passphrase) {
            true => KeyCost::GENERATED,
            false => KeyCost::CHOSEN,
        }
    }
}

/// As RFC 9106 recommends: where there are several cores they share the work.
const LANES: u32 = 4;

/// Before a generated passphrase.
const GENERATED: &str = "icecore-key-";
/// Its random bytes: nobody guesses 256 bits.
const DRAWN: usize = 32;

/// A new passphrase of 256 random bits: `icecore-key-` and 56 letters and digits (base 32, RFC 4648), the
/// last 24 bits of which are a checksum, so that nothing else passes for one.
pub fn generate_passphrase(random: &dyn Random) -> Zeroizing<String> {
    let mut bytes = Zeroizing::new(draw::<DRAWN>(random).to_vec());
    let sum = checksum(&bytes);
    bytes.extend(sum);
    Zeroizing::new(format!("{GENERATED}{}", BASE32_NOPAD.encode(&bytes).to_lowercase()))
}

fn is_generated(passphrase: &str) -> bool {
    let letters = passphrase.strip_prefix(GENERATED).map(str::to_uppercase);
    let bytes = letters.and_then(|letters| BASE32_NOPAD.decode(letters.as_bytes()).ok()).map(Zeroizing::new);
    bytes.is_some_and(|bytes| match bytes.split_at_checked(DRAWN) {
        Some((drawn, sum)) => sum == checksum(drawn),
        None => false,
    })
}

fn checksum(drawn: &[u8]) -> [u8; 3] {
    let hash = blake3::derive_key("icecore 1 generated passphrase checksum", drawn);
    [hash[0], hash[1], hash[2]]
}
/// Above this, a key file asks for more memory than any of ours: it is not believed.
const MAX_MEMORY: u32 = 4 << 20;
const MAX_PASSES: u32 = 100;

/// A key as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// Its name.
    pub id: String,
    /// Whether it is the one that opened the repository.
    pub current: bool,
    /// When it was made, where this passphrase opens it.
    pub created: Option<Nanos>,
    /// On which host.
    pub host: Option<String>,
}

/// The opened secrets and the key file they came from.
pub(super) struct Opened {
    pub id: String,
    pub content: ContentSecret,
    pub seal: SealSecret,
}

fn stretch(passphrase: &str, parameters: &KeyParameters) -> std::result::Result<SealKey, Malformed> {
    let bad = |e: argon2::Error| Malformed::Decode(e.to_string());
    if parameters.memory > MAX_MEMORY || parameters.passes > MAX_PASSES {
        return Err(Malformed::Decode("its passphrase parameters are beyond bounds".into()));
    }
    let params =
        Params::new(parameters.memory, parameters.passes, parameters.lanes, Some(32)).map_err(bad)?;
    let mut key = Zeroizing::new([0; 32]);
    let mut memory = in_large_pages(params.block_count())?;
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let (passphrase, salt) = (passphrase.as_bytes(), &parameters.salt);
    argon.hash_password_into_with_memory(passphrase, salt, &mut *key, &mut memory).map_err(bad)?;
    Ok(SealKey::new(&key))
}

/// Blocks, in large pages where there are some: the kernel makes 31 of them in a fifth of the time that as many bytes
/// in small ones take, which is a third of a stretching.
fn in_large_pages(count: usize) -> std::result::Result<Vec<Block>, Malformed> {
    const PAGE: usize = 2 << 20;
    let mut blocks = Vec::new();
    let asked = blocks.try_reserve_exact(count);
    asked.map_err(|e| Malformed::Decode(format!("the memory that it asks for is not to be had: {e}")))?;
    let room = blocks.spare_capacity_mut().as_mut_ptr_range();
    let (begin, end) = (room.start.addr().next_multiple_of(PAGE), room.end.addr() / PAGE * PAGE);
    if begin < end {
        // SAFETY: the pages lie within the room that was just allocated, and what advice changes is how they are
        // made, not what is in them. Without them it is only slower.
        let _ = unsafe { madvise(room.start.with_addr(begin).cast(), end - begin, Advice::LinuxHugepage) };
    }
    blocks.resize(count, Block::new());
    Ok(blocks)
}

/// Stores the secrets under a new key; gives its id.
pub(super) fn store(
    context: &Context,
    storage: &dyn Storage,
    repository: RepositoryId,
    secrets: (&ContentSecret, &SealSecret),
    passphrase: &str,
    cost: KeyCost,
) -> Result<String> {
    let KeyCost { memory, passes } = cost;
    let parameters = KeyParameters { salt: draw(&*context.random), memory, passes, lanes: LANES };
    let damaged = |what| Error::Damaged { file: FOLDER.into(), what };
    let key = stretch(passphrase, &parameters).map_err(damaged)?;
    let record = KeySecrets {
        content: secrets.0.to_bytes(),
        seal: secrets.1.to_bytes(),
        created: context.clock.now(),
        host: super::open::host(),
    };
    let clear = crate::format::encode(&parameters);
    let bytes = seal(&record, &clear, &key, repository, FOLDER, &*context.random);
    let id = id_of(&bytes);
    storage.put(&Name::Key(&id).to_string(), bytes.into())?;
    Ok(id)
}

/// The name that a key file must have.
fn id_of(bytes: &[u8]) -> String {
    HEXLOWER.encode(&blake3::hash(bytes).as_bytes()[..8])
}

fn open_one(
    bytes: &[u8],
    id: &str,
    repository: RepositoryId,
    passphrase: &str,
) -> std::result::Result<KeySecrets, Malformed> {
    if id_of(bytes) != id {
        return Err(Malformed::Content);
    }
    open(bytes, &stretch(passphrase, &parameters(bytes)?)?, repository, FOLDER)
}

fn parameters(bytes: &[u8]) -> std::result::Result<KeyParameters, Malformed> {
    crate::format::decode(read_clear::<KeySecrets>(bytes)?)
}

/// The ids of all keys.
pub(super) fn ids(storage: &dyn Storage) -> Result<Vec<String>> {
    Ok(storage.names(FOLDER)?)
}

/// Tries these keys, those first whose cost suits the passphrase.
pub(super) fn open_any(
    storage: &dyn Storage,
    ids: &[String],
    repository: RepositoryId,
    passphrase: &str,
) -> Result<Opened> {
    // The first key is there before the config is, and the last one is never removed.
    let mut damage = ids.is_empty().then(|| Error::Damaged { file: FOLDER.into(), what: Malformed::Missing });
    let mut files = Vec::with_capacity(ids.len());
    for id in ids {
        files.push((id, storage.get(&Name::Key(id).to_string())?));
    }
    let memory = KeyCost::of(passphrase).memory;
    files.sort_by_key(|(_, bytes)| parameters(bytes).is_ok_and(|p| p.memory != memory));
    for (id, bytes) in files {
        let name = Name::Key(id).to_string();
        match open_one(&bytes, id, repository, passphrase) {
            Ok(secrets) => {
                let content = ContentSecret::from_bytes(secrets.content);
                return Ok(Opened { id: id.clone(), content, seal: SealSecret::from_bytes(secrets.seal) });
            }
            // Another passphrase's key.
            Err(Malformed::Seal) => {}
            Err(what) => damage = Some(Error::Damaged { file: name, what }),
        }
    }
    let medium = storage.medium().to_string();
    Err(damage.unwrap_or(Error::WrongPassphrase { medium, keys: ids.len() }))
}

impl Repository {
    /// Every key of the repository.
    pub fn keys(&self, passphrase: &str) -> Result<Vec<KeyInfo>> {
        let mut keys = Vec::new();
        for id in ids(self.storage())? {
            let name = Name::Key(&id).to_string();
            let opened = open_one(&self.storage().get(&name)?, &id, self.id(), passphrase).ok();
            let (created, host) = opened.map_or((None, None), |key| (Some(key.created), Some(key.host)));
            keys.push(KeyInfo { current: id == self.key_id(), id, created, host });
        }
        keys.sort_by_key(|key| !key.current);
        Ok(keys)
    }

    /// Reads a key file and looks whether it is whole, whatever its passphrase is.
    pub fn check_key(&self, id: &str) -> Result<()> {
        let file = Name::Key(id).to_string();
        match id_of(&self.storage().get(&file)?) == id {
            true => Ok(()),
            false => Err(Error::Damaged { file, what: Malformed::Content }),
        }
    }

    /// Adds a key for another passphrase; gives its id.
    pub fn add_key(&self, passphrase: &str, cost: KeyCost) -> Result<String> {
        store(self.context(), self.storage(), self.id(), self.secrets(), passphrase, cost)
    }

    /// Removes a key. The one in use, and the last, stay.
    pub fn remove_key(&self, id: &str) -> Result<()> {
        let ids = ids(self.storage())?;
        let known = ids.iter().find(|known| known.as_str() == id);
        let id = known
            .ok_or_else(|| Error::Usage(format!("there is no key {id:?}; `icecore key list` shows them")))?;
        if id == self.key_id() {
            return Err(Error::Usage(format!(
                "key {id} opened the repository just now; use another passphrase to remove it"
            )));
        }
        Ok(self.storage().delete(&Name::Key(id).to_string())?)
    }

    /// A new passphrase in the place of the one in use: the new key is durable before the old one goes.
    pub fn change_passphrase(&self, passphrase: &str, cost: KeyCost) -> Result<String> {
        let id = self.add_key(passphrase, cost)?;
        self.storage().delete(&Name::Key(self.key_id()).to_string())?;
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Seeded;

    #[test]
    fn only_a_generated_passphrase_is_spared_the_stretching() {
        let generated = generate_passphrase(&Seeded::new(1));
        assert_eq!(KeyCost::of(&generated).memory, KeyCost::GENERATED.memory);
        assert_ne!(*generated, *generate_passphrase(&Seeded::new(2)));
        let mut letters = generated.as_bytes().to_vec();
        for at in 0..letters.len() {
            let kept = letters[at];
            letters[at] = if kept == b'7' { b'a' } else { b'7' };
            let other = String::from_utf8(letters.clone()).unwrap();
            assert_eq!(KeyCost::of(&other).memory, KeyCost::CHOSEN.memory, "{other}");
            letters[at] = kept;
        }
        for chosen in ["", "a long sentence", GENERATED, &generated[..60], &format!("{}a", *generated)] {
            assert_eq!(KeyCost::of(chosen).memory, KeyCost::CHOSEN.memory, "{chosen}");
        }
    }
}
