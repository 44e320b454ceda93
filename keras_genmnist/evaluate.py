"""`genmnist evaluate`: one protocol for every model.

Where a model has a likelihood, nats per image on the reference binarization; for all, how their samples look to the
classifier of classifier.py.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_genmnist import bounds, data, files, migrations, progress, quality, runs
from keras_genmnist.errors import UsageError
from keras_genmnist.models.base import GenerativeModel, LatentVariableModel, TractableModel, active_units
from keras_genmnist.runs import Run

BATCH = 100
DRAWS_PER_CALL = 50  # with the batch, 5,000 decoder rows: enough to fill the cores, and 16 MB of logits
NUM_DRAWS = 1000
SAMPLES_PER_CALL = 500
VALIDATION_DRAWS = 100  # it tells runs apart, it is not reported; all of --num_draws would double the time


def evaluate(run: Run, num_draws: int | None, results: bool) -> dict:
    """Scores a run, prints a table and writes metrics.json.

    Args:
      run: a trained run.
      num_draws: draws of the importance-weighted likelihood, NUM_DRAWS by default; on the validation split at most
        VALIDATION_DRAWS.
      results: also write results/NAME.json, with the name of the run's directory.
    Returns:
      What is written.
    Raises:
      UsageError: if num_draws is given and the model has no likelihood, or `results` wanted of code in no commit.
      Fault: if the data or the run's weights are damaged, or no epoch is finished.
    """
    if results:
        require_commits(run)
    model = runs.load_model(run)
    if num_draws and not isinstance(model, LatentVariableModel):
        if isinstance(model, TractableModel):
            reason = "its likelihood is known exactly"
        else:
            reason = "it has no likelihood but is scored by its samples (Frechet distance, precision, recall, ...)"
        raise UsageError(f"--num_draws={num_draws} means nothing for {run.name}: leave it out, {reason}")
    dataset = data.load(run.config.dataset)
    rows = runs.history(run, model)
    record = {
        "model": run.name,
        "schema": migrations.SCHEMA,
        "config": run.config.to_dict(),
        "dataset": run.config.dataset,
        "binarization": data.binarization_label(run.config.dataset, run.config.binarization),
        "seed": run.config.seed,
        "train_seconds": round(sum(row["seconds"] for row in rows), 1),
        "epochs": rows[-1]["epoch"],
        "best_epoch": max(rows, key=model.merit)["epoch"],
        "parameters": model.num_parameters,
        **provenance(run),
        "command": run.command,
        "weights": "ema" if run.config.ema_decay else "raw",
    }
    if isinstance(model, LatentVariableModel):
        draws = num_draws or NUM_DRAWS
        for name, number in (("validation", min(draws, VALIDATION_DRAWS)), ("test", draws)):
            split = getattr(dataset, name)
            record[name] = likelihood(model, split.binary, number, name)
    elif isinstance(model, TractableModel):
        for name in ("validation", "test"):
            record[name] = exact_likelihood(model, getattr(dataset, name).binary)
    files.write_json(run.metrics_json, record)  # before the samples, which can fail, and the likelihood took longer
    record |= quality_of_samples(run, model, dataset)
    files.write_json(run.metrics_json, record)
    print(table(record))
    print(f"wrote {run.metrics_json}")
    if results:
        write_result(run, record)
    return record


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
    suffix = "" if run.config.dataset == "mnist" else f"-{run.config.dataset}"
    path = Path("results") / f"{run.title}{kind}{suffix}.json"
    files.write_json(path, record)
    print(f"wrote {path}")


def quality_of_samples(run: Run, model: GenerativeModel, dataset: data.Dataset) -> dict[str, dict]:
    """The scores of as many samples as there are test images, for JSON; like is compared with like.

    Args:
      run: the model's run.
      model: with the weights that are scored.
      dataset: the run's.
    Returns:
      `samples`: mean images, or a GAN's grey levels, against grey levels; not of a model that draws pixel by pixel, and
        not where the test images are bits.  `samples_raw`: a GAN's, by the weights that the average is of.
        `samples_binary`: drawn bits against the reference binarization.  `pixels` of each says which.
    """
    drawn, found = draw(model, len(dataset.test.images)), {}
    if dataset.has_grey_levels and not model.pixel_by_pixel:
        pixels = {"pixels": "mean images" if model.draws_bits else "grey levels"}
        found["samples"] = pixels | quality.score(drawn["probabilities"], dataset)
        if not model.draws_bits and run.config.ema_decay:  # samples are all that tells the two kinds of weights apart
            raw = draw(runs.load_model(run, raw=True), len(dataset.test.images))
            found["samples_raw"] = pixels | quality.score(raw["probabilities"], dataset)
    if model.draws_bits:
        found["samples_binary"] = {"pixels": "drawn bits"} | quality.score(drawn["images"], dataset, binary=True)
    return found


def draw(model: GenerativeModel, count: int) -> dict[str, np.ndarray]:
    """`count` draws, always of the same seeds: float32 [count, H, W, C] each, as GenerativeModel.draw."""
    seeds = tf.stack([tf.zeros(count, tf.int32), tf.range(count)], axis=1)
    compiled = tf.function(model.draw, reduce_retracing=True)
    starts = progress.batches(range(0, count, SAMPLES_PER_CALL), "samples")
    parts = [compiled(seeds[i : i + SAMPLES_PER_CALL]) for i in starts]
    return {name: np.concatenate([part[name] for part in parts]) for name in ("images", "probabilities")}


def likelihood(model: LatentVariableModel, images: np.ndarray, num_draws: int, label: str) -> dict:
    """ELBO and its terms, importance-weighted NLL, and how much of the latent space is used.

    NLL = -log (1/S) sum{ p(x, z[s]) / q(z[s] | x) : s = 1..S }, in a streamed logsumexp: memory does not grow with S.
    Effective sample size = (sum of weights)^2 / sum of squared weights.

    Args:
      model: the model.
      images: uint8 [N, H, W, C], binary.
      num_draws: S.
      label: of the progress bar.
    Returns:
      Means and standard errors over the images, nats; `layers`, where there are several, from the lowest up.
    Source: Burda et al. (2016), section 3 and appendix C, arxiv.org/abs/1509.00519
    """

    @tf.function  # a draw of vae, iaf and ladder takes 2.0, 1.5 and 3.1 times as long by XLA, of a core
    def score(x, num_samples, seed):
        terms = model.log_terms(x, num_samples, seed)
        log_w = bounds.log_weights(terms)
        log_sums = tf.reduce_logsumexp(log_w, axis=0), tf.reduce_logsumexp(2 * log_w, axis=0)
        sums = num_samples * bounds.reconstruction(terms), num_samples * bounds.layer_kl(terms)
        return tf.concat([*(part[None] for part in (*log_sums, sums[0])), sums[1]], axis=0)

    encode = tf.function(model.encode)
    columns, means = [], []
    batches = data.eval_batches(images, BATCH)
    for b, x in enumerate(progress.batches(batches, label)):
        totals = np.zeros([3 + len(model.layer_sizes), len(x)])
        totals[:2] = -np.inf
        for start in range(0, num_draws, DRAWS_PER_CALL):
            parts = score(x, min(DRAWS_PER_CALL, num_draws - start), tf.constant([b, start]))
            parts = parts.numpy().astype(np.float64)
            totals = np.concatenate([np.logaddexp(totals[:2], parts[:2]), totals[2:] + parts[2:]])
        columns.append(totals)
        means.append(encode(x)["z"].numpy())
    log_sum, log_sum_squares, reconstruction, *layer_kl = np.concatenate(columns, axis=1)
    reconstruction, layer_kl = reconstruction / num_draws, np.array(layer_kl) / num_draws
    kl = layer_kl.sum(axis=0)
    nll = mean_and_error(np.log(num_draws) - log_sum)
    units = active_units(np.concatenate(means), model.layer_sizes)
    scores = {
        "num_images": len(images),
        "elbo": mean_and_error(reconstruction - kl),
        "kl": mean_and_error(kl),
        "reconstruction": mean_and_error(reconstruction),
        "nll": nll | {"num_draws": num_draws, "ess": float(np.exp(2 * log_sum - log_sum_squares).mean())},
        "active_units": sum(units),
        "latent_size": model.latent_size,
    }
    if len(model.layer_sizes) > 1:
        scores["layers"] = [
            {"kl": mean_and_error(own), "active_units": count, "latent_size": size}
            for own, count, size in zip(layer_kl, units, model.layer_sizes, strict=True)
        ]
    return scores


def exact_likelihood(model: TractableModel, images: np.ndarray) -> dict:
    """The NLL of a model that knows it.

    Args:
      model: the model.
      images: uint8 [N, H, W, C], binary.
    Returns:
      Mean and standard error over the images, nats.
    """
    log_prob = tf.function(model.log_prob, reduce_retracing=True)
    batches = progress.batches(data.eval_batches(images, BATCH), "likelihood")
    nll = -np.concatenate([log_prob(x).numpy().astype(np.float64) for x in batches])
    return {"num_images": len(images), "nll": mean_and_error(nll)}


def mean_and_error(values: np.ndarray) -> dict[str, float]:
    """The mean over images and its standard error."""
    return {"mean": float(values.mean()), "se": float(values.std(ddof=1) / np.sqrt(len(values)))}


def table(record: dict) -> str:
    """The record's numbers, a row a quantity, a column a split or a set of samples."""
    parts = [f"{record['model']} on {record['dataset']}, epoch {record['best_epoch']} of {record['epochs']}"]
    if "test" in record:
        parts.append(_likelihood_table(record))
    parts.append(_samples_table(record))
    return "\n\n".join(parts)


