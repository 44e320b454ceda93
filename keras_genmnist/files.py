"""Files that are never half-written: written beside, then renamed."""

import json
import os
from pathlib import Path

from keras_genmnist.errors import UsageError


def write(path: Path, content: bytes) -> None:
    """Replaces the file `path` by `content` in one step, making its folder.

    Raises:
      UsageError: if the path cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(content)
        beside.replace(path)
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {reason(path, error)}; give a path in a folder you may write to"
        ) from error


def reason(path: Path, error: OSError) -> str:
    """Why `path` cannot be written, naming the file that stands where a folder should be, if that is it."""
    if not isinstance(error, FileExistsError | NotADirectoryError):
        return error.strerror
    return next((f"{place} is a file" for place in (path, *path.parents) if place.is_file()), error.strerror)


def write_json(path: Path, value) -> None:
    """Writes `value` as indented JSON; see `write`."""
    write(path, (json.dumps(value, indent=2) + "\n").encode())


def parse_json(text: str):
    """What JSON says.

    Raises:
      ValueError: if it is none, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
