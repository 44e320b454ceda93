"""`genmnist score`: how likely each image is to a model, and whether that tells other images from its own.

Likelihood alone misleads: simple images can be likelier than those that a model learned from.  So there are three
scores, each the higher the more an image is an outlier:

log_likelihood       -log p(x)
complexity           -log p(x) - L(x), with L(x) the nats that a general compressor takes for x: Serra et al. (2020),
                     "Input Complexity and Out-of-Distribution Detection", equation 2, arxiv.org/abs/1909.11480
typicality           |-log p(x) - H|, with H the mean of -log p(x) over validation images: Nalisnick et al. (2019),
                     "Detecting Out-of-Distribution Inputs Using Typicality", equation 5 for one image,
                     arxiv.org/abs/1906.02994
"""

import csv
import io
import math
from pathlib import Path

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats

from keras_genmnist import datasets, files, progress
from keras_genmnist.datasets import eval_batches
from keras_genmnist.errors import UsageError
from keras_genmnist.figures import Drawing, plain, save
from keras_genmnist.likelihood import mean_and_error
from keras_genmnist.signatures import MAX_SAMPLES
from keras_genmnist.sources import Source, images_of

BATCH = 100  # a class-conditional model takes each in every class: a minute a batch would look like a hang
NUM_DRAWS = 100
VALIDATION = 1000  # images, at most, that H is the mean of: its standard error is below a nat
SCORES = {  # column -> what tables and figures call it
    "outlier_log_likelihood": "-log p(x)",
    "outlier_complexity": "-log p(x), less complexity",
    "outlier_typicality": "distance from the typical",
}


def score(source: Source, name: str | None, out: Path, num_draws: int | None, against: str | None = None) -> dict:
    """Writes how likely each image is, and prints the mean; with `against` also what tells outliers.

    Args:
      source: a run or an export of a model with a likelihood.
      name: a data set, for its test split, or the path of images; None for the model's own test images.
      out: FILE.npz, or FILE.csv with a row an image; the figure of `against` is FILE.png.
      num_draws: of the importance-weighted likelihood, by default NUM_DRAWS; or of a bound, by default as many as it
        is evaluated with.  A model that knows its likelihood needs none.
      against: other images, named likewise, that are taken for outliers; their rows come last.
    Returns:
      `log_likelihood` in nats with its standard error and, with `against`, `auroc`: by the name of the score the
      probability that an outlier's is the higher, with its standard error.  An error is None where there is one image.
    Raises:
      UsageError: if the model has no likelihood, num_draws is out of range, the images do not fit, or `out` cannot be
        written.
      Fault: if the data are damaged.
    """
    if "log_likelihood" not in source.signatures:
        raise UsageError(f"{source.label} has no likelihood to score images by: give a model that has, as vae")
    num_draws = num_draws or source.bound_draws or NUM_DRAWS
    if not 1 <= num_draws <= MAX_SAMPLES:
        raise UsageError(f"--num_draws={num_draws} is out of range: give 1 to {MAX_SAMPLES}")
    config = source.config
    own = datasets.load(config.dataset, image_size=config.image_size, invert=config.invert)
    asked = own.test.scored(config.binarization), own.test.labels
    parts = {name or source.spec.name: images_of(name, source.spec, config, source.label) if name else asked}
    if against:
        parts[against] = images_of(against, source.spec, config, source.label)
    if len(parts) < 1 + bool(against):
        raise UsageError(f"--against={against} is what --images gives: give other images")
    typical = own.validation.scored(config.binarization)[:VALIDATION]
    entropy = -_likelihoods(source, typical, num_draws, "validation")["log_likelihood"].mean()
    # By one compressor for all: a PNG file of bytes is longer than one of bits, of the same picture.
    bits = all(_holds_bits(images) for images, _ in parts.values())
    columns = [
        _columns(source, images, labels, num_draws, entropy, bits, label) for label, (images, labels) in parts.items()
    ]
    _write(out, columns)
    first = columns[0]
    values = first["log_likelihood"]
    found = {"log_likelihood": mean_and_error(values) if len(values) > 1 else {"mean": float(values[0]), "se": None}}
    number = f"{len(values):,} image{'s' * (len(values) != 1)}"
    print(f"log p(x) of {number} of {first['images'][0]}: {_with_error(found['log_likelihood'], '.2f')} nats")
    if against:
        found["auroc"] = {column: auroc(*(part[column] for part in columns)) for column in SCORES}
        print(table(columns, found["auroc"]))
        save(figure(columns, found["auroc"], source.label), out.with_suffix(".png"))
    return found


def _likelihoods(source: Source, images: np.ndarray, num_draws: int, label: str) -> dict[str, np.ndarray]:
    """What the signature says of images [N, H, W, C]: log_likelihood, bound and ess, [N] each."""
    ask = source.signatures["log_likelihood"]
    parts = [
        ask(images=tf.constant(x, tf.float32), num_draws=tf.constant(num_draws), seed=tf.constant(start))
        for start, x in enumerate(progress.batches(eval_batches(images, BATCH), label))
    ]
    names = ("log_likelihood", "bound", "ess")
    return {name: np.concatenate([part[name] for part in parts]).astype(np.float64) for name in names}


