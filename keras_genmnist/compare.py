"""`genmnist compare`: models trained for the same time, side by side."""

import contextlib
import io
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from keras_genmnist import bounds, datasets, evaluate, files, images, likelihood, models, runs, training
from keras_genmnist import config as configs
from keras_genmnist.datasets import DatasetSpec, eval_batches
from keras_genmnist.errors import UsageError
from keras_genmnist.figures import plain, save
from keras_genmnist.models.base import GenerativeModel, told
from keras_genmnist.runs import Run

BATCH, TIMED_BATCHES = 100, 10
SHOWN = 20  # samples of each model
TRIAL_EPOCHS = 8  # at most: a trial ends where an epoch takes as long as the one before, within the share STEADY
STEADY = 0.05


def compare(
    names: list[str], minutes: float, dataset: str, num_draws: int, workdir: Path, out: Path, command: str
) -> dict:
    """Trains what is missing, scores all, prints a table and draws a figure.

    Args:
      names: configs of models with a likelihood.
      minutes: of training, for each that is missing.
      dataset: that they learn from: a name or a path.
      num_draws: of the importance-weighted NLL.
      workdir: WORKDIR/NAME are the runs; one that is there is used as it is, or trained to its end.
      out: the folder of the picture, NAME.png with the name of `workdir`.
      command: what the runs that are trained will say began them.
    Returns:
      What is written to WORKDIR/compare.json.
    Raises:
      UsageError: if a model is unknown or has no likelihood, a run is of another dataset, the time is too short, the
        draws do not fit in memory, or `workdir` cannot be written.
      Fault: if data or weights are damaged.
    """
    likelihood.require_memory(num_draws)
    spec = datasets.spec(dataset) or datasets.load(dataset).spec  # the latter refuses a name that is none
    planned = {name: _config(name, dataset, spec) for name in names}
    present = {name: runs.load(workdir / name) for name in names if runs.exists(workdir / name)}
    for name, run in present.items():
        if (run.name, run.config.dataset) != (name, dataset):
            raise UsageError(f"{run.workdir} holds {run.name} on {run.config.dataset}: give another --workdir")
        if run.binarization == "none":
            raise UsageError(f"{run.workdir} is a run of grey levels, the others are of bits: give another --workdir")
    missing = [name for name in names if name not in present]
    for name in missing:
        with runs.lock(workdir / name):  # refuses what cannot be written before minutes of trials
            pass
    print(f"{len(missing)} of {len(names)} models to train, {minutes:g} minutes each: {', '.join(missing) or 'none'}")
    for name, run in present.items():
        epochs = run.config.epochs
        print(f"{name} is in {workdir} already, of {epochs} epoch{'s' * (epochs != 1)}")
    found, shown = {}, {}
    for name in names:
        if name in missing:
            budgeted = _within(name, planned[name], 60 * minutes)
            present[name] = Run(workdir / name, name, budgeted, command, runs.commit())
        run = present[name]
        with runs.lock(run.workdir):
            training.train(run, time.time())
        run = runs.load(run.workdir)  # which knows its data by now
        if name in missing:
            used, epochs = sum(_seconds(runs.read_metrics(run))), run.config.epochs
            print(f"{name} used {used / 60:.2f} of {minutes:g} minutes, for {epochs} epoch{'s' * (epochs != 1)}")
        model = runs.load_model(run)
        drawing = num_draws if model.likelihood == "importance" else None
        record = evaluate.evaluate(run, drawing, results=False)
        found[name] = {
            **{field: record[field] for field in ("epochs", "train_seconds", "test", "trained", "evaluated")},
            "milliseconds_per_image": cost(
                model, runs.load_data(run).test.scored(run.config.binarization), run.config.jit_compile
            ),
            "curve": _curve(model, runs.history(run, model)),
        }
        sample = tf.function(model.sample, autograph=model.autograph)
        shown[name] = sample(SHOWN, run.config.seed)["probabilities"].numpy()
    files.write_json(workdir / "compare.json", found)
    print(f"{table(found)}\nwrote {workdir / 'compare.json'}")
    save(figure(found, shown, spec.name), out / f"{runs.title(workdir)}.png")
    return found


def _config(name: str, dataset: str, spec: DatasetSpec) -> ConfigDict:
    config = configs.load(name)
    config.dataset = dataset
    training.check_config(config)
    if models.build(config, spec).likelihood is None:
        raise UsageError(f"{name} has no likelihood to compare: leave it out")
    if config.binarization == "none":
        raise UsageError(f"{name} is a model of grey levels, the others are of bits: leave it out")
    return config


