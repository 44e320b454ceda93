"""What one training computes on: one device, several of this machine, or those of several machines."""

import contextlib
import functools
import json
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator

import tensorflow as tf

from keras_genmnist.errors import Fault, UsageError

ACCEPTED = "all, the numbers of GPUs as 0,1, cpu, or cpu:4 for so many parts of the CPU"
FORM = '{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": 0}}'
KINDS = ("chief", "worker")  # of tasks, in the order in which they are numbered
# What TensorFlow raises where another worker no longer answers.
LOST = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
    tf.errors.UnknownError,
)


class Lost(Fault):
    """Another worker no longer answers."""


def strategy(
    devices: str | None, workers: list[str] | None = None, index: int | None = None, batch_size: int | None = None
) -> tf.distribute.Strategy | None:
    """How the replicas of a model are kept alike; None where there is one.

    Called before TensorFlow has computed anything, if there are several workers or parts of the CPU.

    Args:
      devices: "all", numbers of GPUs as "0,1", "cpu", or "cpu:4"; None for all GPUs, or as many as divide the batch.
      workers: "host:port" of each process that takes part; None for those that TF_CONFIG names, if it is set.
      index: which of them this process is.
      batch_size: which the number of replicas divides; None where nothing has to be shared evenly.
    Raises:
      UsageError: if these are no such devices or workers, they do not divide the batch, or the port is in use.
    """
    cluster, task = ({"worker": workers}, ("worker", index)) if workers else _from_environment()
    addresses = _addresses(cluster)
    if len(addresses) <= 1:
        found = _mirrored(devices, batch_size)
    else:
        check_workers(addresses, cluster[task[0]][task[1]])
        if batch_size:
            _require_even(batch_size, len(addresses))  # before it waits for them
        found = _joined(cluster, task, devices, len(addresses))
    if found and batch_size:
        _require_even(batch_size, found.num_replicas_in_sync)
    return found


def _require_even(batch_size: int, count: int) -> None:
    if batch_size % count:
        raise UsageError(
            f"config.batch_size={batch_size} cannot be shared evenly by {count} replicas, one for each device of each "
            "worker: give a batch size that their number divides, or another number of them"
        )


def is_chief(strategy: tf.distribute.Strategy | None) -> bool:
    """Whether this process is the one that writes, of all that take part."""
    return number_of(strategy) == 0


def number_of(strategy: tf.distribute.Strategy | None) -> int:
    """Which of the workers this process is, from 0."""
    resolver = strategy and strategy.cluster_resolver
    if resolver is None:
        return 0
    before = len(resolver.cluster_spec().as_dict().get("chief", [])) if resolver.task_type == "worker" else 0
    return before + resolver.task_id


def workers(strategy: tf.distribute.Strategy | None) -> list[str]:
    """The address of each worker, "host:port"; one that is "" where this is the only one."""
    resolver = strategy and strategy.cluster_resolver
    return _addresses(resolver.cluster_spec().as_dict()) if resolver else [""]


def description(strategy: tf.distribute.Strategy | None) -> str:
    """How many replicas there are, in words: "" where there is one."""
    if strategy is None:
        return ""
    there, count = workers(strategy), strategy.num_replicas_in_sync
    return f"{len(there)} workers with {count} replicas in all, each with " if there[1:] else f"{count} replicas on "


@contextlib.contextmanager
def together(strategy: tf.distribute.Strategy | None, stopped: str) -> Iterator[None]:
    """Says in one line that another worker no longer answers.

    Args:
      strategy: of the workers.
      stopped: what that ends, in words.
    Raises:
      Lost: if so.
    """
    try:
        yield
    except LOST as error:
        if len(workers(strategy)) == 1:
            raise
        raise Lost(f"another worker has ended or cannot be reached: {stopped}") from error


def _addresses(cluster: dict[str, list[str]]) -> list[str]:
    return [address for kind in KINDS for address in cluster.get(kind, [])]


def _from_environment() -> tuple[dict, tuple[str, int]]:
    """The workers that TF_CONFIG names, by kind, and which of them this process is."""
    text = os.environ.get("TF_CONFIG", "")
    if not text.strip():
        return {}, ("worker", 0)
    try:
        said = json.loads(text)
        cluster = said.get("cluster", {})
        task = said.get("task", {"type": "worker", "index": 0})
        kind, index = task["type"], int(task["index"])
        well_formed = all(isinstance(a, str) for kind in cluster for a in cluster[kind])
    except (ValueError, KeyError, TypeError, AttributeError):
        well_formed = False
    if not well_formed:
        raise UsageError(f"TF_CONFIG={text:.100} is no JSON of the form {FORM}")
    if strange := sorted({*cluster} - {*KINDS}):
        raise UsageError(f"TF_CONFIG has tasks of the kind {strange[0]}: a training has {' and '.join(KINDS)} alone")
    if cluster and not (kind in cluster and 0 <= index < len(cluster[kind])):
        raise UsageError(f"TF_CONFIG says that this is {kind} {index}, which is none of its cluster's")
    return cluster, (kind, index)


