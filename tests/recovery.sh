#!/usr/bin/env bash
# Follows docs/recovery.md on a cluster of three members: the commands of its blocks in
# their order, as they stand, but for addresses, places and the number of the revision.
#
#   make test                       # or, when all is built: tests/recovery.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
repo=$PWD
. scripts/env.sh
. scripts/lib.sh
icecore=$(built)
unset "${!ICECORE_@}"
PATH=${icecore%/*}:$(etcd_dir 3.6):$PATH
shop=/registry/deployments/shop
members=(etcd1 etcd2 etcd3)
for member in "${members[@]}"; do place_etcd "$member"; done
cd "$TMP"

# What the page calls so, and what it is here.
here() { # MEMBER REVISION; the text on standard input
  local name client peer script="s|/var/lib/etcd|$TMP/$1/data|g; s|184201|$2|g; s|184202|$(($2 + 1))|g"
  script+="; s|s3://backups/etcd|$TMP/repository|; s|/etc/icecore/passphrase|$TMP/passphrase|"
  script+="; s|--name etcd1 --initial-advertise-peer-urls http://etcd1:|--name $1 --initial-advertise-peer-urls http://$1:|"
  for name in "${members[@]}"; do
    read -r client peer <<<"${_PORTS[$name]}"
    script+="; s|$name:2379|127.0.0.1:$client|g; s|$name:2380|127.0.0.1:$peer|g"
  done
  sed "$script"
}

# What only an operator's machine has.
systemctl() { "$1_member"; }
chown() { :; }
stop_member() { stop "$member" KILL; }
start_member() {
  local client peer
  read -r client peer <<<"${_PORTS[$member]}"
  URL[$member]=http://127.0.0.1:$client
  _launch "$member" etcd --name "$member" --data-dir "$TMP/$member/data" --unsafe-no-fsync --log-level warn \
    --listen-client-urls "${URL[$member]}" --advertise-client-urls "${URL[$member]}" \
    --listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" \
    --initial-cluster "$(here etcd1 0 <<<etcd1=http://etcd1:2380,etcd2=http://etcd2:2380,etcd3=http://etcd3:2380)"
}
start_all() {
  for member in "${members[@]}"; do start_member; done
  for member in "${members[@]}"; do _await "$member" curl -fsS "${URL[$member]}/health"; done
}

# block N: the Nth block of commands of the page (blocks of what is printed do not count).
block() {
  awk -v wanted="$1" '
    /^```/ { inside = !inside; first = inside; text = ""; if (!inside && commands == wanted && counts) { printf "%s", kept; exit } next }
    inside { if (first) { counts = $0 !~ /^etcd:/; commands += counts; first = 0 } text = text $0 "\n"; kept = text }
  ' "$repo/docs/recovery.md"
}
# run N MEMBER: in this shell, since the first one sets what the others use.
run() { eval "$(block "$1" | here "$2" "$revision")"; }
ctl() { etcdctl --endpoints "$CLUSTER" "$@"; }
state() { ctl get "" --prefix --rev="$1" -w json | "$PYTHON" -c 'import json,sys; print(json.dumps(json.load(sys.stdin)["kvs"]))'; }
# A test that cannot fail proves nothing: what is claimed is said by what disproves it.
must() { "$@" || die "not so: $*"; }

start_all
revision=0
echo 'a long sentence' >passphrase
run 1 etcd1
icecore init >/dev/null
for n in {1..50}; do ctl put "$shop/key$n" "value $n" >/dev/null; done
ctl put "$shop/checkout" first >/dev/null
icecore backup --etcd "$CLUSTER" >/dev/null
ctl put "$shop/checkout" good >/dev/null
ctl del "$shop/key7" >/dev/null
revision=$(ctl get x -w json | grep -o '"revision":[0-9]*' | cut -d: -f2)
state "$revision" >before
must [ "$(ctl get "$shop/" --prefix --keys-only | grep -c .)" = 50 ]

echo "# the accident, at revision $((revision + 1))"
ctl del "$shop/" --prefix >/dev/null
ctl put "$shop/checkout" nonsense >/dev/null

echo "# 1. keep what is there"
run 2 etcd1
# What is wanted is not in the cluster any more, only in the repository.
ctl compact $((revision + 2)) >/dev/null
echo "# 2. find the revision"
run 3 etcd1 >found
must grep -q checkout found
echo "# 3. write the file"
run 4 etcd1 >written
hash=$(sed -n "s/.*has HashKV \([0-9]*\) at revision $revision$/\1/p" written)
must [ -n "$hash" ]
run 5 etcd1 >checked
must grep -q "$hash" checked
echo "# 4. make the members anew"
# All are stopped before the first is made anew.
for member in "${members[@]}"; do stop_member; done
for member in "${members[@]}"; do run 6 "$member" 2>>restored; done
for member in "${members[@]}"; do run 7 "$member"; done
for member in "${members[@]}"; do _await "$member" curl -fsS "${URL[$member]}/health"; done
echo "# 5. look"
run 8 etcd1 >looked
must [ "$(grep -c "$hash" looked)" = 3 ]
state "$revision" >after
must cmp before after
echo "# 6. go on with backups"
refused=0
icecore backup --etcd "$CLUSTER" >/dev/null 2>&1 || refused=$?
must [ "$refused" = 1 ]
run 9 etcd1
echo "# one prefix only"
ctl del "$shop/checkout" >/dev/null
icecore restore recovered --etcd-prefix "$shop/" --to-etcd "$CLUSTER" --overwrite --dry-run
must [ -z "$(ctl get "$shop/checkout" --print-value-only)" ]
icecore restore recovered --etcd-prefix "$shop/" --to-etcd "$CLUSTER" --overwrite
must [ "$(ctl get "$shop/checkout" --print-value-only)" = good ]
echo "docs/recovery.md: every step as written"
