//! The frame around every record that is a file of its own.
//!
//! ```text
//! 0   4  magic "ICEC"
//! 4   1  kind
//! 5   1  frame version
//! 6   2  length of the clear part, little-endian
//! 8   4  length of the sealed part (ciphertext and tag), little-endian
//! 12  …  clear part
//! …   12 nonce, random
//! …   …  sealed part: bincode of the record
//! ```
//! The seal is bound to everything before it, the repository id and the file's full name.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{FORMAT, Malformed, decode, encode};
use crate::context::Random;
use crate::id::{RepositoryId, draw};
use crate::secret::{NONCE, SealKey, TAG_LEN};

const MAGIC: &[u8; 4] = b"ICEC";
const HEADER: usize = 12;

/// The version of every frame written.
pub const FRAME_VERSION: u8 = FORMAT as u8;

/// A type that is stored in a file of its own.
pub trait Record: Serialize + DeserializeOwned {
    /// Tells record types apart.
    const KIND: u8;
    /// What messages call it.
    const WHAT: &'static str;
}

fn bound_to(header_and_clear: &[u8], repository: RepositoryId, name: &str) -> Vec<u8> {
    [header_and_clear, &repository.0[..], name.as_bytes()].concat()
}

/// The bytes of the file `name` that holds `record`; `clear` is readable without a key.
pub fn seal<T: Record>(
    record: &T,
    clear: &[u8],
    key: &SealKey,
    repository: RepositoryId,
    name: &str,
    random: &dyn Random,
) -> Vec<u8> {
    let mut body = encode(record);
    let sealed_len = (body.len() + TAG_LEN) as u32;
    let mut bytes = Vec::with_capacity(HEADER + clear.len() + NONCE + sealed_len as usize);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&[T::KIND, FRAME_VERSION]);
    bytes.extend_from_slice(&(clear.len() as u16).to_le_bytes());
    bytes.extend_from_slice(&sealed_len.to_le_bytes());
    bytes.extend_from_slice(clear);
    let nonce = draw::<NONCE>(random);
    key.seal(nonce, &bound_to(&bytes, repository, name), &mut body);
    bytes.extend_from_slice(&nonce);
    bytes.extend_from_slice(&body);
    bytes
}

/// Where the parts of a frame lie, after every length has been checked.
fn parts<T: Record>(bytes: &[u8]) -> Result<(usize, [u8; NONCE]), Malformed> {
    let header: &[u8; HEADER] = bytes.first_chunk().ok_or(Malformed::Length(bytes.len()))?;
    if &header[..4] != MAGIC || header[4] != T::KIND {
        return Err(Malformed::Magic(T::WHAT));
    }
    if header[5] > FRAME_VERSION {
        return Err(Malformed::Newer { found: header[5].into(), known: FRAME_VERSION.into() });
    }
    let clear = usize::from(u16::from_le_bytes([header[6], header[7]]));
    let sealed = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
    let nonce_at = HEADER + clear;
    let whole = nonce_at.checked_add(NONCE).and_then(|n| n.checked_add(sealed));
    let nonce = bytes.get(nonce_at..).and_then(|rest| rest.first_chunk());
    match nonce {
        Some(nonce) if whole == Some(bytes.len()) => Ok((nonce_at, *nonce)),
        _ => Err(Malformed::Length(bytes.len())),
    }
}

/// The clear part of the frame in `bytes`. Nothing vouches for it yet.
pub fn read_clear<T: Record>(bytes: &[u8]) -> Result<&[u8], Malformed> {
    let (nonce_at, _) = parts::<T>(bytes)?;
    Ok(&bytes[HEADER..nonce_at])
}

/// The record in `bytes`, which were read from the file `name`.
pub fn open<T: Record>(
    bytes: &[u8],
    key: &SealKey,
    repository: RepositoryId,
    name: &str,
) -> Result<T, Malformed> {
    let (nonce_at, nonce) = parts::<T>(bytes)?;
    let mut sealed = bytes[nonce_at + NONCE..].to_vec();
    let bound = bound_to(&bytes[..nonce_at], repository, name);
    let plain = key.open(nonce, &bound, &mut sealed).map_err(|_| Malformed::Seal)?;
    decode(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Seeded;
    use crate::format::Tombstone;
    use crate::secret::SealSecret;

    fn sample() -> (Vec<u8>, SealKey, RepositoryId, Tombstone) {
        let random = Seeded::new(1);
        let key = SealSecret::draw(&random).records();
        let repository = RepositoryId::draw(&random);
        let record = Tombstone { time: 5, host: "h".into() };
        (seal(&record, b"clear", &key, repository, "forgotten/a", &random), key, repository, record)
    }

    #[test]
    fn a_record_opens_only_under_its_own_name_in_its_own_repository() {
        let (bytes, key, repository, record) = sample();
        assert_eq!(open::<Tombstone>(&bytes, &key, repository, "forgotten/a").unwrap(), record);
        assert_eq!(open::<Tombstone>(&bytes, &key, repository, "forgotten/b"), Err(Malformed::Seal));
        let other = RepositoryId([0; 16]);
        assert_eq!(open::<Tombstone>(&bytes, &key, other, "forgotten/a"), Err(Malformed::Seal));
        assert_eq!(read_clear::<Tombstone>(&bytes).unwrap(), b"clear");
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let (bytes, key, repository, _) = sample();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << bit;
                assert!(open::<Tombstone>(&bad, &key, repository, "forgotten/a").is_err(), "{at}.{bit}");
            }
            assert!(open::<Tombstone>(&bytes[..at], &key, repository, "forgotten/a").is_err(), "cut {at}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(open::<Tombstone>(&longer, &key, repository, "forgotten/a").is_err());
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        let (mut bytes, key, repository, _) = sample();
        bytes[5] += 1;
        let error = open::<Tombstone>(&bytes, &key, repository, "forgotten/a").unwrap_err();
        assert_eq!(error, Malformed::Newer { found: 2, known: 1 });
    }
}
