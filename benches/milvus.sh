#!/usr/bin/env bash
# What icecore costs a Milvus: measured on a real one, written into docs/performance.md.
#
#   make build && scripts/servers.sh etcd-3.5 minio python milvus && benches/milvus.sh
#   MEGABYTES=1024 DAYS=30          # the collection; days with 1% more rows each
#   SEGMENTS=100000                 # of the made-up Milvus whose references are checked
#   ALONE=COMMAND                   # runs each timed command (to have the machine for it alone)
#
# Needs some five times the collection in the temporary directory.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/env.sh
. scripts/lib.sh
icecore=$(built)
VERSION=${VERSION:-2.3.5} MEGABYTES=${MEGABYTES:-1024} DAYS=${DAYS:-30} SEGMENTS=${SEGMENTS:-100000}
client=$CACHE/milvus-client/bin/python
read -ra ALONE <<<"${ALONE:-}"

unset "${!ICECORE_@}"
export ICECORE_PASSPHRASE=bench ICECORE_CACHE_DIR=$TMP/cache ICECORE_REPOSITORY=$TMP/repository
export ICECORE_S3_ACCESS_KEY_ID=$ACCESS_KEY ICECORE_S3_SECRET_ACCESS_KEY=$SECRET_KEY

# timed COMMAND…: sets TOOK (seconds) and PEAK (MiB resident); its output is in $TMP/out.
timed() {
  "${ALONE[@]}" "$PYTHON" - "$TMP/out" "$@" >"$TMP/timed" <<'PYTHON'
import resource, subprocess, sys, time
begun = time.monotonic()
with open(sys.argv[1], "wb") as out:
    done = subprocess.run(sys.argv[2:], stdout=out, stdin=subprocess.DEVNULL)
print(f"{time.monotonic() - begun:.2f} {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024}")
sys.exit(done.returncode)
PYTHON
  read -r TOOK PEAK <"$TMP/timed"
}
field() { "$PYTHON" -c 'import json, sys; v = json.load(open(sys.argv[1]))
for k in sys.argv[2].split("."): v = v[k]
print(v)' "$TMP/out" "$1"; }
bytes_of() { du -sb --apparent-size "$1" | cut -f 1; }
calc() { "$PYTHON" -c "print($1)"; }
rows=()
row() { rows+=("| $1 | $2 |"); echo "$1: $2" >&2; }

# milvus ROWS FIRST | ready: rows of 768 floats go in, or the collection is loaded and searched.
milvus() {
  "$client" - "${URL[milvus]#http://}" "$@" <<'PYTHON'
import sys, time, numpy as np
from pymilvus import *
address, verb, *rest = sys.argv[1:]
connections.connect(alias="default", address=address)
DIM = 768
def collection():
    schema = CollectionSchema([FieldSchema("id", DataType.INT64, is_primary=True), FieldSchema("v", DataType.FLOAT_VECTOR, dim=DIM)])
    made = Collection("items", schema, shards_num=1)
    made.create_index("v", {"index_type": "FLAT", "metric_type": "L2", "params": {}})
    return made
if verb == "ready":
    found = Collection("items")
    while str(utility.load_state("items")) == "Loading":
        time.sleep(0.1)
    found.load()
    while True:
        try:
            print(len(found.search([[0.5] * DIM], "v", {"metric_type": "L2"}, limit=10)[0]))
            break
        except MilvusException:
            time.sleep(0.2)
else:
    rows, first = map(int, [verb, *rest])
    into = collection()
    random = np.random.default_rng(first)
    for at in range(0, rows, 5000):
        count = min(5000, rows - at)
        into.insert([list(range(first + at, first + at + count)), random.random((count, DIM), dtype=np.float32)])
    into.flush()
PYTHON
}
sources() { printf '%s\n' --etcd "${URL[etcd]}" --s3 "${URL[minio]}" --bucket a-bucket; }
backup() { timed "$icecore" backup --json $(sources); }

bench_collection() {
  start_etcd etcd 3.5
  start_minio minio
  make_bucket minio a-bucket
  start_milvus milvus "$VERSION" etcd minio a-bucket
  local count=$((MEGABYTES * 1024 * 1024 / (768 * 4))) day written copies=0 size took
  milvus "$count" 0
  milvus ready >/dev/null
  "$icecore" init >/dev/null
  backup
  size=$(field objects.bytes)
  row "first backup of a collection of $count rows × 768 floats ($((size >> 20)) MiB in the bucket)" "$TOOK s, $PEAK MiB resident"
  # Milvus merges what it has just flushed.
  until [[ $(field objects.added) == 0 ]]; do
    sleep 10
    "$icecore" backup --json $(sources) >"$TMP/out"
  done
  backup
  row "backup of it, unchanged" "$TOOK s, $(field stored.written_bytes) bytes written"
  for ((day = 1; day <= DAYS; day++)); do
    milvus $((count / 100)) $((count * 2 + day * 1000000))
    "$icecore" backup --json $(sources) >"$TMP/out"
    # A copy of what lives, without what Milvus has merged and not deleted yet.
    "$icecore" milvus check latest --json >"$TMP/out"
    copies=$((copies + $(field bytes)))
  done
  written=$(bytes_of "$TMP/repository")
  row "$DAYS daily snapshots, 1% more rows each" "$((written >> 20)) MiB in the repository; $DAYS copies of what lives: $((copies >> 20)) MiB ($(calc "round($copies / $written, 1)") times as much)"
  "$icecore" backup --json $(sources) >"$TMP/out"
  size=$(field objects.bytes)
  stop milvus KILL; stop etcd KILL; stop minio KILL
  rm -rf "${DIR[etcd]}/data" "${DIR[minio]}/data" "${DIR[milvus]}/local"
  start_etcd etcd 3.5
  start_minio minio
  make_bucket minio a-bucket
  timed "$icecore" restore latest --to-etcd "${URL[etcd]}" --to-s3 "${URL[minio]}" --to-bucket a-bucket
  took=$TOOK
  local begun=$EPOCHREALTIME
  start_milvus milvus "$VERSION" etcd minio a-bucket
  milvus ready >/dev/null
  row "restore of the last ($((size >> 20)) MiB), until it answers a search" \
    "$(calc "round($took + $EPOCHREALTIME - $begun, 1)") s: restore $took s ($(calc "round($took / ($size / 1e9), 1)") s a GB), start and load $(calc "round($EPOCHREALTIME - $begun, 1)") s"
  stop milvus KILL; stop etcd KILL; stop minio KILL
  rm -rf "${DIR[etcd]}/data" "${DIR[minio]}/data" "${DIR[milvus]}/local" "$TMP/repository" "$TMP/cache"
}

# A Milvus that never was: its keys, and a file of one byte for each of its logs.
make_segments() {
  "$PYTHON" - "${URL[etcd]}" "$1" "$SEGMENTS" <<'PYTHON'
import base64, http.client, json, os, sys
url, top, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
etcd = http.client.HTTPConnection(url.removeprefix("http://"))
def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])
number = lambda tag, n: varint(tag << 3) + varint(n)
text = lambda tag, data: varint(tag << 3 | 2) + varint(len(data)) + data
batch = []
def put(key, value):
    b64 = lambda data: base64.b64encode(data).decode()
    batch.append({"requestPut": {"key": b64(b"by-dev/meta/" + key.encode()), "value": b64(value)}})
    if len(batch) == 128:
        send()