def _columns(source, images, labels, num_draws, entropy, bits, label) -> dict[str, np.ndarray]:
    """All that is known of images, by the name of the column, [N] each."""
    found = _likelihoods(source, images, num_draws, label)
    nats = -found["log_likelihood"]
    compressed = complexity(images, bits)
    columns = {"images": np.full(len(images), label), "index": np.arange(len(images))}
    columns["label"] = np.full(len(images), "") if labels is None else labels.astype(str)
    outlier = dict(zip(SCORES, (nats, nats - compressed, np.abs(nats - entropy)), strict=True))
    return columns | found | {"complexity": compressed} | outlier


def _holds_bits(images: np.ndarray) -> bool:
    return images.shape[-1] == 1 and bool(np.isin(images, (0, 1)).all())


def complexity(images: np.ndarray, bits: bool) -> np.ndarray:
    """The length of each image as PNG file.

    Args:
      images: [N, H, W, C] in [0, 1].
      bits: whether the files are of one bit a pixel, as images of one channel allow that are all 0 and 1.
    Returns:
      [N], nats.
    """

    def length(image):
        picture, content = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image), io.BytesIO()
        (picture.convert("1") if bits else picture).save(content, format="png", optimize=True)
        return content.tell()

    levels = np.rint(255 * np.asarray(images, np.float64)).astype(np.uint8)
    return 8 * math.log(2) * np.array([length(image) for image in levels], np.float64)


def auroc(own: np.ndarray, outliers: np.ndarray) -> dict[str, float | None]:
    """The area under the ROC curve: the probability that an outlier's score is above that of one of the model's own.

    Args:
      own: scores [N].
      outliers: scores [M].
    Returns:
      mean: the area; se: its standard error, None where there is one score of a kind.
    Source: DeLong et al. (1988), "Comparing the Areas under Two or More Correlated Receiver Operating Characteristic
    Curves", equations 1 to 3, doi.org/10.2307/2531595
    """
    ranks = stats.rankdata(np.concatenate([outliers, own]))
    # Of each outlier the share of the own that it is above, and of each of the own that of the outliers above it.
    above = (ranks[: len(outliers)] - stats.rankdata(outliers)) / len(own)
    below = 1 - (ranks[len(outliers) :] - stats.rankdata(own)) / len(outliers)
    if min(len(own), len(outliers)) < 2:
        return {"mean": float(above.mean()), "se": None}
    variance = above.var(ddof=1) / len(outliers) + below.var(ddof=1) / len(own)
    return {"mean": float(above.mean()), "se": float(np.sqrt(variance))}


def _with_error(value: dict[str, float | None], form: str) -> str:
    error = "" if value["se"] is None else f" +- {value['se']:{form}}"
    return f"{value['mean']:{form}}{error}"


def table(columns: list[dict[str, np.ndarray]], areas: dict[str, dict[str, float | None]]) -> str:
    """The AUROC of each score, a line each."""
    own, others = ((len(part["index"]), part["images"][0]) for part in columns)
    head = f"AUROC of {others[0]:,} images of {others[1]} against {own[0]:,} of {own[1]}; chance is 0.5"
    rows = [f"{SCORES[name]:34}{_with_error(area, '.4f')}" for name, area in areas.items()]
    return "\n".join([head, *rows])


def figure(columns: list[dict[str, np.ndarray]], areas: dict[str, dict[str, float | None]], label: str) -> Figure:
    """Two histograms of each score."""
    drawing = Drawing(figsize=(12, 3.6), layout="constrained")
    for axis, (name, title) in zip(drawing.subplots(1, len(SCORES)), SCORES.items(), strict=True):
        # Outliers may be so far away that all else would be one bar.
        low, high = np.quantile(np.concatenate([part[name] for part in columns]), [0.002, 0.998])
        for part in columns:
            values = np.clip(part[name], low, high)
            axis.hist(values, np.linspace(low, high, 60), density=True, alpha=0.6, label=plain(part["images"][0]))
        axis.set(title=f"{title}\nAUROC {areas[name]['mean']:.3f}", xlabel="nats", yticks=[])
        axis.title.set_fontsize(11)
    drawing.axes[0].legend()
    drawing.suptitle(plain(f"Outliers by {label}"))
    return drawing


def _write(out: Path, columns: list[dict[str, np.ndarray]]) -> None:
    joined = {name: np.concatenate([part[name] for part in columns]) for name in columns[0]}
    content = io.BytesIO()
    if out.suffix == ".npz":
        np.savez(content, **joined)
    else:
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows(
            [joined, *zip(*(values.tolist() for values in joined.values()), strict=True)]
        )
        content.write(lines.getvalue().encode())
    files.write(out, content.getvalue())
    print(f"wrote {out}: {len(joined['index']):,} images")
