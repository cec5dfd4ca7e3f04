"""Whose files the janitor may take, and whose word counts for that they are gone."""

from dataclasses import replace

from plan.factory import NOW, creator
from plan.test_retention import FINALIZER, again, seen, use
from vernal_operator.api.checkpoint import VLLMCheckpointSpec
from vernal_operator.api.pool import Storage
from vernal_operator.build.checkpoint import JANITOR_SECONDS, janitor_job
from vernal_operator.build.meta import checkpoint_owner
from vernal_operator.plan import plan_checkpoint
from vernal_operator.plan.model import JobView, ObjectRef


def test_a_job_of_before_it_was_used_again_does_not_count() -> None:
    used = seen(use(creator()), deletion_time=NOW - 5, finalizers=(FINALIZER,))
    used = again(used, plan_checkpoint(used), job=JobView("x-janitor", "old", succeeded=True))
    assert plan_checkpoint(used).remove == (ObjectRef("Job", "x-janitor", "old"),)
    unused = replace(used, users=(), workers=(), job=None)
    done = plan_checkpoint(unused)
    assert done.finalizers is None and len(done.create) == 1


def test_an_operator_that_does_not_know_yet_leaves_the_job_alone() -> None:
    unsure = seen(users=(), workers_known=False, deletion_time=NOW, finalizers=(FINALIZER,), job=JobView("x", "j"))
    assert not plan_checkpoint(unsure).remove


def test_a_job_that_finds_no_node_ends_by_itself() -> None:
    spec = VLLMCheckpointSpec(
        identity="a" * 64, host_tuple="b" * 64, model="m", storage=Storage(claim_name="c"), image="i"
    )
    job = janitor_job(checkpoint_owner("k", "ns", "u"), spec)
    assert job["spec"]["activeDeadlineSeconds"] == JANITOR_SECONDS
