//! What a chunk looks like before it is sealed: one byte (0 as it is, 1 zstd) and the payload.

use std::cell::RefCell;

use bytes::Bytes;

use crate::format::Malformed;

const RAW: u8 = 0;
const ZSTD: u8 = 1;
const LEVEL: i32 = 3;

thread_local! {
    // A context costs some 100 KiB of set-up; each thread keeps one.
    static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Compressed where that makes it smaller.
pub fn encode(plain: &[u8]) -> Vec<u8> {
    let compressed = COMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = zstd::bulk::Compressor::new(LEVEL).ok();
        }
        slot.as_mut()?.compress(plain).ok()
    });
    let (kind, payload) = match &compressed {
        Some(smaller) if smaller.len() < plain.len() => (ZSTD, &smaller[..]),
        _ => (RAW, plain),
    };
    // Room for the seal's tag, so that sealing does not copy.
    let mut encoded = Vec::with_capacity(1 + payload.len() + crate::secret::TAG_LEN);
    encoded.push(kind);
    encoded.extend_from_slice(payload);
    encoded
}

/// The plain bytes, `length` of them.
pub fn decode(encoded: &[u8], length: usize) -> Result<Bytes, Malformed> {
    let (&kind, payload) = encoded.split_first().ok_or(Malformed::Length(0))?;
    let plain = match kind {
        RAW => payload.to_vec(),
        ZSTD => decompress(payload, length).map_err(|e| Malformed::Decode(e.to_string()))?,
        other => return Err(Malformed::Decode(format!("compression {other} is not known"))),
    };
    if plain.len() == length { Ok(plain.into()) } else { Err(Malformed::Length(plain.len())) }
}

fn decompress(payload: &[u8], length: usize) -> std::io::Result<Vec<u8>> {
    DECOMPRESSOR.with_borrow_mut(|slot| match slot {
        Some(decompressor) => decompressor.decompress(payload, length),
        None => slot.insert(zstd::bulk::Decompressor::new()?).decompress(payload, length),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::{Random, Seeded};

    #[test]
    fn what_does_not_compress_grows_by_one_byte_and_the_rest_shrinks() {
        let mut noise = vec![0; 10_000];
        Seeded::new(1).fill(&mut noise);
        assert_eq!(encode(&noise).len(), noise.len() + 1);
        assert!(encode(&[0; 10_000]).len() < 100);
        for plain in [&noise[..], &[0; 10_000], b"", b"x"] {
            assert_eq!(decode(&encode(plain), plain.len()).unwrap(), plain);
        }
    }

    #[test]
    fn a_wrong_length_is_refused() {
        for plain in [&[0; 1000][..], b"ab"] {
            assert!(decode(&encode(plain), plain.len() + 1).is_err());
            assert!(decode(&encode(plain), plain.len() - 1).is_err());
        }
        assert!(decode(b"", 0).is_err());
        assert!(decode(b"\x09abc", 3).is_err());
    }
}
