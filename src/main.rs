//! The `icecore` command.

mod cli;

use tikv_jemallocator::Jemalloc;

/// For RocksDB and zstd as well. With glibc's, threads that free what others made wait for each other's lock, or,
/// where every thread has an arena of its own, each keeps what it once needed.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Two arenas for all threads. What is free goes back to the system within a tenth of a second or so, and large
/// buffers not at once, as they would without the last setting: those of packs are soon wanted again.
// SAFETY: under this name jemalloc reads a pointer to a string that ends with a zero; nothing else has the name.
#[unsafe(export_name = "malloc_conf")]
static SETTINGS: &[u8; 67] = b"narenas:2,dirty_decay_ms:100,muzzy_decay_ms:0,oversize_threshold:0\0";

fn main() -> std::process::ExitCode {
    cli::main()
}
