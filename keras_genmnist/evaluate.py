"""`genmnist evaluate`: one protocol for every model, in nats per image on the reference binarization."""

import os
import platform
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_genmnist import bounds, data, files, runs
from keras_genmnist.errors import Fault
from keras_genmnist.models.base import LatentVariableModel
from keras_genmnist.runs import Run

BATCH = 100
DRAWS_PER_CALL = 50  # with the batch, 5,000 decoder rows: enough to fill the cores, and 16 MB of logits
ACTIVE_VARIANCE = 0.01
VALIDATION_DRAWS = 100  # it tells runs apart, it is not reported; all of --num_draws would double the time


def evaluate(run: Run, num_draws: int, results: bool) -> dict:
    """Scores a run on its whole validation and test split, prints a table and writes metrics.json.

    Args:
      run: a trained run.
      num_draws: draws of the importance-weighted likelihood; on the validation split at most VALIDATION_DRAWS.
      results: also write results/NAME.json, with the name of the run's directory.
    Returns:
      What is written.
    Raises:
      Fault: if the data or the run's weights are damaged, or no epoch is finished.
    """
    model = runs.load_model(run)
    dataset = data.load(run.config.dataset)
    rows = runs.read_metrics(run)
    if not rows:
        raise Fault(f"{run.metrics_jsonl} is missing or damaged: restore it, or train in another workdir")
    record = {
        "model": run.name,
        "config": run.config.to_dict(),
        "dataset": run.config.dataset,
        "binarization": data.binarization_label(run.config.dataset, run.config.binarization),
        "seed": run.config.seed,
        "train_seconds": round(sum(row["seconds"] for row in rows), 1),
        "epochs": rows[-1]["epoch"],
        "best_epoch": max(rows, key=lambda row: row[f"val_{model.monitor}"])["epoch"],
        "parameters": model.num_parameters,
        "machine": machine(),
        "commit": run.commit,
        "command": run.command,
        "weights": "ema" if run.config.ema_decay else "raw",
    }
    for name, draws in (("validation", min(num_draws, VALIDATION_DRAWS)), ("test", num_draws)):
        split = getattr(dataset, name)
        record[name] = likelihood(model, split.binary, draws, run.config.jit_compile, name)
    files.write_json(run.metrics_json, record)
    print(table(record))
    print(f"wrote {run.metrics_json}")
    if results:
        suffix = "" if run.config.dataset == "mnist" else f"-{run.config.dataset}"
        path = Path("results") / f"{run.workdir.name}{suffix}.json"
        files.write_json(path, record)
        print(f"wrote {path}")
    return record


def likelihood(model: LatentVariableModel, images: np.ndarray, num_draws: int, jit_compile: bool, label: str) -> dict:
    """ELBO and its terms, importance-weighted NLL, and how much of the latent space is used.

    NLL = -log (1/S) sum{ p(x, z[s]) / q(z[s] | x) : s = 1..S }, in a streamed logsumexp: memory does not grow with S.
    Effective sample size = (sum of weights)^2 / sum of squared weights.  A unit is active where its posterior mean
    varies over the images by more than 0.01.

    Args:
      model: the model.
      images: uint8 [N, H, W, C], binary.
      num_draws: S.
      jit_compile: whether XLA compiles the decoder's pass.
      label: of the progress bar.
    Returns:
      Means and standard errors over the images, nats.
    Source: Burda et al. (2016), section 3 and appendix C, arxiv.org/abs/1509.00519
    """

    @tf.function(jit_compile=jit_compile)
    def score(x, num_samples, seed):
        terms = model.log_terms(x, num_samples, seed)
        log_w = bounds.log_weights(terms)
        log_sums = tf.reduce_logsumexp(log_w, axis=0), tf.reduce_logsumexp(2 * log_w, axis=0)
        return *log_sums, num_samples * bounds.reconstruction(terms), num_samples * bounds.kl(terms)

    encode = tf.function(model.encode, jit_compile=jit_compile)
    columns, means = [], []
    batches = data.eval_batches(images, BATCH)
    for b, x in enumerate(tqdm(batches, desc=label, unit="batch", disable=None, leave=False)):
        totals = np.array([[-np.inf], [-np.inf], [0.0], [0.0]]) + np.zeros(len(x))
        for start in range(0, num_draws, DRAWS_PER_CALL):
            parts = score(x, min(DRAWS_PER_CALL, num_draws - start), tf.constant([b, start]))
            parts = np.array([part.numpy() for part in parts], np.float64)
            totals = np.concatenate([np.logaddexp(totals[:2], parts[:2]), totals[2:] + parts[2:]])
        columns.append(totals)
        means.append(encode(x)["z"].numpy())
    log_sum, log_sum_squares, reconstruction, kl = np.concatenate(columns, axis=1)
    reconstruction, kl = reconstruction / num_draws, kl / num_draws
    nll = mean_and_error(np.log(num_draws) - log_sum)
    return {
        "num_images": len(images),
        "elbo": mean_and_error(reconstruction - kl),
        "kl": mean_and_error(kl),
        "reconstruction": mean_and_error(reconstruction),
        "nll": nll | {"num_draws": num_draws, "ess": float(np.exp(2 * log_sum - log_sum_squares).mean())},
        "active_units": int((np.concatenate(means).var(axis=0) > ACTIVE_VARIANCE).sum()),
        "latent_size": model.latent_size,
    }


def mean_and_error(values: np.ndarray) -> dict[str, float]:
    """The mean over images and its standard error."""
    return {"mean": float(values.mean()), "se": float(values.std(ddof=1) / np.sqrt(len(values)))}


def machine() -> str:
    """The processor, its cores, and the GPU if there is one."""
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    cpu = f"{len(os.sched_getaffinity(0))} cores of {names[0] if names else platform.machine()}"
    gpus = [tf.config.experimental.get_device_details(g)["device_name"] for g in tf.config.list_physical_devices("GPU")]
    return ", ".join([cpu, *gpus])


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def table(record: dict) -> str:
    """The record's numbers in nats, a row a quantity, a column a split."""
    splits = ("validation", "test")
    head = (
        f"{record['model']} on {record['dataset']} ({record['binarization']} training, reference binarization scored)"
    )
    lines = [head, f"{'nats per image':24}" + "".join(f"{split:>20}" for split in splits)]
    for key, label in (("elbo", "ELBO"), ("kl", "KL"), ("reconstruction", "reconstruction"), ("nll", "NLL")):
        cells = [record[split][key] for split in splits]
        lines.append(f"{label:24}" + "".join(f"{c['mean']:>12.2f} +- {c['se']:.2f}" for c in cells))
    draws = [record[split]["nll"]["num_draws"] for split in splits]
    lines.append(f"{'draws for the NLL':24}" + "".join(f"{number:>20,}" for number in draws))
    sizes = [record[split]["nll"]["ess"] for split in splits]
    lines.append(f"{'effective sample size':24}" + "".join(f"{size:>20.1f}" for size in sizes))
    units = [f"{record[split]['active_units']} of {record[split]['latent_size']}" for split in splits]
    lines.append(f"{'active units':24}" + "".join(f"{unit:>20}" for unit in units))
    lines.append(f"weights: {record['weights']}, epoch {record['best_epoch']} of {record['epochs']}")
    return "\n".join(lines)
