"""`genmnist evaluate`: one protocol for every model.

Where a model has a likelihood, nats per image on the reference binarization, or of grey levels also bits per dimension,
as the record and the head of the table say; for all, how their samples look to the classifiers of judges.py, or without
any how their pixels compare.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from keras_genmnist import (
    cluster,
    device,
    files,
    judges,
    likelihood,
    migrations,
    quadrature,
    quality,
    runs,
    shards,
)
from keras_genmnist.datasets import Dataset, spec_in
from keras_genmnist.errors import UsageError
from keras_genmnist.models.base import GenerativeModel
from keras_genmnist.proposals import PROPOSALS
from keras_genmnist.runs import Run

NUM_DRAWS = 1000
SAMPLES_PER_CALL = 500
LISTED = 20  # classes in the table; of more, it has the mean alone
SAMPLES = ("samples", "samples_raw", "samples_binary", "samples_grey")  # scores of them in a record
VALIDATION_DRAWS = 100  # it tells runs apart, it is not reported; all of --num_draws would double the time


def evaluate(
    run: Run,
    num_draws: int | None,
    results: bool = False,
    proposal: str = "posterior",
    per_image: Path | None = None,
    strategy: tf.distribute.Strategy | None = None,
) -> dict:
    """Scores a run, prints a table and writes metrics.json.

    Args:
      run: a trained run.
      num_draws: draws of the importance-weighted likelihood, NUM_DRAWS by default; on the validation split at most
        VALIDATION_DRAWS.  Of a model with few latents, None has the likelihood found by quadrature.  Of a model
        that knows a bound, what its `bound_terms` are the mean of, `bound_draws` by default.
      results: also write results/NAME.json, with the name of the run's directory.
      proposal: of proposals.PROPOSALS, where these draws come from.
      per_image: also write what is known of each test image to this file, .csv or .npz.
      strategy: of several devices or workers, which share the batches of images; the first worker alone writes.
    Returns:
      What is written.
    Raises:
      UsageError: if num_draws, proposal or per_image means nothing for the model, the draws do not fit in memory, or
        `results` wanted of code in no commit.
      Fault: if the data or the run's weights are damaged, no epoch is finished, or another worker is lost.
    """
    with shards.over(strategy):
        if strategy:
            print(f"evaluating {run.name} on {cluster.description(strategy)}{device.description()}", flush=True)
        record = _evaluate(run, num_draws, results, proposal, per_image, cluster.is_chief(strategy))
    if number := cluster.number_of(strategy):
        print(f"worker {number} has ended with worker 0")
    return record


def _evaluate(
    run: Run, num_draws: int | None, results: bool, proposal: str, per_image: Path | None, writes: bool
) -> dict:
    """See `evaluate`; what is not to write only computes its share."""
    if results:
        require_commits(run)
    model = runs.load_model(run)
    integrate = _check_flags(run.name, model, num_draws, proposal, per_image)
    if model.likelihood == "importance":
        likelihood.require_memory(num_draws or NUM_DRAWS)
    dataset = runs.load_data(run)
    rows = runs.history(run, model)
    record = {
        "model": run.name,
        "schema": migrations.SCHEMA,
        "config": run.config.to_dict(),
        "dataset": run.spec.name,
        "data": run.data or runs.describe(dataset),
        "binarization": run.binarization,
        "seed": run.config.seed,
        "train_seconds": round(sum(row["seconds"] for row in rows), 1),
        "peak_memory_bytes": max(row.get("peak_memory_bytes", 0) for row in rows) or None,
        "epochs": rows[-1]["epoch"],
        "best_epoch": max(rows, key=model.score)["epoch"],
        "parameters": model.num_parameters,
        **provenance(run),
        "command": run.command,
        "weights": _weights(run.config),
    }
    measured = {}
    if model.likelihood == "importance":
        draws = num_draws or NUM_DRAWS
        for name, number in (("validation", min(draws, VALIDATION_DRAWS)), ("test", draws)):
            images, labels = _scored(model, dataset, name, run)
            measured[name] = likelihood.weighted(model, images, number, name, proposal, integrate, labels)
    elif model.likelihood == "exact":
        for name in ("validation", "test"):
            measured[name] = likelihood.exact(model, *_scored(model, dataset, name, run))
    elif model.likelihood == "bound":
        any_order = hasattr(model, "log_prob_in_order")
        for name, orders in (("validation", 0), ("test", likelihood.ORDERS if any_order else 0)):
            images, labels = _scored(model, dataset, name, run)
            draws = num_draws or model.bound_draws
            measured[name] = likelihood.bounded(model, images, draws, name, orders, labels)
    record |= {name: own.scores for name, own in measured.items()}
    if writes:
        files.write_json(run.metrics_json, record)  # before the samples, which can fail: the likelihood took longer
        if per_image:
            likelihood.write(per_image, measured["test"].per_image, dataset.test.labels)
    record |= quality_of_samples(run, model, dataset)
    if not writes:
        return record
    files.write_json(run.metrics_json, record)
    print(table(record))
    if (dataset.spec.num_classes or 1) > 1 and judges.name(dataset) is None:
        config = run.config
        runs.warn(
            f"no classifier judges {run.spec.name} yet, so samples are compared by their pixels alone: "
            f"`{judges.command(config.dataset, config.image_size, config.invert)}` trains one in minutes"
        )
    if "test" in record and (doubt := likelihood.doubt(record["test"])):
        runs.warn(doubt)
    print(f"wrote {run.metrics_json}")
    if results:
        write_result(run, record)
    return record


def _scored(model: GenerativeModel, dataset: Dataset, name: str, run: Run) -> tuple[np.ndarray, np.ndarray | None]:
    """The images of a split that the model is scored on, and their labels where it takes them."""
    split = getattr(dataset, name)
    return split.scored(run.config.binarization), split.labels if model.takes_labels else None


def _check_flags(
    name: str, model: GenerativeModel, num_draws: int | None, proposal: str, per_image: Path | None
) -> bool:
    """Whether the likelihood is found by quadrature; refuses flags that mean nothing for the model."""
    if num_draws is not None and num_draws < 1:
        raise UsageError(f"--num_draws={num_draws} is out of range: give 1 or more")
    if proposal not in PROPOSALS:
        raise UsageError(f"--proposal={proposal} is not known: give {' or '.join(PROPOSALS)}")
    given = {"num_draws": num_draws, "proposal": None if proposal == "posterior" else proposal}
    if model.likelihood == "importance":
        if given["proposal"] and model.orders > 1:  # each of its components would have some orders more often
            raise UsageError(f"--proposal={proposal} does not go with {model.orders} orders of pixels: leave it out")
        integrate = num_draws is None and quadrature.applies(model)
        if not (integrate and given["proposal"]):
            return integrate
        del given["num_draws"]
        reason = "its likelihood is found by quadrature, unless --num_draws=1000 asks for draws"
    elif model.likelihood == "exact":
        reason = "its likelihood is known exactly"
    elif model.likelihood == "bound":
        if model.bound_draws:
            del given["num_draws"]
        reason = "its bound has no posterior to draw from"
    else:
        reason = "it has no likelihood but is scored by its samples (Frechet distance, precision, recall, ...)"
        given["per_image"] = per_image
    for flag, value in given.items():
        if value:
            raise UsageError(f"--{flag}={value} means nothing for {name}: leave it out, {reason}")
    return False


def provenance(run: Run) -> dict:
    """What a record of the run comes from, for JSON.

    Returns:
      `trained`: each `machine` and each `commit` that trained an epoch, in turn; null where that is not known, as of
        runs that an earlier version trained.  `evaluated`: the machine and the commit of this process.
    Raises:
      Fault: if no epoch is finished.
    """
    rows = runs.history(run)
    machines, commits = ((row.get("machine") for row in rows), (row.get("commit", run.commit) for row in rows))
    trained = {"machine": list(dict.fromkeys(machines)), "commit": list(dict.fromkeys(commits))}
    return {"trained": trained, "evaluated": runs.origin()}


def require_commits(run: Run) -> None:
    """Checks that commits hold all the code that a result would come from, here and where the run was trained.

    Raises:
      UsageError: naming the commit that the code differs from.
    """
    found = provenance(run)
    places = [(f"the code that trained {run.workdir}", commit) for commit in found["trained"]["commit"]]
    for place, commit in [("this code", found["evaluated"]["commit"]), *places]:
        if commit.endswith("+"):
            advice = "commit it" if place == "this code" else "train again from a commit in another workdir"
            raise UsageError(
                f"--results names a commit, and {place} has changes since {commit[:-1]}: {advice}, or leave out "
                "--results"
            )


def write_result(run: Run, record: dict, kind: str = "") -> None:
    """Writes results/NAME[KIND][-DATASET].json, with the name of the run's directory; no DATASET is mnist."""
    suffix = "" if run.spec.name == "mnist" else f"-{run.spec.name.replace('/', '_')}"
    path = Path("results") / f"{run.title}{kind}{suffix}.json"
    files.write_json(path, record)
    print(f"wrote {path}")


