"""The process of `genmnist serve`: waitress and its deadlines, the watch for new versions, and an orderly end."""

import contextlib
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import orjson
import prometheus_client
import tensorflow as tf
from flask import Flask
from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher, WSGITask
from waitress.utilities import BadRequest, Error

from keras_genmnist.errors import UsageError
from keras_genmnist.serve.access import Access
from keras_genmnist.serve.app import create_app
from keras_genmnist.serve.batching import Places
from keras_genmnist.serve.servables import Repository

POLL_SECONDS = 1.0
# A request must have arrived whole within this time, however it trickles in.
RECEIVE_SECONDS = 10.0
# A connection without requests, or one whose client does not read, is closed after this time.
IDLE_SECONDS = 30
# What is in flight when the server is stopped may take this long.
STOP_SECONDS = 30.0
# Of TensorFlow: calls of so many signatures run at once.  With the command line's single thread, all wait for the
# longest, a sheet of a PixelCNN.
CALL_THREADS = 16
MAX_CONNECTIONS = 1000
# So many of them are kept free, for whoever comes next, by closing those that nobody uses.
SPARE_CONNECTIONS = 50
# What the process has open beside its connections, in files.
OTHER_FILES = 128
MAX_HEADER_BYTES = 32 * 1024
# Beside those that work: they answer health checks, and 429 when all others are taken.
SPARE_THREADS = 8


class _ErrorTask(ErrorTask):
    """Answers what waitress refuses by itself in the form of all other errors."""

    def execute(self):
        error = self.request.error
        body = orjson.dumps({"error": f"{error.reason}: {error.body}"})
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.response_headers.extend(self.channel.server.access.headers(self.request.headers.get("ORIGIN")).items())
        self.set_close_on_finish()
        self.content_length = len(body)
        self.channel.lingers = True
        self.write(body)


class _Task(WSGITask):
    """Answers a request, and when the server stops, ends the connection, that no further one comes by it."""

    def build_response_header(self):
        if self.channel.server.stopping:
            self.set_close_on_finish()
        return super().build_response_header()


class _RequestTimeout(Error):
    code = 408
    reason = "Request Timeout"


class _Parser(HTTPRequestParser):
    """Refuses the heads that waitress drops the connection for, as the address http://[x]y/."""

    def parse_header(self, header_plus):
        try:
            super().parse_header(header_plus)
        except ValueError as error:
            raise ParsingError("the address or the Content-Length cannot be read") from error


class _Channel(HTTPChannel):
    """A connection whose client is told when its request is cut off, trickles in for too long, or is too large.

    waitress drops the first, waits for the second, and resets the connection of the third while it is still sending,
    so that the answer may be lost.
    """

    task_class = _Task
    error_task_class = _ErrorTask
    parser_class = _Parser
    lingers = False  # once the answer is sent, what still comes is read and forgotten
    _answered = False
    _began = 0.0  # when the request that is being received did, or the lingering

    @property
    def busy(self) -> bool:
        """Whether a request is worked on, or its answer is not sent yet."""
        return bool(self.requests or self.total_outbufs_len)

    def expire(self) -> None:
        """Refuses a request that has taken too long to arrive."""
        if time.monotonic() - self._began < RECEIVE_SECONDS:
            return
        if self._answered:
            self.handle_close()
        elif self.request is not None:
            self._refuse(_RequestTimeout(f"the request did not arrive within {RECEIVE_SECONDS:.0f} s"))

    def drop(self) -> None:
        """Closes the connection at once."""
        self.lingers = False
        self.handle_close()

    def readable(self):
        return self._answered or super().readable()

    def received(self, data):
        if self.request is None:
            self._began = time.monotonic()
        return super().received(data)

    def handle_read(self):
        if self._answered:
            self.recv(self.adj.recv_bytes)  # closes at the client's end
        elif self.request is not None and self._ended():
            self._refuse(BadRequest("the request was cut off"))
        else:
            super().handle_read()

    def handle_close(self):
        if self.lingers and self.connected:
            self.lingers, self.will_close, self._answered, self._began = False, False, True, time.monotonic()
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)
        else:
            super().handle_close()

    def _ended(self) -> bool:
        """Whether the client has ended its side; it may still listen."""
        try:
            return not self.socket.recv(1, socket.MSG_PEEK)
        except OSError:
            return False

    def _refuse(self, error: Error) -> None:
        with self.requests_lock:
            request, self.request = self.request, None
            request.error, request.completed = error, True
            self.requests.append(request)
            if len(self.requests) == 1:
                self.server.add_task(self)


class _Listener(TcpWSGIServer):
    """Accepts connections, as many at a time as have come: one a turn would keep a request waiting behind a crowd."""

    channel_class = _Channel
    stopping = False

    def __init__(self, *args, access: Access, **kwargs):
        self.access = access
        super().__init__(*args, **kwargs)

    def handle_accept(self):
        before = -1
        while before < len(self._map) < self.adj.connection_limit:
            before = len(self._map)
            super().handle_accept()


