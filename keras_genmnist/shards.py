"""What is computed batch by batch, each without the others, by all devices and workers that there are.

A worker takes every N-th batch, and each of its devices the next of these that is left.  A batch has its own seeds, so
who computes it changes nothing of what comes of it.
"""

import contextlib
import io
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import tensorflow as tf

from keras_genmnist import cluster, progress

Item = TypeVar("Item")
_strategy: tf.distribute.Strategy | None = None


@contextlib.contextmanager
def over(strategy: tf.distribute.Strategy | None) -> Iterator[None]:
    """Has `rows` use the devices and workers of a strategy; with None, it uses one device.

    All workers enter and leave it, and in between they call `rows` alike.

    Raises:
      cluster.Lost: if another worker no longer answers.
    """
    global _strategy
    before, _strategy = _strategy, strategy
    try:
        yield
        _exchanged(b"")  # the others would take one that has left for one that is lost
    finally:
        _strategy = before


def rows(
    function: Callable[[int, Item], dict[str, np.ndarray]], batches: Sequence[Item], label: str = ""
) -> dict[str, np.ndarray]:
    """What a function makes of all batches.

    Args:
      function: (number, batch) -> arrays by name, each with the rows of this batch, [B, ...].
      batches: at least one.
      label: of the progress bar; "" for none.
    Returns:
      The arrays by name, with the rows of all batches, in order: [N, ...].
    """
    count = len(cluster.workers(_strategy))
    numbers = range(len(batches))[cluster.number_of(_strategy) :: count]
    own = _computed(function, [(number, batches[number]) for number in numbers], label)
    parts = dict(zip(numbers, own, strict=True))
    if count > 1:
        parts = {number: part for said in _exchanged(_packed(parts)) for number, part in _unpacked(said).items()}
    return {name: np.concatenate([parts[number][name] for number in range(len(batches))]) for name in parts[0]}


def _computed(function: Callable, pairs: list[tuple], label: str) -> list[dict[str, np.ndarray]]:
    """function(*pair) of each, by the devices of this process."""
    devices = _strategy.extended.worker_devices if _strategy else ()
    if len(devices) <= 1:
        return [function(*pair) for pair in (progress.batches(pairs, label) if label else pairs)]
    free = queue.SimpleQueue()
    for device in devices:
        free.put(device)

    def on_a_free_device(pair):
        device = free.get()
        try:
            with tf.device(device):
                return function(*pair)
        finally:
            free.put(device)

    pool = ThreadPoolExecutor(len(devices))
    try:
        futures = [pool.submit(on_a_free_device, pair) for pair in pairs]
        return [future.result() for future in (progress.batches(futures, label) if label else futures)]
    finally:
        pool.shutdown(cancel_futures=True)


def _packed(parts: dict[int, dict[str, np.ndarray]]) -> bytes:
    content = io.BytesIO()
    np.savez(content, **{f"{number} {name}": array for number, part in parts.items() for name, array in part.items()})
    return content.getvalue()


def _unpacked(content: bytes) -> dict[int, dict[str, np.ndarray]]:
    parts: dict[int, dict[str, np.ndarray]] = {}
    with np.load(io.BytesIO(content)) as file:
        for key in file.files:
            number, name = key.split(" ", 1)
            parts.setdefault(int(number), {})[name] = file[key]
    return parts


def _exchanged(content: bytes) -> list[bytes]:
    """What each worker says to all: [what this one says] where it is alone."""
    if len(cluster.workers(_strategy)) == 1:
        return [content]
    # As whole numbers of 8 bytes, which every device can send, after the number of bytes: what a worker says has a
    # length of its own, and all but its first replica say nothing.
    words = np.frombuffer(content + bytes(-len(content) % 8), np.int64)
    said = iter([np.concatenate([[len(content)], words])])
    given = _strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(next(said, np.zeros(1, np.int64)))
    )

    def gather(values):
        values = tf.identity(values)  # which has a device, as what is gathered must
        return tf.distribute.get_replica_context().all_gather(values, axis=0)

    with cluster.together(_strategy, "evaluation stopped"):
        # A new function each time: one that is traced again by those whose length is new would wait for the others.
        gathered = tf.function(lambda values: _strategy.run(gather, (values,)), autograph=False)(given)
        found = _strategy.experimental_local_results(gathered)[0].numpy()
    contents, place = [], 0
    while place < len(found):
        length, start = int(found[place]), place + 1
        place = start + -(-length // 8)
        contents.append(found[start:place].tobytes()[:length])
    return contents
