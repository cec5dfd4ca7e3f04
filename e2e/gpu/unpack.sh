#!/bin/bash
# `e2e/gpu/unpack.sh PIECES DEST`: on a GPU machine without a network, put together what the GPU tests and bench/restore need.
#
# PIECES holds what does not come with the machine, as e2e/gpu/pack.py packs it: vllm*.tar.xz (vLLM's package),
# whl/*.whl (what it needs), criu.tar.xz (CRIU as e2e/images/criu.py brings it). Put the content of all pieces together
# there: the parts of a file are joined. Then source DEST/env.sh. All of it is in a virtual environment of its own over
# the machine's packages, as in an image: what a worker finds by PYTHONPATH is read whole at each start.
set -euo pipefail
case ${1:---help} in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac
pieces=$(cd "$1" && pwd) root=$(cd "$(dirname "$0")/../.." && pwd) python=${PYTHON:-$(command -v python3)}
mkdir -p "$2/criu"; dest=$(cd "$2" && pwd)
if [ ! -d "$dest/venv" ]; then
  machine=$("$python" -c 'import site; print("\n".join(site.getsitepackages()))')
  "$python" -m venv --without-pip --system-site-packages "$dest/venv"
  echo "$machine" > "$(echo "$dest"/venv/lib/python3*/site-packages)/machine.pth"
fi
site=$(echo "$dest"/venv/lib/python3*/site-packages)
for part in "$pieces"{,/whl}/*.part-*; do
  [ -e "$part" ] || continue  # none, or joined by now
  name=${part%.part-*} whole=$((10#${part##*-}))
  cat "$name".part-* > "$name.joined"
  if [ "$(stat -c %s "$name.joined")" != "$whole" ]; then
    echo "$name: $(stat -c %s "$name.joined") of $whole bytes: put the content of all pieces into $pieces" >&2
    rm "$name.joined"; exit 1
  fi
  mv "$name.joined" "$name"; rm "$name".part-*
done
running=()
for archive in "$pieces"/vllm*.tar.xz; do [ ! -e "$archive" ] || { tar xJf "$archive" -C "$site" & running+=($!); } done
[ ! -e "$pieces/criu.tar.xz" ] || { tar xJf "$pieces/criu.tar.xz" -C "$dest/criu" & running+=($!); }
[ ! -d "$pieces/whl" ] || { "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
  --target "$site" "$pieces"/whl/*.whl & running+=($!); }
for each in "${running[@]}"; do wait "$each"; done
rm -rf "$site"/vernal_contract "$site"/vernal_worker
cp -r "$root"/contract/vernal_contract "$root"/worker_image/vernal_worker "$site"
# As an image has them: the GPU's kernels, and bytecode, without which a worker's first second is spent compiling.
compgen -G "$site/vernal_worker/checkpoint/cuda/*.cubin" > /dev/null \
  || "$dest/venv/bin/python3" -m vernal_worker.checkpoint.cuda.compile &
"$python" -m compileall -q -j 0 "$site" > "$dest/compile.log" 2>&1 || true
wait
(cd / && "$dest/venv/bin/python3" -P "$root/worker_image/python_path.py") > "$dest/venv/vernal.path"
cat > "$dest/env.sh" <<END
export PATH=$dest/venv/bin:\$PATH PYTHONUNBUFFERED=1 VERNAL_CRIU=$dest/criu/criu
END
