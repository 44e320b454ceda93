"""A study: which trials there are, who trains them, and what came of them.

A trial is begun, and taken over from a worker that died, under one lock of the whole study.  A worker then holds the
lock of its trial until it has told what came of it.  So a trial that is running and whose lock is free has lost its
worker, and two workers never have the same one.
"""

import contextlib
import functools
import os
import platform
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import optuna
from ml_collections import ConfigDict
from optuna.trial import FrozenTrial, TrialState

from keras_genmnist.errors import Fault, UsageError
from keras_genmnist.search.space import Range, Space, parse
from keras_genmnist.search.storage import Journal, Postgres

RECORD = "genmnist"
TRIALS = 20
STARTUP = 5  # trials that are drawn at random, and none of which is pruned
CHANCES = 3  # workers that a trial may cost
MAXIMISED = ("elbo", "iwae", "score")
UNITS = {"elbo": "nats", "iwae": "nats", "nll": "nats", "seconds": "s"}


@dataclass(frozen=True)
class Record:
    """What all workers of a study go by.

    model: the name of the config.
    config: the config that trials vary, as it would be trained to full length.
    search: field -> values, as written.
    epochs: of a trial.
    objectives: what is measured: columns val_* of metrics.jsonl by their names after `val_`, "seconds" of training, or
      "parameters".  Of several, the Pareto front is sought, and no trial is pruned.
    pruner: "median", "hyperband" or "none".
    source: of a model of the user's own, the text of its file.
    """

    model: str
    config: dict
    search: dict[str, str]
    epochs: int
    objectives: list[str]
    pruner: str = "median"
    source: str | None = None

    @property
    def space(self) -> Space:
        """What is searched."""
        return parse(self.search, ConfigDict(self.config))

    @property
    def directions(self) -> list[str]:
        """Of each objective."""
        return ["maximize" if name in MAXIMISED else "minimize" for name in self.objectives]


