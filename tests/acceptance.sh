#!/usr/bin/env bash
# The outside proof: what icecore promises, checked against real servers by programs
# that share no code with it (etcdctl and boto3, through tests/oracle).
#
#   make test                       # or, when all is built: tests/acceptance.sh
#   KEYS=10000 OBJECTS=1000         # the size; FULL=1: 100,000 keys, 10,000 objects
#   SEED=7                          # the same data and the same pokes again
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/checks.sh

KEYS=${KEYS:-${FULL:+100000}} OBJECTS=${OBJECTS:-${FULL:+10000}} SEED=${SEED:-$RANDOM}
KEYS=${KEYS:-10000} OBJECTS=${OBJECTS:-1000}

export ICECORE_ETCD_PASSWORD=root
export ICECORE_REPOSITORY_ACCESS_KEY_ID=$ACCESS_KEY ICECORE_REPOSITORY_SECRET_ACCESS_KEY=$SECRET_KEY

# --- interruptions --------------------------------------------------------

# interrupt NAME CONDITION COMMAND…: Ctrl-C as soon as the condition holds. (The commands
# get a limit of speed, or they might have ended by then.)
interrupt() {
  local name=$1 condition=$2 got=0
  shift 2
  # A background process of a script ignores Ctrl-C unless told otherwise.
  env --default-signal=INT "$@" >"$OUT" 2>"$ERR" </dev/null &
  PID[interrupted]=$! # so that it is stopped with the servers
  until eval "$condition" || ! kill -0 "${PID[interrupted]}" 2>/dev/null; do sleep 0.02; done
  kill -INT "${PID[interrupted]}" 2>/dev/null || true
  wait "${PID[interrupted]}" || got=$?
  unset 'PID[interrupted]'
  is "$name" 'exit code 130' "exit code $got"
}

# count_files DIR NAME: how many files of that name there are so far.
count_files() { find "$1" -type f -name "$2" 2>/dev/null | wc -l; }

# --- the sources ----------------------------------------------------------

start_sources() {
  start_etcd src 3.6 --tls
  start_minio files --tls
}

fill_etcd() { "$PYTHON" "$ORACLE/fill.py" "$@" --endpoints "${URL[src]}" "${src_tls[@]}" --user root:root; }
# It names on stderr what MinIO refuses to take.
fill_s3() { "$PYTHON" "$ORACLE/fill.py" "$@" "${files_s3[@]}" --bucket milvus 2>>"$TMP/refused"; }
src_ctl() { etcdctl_of src --user root:root "$@"; }
revision() { src_ctl get no-such-key -w json | grep -o '"revision":[0-9]*' | cut -d: -f2; }

prepare_sources() {
  start_sources
  mapfile -t src_tls < <(tls_args src)
  mapfile -t files_s3 < <(s3_args files)
  enable_auth src milvus secret by-dev/
  make_bucket files milvus
  fill_etcd etcd --keys "$KEYS" --seed "$SEED"
  fill_s3 s3 --objects "$OBJECTS" --large --seed "$SEED"
  etcd_source=(--etcd "${URL[src]}" --etcd-user root --etcd-ca "${CA[src]}"
    --etcd-cert "${DIR[src]}/certs/client.pem" --etcd-key "${DIR[src]}/certs/client-key.pem")
  s3_source=(--s3 "${URL[files]}" --bucket milvus --s3-ca "${CA[files]}")
}

compact_and_defragment() {
  src_ctl compact "$(revision)" >/dev/null
  src_ctl defrag >/dev/null
}

# --- the repositories -----------------------------------------------------

# repository directory|s3 NAME: the one all commands use from now on; STORED is where
# its files lie.
repository() {
  case $1 in
    directory) STORED=$TMP/repositories/$2 ICECORE_REPOSITORY=$TMP/repositories/$2 ;;
    s3)
      STORED=${DIR[store]}/data/vault/$2
      ICECORE_REPOSITORY="s3://vault/$2?endpoint=${URL[store]}&region=us-east-1"
      ;;
  esac
  export ICECORE_REPOSITORY
}

