"""Trains, evaluates and records every row of the tables, and writes the tables.

What a row says depends on its commands, its config, its data and the code that has a part in it.  A row for which none
of these has changed since it was recorded is left as it is.  Stop this at any time: the same command goes on where it
stopped.  Where code has changed meanwhile, it goes on if the first epoch, trained again, has the same numbers.

Usage: python scripts/results.py [--rows=vae,iaf] [--jobs=2] [--runs=runs/results] [--budget], in the root of the
repository, at a clean commit.  --budget tells what there is to do, and does nothing.
"""

import argparse
import itertools
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from code_hash import digest
from tables import ROOT, write

from keras_genmnist import config as configs
from keras_genmnist import datasets, files, runs, workers
from keras_genmnist.errors import UsageError

SEEDS = (3436, 3437)  # beside that of the configs, of which the tables tell the spread
MIXED = "mixture"  # the model that has no config
DEPTHS = (0, 10, 40, 80)  # planar maps: those of Rezende & Mohamed 2015, figure 4
# What metrics.jsonl says of an epoch that is not of its numbers.
OF_A_PROCESS = ("seconds", "images_per_second", "startup_seconds", "peak_memory_bytes", "machine", "commit")


class Row(NamedTuple):
    """A run and what is measured of it.

    minutes: that it takes on one core of an AMD EPYC of 2024, at most an estimate.
    model: the name of its config.
    dataset: that it learns from.
    changes: flags of `genmnist train` beside these.
    gap: whether `genmnist gap` measures it too.
    draws: for the NLL of a test image, where the usual ones would take too long.
    of: the rows whose runs a mixture is made of, by `genmnist mix`; or the one whose weights training starts from.
    """

    minutes: float
    model: str
    dataset: str = "mnist"
    changes: tuple[str, ...] = ()
    gap: bool = False
    draws: int | None = None
    of: tuple[str, ...] = ()


ROWS = {
    "gan": Row(20, "gan"),
    "cvae": Row(40, "cvae"),
    "planar": Row(30, "planar"),
    "vae_conv": Row(30, "vae_conv"),
    "vae": Row(40, "vae", gap=True),
    "iaf": Row(40, "iaf", gap=True),
    "radial": Row(40, "radial"),
    "realnvp_prior": Row(40, "realnvp_prior"),
    "cgan": Row(60, "cgan"),
    "dcgan": Row(50, "dcgan"),
    "vae_2d": Row(55, "vae_2d"),
    "vampprior": Row(60, "vampprior"),
    "iwae": Row(60, "iwae"),
    "vae_best": Row(110, "vae_best"),
    "hvae": Row(100, "hvae"),
    "flow_matching": Row(90, "flow_matching"),
    "flow_matching_guided": Row(80, "flow_matching_guided"),
    "vqvae": Row(35, "vqvae"),
    "ladder": Row(110, "ladder"),
    "ladder_conv": Row(60, "ladder_conv"),
    "pixelvae": Row(170, "pixelvae", draws=200),
    "pixelvae_best": Row(250, "pixelvae_best", draws=200),
    "wgan_gp": Row(100, "wgan_gp"),
    "pixelcnn": Row(100, "pixelcnn"),
    "pixelcnn_best": Row(300, "pixelcnn_best"),
    "masked_diffusion": Row(60, "masked_diffusion"),
    "vae-mnist_60k": Row(55, "vae", "mnist_60k"),
    "pixelcnn-binarized_mnist": Row(100, "pixelcnn", "binarized_mnist"),
    **{
        f"planar_k{depth}-binarized_mnist": Row(
            6 + depth / 5,
            "planar",
            "binarized_mnist",
            ("--config.epochs=40", f"--config.flow_steps={depth}" if depth else "--config.posterior=gaussian"),
        )
        for depth in DEPTHS
    },
    **{
        f"{model}-seed{seed}": Row(40, model, changes=(f"--config.seed={seed}",))
        for model in ("vae", "iaf", "realnvp_prior")
        for seed in SEEDS
    },
    "ladder_iwae": Row(
        50,
        "ladder",
        changes=(
            *("--config.bound=iwae", "--config.train_draws=5", "--config.free_bits=0", "--config.warmup_epochs=0"),
            *("--config.epochs=150", "--config.learning_rate=1e-3"),
        ),
        of=("ladder",),
    ),
    "mixture": Row(60, "mixture", draws=200, of=("pixelcnn", "pixelvae_best")),
}


