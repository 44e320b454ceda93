"""`genmnist encode`: the posterior of images, as arrays for whatever comes after."""

import csv
import io
from pathlib import Path

import numpy as np

from keras_genmnist import datasets, files, progress, runs
from keras_genmnist.datasets import Split, arrays, binarization, eval_batches
from keras_genmnist.errors import UsageError
from keras_genmnist.models.base import told
from keras_genmnist.runs import Run

BATCH = 500


def images_of(run: Run, source: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Images for a run's model: the test split of a data set with a name, or all that is at a path.

    Images from a path become what the run's own are: resized and inverted by its config.  Those that the model takes as
    bits are binarized as test images are: by the reference draw, or at a half.

    Returns:
      [N, H, W, C] in [0, 1], and their labels [N], numbers or names, if they have any.
    Raises:
      UsageError: if there are none, or they have another shape than the run's.
      Fault: if they are damaged.
    """
    config = run.config
    if spec := datasets.spec(source):
        split, names = datasets.load(source).test, spec.class_names
    else:
        found = datasets.read(source, image_size=config.image_size, invert=config.invert)
        parts = [part for part in (found.train, found.validation, found.test) if part is not None]
        images, names = np.concatenate([part.images for part in parts]), found.class_names
        labels = None if parts[0].labels is None else np.concatenate([part.labels for part in parts])
        split = Split(images, binarization.reference(images), labels, "test")
    shape = split.images.shape[1:]
    if shape != run.spec.image_shape:
        raise UsageError(
            f"the images of {source} are {arrays.size(shape)}, and {run.workdir} is of images of "
            f"{arrays.size(run.spec.image_shape)}: give images of that size"
        )
    labels = split.labels if names is None or split.labels is None else np.array(names)[split.labels]
    return split.scored(config.binarization), labels


def _numbers(run: Run, source: str, labels: np.ndarray | None) -> np.ndarray:
    """The labels as numbers of the run's classes."""
    if labels is None:
        raise UsageError(f"{run.name} encodes an image given its class, and {source} has no labels: give others")
    try:
        return np.array([run.spec.label_of(str(label)) for label in labels])
    except ValueError as error:
        raise UsageError(f"{source} has a label that {run.workdir} does not know: {error}") from None


def encode(run: Run, source: str, out: Path) -> None:
    """Writes `mean` and `log_variance` [N, D] of each image's posterior and, where there are labels, `label` [N].

    The posterior is q(z | x), or of a class-conditional model q(z | x, y) of the image's own label.

    Args:
      run: a trained run of a model with an encoder.
      source: the name of a data set, whose test split is taken, or the path of images.
      out: FILE.npz, or FILE.csv with a row an image.
    Raises:
      UsageError: if the model has no encoder, the images do not fit, or `out` cannot be written.
      Fault: if the images or the run's weights are damaged, or no epoch is finished.
    """
    model = runs.load_model(run)
    if not model.has_encoder:
        raise UsageError(f"{run.name} has no encoder: give a run of a model with a posterior, as vae")
    images, labels = images_of(run, source)
    told_of = _numbers(run, source, labels) if model.takes_labels else None
    batches = progress.batches(eval_batches(images, BATCH, told_of), "encoding")
    pairs = map(model.images_and_labels, batches)
    parts = [model.encode(x, **told(y)) for x, y in pairs]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in ("mean", "log_variance")}
    if labels is not None:
        columns["label"] = labels
    content = io.BytesIO()
    if out.suffix == ".npz":
        np.savez(content, **columns)
    else:
        heads = [f"{name}_{number}" for name in ("mean", "log_variance") for number in range(model.latent_size)]
        rows = [map(str, row) for row in np.concatenate([columns["mean"], columns["log_variance"]], axis=1)]
        if labels is not None:
            heads, rows = [*heads, "label"], [[*row, str(label)] for row, label in zip(rows, labels, strict=True)]
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows([heads, *rows])
        content.write(lines.getvalue().encode())
    files.write(out, content.getvalue())
    print(f"wrote {out}: the posteriors of {len(images):,} images, {model.latent_size} latents each")
