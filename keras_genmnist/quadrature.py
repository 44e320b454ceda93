"""log p(x) of a model with one or two latents: the integral of p(x | z) p(z) over z, by quadrature.

The latent space is surveyed by a lattice of cells, all images at once, and where an image's posterior is narrower than
these, the cells that hold its mass are halved, again and again, until the sum no longer changes.  No posterior of the
model's is asked: the mass is found wherever it lies.

A sum over a lattice with the step h is as good as exact for what is smooth on the scale of h: of a Gaussian with the
deviation s it is off by the factor 1 + 2 exp(-2 (pi s / h)^2) at most, 1e-8 at s = h, 3e-4 at s = 2/3 h (Trefethen &
Weideman 2014, "The Exponentially Convergent Trapezoidal Rule", section 5, doi.org/10.1137/130932132).
"""

import itertools
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from keras_genmnist import shards
from keras_genmnist.datasets import eval_batches
from keras_genmnist.models.base import LatentVariableModel

tfd = tfp.distributions

MAX_LATENTS = 2
TOLERANCE = 5e-3  # nats, of one image, between two grids and between two rules
HALVINGS = 10  # at most: cells then are a thousandth of those of the survey
GROUP = 5000  # images at a time: they share what the decoder makes of a cell
# In deviations of the prior.  Of a decoder whose pixels are not independent, each image has to be asked for by itself.
# Grey levels tell more of z than bits, so that posteriors are narrower.
STEP, DEPENDENT_STEP, GREY_STEP = 1 / 16, 1 / 2, 1 / 4
EXTENT, MAX_EXTENT = 8, 8 * 2**10  # half the width of the survey's first square, and of the last one
# Nats below the highest cell at which a cell is left out.  In the survey a mode may lie between the cells' centres: at
# most 0.7 steps away, which is 30 nats for deviations of a tenth of a step.
SURVEY_MARGIN, MARGIN = 30, 14
CELLS_PER_CALL, PAIRS_PER_CALL = 2048, 4096
DENSE = 1 / 20  # of all pairs: from here on it is quicker to multiply matrices than to pick out the pairs
PRIOR_DRAWS = 4000
GAUSS = (0.5 - 0.5 / np.sqrt(3), 0.5 + 0.5 / np.sqrt(3))  # two points a cell and axis, exact for cubics


class Integral(NamedTuple):
    """log p(x) of N images, and how far two checks of it are off, each [N], nats.

    log_px: by cells small enough.
    grid_difference: between these and cells of twice the size.
    rule_difference: between these and Gauss-Legendre points, two a cell and axis, in cells of twice the size.
    """

    log_px: np.ndarray
    grid_difference: np.ndarray
    rule_difference: np.ndarray


def applies(model: LatentVariableModel) -> bool:
    """Whether the model has few enough latents, and one p(x) for all classes."""
    return model.latent_size <= MAX_LATENTS and not model.takes_labels


def log_prob(model: LatentVariableModel, images: np.ndarray, label: str) -> Integral:
    """log p(x) = log of the integral of p(x | z) p(z) over z.

    Args:
      model: with MAX_LATENTS latents at most.
      images: [N, H, W, C], of bits or levels: p(x | z) is taken to be 1 at most, which bounds the space to search.
      label: of the progress bar.
    """
    joint = _Independent(model) if _logits_of(model) is not None else _Dependent(model)
    found = shards.rows(
        lambda _, group: _integrate(joint, tf.constant(group))._asdict(),
        eval_batches(images, GROUP),
        f"{label}, quadrature",
    )
    return Integral(**found)


