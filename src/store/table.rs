//! How RocksDB lays out the tables of this machine.

use rocksdb::{BlockBasedIndexType, BlockBasedOptions, Cache};

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
