#!/usr/bin/env bash
# Installs what building and testing icecore needs and this system lacks.
# Changes nothing, and takes a moment, when all of it is there.
#
#   scripts/setup.sh            # what everything needs
#   scripts/setup.sh java       # and Java with Maven, for Kafka and Pulsar
#   scripts/setup.sh peers      # and restic, and what borg is built with
#
# The servers that the tests talk to are a separate step: scripts/servers.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

have() { command -v "$1" >/dev/null 2>&1; }

# bindgen loads libclang at run time, so its library is looked for, not a command.
have_libclang() {
  [[ -n ${LIBCLANG_PATH:-} ]] && return 0
  # Read it all: under pipefail, a grep that stops early makes ldconfig fail.
  [[ $(ldconfig -p 2>/dev/null) == *libclang[.-]* ]] && return 0
  compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null && return 0
  compgen -G '/usr/lib*/libclang*.so*' >/dev/null
}

# Debian keeps protoc's own .proto files, which etcd's import, in a package of their own.
have_proto_files() {
  local probe
  probe=$(mktemp -d)
  echo 'syntax = "proto3"; import "google/protobuf/descriptor.proto";' >"$probe/probe.proto"
  protoc -I"$probe" --descriptor_set_out=/dev/null "$probe/probe.proto" >/dev/null 2>&1
  local found=$?
  rm -rf "$probe"
  return $found
}

# Debian ships python3 without ensurepip, and then "python3 -m venv" fails late.
have_venv() { have python3 && python3 -c 'import ensurepip, venv' 2>/dev/null; }

missing=()
have c++ || missing+=(g++)
have clang || missing+=(clang)
have_libclang || missing+=(libclang-dev)
have cmake || missing+=(cmake)
have protoc || missing+=(protobuf-compiler)
have_proto_files || missing+=(libprotobuf-dev)
have pkg-config || missing+=(pkg-config)
have make || missing+=(make)
have openssl || missing+=(openssl)
have curl || missing+=(curl)
have strace || missing+=(strace)
have_venv || missing+=(python3-venv)
for also; do
  case $also in
    java)
      have java || missing+=(default-jre-headless)
      have mvn || missing+=(maven)
      ;;
    peers)
      have restic || missing+=(restic)
      pkg-config --exists liblz4 libzstd libxxhash libcrypto 2>/dev/null && [[ -e /usr/include/sys/acl.h ]] ||
        missing+=(liblz4-dev libzstd-dev libxxhash-dev libssl-dev libacl1-dev python3-dev)
      ;;
    *) echo "setup: $also is not known: java, peers" >&2; exit 2 ;;
  esac
done

if ((${#missing[@]})); then
  if ! have apt-get; then
    cat >&2 <<MSG
setup: this is not a Debian-like system. Install with its package manager what
corresponds to these Debian packages, then run this script again:
  ${missing[*]}
MSG
    exit 1
  fi
  as_root=()
  if ((EUID != 0)); then
    if ! have sudo; then
      echo "setup: neither root nor sudo. As root: apt-get install ${missing[*]}" >&2
      exit 1
    fi
    # sudo drops the environment, so the variable is given as an argument.
    as_root=(sudo)
  fi
  echo "setup: installing ${missing[*]}"
  "${as_root[@]}" apt-get update -q
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -q --no-install-recommends "${missing[@]}"
fi

need=$(sed -n 's/^rust-version *= *"\([0-9.]*\)".*/\1/p' Cargo.toml | head -n 1)
if ! have cargo; then
  cat >&2 <<MSG
setup: cargo is missing. Install Rust ${need:-stable} or later with rustup, see
https://rustup.rs, open a new shell, and run this script again.
MSG
  exit 1
fi
found=$(cargo --version | awk '{print $2}')
if [[ -n $need && $(printf '%s\n' "$need" "${found%%-*}" | sort -V | head -n 1) != "$need" ]]; then
  echo "setup: cargo $found is older than Rust $need, which Cargo.toml asks for: rustup update stable" >&2
  exit 1
fi
