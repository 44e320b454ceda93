import contextlib
import http.client
import json
import re
import resource
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import numpy as np
import prometheus_client
import pytest
from waitress.task import ThreadedTaskDispatcher

from keras_genmnist.errors import UsageError
from keras_genmnist.serve import server
from keras_genmnist.serve.access import Access
from keras_genmnist.serve.app import create_app
from keras_genmnist.serve.batching import Places
from keras_genmnist.serve.servables import Repository
from keras_genmnist.serve.server import Server
from tests import tiny, toy

LONG = 500_000  # steps of the toy's `count`: seconds
COUNT = {"signature_name": "count", "inputs": LONG}
COUNTED = (200, {"outputs": {"n": LONG, "zeros": [0, 0]}})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An export of a toy, version 1.  Read it, and write elsewhere."""
    folder = tmp_path_factory.mktemp("exports") / "toy"
    toy.save(folder)
    return folder


@pytest.fixture(scope="module")
def repository(folder):
    repository = Repository([folder], lambda rows: None)
    repository.refresh()
    return repository


@pytest.fixture(scope="module")
def running(repository):
    """A server of the toy in a thread, with 2 places, bodies up to 1 MB and short deadlines; its port."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "RECEIVE_SECONDS", 1.0)
        places = Places(2)
        app = create_app(repository, places, prometheus_client.CollectorRegistry(), Access("127.0.0.1"))
        serving = Server(app, places, Access("127.0.0.1"), "127.0.0.1", 0, max_body_mb=1)
        thread = threading.Thread(target=serving.run, daemon=True)
        thread.start()
        yield int(serving.url.rpartition(":")[2])
        serving.stop()
        thread.join(30)
        assert not thread.is_alive()


def ask(port: int, body: str | bytes, path: str = "/v1/models/toy:predict") -> tuple[int, dict]:
    """POSTs a body; gives status and answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def send(port: int, parts: list[bytes], pause: float, end: bool) -> tuple[int, dict, dict]:
    """Sends bytes as they are, with pauses, ends the sending side if asked to; gives status, answer and headers."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        with contextlib.suppress(OSError):  # it may have been answered before it sent all
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        if end:
            connection.shutdown(socket.SHUT_WR)
        response = http.client.HTTPResponse(connection)
        response.begin()
        return response.status, json.loads(response.read()), dict(response.getheaders())


HEAD = b"POST /v1/models/toy:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
CHUNKED = HEAD.replace(b"Content-Length: 100", b"Transfer-Encoding: chunked")
TOO_LARGE, LATE = "exceeds max_body of 1000000", "the request did not arrive within 1 s"
# What is sent, a pause after each part in s, whether the client then ends its side; the status and message it gets.
RAW = {
    "a body cut off": ([HEAD, b'{"inst'], 0, True, 400, "the request was cut off"),
    "a head cut off": ([HEAD[:30]], 0, True, 400, "the request was cut off"),
    "a body that does not come": ([HEAD, b'{"inst'], 0, False, 408, LATE),
    "a head that does not come": ([HEAD[:30]], 0, False, 408, LATE),
    "a body that trickles": ([HEAD] + [b" "] * 30, 0.1, False, 408, LATE),
    "a head that trickles": ([HEAD[place : place + 1] for place in range(30)], 0.1, False, 408, LATE),
    "no HTTP": ([b"hello\r\n\r\n"], 0, False, 400, "Bad Request"),
    "an address that is none": ([b"GET http://[x]y/ HTTP/1.1\r\nHost: x\r\n\r\n"], 0, False, 400, "Bad Request"),
    "an address that is no number": ([b"GET http://[::1:2 HTTP/1.1\r\n\r\n"], 0, False, 400, "Bad Request"),
    "a length of 5,000 digits": ([HEAD.replace(b"100", b"9" * 5000)], 0, False, 400, "Bad Request"),
    "a head too large": ([b"GET / HTTP/1.1\r\nX: " + b"a" * 10**6], 0, False, 431, "exceeds max_header"),
    "a body too large": ([HEAD.replace(b"100", b"1000001")], 0, False, 413, TOO_LARGE),
    "a chunked body too large": ([CHUNKED, b"200000\r\n", b" " * 0x200000], 0, False, 413, TOO_LARGE),
    "a chunked body that is none": ([CHUNKED, b"zz\r\n"], 0, False, 400, "Bad Request"),
    "a length that is none": ([HEAD.replace(b"100", b"-1")], 0, False, 400, "Bad Request"),
    "two lengths": ([HEAD.replace(b": x", b": x\r\nContent-Length: 1")], 0, False, 400, "Bad Request"),
}