def _likelihood_table(record: dict) -> str:
    def nats(key):
        return lambda score: f"{score[key]['mean']:.2f} +- {score[key]['se']:.2f}"

    def units(score):
        return f"{score['active_units']} of {score['latent_size']}"

    def layer(number):
        return lambda score: f"{score['layers'][number]['kl']['mean']:.2f}, {units(score['layers'][number])}"

    if "elbo" in record["test"]:
        rows = {
            "ELBO": nats("elbo"),
            "KL": nats("kl"),
            "reconstruction": nats("reconstruction"),
            "NLL": nats("nll"),
            "draws for the NLL": lambda score: f"{score['nll']['num_draws']:,}",
            "effective sample size": lambda score: f"{score['nll']['ess']:.1f}",
            "active units": units,
        }
        for number in range(len(record["test"].get("layers", []))):
            rows[f"layer {number + 1}: KL, active"] = layer(number)
    else:
        rows = {"exact NLL": nats("nll")}
    head = f"{record['binarization']} training, reference binarization scored, {record['weights']} weights"
    return f"{head}\n{_table('nats per image', rows, {split: record[split] for split in ('validation', 'test')})}"


def _samples_table(record: dict) -> str:
    def judged(key, form):
        def cell(score):
            spread = score[key]["spread"]
            return f"{score[key]['mean']:{form}}" + (f" +- {spread:{form}}" if spread is not None else "")

        return cell

    def parzen(score):
        return f"{score['parzen']['mean']:.1f} +- {score['parzen']['se']:.1f} nats" if "parzen" in score else ""

    rows = {
        "Frechet distance": judged("frechet", ".2f"),
        "  of training images": judged("frechet_floor", ".2f"),
        "  ratio of the two": judged("frechet_ratio", ".1f"),
        "precision": judged("precision", ".1%"),
        "recall": judged("recall", ".1%"),
        "rarest class": judged("rarest_class", ".1%"),
        "commonest class": judged("commonest_class", ".1%"),
        "KL of classes, nats": judged("class_kl", ".4f"),
        "confident": judged("confident_share", ".1%"),
        "Parzen windows": parzen,
    }
    weights = {"samples": record["weights"], "samples_raw": "raw", "samples_binary": record["weights"]}
    scores = {name: record[name] for name in weights if name in record}
    columns = {f"{score['pixels']}, {weights[name]}": score for name, score in scores.items()}
    first = next(iter(scores.values()))
    count, judges = first["num_samples"], len(first["judges"])
    head = f"samples against test images: mean +- spread over {judges} judges; what differs by less is equal"
    return f"{head}\n{_table(f'{count:,} samples', rows, columns)}"


def _table(corner: str, rows: dict[str, Callable[[dict], str]], columns: dict[str, dict]) -> str:
    """A line for each label of rows, a column for each score."""
    lines = [f"{corner:24}" + "".join(f"{head:>20}" for head in columns)]
    lines += [
        f"{label:24}" + "".join(f"{cell(score):>20}" for score in columns.values()) for label, cell in rows.items()
    ]
    return "\n".join(lines)
