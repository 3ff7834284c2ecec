#!/usr/bin/env bash
# A real Milvus, backed up while it runs, wiped and brought back: what its own client saw
# before and sees after.
#
#   make test-milvus                # or, when all is built: tests/milvus.sh
#   VERSION=2.3.5 ROWS=3000         # another Milvus (scripts/servers.sh milvus-VERSION), other sizes
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/checks.sh
VERSION=${VERSION:-2.3.5} ROWS=${ROWS:-3000}
client=$CACHE/milvus-client/bin/python

export ICECORE_REPOSITORY=$TMP/repository

BUCKET=a-bucket QUEUE=rocksmq
start() {
  start_etcd etcd 3.5
  start_minio minio
  make_bucket minio "$BUCKET"
  case $QUEUE in
    kafka) start_kafka kafka ;;
    pulsar)
      start_pulsar pulsar
      make_topics
      ;;
  esac
}
# Pulsar 2.10 takes half a minute to answer that a topic is not there, and a Milvus that was restored asks
# for each of its channels: 193 s until it was ready, 2 with topics.
make_topics() {
  local i topic
  for ((i = 0; i < 16; i++)); do
    topic=${MANAGEMENT[pulsar]}/admin/v2/persistent/public/default/by-dev-rootcoord-dml_$i
    curl -fsS -X PUT "$topic"
    curl -fsS -o "$TMP/topic" "$topic/stats"
  done
}
# start_server [SETTING=VALUE…]
start_server() {
  case $QUEUE in
    kafka) set -- MQ_TYPE=kafka "KAFKA_BROKERLIST=${URL[kafka]}" "$@" ;;
    pulsar) set -- MQ_TYPE=pulsar PULSAR_ADDRESS=127.0.0.1 "PULSAR_PORT=${URL[pulsar]##*:}" "PULSAR_WEBPORT=${MANAGEMENT[pulsar]##*:}" "$@" ;;
  esac
  start_milvus milvus "$VERSION" etcd minio "$BUCKET" COMMON_SECURITY_AUTHORIZATIONENABLED=true "$@"
}

revision() { etcdctl_of etcd get no-such-key -w json | grep -o '"revision":[0-9]*' | cut -d: -f2; }
# bucket first GLOB | take KEY FILE | put KEY FILE: single objects. "take" also removes it.
bucket() {
  "$PYTHON" - "${URL[minio]}" "$ACCESS_KEY" "$SECRET_KEY" "$@" <<'PYTHON'
import fnmatch, sys, boto3
from botocore.config import Config
url, access, secret, verb, key, *file = sys.argv[1:]
s3 = boto3.client("s3", endpoint_url=url, aws_access_key_id=access, aws_secret_access_key=secret,
                  region_name="us-east-1", config=Config(s3={"addressing_style": "path"}))
if verb == "first":
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket="a-bucket")
    keys = [o["Key"] for page in pages for o in page["Contents"]]
    # The last ones are of collections that live.
    print(fnmatch.filter(keys, key)[-1])
elif verb == "take":
    s3.download_file("a-bucket", key, file[0])
    s3.delete_object(Bucket="a-bucket", Key=key)
else:
    s3.upload_file(file[0], "a-bucket", key)
PYTHON
}

# rows_more BEFORE AFTER: how many rows of words a snapshot has more, in segments that are flushed.
rows_more() {
  local rows='import json, sys
print(sum(line["totals"]["rows"] for line in map(json.loads, sys.stdin) if line["name"] == "words"))'
  local before after
  before=$("$icecore" milvus ls "$1" --json | "$PYTHON" -c "$rows")
  after=$("$icecore" milvus ls "$2" --json | "$PYTHON" -c "$rows")
  echo "$((after - before))"
}
# interrupted NAME COMMAND…: it is told to stop once it asked for a pause.
interrupted() {
  local name=$1 got=0
  shift
  "$@" >"$OUT" 2>"$ERR" </dev/null &
  until grep -q pause "$TMP/asked"; do sleep 0.05; done
  kill -INT $!
  wait $! || got=$?
  if ((got == 130)); then ok "$name"; else not_ok "$name" "exit code $got, not 130"; fi
}

