"""`genmnist sample`: images from a run or an export, as a PNG sheet and a NumPy array."""

import io
import math
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_genmnist import files, images
from keras_genmnist.errors import UsageError
from keras_genmnist.signatures import MAX_SAMPLES
from keras_genmnist.sources import Source

SHOWN = 84  # pixels that the longer side of an image is enlarged to, or nearly: as it is, it is too small to look at


def sample(source: Source, num_samples: int, seed: int, out: Path, label: str | None = None, flag="--label") -> None:
    """Writes a sheet of images to `out` and their probabilities to the .npy beside it.

    Args:
      source: a run or an export.
      num_samples: how many.
      seed: the same seed gives the same images.
      out: a .png path.
      label: the name or the number of the class to draw, of a model that was trained to draw a chosen one.
      flag: that gave the label, for messages.
    Raises:
      UsageError: if num_samples is out of range, the model draws no chosen class or does not know this one, or `out`
        cannot be written.
    """
    if out.suffix != ".png":
        raise UsageError(f"--out={out} is not a PNG file: give a name ending in .png")
    if not 1 <= num_samples <= MAX_SAMPLES:
        raise UsageError(f"--num_samples={num_samples} is out of range: give 1 to {MAX_SAMPLES}")
    name, chosen = ("sample", {}) if label is None else ("sample_class", {"label": _number(source, label, flag)})
    draw = source.signatures[name]
    drawn = draw(num_samples=tf.constant(num_samples), seed=tf.constant(seed), **chosen)["probabilities"].numpy()
    array = io.BytesIO()
    np.save(array, drawn)
    sheet = images.tile(drawn, columns=math.ceil(math.sqrt(num_samples)))
    times = max(1, round(SHOWN / max(drawn.shape[1:3])))
    files.write(out, images.png(sheet.repeat(times, axis=0).repeat(times, axis=1)).numpy())
    files.write(out.with_suffix(".npy"), array.getvalue())
    print(f"wrote {out} and {out.with_suffix('.npy')}: {num_samples} samples of {source.label}, seed {seed}")


def _number(source: Source, label: str, flag: str) -> tf.Tensor:
    """The number of the class that `flag` asks for."""
    if "sample_class" not in source.signatures:
        every = "digits" if flag == "--digit" else "classes"
        raise UsageError(
            f"{flag}={label} cannot be chosen, because {source.label} draws all {every}: leave it out, or train with "
            "--config.class_conditional=true or --model=cvae"
        )
    try:
        return tf.constant(source.spec.label_of(label))
    except ValueError as error:
        raise UsageError(f"{flag}={error}") from None
