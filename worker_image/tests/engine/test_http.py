"""The gate in front of vLLM's application, on a real server and real sockets."""

import http.client
import json
import socket

import pytest
from served import CHAT, HALF, PLAIN, STREAM, Served
from vernal_worker.control.protocol import Serving


def begin(served: Served, path: str) -> http.client.HTTPResponse:
    connection = served.connect()
    connection.request("GET", path)
    return connection.getresponse()


def test_requests_are_counted_until_their_last_byte(served: Served) -> None:
    answer = begin(served, STREAM)
    assert answer.readline() == b'data: {"n":0}\n'
    assert (served.gate.in_flight, served.gate.accepted_total) == (1, 1)
    served.call(served.app.finish.set)
    assert answer.read().endswith(b"data: [DONE]\n\n")
    served.until(lambda: served.gate.in_flight == 0)
    assert served.gate.accepted_total == 1


def test_probes_are_not_work(served: Served) -> None:
    assert begin(served, "/health").status == 200
    assert begin(served, "/metrics").status == 200
    assert served.gate.accepted_total == 0


def test_a_client_that_goes_away_is_not_counted_for_ever(served: Served) -> None:
    connection = served.connect()
    connection.request("GET", STREAM)
    connection.getresponse().readline()
    connection.close()
    served.call(served.app.finish.set)
    served.until(lambda: served.gate.in_flight == 0)


def test_leaving_accepts_and_says_so_on_health(served: Served) -> None:
    stream = begin(served, STREAM)
    served.call(served.http.leave, 30.0)
    answer = begin(served, "/health")
    told = json.loads(answer.read())
    assert answer.status == 503 and told["status"] == "draining"
    assert 25 < told["seconds_left"] <= 30 and told["in_flight"] == 1
    served.call(served.http.leave, 5.0)
    assert json.loads(begin(served, "/health").read())["seconds_left"] <= 5, "a second signal shortens the wait"
    served.call(served.app.finish.set)
    stream.read()
    assert begin(served, PLAIN).status == 200


def test_draining_finishes_what_was_accepted_and_refuses_the_rest(served: Served) -> None:
    idle = served.connect()
    idle.request("GET", PLAIN)
    idle.getresponse().read()
    answer = begin(served, STREAM)
    served.call(served.http.stop_listening)
    served.until(lambda: refused(served.port))
    idle.request("GET", PLAIN)
    refusal = idle.getresponse()
    assert refusal.status == 503
    assert (refusal.headers["Retry-After"], refusal.headers["Connection"]) == ("1", "close")
    assert json.loads(refusal.read())["error"]["code"] == 503
    served.call(served.app.finish.set)
    assert answer.read().endswith(b"data: [DONE]\n\n")
    served.until(lambda: served.gate.in_flight == 0)


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_aborting_ends_each_request_in_its_own_format(served: Served) -> None:
    stream, half, chat = begin(served, STREAM), begin(served, HALF), begin(served, CHAT)
    stream.readline()
    waiting = served.connect()
    waiting.request("GET", "/slow")
    served.until(lambda: served.gate.in_flight == 4)
    assert served.wait(served.gate.abort_all()) == 4
    events = [line for line in stream.read().split(b"\n\n") if line]
    assert events[-1] == b"data: [DONE]"
    assert json.loads(events[-2].strip().removeprefix(b"data: "))["error"]["code"] == 503
    named = chat.read().split(b"\n\n")[-2]
    assert named.startswith(b"event: error\ndata: ")
    assert json.loads(named.partition(b"data: ")[2])["type"] == "error"
    answer = waiting.getresponse()
    assert answer.status == 503 and answer.headers["Retry-After"] == "1"
    with pytest.raises(http.client.IncompleteRead):
        half.read()
    assert served.gate.in_flight == 0 and served.gate.serving is Serving.ABORTED
    assert sorted(served.app.ended) == sorted([STREAM, HALF, CHAT, "/slow"])


def test_the_api_key(served: Served) -> None:
    served.call(served.gate.require_keys, ["sesame", "other"])

    def status(path: str, header: str | None) -> int:
        connection = served.connect()
        connection.request("GET", path, headers={"Authorization": header} if header else {})
        return connection.getresponse().status

    assert status(PLAIN, None) == status(PLAIN, "Bearer wrong") == status(PLAIN, "Basic sesame") == 401
    assert status(PLAIN, "Bearer sesame") == status(PLAIN, "bearer other") == 200
    assert status("/tokenize", None) == 401
    assert status("/health", None) == 200
    assert served.gate.accepted_total == 2


def test_a_socket_is_taken_once(served: Served) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.detach()
    with pytest.raises(RuntimeError, match="already"):
        served.wait(served.http.listen(fd, 60.0))
