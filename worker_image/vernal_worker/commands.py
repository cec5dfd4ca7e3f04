"""The commands of `vernal-worker` that look after checkpoints. Each returns the process's exit code, of
`vernal_worker.supervisor.exits.COMMAND_MEANING`, or raises `CommandError` or `StoreError`, which `cli` says."""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import msgspec
from vernal_contract import names, orphans
from vernal_contract.identity import differences, misfits
from vernal_contract.reasons import Reason

from vernal_worker.check import Check
from vernal_worker.store import layout, manifest, usage
from vernal_worker.store.artifact import Artifact, load
from vernal_worker.store.contents import Contents
from vernal_worker.store.errors import StoreError, guard
from vernal_worker.store.store import GRACE, Store
from vernal_worker.supervisor.exits import ExitCode
from vernal_worker.supervisor.farewell import TERMINATION_LOG


class CommandError(Exception):
    """The command cannot be carried out; the message says what to do."""

    def __init__(self, code: ExitCode, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Broken:
    """An artifact that cannot be read, and why."""

    path: Path
    why: str


def inspect(arguments: argparse.Namespace) -> int:
    """List artifacts."""
    found = _found(arguments)
    for artifact in found:
        if isinstance(artifact, Broken):
            print(f"{artifact.path}\n  {artifact.why}")
            continue
        ref, content = artifact.ref(), artifact.manifest
        inputs = content.identity_inputs
        print(f"{ref.identity[:16]}/{ref.host_tuple[:16]}/{ref.generation}")
        print(f"  model     {inputs.model}  {' '.join(f'{k}={v}' for k, v in inputs.engine_args.items())}")
        print(f"  versions  {' '.join(f'{k}={v}' for k, v in sorted(inputs.versions.items()))}")
        print(f"  host      {content.host.architecture}, kernel {content.host.kernel}")
        print(f"  created   {content.created} by {content.created_by}")
        print(f"  size      {ref.bytes / 1e6:.0f} MB in {ref.files} files")
    if not found:
        print("no artifacts")
    return ExitCode.INTERNAL if any(isinstance(artifact, Broken) for artifact in found) else ExitCode.OK


def verify(arguments: argparse.Namespace) -> int:
    """Check every byte."""
    bad = 0
    found = _found(arguments)
    for artifact in found:
        why = artifact.why if isinstance(artifact, Broken) else _damage(artifact)
        print(f"{artifact.path}: {why or 'good'}")
        bad += why is not None
    if not found:
        print("no artifacts")
    return ExitCode.INTERNAL if bad else ExitCode.OK


def _damage(artifact: Artifact) -> str | None:
    try:
        artifact.verify(on_progress=show_progress)
    except StoreError as error:
        return f"{error.reason}: {error.message}"
    return None


def diff(arguments: argparse.Namespace) -> int:
    """Compare this worker and host with the artifacts: each field that keeps one from being thawed here."""
    from vernal_worker.checkpoint import host
    from vernal_worker.supervisor import gpu, hub, identity
    from vernal_worker.supervisor.contents import ContentError
    from vernal_worker.supervisor.context import ConfigError, read_settings
    from vernal_worker.supervisor.hub import HubError

    try:
        settings = read_settings(os.environ)
    except ConfigError as error:
        hint = f"run it in a worker's container, where {names.ENV_CONFIG} is set"
        raise CommandError(ExitCode.CONFIG_INVALID, f"{error}; {hint}") from error
    try:
        wanted = identity.gather(
            hub.pin(settings), gpu.placement(settings.config), contents=Contents(store_root(arguments))
        )
    except (ContentError, HubError) as error:
        raise CommandError(ExitCode.INTERNAL, f"what the engine loads is not known: {error}") from error
    here = host.host_tuple()
    fits = False
    artifacts, _ = readable(arguments)
    for artifact in artifacts:
        with guard("find"):
            inputs, host_fields = manifest.fields((artifact.path / manifest.NAME).read_bytes())
        strange = set(host_fields) - set(msgspec.to_builtins(artifact.manifest.host))
        lines = [
            *differences(inputs, wanted),
            *misfits(artifact.manifest.host, here),
            *(f"{name}: the artifact has {host_fields[name]!r}, which this worker does not know" for name in strange),
        ]
        fits = fits or not lines
        print(f"{artifact.path}: {'fits' if not lines else 'does not fit'}")
        for line in lines:
            print(f"  {line}")
    if not artifacts:
        print("no artifacts")
    return ExitCode.OK if fits else ExitCode.INTERNAL


def gc(arguments: argparse.Namespace) -> int:
    """Delete what nobody needs."""
    known = _known(arguments)
    store = Store(store_root(arguments), user=arguments.user or "")
    identity, host = arguments.identity or "", arguments.host or ""
    if identity:
        with guard("gc"):
            if not layout.key_directories(store.root, identity, host):
                print(f"nothing of identity {identity}{' and that host tuple' if host else ''} is in {store.root}")
        if not arguments.dry_run:
            return _remove(store, identity, host, known, arguments)
    grace = GRACE if arguments.grace is None else arguments.grace
    found = store.gc(grace=grace, dry=arguments.dry_run)
    for garbage in found:
        verb = "would delete" if arguments.dry_run else "deleted"
        print(f"{verb} {garbage.path}: {garbage.why}, {garbage.bytes} bytes")
    if not found:
        print("nothing to delete")
    if identity:
        with guard("gc"):
            print(usage.text(usage.look(store.root, identity, host)))
        _tell_orphans(store, known)
    return ExitCode.OK


def _known(arguments: argparse.Namespace) -> list[str] | None:
    """What the operator knows; None if this is not its janitor, or it is not told in words that are known here."""
    if not arguments.user or arguments.known is not None:
        return cast("list[str] | None", arguments.known)
    if (text := os.environ.get(names.ENV_KNOWN)) is None:
        return None
    try:
        return usage.keys(text)
    except ValueError as error:
        print(f"{names.ENV_KNOWN}: {error}; orphans are not named", file=sys.stderr)  # an operator of another release
        return None


def _remove(store: Store, identity: str, host: str, known: list[str] | None, arguments: argparse.Namespace) -> int:
    done = store.remove(identity, host, grace=arguments.grace, patience=arguments.patience or 0.0)
    print(f"freed {done.bytes / 1e6:.0f} MB")
    for line in done.kept:
        print(f"kept {line}")
    _tell_orphans(store, known)
    for line in done.busy:
        print(f"put off: {line}; run it again when that has ended", file=sys.stderr)
    return ExitCode.INTERNAL if done.busy else ExitCode.OK


def _tell_orphans(store: Store, known: list[str] | None) -> None:
    """For people, and in the termination message for the operator."""
    if known is None:
        return
    with guard("gc"):
        found = usage.orphans(store.root, store.user, known, GRACE)
    for orphan in found:
        print(f"orphan {orphan.identity}/{orphan.host_tuple}/{orphan.generation}: {orphan.bytes} bytes")
    if found and TERMINATION_LOG.exists():
        keys = list(dict.fromkeys(f"{orphan.identity}/{orphan.host_tuple}" for orphan in found))
        said = orphans.Orphans(count=len(keys), bytes=sum(o.bytes for o in found), named=keys[: orphans.MOST])
        with suppress(OSError):  # it is a courtesy
            TERMINATION_LOG.write_bytes(orphans.encode(said))


def du(arguments: argparse.Namespace) -> int:
    """Say who holds what."""
    root = store_root(arguments)
    with guard("find"):
        found = usage.look(root)
    print(msgspec.json.format(msgspec.json.encode(found)).decode() if arguments.output == "json" else usage.text(found))
    return ExitCode.OK


def doctor(arguments: argparse.Namespace) -> int:
    """Look at the host, or at a file system."""
    if arguments.store:
        from vernal_worker.store import demands

        return _show(demands.checks(Path(arguments.store)))
    from vernal_worker.checkpoint import doctor as host_doctor
    from vernal_worker.supervisor.software import ENV_CRIU

    return _show(host_doctor.checks(criu=os.environ.get(ENV_CRIU) or "criu"))


def _show(checks: Sequence[Check]) -> int:
    for check in checks:
        print(f"{'ok  ' if check.ok else 'FAIL'} {check.name}: {check.detail}")
        if not check.ok and check.remedy:
            print(f"     {check.remedy}")
    return ExitCode.OK if all(check.ok for check in checks) else ExitCode.INTERNAL


def store_root(arguments: argparse.Namespace) -> Path:
    """The store's directory.

    Raises:
        CommandError: there is none, or what is there is no store.
    """
    root = Path(arguments.store) if arguments.store else _configured()
    try:
        there = {entry.name for entry in root.iterdir()}
    except OSError as error:
        hint = "say where it is with --store"
        raise CommandError(ExitCode.USAGE, f"there is no store at {root}: {error.strerror}; {hint}") from error
    if there - {"lost+found"} and not there & {
        layout.ARTIFACTS,
        layout.STAGING,
        layout.LEASES,
        layout.BLOBS,
        layout.CONTENTS,
    }:
        some = ", ".join(sorted(there)[:3])
        raise CommandError(ExitCode.USAGE, f"{root} is no store (it has {some}); say where the store is with --store")
    return root


def _configured() -> Path:
    text = os.environ.get(names.ENV_CONFIG)
    if not text:
        return Path(names.PATH_STORE)
    from vernal_contract.config import decode

    try:
        return Path(decode(text).checkpoint.store_path)
    except msgspec.DecodeError as error:
        raise CommandError(ExitCode.CONFIG_INVALID, f"{names.ENV_CONFIG}: {error}; or use --store") from error


def _found(arguments: argparse.Namespace) -> list[Artifact | Broken]:
    """All current artifacts of the identity that was asked for.

    Raises:
        CommandError: see `store_root`; an identity was asked for, and there is nothing of it.
        StoreError: the store cannot be read.
    """
    root, prefix = store_root(arguments), getattr(arguments, "identity", None) or ""
    found: list[Artifact | Broken] = []
    with guard("find"):
        keys = [each for each in layout.key_directories(root) if each.parent.name.startswith(prefix)]
    for key in keys:
        place = key / layout.CURRENT
        try:
            with guard("find"):
                if not _is_there(place):
                    continue  # nothing is current
                if (generation := layout.pointer(key)) is None:
                    raise StoreError(Reason.MANIFEST_MISSING, "find", "it is no link to a generation")
                place = key / generation
                found.append(load(place))
        except StoreError as error:
            found.append(Broken(place, f"{error.reason}: {error.message}"))
    if prefix and not found:
        raise CommandError(ExitCode.INTERNAL, f"nothing of identity {prefix} is in {root}")
    return found


def _is_there(path: Path) -> bool:
    """Whatever it leads to."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def readable(arguments: argparse.Namespace) -> tuple[list[Artifact], int]:
    """Those that can be read, and how many cannot: these are named on stderr."""
    found = _found(arguments)
    good = [artifact for artifact in found if isinstance(artifact, Artifact)]
    for artifact in found:
        if isinstance(artifact, Broken):
            print(f"{artifact.path}: {artifact.why}", file=sys.stderr)
    return good, len(found) - len(good)


def show_progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done >= total else "\r"
        print(f"{done / 1e6:.0f} of {total / 1e6:.0f} MB", end=end, file=sys.stderr, flush=True)