class _Cells(NamedTuple):
    """Cells of one size, each with one image: [P] pairs.

    step: the length of an edge, in deviations of the prior.
    index: int32 [P, D]; the cell is step * index .. step * (index + 1).
    image: int32 [P].
    values: log p(x, z) at its centre, [P], nats.
    """

    step: float
    index: np.ndarray
    image: np.ndarray
    values: np.ndarray

    def within(self, margin: float, best: np.ndarray) -> "_Cells":
        """Those less than `margin` below the best, [B], of their image."""
        return self.where(self.values > best[self.image] - margin)

    def where(self, chosen: np.ndarray) -> "_Cells":
        return _Cells(self.step, *(part[chosen] for part in self[1:]))

    def halves(self) -> tuple[float, np.ndarray, np.ndarray]:
        """Step, index and image of the cells that these fall into when every edge is halved."""
        corners = np.array(list(itertools.product([0, 1], repeat=self.index.shape[1])), np.int32)
        index = (2 * self.index[:, None] + corners).reshape(-1, self.index.shape[1])
        return self.step / 2, index, np.repeat(self.image, len(corners))


class _Joint:
    """log p(x, z) on a lattice whose unit is the prior's deviation; subclasses say how p(x | z) is had."""

    def __init__(self, model: LatentVariableModel, step: float):
        """
        Args:
          model: of p(x | z) p(z).
          step: of the survey.
        """
        self.model, self.step, self.latent_size = model, step, model.latent_size
        draws = model.prior().sample(PRIOR_DRAWS, seed=tf.constant([0, 0])).numpy()
        low, self.centre, high = np.quantile(draws, [0.16, 0.5, 0.84], axis=0)
        self.unit = (high - low) / 2
        self.reach = np.abs((draws - self.centre) / self.unit).max()
        self.log_prior = tf.function(
            lambda z: model.prior().log_prob(z), autograph=model.autograph, reduce_retracing=True
        )

    def place(self, step: float, index: np.ndarray, offset) -> np.ndarray:
        """z at the offset, in [0, 1]^D, into each cell: [P, D]."""
        return (self.centre + self.unit * step * (index + offset)).astype(np.float32)

    def at(self, x: tf.Tensor, step: float, index: np.ndarray, image: np.ndarray, offset=0.5) -> np.ndarray:
        """log p(x, z) of pairs of a cell and an image, float32 [P], nats."""
        # The decoder sees each cell once, whatever the number of images that want it.
        shift = index.min(axis=0, initial=0)
        width = index.max(axis=0, initial=0) - shift + 1
        _, first, rows = np.unique(
            np.ravel_multi_index((index - shift).T, width), return_index=True, return_inverse=True
        )
        order = np.argsort(rows, kind="stable")
        bounds = np.searchsorted(rows[order], np.arange(0, len(first) + CELLS_PER_CALL, CELLS_PER_CALL))
        values = np.empty(len(index), np.float32)
        for number, (start, end) in enumerate(itertools.pairwise(bounds)):
            base = number * CELLS_PER_CALL
            z = self.place(step, index[first[base : base + CELLS_PER_CALL]], offset)
            chosen = order[start:end]
            own = rows[chosen] - base
            values[chosen] = self.log_prior(z).numpy()[own] + self.pairs(z, own, x, image[chosen])
        return values

    def everywhere(self, x: tf.Tensor, z: np.ndarray, log_prior: np.ndarray) -> np.ndarray:
        """log p(x, z) of every z [G, D] and every image [B, H, W, C]: [G, B], nats."""
        return log_prior[:, None] + self.grid(z, x)

    def halved(self, x: tf.Tensor, cells: _Cells) -> _Cells:
        """The cells, halved along every axis."""
        step, index, image = cells.halves()
        return _Cells(step, index, image, self.at(x, step, index, image))

    def log_sum(self, cells: _Cells, values: np.ndarray, batch: int) -> np.ndarray:
        """log of the sum of the cells' volumes times exp(values), by image: [B], nats; -inf where there are none."""
        best = _best(cells.image, values, batch)
        sums = np.bincount(cells.image, np.exp(values.astype(np.float64) - best[cells.image]), minlength=batch)
        with np.errstate(divide="ignore"):
            return best + np.log(sums) + np.log(cells.step * self.unit).sum()

    def rule(self, x: tf.Tensor, cells: _Cells, batch: int) -> np.ndarray:
        """log p(x) by Gauss-Legendre points in the cells, [B], nats."""
        offsets = itertools.product(GAUSS, repeat=self.latent_size)
        sums = [
            self.log_sum(cells, self.at(x, cells.step, cells.index, cells.image, np.array(offset)), batch)
            for offset in offsets
        ]
        return np.logaddexp.reduce(sums, axis=0) - np.log(len(sums))


