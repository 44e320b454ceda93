"""Commands of this package, run side by side: each in a process of its own, on its share of the cores and GPUs."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from keras_genmnist.errors import UsageError


class Share(NamedTuple):
    """What a worker computes on.

    cores: the numbers of its cores.
    gpus: the numbers of its GPUs; None where the machine has none.
    """

    cores: frozenset[int]
    gpus: tuple[int, ...] | None


def num_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def shares(number: int, gpus: int = 0) -> list[Share]:
    """The machine in equal parts.

    Args:
      number: of workers.
      gpus: how many GPUs there are.
    Raises:
      UsageError: if there are fewer cores, or fewer GPUs but some.
    """
    cores = sorted(os.sched_getaffinity(0))
    most, of = (gpus, "GPU") if gpus else (len(cores), "core")
    if not 1 <= number <= most:
        raise UsageError(f"--jobs={number} is out of range: give 1 to {most}, a {of} each")
    return [Share(frozenset(cores[i::number]), tuple(range(i, gpus, number)) if gpus else None) for i in range(number)]


class Workers:
    """Runs commands of this package, as many at a time as there are shares, and stops them when it is left.

    with Workers(shares(2)) as workers:
        for name, result in workers.each(names, lambda name, run: run(["train", f"--model={name}"], log)):
            ...
    """

    def __init__(self, parts: Sequence[Share]):
        """
        Args:
          parts: a worker is started for each.
        """
        self._free = iter(parts)
        self._own = threading.local()
        self._running: set[subprocess.Popen] = set()
        self._lock, self._stopped = threading.Lock(), False
        self._pool = ThreadPoolExecutor(len(parts), initializer=self._settle)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with self._lock:
            self._stopped = True
            for process in [*self._running]:
                self._end(process)
        self._pool.shutdown(cancel_futures=True)

    def each(self, items: Sequence, work: Callable) -> Iterator[tuple]:
        """Calls work(item, run) of every item, and gives (item, result), in the order of the items, as they end.

        `run(arguments, log, until=None)` runs `genmnist ARGUMENTS`, appends what it says to the file `log`, and returns
        its exit status.  Once `until()`, which is asked every second, the process is ended.
        """
        futures = [self._pool.submit(work, item, self._run) for item in items]
        return ((item, future.result()) for item, future in zip(items, futures, strict=True))

    def _settle(self) -> None:
        share = self._own.share = next(self._free)
        os.sched_setaffinity(0, share.cores)  # of this thread, and of the processes that it starts

    def _run(self, arguments: list[str], log: Path, until: Callable[[], object] | None = None) -> int:
        with self._lock:
            if self._stopped:
                return -1
            with open(log, "a") as file:
                process = start(arguments, self._own.share.gpus, stdout=file, stderr=subprocess.STDOUT)
            self._running.add(process)
        while True:
            try:
                status = process.wait(1 if until else None)
                break
            except subprocess.TimeoutExpired:
                if until and until():
                    until = None
                    with self._lock:
                        self._end(process)
        with self._lock:
            self._running.discard(process)
        return status

    def _end(self, process: subprocess.Popen) -> None:
        """Has a command end, of which a training saves all it has; once, for a second signal would kill it."""
        if process in self._running:
            self._running.remove(process)
            process.terminate()


def start(arguments: Sequence[str], gpus: Sequence[int] | None = None, **given) -> subprocess.Popen:
    """Starts `genmnist ARGUMENTS`.

    In a session of its own: what a terminal sends to all of its group would reach it beside the signal that stops it,
    and a second one kills.

    Args:
      arguments: of the command.
      gpus: which of the GPUs that this process sees it sees; None for all.
      given: of Popen.
    """
    # Not the present folder, which may hold a random.py, and which an empty part of PYTHONPATH would mean too.
    places = [str(Path(__file__).parent.parent), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places), "PYTHONSAFEPATH": "1"}
    if gpus is not None:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(max(gpus) + 1)))
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(seen.split(",")[gpu] for gpu in gpus)
    command = [sys.executable, "-m", "keras_genmnist", *arguments]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, start_new_session=True, **given)


def last_line(log: Path) -> str:
    """What a command said last."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
    return lines[-1] if lines else ""
