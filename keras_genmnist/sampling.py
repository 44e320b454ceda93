"""`genmnist sample`: digits from a run or an export, as a PNG sheet and a NumPy array."""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_genmnist import files, images, runs, signatures, versions
from keras_genmnist.errors import Fault, UsageError
from keras_genmnist.runs import Run
from keras_genmnist.signatures import MAX_SAMPLES

ENLARGED = 3  # a digit of 28 pixels is too small to look at


class Source(NamedTuple):
    """What digits are drawn from: signatures by name, what to call it, and the object that keeps them alive."""

    signatures: dict[str, Callable[..., dict[str, tf.Tensor]]]
    label: str
    owner: object


def of_run(run: Run) -> Source:
    """A trained run."""
    model = runs.load_model(run)
    return Source(signatures.of(model), f"{run.name} on {run.spec.name}", model)


def of_export(path: Path) -> Source:
    """An export.

    Args:
      path: exports/NAME for its newest version, or exports/NAME/VERSION.
    Raises:
      UsageError: if no SavedModel is there.
      Fault: if it cannot be read.
    """
    found = {number: version for number, version in versions.directories(path).items() if _is_model(version)}
    newest = found[max(found)] if found else path
    if not _is_model(newest):
        raise UsageError(f"no SavedModel in {path}: give exports/NAME or exports/NAME/VERSION of `genmnist export`")
    try:
        with files.literal(newest) as literal:
            loaded = tf.saved_model.load(literal)
        record = files.parse_json((newest / "assets.extra" / "genmnist.json").read_text())
        signatures = {"sample": loaded.signatures["sample"], **loaded.signatures}  # without it, it is none of ours
        return Source(signatures, f"{record['model']} on {record['dataset']}", loaded)
    except (OSError, tf.errors.OpError, LookupError, TypeError, ValueError) as error:
        raise Fault(f"the export {newest} is damaged ({type(error).__name__}): export it again") from error


def _is_model(folder: Path) -> bool:
    return (folder / "saved_model.pb").exists()


def sample(source: Source, num_samples: int, seed: int, out: Path, digit: int | None = None) -> None:
    """Writes a sheet of digits to `out` and their probabilities to the .npy beside it.

    Args:
      source: a run or an export.
      num_samples: how many.
      seed: the same seed gives the same digits.
      out: a .png path.
      digit: the one to draw, of a model that was trained to draw a chosen one.
    Raises:
      UsageError: if num_samples is out of range, the model draws no chosen digit, or `out` cannot be written.
    """
    if out.suffix != ".png":
        raise UsageError(f"--out={out} is not a PNG file: give a name ending in .png")
    if not 1 <= num_samples <= MAX_SAMPLES:
        raise UsageError(f"--num_samples={num_samples} is out of range: give 1 to {MAX_SAMPLES}")
    name, chosen = ("sample", {}) if digit is None else ("sample_class", {"label": tf.constant(digit)})
    if name not in source.signatures:
        raise UsageError(
            f"--digit={digit} cannot be chosen, {source.label} draws all digits: leave it out, or train with "
            "--model=pixelcnn --config.dataset=mnist --config.class_conditional=true"
        )
    draw = source.signatures[name]
    digits = draw(num_samples=tf.constant(num_samples), seed=tf.constant(seed), **chosen)["probabilities"].numpy()
    array = io.BytesIO()
    np.save(array, digits)
    sheet = images.tile(digits, columns=math.ceil(math.sqrt(num_samples)))
    enlarged = sheet.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)
    files.write(out, images.png(enlarged).numpy())
    files.write(out.with_suffix(".npy"), array.getvalue())
    print(f"wrote {out} and {out.with_suffix('.npy')}: {num_samples} samples of {source.label}, seed {seed}")