def commands(name: str, row: Row, folder: Path) -> list[list[str]]:
    """What makes the row and measures it, arguments of `genmnist`."""
    workdir = f"--workdir={place(name, folder)}"
    parts = ",".join(str(place(part, folder)) for part in row.of)
    own = [f"--init_from={parts}"] * bool(parts)
    own += [f"--config.dataset={row.dataset}"] * (row.dataset != "mnist")
    make = ["train", f"--model={row.model}", *own, *row.changes, workdir]
    if row.model == MIXED:
        make = ["mix", f"--workdirs={parts}", workdir]
    evaluate = ["evaluate", workdir, "--results", *[f"--num_draws={row.draws}"] * bool(row.draws)]
    return [make, evaluate, *([["gap", workdir, "--results"]] if row.gap else [])]


def place(name: str, folder: Path) -> Path:
    """Where the row is trained; results are named by it, and by the data set too."""
    row = ROWS[name]
    return folder / row.dataset / name.removesuffix(f"-{row.dataset}")


def made_by(row: Row, *verbs: str) -> str:
    """A hash of what these verbs compute the row by: its config, and the code of its model and of the verbs."""
    modules = {"train": "training", "mix": "mixing", "evaluate": "evaluate", "gap": "gap"}
    trained = [*[row] * (row.model != MIXED), *(ROWS[part] for part in row.of)]
    own = [configs.load(part.model) for part in trained]
    code = [*(f"models.{config.model}" for config in own), *(modules[verb] for verb in verbs)]
    told = [row.dataset, *(change for part in trained for change in part.changes)]
    told += [json.dumps(config.to_dict(), sort_keys=True) for config in own]
    told += [f"{row.draws} draws"] * bool(row.draws and "evaluate" in verbs)
    return digest([f"keras_genmnist.{module}" for module in code], told)


def is_current(name: str, row: Row) -> bool:
    """Whether the row's record says what its commands would find today."""
    try:
        record = json.loads((ROOT / "results" / f"{name}.json").read_text())
        data = runs.describe(datasets.load(row.dataset))
        return (record["made_by"], record["data"]) == (made_by(row, *_verbs(row)), data)
    except (OSError, KeyError):
        return False


def to_make(names: list[str], folder: Path) -> list[str]:
    """Those of the rows that are to be made, and the rows that they in turn need made, by rising cost.

    A row of others needs their runs, which may be gone from the folder while their records are current.
    """
    stale = {name for name in names if not is_current(name, ROWS[name])}
    parts = {part for name in stale for part in ROWS[name].of}
    there = {part for part in parts if is_current(part, ROWS[part]) and (place(part, folder) / "metrics.json").exists()}
    return sorted(stale | parts - there, key=lambda name: ROWS[name].minutes)


def record(name: str, row: Row, folder: Path, run: Callable[[list[str], Path], int]) -> str:
    """Makes, evaluates and records the row; returns why that failed, or nothing."""
    if missing := [part for part in row.of if not is_current(part, ROWS[part])]:
        return f"it is of {', '.join(missing)}, to be made before"
    workdir = place(name, folder)
    log, trained_by = (workdir.with_name(f"{workdir.name}.{end}") for end in ("log", "made_by"))
    workdir.parent.mkdir(parents=True, exist_ok=True)
    stamp, now = made_by(row, *_verbs(row)), made_by(row, *_makers(row))
    before = trained_by.read_text() if trained_by.exists() else now
    if before != now and workdir.exists():
        first = None if row.model == MIXED else _first_epoch(workdir)
        again = first and _first_epoch_again(commands(name, row, folder)[0], log, run)
        if first and not again:
            return _reason(log)
        if first is None or first != again:
            aside = (workdir.with_name(f"{workdir.name}.{before}{'+' * number}") for number in itertools.count())
            workdir.rename(next(path for path in aside if not path.exists()))
    files.write(trained_by, now.encode())
    for arguments in commands(name, row, folder):
        is_mixed = arguments[0] == "mix" and runs.exists(workdir)  # a training resumes, and a mixture is there or not
        if not is_mixed and run(arguments, log):
            return _reason(log)
    if made_by(row, *_verbs(row)) != stamp:
        return "the code has changed meanwhile, so that it is to be made again"
    path = ROOT / "results" / f"{name}.json"
    files.write_json(path, json.loads(path.read_text()) | {"made_by": stamp})
    return ""


