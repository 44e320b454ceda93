"""`genmnist gap`: how far below log p(x) a trained model's ELBO is, and why.

log p(x) - L[q] = (log p(x) - L[q*]) + (L[q*] - L[q]), the approximation gap of a family and the amortization gap of the
encoder: L is the ELBO, q the encoder's posterior, q* the best of the family for the image, found by gradient ascent.

Source: Cremer et al. (2018), "Inference Suboptimality in Variational Autoencoders", section 3, arxiv.org/abs/1801.03558
"""

from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from matplotlib.figure import Figure

from keras_genmnist import annealing, bounds, migrations, progress, runs
from keras_genmnist.bounds import LogTerms
from keras_genmnist.datasets import eval_batches
from keras_genmnist.distributions import base_of, require_gaussian
from keras_genmnist.errors import UsageError
from keras_genmnist.evaluate import provenance, require_commits, write_result
from keras_genmnist.figures import plain, save
from keras_genmnist.flows import Planar
from keras_genmnist.inference import GradientAscent
from keras_genmnist.likelihood import mean_and_error
from keras_genmnist.models.base import LatentVariableModel
from keras_genmnist.runs import Run

tfb, tfd = tfp.bijectors, tfp.distributions

BATCH = 100
DRAWS, DRAWS_PER_CALL = 5_000, 50  # of every ELBO in the table and of log p(x), as section 5.1
PLANES = 10  # planar maps
RATES = (0.02, 0.005, 0.001)  # of Adam: each until the ascent has converged, for a longer step may only lose by then
ROUND, ROUNDS = 200, 25  # steps between two looks; looks at most
ASCENT_DRAWS, LOOKING_DRAWS = 4, 200
CONVERGED, PATIENCE = 0.01, 5  # an ascent ends once so many rounds gain less than so many nats each, on average
SEED = 3435
LEVELS = {  # the highest first
    "log_px": "log p(x)",
    "planar": "ELBO, best with planar maps",
    "best": "ELBO, best of the family",
    "amortized": "ELBO, the model's own",
}
GAPS = {  # label, and between which levels
    "approximation": ("approximation gap", "log_px", "best"),
    "planar_approximation": ("approximation gap with planar maps", "log_px", "planar"),
    "amortization": ("amortization gap", "best", "amortized"),
}


def posterior(model: LatentVariableModel, x: tf.Tensor, parameters: list[tf.Tensor]) -> tfd.Distribution:
    """A posterior with parameters of its own for each image.

    Args:
      model: with one layer of latents.
      x: images [B, H, W, C], of the values that the model has a likelihood of.
      parameters: mean, log scale [B, D] of a Gaussian and, if more, u, w [B, K, D], b [B, K] of planar maps of it; the
        flow of the encoder's posterior, where it has one, comes last.
    Returns:
      Distribution, batch [B], event [D].
    """
    mean, log_scale, *planes = parameters
    base = tfd.Independent(tfd.Normal(mean, tf.exp(log_scale)), reinterpreted_batch_ndims=1)
    steps = [Planar(*step) for step in zip(*(tf.unstack(values, axis=1) for values in planes), strict=True)]
    own = model.encoder(x)
    if base_of(own) is not own:
        steps.append(own.bijector)
    return tfd.TransformedDistribution(base, tfb.Chain(steps[::-1])) if steps else base


def amortized(model: LatentVariableModel, x: tf.Tensor) -> list[tf.Tensor]:
    """The parameters with which `posterior` is the encoder's."""
    own = model.encoder(x)
    require_gaussian(own)
    base = base_of(own)
    return [base.mean(), tf.math.log(base.stddev())]


def with_planes(parameters: list[tf.Tensor]) -> list[tf.Tensor]:
    """The same posterior with PLANES planar maps that are the identity so far."""
    batch, latent_size = parameters[0].shape
    w = 0.1 * tf.random.stateless_normal([batch, PLANES, latent_size], [SEED, 0])
    return [*parameters, tf.zeros_like(w), w, tf.zeros([batch, PLANES])]