def quality_of_samples(run: Run, model: GenerativeModel, dataset: Dataset) -> dict[str, dict]:
    """The scores of as many samples as there are test images, for JSON; like is compared with like.

    Args:
      run: the model's run.
      model: with the weights that are scored.
      dataset: the run's.
    Returns:
      `samples`: mean images, or the grey levels that a model without these draws, against grey levels; not of a model
        that draws pixel by pixel, and not where the test images are bits.  `samples_raw`: a GAN's, by the weights that
        the average is of, if they are there.  `samples_binary`: drawn bits against those that the likelihood is of.
        `samples_grey`: grey levels drawn by a model that has mean images too, against grey levels.  `pixels` of each
        says which.
    """
    drawn, found = draw(model, len(dataset.test.images)), {}
    asked = {"labels": drawn["labels"]} if model.takes_labels else {}
    if dataset.spec.values == "grey" and not model.pixel_by_pixel:
        pixels = {"pixels": "mean images" if model.mean_images else "grey levels"}
        found["samples"] = pixels | quality.score(drawn["probabilities"], dataset, **asked)
        if model.likelihood is None and runs.has_raw(run):  # samples are all that tells the kinds of weights apart
            raw = draw(runs.load_model(run, raw=True), len(dataset.test.images))
            found["samples_raw"] = pixels | quality.score(raw["probabilities"], dataset, **asked)
    if model.draws_bits:
        found["samples_binary"] = {"pixels": "drawn bits"} | quality.score(
            drawn["images"], dataset, run.config.binarization, **asked
        )
    elif model.mean_images:
        found["samples_grey"] = {"pixels": "drawn grey levels"} | quality.score(drawn["images"], dataset, **asked)
    return found


