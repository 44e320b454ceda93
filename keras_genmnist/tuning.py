"""`genmnist tune`: searches for the config whose training is the best on the validation images.

A trial is a run like any other, in WORKDIR/trials/NUMBER, and trained as `genmnist train` trains.
"""

import contextlib
import gc
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import tensorflow as tf
import tf_keras
from ml_collections import ConfigDict

from keras_genmnist import api, device, files, models, runs, training
from keras_genmnist import config as configs
from keras_genmnist.errors import Diverged, Fault, UsageError
from keras_genmnist.runs import Run
from keras_genmnist.search import space
from keras_genmnist.search.storage import Journal, hidden, open_storage
from keras_genmnist.search.study import MAXIMISED, Claim, Lost, Record, Study, require_finished
from keras_genmnist.search.table import as_csv, label, rows, shown, table
from keras_genmnist.workers import num_cores, start

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optuna.trial import FrozenTrial

SHORTER = 10  # a trial has that much less of the epochs, unless told
PRUNERS = ("median", "hyperband", "none")
POLL = 2.0  # seconds between looks at what others train
COSTS = ("seconds", "parameters")  # objectives that are no measure of a model


class Tuned:
    """A search, as `tune` returns it.

    workdir: its directory.
    """

    def __init__(self, study: Study, workdir: Path):
        """
        Args:
          study: the study.
          workdir: where its trials, figures and best config are.
        """
        self._study, self.workdir = study, workdir

    def __repr__(self) -> str:
        return f"<{len(self.trials)} trials of {self._study.record.model} in {self.workdir}>"

    @property
    def trials(self) -> list[dict]:
        """The trials: number, state, objectives, values of the fields, epochs, minutes and, of a failed one, reason."""
        return rows(self._study)

    @property
    def best(self) -> dict:
        """Of `trials`, the best one; of several objectives, the best in the first."""
        number = require_finished(self._study)[0].number
        return next(row for row in self.trials if row["trial"] == number)

    @property
    def config(self) -> ConfigDict:
        """The best trial's config, of full length."""
        return _full(self._study.record, require_finished(self._study)[0].params)

    def figure(self, name: str) -> "Figure":
        """`history`, `importance`, `parallel_coordinates` or `slice`; of several objectives, `pareto` too.

        Raises:
          UsageError: if there is no such figure.
        """
        from keras_genmnist.search import figures

        require_finished(self._study)
        known = figures.names(self._study)
        if name not in known:
            raise UsageError(f"unknown figure {name!r}{configs.suggest(name, known)} Figures: {', '.join(known)}")
        return figures.FIGURES[name](self._study)


def tune(
    model: str | ConfigDict | None = None,
    *,
    search: dict[str, str] | str | None = None,
    trials: int | None = None,
    epochs: int | None = None,
    objectives: Sequence[str] = (),
    pruner: str = "median",
    workdir: str | Path | None = None,
    storage: str | None = None,
    study: str | None = None,
    jobs: int = 1,
    **fields: bool | int | float | str,
) -> Tuned:
    """Searches for the best config of a model, or goes on with the search in `workdir`; what `genmnist tune` does.

    Args:
      model: the name of a config, the path of a file of the user's own, or a ConfigDict; None to join a study.
      search: {"latent_size": "8..64", "norm": "none|batch"} or as `--search` takes it; the model's own by default.
      trials: how many in all; 20 by default.
      epochs: of a trial; a tenth of the config's by default.
      objectives: the model's measure by default; with "seconds" or "parameters" beside it, a Pareto front is sought.
      pruner: "median", "hyperband" or "none".
      workdir: runs/tune/NAME by default.
      storage: postgresql://..., or the path of a journal file; WORKDIR/study.journal by default.
      study: its name in the storage; that of the workdir by default.
      jobs: trials at a time, each by a process of this machine.
      fields: values of the config's fields for all trials, as dataset="mnist_5k".
    Raises:
      UsageError: if a value is not accepted, or the study is another.
      Fault: if the storage cannot be reached, data are damaged, or no trial is complete.
      KeyboardInterrupt: where it is interrupted, with everything saved.
    """
    record = source = None
    if model is not None:
        if isinstance(model, str):
            name, config = configs.title(model), configs.load(model)
            source = Path(model) if configs.is_path(model) and configs.builder(Path(model)) else None
            default = space.default(model, config)
        else:
            name, config = model.model, model.copy_and_resolve_references()
            default = space.default(name, config)
        configs.change(config, **fields)
        wanted = default if search is None else space.written(search) if isinstance(search, str) else search
        record = plan(name, config, wanted, epochs, objectives, pruner, source)
        workdir = workdir or Path("runs") / "tune" / name
    elif fields:
        raise UsageError("a study that is joined has its own config: give fields only with a model")
    command = f"gm.tune({record.model!r})" if record else "gm.tune()"
    try:
        return begin(record, trials, Path(workdir) if workdir else None, storage, study, jobs=jobs, command=command)
    except SystemExit as stopped:
        raise KeyboardInterrupt("stopped; go on by the same call") from stopped