def _logits_of(model: LatentVariableModel):
    """A function z [G, D] -> logits [G, pixels], if the pixels are independent bits given z; else None."""

    def pixels(z):
        return getattr(model.decoder(z), "distribution", None)

    if not isinstance(pixels(tf.zeros([1, model.latent_size])), tfd.Bernoulli):
        return None
    return lambda z: tf.reshape(pixels(z).logits_parameter(), [tf.shape(z)[0], -1])


class _Independent(_Joint):
    """Of pixels that are independent given z: their logits are those of all images, and the rest is a product."""

    def __init__(self, model: LatentVariableModel):
        super().__init__(model, STEP)
        logits_of = _logits_of(model)

        @tf.function(autograph=model.autograph, reduce_retracing=True)
        def decode(z):
            logits = logits_of(z)
            return logits, tf.reduce_sum(tf.nn.softplus(logits), axis=-1)

        @tf.function(autograph=model.autograph, reduce_retracing=True)
        def grid(logits, constant, x):
            return tf.matmul(logits, x, transpose_b=True) - constant[:, None]

        @tf.function(autograph=model.autograph, reduce_retracing=True)
        def pairs(logits, constant, rows, x, image):
            products = tf.gather(logits, rows) * tf.gather(x, image)
            return tf.reduce_sum(products, axis=-1) - tf.gather(constant, rows)

        self._decode, self._grid, self._pairs = decode, grid, pairs

    def grid(self, z, x):
        return self._grid(*self._decode(z), tf.reshape(x, [x.shape[0], -1])).numpy()

    def pairs(self, z, rows, x, image):
        logits, constant = self._decode(z)
        x = tf.reshape(x, [x.shape[0], -1])
        seen, column = np.unique(image, return_inverse=True)
        if len(rows) > DENSE * len(z) * len(seen):
            return self._grid(logits, constant, tf.gather(x, seen)).numpy()[rows, column]
        return _in_pieces(lambda rows, image: self._pairs(logits, constant, rows, x, image), rows, image)


class _Dependent(_Joint):
    """Of any other decoder: asked for every pair."""

    def __init__(self, model: LatentVariableModel):
        super().__init__(model, DEPENDENT_STEP if model.draws_bits else GREY_STEP)
        self._log_prob = tf.function(
            lambda z, x: model.decoder(z).log_prob(x), autograph=model.autograph, reduce_retracing=True
        )

    def grid(self, z, x):
        rows, image = (part.reshape(-1) for part in np.indices([len(z), len(x)]))
        return self.pairs(z, rows, x, image).reshape(len(z), len(x))

    def pairs(self, z, rows, x, image):
        return _in_pieces(lambda rows, image: self._log_prob(tf.gather(z, rows), tf.gather(x, image)), rows, image)


def _in_pieces(function, *parts: np.ndarray) -> np.ndarray:
    """function(*parts), PAIRS_PER_CALL of them at a time."""
    cuts = [slice(i, i + PAIRS_PER_CALL) for i in range(0, len(parts[0]), PAIRS_PER_CALL)]
    pieces = [function(*(part[cut].astype(np.int32) for part in parts)).numpy() for cut in cuts]
    return np.concatenate([np.zeros(0, np.float32), *pieces])


def _best(image: np.ndarray, values: np.ndarray, batch: int) -> np.ndarray:
    """The highest value of each image, [B]; the lowest finite number where there is none."""
    best = np.full(batch, np.finfo(np.float32).min)
    np.maximum.at(best, image, values)
    return best


