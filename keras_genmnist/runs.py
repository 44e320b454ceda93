"""A run is a directory: its config, checkpoints, metrics and pictures.  This file knows every path in it.

config.json       what is trained: {"schema", "id", "name", "command", "commit", "config", "changes", "init_from",
                  "data"}, as `Run` explains them; a copy is in checkpoints/
model.py          of a model of the user's own: the file that its config and `build` stand in, as it was
checkpoints/      the whole training state at the last three epochs: weights, optimizer, averages, progress
best/             the weights that are scored: those of the best epoch on the validation split; raw too if averaged
progress/         a strip of samples of the same seeds at each epoch
metrics.jsonl     one JSON object an epoch
tensorboard/      scalars and samples
metrics.json      what `evaluate` measured
"""

import contextlib
import hashlib
import itertools
import json
import os
import platform
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import tensorflow as tf
from ml_collections import ConfigDict

from keras_genmnist import __version__, datasets, files, judges, migrations, models
from keras_genmnist import config as configs
from keras_genmnist.datasets import Dataset, DatasetSpec, binarization
from keras_genmnist.datasets.spec import spec_of
from keras_genmnist.errors import Fault, UsageError

CHANGEABLE = ("epochs", "patience")  # fields with whose values a run can go on; all others are what it is
ADVICE = "give a --workdir you may write to"  # where a run cannot be written
OF_TRAINING = {"precision": "float32", "r1_penalty": 0.0, "free_bits": 0.0, "warmup_epochs": 0}  # and their defaults


@dataclass(frozen=True)
class Run:
    """A run's directory, the name of its config, the config itself, and the command and commit that began it.

    The name is a label: all that the run is stands in its own config, and nothing is looked up in configs/.

    init_from: the directory of the run whose weights it started from, if any.
    data: what the run learns from, as `describe` says it; None of a run that an earlier version began.
    source: of a model of the user's own, the file that its `build` stands in; the run keeps a copy.
    builder: (config, spec) -> model, of a model of the user's own; found in `source` by default.
    identity: what tells the run from others, wherever its directory is.
    changes: where the run went on with other values of CHANGEABLE fields, from the first on, each as {"epoch", "step",
      "old": {field: value}, "new": {field: value}, "command"}.
    """

    workdir: Path
    name: str
    config: ConfigDict
    command: str
    commit: str
    identity: str = field(default_factory=lambda: secrets.token_hex(6))
    changes: list[dict] = field(default_factory=list)
    data: dict | None = None
    source: Path | None = None
    init_from: Path | None = None
    builder: Callable | None = field(default=None, compare=False)

    @property
    def spec(self) -> DatasetSpec:
        """What the run's images are."""
        if self.data is None:
            return datasets.spec(self.config.dataset)
        return spec_of(self.data["spec"])

    @property
    def own(self) -> bool:
        """Whether its model is of the user's own: it is called as the run is, and the package has none of that name."""
        return self.config.get("model") == self.name and self.name not in models.names()

    @property
    def binarization(self) -> str:
        """How its training images become binary, for the records."""
        return binarization.label(self.spec.values, self.config.binarization)

    @property
    def title(self) -> str:
        """What the run's figures, exports and results are named by: the name of its directory."""
        return title(self.workdir)

    @property
    def model_py(self) -> Path:
        return self.workdir / "model.py"

    @property
    def checkpoints(self) -> Path:
        return self.workdir / "checkpoints"

    @property
    def best(self) -> Path:
        return self.workdir / "best"

    @property
    def progress(self) -> Path:
        return self.workdir / "progress"

    @property
    def metrics_jsonl(self) -> Path:
        return self.workdir / "metrics.jsonl"

    @property
    def metrics_json(self) -> Path:
        return self.workdir / "metrics.json"

    @property
    def tensorboard(self) -> Path:
        return self.workdir / "tensorboard"


