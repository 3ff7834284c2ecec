#!/usr/bin/env bash
# The write-ahead log of Milvus 2.6, Woodpecker, written by Milvus's own code: backed up while it is written and
# compacted, and restored, also at a revision between two backups. What was acknowledged is there, and it goes on.
#
#   make test-milvus                # or, when all is built: tests/woodpecker.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/checks.sh
wal=$CACHE/bin/milvus-wal LOG=by-dev-rootcoord-dml_0

export ICECORE_REPOSITORY=$TMP/repository

# servers NAME: an etcd and a MinIO of their own.
servers() {
  start_etcd "$1-etcd" 3.5
  start_minio "$1-minio"
  make_bucket "$1-minio" a-bucket
}
# on SERVERS: where $wal works from now on, with segments of three seconds, compacted a second later.
on() {
  local etcd=${URL[$1-etcd]#http://} minio=${URL[$1-minio]#http://}
  local settings=("etcd.endpoints=$etcd" "minio.address=$minio" "minio.port=${minio##*:}" minio.bucketName=a-bucket
    minio.rootPath=files "minio.accessKeyID=$ACCESS_KEY" "minio.secretAccessKey=$SECRET_KEY" log.level=error
    woodpecker.storage.type=minio woodpecker.client.segmentRollingPolicy.maxInterval=3s
    woodpecker.client.auditor.maxInterval=1s woodpecker.logstore.segmentSyncPolicy.maxInterval=20ms
    woodpecker.logstore.segmentCompactionPolicy.maxSize=100K)
  export ETCD_ENDPOINTS=$etcd WAL_SETTINGS="${settings[*]}"
}
segments() { etcdctl_of source-etcd get "woodpecker/logs/$LOG/segments/" --prefix --keys-only | grep -c .; }
revision() { etcdctl_of source-etcd get no-such-key -w json | grep -o '"revision":[0-9]*' | cut -d: -f2; }
backup() { # NAME
  cp "$TMP/written" "$TMP/$1.acknowledged"
  expect "the $1 backup" 0 snapshot \
    "$icecore" backup --name "$1" --etcd "${URL[source-etcd]}" --s3 "${URL[source-minio]}" --bucket a-bucket
}
# comes_back NAME POINT: what was acknowledged before NAME is there, and it goes on behind it.
comes_back() {
  local name=$1 point=$2 there=$TMP/$1.there
  servers "$name"
  expect "restore of $name" 0 restored "$icecore" restore "$point" \
    --to-etcd "${URL[$name-etcd]}" --to-s3 "${URL[$name-minio]}" --to-bucket a-bucket
  [[ $point == "$name" ]] || says 'later segments are left out' 'objects of the write-ahead log, in segments that were begun after'
  on "$name"
  expect "the log of $name is read" 0 '' "$wal" read "$LOG" "$there"
  expect "what was acknowledged is there" 0 '' \
    cmp <(head -n "$(wc -l <"$TMP/$name.acknowledged")" "$there") "$TMP/$name.acknowledged"
  expect "it goes on" 0 '' "$wal" append "$LOG" 100000 100003 0 "$TMP/more"
  expect "it is read again" 0 '' "$wal" read "$LOG" "$TMP/$name.after"
  expect "what was there and what came after is all there is" 0 '' cmp "$TMP/$name.after" <(cat "$there" "$TMP/more")
  stop "$name-etcd"
  stop "$name-minio"
}

servers source
start_etcd other-etcd 3.5
expect 'a repository is made' 0 'made repository' "$icecore" init
: >"$TMP/written"
on source
"$wal" append "$LOG" 0 700 0 "$TMP/written" >"$TMP/wal.log" 2>&1 &
writer=$!
until (($(wc -l <"$TMP/written") > 150)); do sleep 0.1; done
section "it is written"
backup first
at=$(segments)
until (($(segments) > at)); do sleep 0.1; done
cp "$TMP/written" "$TMP/between.acknowledged"
between=$(revision)
until (($(segments) > at + 1)); do sleep 0.1; done
sleep 2
backup second
if wait "$writer"; then ok 'it was written to the end'; else not_ok 'it was written to the end' "$(tail -n 1 "$TMP/wal.log")"; fi
backup last

expect 'beside later segments that stay a restore warns' 3 'stay in the bucket, in segments that were begun after' \
  "$icecore" restore "rev:$between" --to-s3 "${URL[source-minio]}" --to-bucket a-bucket --overwrite --dry-run

expect 'etcd alone is half of it' 0 'the write-ahead log of Milvus is in the bucket, too' \
  "$icecore" restore "rev:$between" --to-etcd "${URL[other-etcd]}" --dry-run

section "restored: a revision between two backups"
comes_back between "rev:$between"
section "restored: the first"
comes_back first first
section "restored: the last"
comes_back last last

ended=1
((failed == 0))
