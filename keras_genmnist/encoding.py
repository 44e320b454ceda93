"""`genmnist encode`: the posterior of images, as arrays for whatever comes after."""

import csv
import io
from pathlib import Path

import numpy as np

from keras_genmnist import files, progress, runs, sources
from keras_genmnist.datasets import eval_batches
from keras_genmnist.errors import UsageError
from keras_genmnist.models.base import told
from keras_genmnist.runs import Run

BATCH = 500


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
        raise UsageError(f"{run.name} has no Gaussian posterior: give a run of a model with one, as vae")
    images, labels = sources.images_of(source, run.spec, run.config, str(run.workdir))
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
