//! How RocksDB lays out the tables of this machine, and what stands in the index's:
//!
//! ```text
//! "c" chunk id        → one 24-byte place after another (merged by appending)
//! "s" segment name    → u32 number, u64 chunks, u32 first pack number, u32 packs
//! "p" u32 pack number → pack id, u32 size
//! "n"                 → u32 next segment number, u32 next pack number
//! "d"                 → u64 places of segments that vanished
//! ```

use rocksdb::{BlockBasedIndexType, BlockBasedOptions, Cache, MergeOperands, Options};

use crate::id::ChunkId;
use crate::pool::cores;

pub(super) const PLACE_LEN: usize = 24;
/// Under this key stand the next numbers of a segment and of a pack.
pub(super) const NUMBERS: &[u8] = b"n";
/// Under this key stands how many places are dead.
pub(super) const DEAD: &[u8] = b"d";
/// So many files of imports lie beside each other until they are merged.
const FILES: i32 = 16;
const BLOCK_CACHE: usize = 64 << 20;

/// Blocks of a table of chunk ids, of which `cache` bytes are kept in memory. Indexes and filters are cut into
/// blocks as small as those of the data: whole ones, of megabytes, fit into no part of the cache and would be
/// read again for each look-up.
pub(super) fn blocks(cache: usize) -> BlockBasedOptions {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_bloom_filter(10.0, false);
    blocks.set_block_cache(&Cache::new_lru_cache(cache));
    blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    blocks.set_partition_filters(true);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_top_level_index_and_filter(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_format_version(5);
    blocks
}

/// The index's table.
pub(super) fn options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&blocks(BLOCK_CACHE));
    options.set_merge_operator_associative("append", append);
    options.set_max_open_files(-1);
    options.set_write_buffer_size(16 << 20);
    options.set_target_file_size_base(128 << 20);
    options.set_level_zero_file_num_compaction_trigger(FILES);
    options.set_max_subcompactions(cores() as u32);
    options.set_keep_log_file_num(1);
    options.set_max_log_file_size(1 << 20);
    options.set_log_level(rocksdb::LogLevel::Error);
    options
}

/// Places of one chunk stand one after another, in the order of import.
fn append(_key: &[u8], there: Option<&[u8]>, more: &MergeOperands) -> Option<Vec<u8>> {
    let mut all = there.unwrap_or_default().to_vec();
    more.iter().for_each(|place| all.extend_from_slice(place));
    Some(all)
}

pub(super) fn chunk_key(id: &ChunkId) -> [u8; 33] {
    let mut key = [b'c'; 33];
    key[1..].copy_from_slice(&id.0);
    key
}

pub(super) fn pack_key(number: u32) -> Vec<u8> {
    [&b"p"[..], &number.to_le_bytes()].concat()
}

pub(super) fn segment_key(name: &str) -> Vec<u8> {
    [b"s", name.as_bytes()].concat()
}

/// The little-endian word at `at`; 0 where there is none.
pub(super) fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|w| w.try_into().ok()).map_or(0, u32::from_le_bytes)
}