class Search:
    """Looks for the posterior of the highest ELBO, image by image."""

    def __init__(self, model: LatentVariableModel):
        self.model, self.ticker = model, progress.Ticker()
        self.terms = tf.function(self._terms, autograph=model.autograph, reduce_retracing=True)
        self.ascend = tf.function(self._ascend, autograph=model.autograph)
        self.lower = tf.function(annealing.lower, autograph=model.autograph)

    def _terms(self, x: tf.Tensor, parameters: list[tf.Tensor], num_draws: int, seed: tf.Tensor) -> LogTerms:
        q = posterior(self.model, x, parameters)
        z, log_posterior = q.experimental_sample_and_log_prob(num_draws, seed=seed)
        return LogTerms(self.model.decoder(z).log_prob(x), self.model.prior().log_prob(z), log_posterior)

    def _ascend(self, x: tf.Tensor, parameters: list[tf.Tensor], seed: tf.Tensor, rate: tf.Tensor) -> list[tf.Tensor]:
        def gradient(values, t):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(values)
                elbo = bounds.elbo(self._terms(x, values, ASCENT_DRAWS, tf.stack([seed, t])))
            return tape.gradient(elbo, values)

        return GradientAscent(ROUND, "adam", rate).maximise(gradient, parameters)

    def best(self, x: tf.Tensor, start: list[tf.Tensor]) -> list[tf.Tensor]:
        """The parameters where each image's ascent was highest, by draws that are always the same."""

        def look(parameters):
            return bounds.elbo(self.terms(x, parameters, LOOKING_DRAWS, tf.constant([SEED, 1])))

        kept, elbo = start, look(start)
        for number, rate in enumerate(RATES):
            end, waited = kept, 0
            for looks in range(ROUNDS):
                # From where the last round ended, also if that was lower: the first steps of Adam may lead down.
                end = self.ascend(x, end, tf.constant(ROUNDS * number + looks), tf.constant(rate))
                reached = look(end)
                better = reached > elbo
                kept = [
                    tf.where(tf.reshape(better, [-1] + [1] * (a.shape.rank - 1)), b, a)
                    for a, b in zip(kept, end, strict=True)
                ]
                gained = tf.reduce_mean(tf.where(better, reached - elbo, 0.0))
                elbo = tf.maximum(reached, elbo)
                self.ticker.tell(f"ELBO {elbo.numpy().mean():.2f}, {ROUND * (looks + 1)} steps at {rate}")
                waited = waited + 1 if gained < CONVERGED else 0
                if waited == PATIENCE:
                    break
        return kept

    def scores(self, x: tf.Tensor, parameters: list[tf.Tensor]) -> tuple[np.ndarray, np.ndarray]:
        """ELBO and importance-weighted log p(x) by DRAWS new draws: [B] each, nats."""
        parts = []
        for start in range(0, DRAWS, DRAWS_PER_CALL):
            self.ticker.tell(f"{start} of {DRAWS} draws")
            parts.append(bounds.log_weights(self.terms(x, parameters, DRAWS_PER_CALL, tf.constant([SEED + 1, start]))))
        weights = np.concatenate(parts).astype(np.float64)
        return weights.mean(axis=0), np.logaddexp.reduce(weights, axis=0) - np.log(len(weights))


def measure(search: Search, images: np.ndarray, label: str, step: float) -> dict[str, np.ndarray]:
    """The LEVELS of images.

    log p(x) is estimated by importance weights from each of the posteriors and by annealing, all below it in
    expectation.  Of every second image, that estimate is taken which is highest on average over the other ones: the
    highest of the same images would gain from its own luck, and might be above.

    Args:
      search: of a model with one layer of latents.
      images: [N, H, W, C], of the values that the model has a likelihood of.
      label: of the progress bar.
      step: of annealing's moves.
    Returns:
      [N] each, nats.
    """
    columns = []
    for batch in progress.batches(eval_batches(images, BATCH), label):
        x = tf.constant(batch)
        start = amortized(search.model, x)
        best = search.best(x, start)
        found = {"amortized": start, "best": best, "planar": search.best(x, with_planes(best))}
        scores = [search.scores(x, parameters) for parameters in found.values()]
        elbos, estimates = zip(*scores, strict=True)
        search.ticker.tell("annealing")
        columns.append([*elbos, *estimates, search.lower(search.model, x, SEED, tf.constant(step)).numpy()])
    elbos, estimates = np.split(np.concatenate(columns, axis=1), [len(found)])
    return {"log_px": highest_elsewhere(estimates)} | dict(zip(found, elbos, strict=True))


def highest_elsewhere(estimates: np.ndarray) -> np.ndarray:
    """Of every second image the estimate that is highest over the other ones.  [E, N], N > 1 -> [N]"""
    chosen = np.empty_like(estimates[0])
    for own, others in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        chosen[own] = estimates[estimates[:, others].mean(axis=1).argmax(), own]
    return chosen


def sandwich(model: LatentVariableModel, count: int, step: float) -> dict[str, np.ndarray]:
    """Annealing both ways, of images that the model draws: `lower` and `upper` enclose log p(x), [count] each, nats."""
    x, z = annealing.simulate(model, count, SEED)
    estimates = {
        "lower": tf.function(annealing.lower, autograph=model.autograph)(model, x, SEED, tf.constant(step)),
        "upper": tf.function(annealing.upper, autograph=model.autograph)(model, x, z, SEED, tf.constant(step)),
    }
    return {name: values.numpy() for name, values in estimates.items()}