def _integrate(joint: _Joint, x: tf.Tensor) -> Integral:
    """Of the images x [B, H, W, C]."""
    batch = len(x)
    coarse, fine = _survey(joint, x)
    pending = np.ones(batch, bool)
    found = Integral(*np.zeros([3, batch]))
    for halving in range(HALVINGS + 1):
        log_px = joint.log_sum(fine, fine.values, batch)
        with np.errstate(invalid="ignore"):  # of images that have no cells any more
            difference = np.abs(log_px - joint.log_sum(coarse, coarse.values, batch))
            checked = pending & ((difference < TOLERANCE) | (halving == HALVINGS))
            own = coarse.where(checked[coarse.image])
            own = own.within(MARGIN, _best(own.image, own.values, batch))
            by_rule = np.abs(log_px - joint.rule(x, own, batch))
        done = checked & ((by_rule < TOLERANCE) | (halving == HALVINGS))
        for part, own in zip(found, (log_px, difference, by_rule), strict=True):
            part[done] = own[done]
        pending &= ~done
        if not pending.any():
            break
        coarse = fine.where(pending[fine.image])
        fine = joint.halved(x, coarse)
        fine = fine.within(MARGIN, _best(fine.image, fine.values, batch))
    return found


def _survey(joint: _Joint, x: tf.Tensor) -> tuple[_Cells, _Cells]:
    """The cells that may hold an image's mass: those of twice the step, and those of the step.

    Squares of 2 EXTENT units to a side, then of twice as many with cells of twice the size, and so on, until the prior
    alone says that nothing further out matters.
    """
    best, squares = np.full(len(x), -np.inf), []
    count = int(EXTENT / joint.step)
    axes = np.meshgrid(*joint.latent_size * [np.arange(-count, count, dtype=np.int32)], indexing="ij")
    square = np.stack(axes, axis=-1).reshape(-1, joint.latent_size)
    inner = ((square >= -count // 2) & (square < count // 2)).all(axis=1)  # what the square before covers
    extent = EXTENT
    while extent <= MAX_EXTENT:
        step = joint.step * extent / EXTENT
        index = square if len(squares) < 2 else square[~inner]
        z = joint.place(step, index, 0.5)
        log_prior = joint.log_prior(z).numpy()
        if len(squares) > 1 and extent / 2 > joint.reach and log_prior.max() < best.min() - SURVEY_MARGIN:
            break
        cells = _survey_square(joint, x, z, log_prior, best)
        squares.append(_Cells(step, index[cells[0]], *cells[1:]))
        extent *= 2
    squares = [cells.within(SURVEY_MARGIN, best) for cells in squares]
    further = None
    for level in reversed(range(len(squares))):
        cells = squares[level]
        if further is not None:
            halved = joint.halved(x, further)
            np.maximum.at(best, halved.image, halved.values)
            cells = _Cells(cells.step, *(np.concatenate(pair) for pair in zip(cells[1:], halved[1:], strict=True)))
        cells = cells.within(SURVEY_MARGIN, best)
        squares[level] = cells
        outside = ((cells.index < -count // 2) | (cells.index >= count // 2)).any(axis=1)
        further = cells.where(outside)
    return squares[1], squares[0]


def _survey_square(joint, x, z, log_prior, best):
    """Rows of z, images and values of the cells less than SURVEY_MARGIN below the best, which is brought up to date."""
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))]
    order = np.argsort(-log_prior, kind="stable")  # the likeliest first, so that the bound below soon bites
    for start in range(0, len(order), CELLS_PER_CALL):
        rows = order[start : start + CELLS_PER_CALL]
        # No more than log p(z) is to be had here, as p(x | z) is 1 at most.
        images = np.flatnonzero(log_prior[rows[0]] > best - SURVEY_MARGIN).astype(np.int32)
        if not len(images):
            break
        own = x if len(images) == len(best) else tf.gather(x, images)
        values = joint.everywhere(own, z[rows], log_prior[rows])
        best[images] = np.maximum(best[images], values.max(axis=0))
        row, column = np.nonzero(values > best[images] - SURVEY_MARGIN)
        found.append((rows[row], images[column], values[row, column]))
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]
