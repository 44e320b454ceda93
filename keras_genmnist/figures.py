"""`genmnist figures`: what a run has learned, as PNG, PDF or SVG files."""

import functools
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter
from scipy import ndimage

from keras_genmnist import evaluate, files, images, likelihood, quality, runs
from keras_genmnist.config import suggest
from keras_genmnist.datasets import Dataset, eval_batches
from keras_genmnist.errors import Fault, UsageError
from keras_genmnist.models.base import GenerativeModel, told
from keras_genmnist.runs import Run

ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
GRID = 20  # latents along a side
TRAVERSED, TRAVERSAL = 10, np.linspace(-2, 2, 7)  # latents, and where each is set, in standard deviations
MEASURED = 2000  # images that say how much a latent tells
STEEP = 3  # times as far as the rest, the first epochs or a single one may reach to be shown whole
STEP_SAMPLES, STEP_IMAGES = 1000, 2000  # for the figure of steps
HIGHEST = 16  # inches of a sheet of high images, 8 inches wide
LONGEST = 24  # letters of a class's name in a legend
LEGEND_ROWS, LEGEND_ENTRIES = 24, 96  # of more classes, no eye can tell the colours apart


class Drawing(Figure):
    """A Figure outside pyplot: it needs no display, nobody has to close it, and a notebook shows it once.

    A notebook in which pyplot has been used knows how to show any Figure; in another, this one says so itself.
    """

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.savefig(content, format="png")
        return content.getvalue()


class Subject(NamedTuple):
    """What a figure is drawn from."""

    run: Run
    model: GenerativeModel
    load: Callable[[], Dataset]  # the data set of the run, which some figures need; may raise a Fault
    rows: list[dict]
    seed: int
    pairs: Sequence[tuple[int, int]] = ()  # of test images, to interpolate between
    label: int = 0  # of what is decoded, by a model that takes labels

    @property
    def dataset(self) -> Dataset:
        return self.load()


def samples(subject: Subject) -> Figure:
    """A hundred draws."""
    return _sheet(images.tile(_sampled(subject, 100), columns=10), f"Samples, {_caption(subject)}")


