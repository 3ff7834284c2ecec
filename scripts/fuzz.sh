#!/usr/bin/env bash
# Feeds every target in fuzz/ with made-up bytes, each for SECONDS_EACH (default 60).
#
#   make fuzz                 # or, for one of them: scripts/fuzz.sh node
#
# Built apart from everything else, with coverage: minutes the first time. What makes
# a target fail is kept in fuzz/artifacts, what it has learnt in fuzz/corpus.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/env.sh

command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
(($#)) || set -- node entry etcd_file words manifest
for target; do
  # No sanitizer: those need a nightly compiler.
  cargo fuzz run -s none --target-dir "$CARGO_TARGET_DIR/fuzz" "$target" -- -max_total_time="${SECONDS_EACH:-60}" -rss_limit_mb=2048
done