@pytest.mark.parametrize("case", RAW)
def test_what_is_no_whole_request_is_told_so_and_the_server_goes_on(running, case):
    parts, pause, end, status, message = RAW[case]
    found, answer, headers = send(running, parts, pause, end)
    assert (found, answer.keys()) == (status, {"error"})
    assert message in answer["error"] and "\n" not in answer["error"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert ask(running, '{"inputs": [1]}') == (200, {"outputs": [2.5]})


def test_body_too_large_is_told_so_though_it_is_sent_whole(running):
    # Closed at once, the connection would be reset, and the client would never see the answer.
    status, answer = ask(running, b" " * 20_000_000)
    assert (status, answer["error"]) == (413, "Request Entity Too Large: exceeds max_body of 1000000")


def test_body_below_the_limit_is_read(running):
    status, answer = ask(running, b'{"inputs": [1]}' + b" " * 900_000)
    assert (status, answer) == (200, {"outputs": [2.5]})


def test_answer_larger_than_all_buffers_arrives(running):
    status, answer = ask(running, json.dumps({"inputs": [1] * 200_000}))
    assert status == 200 and answer["outputs"] == [2.5] * 200_000


def start(port: int, answers: list, body: dict) -> threading.Thread:
    """Starts a request in a thread."""
    thread = threading.Thread(target=lambda: answers.append(ask(port, json.dumps(body))), daemon=True)
    thread.start()
    return thread


def test_work_past_the_bound_is_refused_while_health_is_answered(running, repository, monkeypatch):
    free, working, answers = threading.Event(), threading.Semaphore(0), []

    def wait(inputs):
        working.release()
        assert free.wait(60)
        return inputs

    signatures = repository.servable("toy").signatures
    wait.inputs = signatures["serving_default"].inputs
    monkeypatch.setitem(signatures, "serving_default", wait)
    threads = [start(running, answers, {"inputs": [number]}) for number in range(2)]
    assert working.acquire(timeout=60) and working.acquire(timeout=60)
    status, answer = ask(running, '{"inputs": [1]}')
    assert (status, answer["error"]) == (429, "2 requests are being worked on, the most at once: try again later")
    assert get(http.client.HTTPConnection("127.0.0.1", running, timeout=60), "/healthz") == (200, "ok")
    free.set()
    for thread in threads:
        thread.join(60)
    assert sorted(answer["outputs"] for _, answer in answers) == [[0], [1]]
    assert ask(running, '{"inputs": [1]}')[0] == 200


@pytest.fixture
def many_files():
    """Lets this process, client and server, open enough files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < 4000:
        pytest.skip("the process may open fewer than 4,000 files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4000 if 0 <= soft < 4000 else soft, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("sent", [b"", HEAD[:30]], ids=["nothing", "a part of a head"])
def test_connections_that_nobody_uses_give_way(running, many_files, monkeypatch, sent):
    monkeypatch.setattr(server, "RECEIVE_SECONDS", 60.0)
    answers = []
    working = start(running, answers, COUNT)
    with contextlib.ExitStack() as held:
        for _ in range(2000):
            connection = held.enter_context(socket.create_connection(("127.0.0.1", running), timeout=60))
            with contextlib.suppress(ConnectionError):  # it had to give way before it sent
                connection.sendall(sent)
        began = time.monotonic()
        assert get(http.client.HTTPConnection("127.0.0.1", running, timeout=60), "/healthz") == (200, "ok")
        # Milliseconds, and up to a second where others use the machine; where none gives way, until they are closed as
        # idle, which takes 30 s.
        assert time.monotonic() - began < 5
        working.join(60)
    assert answers == [COUNTED]


def test_a_connection_in_use_is_kept_while_others_give_way(running, many_files):
    used = http.client.HTTPConnection("127.0.0.1", running, timeout=60)
    used.connect()
    used.auto_open = False  # it must be this one all the time
    with contextlib.ExitStack() as held:
        for _ in range(40):
            for _ in range(50):
                held.enter_context(socket.create_connection(("127.0.0.1", running), timeout=60))
            assert get(used, "/healthz") == (200, "ok")


def test_connections_are_fewer_where_files_are(monkeypatch):
    limits = [64, 64]
    monkeypatch.setattr(server.resource, "getrlimit", lambda which: tuple(limits))
    monkeypatch.setattr(server.resource, "setrlimit", lambda which, new: limits.__setitem__(slice(2), new))
    found = []
    for soft, hard in ((64, 64), (256, 512), (256, 10**6), (1024, -1), (-1, -1), (10**6, 10**6)):
        limits[:] = soft, hard
        found.append((server._most_connections(), *limits))
    assert found == [
        (32, 64, 64),
        (384, 512, 512),
        (1000, 1128, 10**6),
        (1000, 1128, -1),
        (1000, -1, -1),
        (1000, 10**6, 10**6),
    ]


def test_port_that_is_taken_is_a_usage_error(running):
    with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1:{running}: .*; give another --host or --port"):
        Server(None, Places(1), Access("127.0.0.1"), "127.0.0.1", running, 1)


def test_host_that_is_none_is_a_usage_error():
    with pytest.raises(UsageError, match=r"cannot listen on no\.such\.host\.invalid:0: no such host"):
        Server(None, Places(1), Access("127.0.0.1"), "no.such.host.invalid", 0, 1)


def test_threads_that_cannot_be_started_are_a_usage_error(monkeypatch):
    def refuse(*arguments):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(ThreadedTaskDispatcher, "start_new_thread", refuse)
    with pytest.raises(UsageError, match=r"cannot start 17 threads, 8 beside --max_in_flight: .*; give fewer"):
        Server(None, Places(9), Access("127.0.0.1"), "127.0.0.1", 0, 1)


# The process


@contextlib.contextmanager
def process(*exports: Path, before: str = ""):
    """`genmnist serve` of exports in a process of its own, which runs the statement `before` first; it and its port."""
    arguments = ["serve", *(f"--export={path}" for path in exports), "--port=0"]
    started = tiny.start(*arguments, cwd=exports[0].parent, before=before)
    try:
        yield started, int(re.search(r"http://127.0.0.1:(\d+)", started.stdout.readline())[1])
    finally:
        started.kill()
        started.communicate()


def ready(port: int, condition=lambda: True) -> None:
    """Waits until the server on this port serves every model, and `condition` holds."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/readyz")
        if connection.getresponse().status == 200 and condition():
            return
        time.sleep(0.05)
    raise AssertionError("it does not get ready")