# Everything that Milvus keeps anywhere: etcd, the bucket, the queue, local files.
wipe() {
  stop milvus KILL
  stop etcd KILL
  stop minio KILL
  rm -rf "${DIR[etcd]}/data" "${DIR[minio]}/data" "${DIR[milvus]}/local"
  [[ $QUEUE == rocksmq ]] || { stop "$QUEUE" KILL; rm -rf "${DIR[$QUEUE]}/data"; }
}

# comes_back NAME POINT [RESTORE-OPTION…] [-- SETTING=VALUE…]: wiped, restored to $BUCKET and
# started, it is what was recorded as NAME.
comes_back() {
  local name=$1 point=$2 options=()
  shift 2
  while (($#)) && [[ $1 != -- ]]; do options+=("$1"); shift; done
  (($#)) && shift
  wipe
  start
  expect "restore of $name" 0 'restored' "$icecore" restore "$point" "${options[@]}" \
    --to-etcd "${URL[etcd]}" --to-s3 "${URL[minio]}" --to-bucket "$BUCKET"
  ! [[ ${options[*]} == *--milvus-new-queue* ]] || says 'places in the queue are its begin' 'are read from their begin'
  start_server "$@"
  expect "a client records what came back as $name" 0 '' "${milvus[@]}" record "$TMP/$name.after.json"
  expect "what came back as $name is what was there" 0 'the same' \
    "$client" "$ORACLE/milvus.py" compare "$TMP/$name.json" "$TMP/$name.after.json"
  expect "rows go into $name and are found" 0 '' "${milvus[@]}" insert
}

start
start_server
section "Milvus $VERSION runs"
# The server keeps its ports.
milvus=("$client" "$ORACLE/milvus.py" "${URL[milvus]#http://}")
sources=(--etcd "${URL[etcd]}" --s3 "${URL[minio]}" --bucket a-bucket)
"${milvus[@]}" fill --rows "$ROWS"
"${milvus[@]}" record "$TMP/first.json"
section "filled"
expect 'logs get whole paths, as in old layouts' 0 'logs' \
  "$client" "$ORACLE/milvus.py" old-paths "${URL[etcd]}" files
expect 'a repository is made' 0 'made repository' "$icecore" init
expect 'the first backup' 0 'snapshot' "$icecore" backup "${sources[@]}" --name first

says 'a backup looks whether all that Milvus needs is there' 'objects that it needs are here'
expect 'ls lists collections' 0 'default.words' "$icecore" milvus ls first
says 'with their rows' '4,500'
expect 'ls -l lists schemas, users and privileges' 0 'Query on Collection default.words' "$icecore" milvus ls -l first

"${milvus[@]}" insert-more
"${milvus[@]}" record "$TMP/between.json"
between=$(revision)
"${milvus[@]}" replace
"${milvus[@]}" record "$TMP/second.json"
section "changed"
expect 'the second backup' 0 'snapshot' "$icecore" backup "${sources[@]}" --name second
expect 'first and second are not the same' 1 '/databases/default/cold' \
  "$client" "$ORACLE/milvus.py" compare "$TMP/first.json" "$TMP/second.json"
expect 'diff shows collections' 0 '- collection default.cold' "$icecore" milvus diff first second
says 'and users' '+ user late'
expect 'history shows when a collection was dropped' 0 'gone' "$icecore" milvus history cold
expect 'check says of each snapshot that it is complete' 0 'complete' "$icecore" milvus check --all
expect 'and of a revision between two' 0 'complete' "$icecore" milvus check "rev:$between"

section "proofs on scratch servers"
start_etcd scratch 3.5
start_minio scratch-s3
make_bucket scratch-s3 scratch
scratch=(--to-etcd "${URL[scratch]}" --to-s3 "${URL[scratch-s3]}" --to-bucket scratch)
expect 'a restore is proved' 0 'proven' "$icecore" milvus prove second "${scratch[@]}"
expect 'not onto what is not empty' 1 'is not empty' "$icecore" milvus prove first "${scratch[@]}"
# Eight bytes, more than any time.
etcdctl_of scratch put by-dev/kv/gid/idTimestamp '~~~~~~~~' >/dev/null
expect 'what counts ids is not set back' 0 'left as it is: by-dev/kv/gid/idTimestamp' \
  "$icecore" restore first "${scratch[@]}" --overwrite --delete-extra
is 'and is as it was' '~~~~~~~~' "$(etcdctl_of scratch get by-dev/kv/gid/idTimestamp --print-value-only)"

section "one object less"
binlog=$(bucket first 'files/insert_log/*/100/*')
bucket take "$binlog" "$TMP/binlog"
expect 'a backup that lacks an object says which' 3 "$binlog" "$icecore" backup "${sources[@]}" --name lacking
says 'and of which collection and segment' 'segment '
expect 'a check names it' 3 "$binlog" "$icecore" milvus check lacking
expect 'a proof fails for it' 3 'NOT PROVEN' \
  "$icecore" milvus prove lacking "${scratch[@]}" --overwrite --delete-extra
expect 'with --strict such a backup fails' 1 'lacking-strictly' \
  "$icecore" backup "${sources[@]}" --name lacking-strictly --strict --json
expect 'one that is not checked does not' 0 'snapshot' \
  "$icecore" backup "${sources[@]}" --name unchecked --no-milvus-check
bucket put "$binlog" "$TMP/binlog"
expect 'with the object back all is there' 0 'objects that it needs are here' "$icecore" backup "${sources[@]}"

expect 'a Milvus that cannot pause its collector is backed up all the same' 3 'Milvus has it since 2.4' \
  "$icecore" backup "${sources[@]}" --milvus-management "${MANAGEMENT[milvus]}"

# manage: answers as the management port does, and writes what it was asked to $TMP/asked.
manage() {
  free_port
  "$PYTHON" - "$PORT" >>"$TMP/asked" <<'PYTHON' &
import http.server, sys
class Port(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print(self.path.rsplit("/", 1)[1].split("?")[0], flush=True)
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Port).serve_forever()
PYTHON
  PID[manage]=$! DIR[manage]=$TMP
  until (: <"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; do sleep 0.1; done
}
manage
quiet=(--milvus-management "http://127.0.0.1:$PORT" --milvus-flush "${URL[milvus]}" --milvus-user root:Milvus)
"${milvus[@]}" grow 700
expect 'rows that are not flushed are not in a backup' 0 'snapshot' "$icecore" backup "${sources[@]}" --name growing
says 'which says so' 'segments not flushed, whose last rows are not'
expect 'and where there are such rows' 0 'segments not flushed (at most ' "$icecore" milvus ls growing
expect 'a backup that flushes before' 0 'flushed: 4 collections of 2 databases' \
  "$icecore" backup "${sources[@]}" "${quiet[@]}" --name flushed
is 'has them' 700 "$(rows_more growing flushed)"
is 'and paused the collector meanwhile' 'pause resume' "$(paste -sd ' ' "$TMP/asked")"
expect 'a wrong password is said, and the backup made' 3 'rows that Milvus had not flushed are not in this snapshot' \
  "$icecore" backup "${sources[@]}" --milvus-flush "${URL[milvus]}" --milvus-user root:wrong
: >"$TMP/asked"
"${milvus[@]}" grow 700
ICECORE_CACHE_DIR=$TMP/other-cache interrupted 'an interrupted one' \
  "$icecore" backup "${sources[@]}" "${quiet[@]}" --series interrupted --limit-upload 10KiB
is 'let the collector go on as well' 'pause resume' "$(paste -sd ' ' "$TMP/asked")"

expect 'nothing is restored under a Milvus that runs' 1 'a Milvus runs on the target' \
  "$icecore" restore first --to-etcd "${URL[etcd]}" --overwrite --delete-extra

section "inserts, deletes, compaction, and a collection that comes and goes meanwhile"
"${milvus[@]}" churn 20 >"$TMP/churn.log" 2>&1 &
churn=$! points=()
while kill -0 $churn 2>/dev/null; do
  expect "backup $((${#points[@]} + 1)) under changes is complete" 0 'objects that it needs are here' \
    "$icecore" backup "${sources[@]}"
  points+=("latest~${#points[@]}")
  sleep 0.5
done
wait $churn || not_ok 'changes went on' "$(tail -n 1 "$TMP/churn.log")"
expect "all ${#points[@]} of them are" 0 'complete' "$icecore" milvus check "${points[@]}"
"${milvus[@]}" record "$TMP/churned.json"
expect 'milvus.yaml may name the bucket' 0 'objects that it needs are here' \
  "$icecore" backup --etcd "${URL[etcd]}" --s3 "${URL[minio]}" --milvus-config "${DIR[milvus]}/configs/milvus.yaml"
expect 'a last backup' 0 'snapshot' "$icecore" backup "${sources[@]}" --name churned

section "a second Milvus in the same etcd and bucket"
start_milvus second "$VERSION" etcd minio a-bucket ROOT=other FILES=second/files
"$client" "$ORACLE/milvus.py" "${URL[second]#http://}" small
expect 'both are in a backup' 0 '"other" (' "$icecore" backup "${sources[@]}" --name both
expect 'each with its own' 0 '"second/files" in the bucket' "$icecore" milvus ls both
says 'and the first as before' '"files" in the bucket'
expect 'both are complete' 0 'other: complete' "$icecore" milvus check both
enable_auth etcd reader secret other/
expect 'a user who may read one of them backs that up' 0 '"other" (' \
  "$icecore" backup "${sources[@]}" --series user --etcd-prefix other/ --etcd-user reader:secret
etcdctl_of etcd --user root:root auth disable >/dev/null
expect 'it is complete' 0 'other: complete' "$icecore" milvus check latest --series user
stop second KILL

section "wiped and restored: the last"
comes_back churned churned
section "wiped and restored: the second"
comes_back second second --milvus-new-queue
section "wiped and restored: a revision between two backups"
comes_back between "rev:$between"
section "wiped and restored: the first, under other root paths, in another bucket"
BUCKET=another-bucket
comes_back first first --map etcd:by-dev/=a/copy/ --map objects:files/=elsewhere/ -- ROOT=a/copy FILES=elsewhere
etcdctl_of etcd get a/copy/meta/datacoord-meta/ --prefix >"$TMP/values"
expect 'paths in its values are those of the copy' 0 '' grep -qa elsewhere/insert_log/ "$TMP/values"
expect 'all of them' 1 '' grep -qa files/insert_log/ "$TMP/values"

for queue in kafka pulsar; do
  name=${queue^}
  section "with $name"
  has "$queue" || { echo "SKIPPED: with $name, which is not there (scripts/servers.sh $queue)"; continue; }
  wipe
  QUEUE=$queue BUCKET=a-bucket
  start
  start_server
  "${milvus[@]}" fill --rows 1000
  "${milvus[@]}" record "$TMP/$queue.json"
  expect "a backup of a Milvus on $name" 0 'objects that it needs are here' \
    "$icecore" backup "${sources[@]}" --series "$queue"
  expect 'a restore warns that topics may be gone' 3 "channels of $name where it had stopped then" \
    "$icecore" restore latest --series "$queue" --to-etcd "${URL[scratch]}" --dry-run --overwrite
  comes_back "$queue" latest --series "$queue" --milvus-new-queue
done

ended=1
((failed == 0))