def plan(
    name: str,
    config: ConfigDict,
    search: dict[str, str],
    epochs: int | None = None,
    objectives: Sequence[str] = (),
    pruner: str = "median",
    source: Path | None = None,
) -> Record:
    """What a study goes by, once all of it is found to be accepted.

    Args:
      name: of the config.
      config: what is varied.
      search: as Record has it.
      epochs, objectives, pruner: as `tune`.
      source: the file of a model of the user's own.
    Raises:
      UsageError: naming what is not accepted.
    """
    epochs = max(1, config.epochs // SHORTER) if epochs is None else epochs
    text = source.read_text(encoding="utf-8") if source else None
    record = Record(name, config.to_dict(), search, epochs, list(objectives), pruner, text)
    over = record.space
    training.check_config(config)
    builder = configs.builder(source) if source else None
    spec = runs.planned_spec(config)
    model = models.build(config, spec, builder)
    measures = [model.measure, *(["elbo"] if model.has_encoder and model.measure != "elbo" else [])]
    record = replace(record, objectives=record.objectives or measures[:1])
    known = [*measures, *COSTS]
    for objective in record.objectives:
        if objective not in known:
            near = configs.suggest(objective, known)
            raise UsageError(f"unknown objective {objective!r}{near} Objectives of {name}: {', '.join(known)}")
    first, *others = record.objectives
    if first not in measures or not set(others) <= set(COSTS) or len(set(others)) < len(others):
        raise UsageError(
            f"--objectives={','.join(record.objectives)} must begin with {' or '.join(measures)}, after which "
            f"{' and '.join(COSTS)} may come once each"
        )
    if "bound" in over and record.objectives[0] != "elbo":
        raise UsageError("--search=bound:... needs --objectives=elbo, which all bounds have")
    if "train_draws" in over and record.objectives[0] == "iwae":
        raise UsageError("--search=train_draws:... needs --objectives=elbo: the IWAE bound of more draws is the higher")
    if pruner not in PRUNERS:
        raise UsageError(f"--pruner={pruner} is not known: give {', '.join(PRUNERS)}")
    if not 1 <= epochs <= 10**9:
        raise UsageError(f"--epochs={epochs} is out of range: give 1 or more")
    for field, values in over.items():  # a mistake costs no trial
        for value in values.ends:
            changed = _trial_config(record, {field: value})
            training.check_config(changed)
            models.build(changed, spec, builder)
    return record


def begin(
    record: Record | None,
    trials: int | None,
    workdir: Path | None,
    storage: str | None,
    name: str | None,
    *,
    jobs: int = 1,
    threads: int = 0,
    summary: bool = True,
    finish: bool = False,
    command: str = "",
) -> Tuned:
    """Begins or joins a study, trains trials until all are done, and tells what was found.

    Args:
      record: what is wanted; None to join a study.
      trials: how many in all; None for as many as were asked for before, or 20.
      workdir, storage, name: as `tune`.
      jobs: trials at a time, each by a process of this machine; above 1, this one only waits for them.
      threads: of the CPU, of each job; 0 for the cores divided among them.
      summary: whether to tell what was found, at the end; else this process only trains.
      finish: whether to train the best config to full length.
      command: what was typed, for the record.
    Raises:
      UsageError, Fault, SystemExit: as `tune`.
    """
    if workdir is None:
        if name is None:
            raise UsageError("give --model=NAME to begin a search, or the --workdir=DIR or --study=NAME of one to join")
        workdir = Path("runs") / "tune" / name
    name, journal = name or runs.title(workdir), workdir / "study.journal"
    if record is None and storage is None and not journal.exists():
        raise UsageError(f"no search in {workdir} to join: give --model=NAME to begin one, or its --storage")
    for flag, number in (("trials", trials), ("jobs", jobs)):
        if number is not None and not 1 <= number <= 10**6:
            raise UsageError(f"--{flag}={number} is out of range: give 1 or more")
    opened = open_storage(storage or str(journal), name)
    with files.writing(workdir, runs.ADVICE):
        workdir.mkdir(parents=True, exist_ok=True)
    study = Study(opened, name, record, trials)
    if study.record.source:
        files.write(_source(workdir), study.record.source.encode())
    if summary:
        print(_head(study, workdir), flush=True)
    threads = threads or (max(1, num_cores() // jobs) if jobs > 1 else 0)
    if jobs > 1:
        _supervise(study, workdir, jobs, threads)
    else:
        if threads:
            device.use_threads(threads)
        _work(study, workdir, command)
    found = Tuned(study, workdir)
    if summary:
        _tell(study, workdir, command, finish)
    return found


def _head(study: Study, workdir: Path) -> str:
    """What is going to be done, and how another process joins, in words."""
    record, done = study.record, sum(trial.state.is_finished() for trial in study.trials)
    aims = " and ".join(
        f"{'the highest' if name in MAXIMISED else 'the fewest' if name in COSTS else 'the lowest'} "
        f"{'' if name in COSTS else 'validation '}{label(name)}"
        for name in record.objectives
    )
    varied = ", ".join(f"{field}:{values}" for field, values in record.search.items())
    return (
        f"tuning {record.model} on {record.config['dataset']} in {workdir}: {done} of {study.wanted} trials done, "
        f"of {record.epochs} epoch{'s' * (record.epochs != 1)} each, for {aims}\n"
        f"varied: {varied}\n"
        f"another process joins by  {_join(study, workdir)}"
    )


def _join(study: Study, workdir: Path, *more: str) -> str:
    """The command that joins a study."""
    storage, where = study.storage, []
    own = isinstance(storage, Journal) and storage.path == Path(os.path.abspath(workdir / "study.journal"))
    if not own:
        where.append(f"--storage={storage.shown}")
    if not own or study.name != runs.title(workdir):
        where.append(f"--study={study.name}")
    if isinstance(storage, Journal):
        where.append(f"--workdir={os.path.abspath(workdir)}")
    return shlex.join(["genmnist", "tune", *where, *more])


def _source(workdir: Path) -> Path:
    return workdir / "model.py"


def _full(record: Record, values: dict) -> ConfigDict:
    """The study's config with these values, as it is trained to full length."""
    config = ConfigDict(record.config)
    config.update(values)
    return config


def _trial_config(record: Record, values: dict) -> ConfigDict:
    """The same of a trial: the warm-up stays the same share of its epochs."""
    config = _full(record, values)
    if "warmup_epochs" in config and "warmup_epochs" not in values:
        config.warmup_epochs = config.warmup_epochs * record.epochs // config.epochs
    config.epochs = record.epochs
    return config


def _work(study: Study, workdir: Path, command: str) -> None:
    """Trains trials until all of the study are done, by this process or others."""
    waiting = False
    while True:
        if claim := study.claim():
            print(_train(claim, workdir, command), flush=True)
            tf_keras.backend.clear_session()
            gc.collect()
        elif left := study.open:
            if not waiting:
                print(f"waiting for {len(left)} trial{'s' * (len(left) > 1)} of other workers", flush=True)
            waiting = True
            time.sleep(POLL)
        else:
            return


def _train(claim: Claim, workdir: Path, command: str) -> str:
    """Trains a trial and tells the study what came of it; says so in a line."""
    record, config = claim.study.record, _trial_config(claim.study.record, claim.values)
    place = workdir / "trials" / claim.run
    source = _source(workdir) if record.source else None
    seen: list[dict] = []
    pruned = False
    value = _measure(record, config, source)

    def report(rows: list[dict]) -> None:
        for row in rows[len(seen) :]:
            claim.report(value(row), row["epoch"])
        seen[:] = rows

    def enough(rows: list[dict]) -> bool:
        nonlocal pruned
        report(rows)
        pruned = bool(rows) and rows[-1]["epoch"] < config.epochs and claim.should_prune()
        return pruned

    said = f"trial {claim.number}: " + ", ".join(f"{field} {shown(v)}" for field, v in claim.values.items())
    try:
        with files.writing(place, runs.ADVICE):
            place.mkdir(parents=True, exist_ok=True)
            log = open(place / "log.txt", "a")  # noqa: SIM115
        with runs.lock(place):
            pass
    except (UsageError, Fault):  # this worker cannot write there, and would have every trial fail
        with contextlib.suppress(Fault):
            claim.give_back(1)
        raise
    try:
        with log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            api.begin(record.model, config, place, (), hidden(command), time.time(), source=source, enough=enough)
        run = runs.load(place)
        report(runs.read_metrics(run))  # of one that was finished before its worker was lost
        told = {"epochs": len(seen), "minutes": sum(row["seconds"] for row in seen) / 60}
        if pruned:
            claim.prune(**told)
            return f"{said}: pruned after {told['epochs']} of {config.epochs} epochs"
        best = (max if record.objectives[0] in MAXIMISED else min)(map(value, seen))
        costs = {"seconds": lambda: 60 * told["minutes"], "parameters": lambda: _parameters(run)}
        values = [costs[name]() if name in costs else best for name in record.objectives]
        claim.complete(values, **told)
        return f"{said}: " + ", ".join(f"{label(n)} {shown(v)}" for n, v in zip(record.objectives, values, strict=True))
    except Lost as error:
        return f"{said}: left, for {error}"
    except (Fault, OSError) as error:
        if not isinstance(error, Diverged):  # others would meet it too: a full disk, damaged data
            with contextlib.suppress(Fault):  # the storage itself is out of reach: others see that the lock is free
                claim.give_back(1)
            raise
        reason = str(error)
    except (SystemExit, KeyboardInterrupt):
        claim.give_back(0)
        raise
    except Exception as error:  # whatever a config leads to: it does not fit in memory, or the user's code raises
        reason = " ".join(str(error).split())
        reason = reason if isinstance(error, UsageError) else f"{type(error).__name__}: {reason:.300}"
    claim.fail(reason, epochs=len(seen))
    return f"{said}: failed: {reason}"


def _measure(record: Record, config: ConfigDict, source: Path | None) -> Callable[[dict], float]:
    """What tells how good an epoch is, of its row of metrics.jsonl."""
    name = record.objectives[0]
    if name != "score":
        return lambda row: row[f"val_{name}"]
    return models.build(config, runs.planned_spec(config), configs.builder(source) if source else None).score


def _parameters(run: Run) -> int:
    return runs.build_model(run, run.spec).num_parameters


def _supervise(study: Study, workdir: Path, jobs: int, threads: int) -> None:
    """Has so many processes of this machine train, and waits for them.

    Raises:
      Fault: if they ended before the study did.
    """
    arguments = ["tune", f"--storage={study.storage}", f"--study={study.name}"]
    arguments += [f"--workdir={workdir}", "--summary=false", f"--threads={threads}"]
    gpus = len(tf.config.list_physical_devices("GPU"))  # of several, each has one, in turn
    own = [[number % gpus] if gpus > 1 else None for number in range(jobs)]
    started = [start(arguments, each) for each in own]
    print(f"{jobs} jobs of {threads} thread{'s' * (threads > 1)} each, processes {_pids(started)}", flush=True)
    try:
        left = list(started)
        while left:
            time.sleep(0.1)
            for process in [process for process in left if process.poll() is not None]:
                left.remove(process)
                if process.returncode:
                    runs.warn(f"the worker {process.pid} ended with status {process.returncode}; {len(left)} are left")
    except BaseException:
        for process in started:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in started:
            process.wait()
        raise
    done = sum(trial.state.is_finished() for trial in study.trials)
    if done < study.wanted:
        raise Fault(
            f"all workers ended after {done} of {study.wanted} trials: what is told above is the reason; go on by "
            f"`{_join(study, workdir, f'--jobs={jobs}')}`"
        )


def _pids(processes: list[subprocess.Popen]) -> str:
    return " and ".join(str(process.pid) for process in processes)


def _tell(study: Study, workdir: Path, command: str, finish: bool) -> None:
    """Prints the table, writes all trials, the figures and the best config, and trains that if it is to be finished."""
    from keras_genmnist.figures import save
    from keras_genmnist.search import figures

    best = require_finished(study)[0]
    print(table(study))
    files.write(workdir / "trials.csv", as_csv(study))
    print(f"wrote {workdir / 'trials.csv'}")
    for name in figures.names(study):
        save(figures.FIGURES[name](study), workdir / f"{name}.png")
    run = _best(study, workdir, best, command)
    if finish and _is_trained_elsewhere(run.workdir):
        print(f"another process trains {run.workdir} to full length")
    elif finish:
        source = _source(workdir) if study.record.source else None
        api.begin(run.name, run.config, run.workdir, (), run.command, time.time(), source=source)
    else:
        print(f"the config of trial {best.number} is in {run.workdir}; to full length, {runs.resume(run.workdir)}")


def _is_trained_elsewhere(workdir: Path) -> bool:
    """Whether another process holds the run: of several workers of a search, one finishes it."""
    try:
        with runs.lock(workdir):
            return False
    except Fault:
        return True


def _best(study: Study, workdir: Path, trial: "FrozenTrial", command: str) -> Run:
    """The run of the best config to full length, begun in WORKDIR/best; what is trained there of another stays.

    Raises:
      UsageError: if another config is trained there.
    """
    record, place = study.record, workdir / "best"
    config = _full(record, trial.params)
    if runs.exists(place):
        there = runs.load(place)
        if there.config == config:
            return there
        if runs.read_metrics(there):
            raise UsageError(
                f"{place} is trained with the best config of before, and trial {trial.number} is better now: move it "
                "away, and give the same command again"
            )
    source = _source(workdir) if record.source else None
    run = Run(place, record.model, config, hidden(command), runs.commit(), source=source)
    run = replace(run, data=runs.describe(runs.load_data(run)))
    runs.record(run)
    return run
