# shellcheck shell=bash
# What the scripts here check with: one line for each check, "ok NAME" or "FAILED NAME …" with what
# the last command said; the last line is "N passed, M failed". Source it in the repository's root, before
# anything else (it sources scripts/lib.sh), and set ended=1 at the script's end: one that ends early has failed.
#
# Variables for the caller: icecore, the binary; OUT and ERR, what the last command printed; passed, failed.
# shellcheck disable=SC2034 # they are for the caller

. scripts/env.sh
. scripts/lib.sh
icecore=$(built)

# What the caller has set must not decide what is tested.
unset "${!ICECORE_@}"
export ICECORE_PASSPHRASE='the right one' ICECORE_CACHE_DIR=$TMP/cache
export ICECORE_S3_ACCESS_KEY_ID=$ACCESS_KEY ICECORE_S3_SECRET_ACCESS_KEY=$SECRET_KEY

OUT=$TMP/out ERR=$TMP/err
passed=0 failed=0 ended=

section() { echo "# $* (at $SECONDS s)"; }
ok() { passed=$((passed + 1)); echo "ok $1"; }
not_ok() { # NAME WHY
  failed=$((failed + 1))
  echo "FAILED $1: $2"
  tail -qn 8 "$OUT" "$ERR" | cut -c 1-600 | sed 's/^/    /'
}

_summary() {
  [[ -n $ended ]] || { failed=$((failed + 1)); echo "FAILED the script: it ended early"; }
  echo "$passed passed, $failed failed"
}
at_exit _summary

# says NAME TEXT: what the last command printed. (No text: whatever it was.)
says() {
  if [[ -z $2 ]] || grep -qF -- "$2" "$OUT" "$ERR"; then ok "$1"; else not_ok "$1" "it does not say \"$2\""; fi
}

# is NAME WANT GOT
is() { if [[ $3 == "$2" ]]; then ok "$1"; else not_ok "$1" "it is \"$3\", not \"$2\""; fi; }

# expect NAME EXIT-CODE TEXT COMMAND…: it exits so, and says the text (which may be '').
expect() {
  local name=$1 want=$2 text=$3 got=0
  shift 3
  timeout -k 10 1200 "$@" >"$OUT" 2>"$ERR" </dev/null || got=$?
  if [[ $got != "$want" ]]; then
    not_ok "$name" "exit code $got, not $want"
  else
    says "$name" "$text"
  fi
}

# holds NAME EXPRESSION: a Python expression over r, the last command's JSON.
holds() {
  if "$PYTHON" -c 'import json, sys
r = json.load(open(sys.argv[1]))
sys.exit(not eval(sys.argv[2]))' "$OUT" "$2" 2>>"$ERR"; then ok "$1"; else not_ok "$1" "not so: $2"; fi
}
