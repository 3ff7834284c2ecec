//! Nodes and their bytes.
//!
//! ```text
//! u8 1 (version) | u8 level | count | entries
//! entry  = shared | suffix length | suffix | leaf or child
//! leaf   = weight | value length × 2 | value          the value here
//!        = weight | value length × 2 + 1 | chunk id   the value in a chunk of its own
//! child  = u8 flags (1: begins at a regular boundary) | count | weight | chunk id
//! ```
//! `shared` is how many bytes the key has in common with the key before it. Numbers without a size
//! are LEB128.

use crate::format::{Malformed, Root};
use crate::id::ChunkId;

const VERSION: u8 = 1;

/// A leaf entry's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// The bytes.
    Here(Vec<u8>),
    /// A chunk with the bytes, and how many they are.
    Chunk(ChunkId, u64),
}

/// What stands behind a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// In a leaf.
    Leaf {
        /// The value.
        value: Value,
        /// Summed up in the nodes above.
        weight: u64,
    },
    /// Above the leaves; the key is the child's first.
    Child {
        /// The child.
        id: ChunkId,
        /// Whether it begins at a regular boundary (or is the first of its level).
        regular: bool,
        /// Entries in the leaves below.
        count: u64,
        /// Their weights together.
        weight: u64,
    },
}

/// An entry of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// The key.
    pub key: Vec<u8>,
    /// What stands behind it.
    pub payload: Payload,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// 0 for a leaf.
    pub level: u8,
    /// Its entries.
    pub cells: Vec<Cell>,
}

impl Cell {
    /// The reference to a whole tree, as a node above its root would hold it.
    pub fn of_root(root: &Root, first_key: Vec<u8>) -> Cell {
        let &Root { node: id, count, weight, .. } = root;
        Cell { key: first_key, payload: Payload::Child { id, regular: true, count, weight } }
    }

    /// (entries, weight) below this cell.
    pub fn sums(&self) -> (u64, u64) {
        match self.payload {
            Payload::Leaf { weight, .. } => (1, weight),
            Payload::Child { count, weight, .. } => (count, weight),
        }
    }
}

fn put_number(bytes: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        bytes.push(n as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
}

/// A node's bytes being read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(length).map_err(|_| Malformed::Length(self.0.len()))?;
        let (head, rest) = self.0.split_at_checked(length).ok_or(Malformed::Length(self.0.len()))?;
        self.0 = rest;
        Ok(head)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        let mut n = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                break;
            }
            n |= part << shift;
            if byte < 0x80 {
                return Ok(n);
            }
        }
        Err(Malformed::Decode("a number is too long".into()))
    }

    fn id(&mut self) -> Result<ChunkId, Malformed> {
        let bytes = self.take(32)?;
        Ok(ChunkId(bytes.try_into().map_err(|_| Malformed::Length(bytes.len()))?))
    }

    fn payload(&mut self, level: u8) -> Result<Payload, Malformed> {
        if level > 0 {
            let regular = self.byte()? == 1;
            let (count, weight) = (self.number()?, self.number()?);
            return Ok(Payload::Child { id: self.id()?, regular, count, weight });
        }
        let weight = self.number()?;
        let tagged = self.number()?;
        let length = tagged / 2;
        let value = match tagged % 2 {
            0 => Value::Here(self.take(length)?.to_vec()),
            _ => Value::Chunk(self.id()?, length),
        };
        Ok(Payload::Leaf { value, weight })
    }
}