@pytest.fixture(scope="module")
def process_of_both(folder, exported):
    """A process that serves the toy and a VAE without the models' code and what it is made of, and its port."""
    absent = [
        "keras_genmnist.models",
        "keras_genmnist.runs",
        "tensorflow_probability",
        "tf_keras",
        "tensorflow_datasets",
    ]
    before = f"import sys\nsys.modules.update(dict.fromkeys({absent}))"  # importing them raises
    with process(folder, exported.parent, before=before) as (started, port):
        ready(port)
        yield started, port


def test_process_needs_only_the_savedmodel(process_of_both):
    body = json.dumps({"signature_name": "decode", "inputs": [[0, 0]]})
    status, answer = ask(process_of_both[1], body, "/v1/models/vae:predict")
    assert status == 200 and np.shape(answer["outputs"]["probabilities"]) == (1, 28, 28, 1)


def test_a_long_call_keeps_no_other_waiting(process_of_both):
    _, port = process_of_both
    answers = []
    threads = [start(port, answers, COUNT) for _ in range(2)]
    time.sleep(0.2)
    assert ask(port, '{"inputs": [1]}') == (200, {"outputs": [2.5]})
    assert answers == []
    for thread in threads:
        thread.join(60)
    assert answers == [COUNTED] * 2


def test_memory_is_flat(process_of_both):
    started, port = process_of_both
    connection, body = http.client.HTTPConnection("127.0.0.1", port, timeout=60), json.dumps({"inputs": [1] * 1000})

    def work(requests):
        for _ in range(requests):
            connection.request("POST", "/v1/models/toy:predict", body)
            connection.getresponse().read()
        return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{started.pid}/status").read_text())[1])

    before = work(300)
    assert work(2000) < before + 5_000  # KB; the bodies and answers alone were 16 MB


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_finishes_what_is_in_flight(folder, signum, status):
    with process(folder) as (started, port):
        ready(port)
        answers = []
        thread = start(port, answers, COUNT)
        deadline = time.monotonic() + 20
        waiting = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while "genmnist_in_flight 1.0" not in metrics(waiting):
            assert time.monotonic() < deadline and thread.is_alive()
        started.send_signal(signum)
        while (response := get(waiting, "/readyz")) == (200, "ok"):
            assert time.monotonic() < deadline and thread.is_alive()
        assert response == (503, "the server is stopping")
        assert ask(port, '{"inputs": [1]}')[0] == 503
        thread.join(60)
        assert answers == [COUNTED]
        _, err = started.communicate(timeout=60)
        assert (started.returncode, err) == (status, "")


