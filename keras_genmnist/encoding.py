"""`genmnist encode`: the posterior of images, as arrays for whatever comes after."""

import csv
import io
from pathlib import Path

import numpy as np

from keras_genmnist import files, progress, runs, sources
from keras_genmnist.datasets import eval_batches
from keras_genmnist.errors import UsageError
from keras_genmnist.runs import Run

BATCH = 500


def encode(run: Run, source: str, out: Path) -> None:
    """Writes `mean` and `log_variance` [N, D] of q(z | x) and, where there are labels, `label` [N], for each image.

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
    images, labels = sources.images_of(source, run.spec, run.config, str(run.workdir))
    parts = [model.encode(batch) for batch in progress.batches(eval_batches(images, BATCH), "encoding")]
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
