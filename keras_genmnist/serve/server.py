"""The process of `genmnist serve`: waitress, signals, and the watch for new versions."""

import logging
import signal
import sys
import threading
import time
from pathlib import Path

import prometheus_client
import waitress
from waitress import wasyncore

from keras_genmnist.errors import UsageError
from keras_genmnist.serve.app import create_app
from keras_genmnist.serve.batching import Places
from keras_genmnist.serve.servables import Repository

POLL_SECONDS = 1.0


def serve(exports: list[Path], host: str, port: int, max_in_flight: int, max_body_mb: int) -> None:
    """Serves exports until a signal stops it, and exits with 128 + its number.

    Args:
      exports: exports/NAME for its newest version, always, or exports/NAME/VERSION for that one.
      host: to listen on.
      port: to listen on; 0 for a free one.
      max_in_flight: requests that are worked on at once; more are answered by 429.
      max_body_mb: of a request, in MB; more is answered by 413.
    Raises:
      UsageError: if an export holds no SavedModel, or the port is taken.
    """
    registry = prometheus_client.CollectorRegistry()
    prometheus_client.ProcessCollector(registry=registry)
    rows = prometheus_client.Histogram(
        "genmnist_call_rows",
        "Rows of a call, joined from several requests.",
        buckets=[1, 2, 4, 8, 16, 32],
        registry=registry,
    )
    repository, places = Repository(exports, rows.observe), Places(max_in_flight)
    app = create_app(repository, places, registry)
    try:
        server = waitress.create_server(app, host=host, port=port, threads=max_in_flight + 8, ident=None)
    except OSError as error:
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror}; give another --host or --port") from error

    def watch():
        while True:
            repository.refresh()
            time.sleep(POLL_SECONDS)

    threading.Thread(target=watch, daemon=True).start()
    print(f"listening on http://{server.effective_host}:{server.effective_port}", flush=True)
    server.run()
