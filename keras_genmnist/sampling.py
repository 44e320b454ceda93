"""`genmnist sample`: images from a run or an export, as a PNG sheet and a NumPy array."""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_genmnist import files, images, runs, signatures, versions
from keras_genmnist.datasets import DatasetSpec, spec_in
from keras_genmnist.errors import Fault, UsageError
from keras_genmnist.runs import Run
from keras_genmnist.signatures import MAX_SAMPLES

SHOWN = 84  # pixels that the longer side of an image is enlarged to, or nearly: as it is, it is too small to look at


class Source(NamedTuple):
    """What images are drawn from.

    signatures: by name.
    label: what to call it.
    spec: of the images.
    owner: the object that keeps the signatures alive.
    """

    signatures: dict[str, Callable[..., dict[str, tf.Tensor]]]
    label: str
    spec: DatasetSpec
    owner: object


def of_run(run: Run, num_steps: int | None = None) -> Source:
    """A trained run.

    Args:
      run: the run.
      num_steps: in which images are drawn, of a model that draws some pixels at a time.
    Raises:
      UsageError: if num_steps means nothing for the model, or is out of range.
    """
    model = runs.load_model(run)
    if num_steps is not None:
        if not hasattr(model, "sampling_steps"):
            raise UsageError(
                f"--num_steps={num_steps} means nothing for {run.name}: leave it out, or give a masked_diffusion"
            )
        if not 1 <= num_steps <= model.size:
            raise UsageError(f"--num_steps={num_steps} is out of range: give 1 to {model.size}, the number of pixels")
        model.sampling_steps = num_steps
    return Source(signatures.of(model), f"{run.name} on {run.spec.name}", run.spec, model)


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
        return Source(signatures, f"{record['model']} on {record['dataset']}", spec_in(record), loaded)
    except (OSError, tf.errors.OpError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise Fault(f"the export {newest} is damaged ({type(error).__name__}): export it again") from error


def _is_model(folder: Path) -> bool:
    return (folder / "saved_model.pb").exists()


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
        every, dataset = ("digits", "mnist") if flag == "--digit" else ("classes", "WITH_LABELS")
        raise UsageError(
            f"{flag}={label} cannot be chosen, {source.label} draws all {every}: leave it out, or train with "
            f"--model=cvae --config.dataset={dataset}"
        )
    try:
        return tf.constant(source.spec.label_of(label))
    except ValueError as error:
        raise UsageError(f"{flag}={error}") from None
