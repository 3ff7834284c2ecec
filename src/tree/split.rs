//! Where a level is cut into nodes.
//!
//! An entry begins a node when its hash is the strict minimum over full windows of `window` entries
//! on both sides: a *regular* boundary. A window that the end of the level cuts off is no full one.
//! Between two regular boundaries, a stretch of more than `most` entries, or of more than
//! `key_bytes` bytes of keys, is cut again from left to right, at the smallest hash at least
//! `window` entries from its begin.
//!
//! What happens between two regular boundaries depends on the entries between them only: within
//! `window` entries of one there is no other. So a level can be cut stretch by stretch.

use std::collections::VecDeque;

use super::Shape;
use super::node::Cell;

/// A node's entries, and whether it begins at a regular boundary.
pub struct Stretch {
    /// The entries.
    pub cells: Vec<Cell>,
    /// Begins at a regular boundary, or is the first of its level.
    pub regular: bool,
}

/// Cuts the entries of one level, given in order.
pub struct Splitter {
    shape: Shape,
    /// What is hashed of an entry: the level and the key.
    hashed: Vec<u8>,
    /// The hashes of up to `window` entries before the open node, then those of its entries.
    hashes: VecDeque<u64>,
    /// How many of them come before the open node.
    past: usize,
    /// The open node's entries.
    cells: VecDeque<Cell>,
    regular: bool,
    /// The next place in the open node to be judged; places before it are no regular boundaries.
    next: usize,
    key_bytes: usize,
    /// Entries of the open node that are within `key_bytes`, once there are more.
    within: Option<usize>,
}

impl Splitter {
    /// Begins at a regular boundary, or at the begin of the level, as `regular` says.
    pub fn new(shape: Shape, level: u8, regular: bool) -> Splitter {
        Splitter {
            shape,
            hashed: vec![level],
            hashes: VecDeque::new(),
            past: 0,
            cells: VecDeque::new(),
            regular,
            next: 1,
            key_bytes: 0,
            within: None,
        }
    }

    fn window(&self) -> usize {
        self.shape.sizes.window as usize
    }

    fn hash(&mut self, key: &[u8]) -> u64 {
        // In one piece, which is hashed without the state that pieces need.
        self.hashed.truncate(1);
        self.hashed.extend_from_slice(key);
        let hash = blake3::keyed_hash(&self.shape.key, &self.hashed);
        let mut word = [0; 8];
        word.copy_from_slice(&hash.as_bytes()[..8]);
        u64::from_le_bytes(word)
    }

    /// The most entries that the open node may have, at least one more than a window.
    fn limit(&self) -> usize {
        let most = self.shape.sizes.most as usize;
        self.within.unwrap_or(most).clamp(self.window() + 1, most.max(self.window() + 1))
    }

    /// The next entry; `emit` is given every node that is complete.
    pub fn push<E>(&mut self, cell: Cell, emit: &mut impl FnMut(Stretch) -> Result<(), E>) -> Result<(), E> {
        let hash = self.hash(&cell.key);
        self.hashes.push_back(hash);
        self.account(&cell);
        self.cells.push_back(cell);
        while self.next + self.window() < self.cells.len() {
            if self.is_regular(self.next) {
                self.close_at(self.next, emit)?;
                self.begin_regular();
            } else if self.next >= self.limit() + self.window() {
                // No boundary comes near enough to matter.
                self.cut_off(self.limit(), emit)?;
            } else {
                self.next += 1;
            }
        }
        Ok(())
    }

    /// The level, or the stretch up to the next regular boundary, is complete.
    pub fn finish<E>(mut self, emit: &mut impl FnMut(Stretch) -> Result<(), E>) -> Result<(), E> {
        if self.cells.is_empty() { Ok(()) } else { self.close_at(self.cells.len(), emit) }
    }

    fn account(&mut self, cell: &Cell) {
        self.key_bytes += cell.key.len();
        if self.within.is_none() && self.key_bytes > self.shape.sizes.key_bytes as usize {
            self.within = Some(self.cells.len());
        }
    }

    fn is_regular(&self, place: usize) -> bool {
        let at = self.past + place;
        let window = self.window();
        if at < window {
            return false;
        }
        let hash = self.hashes[at];
        (1..=window).all(|d| self.hashes[at - d] > hash && self.hashes[at + d] > hash)
    }

    /// Emits the open node up to `end`, where a stretch ends; cut again where it is too long.
    fn close_at<E>(&mut self, end: usize, emit: &mut impl FnMut(Stretch) -> Result<(), E>) -> Result<(), E> {
        let mut end = end;
        while end > self.limit().max(2 * self.window()) {
            end -= self.cut_off(self.limit().min(end - self.window()), emit)?;
        }
        self.emit_first(end, emit)
    }

    /// Emits what comes before the smallest hash from `window` entries on and before `before`.
    fn cut_off<E>(
        &mut self,
        before: usize,
        emit: &mut impl FnMut(Stretch) -> Result<(), E>,
    ) -> Result<usize, E> {
        let candidates = self.window()..before;
        let place = candidates.min_by_key(|&place| self.hashes[self.past + place]).unwrap_or(self.window());
        self.emit_first(place, emit)?;
        self.next = self.next.saturating_sub(place).max(1);
        Ok(place)
    }

    /// Emits the first `count` entries as a node; the next one does not begin regularly.
    fn emit_first<E>(
        &mut self,
        count: usize,
        emit: &mut impl FnMut(Stretch) -> Result<(), E>,
    ) -> Result<(), E> {
        let cells: Vec<Cell> = self.cells.drain(..count).collect();
        self.past += count;
        let forget = self.past.saturating_sub(self.window());
        self.hashes.drain(..forget);
        self.past -= forget;
        let regular = std::mem::replace(&mut self.regular, false);
        self.recount();
        emit(Stretch { cells, regular })
    }

    fn begin_regular(&mut self) {
        self.hashes.drain(..self.past);
        self.past = 0;
        self.regular = true;
        self.next = 1;
    }

    fn recount(&mut self) {
        self.key_bytes = 0;
        self.within = None;
        for place in 0..self.cells.len() {
            self.key_bytes += self.cells[place].key.len();
            if self.within.is_none() && self.key_bytes > self.shape.sizes.key_bytes as usize {
                self.within = Some(place);
            }
        }
    }
}
