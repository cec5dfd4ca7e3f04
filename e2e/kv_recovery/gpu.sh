#!/bin/bash
# gpu.sh [OPTIONS]: KV load failures and time to first token on this machine's GPU, without a network.
# Needs vLLM 0.26 or newer and blake3, msgspec, safetensors and tokenizers, in the environment or on PYTHONPATH.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
export PYTHONPATH="$root/e2e:$root/worker_image:$root/contract${PYTHONPATH:+:$PYTHONPATH}"
python=${PYTHON:-python3}
"$python" -c 'import blake3, msgspec, safetensors, tokenizers, vllm' ||
  { echo "gpu.sh: $python cannot import what it needs (see above); set PYTHON or PYTHONPATH" >&2; exit 1; }
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
exec "$python" -m kv_recovery --gpu "$@"