def _reason(log: Path) -> str:
    return workers.last_line(log).removeprefix("genmnist: ")


def _first_epoch_again(train: list[str], log: Path, run: Callable) -> dict | None:
    """As `_first_epoch`, of a training by today's code; its last argument is the directory of the run.

    If it is the same, so is the rest: a row takes hours, and much of what is changed in the code that it is made by has
    nothing to do with it.
    """
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "again"
        run([*train[:-1], f"--workdir={workdir}"], log, until=lambda: _first_epoch(workdir))
        return _first_epoch(workdir)


def _first_epoch(workdir: Path) -> dict | None:
    """Its numbers in metrics.jsonl, without what clock and machine have to say, and the config; None before its end."""
    path = workdir / "metrics.jsonl"
    line, end, _ = path.read_text().partition("\n") if path.exists() else ("", "", "")
    if not end:
        return None
    numbers = {name: value for name, value in json.loads(line).items() if name not in OF_A_PROCESS}
    return numbers | {"config": runs.load(workdir).config.to_dict()}


def _makers(row: Row) -> list[str]:
    return ["train", *["mix"] * (row.model == MIXED)]


def _verbs(row: Row) -> list[str]:
    return [*_makers(row), "evaluate", *["gap"] * row.gap]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="", help="which, separated by commas; all by default")
    parser.add_argument("--jobs", type=int, default=workers.num_cores(), help="rows at a time; one a core by default")
    parser.add_argument("--runs", type=Path, default=Path("runs/results"), help="the folder of their runs")
    parser.add_argument("--budget", action="store_true", help="tell what there is to do, and do nothing")
    values = parser.parse_args()
    names = values.rows.split(",") if values.rows else list(ROWS)
    if unknown := [name for name in names if name not in ROWS]:
        parser.error(f"--rows={','.join(unknown)} names no row: give some of {', '.join(ROWS)}")
    if Path.cwd() != ROOT:
        parser.error(f"results/ is in {ROOT}: call this there")
    try:
        workers.shares(values.jobs)
    except UsageError as error:
        parser.error(str(error))
    todo = to_make(names, values.runs)
    minutes = sum(ROWS[name].minutes for name in todo)
    for name in todo:
        print(f"{ROWS[name].minutes:5.0f} minutes  {name}")
    print(f"{len(todo)} of {len(ROWS)} rows are to be made, in {minutes / 60:.1f} hours of one core at most")
    if values.budget or not todo:
        return
    if runs.commit().endswith("+"):
        parser.error(f"the code has changes since {runs.commit()[:-1]}: commit them, for a row names its commit")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # by which the rows being made end too
    start, failed = time.time(), []
    with workers.Workers(workers.shares(min(values.jobs, len(todo)))) as crew:
        # First what is trained from the beginning, then what is made of it.
        parts = ([name for name in todo if bool(ROWS[name].of) is later] for later in (False, True))
        done = (crew.each(part, lambda name, run: record(name, ROWS[name], values.runs, run)) for part in parts)
        for number, (name, reason) in enumerate(itertools.chain.from_iterable(done), 1):
            failed += [name] * bool(reason)
            spent = (time.time() - start) / 60
            print(f"{name}: {reason or 'done'} ({number} of {len(todo)}, {spent:.0f} minutes)", flush=True)
    write()
    sys.exit(f"failed: {', '.join(failed)}; the same command tries again" if failed else 0)


if __name__ == "__main__":
    main()
