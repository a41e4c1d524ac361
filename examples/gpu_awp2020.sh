#!/usr/bin/env bash
# The GPU study in pieces: where jobs are limited to ten minutes, call this again and again until it says that it is done.
#   bash examples/gpu_awp2020.sh [seconds of a piece, 540] [--data-dir DIR ...]
# A piece is stopped by SIGTERM, on which a study exits with 75 and keeps what it has; the next one goes on from there.
# One that takes too long to stop is killed (137), which loses the epoch it was in, and no more.
set -uo pipefail
cd "$(dirname "$0")/.."
seconds="${1:-540}"
shift || true
timeout --signal=TERM --kill-after=45 "$seconds" robustlens study examples/gpu_awp2020.yaml --workers 1 "$@"
code=$?
case "$code" in
  0) echo "done: robustlens-out/gpu-awp2020/report/index.html" ;;
  75 | 124 | 137) echo "stopped after $seconds s; the same command goes on"; code=75 ;;
  *) echo "failed with exit code $code" ;;
esac
exit "$code"
