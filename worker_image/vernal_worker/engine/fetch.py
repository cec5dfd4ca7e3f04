"""Gets repositories from a Hugging Face hub: `python -m vernal_worker.engine.fetch JSON`, JSON being
`{WHERE: [NAME, REVISION]}`. Prints one line: `{"directories": {WHERE: DIRECTORY}}`, or what went wrong.

A process of its own, because it holds the pod's token: it is gone before an engine is frozen.
"""

import json
import sys

_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.gguf", "*.msgpack", "*.h5", "*.onnx", "*.ot", "original/*")
"""Other forms of weights, which vLLM does not load where there are safetensors."""


def fetch(name: str, revision: str | None) -> str:
    """The directory with the repository's files."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        return snapshot_download(name, revision=revision, local_files_only=True)
    files = HfApi().list_repo_files(name, revision=revision)
    has_safetensors = any(file.endswith(".safetensors") for file in files)
    return snapshot_download(name, revision=revision, ignore_patterns=list(_WEIGHTS) if has_safetensors else None)


def main() -> None:
    wanted: dict[str, tuple[str, str | None]] = json.loads(sys.argv[1])
    directories = {}
    for where, (name, revision) in wanted.items():
        try:
            directories[where] = fetch(name, revision)
        except Exception as error:
            first = str(error).strip().partition("\n")[0]
            print(f"{where}: {name} cannot be fetched: {type(error).__name__}: {first}", flush=True)
            sys.exit(1)
    print(json.dumps({"directories": directories}), flush=True)


if __name__ == "__main__":
    main()