backup() { # NAME OPTION…
  local name=$1
  shift
  expect "$name" 0 '' "$icecore" backup "${etcd_source[@]}" "${s3_source[@]}" --json "$@"
}

backup_of_nothing_new() { # NAME
  backup "$1"
  holds "$1: reads no object" 'r["requests"]["source_get"] == 0'
  holds "$1: writes less than 64 KiB" 'r["stored"]["written_bytes"] < 65536'
  holds "$1: at etcd's revision" "r['etcd']['revision'] == $(revision)"
}

# --- the targets ----------------------------------------------------------

# fresh_target BUCKET: an empty etcd of another version, without TLS and users, and an
# empty bucket on another MinIO.
fresh_target() {
  stop to
  rm -rf "${DIR[to]:-$TMP/to}/data"
  start_etcd to 3.5
  make_bucket store "$1"
  bucket=$1
  target=(--to-etcd "${URL[to]}" --to-s3 "${URL[store]}" --to-bucket "$1")
}

restore() { # NAME EXIT-CODE OPTION…
  local name=$1 code=$2
  shift 2
  expect "$name" "$code" '' "$icecore" restore latest "${target[@]}" "$@"
}

# Changes with every write to the target.
target_state() {
  etcdctl_of to get no-such-key -w json | grep -o '"revision":[0-9]*'
  find "${DIR[store]}/data/$bucket" -type f -printf '%P %T@\n' | sort | sha256sum
}

writes_nothing() { # NAME OPTION…
  local before
  before=$(target_state)
  restore "$1" 0 "${@:2}"
  is "$1: writes nothing" "$before" "$(target_state)"
}

# --- dumps ----------------------------------------------------------------

dump() { "$PYTHON" "$ORACLE/dump.py" "$@"; }

dump_sources() { # NAME
  dump etcd --etcdctl "$(etcd_dir 3.6)/etcdctl" --endpoints "${URL[src]}" "${src_tls[@]}" --user root:root >"$TMP/$1.etcd"
  dump s3 "${files_s3[@]}" --bucket milvus >"$TMP/$1.s3"
}

dump_target() { # NAME
  dump etcd --etcdctl "$(etcd_dir 3.5)/etcdctl" --endpoints "${URL[to]}" >"$TMP/$1.etcd"
  dump s3 "${store_s3[@]}" --bucket "$bucket" >"$TMP/$1.s3"
}

compare() { # NAME EXIT-CODE TEXT A B
  expect "$1" "$2" "$3" "$PYTHON" "$ORACLE/dump.py" compare "$4" "$5"
}

# as_it_was NAME DUMP: the target holds what was dumped, in every field. (A restored
# etcd counts revisions anew: they are in no dump.)
as_it_was() {
  dump_target restored
  compare "$1: every key as it was" 0 '' "$TMP/$2.etcd" "$TMP/restored.etcd"
  compare "$1: every object as it was" 0 '' "$TMP/$2.s3" "$TMP/restored.s3"
}

# A comparison that overlooks a poke proves nothing.
negative_control() { # NAME DUMP
  local poke=("$PYTHON" "$ORACLE/fill.py")
  # A poke that fails, in a target left empty, changes nothing and is not noticed.
  { "${poke[@]}" poke-etcd --endpoints "${URL[to]}" --seed "$SEED" 2>&1 || true; } | tail -n 1
  { "${poke[@]}" poke-s3 "${store_s3[@]}" --bucket "$bucket" --seed "$SEED" 2>&1 || true; } | tail -n 1
  dump_target poked
  compare "$1: a poked key is noticed" 1 '1 of ' "$TMP/$2.etcd" "$TMP/poked.etcd"
  compare "$1: a poked object is noticed" 1 '1 of ' "$TMP/$2.s3" "$TMP/poked.s3"
  restore "$1: refuses to write over the poked ones" 1
}

# --- the story, for each kind of repository ---------------------------------

