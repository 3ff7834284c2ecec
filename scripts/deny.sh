#!/usr/bin/env bash
# Checks the dependencies' licences and origins (deny.toml), with cargo-deny.
#
#   scripts/deny.sh [CHECK…]      default: bans licenses sources
#
# The database of advisories lies on a git host that not every machine may reach:
# "scripts/deny.sh advisories" checks it where one may.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cache=${ICECORE_CACHE:-$HOME/.cache/icecore}
PATH=$PATH:$cache/bin

if ! command -v cargo-deny >/dev/null; then
  echo "deny: installing cargo-deny, once; this takes minutes" >&2
  # Its objects are of no use to our builds.
  env -u CARGO_TARGET_DIR cargo install cargo-deny --locked --quiet --root "$cache"
  echo "deny: installed in $SECONDS s" >&2
fi
(($#)) || {
  set -- bans licenses sources
  echo "deny: skipped advisories (scripts/deny.sh advisories, where their database can be fetched)"
}
cargo-deny --all-features check --hide-inclusion-graph "$@"
