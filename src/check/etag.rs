//! ETags as S3 servers make them: the MD5 of the bytes, or of the MD5s of the parts.

use std::collections::VecDeque;

use md5::{Digest, Md5};

use crate::format::{ObjectAttributes, sizes_of};

/// Makes the ETag of an object from its bytes.
pub(super) struct Etag {
    whole: Md5,
    /// Of an object put in parts: what is left of each part, the MD5s of those that are whole, and how
    /// many parts there are.
    parts: Option<(VecDeque<u64>, Md5, usize)>,
}

impl Etag {
    /// For an object with these attributes; `None` where its ETag is known not to be made so, or its part
    /// sizes are not known.
    pub fn of(attributes: &ObjectAttributes, size: u64) -> Option<Etag> {
        let (digest, count) = match attributes.etag.split_once('-') {
            Some((digest, count)) => (digest, Some(count.parse::<usize>().ok()?)),
            None => (&attributes.etag[..], None),
        };
        let is_md5 = digest.len() == 32 && digest.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_md5 || attributes.encryption.is_some() {
            return None;
        }
        let sizes = sizes_of(&attributes.parts);
        let parts = match count {
            None if sizes.is_empty() => None,
            Some(count) if sizes.len() == count && sizes.iter().sum::<u64>() == size => {
                Some((sizes.into(), Md5::new(), count))
            }
            _ => return None,
        };
        Some(Etag { whole: Md5::new(), parts })
    }

    /// The next bytes.
    pub fn push(&mut self, mut bytes: &[u8]) {
        let Some((left, joined, _)) = &mut self.parts else { return self.whole.update(bytes) };
        while let Some(part) = left.front_mut() {
            let (now, later) = bytes.split_at((*part).min(bytes.len() as u64) as usize);
            self.whole.update(now);
            *part -= now.len() as u64;
            bytes = later;
            if *part > 0 {
                return;
            }
            joined.update(self.whole.finalize_reset());
            left.pop_front();
        }
    }

    /// The ETag of the bytes so far.
    pub fn finish(mut self) -> String {
        // An empty last part ends only here.
        self.push(&[]);
        let hex = |digest: Md5| data_encoding::HEXLOWER.encode(&digest.finalize());
        match self.parts {
            None => hex(self.whole),
            Some((_, joined, count)) => format!("{}-{count}", hex(joined)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::runs_of;

    fn attributes(etag: &str, parts: &[u64]) -> ObjectAttributes {
        ObjectAttributes { etag: etag.into(), parts: runs_of(parts), ..ObjectAttributes::default() }
    }

    fn etag(attributes: &ObjectAttributes, bytes: &[u8], pieces: usize) -> Option<String> {
        let mut etag = Etag::of(attributes, bytes.len() as u64)?;
        bytes.chunks(pieces).for_each(|piece| etag.push(piece));
        Some(etag.finish())
    }

    /// The expected ones were made with md5sum.
    #[test]
    fn etags_are_made_as_servers_make_them() {
        let plain = attributes("900150983cd24fb0d6963f7d28e17f72", &[]);
        let empty = attributes("d41d8cd98f00b204e9800998ecf8427e", &[]);
        assert_eq!(etag(&empty, b"", 1), Some(empty.etag.clone()));
        // printf a | md5sum, printf bc | md5sum; both as bytes | md5sum
        let composite = attributes("860df6524f1300aab8ff4bbe75852ada-2", &[1, 2]);
        for pieces in 1..4 {
            assert_eq!(etag(&plain, b"abc", pieces), Some(plain.etag.clone()));
            assert_eq!(etag(&composite, b"abc", pieces), Some(composite.etag.clone()), "{pieces}");
        }
        let none = attributes("59adb24ef3cdbe0297f05b395827453f-1", &[0]);
        assert_eq!(etag(&none, b"", 1), Some(none.etag.clone()));
    }

    #[test]
    fn an_etag_that_is_no_md5_is_not_judged() {
        let of = |etag: &str, parts: &[u64]| Etag::of(&attributes(etag, parts), 3).is_some();
        assert!(!of("opaque", &[]) && !of("900150983cd24fb0d6963f7d28e17f7z", &[]));
        assert!(!of("900150983cd24fb0d6963f7d28e17f72-2", &[]), "its part sizes are not known");
        assert!(!of("900150983cd24fb0d6963f7d28e17f72-2", &[1, 1]));
        let mut encrypted = attributes("900150983cd24fb0d6963f7d28e17f72", &[]);
        encrypted.encryption = Some("aws:kms".into());
        assert!(Etag::of(&encrypted, 3).is_none());
    }
}
