//! The `icecore` command.

mod cli;

use tikv_jemallocator::Jemalloc;

/// For RocksDB and zstd as well. With glibc's, threads that free what others made wait for each other's lock, or,
/// where every thread has an arena of its own, each keeps what it once needed.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Two arenas for all threads; what is free goes back to the system after a tenth of a second, buffers of packs,
/// which are made again at once, no sooner.
// SAFETY: jemalloc reads a string that ends with a zero under this name, and nothing else has it.
#[unsafe(export_name = "malloc_conf")]
static SETTINGS: &[u8; 67] = b"narenas:2,dirty_decay_ms:100,muzzy_decay_ms:0,oversize_threshold:0\0";

fn main() -> std::process::ExitCode {
    cli::main()
}
