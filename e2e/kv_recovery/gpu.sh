#!/bin/bash
# `e2e/kv_recovery/gpu.sh [--only recovery|ttft|load|saving] [--tokens N] [--work DIRECTORY]`: KV load failures, time to first
# token of an engine that is idle and of one with 64 requests in flight, and what saving costs, on this machine's GPU, without a
# network; exits with 1 if an answer differs. `python -m kv_recovery --help` has the options.
# Needs vLLM 0.26 or newer and blake3, msgspec, safetensors and tokenizers, in the environment or on PYTHONPATH.
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac
root=$(cd "$(dirname "$0")/../.." && pwd)
export PYTHONPATH="$root/e2e:$root/worker_image:$root/contract${PYTHONPATH:+:$PYTHONPATH}"
python=${PYTHON:-python3}
"$python" -c 'import blake3, msgspec, safetensors, tokenizers, vllm' ||
  { echo "gpu.sh: $python cannot import what it needs (see above); set PYTHON or PYTHONPATH" >&2; exit 1; }
kernels=$root/worker_image/vernal_worker/checkpoint/cuda
compgen -G "$kernels/*.cubin" > /dev/null || "$python" -m vernal_worker.checkpoint.cuda.compile > /dev/null # as an image has them
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
exec "$python" -m kv_recovery --gpu "$@"