impl Node {
    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION, self.level];
        put_number(&mut bytes, self.cells.len() as u64);
        let mut before: &[u8] = &[];
        for cell in &self.cells {
            let shared = before.iter().zip(&cell.key).take_while(|(a, b)| a == b).count();
            put_number(&mut bytes, shared as u64);
            put_number(&mut bytes, (cell.key.len() - shared) as u64);
            bytes.extend_from_slice(&cell.key[shared..]);
            put_payload(&mut bytes, &cell.payload);
            before = &cell.key;
        }
        bytes
    }

    /// From bytes, every length checked.
    pub fn decode(bytes: &[u8]) -> Result<Node, Malformed> {
        let mut input = Input(bytes);
        match input.byte()? {
            VERSION => {}
            newer => return Err(Malformed::Newer { found: newer.into(), known: VERSION.into() }),
        }
        let level = input.byte()?;
        let count = input.number()?;
        // An entry has at least four bytes: a count that lies cannot reserve memory.
        if count > bytes.len() as u64 {
            return Err(Malformed::Length(bytes.len()));
        }
        let mut cells: Vec<Cell> = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let shared = input.number()? as usize;
            let length = input.number()?;
            let suffix = input.take(length)?;
            let before = cells.last().map_or(&[][..], |cell| &cell.key);
            let head = before.get(..shared).ok_or(Malformed::Length(bytes.len()))?;
            let key = [head, suffix].concat();
            let payload = input.payload(level)?;
            cells.push(Cell { key, payload });
        }
        if input.0.is_empty() { Ok(Node { level, cells }) } else { Err(Malformed::Length(bytes.len())) }
    }

    /// (entries, weight) below this node.
    pub fn sums(&self) -> (u64, u64) {
        let sums = self.cells.iter().map(Cell::sums);
        sums.fold((0, 0), |(count, weight), (c, w)| (count.saturating_add(c), weight.saturating_add(w)))
    }

    /// The place of the last entry whose key is at most `key`, or of the first.
    pub fn find(&self, key: &[u8]) -> usize {
        self.cells.partition_point(|cell| cell.key.as_slice() <= key).saturating_sub(1)
    }
}

fn put_payload(bytes: &mut Vec<u8>, payload: &Payload) {
    match payload {
        Payload::Leaf { value: Value::Here(value), weight } => {
            put_number(bytes, *weight);
            put_number(bytes, value.len() as u64 * 2);
            bytes.extend_from_slice(value);
        }
        Payload::Leaf { value: Value::Chunk(id, length), weight } => {
            put_number(bytes, *weight);
            put_number(bytes, length * 2 + 1);
            bytes.extend_from_slice(&id.0);
        }
        Payload::Child { id, regular, count, weight } => {
            bytes.push(u8::from(*regular));
            put_number(bytes, *count);
            put_number(bytes, *weight);
            bytes.extend_from_slice(&id.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_node() -> impl Strategy<Value = Node> {
        let value = prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..20).prop_map(Value::Here),
            (any::<[u8; 32]>(), 0..u64::MAX / 2).prop_map(|(id, n)| Value::Chunk(ChunkId(id), n)),
        ];
        let leaf = (value, any::<u64>()).prop_map(|(value, weight)| Payload::Leaf { value, weight });
        let child = (any::<[u8; 32]>(), any::<bool>(), any::<u64>(), any::<u64>()).prop_map(
            |(id, regular, count, weight)| Payload::Child { id: ChunkId(id), regular, count, weight },
        );
        let keys = proptest::collection::vec(any::<u8>(), 0..12);
        prop_oneof![
            proptest::collection::vec((keys.clone(), leaf), 0..20).prop_map(|cells| (0, cells)),
            proptest::collection::vec((keys, child), 0..20).prop_map(|cells| (3, cells)),
        ]
        .prop_map(|(level, cells)| Node {
            level,
            cells: cells.into_iter().map(|(key, payload)| Cell { key, payload }).collect(),
        })
    }

    proptest! {
        #[test]
        fn a_node_reads_back_from_its_bytes(node in any_node()) {
            prop_assert_eq!(Node::decode(&node.encode()), Ok(node));
        }

        #[test]
        fn any_bytes_are_a_node_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Node::decode(&bytes);
            let _ = Node::decode(&[&[1, 0], &bytes[..]].concat());
        }
    }

    #[test]
    fn a_node_of_a_newer_version_is_said_to_be_newer() {
        let bytes = Node { level: 0, cells: vec![] }.encode();
        let newer = [&[VERSION + 1], &bytes[1..]].concat();
        let what = Node::decode(&newer).unwrap_err();
        let error = crate::tree::Error::Node { id: ChunkId([0; 32]), what };
        assert_eq!(error.kind(), crate::fault::Kind::NewerFormat);
    }

    #[test]
    fn a_cut_node_is_refused() {
        let cell = |key: &str| Cell {
            key: key.into(),
            payload: Payload::Leaf { value: Value::Here(b"value".to_vec()), weight: 300 },
        };
        let bytes = Node { level: 0, cells: vec![cell("key-1"), cell("key-2")] }.encode();
        for length in 0..bytes.len() {
            assert!(Node::decode(&bytes[..length]).is_err(), "{length}");
        }
    }
}
