"""`genmnist encode`: the posterior of images, or their codes, as arrays for whatever comes after."""

import csv
import io
import itertools
from pathlib import Path

import numpy as np

from keras_genmnist import files, progress, runs, sources
from keras_genmnist.datasets import eval_batches
from keras_genmnist.errors import UsageError
from keras_genmnist.models.base import GenerativeModel, told
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
    """Writes what the encoder says of each image and, where there are labels, `label` [N].

    That is `mean` and `log_variance` [N, D] of the posterior q(z | x), or of a class-conditional model q(z | x, y) of
    the image's own label; of a model of codes it is the grid of them, `code`, int32 [N, R, S].

    Args:
      run: a trained run of a model with an encoder.
      source: the name of a data set, whose test split is taken, or the path of images.
      out: FILE.npz, or FILE.csv with a row an image.
    Raises:
      UsageError: if the model has no encoder, the images do not fit, or `out` cannot be written.
      Fault: if the images or the run's weights are damaged, or no epoch is finished.
    """
    model = runs.load_model(run)
    if not (model.has_encoder or hasattr(model, "encode_codes")):
        raise UsageError(f"{run.name} has no encoder: give a run of a model with one, as vae")
    images, labels = sources.images_of(source, run.spec, run.config, str(run.workdir))
    told_of = _numbers(run, source, labels) if model.takes_labels else None
    batches = progress.batches(eval_batches(images, BATCH, told_of), "encoding")
    parts = [_encoded(model, *model.images_and_labels(batch)) for batch in batches]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if labels is not None:
        columns["label"] = labels
    content = io.BytesIO()
    if out.suffix == ".npz":
        np.savez(content, **columns)
    else:
        content.write(_table(columns).encode())
    files.write(out, content.getvalue())
    print(f"wrote {out}: {' and '.join(parts[0])} of {len(images):,} images")


def _encoded(model: GenerativeModel, x: np.ndarray, y: np.ndarray | None) -> dict[str, np.ndarray]:
    if not model.has_encoder:
        return {"code": model.encode_codes(x).numpy()}
    found = model.encode(x, **told(y))
    return {name: found[name].numpy() for name in ("mean", "log_variance")}


def _table(columns: dict[str, np.ndarray]) -> str:
    """Arrays [N, ...] as comma-separated values, a row for each of N, each number of an array a column of its own."""
    flat = {name: values.reshape(len(values), -1) for name, values in columns.items() if values.ndim > 1}
    heads = [f"{name}_{number}" for name, values in flat.items() for number in range(values.shape[1])]
    rows = [list(map(str, itertools.chain(*row))) for row in zip(*flat.values(), strict=True)]
    if "label" in columns:
        heads, rows = [*heads, "label"], [[*row, str(label)] for row, label in zip(rows, columns["label"], strict=True)]
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows([heads, *rows])
    return lines.getvalue()
