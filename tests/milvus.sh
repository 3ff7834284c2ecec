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
start_server() { start_milvus milvus "$VERSION" etcd minio a-bucket COMMON_SECURITY_AUTHORIZATIONENABLED=true; }

# Everything that Milvus keeps anywhere: etcd, the bucket, the queue, local files.
wipe() {
  stop milvus KILL
  stop etcd KILL
  stop minio KILL
  rm -rf "${DIR[etcd]}/data" "${DIR[minio]}/data" "${DIR[milvus]}/local"
}

# comes_back NAME POINT: wiped, restored and started, it is what was recorded as NAME.
comes_back() {
  wipe
  start
  expect "restore of $1" 0 'restored snapshot' \
    "$icecore" restore "$2" ${RESTORE_ARGS:-} --to-etcd "${URL[etcd]}" --to-s3 "${URL[minio]}" --to-bucket a-bucket
  start_server
  expect "a client records what came back as $1" 0 '' "${milvus[@]}" record "$TMP/$1.after.json"
  expect "what came back as $1 is what was there" 0 'the same' \
    "$client" "$ORACLE/milvus.py" compare "$TMP/$1.json" "$TMP/$1.after.json"
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

"${milvus[@]}" change
"${milvus[@]}" record "$TMP/second.json"
section "changed"
expect 'the second backup' 0 'snapshot' "$icecore" backup "${sources[@]}" --name second
expect 'the two are not the same' 1 '/databases/default/cold' \
  "$client" "$ORACLE/milvus.py" compare "$TMP/first.json" "$TMP/second.json"

section "wiped and restored"
comes_back second second
expect 'rows go in and are found' 0 '' "${milvus[@]}" insert
section "wiped and restored to the first backup"
comes_back first first
expect 'rows go in and are found after the older restore' 0 '' "${milvus[@]}" insert

ended=1
((failed == 0))