def interpolation(subject: Subject) -> Figure:
    """The decodings of alpha z1 + (1 - alpha) z2, of two random latent vectors.

    With pairs of test images, those between their posterior means instead, a row a pair: from the first, whose mean is
    z2, to the second, each image at its end of the row; a model that takes labels goes from one's to the other's.
    """
    y1 = y2 = None
    titles = [{0.0: "$z_2$\n", 1.0: "$z_1$\n"}.get(alpha, "\n") + rf"$\alpha = {alpha:.1f}$" for alpha in ALPHAS]
    if subject.pairs:
        ends = _scored(subject)[np.array(subject.pairs)].astype(np.float32)  # [P, 2, H, W, C]
        if subject.model.takes_labels:
            y2, y1 = subject.dataset.test.labels[np.array(subject.pairs)].T
        z2, z1 = (subject.model.encode(ends[:, end], **told(y))["z"] for end, y in ((0, y2), (1, y1)))
    else:
        z1, z2 = _latents(subject, 2, 0)[:, None]
        y1 = y2 = _label(subject, 1)
    ends_of_classes = [y1, y2] if subject.model.takes_labels else []
    rows = subject.model.interpolate(z1, z2, tf.constant(ALPHAS), *ends_of_classes).numpy()
    if subject.pairs:
        rows, titles = np.concatenate([ends[:, :1], rows, ends[:, 1:]], axis=1), ["", *titles, ""]
    size = (1.5 * len(titles), 0.8 + 1.5 * len(rows) * _height_of(subject))
    figure = Drawing(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for axis, image in zip(axes.flat, rows.reshape(-1, *rows.shape[2:]), strict=True):
        _show(axis, image)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    for row, pair in zip(axes, subject.pairs, strict=False):
        for axis, number in zip(row[[0, -1]], pair, strict=True):
            axis.set_title(f"test image\n{number}", fontsize=10)
    figure.suptitle(rf"Decodings of $\alpha z_1 + (1 - \alpha) z_2$, {_caption(subject)}", fontsize=11)
    return figure


def layers(subject: Subject) -> Figure:
    """Of a model with several layers of latents: samples between which one layer alone varies, a row each."""
    sizes = subject.model.layer_sizes
    varied = tf.split(_latents(subject, 10, 0), sizes, axis=-1)
    kept = tf.split(tf.tile(_latents(subject, 1, 1), [10, 1]), sizes, axis=-1)
    rows = [
        subject.model.decode(
            tf.concat([*kept[:number], varied[number], *kept[number + 1 :]], axis=-1), **told(_label(subject, 10))
        )
        for number in range(len(sizes))
    ]
    figure = Drawing(figsize=(8, 0.8 * len(rows) * _height_of(subject) + 1), layout="constrained")
    axes = figure.subplots(len(rows), 1)
    for axis, row, number in zip(axes[::-1], rows, range(len(rows)), strict=True):  # the topmost layer first
        axis.imshow(images.tile(row, columns=10), cmap="gray", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
        axis.set_ylabel(f"layer {number + 1}", rotation=0, ha="right", va="center")
    figure.suptitle(f"Samples between which one layer varies, {_caption(subject)}", fontsize=11)
    return figure


def traversals(subject: Subject) -> Figure:
    """Decodings of test images' posterior means while one latent varies, a row a latent; those that tell most first.

    What a latent tells is (1/2) log( V / E[ V(x) ] ) nats, V its variance over images and draws and V(x) that of the
    draws for one image: the mean KL of a Gaussian posterior of one scale from the Gaussian of all draws.
    """
    model, dataset = subject.model, subject.dataset
    originals = _scored(subject)
    x, y = originals[:MEASURED], _labels(subject, MEASURED)
    encode, decode = (tf.function(each, autograph=model.autograph) for each in (model.encode, model.decode))
    draws = []
    for number, pair in enumerate(map(model.images_and_labels, eval_batches(x, 500, y))):
        noise = tf.random.stateless_normal([2, len(pair[0]), model.latent_size], tf.constant([subject.seed, number]))
        draws.append([encode(pair[0], own, **told(pair[1]))["z"] for own in tf.unstack(noise)])
    z = np.concatenate(draws, axis=1).astype(np.float64)  # [2, N, D]
    told_nats = 0.5 * np.log(z.var(axis=(0, 1)) / np.mean((z[0] - z[1]) ** 2 / 2, axis=0))
    chosen = np.argsort(-told_nats)[:TRAVERSED]
    values = z.mean(axis=(0, 1)) + np.multiply.outer(TRAVERSAL, z.std(axis=(0, 1)))  # [V, D]
    places = list(dict.fromkeys(np.ravel(subject.pairs).astype(int).tolist())) or list(range(min(3, len(x))))
    rows, height = len(chosen), _height_of(subject)
    figure = Drawing(figsize=(1 + 3.2 * len(places), 0.8 + 0.46 * (rows + 2) * height), layout="constrained")
    axes = figure.subplots(2, len(places), squeeze=False, height_ratios=[1.5, rows])
    for column, place in enumerate(places):
        image = originals[place : place + 1].astype(np.float32)
        label = dataset.test.labels[place : place + 1] if model.takes_labels else None
        varied = np.tile(encode(image, **told(label))["z"], (rows * len(TRAVERSAL), 1))
        varied[np.arange(len(varied)), np.repeat(chosen, len(TRAVERSAL))] = values[:, chosen].T.ravel()
        decoded = decode(varied, **told(None if label is None else np.repeat(label, len(varied))))
        _show(axes[0, column], image[0])
        axes[0, column].set_title(f"test image {place}", fontsize=10)
        axis, sheet = axes[1, column], images.tile(decoded, len(TRAVERSAL))
        axis.imshow(sheet, cmap="gray", vmin=0, vmax=1)
        width, step = sheet.shape[1] / len(TRAVERSAL), sheet.shape[0] / rows
        axis.set_xticks([width * n for n in (0.5, len(TRAVERSAL) / 2, len(TRAVERSAL) - 0.5)], ["-2", "0", "2"])
        names = [f"$z_{{{latent + 1}}}$ tells {max(0, told_nats[latent]):.1f} nats" for latent in chosen]
        axis.set_yticks([step * (row + 0.5) for row in range(rows)], names if column == 0 else [""] * rows)
        axis.tick_params(length=0)
    figure.supxlabel("standard deviations from the mean over images", fontsize=10)
    figure.suptitle(f"One latent varied at a time, {_caption(subject)}", fontsize=11)
    return figure


def reconstructions(subject: Subject) -> Figure:
    """Test images, each above its reconstruction from the posterior's mean, or from its codes."""
    originals = _scored(subject)[:40].astype(np.float32)
    columns = min(10, len(originals))
    originals = originals[: len(originals) // columns * columns]  # whole rows
    decoded = subject.model.reconstruct(originals, **told(_labels(subject, len(originals)))).numpy()
    rows = [part[i : i + columns] for i in range(0, len(originals), columns) for part in (originals, decoded)]
    sheet = images.tile(np.concatenate(rows), columns)
    return _sheet(sheet, f"Test images (odd rows) and reconstructions (even rows)\n{_caption(subject)}")


def training_curves(subject: Subject) -> Figure:
    """What tells how training went, over the epochs.

    What only the first tenth or a single epoch reaches falls outside where it would make all else flat.
    """
    rows = subject.rows
    # A run that an earlier version began lacks what has come since.
    curves = {
        label: names
        for label, names in subject.model.curves.items()
        if all(isinstance(row.get(name), int | float) for row in rows for name in names)
    }
    if not curves:
        raise Fault(f"{subject.run.metrics_jsonl} is damaged: restore it")
    # A single panel is wider, for the title.
    figure = Drawing(figsize=(max(8, 5 * len(curves)), 4), layout="constrained")
    axes = figure.subplots(1, len(curves))
    epochs = [row["epoch"] for row in rows]
    for axis, (label, names) in zip(np.atleast_1d(axes), curves.items(), strict=True):
        for name in names:
            marker = "o" if len(epochs) < 10 else ""  # a line of one point is invisible
            axis.plot(epochs, [row[name] for row in rows], marker=marker, label=_legend(name))
        every = [row[name] for row in rows for name in names]
        typical = (ndimage.median_filter([row[name] for row in rows], 3, mode="nearest") for name in names)
        settled = [value for values in typical for value in values[len(rows) // 10 :]]
        if max(every) - min(every) <= STEEP * (max(settled) - min(settled)):
            settled = every
        margin = 0.05 * (max(settled) - min(settled)) or 1
        axis.set(xlabel="epoch", ylabel=label, xlim=(0, epochs[-1] + 1))
        axis.set_ylim(min(settled) - margin, max(settled) + margin)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.yaxis.get_major_locator().set_params(integer=all(value == int(value) for value in settled))  # counts
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle(f"Training, {_caption(subject)}", fontsize=11)
    return figure


def _legend(column: str) -> str:
    *quantity, last = column.removeprefix("val_").split("_")
    if last.isdigit():  # the label of the axis says of what
        return f"layer {last}"
    words = [word.upper() if word in ("elbo", "iwae", "kl", "nll") else word for word in (*quantity, last)]
    return " ".join(["validation" if column.startswith("val_") else "training", *words])


def progress(subject: Subject) -> Figure:
    """Samples of the same seeds at up to ten epochs, the first and the last among them.

    Raises:
      Fault: if no epoch has any.
    """
    strips, damaged = _strips(subject)
    epochs = sorted(strips)
    if not epochs:
        raise Fault(f"{subject.run.progress} has no samples that can be read: restore it")
    if damaged:
        runs.warn(f"left out what is no PNG file: {', '.join(map(str, damaged))}")
    chosen = sorted({epochs[i] for i in np.geomspace(1, len(epochs), 10).round().astype(int) - 1})
    figure = Drawing(figsize=(8, 0.8 * len(chosen) * _height_of(subject) + 1), layout="constrained")
    axes = figure.subplots(len(chosen), 1)
    for axis, epoch in zip(np.atleast_1d(axes), chosen, strict=True):
        axis.imshow(strips[epoch], cmap="gray", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
        axis.set_ylabel(f"epoch {epoch}", rotation=0, ha="right", va="center")
    figure.suptitle(f"Samples of the same seeds by epoch, {_caption(subject)}", fontsize=11)
    return figure


def _strips(subject: Subject) -> tuple[dict[int, np.ndarray], list[Path]]:
    """The strip of samples of each epoch that has one, [H, W, C]; and the files that are none."""
    strips, damaged = {}, []
    for row in subject.rows:
        path = subject.run.progress / f"{row['epoch']}.png"
        # An epoch has none if the training was killed after it was saved, and before it was drawn.
        if path.exists():
            try:
                strips[row["epoch"]] = tf.io.decode_png(path.read_bytes(), subject.model.image_shape[-1]).numpy() / 255
            except (OSError, tf.errors.OpError):
                damaged.append(path)
    return strips, damaged


def neighbours(subject: Subject) -> Figure:
    """Samples, each above the five training images nearest to it by the distance of pixels."""
    drawn = _sampled(subject, 10)
    training = subject.dataset.train.images.astype(np.float32) / 255
    nearest = training[quality.nearest(drawn, training, min(5, len(training)))]  # [10, 5, H, W, C]
    rows = np.concatenate([drawn[None], nearest.swapaxes(0, 1)])
    sheet = images.tile(rows.reshape(-1, *drawn.shape[1:]), columns=len(drawn))
    return _sheet(sheet, f"Samples (first row) and nearest training images\n{_caption(subject)}")


def completion(subject: Subject) -> Figure:
    """Test images, their lower half hidden, and five completions by the model."""
    originals = _scored(subject)[:10].astype(np.float32)
    mask = np.zeros_like(originals)
    mask[:, : originals.shape[1] // 2] = 1
    seeds = tf.constant([[subject.seed, number] for number in range(5 * len(originals))])
    tiled = [np.tile(part, (5, 1, 1, 1)) for part in (originals, mask)]
    completed = tf.function(subject.model.complete, autograph=subject.model.autograph)(*tiled, seeds)["images"]
    hidden = np.where(mask == 1, originals, 0.5)  # grey: unknown
    sheet = images.tile(np.concatenate([originals, hidden, completed]), columns=len(originals))
    return _sheet(sheet, f"Test images, what is shown of them, five completions\n{_caption(subject)}")


def classes(subject: Subject) -> Figure:
    """Of a model that takes labels: a row a class, the same latent variables across the rows."""
    names, columns = subject.dataset.spec.classes, 10
    seeds = tf.constant([[subject.seed, number] for number in range(columns)])
    draw = tf.function(subject.model.draw_given, autograph=subject.model.autograph)
    rows = [draw(seeds, tf.fill([columns], label))["probabilities"] for label in range(len(names))]
    height = 0.8 * len(rows) * _height_of(subject)
    figure = Drawing(figsize=(8, min(HIGHEST, height) + 0.6), layout="constrained")
    axis = figure.subplots()
    sheet = images.tile(np.concatenate(rows), columns)
    axis.imshow(sheet, cmap="gray", vmin=0, vmax=1)
    step = sheet.shape[0] / len(rows)
    labels = [_short(name) for name in names]
    axis.set_yticks([step * (row + 0.5) for row in range(len(rows))], labels, parse_math=False)
    axis.tick_params(length=0)
    axis.set(xticks=[], frame_on=False)
    figure.suptitle(f"The same latents in each class, {_caption(subject)}", fontsize=11)
    return figure


def steps(subject: Subject) -> Figure:
    """Of a model that draws in steps: samples, their Frechet distance, and what else tells, by the number of steps.

    That is the nats of a model whose steps draw pixels, which do not see each other; of others precision and recall.
    """
    model, dataset, numbers = subject.model, subject.dataset, subject.model.steps_shown
    x = _scored(subject)[:STEP_IMAGES]
    count = min(STEP_SAMPLES, len(dataset.test.images))
    rows, scores, nats = [], [], {}
    for number in numbers:
        drawn = evaluate.draw(model, count, num_steps=number)["images"]
        rows.append(drawn[:20])
        scores.append(quality.score(drawn, dataset, subject.run.config.binarization))
        if model.pixel_by_pixel:
            nats[number] = -likelihood.bounded(model, x, 4, "likelihood", num_steps=number).scores["elbo"]["mean"]
    sheet = images.tile(np.concatenate(rows), columns=20)
    inches = 10 * sheet.shape[0] / sheet.shape[1]
    figure = Drawing(figsize=(10, 4 + inches), layout="constrained")
    axes = figure.subplot_mosaic([["frechet", "other"], ["samples", "samples"]], height_ratios=[3.4, inches])
    distances, floor = [score["frechet"] for score in scores], scores[0]["frechet_floor"]["mean"]
    spread = [distance["spread"] or 0 for distance in distances]
    axes["frechet"].errorbar(numbers, [distance["mean"] for distance in distances], spread, marker="o", capsize=3)
    axes["frechet"].axhline(floor, linestyle="--", color="gray", label="as many training images")
    axes["frechet"].set(ylabel=f"Frechet distance of {count:,} samples", yscale="log")
    axes["frechet"].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes["frechet"].yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes["frechet"].legend()
    if nats:
        axes["other"].plot(numbers, list(nats.values()), marker="o")
        axes["other"].set(ylabel=f"-ELBO of {len(x):,} test images (nats)")
    else:
        for name in ("precision", "recall"):
            axes["other"].plot(numbers, [score[name]["mean"] for score in scores], marker="o", label=name)
        axes["other"].set(ylabel="share", ylim=(0, 1))
        axes["other"].legend()
    for axis in (axes["frechet"], axes["other"]):
        axis.set(xlabel="steps", xscale="log")
        axis.set_xticks(numbers, [str(number) for number in numbers])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes["samples"].imshow(sheet, cmap="gray", vmin=0, vmax=1)
    height = sheet.shape[0] / len(numbers)
    axes["samples"].set(xticks=[], yticks=[height * (n + 0.5) for n in range(len(numbers))], yticklabels=numbers)
    drawn = "bits" if model.draws_bits else "grey levels"
    figure.suptitle(f"Drawn {drawn} by the number of steps, {_caption(subject)}", fontsize=11)
    return figure


def latent_means(subject: Subject) -> Figure:
    """For a 2-D latent: the variational means of the test set, coloured by class."""
    pairs = map(subject.model.images_and_labels, eval_batches(_scored(subject), 500, _labels(subject)))
    means = np.concatenate([subject.model.encode(x, **told(y))["z"] for x, y in pairs])
    spec, labels = subject.dataset.spec, subject.dataset.test.labels
    figure = Drawing(figsize=(8, 7), layout="constrained")
    axis = figure.subplots()
    size = min(20, 40_000 / len(means))
    clouds = [
        axis.scatter(*means[labels == label].T, s=size, alpha=0.6, color=colour, label=name, linewidths=0)
        for label, (name, colour) in enumerate(zip(spec.classes, palette(len(spec.classes)), strict=True))
    ]
    if len(clouds) <= LEGEND_ENTRIES:
        legend = axis.legend(
            clouds,
            [_short(name) for name in spec.classes],
            title=spec.noun if spec.noun == "digit" else "class",
            ncols=-(-len(clouds) // LEGEND_ROWS),
            markerscale=(80 / size) ** 0.5,
            loc="center left",
            bbox_to_anchor=(1, 0.5),
            frameon=False,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)  # a name may hold a $
        width = legend.get_window_extent().width / figure.dpi
        figure.set_size_inches(max(8, 7 + width), 7)
    axis.set(xlabel="$z_1$", ylabel="$z_2$", aspect="equal")
    figure.suptitle(f"Posterior means of the test set, {_caption(subject)}", fontsize=11)
    return figure


def _short(name: str) -> str:
    """A class's name, cut where it is long."""
    return name if len(name) <= LONGEST else f"{name[:LONGEST]}..."


def palette(count: int) -> np.ndarray:
    """Colours to tell classes apart, [count, 4]: ten that are easy to tell, or else hues in three shades in turn."""
    if count <= 10:
        return matplotlib.colormaps["tab10"](np.arange(count))
    colours = matplotlib.colormaps["hsv"](np.arange(count) / count)
    colours[:, :3] *= np.resize([0.95, 0.7, 0.45], count)[:, None]
    return colours


def latent_grid(subject: Subject) -> Figure:
    """For a 2-D latent: the decodings of a regular grid, as far as the prior reaches; of N(0, I), [-2, 2] squared."""
    # Of N(0, 1), 6% of the draws are beyond 1.88.
    reach = np.ceil(np.quantile(np.abs(_latents(subject, 10_000, 0)), 0.94))
    along = np.linspace(-reach, reach, GRID)
    edge = reach + (along[1] - along[0]) / 2  # an image's centre is its z
    z = np.stack(np.meshgrid(along, along[::-1]), axis=-1).reshape(-1, 2).astype(np.float32)
    means, height = subject.model.decode(z, **told(_label(subject, len(z)))), _height_of(subject)
    decoded = images.tile(means, columns=GRID, gap=0)  # one picture of the plane
    figure = Drawing(figsize=(8, min(HIGHEST, 8 * height) + 0.3), layout="constrained")
    axis = figure.subplots()
    axis.imshow(decoded, cmap="gray", vmin=0, vmax=1, extent=(-edge, edge, -edge, edge), aspect=height)
    axis.set(xlabel="$z_1$", ylabel="$z_2$")
    figure.suptitle(f"Decoded latent grid, {_caption(subject)}", fontsize=11)
    return figure


NO_RUN = "flow_densities"  # of densities.py
SLOW = ("steps",)  # drawn only where they are asked for
FIGURES = {
    f.__name__: f
    for f in (
        samples,
        classes,
        interpolation,
        layers,
        traversals,
        reconstructions,
        training_curves,
        progress,
        neighbours,
        completion,
        steps,
        latent_means,
        latent_grid,
    )
}


def _lacks(name: str, model: GenerativeModel, run: Run) -> str | None:
    """Why the figure cannot be drawn, or None where it can."""
    if name in ("training_curves", "progress") and not model.is_trained:
        return "it needs a training, and the model is made of trained ones"
    if name == "progress" and not (run.progress.exists() or run.checkpoints.exists()):  # as of a pretrained model
        return "it needs the samples of each epoch, and the run has come without these"
    if name in ("interpolation", "latent_means", "latent_grid") and not model.has_latents:
        return "it needs latents, the model has none"
    lacking = {"reconstructions": not hasattr(model, "reconstruct")}
    lacking |= dict.fromkeys(("traversals", "latent_means"), not model.has_encoder)
    if lacking.get(name):
        return "it needs an encoder, the model has none"
    if name == "classes" and not model.takes_labels:
        return "it needs a model that was told the classes: train with config.class_conditional=true"
    if name == "layers" and len(getattr(model, "layer_sizes", [])) < 2:
        return "it needs several layers of latents"
    if name == "completion" and not hasattr(model, "complete"):
        return "it needs a PixelCNN without latents, or a masked diffusion"
    if name == "steps" and not hasattr(model, "sampling_steps"):
        return "it needs a model that draws in steps, as masked_diffusion and flow_matching"
    if name in ("latent_means", "latent_grid") and model.latent_size != 2:
        return f"it needs a latent of 2 dimensions, the model has {model.latent_size}"
    if name == "latent_means" and not run.spec.num_classes:
        return f"it needs labels, {run.spec.name} has none"
    return None


def figures(
    run: Run,
    which: list[str],
    seed: int,
    out: Path,
    format: str = "png",
    pairs: Sequence[tuple[int, int]] = (),
    label: str | None = None,
) -> None:
    """Writes a run's figures as out/NAME_FIGURE.FORMAT, with the name of the run's directory.

    Args:
      run: a trained run.
      which: names of figures; none for all that the model has.
      seed: of the samples and the interpolation.
      out: the folder.
      format: "png", "pdf" or "svg".
      pairs: of test images, by their places in the split, that the interpolation is between and traversals start at.
      label: as of `draw`.
    Raises:
      UsageError, Fault: as `draw`; a UsageError too if `out` cannot be written.
    """
    for name, drawn in draw(run, which, seed, pairs, label):
        save(drawn, out / f"{run.title}_{name}.{format}")


def draw(
    run: Run,
    which: Sequence[str],
    seed: int = 1,
    pairs: Sequence[tuple[int, int]] = (),
    label: str | None = None,
) -> Iterator[tuple[str, Figure]]:
    """Draws a run's figures.

    Args:
      run: a trained run.
      which: names of figures; none for all that the model has.
      seed: of the samples and the interpolation.
      pairs: of test images, by their places in the split, that the interpolation is between and traversals start at.
      label: the name or the number of the class that latents are decoded in, by a model that takes labels; the first by
        default.
    Yields:
      Each figure with its name.
    Raises:
      UsageError: if a figure is unknown or the model does not have it, or an image is not there.
      Fault: if the data or the run's weights are damaged, or no epoch is finished.
    """
    known = [*FIGURES, NO_RUN]
    for name in which:
        if name == NO_RUN:
            raise UsageError(
                f"{NO_RUN} is not a run's figure: give --which={NO_RUN} alone, without --model or --workdir"
            )
        if name not in FIGURES:
            raise UsageError(f"unknown figure {name!r}{suggest(name, known)} Figures: {', '.join(known)}")
    model, load = runs.load_model(run), _once(lambda: runs.load_data(run))
    lacking = {name: reason for name in FIGURES if (reason := _lacks(name, model, run))}
    for name in which:
        if name in lacking:
            others = ", ".join(other for other in FIGURES if other not in lacking)
            raise UsageError(f"{run.name} has no figure {name}: {lacking[name]}; it has {others}")
    if pairs and not model.has_encoder:
        raise UsageError(f"{run.name} has no latents of test images to interpolate between: leave out --pairs")
    for number in (number for pair in pairs for number in pair):
        if number >= len(load().test.images):
            raise UsageError(f"--pairs has {number}: the test images are 0 to {len(load().test.images) - 1}")
    if label is not None and not model.takes_labels:
        raise UsageError(f"--label={label} means nothing for {run.name}, which was not told the classes: leave it out")
    try:
        number = 0 if label is None else run.spec.label_of(label)
    except ValueError as error:
        raise UsageError(f"--label={error}") from None
    subject, missing = Subject(run, model, load, runs.history(run, model), seed, pairs, number), None
    for name in which or [name for name in FIGURES if name not in (*lacking, *SLOW)]:
        try:
            drawn = FIGURES[name](subject)
        except Fault as fault:
            if which:
                raise
            runs.warn(f"no figure {name} either" if fault is missing else f"no figure {name}: {fault}")
            missing = fault
            continue
        yield name, drawn


def _once(load: Callable[[], Dataset]) -> Callable[[], Dataset]:
    """What is loaded when it is first asked for, or the Fault that came of it, which is raised again."""

    @functools.cache
    def found() -> Dataset | Fault:
        try:
            return load()
        except Fault as fault:
            return fault

    def loaded() -> Dataset:
        if isinstance(found(), Fault):
            raise found()
        return found()

    return loaded


def save(figure: Figure, path: Path) -> None:
    """Writes a figure in the format that the suffix of `path` says.

    Raises:
      UsageError: if the path cannot be written.
    """
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:], dpi=120)
    files.write(path, content.getvalue())
    print(f"wrote {path}")


def _caption(subject: Subject) -> str:
    run = subject.run
    name = run.title if run.title == run.name else f"{run.title} ({run.name})"
    return plain(f"{name} on {run.spec.name}, {pixels(run)}")


def plain(text: str) -> str:
    """The text for a figure, where a pair of $ has mathematics between them: names may hold any."""
    return text.replace("$", r"\$")


def pixels(run: Run) -> str:
    """What the pixels of a run's images are, in words."""
    return "grey levels" if run.binarization == "none" else f"{run.binarization} binarization"


def _scored(subject: Subject) -> np.ndarray:
    """The test images that the model is scored on, [N, H, W, C]."""
    return subject.dataset.test.scored(subject.run.config.binarization)


def _label(subject: Subject, count: int) -> np.ndarray | None:
    """The label chosen, for each of so many; None of a model that takes none."""
    return np.full(count, subject.label) if subject.model.takes_labels else None


def _labels(subject: Subject, count: int | None = None) -> np.ndarray | None:
    """Those of the first test images; None of a model that takes none."""
    return subject.dataset.test.labels[:count] if subject.model.takes_labels else None


def _latents(subject: Subject, count: int, stream: int) -> tf.Tensor:
    """Draws from the prior, of the label chosen where there is one: [count, D]."""
    z = subject.model.prior_of(_label(subject, 1)).sample(count, seed=tf.constant([subject.seed, stream]))
    return tf.reshape(z, [count, subject.model.latent_size])


def _sampled(subject: Subject, count: int) -> np.ndarray:
    """Mean images of draws, [count, H, W, C]."""
    # In a graph: pixel by pixel in Python, an autoregressive model would take a minute.
    sample = tf.function(subject.model.sample, autograph=subject.model.autograph)
    return sample(count, subject.seed)["probabilities"].numpy()


def _height_of(subject: Subject) -> float:
    """How high an image is, as a multiple of its width."""
    height, width, _ = subject.model.image_shape
    return height / width


def _sheet(sheet: np.ndarray, title: str) -> Figure:
    height, width, _ = sheet.shape
    figure = Drawing(figsize=(8, min(HIGHEST, 8 * height / width) + 0.6), layout="constrained")
    axis = figure.subplots()
    _show(axis, sheet)
    figure.suptitle(title, fontsize=11)
    return figure


def _show(axis, image: np.ndarray) -> None:
    axis.imshow(image, cmap="gray", vmin=0, vmax=1)
    axis.set_axis_off()