def title(workdir: Path) -> str:
    """The name of a directory, which may be given as `.`."""
    return Path(os.path.abspath(workdir)).name or "root"


def describe(dataset: Dataset) -> dict:
    """What a run says of its data, for JSON: the fields of its DatasetSpec, the sizes of its splits, and a sha256.

    The judge in the spec is the one that the run began with: a GAN's epochs are compared by one judge to the end.
    """
    splits = {name: getattr(dataset, name) for name in ("train", "validation", "test")}
    return {
        "spec": {name: list(v) if isinstance(v, tuple) else v for name, v in dataset.spec._asdict().items()},
        "num_images": {name: len(split.images) for name, split in splits.items()},
        "sha256": datasets.digest(**splits),
    }


def planned_spec(config: ConfigDict) -> DatasetSpec:
    """What the images are that a run of this config would learn from; loads them where their name does not say.

    Raises:
      UsageError, Fault: as datasets.load.
    """
    given = {"image_size": config.image_size, "invert": config.invert}
    return datasets.spec(config.dataset) or datasets.load(config.dataset, **given).spec


def load_data(run: Run) -> Dataset:
    """The images that the run learns from.

    Raises:
      UsageError, Fault: as datasets.load; a Fault too if they are no longer what they were.
    """
    config = run.config
    dataset = datasets.load(config.dataset, image_size=config.image_size, invert=config.invert)
    judge = run.spec.judge if run.data else judges.name(dataset)
    dataset = dataset._replace(spec=dataset.spec._replace(judge=judge))
    if run.data and (found := describe(dataset)) != run.data:
        raise Fault(
            f"{config.dataset} is not what {run.workdir} learned from: its sha256 is {found['sha256']:.12}..., not "
            f"{run.data['sha256']:.12}...; restore it"
        )
    return dataset


def exists(workdir: Path) -> bool:
    """Whether `workdir` holds a run."""
    return any(path.exists() for path in _config_files(workdir))


def record(run: Run) -> None:
    """Writes the run's config.json and the copy of it, making its directory.

    Raises:
      UsageError: if the directory cannot be written.
    """
    content = {
        "schema": migrations.SCHEMA,
        "id": run.identity,
        "name": run.name,
        "command": run.command,
        "commit": run.commit,
        "config": run.config.to_dict(),
        "changes": run.changes,
        "init_from": run.init_from and str(run.init_from),
        "data": run.data,
    }
    if run.source and run.source != run.model_py:
        files.write(run.model_py, run.source.read_bytes())
    for path in _config_files(run.workdir):
        files.write_json(path, content)


def load(workdir: Path, name: str = "NAME") -> Run:
    """The run in `workdir`; `name` is what to train there where there is none.

    Raises:
      UsageError: if there is none, or `workdir` is the checkpoints/ of one, which holds the copy of its config.json.
      Fault: if its config.json and the copy of it are both damaged, or say different things, or are of a later version;
        or if something else stands where a file or a folder of the run should be.
    """
    if not exists(workdir):
        raise UsageError(f"no run in {workdir}: train one with {_train(f'--model={name}', f'--workdir={workdir}')}")
    place = Path(os.path.abspath(workdir))
    if place.name == "checkpoints" and not (place / "checkpoints").exists():
        raise UsageError(f"{workdir} is a part of the run in {place.parent}: give that")
    check_kinds(workdir)
    first, copy = _config_files(workdir)
    run, spare = (_read(path, workdir) for path in (first, copy))
    if run is None and spare is None:
        raise Fault(f"{first} and its copy {copy} are both damaged: restore one of them, or train in another workdir")
    if run is None:
        warn(f"{first} is missing or damaged: using its copy {copy}")
        return spare
    if spare is not None:
        # A process that was killed between writing the two leaves a change that only the first tells of.
        told = {name for change in run.changes if change not in spare.changes for name in change["new"]}
        fields = [field for field in _different(run.config, spare.config) if field not in told]
        if fields:
            differences = ", ".join(f"{f} is {run.config.get(f)} and {spare.config.get(f)}" for f in fields)
            raise Fault(
                f"{first} and its copy {copy} disagree ({differences}): delete the one that is wrong, and the other "
                "is used"
            )
    return run