def check_workers(addresses: list[str], own: str) -> None:
    """Checks that workers are told apart by "host:port", and that the port of this one is free.

    Raises:
      UsageError: naming what is not.
    """
    for address in addresses:
        port = re.fullmatch(r".+:(\d{1,5})", address)
        if not port or not 0 < int(port[1]) < 2**16:
            raise UsageError(f"the worker {address!r} is not given as HOST:PORT, with a port of 1 to 65535")
        if addresses.count(address) > 1:
            raise UsageError(f"the worker {address} is given {addresses.count(address)} times: give each its own port")
    port = int(own.rsplit(":", 1)[1])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise UsageError(
                f"port {port} of this machine cannot be used ({error.strerror}): give another, to all workers alike"
            ) from error


def _joined(cluster: dict, task: tuple[str, int], devices: str | None, count: int) -> tf.distribute.Strategy:
    """Waits until all workers are there."""
    number = task[1] + (len(cluster.get("chief", [])) if task[0] == "worker" else 0)
    _restrict(devices)
    print(f"genmnist: worker {number} of {count} waits until all are there", file=sys.stderr, flush=True)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(cluster), task_type=task[0], task_id=task[1], rpc_layer="grpc"
    )
    with _before_it_computes("several workers are asked for"), _ended_by_interrupt():
        return tf.distribute.MultiWorkerMirroredStrategy(resolver)


@contextlib.contextmanager
def _ended_by_interrupt() -> Iterator[None]:
    """Has SIGINT end this process as it comes: no Python runs, nor any handler in it, while TensorFlow waits.

    SIGTERM TensorFlow keeps to itself meanwhile; both are heard again once all workers are there.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone may say so
        yield
        return
    old = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _mirrored(devices: str | None, batch_size: int | None) -> tf.distribute.Strategy | None:
    """The replicas on devices of this machine."""
    gpus = _restrict(devices)
    if devices is None and batch_size:
        gpus = max((count for count in range(1, gpus + 1) if batch_size % count == 0), default=0)
    names = [f"GPU:{number}" for number in range(gpus)]
    if devices and devices.startswith("cpu:"):
        names = _parts_of_cpu(int(devices.removeprefix("cpu:")))
    return _strategy_of(*names) if len(names) > 1 else None


@functools.cache  # two of the same devices would take each other's messages for their own
def _strategy_of(*names: str) -> tf.distribute.Strategy:
    sums = None if "GPU" in names[0] else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(names, sums)


def _restrict(devices: str | None) -> int:
    """Hides the GPUs that are not to be used, and returns how many there are left."""
    gpus = tf.config.list_physical_devices("GPU")
    numbers = _numbers(devices, len(gpus))
    visible = [gpus[number] for number in numbers]
    if visible != tf.config.get_visible_devices("GPU"):
        with _before_it_computes(f"devices={devices} leaves out a GPU"):
            tf.config.set_visible_devices(visible, "GPU")
    return len(numbers)


def _numbers(devices: str | None, count: int) -> list[int]:
    """Which of so many GPUs are meant."""
    if devices in (None, "all"):
        return list(range(count))
    if re.fullmatch(r"cpu(:[1-9]\d?)?", devices):
        return []
    if not re.fullmatch(r"\d+(,\d+)*", devices):
        raise UsageError(f"devices={devices!r} are not known: give {ACCEPTED}")
    numbers = [int(number) for number in devices.split(",")]
    if strange := [number for number in numbers if number >= count]:
        there = f"has GPUs 0 to {count - 1}" if count else "has no GPU that TensorFlow can use"
        raise UsageError(f"devices={devices} names GPU {strange[0]}, and this machine {there}: give {ACCEPTED}")
    return sorted({*numbers})


def _parts_of_cpu(count: int) -> list[str]:
    """The names of so many devices, which share the CPU: no faster than one, but what is tried on them is the same."""
    (cpu,) = tf.config.list_physical_devices("CPU")
    parts = tf.config.get_logical_device_configuration(cpu) or []
    if len(parts) < count:
        with _before_it_computes(f"devices=cpu:{count} parts the CPU"):
            tf.config.set_logical_device_configuration(cpu, count * [tf.config.LogicalDeviceConfiguration()])
    return [f"CPU:{number}" for number in range(count)]


@contextlib.contextmanager
def _before_it_computes(what: str) -> Iterator[None]:
    """Says in one line what TensorFlow refuses once it has begun to compute."""
    try:
        yield
    except RuntimeError as error:
        raise UsageError(
            f"{what}, but TensorFlow has computed something already: do this first, in a new process"
        ) from error