backups() { # KIND
  repository "$1" main
  expect "$1: init" 0 '' "$icecore" init
  backup "$1: first backup"
  backup_of_nothing_new "$1: nothing new"
  compact_and_defragment
  backup_of_nothing_new "$1: nothing new, etcd compacted"
  fill_etcd churn-etcd --percent 1 --seed "$SEED-$1"
  fill_s3 churn-s3 --percent 1 --seed "$SEED-$1"
  backup "$1: after churn"
  dump_sources "$1"
  holds "$1: after churn: every key counted" "r['etcd']['keys'] == $(wc -l <"$TMP/$1.etcd")"
  holds "$1: after churn: every object counted" "r['objects']['count'] == $(wc -l <"$TMP/$1.s3")"
}

restores() { # KIND
  repository "$1" main
  fresh_target "$1-whole"
  restore "$1: restore" 0
  as_it_was "$1: restore" "$1"
  writes_nothing "$1: restore again"
  negative_control "$1" "$1"

  fresh_target "$1-interrupted"
  interrupt "$1: Ctrl-C in a restore" \
    "((\$(count_files '${DIR[store]}/data/$bucket' xl.meta) > $OBJECTS / 10))" \
    "$icecore" restore latest "${target[@]}" --limit-download 20MiB
  restore "$1: the interrupted restore again" 0
  as_it_was "$1: the interrupted restore again" "$1"
}

interrupted_backup() { # KIND
  repository "$1" interrupted
  "$icecore" init >/dev/null 2>&1
  interrupt "$1: Ctrl-C in a backup" "((\$(count_files '$STORED/packs/data' '*') > 0))" \
    "$icecore" backup "${etcd_source[@]}" "${s3_source[@]}" --limit-upload 20MiB
  backup "$1: backup after an interrupted one"
  expect "$1: check after an interrupted backup" 0 '' "$icecore" check --read-data
}

# stop_after NAME SECONDS COMMAND…: Ctrl-C after so many seconds. It stops with 130, or
# had ended well by then, which ENDED counts.
stop_after() {
  local name=$1 seconds=$2 got=0
  shift 2
  env --default-signal=INT timeout --foreground --preserve-status -s INT -k 60 "$seconds" "$@" \
    >"$OUT" 2>"$ERR" </dev/null || got=$?
  case $got in
    0) ENDED=$((ENDED + 1)) ;;
    130) ;;
    *) not_ok "$name after $seconds s" "exit code $got" ;;
  esac
}

moments=(0.02 0.1 0.2 0.3 0.45 0.6 0.8 1 1.25 1.5 1.8 2.2)

interrupted_at_any_moment() { # KIND
  local ENDED=0 seconds
  repository "$1" any-moment
  "$icecore" init >/dev/null 2>&1
  for seconds in "${moments[@]}"; do
    stop_after "$1: Ctrl-C in a backup" "$seconds" \
      "$icecore" backup "${etcd_source[@]}" "${s3_source[@]}" --series "after-$seconds"
  done
  is "$1: Ctrl-C at any moment: a snapshot of each backup that ended" "$ENDED" "$("$icecore" snapshots --json | wc -l)"
  backup "$1: backup after Ctrl-C at any moment"
  expect "$1: check after Ctrl-C at any moment" 0 '' "$icecore" check --read-data
  dump_sources any-moment

  fresh_target "$1-any-moment"
  for seconds in "${moments[@]}"; do
    stop_after "$1: Ctrl-C in a restore" "$seconds" "$icecore" restore latest "${target[@]}"
  done
  restore "$1: restore after Ctrl-C at any moment" 0
  as_it_was "$1: restore after Ctrl-C at any moment" any-moment
}

story() { # KIND
  section "repository: $1"
  backups "$1"
  # From here on the sources are gone for icecore.
  stop src
  stop files
  restores "$1"
  start_sources
  interrupted_backup "$1"
  interrupted_at_any_moment "$1"
}

# --- two at once ----------------------------------------------------------