def test_signal_ends_an_idle_server_within_a_second(folder):
    with process(folder) as (started, port):
        ready(port)
        with socket.create_connection(("127.0.0.1", port)):
            began = time.monotonic()
            started.send_signal(signal.SIGTERM)
            assert started.wait(60) == 143
        assert time.monotonic() - began < 1


@pytest.mark.slow
def test_signal_ends_a_server_whose_client_goes_on_asking(folder):
    request = b'POST /v1/models/toy:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 15\r\n\r\n{"inputs": [1]}'
    with process(folder) as (started, port):
        ready(port)
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:

            def ask_on():
                with contextlib.suppress(OSError):
                    while True:
                        connection.sendall(request)  # before the last one is answered

            asking = threading.Thread(target=ask_on, daemon=True)
            asking.start()
            answers = connection.makefile("rb")
            for _ in range(20):
                while not (line := answers.readline()).endswith(b"HTTP/1.1 200 OK\r\n"):
                    assert line
            began = time.monotonic()
            started.send_signal(signal.SIGTERM)
            with contextlib.suppress(ConnectionError):
                rest = []
                while line := answers.readline():
                    rest.append(line.strip())
            assert started.wait(60) == 143
            assert time.monotonic() - began < 5
            asking.join(60)
        assert rest.count(b"Connection: close") == 1


def get(connection, path: str) -> tuple[int, str]:
    connection.request("GET", path)
    response = connection.getresponse()
    return response.status, response.read().decode()


def metrics(connection) -> str:
    return get(connection, "/metrics")[1]


@pytest.mark.slow
def test_new_versions_are_picked_up_and_broken_ones_reported(folder, tmp_path):
    toys = shutil.copytree(folder, tmp_path / "toy")
    toy.save(tmp_path / "new", 2, offset=20.0)
    with process(toys) as (started, port):
        ready(port)
        (toys / "3").mkdir()
        assert "toy/3 cannot be served" in started.stderr.readline()
        assert ask(port, '{"inputs": [0]}') == (200, {"outputs": [2]})
        (tmp_path / "new" / "2").rename(toys / "4")
        ready(port, lambda: ask(port, '{"inputs": [0]}') == (200, {"outputs": [20]}))
