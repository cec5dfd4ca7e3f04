#!/bin/bash
# `e2e/gpu/unpack.sh PIECES DEST`: on a GPU machine without a network, put together what the GPU tests and bench/restore need.
#
# PIECES holds what does not come with the machine: vllm-*.tar.xz (vLLM's package), whl/*.whl (what it needs),
# criu.tar.xz (CRIU as e2e/images/criu.py brings it). Pieces may come one at a time: run it for each, then source
# DEST/env.sh. Vernal's own code is copied to DEST/app, because a test's pod sees neither /tmp nor other mounts.
set -euo pipefail
case ${1:---help} in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac
pieces=$(cd "$1" && pwd) root=$(cd "$(dirname "$0")/../.." && pwd) python=${PYTHON:-$(command -v python3)}
mkdir -p "$2/site" "$2/deps" "$2/criu" "$2/app"; dest=$(cd "$2" && pwd)
for archive in "$pieces"/vllm-*.tar.xz; do [ ! -e "$archive" ] || tar xJf "$archive" -C "$dest/site" & done
[ ! -e "$pieces/criu.tar.xz" ] || tar xJf "$pieces/criu.tar.xz" -C "$dest/criu" &
[ ! -d "$pieces/whl" ] || "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
  --target "$dest/deps" "$pieces"/whl/*.whl &
wait
cp -r "$root"/contract/vernal_contract "$root"/worker_image/vernal_worker "$dest/app/"
# As an image has them: the GPU's kernels, and bytecode, without which a worker's first second is spent compiling.
compgen -G "$dest/app/vernal_worker/checkpoint/cuda/*.cubin" > /dev/null \
  || PYTHONPATH=$dest/app "$python" -m vernal_worker.checkpoint.cuda.compile &
"$python" -m compileall -q -j 0 "$dest/app" "$dest/deps" "$dest/site" > "$dest/compile.log" 2>&1 || true
wait
cat > "$dest/env.sh" <<END
export PYTHONPATH=$dest/app:$dest/site:$dest/deps:$root/e2e PYTHONUNBUFFERED=1 VERNAL_CRIU=$dest/criu/criu
END