# at_once NAME CACHE SERIES CACHE SERIES
at_once() {
  local one=0 two=0
  ICECORE_CACHE_DIR=$2 "$icecore" backup "${etcd_source[@]}" "${s3_source[@]}" --series "$3" >"$OUT" 2>"$ERR" &
  PID[one]=$!
  ICECORE_CACHE_DIR=$4 "$icecore" backup "${etcd_source[@]}" "${s3_source[@]}" --series "$5" >>"$OUT" 2>>"$ERR" &
  PID[two]=$!
  wait "${PID[one]}" || one=$?
  wait "${PID[two]}" || two=$?
  unset 'PID[one]' 'PID[two]'
  is "$1" 'exit codes 0 and 0' "exit codes $one and $two"
}

two_at_once() {
  section "two backups at once"
  repository directory at-once
  "$icecore" init >/dev/null 2>&1
  at_once 'two backups, one cache' "$TMP/cache" a "$TMP/cache" b
  at_once 'two backups, two caches' "$TMP/cache-c" c "$TMP/cache-d" d
  at_once 'two backups of one series' "$TMP/cache-c" e "$TMP/cache-d" e
  is 'two backups of one series: both are there' 2 "$("$icecore" snapshots --series e --json | wc -l)"
  expect 'two backups at once: check' 0 '' "$icecore" check --read-data

  dump_sources at-once
  fresh_target at-once
  restore 'two backups at once: restore a' 0 --series a
  as_it_was 'two backups at once: restore a' at-once
  # What holds nothing but the same is as good as a comparison.
  local series
  for series in b c d e; do writes_nothing "two backups at once: restore $series" --series "$series"; done
}

# --- damage ---------------------------------------------------------------

