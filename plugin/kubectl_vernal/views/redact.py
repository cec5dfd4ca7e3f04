"""What must not leave a cluster, taken out of objects and logs.

Secrets are never read in the first place. What may still hold one are values of environment variables, copies of them
in JSON texts (the worker's configuration, kubectl's last-applied annotation, kept revisions, the identity of a
checkpoint) and log lines.
"""

import json
import re
from typing import Any

GONE = "[redacted]"

_SENSITIVE = re.compile(
    r"token|secret|passw|credential|api_?key|access_?key|private_?key|signing_?key|auth|cookie", re.I
)
_HARMLESS = re.compile(
    r"(secretKeyRef|tokenSecret|secretName|secretEnv|imagePullSecrets|signingKey|automountServiceAccountToken"
    r"|max_tokens|num_\w*tokens|\w*_tokens|tokenizer\w*|tokenExpirationSeconds|expirationSeconds|author\w*|authentication)$",
)
_TEXTS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\b(?:hf|sk|ghp|gho|glpat|xox[abp])[_-][A-Za-z0-9_-]{16,}"), GONE),
    (re.compile(r"\bAKIA[0-9A-Z]{16}\b"), GONE),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*"), GONE),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {GONE}"),
    (re.compile(r"(?i)(://[^/\s:@]+:)[^@\s/]+@"), rf"\1{GONE}@"),
    (
        re.compile(r"(?i)([?&](?:x-amz-signature|x-amz-credential|sig|signature|token|access_token)=)[^&\s\"']+"),
        rf"\1{GONE}",
    ),
    (
        re.compile(
            r"(?i)\b([A-Z0-9_]*(?:TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|CREDENTIALS?))=([^\s,;\"']+)"
        ),
        rf"\1={GONE}",
    ),
    (
        re.compile(r"(?i)(--?[a-z-]*(?:token|secret|password|api-key|access-key|credentials?)[= ])(?!-)\S+"),
        rf"\1{GONE}",
    ),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.S), GONE),
)


def sensitive(field: str) -> bool:
    """Whether a field or variable of this name holds a secret."""
    return _SENSITIVE.search(field) is not None and _HARMLESS.search(field) is None


def redact(value: Any) -> Any:
    """A copy without secrets. Structure and names stay, so that one sees what there was."""
    if isinstance(value, dict):
        if isinstance(value.get("name"), str) and isinstance(value.get("value"), str):  # an environment variable
            inner = GONE if sensitive(value["name"]) else redact(value["value"])
            return {field: inner if field == "value" else redact(found) for field, found in value.items()}
        return {
            field: GONE
            if sensitive(field) and isinstance(found, str | int | float) and not isinstance(found, bool) and found != ""
            else redact(found)
            for field, found in value.items()
            if field != "managedFields"
        }
    if isinstance(value, list):
        before = [None, *value]
        return [
            GONE if isinstance(item, str) and _is_flag(last) else redact(item)
            for last, item in zip(before, value, strict=False)
        ]
    return text(value) if isinstance(value, str) else value


def _is_flag(word: object) -> bool:
    """Whether the next argument of a command is a secret, as in `--api-key X`."""
    return isinstance(word, str) and word.startswith("-") and "=" not in word and sensitive(word.replace("-", "_"))


def text(value: str) -> str:
    """A string without secrets; JSON in it is looked into."""
    if value.lstrip()[:1] in ("{", "["):
        try:
            return json.dumps(redact(json.loads(value)), ensure_ascii=False)
        except ValueError:
            pass
    for pattern, instead in _TEXTS:
        value = pattern.sub(instead, value)
    return value
