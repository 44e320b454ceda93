"""A run is a directory: its config, checkpoints, metrics and pictures.  This file knows every path in it.

config.json       what is trained: {"name", "command", "commit", "config"}; a copy is in checkpoints/
checkpoints/      the whole training state at the last three epochs: weights, optimizer, averages, progress
best/             the weights that are scored: those of the best epoch on the validation split; raw too if averaged
progress/         a strip of samples of the same seeds at each epoch
metrics.jsonl     one JSON object an epoch
tensorboard/      scalars and samples
metrics.json      what `evaluate` measured
"""

import contextlib
import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf
from ml_collections import ConfigDict

from keras_genmnist import __version__, files, models
from keras_genmnist import config as configs
from keras_genmnist.errors import Fault, UsageError


@dataclass(frozen=True)
class Run:
    """A run's directory, the name of its config, the config itself, and the command and commit that began it."""

    workdir: Path
    name: str
    config: ConfigDict
    command: str
    commit: str

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


def exists(workdir: Path) -> bool:
    """Whether `workdir` holds a run."""
    return any(path.exists() for path in _config_files(workdir))


def record(run: Run) -> None:
    """Writes the run's config.json and the copy of it, making its directory.

    Raises:
      UsageError: if the directory cannot be written.
    """
    content = {"name": run.name, "command": run.command, "commit": run.commit, "config": run.config.to_dict()}
    for path in _config_files(run.workdir):
        files.write_json(path, content)


def load(workdir: Path, name: str = "NAME") -> Run:
    """The run in `workdir`; `name` is what to train there where there is none.

    Raises:
      UsageError: if there is none.
      Fault: if its config.json and the copy of it are both damaged, or of an earlier version that had fewer fields.
    """
    if not exists(workdir):
        raise UsageError(f"no run in {workdir}: train one with `genmnist train --model={name} --workdir={workdir}`")
    first, copy = _config_files(workdir)
    for path in (first, copy):
        try:
            record = json.loads(path.read_text())
            run = Run(workdir, record["name"], ConfigDict(record["config"]), record["command"], record["commit"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if path == copy:
            warn(f"{first} is damaged: using its copy {copy}")
        if missing := set(configs.load(run.name)) - set(run.config):
            raise Fault(
                f"{workdir} was begun by an earlier version: {path} has no {', '.join(sorted(missing))}; give another "
                "--workdir, or add what the run was trained with"
            )
        return run
    raise Fault(f"{first} and its copy {copy} are both damaged: restore one of them, or train in another workdir")


def _config_files(workdir: Path) -> tuple[Path, Path]:
    return workdir / "config.json", workdir / "checkpoints" / "config.json"


def require_same_config(run: Run, name: str, config: ConfigDict) -> None:
    """Checks that `name` and `config` are what the run was begun with.

    Raises:
      UsageError: naming every field that differs.
    """
    if name != run.name:
        raise UsageError(f"{run.workdir} holds a run of {run.name}, not of {name}: give another --workdir")
    old, new = run.config.to_dict(), config.to_dict()
    fields = sorted(field for field in old.keys() | new.keys() if old.get(field) != new.get(field))
    if fields:
        differences = ", ".join(f"{field} is {old.get(field)} there, {new.get(field)} here" for field in fields)
        raise UsageError(
            f"{run.workdir} was begun with another config ({differences}): "
            f"resume it with `genmnist train --workdir={run.workdir}`, or give another --workdir"
        )


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Claims the directory for this process; where no run was begun meanwhile, leaves it as it was.

    Raises:
      UsageError: if another process holds it, or the directory cannot be written.
    """
    made = not workdir.exists()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = open(workdir / ".lock", "w")  # noqa: SIM115 (open until the caller is done)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"another process is training in {workdir}: wait for it, or give another --workdir") from None
    except OSError as error:
        raise UsageError(
            f"cannot write to the workdir {workdir}: {files.reason(workdir, error)}; give a --workdir you may write to"
        ) from error
    with file:
        try:
            yield
        finally:
            if not exists(workdir):
                with contextlib.suppress(OSError):  # the directory was removed meanwhile, or holds something else
                    (workdir / ".lock").unlink()
                    if made:
                        workdir.rmdir()


def restore_latest(checkpoint: tf.train.Checkpoint, directory: Path) -> str | None:
    """Restores the newest checkpoint of `directory` that is whole, complaining about those that are not.

    Searches for the files themselves: TensorFlow's own record of the latest one may be damaged too.

    Returns:
      The path of the checkpoint restored, or None if the directory holds none.
    Raises:
      Fault: if there are checkpoints and none of them can be restored.
    """
    indices = sorted(directory.glob("ckpt-*.index"), key=lambda path: int(path.stem.split("-")[1]), reverse=True)
    for index in indices:
        prefix = str(index.with_suffix(""))
        try:
            checkpoint.restore(prefix).assert_existing_objects_matched().expect_partial()  # best/ may hold more
            return prefix
        # A truncated file is an IndexError, a flipped bit an OpError, other variables an AssertionError or ValueError.
        except (tf.errors.OpError, IndexError, AssertionError, ValueError) as error:
            warn(f"checkpoint {prefix} is damaged ({type(error).__name__}): trying the one before it")
    if indices:
        raise Fault(f"none of the {len(indices)} checkpoints in {directory} can be restored: give another --workdir")
    return None


def manager(checkpoint: tf.train.Checkpoint, directory: Path, max_to_keep: int) -> tf.train.CheckpointManager:
    """Saves checkpoints into `directory`; TensorFlow's own record of them begins anew where it is damaged."""
    for unfinished in directory.glob("ckpt-*_temp"):  # left by a process killed while saving
        shutil.rmtree(unfinished)
    try:
        return tf.train.CheckpointManager(checkpoint, directory, max_to_keep)
    except ValueError:
        (directory / "checkpoint").unlink()
        return tf.train.CheckpointManager(checkpoint, directory, max_to_keep)


def scored(weights: list[tf.Variable], raw: list[tf.Variable]) -> tf.train.Checkpoint:
    """What best/ holds.

    Args:
      weights: those that are scored, in the order of the model's.
      raw: the model's own; left out where they are the same.
    """
    return tf.train.Checkpoint(weights=weights, raw=None if weights is raw else raw)


def load_model(run: Run, raw: bool = False) -> models.GenerativeModel:
    """The run's model with the weights that are scored, or with those that their average is of.

    Raises:
      Fault: if the run has no finished epoch, or its weights are damaged.
    """
    model = models.build(run.config)
    state = tf.train.Checkpoint(**{"raw" if raw else "weights": model.weights})
    if restore_latest(state, run.best) is None:
        raise Fault(f"{run.workdir} has no finished epoch yet: train it with `genmnist train --workdir={run.workdir}`")
    return model


def read_metrics(run: Run) -> list[dict]:
    """The rows of metrics.jsonl, one an epoch; a half-written last line is left out."""
    rows: list[dict] = []
    try:
        lines = run.metrics_jsonl.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return rows
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:
            warn(f"{run.metrics_jsonl}: left out the damaged line {line[:40]!r}")
    return rows


def history(run: Run) -> list[dict]:
    """The rows of a run that has finished an epoch.

    Raises:
      Fault: if there are none.
    """
    if rows := read_metrics(run):
        return rows
    raise Fault(f"{run.metrics_jsonl} is missing or damaged: restore it, or train in another workdir")


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
