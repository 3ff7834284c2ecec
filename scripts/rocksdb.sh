#!/usr/bin/env bash
# Compiles RocksDB once and keeps the library for every later build.
#
#   scripts/rocksdb.sh
#
# Its C++ takes a quarter of an hour on two cores, and cargo compiles it again when a
# feature of some unrelated build dependency changes. With ROCKSDB_LIB_DIR (env.sh) its
# build script links what is here instead:
#
#   $ICECORE_CACHE/rocksdb/VERSION/librocksdb.a     (default ~/.cache/icecore)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/env.sh

place=$ROCKSDB_LIB_DIR
build=${place%/*}/build
say() { printf 'rocksdb: %s\n' "$*" >&2; }

# A library that is there is whole: it gets its name last.
[[ -f $place/librocksdb.a ]] && exit

mkdir -p "$place"
exec 9>"${place%/*}/lock"
if ! flock -n 9; then
  say "another run is compiling it, waiting"
  flock 9
  [[ -f $place/librocksdb.a ]] && exit
fi
trap 'rm -rf "$build"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
rm -rf "$build"
mkdir "$build"

say "compiling ${place##*/}, once; this takes minutes"
if ! env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC CARGO_TARGET_DIR="$build" \
  cargo build --release --locked -p librocksdb-sys >"$build/log" 2>&1 9>&-; then
  tail -n 40 "$build/log" >&2
  say "compiling failed"
  exit 1
fi
say "compiled in $SECONDS s"
mv "$build"/release/build/librocksdb-sys-*/out/librocksdb.a "$place/librocksdb.a"
say "kept $(du -h "$place/librocksdb.a" | cut -f1) in $place"
