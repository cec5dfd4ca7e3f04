"""Asks a worker a row's questions."""

import contextlib
import http.client
import json
import uuid
from collections.abc import Mapping
from typing import Any

from common.progress import note
from worker_pod import Pod

from engines import compare
from engines.row import Answer, Asked, Question, Row


def ask_all(pod: Pod, row: Row) -> Asked:
    """Every question once, in order."""
    before = _counters(pod, row)
    answers = {}
    for number, question in enumerate(row.questions, 1):
        note(f"{row.name}, question {number} of {len(row.questions)}: {question.name}")
        answers[question.name] = ask(pod, question)
    after = _counters(pod, row)
    return Asked(answers, {name: after[name] - before[name] for name in after})


def ask(pod: Pod, question: Question) -> Answer:
    """One question. No answer, such as of an engine that dies of it, is one, too."""
    kind, data = encode(question)
    try:
        with contextlib.closing(pod.http()) as connection:
            connection.request("POST", question.path, data, {"Content-Type": kind})
            got = connection.getresponse()
            return Answer(got.status, _decoded(got.read()))
    except (OSError, http.client.HTTPException) as error:
        return Answer(0, f"{type(error).__name__}: {error}")


def encode(question: Question) -> tuple[str, bytes]:
    """Content type and bytes of a question: JSON, or a form (RFC 7578) if it has a file."""
    body = question.body() if callable(question.body) else question.body
    if question.file is None:
        return "application/json", json.dumps(body).encode()
    boundary = uuid.uuid4().hex
    return f"multipart/form-data; boundary={boundary}", _form(body, question.file(), boundary)


def _form(body: Mapping[str, Any], file: bytes, boundary: str) -> bytes:
    parts = [(f'name="{name}"', str(value).encode()) for name, value in body.items()]
    parts.append(('name="file"; filename="file.wav"', file))
    pieces = (f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + data for head, data in parts)
    return b"\r\n".join([*pieces, f"--{boundary}--\r\n".encode()])


def _decoded(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data.decode(errors="replace")


def _counters(pod: Pod, row: Row) -> dict[str, float]:
    """Zeros of an engine that is gone: its answers tell."""
    if not row.counters:
        return {}
    with contextlib.suppress(OSError, http.client.HTTPException):
        return compare.counters(pod.ask("GET", "/metrics")[1].decode(), row.counters)
    return dict.fromkeys(row.counters, 0.0)
