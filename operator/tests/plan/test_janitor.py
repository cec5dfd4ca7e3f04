"""Whose files the janitor may take, and whose word counts for that they are gone."""

from dataclasses import replace

from plan.factory import NOW, creator
from plan.test_retention import FINALIZER, again, seen, use
from vernal_operator.api.checkpoint import VLLMCheckpointSpec
from vernal_operator.api.storage import Storage
from vernal_operator.build.checkpoint import JANITOR_SECONDS, janitor_job
from vernal_operator.build.meta import checkpoint_owner
from vernal_operator.plan import plan_checkpoint
from vernal_operator.plan.model import JobView, ObjectRef


def test_a_job_of_before_it_was_used_again_does_not_count() -> None:
    used = seen(use(creator()), deletion_time=NOW - 5, finalizers=(FINALIZER,))
    used = again(used, plan_checkpoint(used), job=JobView("x-janitor", "old", succeeded=True))
    assert plan_checkpoint(used).remove == (ObjectRef("Job", "x-janitor", "old"),)
    going = JobView("x-janitor", "old", going=True)
    assert not plan_checkpoint(replace(used, job=going)).remove, "a foreign finalizer keeps it"
    unused = replace(used, users=(), workers=(), job=None)
    assert not plan_checkpoint(replace(unused, job=going)), "its name is not free yet"
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


def test_orphans_that_it_has_found_are_told_once_and_the_finalizer_goes() -> None:
    said = '{"count":2,"bytes":3000000000,"named":["ab/cd","ef/01"]}'
    job = JobView("x-janitor", "j", succeeded=True, said=said)
    gone = seen(users=(), deletion_time=NOW, finalizers=(FINALIZER,), job=job)
    done = plan_checkpoint(gone)
    assert done.finalizers == ()
    [event] = done.events
    assert (event.type, event.reason) == ("Warning", "OrphansFound")
    assert "2 artifacts (3.0 GB)" in event.message and "ab/cd" in event.message and "--user ns/store/" in event.message
    assert not plan_checkpoint(again(gone, done)).events
    for other in ("", "freed 3 MB", '{"count":0,"bytes":0}'):
        quiet = plan_checkpoint(replace(gone, job=replace(job, said=other)))
        assert quiet.finalizers == () and not quiet.events


def test_the_job_is_told_what_else_is_known_and_how_does_not_matter_to_older_images() -> None:
    going = seen(users=(), deletion_time=NOW, finalizers=(FINALIZER,))
    other = replace(
        going.checkpoint, name="other", spec=going.checkpoint.spec.model_copy(update={"host_tuple": "c" * 64})
    )
    [job] = plan_checkpoint(replace(going, siblings=(other,))).create
    [container] = job["spec"]["template"]["spec"]["containers"]
    assert container["env"] == [{"name": "VERNAL_KNOWN", "value": f"{other.spec.identity}/{'c' * 64}"}]
    assert "--known" not in container["args"]