def _within(name: str, config: ConfigDict, seconds: float) -> ConfigDict:
    """The config with as many epochs as the time suffices for; the warm-up stays the same share of them."""
    trial = config.copy_and_resolve_references()
    trial.epochs = TRIAL_EPOCHS
    print(f"timing epochs of {name}", flush=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        run = Run(Path(folder), name, trial, "", "")
        training.train(run, time.time(), enough=lambda rows: _timed(_seconds(rows), seconds))
        taken = _seconds(runs.read_metrics(run))
    epochs = _fitting(taken, seconds)
    if epochs < 1:
        raise UsageError(
            f"--minutes={seconds / 60:g} is too short: give {taken[0] / 60:.2g} or more, of one epoch of {name}"
        )
    budgeted = config.copy_and_resolve_references()
    budgeted.epochs = epochs
    if "warmup_epochs" in config:
        budgeted.warmup_epochs = config.warmup_epochs * epochs // config.epochs
    return budgeted


def _seconds(rows: list[dict]) -> list[float]:
    return [row["seconds"] for row in rows]


def _timed(taken: list[float], seconds: float) -> bool:
    """Whether a trial whose epochs took so long has shown how many fit into `seconds`."""
    # The first epoch compiles the training; the second one's time has what was compiled to draw after the first.
    steady = len(taken) > 2 and abs(taken[-1] - taken[-2]) <= STEADY * taken[-2]
    return steady or sum(taken) >= seconds


def _fitting(taken: list[float], seconds: float) -> int:
    """The number of epochs that fit into `seconds`: the first take as long as those of the trial did.

    All others take the mean of the trial's last two.
    """
    ends = np.cumsum(taken)
    if ends[-1] > seconds:
        return int(np.sum(ends <= seconds))
    return len(taken) + int((seconds - ends[-1]) / np.mean(taken[-2:]))


def cost(model: GenerativeModel, test: np.ndarray, jit_compile: bool) -> float:
    """Milliseconds that the ELBO of one draw, or the likelihood, of a test image takes in batches of BATCH."""

    def score(x):
        if model.likelihood == "exact":
            return model.log_likelihood(x)
        if model.likelihood == "bound":
            return model.log_likelihood(x, num_draws=1)
        y = tf.zeros(tf.shape(x)[:1], tf.int32) if model.takes_labels else None  # of one class, whichever it is
        return bounds.elbo(model.log_terms(x, 1, tf.constant([0, 0]), **told(y)))

    compiled = tf.function(score, autograph=model.autograph, jit_compile=jit_compile)
    batches = eval_batches(test[: BATCH * (TIMED_BATCHES + 1)], BATCH)
    for x in {len(x): x for x in batches}.values():  # the last may be smaller, and is traced anew
        compiled(x).numpy()
    timed = batches[1:] or batches
    start = time.perf_counter()
    for x in timed:
        compiled(x).numpy()
    return 1000 * (time.perf_counter() - start) / sum(map(len, timed))


def _curve(model: GenerativeModel, rows: list[dict]) -> dict[str, list[float]]:
    """Seconds of training, and what the bound that chooses the epoch cost on the validation split, nats."""
    return {
        "seconds": np.cumsum(_seconds(rows)).tolist(),
        "nats": [-model.score(row) for row in rows],
    }


def table(found: dict[str, dict]) -> str:
    """A row for each model."""
    width = max(map(len, found))
    lines = [f"{'':{width}}  minutes  epochs    -ELBO          NLL            ms per test image"]
    for name, own in found.items():
        elbo, nll = (own["test"].get(key) for key in ("elbo", "nll"))
        bound = f"{-elbo['mean']:.2f} +- {elbo['se']:.2f}" if elbo else "exact"
        likelihood = f"{nll['mean']:.2f} +- {nll['se']:.2f}" if nll else ""  # a bound has none
        lines.append(
            f"{name:{width}}  {own['train_seconds'] / 60:7.1f}  {own['epochs']:6}    {bound:13}  "
            f"{likelihood:13}  {own['milliseconds_per_image']:.3f}"
        )
    return "\n".join(lines)


def figure(found: dict[str, dict], shown: dict[str, np.ndarray], dataset: str) -> Figure:
    """Validation bound over training time, test scores, and samples."""
    sheet = images.tile(np.concatenate(list(shown.values())), columns=SHOWN)
    inches = 12 * sheet.shape[0] / sheet.shape[1]  # of the samples
    drawn = Figure(figsize=(11, 4.2 + inches), layout="constrained")
    axes = drawn.subplot_mosaic([["curves", "scores"], ["samples", "samples"]], height_ratios=[4, inches])
    settled = []
    for number, (name, own) in enumerate(found.items()):
        colour, curve, test = f"C{number}", own["curve"], own["test"]
        axes["curves"].plot(curve["seconds"], curve["nats"], color=colour, label=name)
        settled += curve["nats"][len(curve["nats"]) // 5 :]
        for key, sign, marker in (("elbo", -1, "o"), ("nll", 1, "s")):
            if key in test:
                score = test[key]
                axes["scores"].errorbar(
                    sign * score["mean"], number, xerr=score["se"], marker=marker, color=colour, capsize=3
                )
    margin = 0.05 * (max(settled) - min(settled)) or 1
    axes["curves"].set(
        xlabel="seconds of training",
        ylabel="validation loss (nats)",
        ylim=(min(settled) - margin, max(settled) + margin),
    )
    axes["curves"].legend()
    axes["scores"].set(
        yticks=range(len(found)), yticklabels=list(found), xlabel="test: -ELBO (round), NLL (square), nats"
    )
    axes["scores"].invert_yaxis()
    for axis in (axes["curves"], axes["scores"]):
        axis.grid(alpha=0.3)
    axes["samples"].imshow(sheet, cmap="gray", vmin=0, vmax=1)
    height = sheet.shape[0] // len(shown)
    axes["samples"].set(xticks=[], yticks=[height * (n + 0.5) for n in range(len(shown))], yticklabels=list(shown))
    drawn.suptitle(plain(f"Trained for the same time on {dataset}"), fontsize=11)
    return drawn