def _config_files(workdir: Path) -> tuple[Path, Path]:
    return workdir / "config.json", workdir / "checkpoints" / "config.json"


def _read(path: Path, workdir: Path) -> Run | None:
    """What a config.json says, or None if it is missing or damaged."""
    try:
        record = files.parse_json(path.read_text())
        return Run(
            workdir,
            _text(record["name"]),
            _config_of(record),
            _text(record["command"]),
            _text(record["commit"]),
            identity_of(record),
            [{**change, "new": {**change["new"]}} for change in record.get("changes", [])],
            _data_of(record),
            workdir / "model.py" if (workdir / "model.py").exists() else None,
            record.get("init_from") and Path(_text(record["init_from"])),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _config_of(record: dict) -> ConfigDict:
    """The config in a record, as it would be written today."""
    plain = all(isinstance(value, str | int | float) for value in record["config"].values())
    if not plain and "components" not in record["config"]:
        raise ValueError("a config has only text, numbers and truth values, but that of several runs lists of configs")
    return ConfigDict(migrations.migrate(record["config"], record.get("schema", 1)))


def _data_of(record: dict) -> dict | None:
    """What a record says of its data, checked."""
    if (data := record.get("data")) is not None:
        spec_of(data["spec"])
        _text(data["sha256"])
    elif datasets.spec(record["config"]["dataset"]) is None:
        raise ValueError("images of the user's own are described")
    return data


def _text(value) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def identity_of(record: dict) -> str:
    """The identity of the run that a config.json or an export's genmnist.json is of.

    Where neither names one, as of earlier versions, it is made of what both hold.
    """
    if "id" in record:
        return _text(record["id"])
    content = json.dumps([record["config"], record["commit"]], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def config_from(path: Path) -> tuple[str, ConfigDict, Path | None]:
    """A config's name, the config itself, and the file of a model of the user's own.

    They come from a run, or from what `evaluate`, `gap` or `export` wrote of one.

    Args:
      path: a run's directory, or a file: results/NAME.json, a run's config.json, or an export's genmnist.json.
    Raises:
      UsageError: if there is no such thing.
      Fault: if it is damaged.
    """
    if path.is_dir():
        run = load(path)
        return run.name, run.config, run.source
    if not path.exists():
        raise UsageError(f"no {path} to take a config from: give a run's directory or a results/NAME.json")
    try:
        record = files.parse_json(path.read_text())
        return _text(record["name"] if "name" in record else record["model"]), _config_of(record), None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Fault(f"{path} holds no whole config: give a run's directory or a results/NAME.json") from error


@contextlib.contextmanager
def building(run: Run) -> Iterator[None]:
    """Says in one line that no model can be built of a run's config, which may be edited by hand.

    Raises:
      Fault: if so.
      UsageError: if the model is of the user's own, and its code may be what fails.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if run.own:
            raise UsageError(f"{_own_place(run, error)} fails ({type(error).__name__}: {reason:.200})") from error
        raise Fault(
            f"the config in {_config_files(run.workdir)[0]} is damaged ({reason:.200}): correct it, and delete its "
            f"copy in {run.checkpoints}"
        ) from error


def _own_place(run: Run, error: Exception) -> str:
    """Where in the user's own code an error arose."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if run.source and Path(frame.filename) == run.source]
    where = f"{run.source}, line {lines[-1]}" if lines else str(run.source or "the function given")
    return f"build(config, spec) of {run.name} in {where}"


def check_kinds(workdir: Path) -> None:
    """Checks that no file stands where a folder of a run should be, and no folder where a file should be.

    Raises:
      Fault: naming what does.
    """
    for name in ("checkpoints", "best", "progress", "tensorboard"):
        if (path := workdir / name).exists() and not path.is_dir():
            raise Fault(f"{path} is a file where a folder should be: move it away")
    for path in (*_config_files(workdir), workdir / "metrics.jsonl", workdir / "metrics.json"):
        if path.is_dir():
            raise Fault(f"{path} is a folder where a file should be: move it away")


def go_on(run: Run, name: str, config: ConfigDict, given: Collection[str]) -> dict[str, dict]:
    """What is changed where a run goes on with `config`.

    Args:
      run: the run.
      name: of the config.
      config: what is wanted now.
      given: the fields that were asked for by name.
    Returns:
      {"old": {field: value}, "new": {field: value}} of the fields that differ; empty if none does.
    Raises:
      UsageError: naming every field that differs, unless it is one of CHANGEABLE and given.
    """
    if name != run.name:
        raise UsageError(f"{run.workdir} holds a run of {run.name}, not of {name}: give another --workdir")
    old, new = run.config, config
    fields = _different(old, new)
    if fields and not set(fields) <= set(CHANGEABLE) & set(given):
        differences = ", ".join(f"{field} is {old.get(field)} there, {new.get(field)} here" for field in fields)
        raise UsageError(
            f"{run.workdir} was begun with another config ({differences}): "
            f"resume it as it is with {_train(f'--workdir={run.workdir}')}, or give another --workdir"
        )
    return {key: {field: own[field] for field in fields} for key, own in (("old", old), ("new", new)) if fields}


def _different(one: ConfigDict, other: ConfigDict) -> list[str]:
    """The fields whose values differ; 2 and 2.0 do, too."""
    return sorted(f for f in {*one, *other} if json.dumps(one.get(f)) != json.dumps(other.get(f)))


def resume(workdir: Path, *arguments: str) -> str:
    """The command that resumes a run, in backticks."""
    return _train(f"--workdir={workdir}", *arguments)


def anew(workdir: Path, *arguments: str) -> str:
    """The command that trains a run's config again in a workdir that is free, in backticks."""
    others = (f"{workdir}-{number}" for number in itertools.count(2))
    free = next(other for other in others if not os.path.exists(other))
    return _train(f"--config_from={workdir}", *arguments, f"--workdir={free}")


def _train(*arguments: str) -> str:
    return f"`{shlex.join(['genmnist', 'train', *arguments])}`"


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Claims the directory for this process; where no run was begun meanwhile, leaves it as it was.

    Raises:
      UsageError: if the directory cannot be written.
      Fault: if another process holds it.
    """
    with contextlib.ExitStack() as stack:
        with files.writing(workdir, ADVICE):
            stack.enter_context(files.made(workdir))
        if not stack.enter_context(files.claimed(workdir / ".lock", ADVICE)):
            raise Fault(f"another process is training in {workdir}: wait for it, or give another --workdir")
        try:
            yield
        finally:
            if not exists(workdir):
                (workdir / ".lock").unlink(missing_ok=True)


def restore_latest(checkpoint: tf.train.Checkpoint, directory: Path) -> str | None:
    """Restores the newest checkpoint of `directory` that is whole, complaining about those that are not.

    Searches for the files themselves: TensorFlow's own record of the latest one may be damaged too.

    Returns:
      The path of the checkpoint restored, or None if the directory holds none.
    Raises:
      Fault: if there are checkpoints and none of them can be restored.
    """
    indices = [path for path in directory.glob("ckpt-*.index") if re.fullmatch("ckpt-[0-9]+", path.stem)]
    for index in sorted(indices, key=lambda path: int(path.stem.split("-")[1]), reverse=True):
        prefix = str(index.with_suffix(""))
        try:
            with files.literal(directory) as literal:
                status = checkpoint.restore(f"{literal}/{index.stem}")
            status.assert_existing_objects_matched().expect_partial()  # best/ may hold more
            return prefix
        # A truncated file is an IndexError, a flipped bit an OpError, other variables an AssertionError or ValueError.
        except (tf.errors.OpError, IndexError, AssertionError, ValueError) as error:
            warn(f"checkpoint {prefix} is damaged ({type(error).__name__}): trying the one before it")
    if indices:
        raise Fault(
            f"none of the {len(indices)} checkpoints in {directory} can be restored: restore one, or train anew by "
            f"{anew(directory.parent)}"
        )
    return None


def save(checkpoint: tf.train.Checkpoint, directory: Path, max_to_keep: int, number: int | None = None) -> str:
    """Saves a checkpoint into `directory`, and then deletes all but the newest `max_to_keep`.

    Args:
      checkpoint: what to save.
      directory: made where it is missing.
      max_to_keep: at least 1.
      number: of the checkpoint; by default one more than that of the last one saved.
    Returns:
      The path of the checkpoint.
    Raises:
      UsageError: if it cannot be written.
      Fault: if there is no room for it; the checkpoints before it are whole.
    """
    with files.writing(directory, ADVICE):
        directory.mkdir(parents=True, exist_ok=True)
        with files.literal(directory) as literal:
            try:
                manager = tf.train.CheckpointManager(checkpoint, literal, max_to_keep)
            except ValueError:  # TensorFlow's own record of them is damaged: it begins anew
                (directory / "checkpoint").unlink()
                manager = tf.train.CheckpointManager(checkpoint, literal, max_to_keep)
            try:
                saved = directory / Path(manager.save(checkpoint_number=number)).name
            finally:
                _clear(directory)
        for path in (*directory.glob(f"{saved.name}.*"), directory):
            files.sync(path)
    return str(saved)


def _clear(directory: Path) -> None:
    """Removes what is left of saves that did not end, also of processes that were killed."""
    for folder in directory.glob("ckpt-*_temp"):
        shutil.rmtree(folder, ignore_errors=True)
    for name in ("*.tempstate*", "checkpoint.tmp*"):
        for path in directory.glob(name):
            path.unlink(missing_ok=True)
    for data in directory.glob("ckpt-*.data-*"):
        if not data.with_suffix(".index").exists():
            data.unlink(missing_ok=True)


def scored(weights: list[tf.Variable], raw: list[tf.Variable]) -> tf.train.Checkpoint:
    """What best/ holds.

    Args:
      weights: those that are scored, in the order of the model's.
      raw: the model's own; left out where they are the same.
    """
    return tf.train.Checkpoint(weights=weights, raw=None if weights is raw else raw)


def build_model(run: Run, spec: DatasetSpec) -> models.GenerativeModel:
    """The run's model, for images of `spec`, with weights that are not trained.

    Raises:
      UsageError: if a config value is out of range, or the model is of the user's own and its code is not at hand.
    """
    builder = run.builder or (configs.builder(run.source) if run.source else None)
    if builder is None and run.own:
        raise UsageError(
            f"{run.workdir} is of a model of your own, built by Python code: open it by "
            f"gm.open({str(run.workdir)!r}, builder={run.name})"
        )
    return models.build(run.config, spec, builder)


def load_model(run: Run, raw: bool = False) -> models.GenerativeModel:
    """The run's model with the weights that are scored, or with those that their average is of.

    Raises:
      Fault: if the run has no finished epoch, or its weights are damaged.
    """
    config = run.config.copy_and_resolve_references()
    # What training alone goes by: what an earlier version accepted of it refuses no trained run.
    config.update({name: value for name, value in OF_TRAINING.items() if isinstance(config.get(name), type(value))})
    with building(run):
        model = build_model(replace(run, config=config), run.spec)
    state = tf.train.Checkpoint(**{"raw" if raw else "weights": model.weights})
    if restore_latest(state, run.best) is None:
        if read_metrics(run):
            raise lost(run.best)
        raise Fault(f"{run.workdir} has no finished epoch yet: train it with {resume(run.workdir)}")
    return model


def has_raw(run: Run) -> bool:
    """Whether best/ also holds the weights that the scored ones are the average of: a pretrained model's does not."""
    found = False
    for index in run.best.glob("ckpt-*.index"):
        with contextlib.suppress(tf.errors.OpError), files.literal(run.best) as literal:  # a damaged one holds nothing
            found |= any(name.startswith("raw/") for name, _ in tf.train.list_variables(f"{literal}/{index.stem}"))
    return found


def lost(folder: Path) -> Fault:
    """What to say of checkpoints/ or best/ of a run whose other files say that something should be there."""
    return Fault(f"{folder} has no checkpoint any more: restore it, or train anew by {anew(folder.parent)}")


def read_metrics(run: Run) -> list[dict]:
    """The rows of metrics.jsonl, one an epoch; what is no row, as a half-written last line, is left out and said."""
    rows, damaged = _rows(run)
    if damaged:
        warn(f"{run.metrics_jsonl}: left out {len(damaged)} damaged line{'s' * (len(damaged) > 1)}: {damaged[0]!r:.60}")
    return rows


def _rows(run: Run) -> tuple[list[dict], list[str]]:
    """The rows of metrics.jsonl, and the lines that are none."""
    rows, damaged = [], []
    lines = run.metrics_jsonl.read_text(errors="replace").splitlines() if run.metrics_jsonl.exists() else []
    for line in lines:
        try:
            row = files.parse_json(line)
            whole = all(isinstance(row[name], int | float) for name in ("epoch", "step", "seconds"))
        except (ValueError, KeyError, TypeError):
            whole = False
        if whole:
            rows.append(row)
        else:
            damaged.append(line)
    return rows, damaged


def history(run: Run, model: models.GenerativeModel | None = None) -> list[dict]:
    """The rows of a run that has finished an epoch.

    Given the run's model, those that say how good their epoch is; then what is left out is said.

    Raises:
      Fault: if there are none.
    """

    def judged(row):
        try:
            return isinstance(model.score(row), int | float)
        except (KeyError, TypeError):
            return False

    rows, _ = _rows(run)
    if not any(model is None or judged(row) for row in rows):
        raise Fault(f"{run.metrics_jsonl} is missing or damaged: restore it, or train anew by {anew(run.workdir)}")
    return rows if model is None else [row for row in read_metrics(run) if judged(row)]


def commit() -> str:
    """The commit of this code: from the environment in the image, from git in a checkout, else the version.

    A "+" at its end says that the code is not what the commit holds.
    """
    if recorded := os.environ.get("GENMNIST_COMMIT"):
        return recorded
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return __version__

    def git(*arguments: str) -> str:
        try:
            return subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True).stdout.strip()
        except OSError:  # no git here
            return ""

    # A config that is in no commit counts, the results that the last evaluation wrote do not.
    changed = "+" if git("status", "--porcelain", "--", "keras_genmnist", "configs") else ""
    return (git("rev-parse", "--short=12", "HEAD") or __version__) + changed


def machine() -> str:
    """The processor, its cores, and the GPU if there is one."""
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    count = len(os.sched_getaffinity(0))
    cpu = f"{count} core{'s' * (count > 1)} of {names[0] if names else platform.machine()}"
    gpus = [tf.config.experimental.get_device_details(g)["device_name"] for g in tf.config.list_physical_devices("GPU")]
    return ", ".join([cpu, *gpus])


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def origin() -> dict[str, str]:
    """What a number measured now comes from: its `machine` and `commit`."""
    return {"machine": machine(), "commit": commit()}


def warn(message: str) -> None:
    """One line on standard error."""
    print(f"genmnist: {message}", file=sys.stderr, flush=True)
