"""The end of a VLLMCheckpoint that nothing uses: the janitor Job removes its files, then the finalizer goes."""

from collections.abc import Iterator

from vernal_contract import names, orphans

from vernal_operator.build.checkpoint import janitor_job
from vernal_operator.build.meta import checkpoint_owner
from vernal_operator.build.pod import store_user
from vernal_operator.plan import refused as refusals
from vernal_operator.plan.conditions import Verdict, conditions
from vernal_operator.plan.model import CheckpointDecisions, CheckpointSnapshot, Event, Manifest, ObjectRef
from vernal_operator.plan.own import own_checkpoint_status, to_write
from vernal_operator.plan.times import epoch

RETRY_SECONDS = 60.0
"""Between two tries of a janitor Job that failed."""


def let_go(snapshot: CheckpointSnapshot) -> CheckpointDecisions:
    """Nothing uses it and it is being deleted: remove the files, then the finalizer."""
    view = snapshot.checkpoint
    if names.FINALIZER_CHECKPOINT not in view.finalizers:
        return CheckpointDecisions()
    # Where the claim or the whole namespace goes, no Job can run any more, and the files go with the claim.
    files_stay = not snapshot.claim_exists or snapshot.namespace_terminating
    if files_stay or (snapshot.job is not None and snapshot.job.succeeded):
        kept = tuple(f for f in view.finalizers if f != names.FINALIZER_CHECKPOINT)
        return CheckpointDecisions(finalizers=kept, events=tuple(_orphans(snapshot)))
    owner = checkpoint_owner(view.name, view.namespace, view.uid)
    if snapshot.job is None:
        known = [(sibling.spec.identity, sibling.spec.host_tuple) for sibling in snapshot.siblings]
        return _call_janitor(snapshot, janitor_job(owner, view.spec, known))
    if not snapshot.job.failed:
        return CheckpointDecisions()
    return _try_again(snapshot)


def _call_janitor(snapshot: CheckpointSnapshot, job: Manifest) -> CheckpointDecisions:
    """Make the Job; say so where that is refused."""
    view, refused = snapshot.checkpoint, snapshot.refused
    if not refused:
        return CheckpointDecisions(create=(job,))
    verdict = Verdict("Failed", "True", refused[0].reason, refusals.sentence(refused))
    status, _ = _with_failed(snapshot, verdict)
    event = Event("Warning", verdict.reason, verdict.message, f"janitor/{verdict.reason}")
    return CheckpointDecisions(
        create=(job,),
        status=to_write(status, own_checkpoint_status(view.status)),
        events=() if event.key in snapshot.announced else (event,),
    )


def _orphans(snapshot: CheckpointSnapshot) -> Iterator[Event]:
    """What the janitor has found beside the files that it was after. They are told and left: another cluster may use
    the same claim.
    """
    job, view = snapshot.job, snapshot.checkpoint
    found = None if job is None or not job.said else orphans.decode(job.said)
    if job is None or found is None or not found.named:
        return
    storage, user = view.spec.storage, store_user(view.namespace, view.spec.storage)
    message = (
        f"{found.count} artifacts ({found.bytes / 1e9:.1f} GB) on {storage.called} are of no VLLMCheckpoint, such as "
        f"{found.named[0]} (identity/host tuple): unless another cluster uses them, run `vernal-worker gc --identity "
        f"IDENTITY --user {user}` in a worker's container; `vernal-worker du` shows all"
    )
    event = Event("Warning", "OrphansFound", message, f"orphans/{job.uid}")
    if event.key not in snapshot.announced:
        yield event


def _with_failed(snapshot: CheckpointSnapshot, *verdicts: Verdict) -> tuple[Manifest, str]:
    """The status as it was, but for the condition Failed: it becomes each of the verdicts, one after the other. And
    when the first of them became true.
    """
    view = snapshot.checkpoint
    was = own_checkpoint_status(view.status)
    old = was.get("conditions", [])
    written, since = old, ""
    for verdict in verdicts:
        written = conditions([verdict], written, view.generation, snapshot.now)
        since = since or written[0]["lastTransitionTime"]
    return was | {"conditions": [*(c for c in old if c["type"] != "Failed"), *written]}, since


def _try_again(snapshot: CheckpointSnapshot) -> CheckpointDecisions:
    """The janitor failed: say so, and after a while delete its Job, so that the next plan makes a new one."""
    view, job, now = snapshot.checkpoint, snapshot.job, snapshot.now
    assert job is not None
    message = (
        f"{job.message or 'the Job failed'}: see `kubectl logs job/{job.name}` and check the {view.spec.storage.called}"
    )
    if (bucket := view.spec.storage.object_store) is not None:
        message += f" and the Secret {bucket.credentials_secret.name}"
    verdict = Verdict("Failed", "True", "JanitorFailed", message)
    status, since = _with_failed(snapshot, verdict)
    retry = epoch(since) + RETRY_SECONDS
    if now >= retry:
        # Said for long enough. Unknown until the new Job has ended, so that its failure is a new transition.
        trying = Verdict("Failed", "Unknown", "JanitorRetried", f"{job.name} is run again")
        status, _ = _with_failed(snapshot, verdict, trying)
        return CheckpointDecisions(remove=(ObjectRef("Job", job.name, job.uid),), status=status)
    event = Event("Warning", "JanitorFailed", message, f"janitor/{job.uid}")
    return CheckpointDecisions(
        status=to_write(status, own_checkpoint_status(view.status)),
        events=() if event.key in snapshot.announced else (event,),
        requeue_after=max(1.0, retry - now),
    )
