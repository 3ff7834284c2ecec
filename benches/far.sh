#!/usr/bin/env bash
# icecore beside restic, on a repository in a MinIO that answers late: see benches/far.py.
#
#   benches/far.sh [--rounds 3] [--scale 0.25] [--late 80]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export TMPDIR=${BENCH_DIR:-/dev/shm}
. scripts/lib.sh
start_minio minio
for bucket in icecore restic; do make_bucket minio "$bucket"; done
BENCH_DIR=$TMP "$PYTHON" benches/far.py "${URL[minio]}" "$ACCESS_KEY" "$SECRET_KEY" "$@"
