#!/usr/bin/env bash
# Runs the examples of docs/commands against real servers.
#
#   make test                       # or, when all is built: tests/examples.sh [--update]
#
# --update writes what was printed into the pages, to be read before it is kept.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
repo=$PWD
. scripts/env.sh
. scripts/lib.sh
icecore=$(built)
unset "${!ICECORE_@}"

start_etcd etcd 3.6 >/dev/null
start_etcd etcd2 3.6 >/dev/null
start_etcd etcd3 3.6 >/dev/null
start_minio minio >/dev/null
for bucket in data target; do make_bucket minio "$bucket"; done
fill() { "$PYTHON" "$repo/tests/oracle/fill.py" "$@" >/dev/null; }
fill etcd --endpoints "${URL[etcd]}" --keys 2000 --no-odd --seed 1
fill s3 $(s3_args minio) --bucket data --objects 500 --no-odd --seed 1

# What a Milvus 2.3.5 stored: its keys as they were, and objects of the sizes they had.
start_etcd milvus 3.6 >/dev/null
start_etcd scratch 3.6 >/dev/null
for bucket in milvus scratch; do make_bucket minio "$bucket"; done
"$PYTHON" - "${URL[milvus]}" "${URL[minio]}" "$ACCESS_KEY" "$SECRET_KEY" "$repo/tests/milvus/2.3.5" <<'PYTHON'
import base64, json, sys, urllib.request, boto3
from botocore.config import Config
etcd, url, access, secret, stored = sys.argv[1:]
for line in open(stored + ".keys"):
    key, value = line.rstrip("\n").split(" ")
    put = {"key": base64.b64encode(key.encode()).decode(), "value": value}
    urllib.request.urlopen(etcd + "/v3/kv/put", json.dumps(put).encode()).read()
s3 = boto3.client("s3", endpoint_url=url, aws_access_key_id=access, aws_secret_access_key=secret,
                  region_name="us-east-1", config=Config(s3={"addressing_style": "path"}))
for line in open(stored + ".objects"):
    size, key = line.split()
    s3.put_object(Bucket="milvus", Key=key, Body=bytes(int(size)))
PYTHON

# What the pages take for granted (docs/commands/README.md).
export ICECORE_REPOSITORY=./cores ICECORE_PASSPHRASE='a long sentence' ICECORE_CACHE_DIR=./cache
export ICECORE_S3_ACCESS_KEY_ID=$ACCESS_KEY ICECORE_S3_SECRET_ACCESS_KEY=$SECRET_KEY
export ETCD=${URL[etcd]} ETCD2=${URL[etcd2]} ETCD3=${URL[etcd3]} MILVUS=${URL[milvus]} SCRATCH=${URL[scratch]} S3=${URL[minio]} COLUMNS=100 TZ=UTC
export PATH=${icecore%/*}:$(etcd_dir 3.6):$PATH
pages=()
for verb in init backup snapshots ls cat diff stats verify check restore forget prune key completions revisions log milvus; do
  pages+=("$repo/docs/commands/$verb.md")
done
for page in "$repo"/docs/commands/*.md; do
  [[ " ${pages[*]} " == *" $page "* || $page == */README.md ]] || die "$page is not in the list of $0"
done
cd "$TMP"
"$PYTHON" "$repo/tests/examples.py" "$@" "${pages[@]}"
