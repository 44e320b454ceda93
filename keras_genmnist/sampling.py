"""`genmnist sample`: digits from a run or an export, as a PNG sheet and a NumPy array."""

import io
import math
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_genmnist import files, images, runs
from keras_genmnist.errors import Fault, UsageError
from keras_genmnist.runs import Run


def of_run(run: Run):
    """The signature `sample` of a trained run."""
    return runs.load_model(run).signatures()["sample"]


def of_export(path: Path):
    """The signature `sample` of an export.

    Args:
      path: exports/NAME for its newest version, or exports/NAME/VERSION.
    Raises:
      UsageError: if no SavedModel is there.
      Fault: if it cannot be read.
    """
    versions = sorted(
        (p for p in path.glob("*/saved_model.pb") if p.parent.name.isdigit()), key=lambda p: int(p.parent.name)
    )
    folder = path if (path / "saved_model.pb").exists() else versions[-1].parent if versions else None
    if folder is None:
        raise UsageError(
            f"no SavedModel in {path}: give exports/NAME or exports/NAME/VERSION, made by `genmnist export`"
        )
    try:
        loaded = tf.saved_model.load(str(folder))
        function = loaded.signatures["sample"]
    except (OSError, tf.errors.OpError, KeyError, IndexError, ValueError) as error:
        raise Fault(f"the export {folder} is damaged ({type(error).__name__}): export it again") from error
    function.keep_alive = loaded  # the function's variables go with the loaded object
    return function


def sample(function, num_samples: int, seed: int, out: Path) -> None:
    """Writes a sheet of digits to `out` and their probabilities to the .npy beside it.

    Args:
      function: the signature `sample` of a run or an export.
      num_samples: how many.
      seed: the same seed gives the same digits.
      out: a .png path.
    Raises:
      UsageError: if num_samples is out of range or `out` cannot be written.
    """
    if out.suffix != ".png":
        raise UsageError(f"--out={out} is not a PNG file: give a name ending in .png")
    try:
        digits = function(num_samples=tf.constant(num_samples), seed=tf.constant(seed))["probabilities"].numpy()
    except tf.errors.InvalidArgumentError as error:
        raise UsageError(f"--num_samples={num_samples}: {error.message.splitlines()[0]}") from error
    array = io.BytesIO()
    np.save(array, digits)
    files.write(out, images.png(images.tile(digits, columns=math.ceil(math.sqrt(num_samples)))).numpy())
    files.write(out.with_suffix(".npy"), array.getvalue())
    print(f"wrote {out} and {out.with_suffix('.npy')}: {num_samples} samples from seed {seed}")
