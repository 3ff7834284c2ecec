#!/usr/bin/env bash
# A real Milvus, backed up while it runs, wiped and brought back: what its own client saw
# before and sees after.
#
#   make test-milvus                # or, when all is built: tests/milvus.sh
#   VERSION=2.3.5 ROWS=3000         # another Milvus (scripts/servers.sh milvus-VERSION), other sizes
#
# One line for each check; the last line is "N passed, M failed".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/env.sh
. scripts/lib.sh
icecore=$CARGO_TARGET_DIR/release/icecore
[[ -x $icecore ]] || die "$icecore is not there: make build"
VERSION=${VERSION:-2.3.5} ROWS=${ROWS:-3000}
client=$CACHE/milvus-client/bin/python
OUT=$TMP/out ERR=$TMP/err

unset "${!ICECORE_@}"
export ICECORE_PASSPHRASE='the right one' ICECORE_CACHE_DIR=$TMP/cache ICECORE_REPOSITORY=$TMP/repository
export ICECORE_S3_ACCESS_KEY_ID=$ACCESS_KEY ICECORE_S3_SECRET_ACCESS_KEY=$SECRET_KEY

passed=0 failed=0 ended=
section() { echo "# $* (at $SECONDS s)"; }
ok() { passed=$((passed + 1)); echo "ok $1"; }
not_ok() { # NAME WHY
  failed=$((failed + 1))
  echo "FAILED $1: $2"
  tail -qn 8 "$OUT" "$ERR" | cut -c 1-600 | sed 's/^/    /'
}
summary() {
  [[ -n $ended ]] || { failed=$((failed + 1)); echo "FAILED the script: it ended early"; }
  echo "$passed passed, $failed failed"
}
at_exit summary

# expect NAME EXIT-CODE TEXT COMMAND…: it exits so, and says the text (which may be '').
expect() {
  local name=$1 want=$2 text=$3 got=0
  shift 3
  timeout -k 10 600 "$@" >"$OUT" 2>"$ERR" </dev/null || got=$?
  if [[ $got != "$want" ]]; then
    not_ok "$name" "exit code $got, not $want"
  elif [[ -n $text ]] && ! grep -qF -- "$text" "$OUT" "$ERR"; then
    not_ok "$name" "it does not say \"$text\""
  else
    ok "$name"
  fi
}

start() {
  start_etcd etcd 3.5
  start_minio minio
  make_bucket minio a-bucket
}
# start_server [SETTING=VALUE…]
start_server() {
  start_milvus milvus "$VERSION" etcd minio a-bucket COMMON_SECURITY_AUTHORIZATIONENABLED=true "$@"
}

# says NAME TEXT: what the last command said.
says() {
  if grep -qF -- "$2" "$OUT" "$ERR"; then ok "$1"; else not_ok "$1" "it does not say \"$2\""; fi
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

# Everything that Milvus keeps anywhere: etcd, the bucket, the queue, local files.
wipe() {
  stop milvus KILL
  stop etcd KILL
  stop minio KILL
  rm -rf "${DIR[etcd]}/data" "${DIR[minio]}/data" "${DIR[milvus]}/local"
}

# comes_back NAME POINT [RESTORE-OPTION…] [-- SETTING=VALUE…]: wiped, restored and started, it
# is what was recorded as NAME.
comes_back() {
  local name=$1 point=$2 options=()
  shift 2
  while (($#)) && [[ $1 != -- ]]; do options+=("$1"); shift; done
  (($#)) && shift
  wipe
  start
  expect "restore of $name" 0 'restored' "$icecore" restore "$point" "${options[@]}" \
    --to-etcd "${URL[etcd]}" --to-s3 "${URL[minio]}" --to-bucket a-bucket
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

expect 'nothing is restored under a Milvus that runs' 1 'a Milvus runs on the target' \
  "$icecore" restore first --to-etcd "${URL[etcd]}" --overwrite --delete-extra

section "inserts, deletes and compaction meanwhile"
"${milvus[@]}" churn 40 >"$TMP/churn.log" 2>&1 &
churn=$!
while kill -0 $churn 2>/dev/null; do
  expect 'a backup under changes is complete' 0 'objects that it needs are here' "$icecore" backup "${sources[@]}"
  sleep 2
done
wait $churn || not_ok 'changes went on' "$(tail -n 1 "$TMP/churn.log")"
expect 'all of them are' 0 'complete' "$icecore" milvus check latest latest~1 latest~2 latest~3
"${milvus[@]}" record "$TMP/churned.json"
expect 'a last backup' 0 'snapshot' "$icecore" backup "${sources[@]}" --name churned

section "wiped and restored: the last"
comes_back churned churned
section "wiped and restored: the second"
comes_back second second
section "wiped and restored: a revision between two backups"
comes_back between "rev:$between"
section "wiped and restored: the first, under other root paths"
comes_back first first --map etcd:by-dev/=a/copy/ --map objects:files/=elsewhere/ -- ROOT=a/copy FILES=elsewhere

ended=1
((failed == 0))
