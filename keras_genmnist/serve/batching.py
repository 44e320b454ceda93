"""Many requests at once: those of one signature are joined into one call, and there are only so many."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import tensorflow as tf

Arrays = Mapping[str, np.ndarray]


class Places:
    """The requests that are worked on at once, at most so many."""

    def __init__(self, count: int):
        """
        Args:
          count: the most at once.
        """
        self.count, self.taken, self.closed = count, 0, False
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def take(self) -> Iterator[None]:
        """Takes a place for a `with` block.

        Raises:
          tf.errors.ResourceExhaustedError: if none is free.
          tf.errors.UnavailableError: if they are closed, because the server stops.
        """
        with self._lock:
            if self.closed:
                raise tf.errors.UnavailableError(None, None, "the server is stopping: try another, or later")
            if self.taken >= self.count:
                message = f"{self.count} requests are being worked on, the most at once: try again later"
                raise tf.errors.ResourceExhaustedError(None, None, message)
            self.taken += 1
        try:
            yield
        finally:
            with self._lock:
                self.taken -= 1

    def close(self) -> None:
        """Gives out no more places."""
        self.closed = True


class _Call:
    """A request's rows, waiting to be worked on."""

    def __init__(self, rows: np.ndarray):
        self.rows, self.outputs, self.error = rows, None, None
        self.wake = threading.Event()  # it is done, or it shall lead


class Batcher:
    """Joins the calls that wait while another one runs.

    The first caller runs its own call at once, so that one alone waits for nothing.  Those that come meanwhile queue;
    then the first of them runs the whole queue as one call.
    """

    def __init__(self, function: Callable[[np.ndarray], Arrays], max_rows: int, observe: Callable[[int], None]):
        """
        Args:
          function: rows [B, ...] -> outputs [B, ...] by name, each row from its own row alone.
          max_rows: that are joined; a call with more runs alone.
          observe: is told the number of rows of each call made.
        """
        self._function, self._max_rows, self._observe = function, max_rows, observe
        self._lock, self._queue, self._led = threading.Lock(), deque(), False

    def __call__(self, rows: np.ndarray) -> Arrays:
        """What `function` gives of these rows, and raises."""
        if not len(rows):  # joined to others it would go unnoticed where it is an error
            return self._function(rows)
        call = _Call(rows)
        with self._lock:
            self._queue.append(call)
            lead, self._led = not self._led, True
        if not lead:
            call.wake.wait()
        if call.outputs is None and call.error is None:
            self._lead()
        if call.error:
            raise call.error
        return call.outputs

    def _lead(self) -> None:
        """Runs the first calls of the queue as one, then lets the next one lead."""
        with self._lock:
            calls = [self._queue.popleft()]
            total, shape = len(calls[0].rows), calls[0].rows.shape[1:]
            while self._queue and self._queue[0].rows.shape[1:] == shape:
                total += len(self._queue[0].rows)
                if total > self._max_rows:
                    break
                calls.append(self._queue.popleft())
        try:
            self._run(calls)
        finally:
            with self._lock:
                self._led = bool(self._queue)
                if self._led:
                    self._queue[0].wake.set()
            for call in calls[1:]:
                call.wake.set()

    def _run(self, calls: list[_Call]) -> None:
        """Gives each call its outputs or its error: a row that is refused must not fail the calls it was joined to."""
        try:
            rows = np.concatenate([call.rows for call in calls])
            self._observe(len(rows))
            outputs = self._function(rows)
            if len(calls) > 1 and any(len(output) != len(rows) for output in outputs.values()):
                raise ValueError("an output has another number of rows than the input")
        except Exception as error:
            if len(calls) == 1:
                calls[0].error = error
            else:
                for call in calls:
                    self._run([call])
            return
        start = 0
        for call in calls:
            stop = start + len(call.rows)
            call.outputs = {name: output[start:stop] for name, output in outputs.items()} if len(calls) > 1 else outputs
            start = stop
