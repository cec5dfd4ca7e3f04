#!/bin/bash
# gpu.sh [OPTIONS of kv_recovery.gpu]: KV load failures and time to first token on this machine's GPU, without a network.
# Needs vLLM 0.26 or newer and blake3, msgspec, safetensors and tokenizers, in the environment or on PYTHONPATH.
# Takes 6 minutes on an H200; --only recovery takes 4 and --only ttft 2.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
export PYTHONPATH="$root/e2e:$root/worker_image:$root/contract${PYTHONPATH:+:$PYTHONPATH}"
export VLLM_USE_FLASHINFER_SAMPLER=0 VLLM_WORKER_MULTIPROC_METHOD=spawn HF_HUB_OFFLINE=1
python=${PYTHON:-python3}
"$python" -c 'import blake3, msgspec, safetensors, tokenizers, vllm' ||
  { echo "gpu.sh: $python cannot import what it needs (see above); set PYTHON or PYTHONPATH" >&2; exit 1; }
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
exec "$python" -m kv_recovery.gpu "$@"
