"""Writes that are refused, as people are told of them: reason, the refuser's own sentence, next step."""

from collections.abc import Sequence

from vernal_operator.plan.model import Refused

NEXT_STEP = {
    "QuotaExceeded": "raise the namespace's ResourceQuota, or lower spec.replicas",
    "LimitRangeExceeded": "change spec.resources, or the namespace's LimitRange",
    "PodSecurityViolation": "run the pool in a namespace whose Pod Security level is privileged, or set "
    "spec.checkpoint.policy to Disabled",
    "AdmissionDenied": "ask who runs that admission policy or webhook, or change what it objects to",
    "AdmissionUnavailable": "see why that admission webhook does not answer (kubectl get "
    "validatingwebhookconfigurations,mutatingwebhookconfigurations names its Service), or ask who runs it",
    "InvalidObject": "correct the field that it names (spec.podTemplate.spec is where most of a pod comes from)",
    "NameTaken": "",  # the sentence is ours, and says it
    "Forbidden": "give the operator's service account that right (the chart's roles hold all that it needs)",
    "WriteRefused": "change what it objects to",
}
"""What to do, by reason."""

AGAIN = "; it is tried again by itself"
_MAX_TOLD = 3


def sentence(refused: Sequence[Refused]) -> str:
    """All of them in one sentence each, the first with the next step."""
    first = refused[0]
    told = "; ".join(dict.fromkeys(one.sentence for one in refused[:_MAX_TOLD]))
    more = f"; and {len(refused) - _MAX_TOLD} more writes are refused" if len(refused) > _MAX_TOLD else ""
    what = {"create": "made", "delete": "deleted"}.get(first.verb, "written")
    step = NEXT_STEP[first.reason]
    lines = (f"{first.kind} {first.name} cannot be {what}", f"{told}{more}", step)
    return f"{': '.join(line for line in lines if line)}{AGAIN}"
