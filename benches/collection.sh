#!/usr/bin/env bash
# Figures of forget and prune, written into docs/performance.md.
#
#   benches/collection.sh restic      # beside restic: FILES=50000 SNAPSHOTS=20 CHANGED=2500 ROUNDS=3
#   benches/collection.sh snapshots   # 1,000 snapshots, in a directory and on MinIO
#   benches/collection.sh start       # the shortest command on 1,000 snapshots
#   benches/collection.sh chunks      # CHUNKS=10000000: 10 million chunks, in a directory and on MinIO
#   benches/collection.sh year        # DAYS=90: a backup every five minutes, the clock a value
#
# What is measured lies below TMPDIR, beside restic in memory (BENCH_DIR). restic is the one in the PATH.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/env.sh
# Not what says where the build is: this calls itself.
for name in "${!ICECORE_@}"; do
  [[ $name == ICECORE_CACHE || $name == ICECORE_TARGET_DIR ]] || unset "$name"
done

# figures PART ABOUT TEST...: each test in a process of its own, for it tells its most memory.
figures() {
  local part=$1 about=$2
  shift 2
  benches/document.py "collection-$part" "$about" "$PWD/benches/collection.sh" tests "$@"
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

# measure TOOL COMMAND...: a line of its seconds and KiB of memory in $tmp/TOOL.
measure() {
  local tool=$1
  shift
  /usr/bin/time -a -o "$tmp/$tool" -f '%e %M' "$@" >"$tmp/out" 2>&1 || { cat "$tmp/out" >&2; exit 1; }
}

# middle TOOL: the median of its seconds, and its most memory in MiB.
middle() {
  sort -n "$tmp/$1" | awk '{ s[NR] = $1; if ($2 > m) m = $2 } END { print s[int((NR + 1) / 2)], int(m / 1024) }'
}

beside_restic() {
  local binary=$CARGO_TARGET_DIR/release/icecore rounds=${ROUNDS:-3}
  local files=${FILES:-50000} snapshots=${SNAPSHOTS:-20} changed=${CHANGED:-2500}
  [[ -x $binary ]] || { echo "$binary is not there: make build" >&2; exit 1; }
  tmp=$(mktemp -d -p "${BENCH_DIR:-/dev/shm}")
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
  local version
  version=$(restic version | cut -d' ' -f1,2)
  echo "| $snapshots snapshots of $files files, $changed of them new each time | \`--max-unused\` | icecore | $version | times as fast |"
  echo '|---|---|---|---|---|'
  local keep how ours_took ours_had theirs_took theirs_had
  for keep in $((snapshots / 2)) 1; do
    for how in 5% 0%; do
      rm -f "$tmp/icecore" "$tmp/restic"
      for ((n = 0; n < rounds; n++)); do
        rm -rf "$tmp/now" && cp -a "$tmp/made" "$tmp/now"
        measure icecore "${ours[@]}" forget --keep-last "$keep" --prune --max-unused "$how"
        measure restic "${theirs[@]}" forget --keep-last "$keep" --prune --max-unused "$how"
      done
      read -r ours_took ours_had < <(middle icecore)
      read -r theirs_took theirs_had < <(middle restic)
      echo "| keep $keep | $how | $ours_took s, $ours_had MiB | $theirs_took s, $theirs_had MiB" \
        "| $(awk "BEGIN { printf \"%.1f\", $theirs_took / $ours_took }") |"
    done
  done
}

# In a process of its own, the last two are how the others run.
case ${1:-} in
restic) benches/document.py collection-restic "Medians of ${ROUNDS:-3}" "$PWD/benches/collection.sh" beside ;;
snapshots) figures snapshots "On disk" a_thousand_snapshots_in_a_directory a_thousand_snapshots_on_minio ;;
start) figures start "On disk" the_start_of_a_command ;;
chunks)
  export CHUNKS=${CHUNKS:-10000000}
  figures chunks "On disk" millions_of_chunks_of requests_for_millions_of_chunks
  ;;
year) DAYS=${DAYS:-90} figures year "On disk" a_backup_every_five_minutes ;;
beside) beside_restic ;;
tests)
  for test in "${@:2}"; do
    cargo test --release --locked --test prune -- --ignored --nocapture --test-threads=1 "$test"
  done
  ;;
*)
  sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
  ;;
esac