def send():
    etcd.request("POST", "/v3/kv/txn", json.dumps({"success": batch}))
    answer = etcd.getresponse()
    assert answer.status == 200, answer.read()
    answer.read()
    batch.clear()
put("root-coord/database/db-info/1", text(2, b"default") + number(3, 1))
put("root-coord/database/collection-info/1/7", number(1, 7) + text(2, text(1, b"many")))
for n in range(count):
    segment = 1000 + n
    put(f"datacoord-meta/s/7/8/{segment}", number(1, segment) + number(2, 7) + number(3, 8) + text(4, b"by-dev-rootcoord-dml_0_7v0") + number(5, 1000) + number(6, 4))
    for kind, folder, field in (("binlog", "insert_log", 100), ("binlog", "insert_log", 101), ("statslog", "stats_log", 100)):
        log = 10 * segment + field % 10
        put(f"datacoord-meta/{kind}/7/8/{segment}/{field}", number(1, field) + text(2, number(1, 1000) + number(5, 1) + number(6, log)))
        place = f"{top}/files/{folder}/7/8/{segment}/{field}"
        os.makedirs(place)
        with open(f"{place}/{log}", "wb") as file:
            file.write(b"x")
if batch:
    send()
PYTHON
}

bench_segments() {
  start_etcd etcd 3.5
  make_segments "$TMP/objects"
  "$icecore" init >/dev/null
  timed "$icecore" backup --json --no-milvus-check --etcd "${URL[etcd]}" --dir "$TMP/objects"
  timed "$icecore" milvus check latest
  grep -q ': complete' "$TMP/out" || die "$(cat "$TMP/out")"
  row "reference check of $SEGMENTS segments ($((3 * SEGMENTS)) files)" "$TOOK s, $PEAK MiB resident"
  stop etcd KILL
  rm -rf "$TMP/objects"
}

bench_collection
bench_segments
printf '%s\n' "| Milvus $VERSION on etcd 3.5 and MinIO | |" '|---|---|' "${rows[@]}" >"$TMP/table"
benches/document.py milvus "One run, which had just ended" cat "$TMP/table"