class Server:
    """waitress with an application, run until it is stopped."""

    def __init__(self, app: Flask, places: Places, access: Access, host: str, port: int, max_body_mb: int):
        """
        Args:
          app: the application.
          places: the requests that are worked on at once; they are closed when the server stops.
          access: gives the headers of the answers that are not the application's.
          host: to listen on.
          port: to listen on; 0 for a free one.
          max_body_mb: of a request, in MB.
        Raises:
          UsageError: if it cannot listen there, or start as many threads.
        """
        self._places, self._map, self._stopped, self._next_check = places, {}, threading.Event(), 0.0
        logging.getLogger("waitress").setLevel(logging.ERROR)  # it warns of each request that waits for a thread
        self._most = _most_connections()
        self._dispatcher = ThreadedTaskDispatcher()
        try:
            settings = Adjustments(
                host=host,
                port=port,
                connection_limit=self._most,
                channel_timeout=IDLE_SECONDS,
                cleanup_interval=5,
                recv_bytes=65536,
                max_request_body_size=max_body_mb * 10**6,
                max_request_header_size=MAX_HEADER_BYTES,
                log_socket_errors=False,
                asyncore_use_poll=True,
                ident=None,
            )
            self._listeners = [
                _Listener(app, self._map, dispatcher=self._dispatcher, adj=settings, sockinfo=address, access=access)
                for address in settings.listen
            ]
        except (OSError, ValueError) as error:  # the latter of a host that has no address
            reason = getattr(error, "strerror", None) or "no such host"
            raise UsageError(f"cannot listen on {host}:{port}: {reason}; give another --host or --port") from error
        threads = places.count + SPARE_THREADS
        try:
            self._dispatcher.set_thread_count(threads)
        except RuntimeError as error:
            raise UsageError(
                f"cannot start {threads} threads, {SPARE_THREADS} beside --max_in_flight: {error}; give fewer in flight"
            ) from error
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self._listeners[0].effective_port}"

    def run(self) -> None:
        """Answers requests until `stop`, then finishes those in flight.

        New ones are answered by 503 meanwhile, and so is /readyz.
        """
        while not self._stopped.is_set():
            self._turn()
        self._places.close()
        for listener in self._listeners:
            listener.stopping = True
        deadline, busy = time.monotonic() + STOP_SECONDS, [channel for channel in self._channels() if channel.busy]
        while busy and time.monotonic() < deadline:
            self._turn()
            busy = [channel for channel in busy if channel.connected and channel.busy]
        self._dispatcher.shutdown(timeout=max(0.0, deadline - time.monotonic()))
        wasyncore.close_all(self._map)

    def stop(self) -> None:
        """Makes `run` end; from a signal handler or another thread."""
        self._stopped.set()
        self._listeners[0].pull_trigger()  # it may be waiting for a request

    def _turn(self) -> None:
        wasyncore.loop(timeout=1.0, use_poll=True, map=self._map, count=1)
        surplus = len(self._map) + SPARE_CONNECTIONS - self._most
        if surplus > 0:
            self._drop(surplus)
        if time.monotonic() > self._next_check:
            self._next_check = time.monotonic() + 1.0
            for channel in self._channels():
                channel.expire()

    def _drop(self, number: int) -> None:
        """Closes connections, the one of the longest silence first, and none for which a request is worked on."""
        free = [channel for channel in self._channels() if not channel.requests]
        for channel in sorted(free, key=lambda channel: channel.last_activity)[:number]:
            channel.drop()

    def _channels(self) -> list[_Channel]:
        return [channel for channel in self._map.values() if isinstance(channel, _Channel)]


def _most_connections() -> int:
    """MAX_CONNECTIONS, or fewer where the process may not open as many files, though its own limit is raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (sys.maxsize if limit == resource.RLIM_INFINITY else limit for limit in (soft, hard))
    if soft < MAX_CONNECTIONS + OTHER_FILES:
        soft = min(MAX_CONNECTIONS + OTHER_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return min(MAX_CONNECTIONS, max(soft - OTHER_FILES, soft // 2))


def prepare() -> None:
    """Lets TensorFlow run calls of several signatures at once; it must not have computed anything before."""
    tf.config.threading.set_inter_op_parallelism_threads(CALL_THREADS)


def serve(exports: list[Path], host: str, port: int, max_in_flight: int, max_body_mb: int, access: Access) -> None:
    """Serves exports until a signal stops it, and ends the process with 128 + the signal's number.

    Args:
      exports: exports/NAME for its newest version, always, or exports/NAME/VERSION for that one.
      host: to listen on.
      port: to listen on; 0 for a free one.
      max_in_flight: requests that are worked on at once; more are answered by 429.
      max_body_mb: of a request, in MB; more is answered by 413.
      access: what is asked of every request.
    Raises:
      UsageError: if an export holds no SavedModel, two have one name, or the port is taken.
    """
    registry = prometheus_client.CollectorRegistry()
    prometheus_client.ProcessCollector(registry=registry)
    rows = prometheus_client.Histogram(
        "genmnist_call_rows", "Rows of a joined call.", buckets=(1, 2, 4, 8, 16, 32), registry=registry
    )
    repository, places = Repository(exports, rows.observe), Places(max_in_flight)
    server = Server(create_app(repository, places, registry, access), places, access, host, port, max_body_mb)
    prepare()
    received = []

    def stop(signum, frame):
        received.append(signum)
        signal.signal(signum, signal.SIG_DFL)  # a second one ends it at once
        server.stop()

    def watch():
        while True:
            repository.refresh()
            time.sleep(POLL_SECONDS)

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, stop)
    threading.Thread(target=watch, daemon=True).start()
    print(f"listening on {server.url}", flush=True)
    server.run()
    # Not sys.exit: Python would take TensorFlow apart for seconds, and crash where a SavedModel is still being loaded.
    os._exit(128 + received[0])
