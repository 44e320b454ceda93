import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from keras_genmnist.serve.batching import Batcher, Places


def double(rows):
    """A function of rows, that refuses -1."""
    if -1 in rows:
        raise tf.errors.InvalidArgumentError(None, None, "-1 is refused")
    return {"double": 2 * rows, "text": np.array([str(row).encode() for row in rows], object)}


class Recorder:
    """Records the calls of a function, and holds each until it is let go."""

    def __init__(self, function):
        self.function, self.calls, self.free = function, [], threading.Semaphore(0)

    def __call__(self, rows):
        self.calls.append(rows.tolist())
        self.free.acquire()
        return self.function(rows)


class Caller(threading.Thread):
    """Calls a batcher in a thread of its own."""

    def __init__(self, batcher, rows):
        super().__init__(daemon=True)
        self.batcher, self.rows, self.outputs, self.error = batcher, np.array(rows), None, None
        self.start()

    def run(self):
        try:
            self.outputs = self.batcher(self.rows)
        except Exception as error:
            self.error = error


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def run(waiting, function=double):
    """Calls with [0], and while that runs with each of `waiting`, in this order.  Gives the calls made and callers."""
    function, counts = Recorder(function), []
    batcher = Batcher(function, 8, counts.append)
    callers = [Caller(batcher, [0])]
    wait_for(lambda: len(function.calls) == 1)
    for rows in waiting:
        callers.append(Caller(batcher, rows))
        wait_for(lambda: len(batcher._queue) == len(callers) - 1)
    function.free.release(100)
    for caller in callers:
        caller.join(10)
        assert not caller.is_alive()
    assert counts == [len(call) for call in function.calls]
    return function.calls[1:], callers[1:]


@pytest.mark.parametrize(
    ("waiting", "joined"),
    [
        ([[1], [2], [3]], [[1, 2, 3]]),
        ([[1, 2], [3], [4, 5, 6]], [[1, 2, 3, 4, 5, 6]]),
        ([[1, 2, 3, 4], [5, 6, 7, 8], [9]], [[1, 2, 3, 4, 5, 6, 7, 8], [9]]),
        ([[1] * 9, [2], [3]], [[1] * 9, [2, 3]]),
        ([[1], [2] * 9, [3]], [[1], [2] * 9, [3]]),
        ([[[1, 2]], [[3, 4]], [[5]], [[6, 7]]], [[[1, 2], [3, 4]], [[5]], [[6, 7]]]),
    ],
)
def test_batcher_joins_what_waits_while_another_call_runs(waiting, joined):
    calls, callers = run(waiting)
    assert calls == joined
    for rows, caller in zip(waiting, callers, strict=True):
        assert caller.error is None
        np.testing.assert_array_equal(caller.outputs["double"], 2 * np.array(rows))
        assert caller.outputs["text"].tolist() == [str(row).encode() for row in np.array(rows)]


def test_batcher_refuses_only_the_call_that_is_wrong():
    calls, callers = run([[1], [-1], [2, 3]])
    assert calls == [[1, -1, 2, 3], [1], [-1], [2, 3]]
    assert [caller.error and caller.error.message for caller in callers] == [None, "-1 is refused", None]
    assert [caller.outputs and caller.outputs["double"].tolist() for caller in callers] == [[2], None, [4, 6]]


def test_batcher_runs_calls_alone_whose_outputs_are_no_rows():
    calls, callers = run([[1], [2, 3]], lambda rows: {"sum": np.array([rows.sum()])})
    assert calls == [[1, 2, 3], [1], [2, 3]]
    assert [caller.outputs["sum"].tolist() for caller in callers] == [[1], [5]]


def test_batcher_does_not_hide_a_call_without_rows():
    # Joined to others it would get an empty answer where alone it is refused.
    function = Recorder(double)
    batcher = Batcher(function, 8, lambda count: None)
    callers = [Caller(batcher, [0])]
    wait_for(lambda: function.calls == [[0]])
    callers.append(Caller(batcher, []))
    wait_for(lambda: function.calls == [[0], []])
    function.free.release(2)
    for caller in callers:
        caller.join(10)
        assert caller.error is None


def test_batcher_under_load_gives_each_its_own():
    batcher = Batcher(lambda rows: {"double": 2 * rows}, 8, lambda count: None)
    failed = []

    def work(number):
        for step in range(200):
            rows = np.arange(number, number + 1 + step % 5)
            if batcher(rows)["double"].tolist() != (2 * rows).tolist():
                failed.append((number, step))

    threads = [threading.Thread(target=work, args=[1000 * number], daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert failed == []


def test_places_are_so_many_and_are_given_back():
    places = Places(2)
    with places.take():
        with places.take(), pytest.raises(tf.errors.ResourceExhaustedError, match="2 requests are being worked on"):
            places.take().__enter__()
        with pytest.raises(KeyError), places.take():
            raise KeyError
        assert places.taken == 1
        with places.take():
            assert places.taken == 2
    assert places.taken == 0


def test_places_closed_are_unavailable():
    places = Places(2)
    with places.take():
        places.close()
    with pytest.raises(tf.errors.UnavailableError, match="stopping"), places.take():
        pass
