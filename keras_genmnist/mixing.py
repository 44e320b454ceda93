"""`genmnist mix`: trained runs as one model, which is better than each of them where they err elsewhere."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_genmnist import config as configs
from keras_genmnist import files, progress, runs
from keras_genmnist.datasets import eval_batches
from keras_genmnist.errors import UsageError
from keras_genmnist.likelihood import BATCH
from keras_genmnist.models import average, mixture
from keras_genmnist.models.base import GenerativeModel
from keras_genmnist.runs import Run
from keras_genmnist.sweep import paired

MODELS = {"images": mixture, "places": average}  # of which the average is taken
SMALLEST = 1e-6  # share: a model that is worth none on these images may be on others
PRECISION = 1e-9  # nats an image or a place, by which the last step of EM raised the likelihood


def mix(those: Sequence[Run], workdir: Path, num_draws: int, command: str, of: str = "images") -> Run:
    """Makes a run of the average of others, with the shares under which validation images are the likeliest.

    It is evaluated, drawn from, exported and served as any other; it cannot be trained on.

    Args:
      those: trained runs of the same images.
      workdir: of the new run.
      num_draws: of the importance-weighted likelihoods, where one is not known exactly.
      command: what was typed, for the record.
      of: what is averaged, of MODELS: the densities of images, which makes a mixture, or of each place, given those
        before it.
    Raises:
      UsageError: if there are fewer than two runs, one is given twice, they are of other images or binarizations, the
        directory holds a run already, or a model does not fit, see `mixture.of` and `average.of`.
      Fault: if the data or the weights of a run are damaged, or no epoch is finished.
    """
    first = _require_alike(those)
    if runs.exists(workdir):
        raise UsageError(f"{workdir} holds a run already: give another --workdir")
    components = [runs.load_model(run) for run in those]
    even = MODELS[of].of(components, np.full(len(those), 1 / len(those)))
    split = runs.load_data(first).validation
    validation = split.scored(first.config.binarization)
    for run in those:
        if not np.array_equal(split.scored(run.config.binarization), validation):
            raise UsageError(
                f"{run.workdir} has config.binarization={run.config.binarization} and {first.workdir} has "
                f"{first.config.binarization}, so that they are scored on other pixels: give runs of the same"
            )
    log_px = _log_likelihoods(even, validation, num_draws)
    shares = em(log_px.reshape(len(those), -1))
    model, name = MODELS[of].of(components, shares), "mixture" if of == "images" else "average"
    config = configs.training(
        name,
        **{field: first.config[field] for field in ("dataset", "image_size", "invert", "binarization")},
        components=[run.config.to_dict() for run in those],
        commands=[run.command for run in those],
        shares=shares.tolist(),
        epochs=len(those) + 1,
    )
    made = Run(workdir, name, config, command, runs.commit(), data=first.data)
    with runs.lock(workdir):
        runs.save(runs.scored(model.weights, model.weights), made.best, max_to_keep=1, number=config.epochs)
        rows = _rows(those, np.concatenate([log_px, mixed(log_px, shares)[None]]).sum(axis=2), model)
        files.write(made.metrics_jsonl, "".join(json.dumps(row) + "\n" for row in rows).encode())
        runs.record(made)  # last: what is killed before leaves no run behind
    print(f"{table(those, log_px, shares)}\nwrote {workdir}: evaluate it by {_evaluate(workdir)}")
    return made


def _require_alike(those: Sequence[Run]) -> Run:
    """The first of the runs; raises UsageError unless all are of the same images, binarized alike."""
    if len({run.identity for run in those}) < max(2, len(those)):
        raise UsageError(f"--workdirs={','.join(str(run.workdir) for run in those)}: give two runs or more, each once")
    # Runs of earlier versions do not say what they learned from.
    first, *others = (replace(run, data=run.data or runs.describe(runs.load_data(run))) for run in those)
    for run in others:
        if run.data["sha256"] != first.data["sha256"]:
            raise UsageError(f"{run.workdir} learned from other images than {first.workdir}: give runs of the same")
    for run in those:
        if run.own or run.source:
            raise UsageError(f"{run.workdir} is of a model of your own, whose code a mixture would not have")
        if "components" in run.config:
            raise UsageError(f"{run.workdir} is made of others itself: give the runs that it is of")
    return first


def _log_likelihoods(model: GenerativeModel, x: np.ndarray, num_draws: int) -> np.ndarray:
    """log p_m, or its estimate, of each image or of its places: float64 [M, N, 1 or places], nats."""
    measure = tf.function(model.by_component, autograph=model.autograph, reduce_retracing=True)
    batches = progress.batches(eval_batches(x, BATCH), "validation")
    parts = [measure(x, tf.constant(num_draws), tf.constant([0, b])).numpy() for b, x in enumerate(batches)]
    log_px = np.concatenate(parts, axis=1).astype(np.float64)
    return log_px.reshape(*log_px.shape[:2], -1)


def em(log_px: np.ndarray) -> np.ndarray:
    """The shares of a mixture that make images the likeliest: expectation maximisation, whose limit is the maximum.

    Args:
      log_px: log p_m(x) of M models and N images or places, [M, N], nats.
    Returns:
      [M], with sum 1.
    """
    shares, before = np.full(len(log_px), 1 / len(log_px)), -np.inf
    while (reached := mixed(log_px, shares).mean()) > before + PRECISION:
        before = reached
        shares = np.exp(np.log(shares)[:, None] + log_px - mixed(log_px, shares)).mean(axis=1)
        shares = np.maximum(shares, SMALLEST) / np.maximum(shares, SMALLEST).sum()
    return shares


def mixed(log_px: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """log sum{ s[m] p_m(x) : m }, [M, ...] and [M] -> [...], nats."""
    return np.logaddexp.reduce(np.log(shares).reshape(-1, *(log_px.ndim - 1) * [1]) + log_px, axis=0)


def _rows(those: Sequence[Run], log_px: np.ndarray, model) -> list[dict]:
    """What metrics.jsonl says: a row for each run, as if it were an epoch, and one for the mixture."""
    quantity, sign = ("val_nll", -1) if model.likelihood == "exact" else ("val_elbo", 1)
    rows = []
    for number, (run, score) in enumerate(zip([*those, None], sign * log_px.mean(axis=1), strict=True), 1):
        own = runs.read_metrics(run) if run else []
        # Of commits that trained a run, one whose code had changes tells most.
        commits = sorted((row.get("commit", run.commit) for row in own), key=lambda commit: commit.endswith("+"))
        origin = {"machine": own[-1].get("machine"), "commit": commits[-1]} if own else runs.origin()
        seconds = sum(row["seconds"] for row in own)
        rows.append({"epoch": number, "step": 0, quantity: float(score), "seconds": seconds, **origin})
    return rows


def table(those: Sequence[Run], log_px: np.ndarray, shares: np.ndarray) -> str:
    """A row for each run and one for all together, of the validation images."""
    together, log_px = mixed(log_px, shares).sum(axis=1), log_px.sum(axis=2)
    best, name = log_px[log_px.mean(axis=1).argmax()], "together"
    width = max(len(name), *(len(run.title) for run in those))
    lines = [f"{'':{width}}  share  validation NLL, nats"]
    lines += [
        f"{run.title:{width}}  {share:5.3f}  {-own.mean():.2f}"
        for run, share, own in zip(those, shares, log_px, strict=True)
    ]
    gain = paired(best[None], together[None])
    lines.append(f"{name:{width}}         {-together.mean():.2f}, better than the best by {gain['mean']:.2f} ")
    return "\n".join(lines) + f"+- {gain['se_images']:.2f}"


def _evaluate(workdir: Path) -> str:
    return f"`{shlex.join(['genmnist', 'evaluate', f'--workdir={workdir}'])}`"
