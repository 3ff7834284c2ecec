#!/usr/bin/env bash
# icecore beside rclone, on a bucket of a MinIO in memory: see benches/minio.py.
#
#   benches/minio.sh [--rounds 3] [--scale 1]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export TMPDIR=${BENCH_DIR:-/dev/shm}
. scripts/lib.sh
# It tells how many requests it had.
export MINIO_PROMETHEUS_AUTH_TYPE=public
start_minio minio
for bucket in a-bucket repository restored; do make_bucket minio "$bucket"; done
BENCH_DIR=$TMP "$PYTHON" benches/minio.py "${PID[minio]}" "${URL[minio]}" "$ACCESS_KEY" "$SECRET_KEY" "$@"
