"""Files that are never half-written: written beside, then renamed; and names of folders as TensorFlow takes them."""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from keras_genmnist.errors import Fault, UsageError

# What the system says where there is no room; a RLIMIT_FSIZE is the last.
FULL = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]
PATTERN = set("[]*?\\")


def write(path: Path, content: bytes) -> None:
    """Replaces the file `path` by `content` in one step, making its folder.

    Raises:
      UsageError: if the path cannot be written.
      Fault: if there is no room for it.
    """
    with writing(path), made(path.parent), beside(path.parent) as new:
        with open(new, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        rename(new, path)


def write_json(path: Path, value) -> None:
    """Writes `value` as indented JSON; see `write`."""
    write(path, (json.dumps(value, indent=2) + "\n").encode())


def cache() -> Path:
    """The package's folder in the user's cache: ~/.cache/genmnist, or below XDG_CACHE_HOME."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "genmnist"


@contextlib.contextmanager
def claimed(path: Path, advice: str) -> Iterator[bool]:
    """Keeps other processes from what the file stands for; gives whether it could, or another one holds it.

    Raises:
      UsageError, ending in `advice`: if the file cannot be written or locked.
      Fault: if there is no room for it.
    """
    with contextlib.ExitStack() as stack:
        is_free = True
        with writing(path.parent, advice):
            file = stack.enter_context(open(path, "w"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                is_free = False
        yield is_free


@contextlib.contextmanager
def writing(path: Path, advice: str = "give a path in a folder you may write to") -> Iterator[None]:
    """Says in one line, which ends in `advice`, that `path` cannot be written by what is done within, and why.

    Raises:
      UsageError: if it cannot be written.
      Fault: if there is no room for it.
    """
    try:
        yield
    except OSError as error:
        raise _cannot_write(path, reason(path, error), advice) from error
    except tf.errors.OpError as error:
        raise _cannot_write(path, " ".join(error.message.split()), advice) from error


def _cannot_write(path: Path, reason: str, advice: str) -> UsageError | Fault:
    for said in FULL:
        if said in reason:
            return Fault(f"cannot write {path}: {said}; make room, and give the same command again")
    return UsageError(f"cannot write {path}: {reason}; {advice}")


@contextlib.contextmanager
def made(folder: Path) -> Iterator[None]:
    """Makes a folder and those it lies in; at the end, removes those of them in which nothing was put."""
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for place in new:
            with contextlib.suppress(OSError):  # it holds something
                place.rmdir()


@contextlib.contextmanager
def beside(folder: Path) -> Iterator[Path]:
    """A new name in a folder for what is written there before it is renamed; what still has it then is removed."""
    new = folder / f".writing-{secrets.token_hex(8)}"
    try:
        yield new
    finally:
        if new.is_dir():
            shutil.rmtree(new, ignore_errors=True)
        else:
            new.unlink(missing_ok=True)


def rename(old: Path, new: Path) -> None:
    """Renames what has been synced, so that after a loss of power `new` is what it was before, or whole."""
    os.replace(old, new)
    sync(new.parent)


def sync(path: Path) -> None:
    """Has a file or a folder written to the disk; of a folder, what it lists, not what its files hold."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of file systems that cannot sync folders
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def literal(folder: Path) -> Iterator[str]:
    """The name of a folder by which TensorFlow finds what is in it.

    TensorFlow looks for checkpoints, and deletes them, by patterns: of `a[1]` it finds none, of `a*b` also those of
    `axb`.  Such a folder is named by a descriptor.
    """
    if not PATTERN & set(str(folder)):
        yield str(folder)
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def reason(path: Path, error: OSError) -> str:
    """Why `path` cannot be written, naming the file that stands where a folder should be, if that is it."""
    if not isinstance(error, FileExistsError | NotADirectoryError):
        return error.strerror
    return next((f"{place} is a file" for place in (path, *path.parents) if place.is_file()), error.strerror)


def parse_json(text: str):
    """What JSON says.

    Raises:
      ValueError: if it is none, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
