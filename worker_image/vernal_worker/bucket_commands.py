"""`vernal-worker bucket`: checkpoints between a store and a bucket. Each returns the process's exit code."""

import argparse
import os
import sys
from collections.abc import Callable

from vernal_contract.reasons import About, Reason, about

from vernal_worker.bucket import collect as collecting
from vernal_worker.bucket import credentials, keys, pointer, publications
from vernal_worker.bucket.keys import Place
from vernal_worker.bucket.objects import Objects
from vernal_worker.bucket.pull import pull as fetch
from vernal_worker.bucket.push import push as publish
from vernal_worker.commands import CommandError, readable, show_progress, store_root
from vernal_worker.store.errors import StoreError
from vernal_worker.supervisor.exits import ExitCode


def run(arguments: argparse.Namespace) -> int:
    """Raises: CommandError, StoreError."""
    command: Callable[[Objects, argparse.Namespace], int] = {
        "ls": ls, "push": push, "pull": pull, "rm": rm, "gc": gc
    }[arguments.action]  # fmt: skip
    try:
        objects = Objects(
            arguments.url,
            endpoint=arguments.endpoint,
            region=arguments.region,
            credentials=credentials.given(os.environ),
        )
    except ValueError as error:
        raise CommandError(ExitCode.USAGE, str(error)) from error
    return command(objects, arguments)


def ls(objects: Objects, arguments: argparse.Namespace) -> int:
    """List what is current."""
    bad = 0
    places = _places(objects, arguments.identity or "")
    for place in places:
        current = pointer.look(objects, place, "find")
        name = f"{place.identity}/{place.host}"
        try:
            if current is None or not current.publication:
                raise StoreError(Reason.NO_ARTIFACT, "find", "its pointer is none of ours")
            content = publications.load(objects, place, current.publication, "find").manifest
        except StoreError as error:
            if error.reason is Reason.OBJECT_STORE_UNAVAILABLE:
                raise
            print(f"{name}\n  {error.reason}: {error.message}")
            bad += 1
            continue
        size = sum(entry.size for entry in content.files)
        print(f"{name}/{content.generation}")
        print(f"  model     {content.identity_inputs.model}")
        print(f"  created   {content.created} by {content.created_by}")
        print(f"  size      {size / 1e6:.0f} MB in {len(content.files)} files")
    if not places:
        print("no artifacts")
    return ExitCode.INTERNAL if bad else ExitCode.OK


def push(objects: Objects, arguments: argparse.Namespace) -> int:
    """Publish the store's artifacts in the bucket; those that are damaged are named, and the others go on."""
    found, bad = readable(arguments)
    for artifact in found:
        name = f"{artifact.manifest.identity}/{artifact.manifest.host_tuple}/{artifact.generation}"
        try:
            done = publish(
                objects,
                artifact,
                may_replace=lambda generation: bool(arguments.replace),
                on_progress=show_progress,
            )
        except StoreError as error:
            if about(error.reason) is not About.ARTIFACT:
                raise
            print(f"{name}: not published, {error.reason}: {error.message}", file=sys.stderr)
            bad += 1
            continue
        if done.generation == artifact.generation:
            print(f"{name}: current, {done.sent / 1e6:.0f} MB sent")
        else:
            print(f"{name}: not published, {done.generation} is current; --replace puts it aside", file=sys.stderr)
            bad += 1
    if not found and not bad:
        print("no artifacts", file=sys.stderr)
    return ExitCode.INTERNAL if bad or not found else ExitCode.OK


def pull(objects: Objects, arguments: argparse.Namespace) -> int:
    """Bring the bucket's artifacts of an identity into the store."""
    root = store_root(arguments)
    places = [Place.of(arguments.identity, arguments.host)] if arguments.host else _places(objects, arguments.identity)
    for place in places:
        done = fetch(objects, root, place, on_progress=show_progress)
        print(f"{done.artifact.path}: current, {done.fetched / 1e6:.0f} MB fetched")
    if not places:
        raise CommandError(ExitCode.INTERNAL, f"nothing of identity {arguments.identity} is in {objects.url}")
    return ExitCode.OK


def rm(objects: Objects, arguments: argparse.Namespace) -> int:
    """Let nobody find the artifacts of an identity any more."""
    done = collecting.remove(objects, arguments.identity, arguments.host or "", arguments.user or "")
    if not done.count and not arguments.user:
        raise CommandError(ExitCode.INTERNAL, f"nothing of identity {arguments.identity} is in {objects.url}")
    for kept in done.kept:
        print(f"kept {kept}")
    later = f"`vernal-worker bucket gc` deletes them {collecting.GRACE / 3600:g} hours from now"
    print(f"{done.count} not found any more; {later}")
    return gc(objects, arguments) if arguments.gc else ExitCode.OK


def gc(objects: Objects, arguments: argparse.Namespace) -> int:
    """Delete what nobody needs."""
    grace = collecting.GRACE if arguments.grace is None else arguments.grace
    done = collecting.collect(objects, grace=grace, dry=arguments.dry_run)
    verb = "would delete" if arguments.dry_run else "deleted"
    for garbage in done.garbage:
        print(f"{verb} {garbage.key}: {garbage.why}, {garbage.bytes} bytes")
    if not done.garbage:
        print("nothing to delete")
    if done.kept:
        print(f"pieces that nothing else has were kept: {done.kept}")
    return ExitCode.OK


def _places(objects: Objects, identity: str) -> list[Place]:
    """Where there is a pointer; of identities that begin so."""
    named = (keys.read(found.key) for found in objects.list(keys.ARTIFACTS, "find"))
    return sorted(
        each.place for each in named if each is not None and each.current and each.place.identity.startswith(identity)
    )
