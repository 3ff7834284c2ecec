//! Names of things: chunks, packs, repositories, sessions.
//!
//! A [`ChunkId`] is computed from content; every other id is drawn at random and never used twice.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::context::Random;

/// A text that is not an id of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not {1}")]
pub struct NotAnId(String, &'static str);

macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(pub [u8; $len]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;
            fn from_str(text: &str) -> Result<Self, NotAnId> {
                let bytes = HEXLOWER.decode(text.as_bytes()).ok();
                let bytes = bytes.and_then(|b| <[u8; $len]>::try_from(b).ok());
                bytes.map($name).ok_or_else(|| NotAnId(text.into(), $what))
            }
        }
    };
}

byte_id!(
    /// Keyed BLAKE3 of a chunk's plain bytes; the key depends on the repository's content secret
    /// and on the chunk's kind.
    ChunkId, 32, "a chunk id (64 hexadecimal digits)"
);
byte_id!(
    /// The random name of a pack; also part of the key that seals it.
    PackId, 16, "a pack id (32 hexadecimal digits)"
);
byte_id!(
    /// The random name of a repository; every record is bound to it.
    RepositoryId, 16, "a repository id (32 hexadecimal digits)"
);

/// What a chunk holds. Ids are keyed by kind, so that content can never be taken for a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ChunkKind {
    /// A piece of an object's or a value's content.
    Data,
    /// A tree node.
    Node,
}

impl ChunkKind {
    /// The folder of this kind's packs.
    pub fn folder(self) -> &'static str {
        match self {
            ChunkKind::Data => "data",
            ChunkKind::Node => "tree",
        }
    }
}

impl PackId {
    /// Draws a new id.
    pub fn draw(random: &dyn Random) -> PackId {
        PackId(draw(random))
    }
}

impl RepositoryId {
    /// Draws a new id.
    pub fn draw(random: &dyn Random) -> RepositoryId {
        RepositoryId(draw(random))
    }
}

/// Draws `N` random bytes.
pub fn draw<const N: usize>(random: &dyn Random) -> [u8; N] {
    let mut bytes = [0; N];
    random.fill(&mut bytes);
    bytes
}

/// The name of a session and of the snapshot it ends in: `<24 hexadecimal digits>-<label>`.
///
/// The label is the newest collection number that the session saw when it began; validity is
/// judged by it. The random part stands first so that a unique beginning is short.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionId {
    random: [u8; 12],
    /// The newest collection number seen when the session began.
    pub label: u64,
}

impl SessionId {
    /// Draws a new id under `label`.
    pub fn draw(random: &dyn Random, label: u64) -> SessionId {
        SessionId { random: draw(random), label }
    }

    /// The first eight digits, for people.
    pub fn short(&self) -> String {
        HEXLOWER.encode(&self.random[..4])
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", HEXLOWER.encode(&self.random), self.label)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SessionId {
    type Err = NotAnId;
    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let parse = || {
            let (random, label) = text.split_once('-')?;
            let random = HEXLOWER.decode(random.as_bytes()).ok()?.try_into().ok()?;
            let id = SessionId { random, label: label.parse().ok()? };
            // One spelling only: "+1" and "007" parse as numbers but are not names we write.
            (id.to_string() == text).then_some(id)
        };
        parse().ok_or_else(|| NotAnId(text.into(), "a snapshot id"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Seeded;

    #[test]
    fn an_id_reads_back_from_its_text() {
        let random = Seeded::new(1);
        let pack = PackId::draw(&random);
        assert_eq!(pack.to_string().parse(), Ok(pack));
        let session = SessionId::draw(&random, 17);
        assert_eq!(session.to_string().parse(), Ok(session));
    }

    #[test]
    fn only_the_one_spelling_of_a_session_id_is_read() {
        let id = SessionId::draw(&Seeded::new(1), 7).to_string();
        let other = id.replace("-7", "-007");
        assert!(other.parse::<SessionId>().is_err());
        assert!("".parse::<SessionId>().is_err());
        assert!("zz-1".parse::<SessionId>().is_err());
    }
}
