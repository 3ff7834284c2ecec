#!/usr/bin/env bash
# Figures of forget and prune for docs/performance.md.
#
#   benches/collection.sh restic      # beside restic: FILES=50000 SNAPSHOTS=20 CHANGED=2500 ROUNDS=3
#   benches/collection.sh snapshots   # 1,000 snapshots, in a directory and on MinIO
#   benches/collection.sh start       # the shortest command on 1,000 snapshots
#   benches/collection.sh chunks      # CHUNKS=10000000: 10 million chunks, in a directory and on MinIO
#   benches/collection.sh year        # DAYS=365: a backup every five minutes, the clock a value
#
# What is measured lies below TMPDIR. restic is the one in the PATH.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/env.sh
unset "${!ICECORE_@}"

figures() { # TEST
  cargo test --release --locked --test prune -- --ignored --nocapture --test-threads=1 "$1"
}

# A directory of files of 1 to 7 KiB that do not compress, and CHANGED of them anew.
files() { # FIRST COUNT SEED
  python3 - "$tmp/source" "$@" <<'PYTHON'
import pathlib, random, sys
directory, first, count, seed = pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:])
rng = random.Random(seed)
total = first + count
for n in range(first, total):
    path = directory / f"{n % 100:02}" / f"{n}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(rng.randbytes(rng.randrange(1000, 7000)))
PYTHON
}

# measure TOOL COMMAND...: seconds, CPU seconds and KiB of memory.
measure() {
  local tool=$1
  shift
  /usr/bin/time -o "$tmp/time" -f '%e %U %S %M' "$@" >"$tmp/out" 2>&1 || { cat "$tmp/out" >&2; exit 1; }
  read -r wall user system memory <"$tmp/time"
  awk -v t="$tool" -v w="$wall" -v u="$user" -v s="$system" -v m="$memory" \
    'BEGIN { printf "  %-8s %7.2f s, %7.2f s of CPU, %5.0f MiB\n", t, w, u + s, m / 1024 }'
}

beside_restic() {
  local binary=$CARGO_TARGET_DIR/release/icecore rounds=${ROUNDS:-3}
  local files=${FILES:-50000} snapshots=${SNAPSHOTS:-20} changed=${CHANGED:-2500}
  [[ -x $binary ]] || { echo "$binary is not there: make build" >&2; exit 1; }
  tmp=$(mktemp -d)
  trap 'rm -rf "$tmp"' EXIT
  export ICECORE_PASSPHRASE='only for this measurement' RESTIC_PASSWORD='only for this measurement'
  local ours=("$binary" --no-progress -r "$tmp/now/icecore" --cache-dir "$tmp/now/icecore-cache")
  local theirs=(restic --quiet -r "$tmp/now/restic" --cache-dir "$tmp/now/restic-cache")
  mkdir -p "$tmp/now"
  "${ours[@]}" init >/dev/null
  "${theirs[@]}" init >/dev/null
  files 0 "$files" 1
  local n
  for ((n = 0; n < snapshots; n++)); do
    ((n == 0)) || files $(((n - 1) * changed % files)) "$changed" "$n"
    "${ours[@]}" --quiet backup --dir "$tmp/source" >/dev/null
    "${theirs[@]}" backup "$tmp/source" >/dev/null
  done
  rm -rf "$tmp/source"
  mv "$tmp/now" "$tmp/made"
  restic version
  echo "$snapshots snapshots of $files files of 4 KB on average, $changed of them new each time"
  du -sh "$tmp/made/icecore" "$tmp/made/restic" | sed "s|$tmp/made/||; s/^/  /"
  local keep how
  for keep in $((snapshots / 2)) 1; do
    for how in 5% 0%; do
      echo "forget --keep-last $keep --prune --max-unused $how"
      for ((n = 0; n < rounds; n++)); do
        rm -rf "$tmp/now" && cp -a "$tmp/made" "$tmp/now"
        measure icecore "${ours[@]}" forget --keep-last "$keep" --prune --max-unused "$how"
        measure restic "${theirs[@]}" forget --keep-last "$keep" --prune --max-unused "$how"
      done
      du -sh "$tmp/now/icecore" "$tmp/now/restic" | sed "s|$tmp/now/||; s/^/  /"
    done
  done
}

case ${1:-} in
restic) beside_restic ;;
snapshots) figures measure::a_thousand_snapshots ;;
start) figures the_start_of_a_command ;;
chunks)
  export CHUNKS=${CHUNKS:-10000000}
  figures millions_of_chunks
  ;;
year) DAYS=${DAYS:-365} figures a_backup_every_five_minutes ;;
*)
  sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
  ;;
esac