class Study:
    """A study in a storage, as one worker sees it."""

    def __init__(self, storage: Journal | Postgres, name: str, record: Record | None, trials: int | None):
        """Begins a study, or joins the one that is there.

        Args:
          storage: where it is kept.
          name: of the study.
          record: what is wanted; None to join, whatever it is.
          trials: how many are wanted in all; None for as many as were asked for before, or TRIALS.
        Raises:
          UsageError: if there is none to join, or the one that is there is of another model or search.
          Fault: if the storage cannot be reached.
        """
        self.storage, self.name = storage, name
        with storage.reached(), storage.claiming():
            names = optuna.get_all_study_names(storage.optuna)
            if name not in names:
                if record is None:
                    there = f"it has {', '.join(sorted(names))}" if names else "it has none"
                    raise UsageError(f"no study {name} in {storage.shown}: {there}; give --model=NAME to begin one")
                self._optuna = optuna.create_study(
                    storage=storage.optuna, study_name=name, directions=record.directions
                )
            else:
                self._optuna = optuna.load_study(study_name=name, storage=storage.optuna)
            # One that was begun by a process that was killed before it could say of what has no record yet.
            found = self._optuna.user_attrs.get(RECORD)
            if found is None and (record is None or self._optuna.get_trials(deepcopy=False)):
                raise UsageError(f"the study {name} in {storage.shown} is not of genmnist: give another --study")
            if found is None:
                self._optuna.set_user_attr(RECORD, asdict(record))
            elif record is not None:
                _require_same(name, storage.shown, found, asdict(record))
            self.record = record or Record(**found)
            if trials is not None or "trials" not in self._optuna.user_attrs:
                self._optuna.set_user_attr("trials", trials or TRIALS)
            self._optuna.pruner = _pruner(self.record, self.space)

    @functools.cached_property
    def space(self) -> Space:
        """What is searched."""
        return self.record.space

    @property
    def wanted(self) -> int:
        """How many trials there shall be."""
        return self._optuna.user_attrs["trials"]

    @property
    def trials(self) -> list[FrozenTrial]:
        """All but those that were begun again, as another trial, for their worker was lost."""
        with self.storage.reached():
            return _counted(self._optuna.get_trials(deepcopy=False))

    @property
    def best(self) -> list[FrozenTrial]:
        """The best trial; of several objectives, the Pareto front, by the first one; nothing where none is complete."""
        complete = [trial for trial in self.trials if trial.state == TrialState.COMPLETE]
        if not complete:
            return []
        with self.storage.reached():
            if len(self.record.objectives) == 1:
                choose = max if self.record.directions[0] == "maximize" else min
                return [choose(complete, key=lambda trial: trial.value)]
            sign = -1 if self.record.directions[0] == "maximize" else 1
            return sorted(self._optuna.best_trials, key=lambda trial: sign * trial.values[0])

    @property
    def open(self) -> list[FrozenTrial]:
        """The trials that are being trained, or wait for a worker."""
        return [trial for trial in self.trials if not trial.state.is_finished()]

    def importances(self) -> dict[str, float]:
        """How much each field tells of the first objective, by PED-ANOVA, with sum 1.

        Source: Watanabe et al. (2023), arxiv.org/abs/2304.10255
        """
        sign = -1 if self.record.directions[0] == "maximize" else 1  # it asks what makes its target low
        with self.storage.reached(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says so, and that a few trials tell little
            return optuna.importance.get_param_importances(self._optuna, target=lambda trial: sign * trial.values[0])

    def claim(self) -> "Claim | None":
        """Begins a trial, or one again whose worker was lost; None where there is none to begin."""
        with self.storage.reached(), self.storage.claiming():
            for trial in self._optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if (lock := self.storage.hold(trial.number)) is not None:
                    with lock:
                        self._enqueue(trial)
            trials = self._optuna.get_trials(deepcopy=False)
            waiting = any(trial.state == TrialState.WAITING for trial in trials)
            if not waiting and len(_counted(trials)) >= self.wanted:
                return None
            # What a trial draws is a function of the seed, its number and the trials before it; that others are running
            # is taken into account, so that workers do not all try the same.
            self._optuna.sampler = optuna.samplers.TPESampler(
                seed=self.record.config.get("seed", 0) + len(trials),
                n_startup_trials=STARTUP,
                constant_liar=True,
            )
            trial = self._optuna.ask()
            lock = self.storage.hold(trial.number)
            assert lock is not None, "nobody else knows of this trial"
            values = {field: _suggest(trial, field, over) for field, over in self.space.items()}
            if "run" not in trial.user_attrs:
                trial.set_user_attr("run", f"{trial.number:04}")
            trial.set_user_attr("worker", f"{platform.node()} {os.getpid()}")
            return Claim(self, trial, values, lock)

    def _enqueue(self, trial: FrozenTrial, lost: int = 1) -> None:
        """Has a trial begun again, whose worker is lost or gives it up; not one that has cost too many workers."""
        # In this order: a process that is killed in between leaves a trial fewer, and none twice.
        self._optuna.tell(trial.number, state=TrialState.FAIL)
        lost += trial.user_attrs.get("lost", 0)
        if lost < CHANCES:
            kept = {"again": trial.number, "run": trial.user_attrs.get("run", f"{trial.number:04}"), "lost": lost}
            params = trial.system_attrs.get("fixed_params", {}) | trial.params
            self._optuna.enqueue_trial(params, user_attrs=kept)


@dataclass
class Claim:
    """A trial that this process trains, and nobody else.

    values: field -> value.
    """

    study: Study
    trial: optuna.Trial
    values: dict
    lock: contextlib.AbstractContextManager

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def run(self) -> str:
        """The name of its run's directory: one that is begun again goes on in the same."""
        return self.trial.user_attrs["run"]

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        with self.study.storage.reached(), self.lock:
            yield

    def report(self, value: float, epoch: int) -> None:
        """Tells what an epoch gave.

        Raises:
          Lost: if the trial is another worker's now.
        """
        with self.study.storage.reached():
            if not self.study.storage.still_holds(self.number):
                raise Lost(f"trial {self.number} is another worker's now")
            if len(self.study.record.objectives) == 1:
                try:
                    self.trial.report(value, epoch)
                except optuna.exceptions.UpdateFinishedTrialError as error:
                    raise Lost(f"trial {self.number} is another worker's now") from error

    def should_prune(self) -> bool:
        """Whether what it gave so far is too little to go on; as likely to be asked once too often as once too few."""
        if len(self.study.record.objectives) > 1:
            return False
        with self.study.storage.reached():
            return self.trial.should_prune()

    def complete(self, values: list[float], **told) -> None:
        """Ends it, with its objectives and what else is told of it."""
        with self._telling():
            self._tell_of(told)
            self.study._optuna.tell(self.trial, values)

    def prune(self, **told) -> None:
        """Ends it before its last epoch."""
        with self._telling():
            self._tell_of(told)
            self.study._optuna.tell(self.trial, state=TrialState.PRUNED)

    def fail(self, reason: str, **told) -> None:
        """Ends it without a value."""
        with self._telling():
            self._tell_of(told | {"reason": reason})
            self.study._optuna.tell(self.trial, state=TrialState.FAIL)

    def give_back(self, lost: int) -> None:
        """Has it begun again, by this worker or another.

        Args:
          lost: 1 if it cost this worker's life, 0 if the worker was told to end.
        """
        storage, study = self.study.storage, self.study
        with storage.reached(), storage.claiming(), self.lock:
            trials = study._optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            for trial in trials:
                if trial.number == self.number:
                    study._enqueue(trial, lost)

    def _tell_of(self, told: dict) -> None:
        for name, value in told.items():
            self.trial.set_user_attr(name, value)


class Lost(Exception):
    """A trial is no longer this worker's."""


def _counted(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    begun_again = {trial.user_attrs.get("again") for trial in trials}
    return [trial for trial in trials if trial.number not in begun_again]


def _suggest(trial: optuna.Trial, field: str, over):
    if not isinstance(over, Range):
        return trial.suggest_categorical(field, over.values)
    suggest = trial.suggest_int if isinstance(over.low, int) else trial.suggest_float
    step = {} if over.step is None else {"step": over.step}
    return suggest(field, over.low, over.high, log=over.log, **step)


def _pruner(record: Record, space: Space) -> optuna.pruners.BasePruner:
    if record.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=record.epochs, reduction_factor=3)
    if record.pruner == "median":
        # The first fifth of a training says little of its end.
        return optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=record.epochs // 5)
    return optuna.pruners.NopPruner()


def _require_same(name: str, where: str, found: dict, wanted: dict) -> None:
    """Checks that a study that is there is the one that is wanted.

    Raises:
      UsageError: naming what differs.
    """
    differences = []
    for key, value in wanted.items():
        if key == "config":
            differences += [
                f"{field} is {found[key].get(field)} there, {value.get(field)} here"
                for field in sorted({*found[key], *value})
                if found[key].get(field) != value.get(field)
            ]
        elif found[key] != value:
            shown = "another file" if key == "source" else f"{found[key]} there, {value} here"
            differences.append(f"{key} is {shown}")
    if found["model"] != wanted["model"]:
        differences = [f"model is {found['model']} there, {wanted['model']} here"]
    if differences:
        raise UsageError(
            f"the study {name} in {where} is another ({'; '.join(differences)}): give another --workdir or --study, or "
            "leave out what differs to join it"
        )


def require_finished(study: Study) -> list[FrozenTrial]:
    """The best trials.

    Raises:
      Fault: if none is complete, with the reason of one.
    """
    if best := study.best:
        return best
    reasons = [trial.user_attrs["reason"] for trial in study.trials if "reason" in trial.user_attrs]
    raise Fault(f"no trial of {study.name} is complete" + (f"; the last one failed: {reasons[-1]}" if reasons else ""))