def draw(model: GenerativeModel, count: int, **given) -> dict[str, np.ndarray]:
    """`count` draws, always of the same seeds: float32 [count, H, W, C] each, as model.draw(seeds, **given).

    Of a model that takes labels also `labels`, [count], the classes that they were drawn of.
    """
    seeds = tf.stack([tf.zeros(count, tf.int32), tf.range(count)], axis=1)
    compiled = tf.function(model.draw, autograph=model.autograph, reduce_retracing=True)

    def draw_from(_, seeds):
        found = compiled(seeds, **given)
        return {name: found[name].numpy() for name in ("images", "probabilities")}

    drawn = shards.rows(
        draw_from, [seeds[i : i + SAMPLES_PER_CALL] for i in range(0, count, SAMPLES_PER_CALL)], "samples"
    )
    return drawn | ({"labels": model.random_labels(seeds).numpy()} if model.takes_labels else {})


class Table(NamedTuple):
    """Some of a record's numbers.

    head: what they are, in words.
    corner: what the rows are.
    columns: a split or a set of samples each.
    rows: by the name of a quantity, its values in the columns.
    """

    head: str
    corner: str
    columns: list[str]
    rows: dict[str, list[str]]

    def __str__(self) -> str:
        lines = [f"{self.corner:24}" + "".join(f"{column:>20}" for column in self.columns)]
        lines += [f"{name:24}" + "".join(f"{cell:>20}" for cell in cells) for name, cells in self.rows.items()]
        return "\n".join([self.head, *lines])


