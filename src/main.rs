//! The `icecore` command.

mod cli;

fn main() -> std::process::ExitCode {
    share_arenas();
    cli::main()
}

/// So many arenas of memory for all threads. glibc gives every thread its own, each of which keeps what its
/// thread once needed: a prune of ten million chunks held 563 MiB. With four it holds 480, with two 420, but then
/// threads that share one wait for each other.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn share_arenas() {
    const ARENAS: libc::c_int = 4;
    // SAFETY: called before any other thread is there, with a parameter that glibc documents. Where it does
    // nothing, more memory is used.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn share_arenas() {}
