#!/usr/bin/env bash
# icecore from the first backup to the restore after a loss, with a real etcd and a
# real MinIO on this machine, both thrown away at the end.
#
#   make demo                 # or, when all is built: scripts/demo.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/env.sh
. scripts/lib.sh
binary=$(built)

# The caller's own icecore must not be touched.
unset "${!ICECORE_@}"
export ICECORE_REPOSITORY=$TMP/repository ICECORE_CACHE_DIR=$TMP/cache
export ICECORE_PASSPHRASE='only for this demo'
export ICECORE_S3_ACCESS_KEY_ID=$ACCESS_KEY ICECORE_S3_SECRET_ACCESS_KEY=$SECRET_KEY

bold='' plain=''
[[ -t 1 ]] && bold=$'\e[1m' plain=$'\e[0m'
step() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
# The command is shown also where its output goes into a file.
exec 3>&1
icecore() {
  printf '$ icecore %s\n' "$*" >&3
  "$binary" "$@"
}

# report FILE EXPRESSION: a Python expression over the JSON report r.
report() {
  "$PYTHON" -c 'import json, sys
r = json.load(open(sys.argv[1]))
print(eval("f" + repr(sys.argv[2])))' "$1" "$2"
}

start() {
  start_etcd etcd 3.6
  start_minio minio
  make_bucket minio a-bucket
}

lose() {
  stop etcd KILL
  stop minio KILL
  rm -rf "${DIR[etcd]}/data" "${DIR[minio]}/data"
}

fill_etcd() { "$PYTHON" "$ORACLE/fill.py" "$@" --endpoints "${URL[etcd]}" --seed demo; }
# It names on stderr what MinIO refuses to take.
fill_s3() { "$PYTHON" "$ORACLE/fill.py" "$@" "${s3[@]}" --bucket a-bucket --seed demo 2>>"$TMP/refused"; }

# Every key and value, and every object with all that belongs to it, read without icecore.
dump() { # NAME
  "$PYTHON" "$ORACLE/dump.py" etcd --etcdctl "$(etcd_dir 3.6)/etcdctl" --endpoints "${URL[etcd]}" >"$TMP/$1.etcd"
  "$PYTHON" "$ORACLE/dump.py" s3 "${s3[@]}" --bucket a-bucket >"$TMP/$1.s3"
}

step "An etcd and a MinIO, filled as Milvus would: small keys, float vectors, small files"
start
mapfile -t s3 < <(s3_args minio)
fill_etcd etcd --keys 2000
fill_s3 s3 --objects 600 --every 8
sources=(--etcd "${URL[etcd]}" --s3 "${URL[minio]}" --bucket a-bucket)

step "A repository: a directory here, encrypted with a passphrase"
icecore init

step "The first backup reads all of it"
icecore backup "${sources[@]}" --name first

step "One key and one object in a hundred change"
fill_etcd churn-etcd --percent 1
fill_s3 churn-s3 --percent 1

step "The second backup reads and stores only what changed"
icecore backup "${sources[@]}" --name second --json >"$TMP/second.json"
report "$TMP/second.json" '{r["seconds"]:.1f} s, read {r["objects"]["read_count"]} of {r["objects"]["count"]} objects, wrote {r["stored"]["written_bytes"]:,} bytes for a bucket of {r["objects"]["bytes"]:,} bytes'
icecore snapshots
icecore diff first second | sed -n 1,5p

step "Disaster: both servers lose their disks and come back empty"
dump before
lose
start
echo "etcd holds $(etcdctl_of etcd get '' --prefix --keys-only | grep -c . || true) keys, the bucket $(find "${DIR[minio]}/data/a-bucket" -type f | wc -l) objects"

step "Restore"
icecore restore latest --to-etcd "${URL[etcd]}" --to-s3 "${URL[minio]}" --to-bucket a-bucket

step "The verdict of a program that shares no code with icecore"
dump after
for what in etcd s3; do
  # Revisions are the server's own and start anew; they are not in the dump.
  printf '%-6s' "$what:"
  "$PYTHON" "$ORACLE/dump.py" compare "$TMP/before.$what" "$TMP/after.$what"
done

step "And the repository itself, every byte of it"
icecore check --read-data

printf '\n%sAll came back as it was.%s\n' "$bold" "$plain"
