"""What the search for the old name must find, with the name that it tells to write, and what it must leave."""

import subprocess
import sys
from pathlib import Path

import old_names
import pytest

MUST_FIND = {
    # packages, programs, the distribution
    "from thaw_worker.supervisor.choose import Cold": "vernal_worker",
    "import thaw_contract": "vernal_contract",
    "packages = [\"operator/thaw_operator\"]": "vernal_operator",
    "thaw-operator crds | kubectl apply -f -": "vernal-operator",
    "/usr/local/bin/thaw-worker run": "/usr/local/bin/vernal-worker",
    "name = \"thaw\"": "name = \"vernal\"",
    "helm uninstall thaw": "uninstall vernal",
    "helm install --wait thaw charts/x": "install --wait vernal",
    "import thaw": "import vernal",
    # the API group
    "apiVersion: thaw.dev/v1alpha1": "vernal.dev/v1alpha1",
    "crds/thaw.dev_vllmworkerpools.yaml": "vernal.dev",
    "vllmworkerpools.thaw.dev": "vllmworkerpools.vernal.dev",
    "thaw.local/worker-cpu:1": "vernal.local/worker-cpu",
    # environment
    "export THAW_CRIU=/x": "VERNAL_CRIU",
    "names that start with THAW_": "VERNAL_",
    "os.environ['THAW_POD_NAME']": "VERNAL_POD_NAME",
    # paths
    "COPY x /opt/thaw/venv/bin/python": "/opt/vernal/venv/bin/python",
    "mkdir -p /run/thaw": "/run/vernal",
    "/var/lib/thaw/store": "/var/lib/vernal/store",
    "/var/lib/thaw-cluster": "/var/lib/vernal-cluster",
    "~/.cache/thaw": "~/.cache/vernal",
    "helm lint charts/thaw": "charts/vernal",
    'Path(base).absolute() / "thaw"': '/ "vernal"',
    'mkdtemp(prefix="thaw-")': 'prefix="vernal-',
    # namespaces, images, objects
    "--namespace thaw-system": "vernal-system",
    "localhost/thaw-base": "localhost/vernal-base",
    "REGISTRY/thaw-worker": "REGISTRY/vernal-worker",
    "deployment/full-thaw": "full-vernal",
    'include "thaw.labels" .': "vernal.labels",
    # connectors, metrics, methods
    'connector: str = "ThawSharedStorageConnector"': "VernalSharedStorageConnector",
    "class FaultyThawConnector:": "FaultyVernalConnector",
    "thaw_worker_restore_failures_total": "vernal_worker_restore_failures_total",
    "thaw_kv_blocks": "vernal_kv_blocks",
    'collective_rpc("thaw_save_weights")': "vernal_save_weights",
    '"THAWKV", 0, version 1': "VERNAL",
    "2026-01-01 thaw event=phase": "vernal event=",
    # the proper name
    "# Thaw": "# Vernal",
    "**seconds.** Thaw is a Kubernetes operator": "Vernal",
    "a bug in Thaw; the log has a traceback": "Vernal",
    "Worker image of Thaw's release.": "Vernal's",
    "| promise | vLLM alone | Thaw |": "| Vernal |",
    "spec.env[].name must not start with X, which Thaw uses": "Vernal",
}  # fmt: skip

MUST_LEAVE = (
    "from vernal_worker.checkpoint.thaw import thaw",
    "from vernal_worker.supervisor.choose import Cold, GiveUp, Thaw",
    "assert choose.from_lookup(Lookup(ARTIFACT)) == Thaw(ARTIFACT)",
    "def from_lookup(lookup: Lookup) -> Thaw | Cold:",
    "if isinstance(choice, Thaw):",
    "class Thaw:",
    "class _ThawError(Exception):",
    "raise ThawTimeout",
    'THAW_TIMEOUT = "ThawTimeout"',
    "Reason.THAW_GIVEN_UP",
    "ExitCode.THAW_REQUIRED",
    "Phase.THAWING",
    'pod.wait_log("phase=Thawing")',
    "How.THAW",
    'THAW = "thaw"',
    "thaw_timeout_seconds: 30",
    "spec.checkpoint.thawTimeoutSeconds",
    '("True", "ThawFailed")',
    "class ThawResult:",
    '"""Thaw the newest checkpoint in `checkpoint_dir`."""',
    '"""Thaw, or fail."""',
    "Thaws that failed, all generations.",
    "Every later worker thaws that checkpoint. Thawed workers answer alike.",
    "the words freeze and thaw stay",
    "a failed thaw",
    '"nvlink-thaw-01-0": {',
    "--thaws 2",
    "Thawed = Callable[..., Pod]",
    "signal_in_thaw",
    "def test_thaw_given_up_at_any_moment",
    'self._one(name, f"thaw-{number}", store)',
    "claimName: vernal-store  # ReadWriteMany, so that every node can thaw",
    "Vernal (formerly Thaw; the verbs stay)",
)


@pytest.mark.parametrize(("text", "new"), MUST_FIND.items(), ids=MUST_FIND)
def test_an_old_name_is_found_and_the_new_one_told(text: str, new: str) -> None:
    (found,) = old_names.find(f"first line\n{text}\n")
    assert (found.line, found.new) == (2, new)
    assert found.old in text


@pytest.mark.parametrize("text", MUST_LEAVE)
def test_the_verb_is_left_alone(text: str) -> None:
    assert old_names.find(text) == []


def test_every_name_of_a_line_is_told_once() -> None:
    found = old_names.find("ENV THAW_CONFIG=/run/thaw/config PYTHONPATH=/opt/thaw/app/thaw_worker  # Thaw's own")
    assert [each.old for each in found] == ["THAW_CONFIG", "/run/thaw/config", "/opt/thaw/app/thaw_worker", "Thaw's"]


def test_paths_count_too() -> None:
    assert [f.new for f in old_names.find_in_path("worker_image/thaw_worker/cli.py")] == ["vernal_worker"]
    assert old_names.find_in_path("worker_image/vernal_worker/checkpoint/thaw.py") == []
    assert old_names.find_in_path("worker_image/tests/kv/test_thawed.py") == []


def test_the_program_names_file_line_and_new_name(tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text("# thaw it\nnamespace: thaw-system\n")
    command = [sys.executable, old_names.__file__]
    done = subprocess.run([*command, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"{file}:2: thaw-system: write vernal-system" in done.stdout
    file.write_text("# thaw it\nnamespace: vernal-system\n")
    assert subprocess.run([*command, str(file)], check=False).returncode == 0
