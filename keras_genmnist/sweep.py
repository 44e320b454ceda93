"""`genmnist sweep`: several models by several seeds, and whether one is better than another by more than chance.

A run is one draw of what its config can become: the seed alone moves its score, of a cheap model by more than the
standard error over test images.  So a score is told as the mean over seeds beside their standard deviation, and two
models are compared image by image.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from keras_genmnist import config as configs
from keras_genmnist import evaluate, files, models, runs, training, workers
from keras_genmnist.errors import Fault, UsageError

WAIT = 5.0  # seconds between two looks at runs that other processes work on
SCORES: dict[str, tuple[str, Callable[[dict], dict]]] = {  # name: the head of its column, and where a record has it
    "elbo": ("-ELBO", lambda record: _negative(record["test"]["elbo"])),
    "nll": ("NLL", lambda record: record["test"]["nll"]),
    "frechet_bits": ("Frechet, drawn bits", lambda record: record["samples_binary"]["frechet"]),
    "frechet": ("Frechet, grey levels", lambda record: record["samples"]["frechet"]),
}


def sweep(
    plans: dict[str, ConfigDict],
    num_seeds: int,
    workdir: Path,
    flags: Sequence[str] = (),
    num_draws: int | None = None,
    jobs: int | None = None,
    results: bool = False,
) -> dict:
    """Trains and evaluates every model by every seed, prints a table and returns what it says.

    Runs that are there are taken as they are, or trained to their end.  The same call in another process, on this
    machine or on another that sees the folder, takes its part of the runs.

    Args:
      plans: the config of each model, by its name or the path of its file; its seed is that of the first run.
      num_seeds: of each model; they follow one another.
      workdir: WORKDIR/NAME-SEED are the runs, and what each says is in WORKDIR/NAME-SEED.log.
      flags: of `genmnist train`, that make the plans of the configs of these names.
      num_draws: of importance-weighted likelihoods, as of `evaluate.evaluate`; runs with another number are evaluated
        again.
      jobs: how many runs at a time, each on its share of the machine; by default as many as there are GPUs or, without
        any, cores.
      results: also write results/NAME.json with the name of `workdir`.
    Returns:
      What is written to WORKDIR/sweep.json: `models`, what `summary` says of each, and `differences`, what `paired`
      says of each that has a likelihood and the best of them.
    Raises:
      UsageError: if a config is refused, models are of bits and of grey levels, or jobs is out of range.
      Fault: if a run failed, after all the others.
    """
    likelihoods = {model: _likelihood(model, config) for model, config in plans.items()}
    _require_one_scale({model: config for model, config in plans.items() if likelihoods[model]})
    gpus = len(tf.config.list_physical_devices("GPU"))
    items = [(model, config.seed + i) for model, config in plans.items() for i in range(num_seeds)]
    shares = workers.shares(jobs or min(gpus or workers.num_cores(), len(items)), gpus)
    with files.writing(workdir, runs.ADVICE):
        workdir.mkdir(parents=True, exist_ok=True)

    def work(item, run) -> str | None:
        """Trains and evaluates one; returns why that failed, or nothing; None if another process works on it."""
        model, seed = item
        place = _place(workdir, *item)
        log, lock = (place.with_name(f"{place.name}.{suffix}") for suffix in ("log", "lock"))
        measured = [] if likelihoods[model] is None else [f"--per_image={place / 'per_image.npz'}"]
        if likelihoods[model] == "importance" and num_draws:
            measured.append(f"--num_draws={num_draws}")
        with files.claimed(lock, runs.ADVICE) as is_free:
            if not is_free:
                return None
            if _finished(place, plans[model], seed, num_draws):
                return ""
            for arguments in (
                ["train", f"--model={model}", *flags, f"--config.seed={seed}", f"--workdir={place}"],
                ["evaluate", f"--workdir={place}", *measured],
            ):
                if run(arguments, log):
                    return workers.last_line(log).removeprefix("genmnist: ")
        return ""

    print(f"{len(items)} runs in {workdir}, {len(shares)} at a time; what each says is in {workdir}/NAME-SEED.log")
    start, ended, failed = time.time(), [], []
    with workers.Workers(shares) as crew:
        while left := [item for item in items if item not in ended]:
            for item, reason in crew.each(left, work):
                if reason is None:
                    continue
                ended.append(item)
                name = _place(workdir, *item).name
                failed += [name] * bool(reason)
                minutes = (time.time() - start) / 60
                print(f"{name}: {reason or 'done'} ({len(ended)} of {len(items)}, {minutes:.1f} minutes)", flush=True)
            if len(ended) < len(items):
                time.sleep(WAIT)
    found = _found(plans, num_seeds, workdir, failed)
    if found["models"]:
        files.write_json(workdir / "sweep.json", found)
        print(f"{table(found)}\nwrote {workdir / 'sweep.json'}")
    if failed:
        raise Fault(
            f"{len(failed)} of {len(items)} runs failed: {', '.join(failed)}; what each said is in "
            f"{workdir}/NAME-SEED.log, and the same command tries them again"
        )
    if results:
        path = Path("results") / f"{runs.title(workdir)}.json"
        files.write_json(path, found)
        print(f"wrote {path}")
    return found


def _likelihood(model: str, config: ConfigDict) -> str | None:
    """What likelihood the model has; refuses a config that cannot be built, before anything is trained."""
    training.check_config(config)
    builder = configs.builder(Path(model)) if configs.is_path(model) else None
    return models.build(config, runs.planned_spec(config), builder).likelihood


def _require_one_scale(plans: dict[str, ConfigDict]) -> None:
    """Raises UsageError if some are of bits and others of grey levels, whose nats are on another scale."""
    by_scale = {config.binarization == "none": model for model, config in plans.items()}
    if len(by_scale) > 1:
        raise UsageError(f"{by_scale[True]} is a model of grey levels, {by_scale[False]} of bits: sweep each by itself")


def _place(workdir: Path, model: str, seed: int) -> Path:
    return workdir / f"{configs.title(model)}-{seed}"


def _finished(place: Path, config: ConfigDict, seed: int, num_draws: int | None) -> bool:
    """Whether a run of this config has been trained to its end, and evaluated since, by as many draws."""
    try:
        record = files.parse_json((place / "metrics.json").read_text())
        nll = record.get("test", {}).get("nll", {})
        waited = record["epochs"] - record["best_epoch"]
        whole = "test" not in record or (place / "per_image.npz").exists()
        return (
            whole
            and record["config"] == config.to_dict() | {"seed": seed}
            and (record["epochs"] == config.epochs or 0 < config.get("patience", 0) <= waited)
            and nll.get("num_draws") in (None, *([num_draws] if num_draws else ["quadrature", evaluate.NUM_DRAWS]))
            and not record.keys().isdisjoint(evaluate.SAMPLES)
        )
    except (AttributeError, LookupError, OSError, TypeError, ValueError):
        return False


def _found(plans: dict[str, ConfigDict], num_seeds: int, workdir: Path, failed: list[str]) -> dict:
    """What is known of the runs that did not fail."""
    records, per_image = {}, {}
    for model, config in plans.items():
        places = [_place(workdir, model, config.seed + i) for i in range(num_seeds)]
        places = [place for place in places if place.name not in failed]
        if places:
            name = configs.title(model)
            records[name] = [files.parse_json((place / "metrics.json").read_text()) for place in places]
            if "test" in records[name][0]:
                per_image[name] = np.stack([_log_likelihood(place / "per_image.npz") for place in places])
    # Of a bound that takes long, the first images of the split are scored alone.
    common = min((own.shape[1] for own in per_image.values()), default=0)
    per_image = {name: own[:, :common] for name, own in per_image.items()}
    best = max(per_image, key=lambda name: per_image[name].mean(), default=None)
    return {
        "models": {name: summary(own) for name, own in records.items()},
        "differences": [
            {"model": name, "best": best, **paired(own, per_image[best])}
            for name, own in per_image.items()
            if name != best
        ],
    }


def _log_likelihood(path: Path) -> np.ndarray:
    """log p(x) of each test image, or its bound where the model knows no more."""
    with np.load(path) as columns:
        return columns["log_px" if "log_px" in columns else "elbo"].astype(np.float64)


def _negative(score: dict) -> dict:
    return score | {"mean": -score["mean"]}


def summary(records: Sequence[dict]) -> dict:
    """The scores of runs that differ in their seeds alone.

    Args:
      records: of `evaluate.evaluate`.
    Returns:
      `runs`: seed, seconds of training and provenance of each; and of each of SCORES that they have: `values`, of each;
      `mean`; `sd`, the standard deviation over seeds, None of one; `se`, the mean of the standard errors over test
      images, None where that is not known.
    """
    kept = ("seed", "train_seconds", "epochs", "best_epoch", "command", "trained", "evaluated")
    found = {"runs": [{name: record[name] for name in kept} for record in records]}
    for name, (_, score_of) in SCORES.items():
        try:
            scores = [score_of(record) for record in records]
        except KeyError:
            continue
        values = np.array([score["mean"] for score in scores])
        errors = [score["se"] for score in scores if "se" in score]
        found[name] = {
            "values": values.tolist(),
            "mean": float(values.mean()),
            "sd": float(values.std(ddof=1)) if len(values) > 1 else None,
            "se": float(np.mean(errors)) if errors else None,
        }
    return found


def paired(worse: np.ndarray, better: np.ndarray) -> dict:
    """By how much one model is better than another on the same images.

    Args:
      worse, better: log p(x) of each seed and image, [S, N] and [T, N].
    Returns:
      `num_images`, N; `mean` of better - worse, nats; `se_images`, its standard error over images, for these seeds;
      `se_seeds`, its standard error over seeds, for these images, None where a model has one; `se` of both.
    """
    differences = better.mean(axis=0) - worse.mean(axis=0)
    over_images = differences.std(ddof=1) / np.sqrt(len(differences))
    over_seeds = None
    if min(len(worse), len(better)) > 1:
        over_seeds = np.sqrt(sum(own.mean(axis=1).var(ddof=1) / len(own) for own in (worse, better)))
    return {
        "num_images": len(differences),
        "mean": float(differences.mean()),
        "se_images": float(over_images),
        "se_seeds": None if over_seeds is None else float(over_seeds),
        "se": float(np.hypot(over_images, over_seeds or 0)),
    }


def table(found: dict) -> str:
    """A row for each model, and one for each difference."""
    columns = [name for name in SCORES if any(name in own for own in found["models"].values())]
    width = max(map(len, found["models"]))
    lines = ["mean over seeds +- their standard deviation; in brackets the standard error over test images"]
    lines.append(f"{'':{width}}  seeds" + "".join(f"{SCORES[name][0]:>26}" for name in columns))
    for model, own in found["models"].items():
        cells = [_cell(own[name]) if name in own else "" for name in columns]
        lines.append(f"{model:{width}}  {len(own['runs']):5}" + "".join(f"{cell:>26}" for cell in cells))
    for own in found["differences"]:
        seeds = "one seed" if own["se_seeds"] is None else f"{own['se_seeds']:.2f} over seeds"
        chance = "; that may be chance" if own["mean"] < 2 * own["se"] else ""
        lines.append(
            f"{own['best']} is better than {own['model']} by {own['mean']:.2f} nats an image, over "
            f"{own['num_images']:,} images; standard error {own['se']:.2f} "
            f"({own['se_images']:.2f} over images, {seeds}){chance}"
        )
    return "\n".join(lines)


def _cell(score: dict) -> str:
    spread = "" if score["sd"] is None else f" +- {score['sd']:.2f}"
    return f"{score['mean']:.2f}{spread}" + ("" if score["se"] is None else f" ({score['se']:.2f})")
