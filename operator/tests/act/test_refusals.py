"""What refuses a write, in one word, and how long it is left alone after that."""

import pytest
from vernal_operator.act.refusals import PAUSE_SECONDS, Refusals, Subject, reason
from vernal_operator.act.writer import TakenError
from vernal_operator.client import ApiError
from vernal_operator.kinds import POOLS, Key

KEY = Key(POOLS, "ns", "p")

FORBIDDEN = 'pods is forbidden: User "system:serviceaccount:a:b" cannot create resource "pods" in API group ""'
DENIED = "pods \"p\" is forbidden: ValidatingAdmissionPolicy 'x' with binding 'y' denied request: no"
SENTENCES = {
    'pods "p-1-0" is forbidden: exceeded quota: q, requested: pods=1, used: pods=3': (
        403,
        "QuotaExceeded",
    ),
    'pods "p" is forbidden: failed quota: q: must specify limits.cpu for: worker': (403, "QuotaExceeded"),
    'pods "p" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation': (
        403,
        "PodSecurityViolation",
    ),
    'pods "p" is forbidden: maximum memory usage per Container is 1Gi, but limit is 2Gi': (403, "LimitRangeExceeded"),
    'pods "p" is forbidden: minimum cpu usage per Pod is 1, but request is 100m': (403, "LimitRangeExceeded"),
    'admission webhook "deny.example.com" denied the request: no': (403, "AdmissionDenied"),
    'admission webhook "deny.example.com" denied the request: not like this': (422, "AdmissionDenied"),
    'admission webhook "deny.example.com" denied the request without explanation': (503, "AdmissionDenied"),
    'Internal error occurred: failed calling webhook "x.example.com": failed to call webhook: EOF': (
        500,
        "AdmissionUnavailable",
    ),
    "pods \"p\" is forbidden: ValidatingAdmissionPolicy 'x' with binding 'y' denied request: no": (
        403,
        "AdmissionDenied",
    ),
    'pods is forbidden: User "system:serviceaccount:a:b" cannot create resource "pods" in API group ""': (
        403,
        "Forbidden",
    ),
    'Pod "p" is invalid: spec.tolerations[0].operator: Invalid value: "Perhaps"': (422, "InvalidObject"),
    "what nobody has thought of": (400, "WriteRefused"),
    'namespaces "ns" not found': (404, "NamespaceTerminating"),
}


def pod(slot: int, image: str = "i") -> Subject:
    labels = {"vernal.dev/slot": str(slot), "vernal.dev/pool": "p"}
    return Subject.of("create", "Pod", {"metadata": {"name": f"p-{slot}", "labels": labels}, "spec": {"image": image}})


def error(sentence: str, status: int = 403, causes: tuple[str, ...] = ()) -> ApiError:
    return ApiError(status, "Forbidden", f"create /pods: {sentence}", sentence=sentence, causes=causes)


@pytest.mark.parametrize("status", [400, 403, 404, 408, 409, 422, 429, 500, 503])
def test_what_a_webhook_says_is_a_refusal_whatever_status_it_names(status: int) -> None:
    """A 409 is not that the object is there, a 404 not that it is gone, a 503 not that the API server is down."""
    for sentence in ('admission webhook "x" denied the request: no', 'failed calling webhook "x": EOF'):
        found = error(sentence, status)
        assert not any((found.passing, found.unavailable, found.conflict, found.not_found, found.outcome_unknown)), (
            sentence
        )


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("sentence", SENTENCES)
def test_each_refusal_has_its_word(sentence: str) -> None:
    status, word = SENTENCES[sentence]
    assert reason(error(sentence, status)) == word


def test_a_refusal_holds_all_alike_ever_longer_and_is_told_once() -> None:
    clock = Clock()
    refusals = Refusals(clock)
    pauses = []
    for turn in range(12):
        told = refusals.refused(KEY, pod(0), error(f"exceeded quota: q, used: pods={turn}"))
        assert (told is None) == (turn > 0), "only its numbers change"
        assert refusals.holds(KEY, pod(0)) and refusals.holds(KEY, pod(7)) and not refusals.holds(KEY, pod(0, "other"))
        left = refusals.next(KEY)
        assert left is not None
        pauses.append(left)
        clock.now += left
        assert not refusals.holds(KEY, pod(7))
    first, longest = PAUSE_SECONDS
    assert first <= pauses[0] and longest <= pauses[-1] <= 1.5 * longest
    assert pauses[6] > pauses[0] * 10
    assert [one.reason for one in refusals.told(KEY)] == ["QuotaExceeded"]
    assert refusals.refused(KEY, pod(0), error("violates PodSecurity")) is not None, "another reason is news"
    refusals.accepted(KEY, pod(3))
    assert not refusals.told(KEY) and refusals.next(KEY) is None


def test_a_name_that_is_taken_holds_that_name_only() -> None:
    refusals = Refusals(Clock())
    refusals.refused(KEY, pod(0), TakenError("Pod ns/p-0 is not this pool's"))
    assert refusals.holds(KEY, pod(0)) and not refusals.holds(KEY, pod(1))


def test_what_is_not_wanted_any_more_is_not_refused() -> None:
    refusals = Refusals(Clock())
    refusals.refused(KEY, pod(0), error("exceeded quota: q"))
    refusals.keep(KEY, {pod(1)})
    assert refusals.told(KEY)
    refusals.keep(KEY, {pod(1, "other")})
    assert not refusals.told(KEY)


def test_a_namespace_that_goes_away_is_nobodys_news() -> None:
    refusals = Refusals(Clock())
    gone = error(
        "unable to create new content in namespace ns because it is being terminated", 403, ("NamespaceTerminating",)
    )
    assert refusals.refused(KEY, pod(0), gone) is None
    assert refusals.holds(KEY, pod(0)) and not refusals.told(KEY) and refusals.next(KEY) is not None
