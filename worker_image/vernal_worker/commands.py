"""The commands of `vernal-worker` that look after checkpoints. Each returns the process's exit code."""

import argparse
import os
import sys
from pathlib import Path

from vernal_contract import names
from vernal_contract.identity import differences

from vernal_worker.store import layout
from vernal_worker.store.artifact import Artifact, load
from vernal_worker.store.errors import StoreError
from vernal_worker.store.store import Store


def inspect(arguments: argparse.Namespace) -> int:
    """List artifacts."""
    artifacts = _artifacts(arguments)
    for artifact in artifacts:
        ref, manifest = artifact.ref(), artifact.manifest
        inputs = manifest.identity_inputs
        print(f"{ref.identity[:16]}/{ref.host_tuple[:16]}/{ref.generation}")
        print(f"  model     {inputs.model}  {' '.join(f'{k}={v}' for k, v in inputs.engine_args.items())}")
        print(f"  versions  {' '.join(f'{k}={v}' for k, v in sorted(inputs.versions.items()))}")
        print(f"  host      {manifest.host.architecture}, kernel {manifest.host.kernel}")
        print(f"  created   {manifest.created} by {manifest.created_by}")
        print(f"  size      {ref.bytes / 1e6:.0f} MB in {ref.files} files")
    if not artifacts:
        print("no artifacts")
    return 0


def verify(arguments: argparse.Namespace) -> int:
    """Check every byte."""
    bad = 0
    for artifact in _artifacts(arguments):
        name = str(artifact.path)
        try:
            artifact.verify(on_progress=_show_progress)
        except StoreError as error:
            bad += 1
            print(f"{name}: {error.reason}: {error.message}")
        else:
            print(f"{name}: good")
    return 1 if bad else 0


def diff(arguments: argparse.Namespace) -> int:
    """Compare this worker and host with the artifacts."""
    from vernal_worker.checkpoint import host
    from vernal_worker.supervisor import identity
    from vernal_worker.supervisor.context import ConfigError, read_settings

    try:
        settings = read_settings(os.environ)
    except ConfigError as error:
        print(f"{error}\nRun it in a worker's container, where {names.ENV_CONFIG} is set.", file=sys.stderr)
        return 2
    wanted = identity.gather(settings.config, settings.arguments, settings.shaping, settings.criu)
    here = host.host_tuple()
    fits = False
    artifacts = _artifacts(arguments)
    for artifact in artifacts:
        lines = differences(artifact.manifest.identity_inputs, wanted) + differences(artifact.manifest.host, here)
        fits = fits or not lines
        print(f"{artifact.path}: {'fits' if not lines else 'does not fit'}")
        for line in lines:
            print(f"  {line}")
    if not artifacts:
        print("no artifacts")
    return 0 if fits else 1


def gc(arguments: argparse.Namespace) -> int:
    """Delete what nobody needs."""
    store = Store(_root(arguments))
    try:
        if arguments.identity:
            print(f"freed {store.remove(arguments.identity) / 1e6:.0f} MB")
        else:
            for name in store.gc(grace=arguments.grace):
                print(f"deleted {name}")
    except StoreError as error:
        print(f"{error.reason}: {error.message}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"--identity: {error}", file=sys.stderr)
        return 2
    return 0


def doctor(_: argparse.Namespace) -> int:
    """Look at the host."""
    from vernal_worker.checkpoint import doctor as host_doctor
    from vernal_worker.supervisor.context import ENV_CRIU

    checks = host_doctor.checks(criu=os.environ.get(ENV_CRIU) or "criu")
    for check in checks:
        print(f"{'ok  ' if check.ok else 'FAIL'} {check.name}: {check.detail}")
        if not check.ok and check.remedy:
            print(f"     {check.remedy}")
    return 0 if all(check.ok for check in checks) else 1


def _root(arguments: argparse.Namespace) -> Path:
    if arguments.store:
        return Path(arguments.store)
    if text := os.environ.get(names.ENV_CONFIG):
        from vernal_contract.config import decode

        return Path(decode(text).checkpoint.store_path)
    return Path(names.PATH_STORE)


def _artifacts(arguments: argparse.Namespace) -> list[Artifact]:
    """All current artifacts; those that cannot be read are named on stderr."""
    root, prefix = _root(arguments), getattr(arguments, "identity", "")
    if not root.is_dir():
        sys.exit(f"there is no store at {root}; say where it is with --store")
    found: list[Artifact] = []
    for current in sorted(root.glob(f"{layout.ARTIFACTS}/{prefix}*/*/current")):
        try:
            found.append(load(current.resolve()))
        except StoreError as error:
            print(f"{error.reason}: {error.message}", file=sys.stderr)
    return found


def _show_progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done >= total else "\r"
        print(f"{done / 1e6:.0f} of {total / 1e6:.0f} MB", end=end, file=sys.stderr, flush=True)