def table(record: dict) -> str:
    """The record's numbers in words."""
    head = f"{record['model']} on {record['dataset']}, epoch {record['best_epoch']} of {record['epochs']}"
    return "\n\n".join([head, *map(str, tables(record))])


def _weights(config: ConfigDict) -> str:
    """Which weights are scored: raw ones, or their running averages (ema); of a mixture, those of its models."""
    kinds = {"ema" if own["ema_decay"] else "raw" for own in config.get("components", [config])}
    return " and ".join(sorted(kinds))


def tables(record: dict) -> list[Table]:
    """The record's likelihoods and its scores of samples, those that it has: these may have been interrupted."""
    likelihoods = [_likelihood_table(record)] if "test" in record else []
    return likelihoods + ([_samples_table(record)] if not record.keys().isdisjoint(SAMPLES) else [])


def _likelihood_table(record: dict) -> Table:
    rows = likelihood.rows(record["test"])
    binarization = record["binarization"]
    scored = "threshold binarization" if binarization == "threshold" else "reference binarization"
    values = f"{binarization} training, {scored} scored"
    if binarization == "none":
        values = "trained and scored on grey levels"
    head = f"{values}, {record['weights']} weights"
    return _table(head, "nats per image", rows, {split: record[split] for split in ("validation", "test")})


def _samples_table(record: dict) -> Table:
    def seen(key, form):
        def cell(score):
            spread = score[key]["spread"]
            return f"{score[key]['mean']:{form}}" + (f" +- {spread:{form}}" if spread is not None else "")

        return cell

    def by_class(number):
        return lambda score: f"{score['frechet_by_class']['mean'][number]:.2f}"

    def parzen(score):
        return f"{score['parzen']['mean']:.1f} +- {score['parzen']['se']:.1f} nats" if "parzen" in score else ""

    rows = {
        "Frechet distance": seen("frechet", ".2f"),
        "  of training images": seen("frechet_floor", ".2f"),
        "  ratio of the two": seen("frechet_ratio", ".1f"),
        "precision": seen("precision", ".1%"),
        "recall": seen("recall", ".1%"),
    }
    by_judges = {
        "rarest class": seen("rarest_class", ".1%"),
        "commonest class": seen("commonest_class", ".1%"),
        "KL of classes, nats": seen("class_kl", ".4f"),
        "confident": seen("confident_share", ".1%"),
    }
    scores = {name: record[name] for name in SAMPLES if name in record}
    weights = {"samples_raw": "raw"}
    columns = {f"{score['pixels']}, {weights.get(name, record['weights'])}": score for name, score in scores.items()}
    first = next(iter(scores.values()))
    if "judges" not in first:
        head = "samples against test images, by their pixels alone: no classifier judges these images"
    elif (count := len(first["judges"])) == 1:
        head, rows = "samples against test images, by one judge", rows | by_judges
    else:
        head = f"samples against test images: mean +- spread over {count} judges; what differs by less is equal"
        rows |= by_judges
    if "class_asked_for" in first:
        rows |= {"class asked for": seen("class_asked_for", ".1%")}
    if "frechet_by_class" in first:
        names = spec_in(record).classes
        of_class = {f"  {name}": number for number, name in enumerate(names)} if len(names) <= LISTED else {}
        rows |= {"Frechet, mean of classes": lambda score: f"{np.mean(score['frechet_by_class']['mean']):.2f}"}
        rows |= {f"{label:.23}": by_class(number) for label, number in of_class.items()}
    if any("parzen" in score for score in scores.values()) or "judges" in first:
        rows["Parzen windows"] = parzen
    return _table(head, f"{first['num_samples']:,} samples", rows, columns)


def _table(head: str, corner: str, rows: dict[str, Callable[[dict], str]], columns: dict[str, dict]) -> Table:
    """The cells that each row has of the score of each column."""
    cells = {name: [cell(score) for score in columns.values()] for name, cell in rows.items()}
    return Table(head, corner, list(columns), cells)