# damage FILE HOW: byte N or any byte (flipped) changed, cut by half, emptied, removed.
# Always a new file, since the old one is a hard link.
damage() {
  "$PYTHON" - "$1" "$2" <<'PYTHON'
import os, random, sys
path, how = sys.argv[1:]
data = bytearray(open(path, "rb").read())
if how == "flipped":
    how = str(random.randrange(len(data)))
if how.isdigit():
    data[int(how)] ^= 1 << random.randrange(8)
os.unlink(path)
if how != "removed":
    size = {"cut": len(data) // 2, "emptied": 0}.get(how, len(data))
    open(path, "wb").write(data[:size])
PYTHON
}

# damaged KIND HOW: on a copy, a file of that kind; check names it.
damaged() {
  local copy=$TMP/repositories/damaged file
  file=$(cd "$STORED" && find "$1" -type f 2>/dev/null | shuf -n 1)
  # A small backup has no index file of its own.
  [[ -n $file ]] || return 0
  rm -rf "$copy"
  cp -al "$STORED" "$copy"
  damage "$copy/$file" "$2"
  ICECORE_REPOSITORY=$copy expect "damage: $1 $2" 4 "$file" "$icecore" check --read-data
}

# What is wrong with it must not pass for a wrong passphrase or for a newer format.
every_byte_of_config() {
  local copy=$TMP/repositories/damaged size at code missed=()
  rm -rf "$copy"
  cp -al "$STORED" "$copy"
  size=$(stat -c %s "$STORED/config")
  for ((at = 0; at < size; at++)); do
    cp --remove-destination "$STORED/config" "$copy/config"
    damage "$copy/config" "$at"
    code=0
    ICECORE_REPOSITORY=$copy "$icecore" check >"$OUT" 2>"$ERR" || code=$?
    ((code == 4)) || missed+=("$at: $code")
  done
  is 'damage: every byte of config' 'exit code 4' "${missed[*]:-exit code 4}"
}

damages() {
  section "damage"
  repository directory main
  expect 'no damage: check' 0 '' "$icecore" check --read-data
  local kind how
  for kind in config keys packs/data packs/tree index sessions snapshots; do
    for how in 0 flipped cut emptied; do damaged "$kind" "$how"; done
  done
  for kind in packs/data packs/tree; do damaged "$kind" removed; done
  every_byte_of_config
}

# --- bad input ------------------------------------------------------------

bad_repositories() {
  ICECORE_REPOSITORY=$TMP/nowhere expect 'no repository' 10 "$TMP/nowhere" "$icecore" snapshots
  expect 'second init' 1 "$ICECORE_REPOSITORY" "$icecore" init
  ICECORE_PASSPHRASE=wrong expect 'wrong passphrase' 12 '' "$icecore" snapshots
  expect 'no such point' 1 no-such-name "$icecore" ls no-such-name etcd
  expect 'unknown flag' 2 --no-such-flag "$icecore" backup --no-such-flag
  expect 'unknown command' 2 no-such-command "$icecore" no-such-command
  expect 'backup of nothing' 2 '' "$icecore" backup
  expect 'forget: an empty tag' 2 '--keep-tag is empty' "$icecore" forget --keep-tag '' --prune
  printf '[retention]\nkeep-tag = []\n' >"$TMP/no-tags.toml"
  expect 'forget: an empty list of tags is no rule' 2 'what is to be forgotten?' \
    "$icecore" -c "$TMP/no-tags.toml" forget --prune
}

bad_s3_repositories() {
  local place="s3://vault/bad?endpoint=${URL[store]}&region=us-east-1"
  free_port
  ICECORE_REPOSITORY=${place/${URL[store]}/http:\/\/127.0.0.1:$PORT} \
    expect 'S3 repository: down' 1 "127.0.0.1:$PORT" "$icecore" snapshots
  ICECORE_REPOSITORY=${place/vault/no-such-bucket} \
    expect 'S3 repository: no such bucket' 1 no-such-bucket "$icecore" init
  ICECORE_REPOSITORY=$place ICECORE_REPOSITORY_SECRET_ACCESS_KEY=wrong \
    expect 'S3 repository: wrong secret' 1 vault "$icecore" init
  ICECORE_REPOSITORY=${place/http:/https:} \
    expect 'S3 repository: TLS where there is none' 1 "${URL[store]#*//}" "$icecore" init
  ICECORE_REPOSITORY=$place expect 'S3 repository: none there' 10 vault/bad "$icecore" snapshots
}

store_admin() { "$PYTHON" "$ORACLE/admin.py" "$1" "${store_s3[@]}" "${@:2}"; }

# A quota that the server itself enforces: what fits is kept, and with more room it goes on.
full_bucket() {
  local source=("${s3_source[@]}" --json)
  make_bucket store small
  store_admin quota --bucket small --bytes 1048576
  ICECORE_REPOSITORY="s3://small/r?endpoint=${URL[store]}&region=us-east-1"
  expect 'full bucket: init' 0 '' "$icecore" init
  expect 'full bucket: backup' 1 'Bucket quota exceeded' "$icecore" backup "${source[@]}"
  expect 'full bucket: what to do' 1 'make room, then run the command again' "$icecore" backup "${source[@]}"
  expect 'full bucket: no snapshot' 0 '0 snapshots' "$icecore" snapshots
  expect 'full bucket: no damage' 0 'no damage found' "$icecore" check --read-data
  store_admin quota --bucket small --bytes 0
  expect 'full bucket: backup with more room' 0 '' "$icecore" backup "${source[@]}"
  expect 'full bucket: all is there' 0 'no damage found' "$icecore" check --read-data
}

# A user of the server who may list and read, and no more.
read_only_user() {
  local ICECORE_REPOSITORY_ACCESS_KEY_ID=reader ICECORE_REPOSITORY_SECRET_ACCESS_KEY=readersecret
  store_admin user --bucket small --name reader --secret readersecret
  expect 'read-only user: snapshots' 0 '1 snapshots' "$icecore" snapshots
  expect 'read-only user: check' 0 'no damage found' "$icecore" check --read-data
  make_bucket store by-reader
  expect 'read-only user: restore' 0 'read-only' "$icecore" restore latest --to-s3 "${URL[store]}" --to-bucket by-reader
  expect 'read-only user: backup' 1 'AccessDenied' "$icecore" backup "${s3_source[@]}"
  expect 'read-only user: prune' 1 'AccessDenied' "$icecore" prune
  expect 'read-only user: forget' 1 'AccessDenied' "$icecore" forget latest
  expect 'read-only user: nothing was lost' 0 '1 snapshots' "$icecore" snapshots
}

# refused NAME TEXT SOURCE…: a backup that fails and says where.
refused() { expect "$1" 1 "$2" "$icecore" backup --series refused "${@:3}"; }

bad_etcd() {
  local at=${URL[src]#*//} tls=("${etcd_source[@]:4}")
  free_port
  refused 'etcd down' "127.0.0.1:$PORT" --etcd "http://127.0.0.1:$PORT"
  ICECORE_ETCD_PASSWORD=wrong refused 'etcd: wrong password' "$at" "${etcd_source[@]}"
  refused 'etcd: no user' "$at" --etcd "${URL[src]}" "${tls[@]}"
  refused 'etcd: no TLS where it is needed' "$at" --etcd "http://$at" --etcd-user root
  refused 'etcd: TLS where there is none' "${URL[to]#*//}" --etcd "${URL[to]/http:/https:}"
  refused 'etcd: unknown CA' "$at" --etcd "${URL[src]}" --etcd-user root
  refused "etcd: another's CA" "$at" "${etcd_source[@]/${CA[src]}/${CA[files]}}"
  refused 'etcd: no client certificate' "$at" --etcd "${URL[src]}" --etcd-user root --etcd-ca "${CA[src]}"
  expect 'etcd: prefix matching nothing' 3 '' "$icecore" backup --series nothing "${etcd_source[@]}" --etcd-prefix no/such/
}

# Who may read a part of etcd only gets that part, and is told what it is.
limited() {
  local source=("${etcd_source[@]/%root/milvus}") only='user "milvus" may read "by-dev/" only' keys
  local reads=(dump etcd --etcdctl "$(etcd_dir 3.6)/etcdctl" --endpoints "${URL[src]}" "${src_tls[@]}" --prefix by-dev/)
  keys=$(src_ctl get by-dev/ --prefix --count-only -w fields | sed -n 's/^"Count" : //p')
  ICECORE_ETCD_PASSWORD=secret refused 'etcd: a user of one prefix: not all keys' "$only" "${source[@]}"
  ICECORE_ETCD_PASSWORD=secret refused 'etcd: a user of one prefix: no other' "$only" "${source[@]}" --etcd-prefix other/
  ICECORE_ETCD_PASSWORD=secret expect 'etcd: a user of one prefix' 0 '' \
    "$icecore" backup --series limited "${source[@]}" --etcd-prefix by-dev/ --json
  holds 'etcd: a user of one prefix: by ranges, every key' "r['etcd']['path'] == 'range' and r['etcd']['keys'] == $keys"
  printf '[etcd]\npassword-file = "%s"\n' "$TMP/not-there" >"$TMP/password.toml"
  ICECORE_ETCD_PASSWORD=secret expect 'etcd: a password of the environment before one of the configuration' 0 '' \
    "$icecore" -c "$TMP/password.toml" backup --series limited "${source[@]}" --etcd-prefix by-dev/
  "${reads[@]}" --user milvus:secret >"$TMP/limited.etcd"
  fresh_target limited
  expect 'etcd: a user of one prefix: restore' 0 '' "$icecore" restore latest --series limited --to-etcd "${URL[to]}"
  dump_target restored
  compare 'etcd: a user of one prefix: every key as it was' 0 '' "$TMP/limited.etcd" "$TMP/restored.etcd"
  expect 'etcd: a prefix, for root' 0 '' "$icecore" backup --series limited "${etcd_source[@]}" --etcd-prefix by-dev/ --json
  holds 'etcd: a prefix, for root: every key counted' "r['etcd']['keys'] == $keys"
}

bad_s3() {
  local at=${URL[files]#*//}
  free_port
  refused 'S3 down' "127.0.0.1:$PORT" --s3 "http://127.0.0.1:$PORT" --bucket milvus
  ICECORE_S3_SECRET_ACCESS_KEY=wrong refused 'S3: wrong secret' milvus "${s3_source[@]}"
  ICECORE_S3_ACCESS_KEY_ID=nobody refused 'S3: unknown user' milvus "${s3_source[@]}"
  refused 'S3: no such bucket' no-such-bucket "${s3_source[@]/milvus/no-such-bucket}"
  refused 'S3: no TLS where it is needed' "$at" --s3 "http://$at" --bucket milvus
  refused 'S3: TLS where there is none' "${URL[store]#*//}" --s3 "${URL[store]/http:/https:}" --bucket vault
  refused 'S3: unknown CA' "$at" --s3 "${URL[files]}" --bucket milvus
  expect 'S3: prefix matching nothing' 3 '' "$icecore" backup --series nothing-s3 "${s3_source[@]}" --prefix no/such/
}

# Nothing is something to back up, too.
empty_sources() {
  fresh_target empty
  local empty=(--etcd "${URL[to]}" --s3 "${URL[store]}" --bucket empty --series empty)
  expect 'empty etcd and bucket: backup' 0 '' "$icecore" backup "${empty[@]}" --json
  holds 'empty etcd and bucket: nothing counted' "r['etcd']['keys'] == 0 and r['objects']['count'] == 0"
  expect 'empty etcd and bucket: again' 0 '' "$icecore" backup "${empty[@]}" --json
  writes_nothing 'empty etcd and bucket: restore' --series empty
}

bad_targets() {
  fresh_target foreign-key
  etcdctl_of to put somebody-elses key >/dev/null
  restore 'target with a foreign key' 1
  fresh_target foreign-object
  "$PYTHON" "$ORACLE/fill.py" s3 "${store_s3[@]}" --bucket "$bucket" --objects 1 --no-odd --root foreign --seed "$SEED" >/dev/null
  restore 'target with a foreign object' 1
  is 'target with a foreign object: untouched' 1 "$(count_files "${DIR[store]}/data/$bucket" xl.meta)"
  free_port
  expect 'target down' 1 "127.0.0.1:$PORT" "$icecore" restore latest --etcd-prefix by-dev/ --to-etcd "http://127.0.0.1:$PORT"
}

bad_input() {
  section "bad input"
  repository directory main
  bad_repositories
  bad_s3_repositories
  bad_etcd
  limited
  bad_s3
  empty_sources
  bad_targets
  full_bucket
  read_only_user
}

# --- durability -----------------------------------------------------------

# Before TRACE COMMAND…: writes down the calls that make files durable.
traced=(strace -f -y -qq -e 'trace=link,linkat,rename,renameat,renameat2,fsync,fdatasync,syncfs' -o)

durable_steps() {
  section "durable steps"
  repository directory durable
  expect 'durable: init, traced' 0 '' "${traced[@]}" "$TMP/trace-init" "$icecore" init
  expect 'durable: backup, traced' 0 '' "${traced[@]}" "$TMP/trace-backup" "$icecore" backup --dir "$ORACLE"
  cat "$TMP/trace-init" "$TMP/trace-backup" >"$TMP/trace"
  expect 'durable: every file before its name, and its name before the next step' 0 'each written out' \
    "$PYTHON" "$ORACLE/durable.py" backup "$TMP/trace" "$STORED"
  expect 'durable: restore, traced' 0 '' "${traced[@]}" "$TMP/trace" "$icecore" restore latest --to-dir "$TMP/durable"
  expect 'durable: what was restored is synced before it gets its names and after' 0 'after a syncfs' \
    "$PYTHON" "$ORACLE/durable.py" restore "$TMP/trace" "$TMP/durable"
}

# --------------------------------------------------------------------------

section "$KEYS keys, $OBJECTS objects, SEED=$SEED"
prepare_sources
start_minio store
make_bucket store vault
mapfile -t store_s3 < <(s3_args store)
mkdir -p "$TMP/repositories"
for kind in directory s3; do story "$kind"; done
two_at_once
damages
bad_input
durable_steps
section "done"
ended=1
((failed == 0))