def gap(run: Run, num_images: int, results: bool, out: Path) -> dict:
    """Measures a run's gaps on the first images of the training and the test split, prints a table, draws a figure.

    Args:
      run: a trained run of a model with one layer of latents.
      num_images: of each split.
      results: also write results/NAME_gap.json, with the name of the run's directory.
      out: the folder of NAME_gap.png, named likewise.
    Returns:
      What is written.
    Raises:
      UsageError: if the model has no such latents, a split has fewer images, or `results` wanted of code in no commit.
      Fault: if the data or the run's weights are damaged, or no epoch is finished.
    """
    if results:
        require_commits(run)
    model, dataset = runs.load_model(run), runs.load_data(run)
    if not model.has_posterior:
        raise UsageError(f"{run.name} has no such gap: give a run of a VAE with one layer of latents")
    if model.takes_labels:
        raise UsageError(f"{run.name} is class-conditional, and the gap is measured of p(x) alone: give another run")
    splits = {name: getattr(dataset, name).scored(run.config.binarization) for name in ("train", "test")}
    fewest = min(len(images) for images in splits.values())
    if num_images > fewest:
        raise UsageError(f"--num_images={num_images} is out of range: give 2 to {fewest}")
    record = {
        "model": run.name,
        "schema": migrations.SCHEMA,
        "config": run.config.to_dict(),
        "num_images": num_images,
        **provenance(run),
        "command": run.command,
    }
    step = annealing.step_size(model, SEED + 1)  # on other images than those of the check below
    search = Search(model)
    for split, images in splits.items():
        print(f"measuring {num_images} {split} images", flush=True)
        levels = measure(search, images[:num_images], split, step)
        gaps = {name: mean_and_error(levels[high] - levels[low]) for name, (_, high, low) in GAPS.items()}
        record[split] = {name: mean_and_error(values) for name, values in levels.items()} | {"gaps": gaps}
    print("checking log p(x) by annealing both ways", flush=True)
    enclosed = sandwich(model, min(num_images, BATCH), step)
    record["annealing"] = {name: mean_and_error(values) for name, values in enclosed.items()}
    print(table(record))
    save(figure(record), out / f"{run.title}_gap.png")
    if results:
        write_result(run, record, "_gap")
    return record


def table(record: dict) -> str:
    """The record's numbers, a row a quantity, a column a split."""
    heads = [f"{_subject(record)}, {record['num_images']} images", "train", "test"]
    rows = [(label, [record[split][name] for split in ("train", "test")]) for name, label in LEVELS.items()]
    rows += [
        (label, [record[split]["gaps"][name] for split in ("train", "test")]) for name, (label, *_) in GAPS.items()
    ]
    lines = [f"{heads[0]:40}" + "".join(f"{head:>18}" for head in heads[1:])]
    for label, cells in rows:
        lines.append(f"{label:40}" + "".join(f"{cell['mean']:>10.2f} +- {cell['se']:.2f}" for cell in cells))
    low, high = (record["annealing"][name]["mean"] for name in ("lower", "upper"))
    lines.append(f"annealing check, of the model's own samples: log p(x) is between {low:.2f} and {high:.2f} nats")
    return "\n".join(lines)


def _subject(record: dict) -> str:
    config = record["config"]
    pixels = ", grey levels" if config["binarization"] == "none" else ""
    return f"{record['model']} on {config['dataset']}{pixels}"


def figure(record: dict) -> Figure:
    """What each image loses on average, in nats: by what no posterior here can express, and by the encoder."""
    parts = [("log_px", "planar"), ("planar", "best"), ("best", "amortized")]
    labels = ["left by planar maps", "closed by planar maps", "amortization"]
    drawn = Figure(figsize=(7, 3), layout="constrained")
    axis = drawn.subplots()
    for split, place in (("test", 0), ("train", 1)):
        left = 0.0
        for (high, low), label, colour in zip(parts, labels, ("C0", "C9", "C1"), strict=True):
            width = record[split][high]["mean"] - record[split][low]["mean"]
            axis.barh(place, width, height=0.5, left=left, color=colour, label=label if place else None)
            axis.text(left + width / 2, place + 0.28, f"{width:.2f}", ha="center", va="bottom")
            left += width
    axis.set(ylim=(-0.4, 1.6), yticks=[0, 1], yticklabels=["test", "train"], xlabel="log p(x) - ELBO (nats per image)")
    drawn.legend(loc="outside lower center", ncols=3, frameon=False)
    drawn.suptitle(plain(f"Approximation and amortization gap, {_subject(record)}"), fontsize=11)
    return drawn
