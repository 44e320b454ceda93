"""Memory: how much there is, and that what cannot fit is refused before it is made."""

import contextlib
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from keras_genmnist.errors import UsageError


def available(root: Path = Path("/")) -> int:
    """The bytes that can still be allocated: what the system has left, or less, by the limit of a cgroup.

    Args:
      root: of the file system, for tests.
    Source: docs.kernel.org, filesystems/proc and admin-guide/cgroup-v2; cgroup-v1/memory
    """
    amounts = [1024 * int(line.split()[1]) for line in _lines(root / "proc/meminfo") if "MemAvailable:" in line]
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = root / "sys/fs/cgroup" / controllers
        own = top / path.lstrip("/")
        for folder in (own, *own.parents):
            if folder.is_relative_to(top):
                limits = _lines(folder / ("memory.limit_in_bytes" if controllers else "memory.max"))
                amounts += [int(limit) for limit in limits if limit != "max"]
    return min(amounts, default=sys.maxsize)


def peak() -> int:
    """The most bytes that this process has held at a time."""
    # What getrusage says begins, on Linux, at the peak of the process that started this one.
    own = [1024 * int(line.split()[1]) for line in _lines(Path("/proc/self/status")) if "VmHWM:" in line]
    told = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return own[0] if own else told * (1 if sys.platform == "darwin" else 1024)


def require(needed: int, what: str, advice: str, there: int | None = None) -> None:
    """Checks that `needed` bytes are there; a GPU has memory of its own, and says itself when it is full.

    Args:
      needed: the least that it takes.
      what: takes it.
      advice: what to give instead.
      there: the bytes that there are; those that are available now by default.
    Raises:
      UsageError: naming what it takes and what there is.
    """
    there = available() if there is None else there
    if needed > there and not tf.config.list_physical_devices("GPU"):
        raise UsageError(
            f"{what} would take at least {_amount(needed)} of memory, there are {_amount(there)}: {advice}"
        )


@contextlib.contextmanager
def variables_that_fit() -> Iterator[None]:
    """Refuses, before it is made, the first variable with which those made within would take more than there is.

    Raises:
      UsageError: naming it.
    """
    there = available()  # before the first of them takes its part
    needed, refusal = 0, None

    def create(make, **options):
        nonlocal needed, refusal
        shape = tf.TensorShape(options.get("shape"))
        if shape.is_fully_defined() and not refusal:
            needed += shape.num_elements() * tf.as_dtype(options.get("dtype") or tf.float32).size
            size = " x ".join(map(str, shape))
            try:
                require(needed, f"a model whose {options.get('name')} is {size}", "give smaller sizes", there)
            except UsageError as error:
                refusal = error
        if refusal:
            raise refusal
        return make(**options)

    try:
        with tf.variable_creator_scope(create):
            yield
    except Exception:
        if refusal:
            raise refusal from None  # Keras tries again, and wraps what it catches
        raise


def _amount(count: int) -> str:
    """Bytes, in words."""
    for unit, size in {"TB": 10**12, "GB": 10**9, "MB": 10**6}.items():
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,} bytes"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
