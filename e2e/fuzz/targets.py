"""Which tests belong to which target, by path from the repository's root."""

from pathlib import Path

ROOT = Path(__file__).parents[2]

TARGETS = {
    "objects": ("operator/tests/plan/test_fuzz_objects.py", "CRD objects: parsed, planned, built"),
    "state": ("operator/tests/observe/test_fuzz_state.py", "what workers answer to GET /state, read by the operator"),
    "manifest": ("worker_image/tests/store/test_fuzz_manifest.py", "manifest.json, and the records beside it"),
    "bucket": ("worker_image/tests/bucket/test_fuzz_bucket.py", "publications and pointers in a bucket"),
    "process": ("worker_image/tests/checkpoint/test_fuzz_process.py", "process.json of a checkpoint"),
    "control": ("worker_image/tests/control/test_fuzz_control.py", "the worker's control socket, both ends"),
    "admin": ("worker_image/tests/supervisor/test_fuzz_admin.py", "the worker's admin HTTP server"),
    "wire": ("worker_image/tests/client/test_fuzz_wire.py", "the library's ZMQ wire, both ends"),
    "blocks": ("worker_image/tests/kv/test_fuzz_blocks.py", "files of the shared KV cache"),
}
"""The file and what is fuzzed, by name."""
