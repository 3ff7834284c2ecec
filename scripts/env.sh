# shellcheck shell=bash
# Where cargo builds, and which RocksDB it links. Source it before cargo:
#
#   . scripts/env.sh && cargo build --release
#
# The build lies outside of the clone, so that clones share it. Change the places with
# ICECORE_CACHE or ICECORE_TARGET_DIR.

_repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
_cache=${ICECORE_CACHE:-$HOME/.cache/icecore}
# The crate's version names the RocksDB inside it (0.19.0+11.8.1 carries 11.8.1).
_version=$(awk -F'"' '$0 == "name = \"librocksdb-sys\"" { getline; print $2 }' "$_repo/Cargo.lock")

export CARGO_TARGET_DIR=${ICECORE_TARGET_DIR:-$_cache/target}
export ROCKSDB_LIB_DIR=$_cache/rocksdb/${_version:?is not in Cargo.lock}
export ROCKSDB_STATIC=1
unset _repo _cache _version
