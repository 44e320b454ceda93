"""The version directories of an export, exports/NAME/NUMBER/."""

import os
import re
from pathlib import Path

MOST = 2**63 - 1  # TensorFlow Serving's are of 64 bits, with a sign


def number_of(name: str) -> int | None:
    """The version that a directory's name spells, `0010` the same as `10`; None of a name that spells none.

    Source: ParseVersionNumber of tensorflow_serving/sources/storage_path/file_system_storage_path_source.cc
    """
    # Not str.isdigit, which takes the digits of all scripts, and superscripts.
    number = int(name) if re.fullmatch(r"[0-9]{1,4000}", name) else MOST + 1
    return number if number <= MOST else None


def directories(folder: Path) -> dict[int, Path]:
    """The version directories in `folder` by number; of two that spell the same, the last by name.

    Source: IndexChildrenByVersion of tensorflow_serving/sources/storage_path/file_system_storage_path_source.cc
    """
    # Not by glob("*/"), which Python 3.10 takes for "*".  Unlike Path.is_dir, os.path.isdir never raises.
    numbered = {path: number_of(path.name) for path in sorted(folder.glob("*")) if os.path.isdir(path)}
    return {number: path for path, number in numbered.items() if number is not None}
