"""The gate in front of vLLM's application, on a real server and real sockets."""

import http.client
import json
import socket

import pytest
from patience import GUARD_SECONDS, until
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
    until("nothing in flight", lambda: served.gate.in_flight == 0)
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
    until("nothing in flight", lambda: served.gate.in_flight == 0)


def test_leaving_accepts_and_says_so_on_health(served: Served) -> None:
    stream = begin(served, STREAM)
    served.call(served.http.leave, 2 * GUARD_SECONDS)
    answer = begin(served, "/health")
    told = json.loads(answer.read())
    assert answer.status == 503 and told["status"] == "draining"
    assert GUARD_SECONDS < told["seconds_left"] <= 2 * GUARD_SECONDS and told["in_flight"] == 1
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
    until("a closed port", lambda: refused(served.port))
    idle.request("GET", PLAIN)
    refusal = idle.getresponse()
    assert refusal.status == 503
    assert (refusal.headers["Retry-After"], refusal.headers["Connection"]) == ("1", "close")
    assert json.loads(refusal.read())["error"]["code"] == 503
    served.call(served.app.finish.set)
    assert answer.read().endswith(b"data: [DONE]\n\n")
    until("nothing in flight", lambda: served.gate.in_flight == 0)


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=GUARD_SECONDS).close()
    except ConnectionRefusedError:
        return True
    return False


def test_aborting_ends_each_request_in_its_own_format(served: Served) -> None:
    stream, half, chat = begin(served, STREAM), begin(served, HALF), begin(served, CHAT)
    stream.readline()
    waiting = served.connect()
    waiting.request("GET", "/slow")
    until("four in flight", lambda: served.gate.in_flight == 4)
    assert served.wait(served.gate.abort_all(60.0)) == (4, 0)
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


def test_a_client_that_does_not_read_does_not_hold_the_drain_up(served: Served) -> None:
    """Its answer waits in the kernel's and the server's buffers, and so would the error."""
    reads, deaf = begin(served, STREAM), served.connect()
    reads.readline()
    deaf.request("GET", "/flood")
    until("both in flight, one client deaf", lambda: served.gate.in_flight == 2 and waits_for_client(served))
    assert served.wait(served.gate.abort_all(5.0)) == (2, 1)
    assert served.gate.in_flight == 0
    assert reads.read().endswith(b"data: [DONE]\n\n"), "who reads is told in order"
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        deaf.getresponse().read()
    served.wait(served.http.close(60.0))


def waits_for_client(served: Served) -> bool:
    connections = list(served.http.server.server_state.connections)
    return any(connection.flow.write_paused for connection in connections if connection.flow)  # type: ignore[union-attr]


def test_who_leaves_the_rest_of_an_answer_unread_is_reset_at_the_end(served: Served) -> None:
    served.call(served.app.finish.set)
    deaf = served.connect()
    deaf.request("GET", "/big")
    until("the answer is handed over", lambda: served.gate.accepted_total == 1 and served.gate.in_flight == 0)
    served.wait(served.http.close(60.0))
    until("all connections closed", lambda: not served.http.server.server_state.connections)


@pytest.mark.parametrize("path", [PLAIN, STREAM, "/metrics", "/slow"])
def test_a_worker_that_leaves_says_that_the_answer_is_the_last(served: Served, path: str) -> None:
    """So that pools of connections are empty when the listener closes."""
    connection = served.connect()
    connection.request("GET", PLAIN)
    first = connection.getresponse()
    first.read()
    assert first.headers["Connection"] is None
    early = served.connect()
    early.request("GET", "/slow")  # comes before, is answered after
    until("the early request", lambda: served.gate.in_flight == 1)
    served.call(served.http.leave, 30.0)
    served.call(served.app.finish.set)
    connection.request("GET", path)
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Connection"]) == (200, "close")
    answer.read()
    assert early.getresponse().headers["Connection"] == "close"
