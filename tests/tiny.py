"""Runs small enough to train in a test: a few thousand parameters, four steps an epoch."""

import contextlib
import json
import os
import resource
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from ml_collections import ConfigDict

import keras_genmnist
from keras_genmnist import config as configs
from keras_genmnist import datasets, runs, training

# As the command line does, and before TensorFlow starts: with its default threading no two trainings agree.
tf.config.threading.set_inter_op_parallelism_threads(1)
tf.get_logger().setLevel("ERROR")  # it warns of retracing

SIZES = {
    "dataset": "mnist_5k",
    "batch_size": 1000,
    "epochs": 2,
    "hidden_size": 8,
    "encoder_channels": 1,
    "decoder_channels": 1,
    "channels": 1,
    "num_layers": 2,
    "features": 2,
    "num_blocks": 1,
    "orders": 2,
    "sampling_steps": 3,
    "pixelcnn_layers": 2,
    "pixelcnn_features": 2,
    "latent_size": 2,
    "flow_steps": 2,
    "flow_size": 8,
    "flow_columns": 2,
    "flow_reflections": 2,
    "refine_steps": 2,
    "prior_components": 3,
    "prior_steps": 2,
    "prior_size": 8,
    "num_codes": 4,
    "code_size": 2,
    "prior_layers": 2,
    "prior_features": 2,
}
STEPS = 4  # an epoch, of 4,000 training images
# Not compiled by XLA, which takes most of a short training's time.
FAST = {"jit_compile": False}


@pytest.fixture
def eager(monkeypatch):
    """Runs tf.functions as plain Python: tracing them takes seconds, and the few steps of a tiny run none.

    Of the 64 samples of an epoch it draws 2, over and over: one after the other in Python, they would take longer than
    all of the training.  A test file takes it over by `eager = tiny.eager`.
    """

    def sample(self):
        self.average.swap()
        samples = self.model.sample(2, self.run.config.seed)["probabilities"].numpy()
        self.average.swap()
        return np.tile(samples, [32, 1, 1, 1])

    monkeypatch.setattr(training.Training, "sample", sample)
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def all_but_some_slow(names: Iterable[str], *quick: str) -> list:
    """Parameters of a test: all the names, and those that are not `quick` are left to the slow tests."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in sorted(names)]


def config(name: str = "vae", **changes) -> ConfigDict:
    """The config `name` at tiny sizes, not compiled by XLA unless `changes` say so."""
    result = shrunk(configs.load(name))
    result.update(changes)
    return result


def shrunk(config: ConfigDict) -> ConfigDict:
    """The config at tiny sizes."""
    config.update({field: value for field, value in (SIZES | FAST).items() if field in config})
    return config


def flags(**changes) -> list[str]:
    """The command line of `config("vae", **changes)`."""
    values = {field: value for field, value in (SIZES | FAST | changes).items() if field in config("vae")}
    return ["--model=vae", *(f"--config.{field}={value}" for field, value in values.items())]


def begin(workdir: Path, name: str = "vae", **changes) -> runs.Run:
    """A run of `config(name, **changes)` that has not been trained yet."""
    run = runs.Run(workdir, name, config(name, **changes), "genmnist train", "commit")
    runs.record(run)
    return run


def begin_small(workdir: Path, name: str, **changes) -> runs.Run:
    """The same on images of 8 x 8 of three classes, for models that draw pixel by pixel; one epoch."""
    path = workdir.with_suffix(".npz")
    labels = np.arange(60) % 3
    images = np.random.default_rng(0).integers(0, 256, [60, 8, 8], np.uint8)
    np.savez(path, images=images, labels=labels)
    small = config(name, dataset=str(path), batch_size=10, epochs=1, **changes)
    data = runs.describe(datasets.load(str(path)))
    run = runs.Run(workdir, name, small, "genmnist train", "commit", data=data)
    runs.record(run)
    return run


def untrained(run: runs.Run) -> runs.Run:
    """`run` as if it had been trained, with the weights that training would start from."""
    model = runs.build_model(run, run.spec)
    runs.save(tf.train.Checkpoint(weights=model.weights), run.best, 1)
    scores = {"val_elbo": -543.0, "val_kl": 0.0, "val_nll": 543.0, "val_frechet": 543.0}
    row = {"epoch": 1, "step": STEPS, "seconds": 1.0, **scores, **runs.origin()}
    run.metrics_jsonl.write_text(json.dumps(row) + "\n")
    return run


def train(run: runs.Run) -> runs.Run:
    """Trains `run` to its end."""
    training.train(run, time.time())
    return run


def environment() -> dict[str, str]:
    """That of a process that imports this package."""
    return os.environ | {"PYTHONPATH": str(Path(keras_genmnist.__file__).parent.parent)}


def start(*arguments: str, cwd: Path, before: str = "") -> subprocess.Popen:
    """Starts `genmnist ARGUMENTS` in a process of its own, which runs the statement `before` first."""
    return subprocess.Popen(
        [sys.executable, "-c", f"{before}\nfrom keras_genmnist.cli import main\nmain()", *arguments],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition, process: subprocess.Popen) -> None:
    """Waits, while `process` lives, for `condition()` to hold."""
    while not condition():
        assert process.poll() is None, (
            f"ended before its time with status {process.returncode}: {process.communicate()}"
        )
        time.sleep(0.01)


@contextlib.contextmanager
def serving(folder: Path, names: Iterable[str]):
    """A server of the exports FOLDER/exports/NAME in a process of its own, once it is ready; its address."""
    process = start("serve", *(f"--export={folder / 'exports' / name}" for name in names), "--port=0", cwd=folder)
    address = process.stdout.readline().split()[-1]

    def is_ready():
        try:
            return urllib.request.urlopen(f"{address}/readyz").status == 200
        except urllib.error.URLError:
            return False

    wait_for(is_ready, process)
    yield address
    process.terminate()
    process.communicate(timeout=30)


@contextlib.contextmanager
def full_disk():
    """No file of this process can grow, as on a disk without room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def variables(folder: Path) -> dict[str, bytes]:
    """The bits of every variable in the newest checkpoint of `folder`, without the clocks and the number of saves."""
    indices = folder.glob("ckpt-*.index")
    newest = max(indices, key=lambda path: int(path.stem.removeprefix("ckpt-")))
    reader = tf.train.load_checkpoint(str(newest.with_suffix("")))
    clocks = ("progress/epoch_seconds", "save_counter", "_CHECKPOINTABLE_OBJECT_GRAPH")
    names = [name for name in reader.get_variable_to_shape_map() if not name.startswith(clocks)]
    return {name: np.asarray(reader.get_tensor(name)).tobytes() for name in names}


def rows(run: runs.Run) -> list[dict]:
    """The rows of metrics.jsonl without what differs between two equal trainings."""
    clocks = ("seconds", "images_per_second", "startup_seconds", "peak_memory_bytes")
    return [{name: row[name] for name in row if name not in clocks} for row in runs.read_metrics(run)]


def parameters(model) -> list[tf.Variable]:
    """The model's weights and batch norm's statistics: all of its variables but the metrics' sums."""
    sums = {id(variable) for metric in model.metrics for variable in metric.variables}
    return [weight for weight in model.weights if id(weight) not in sums]


def bits(model) -> list[bytes]:
    """The bits of the model's parameters."""
    return [weight.numpy().tobytes() for weight in parameters(model)]


def scored(workdir: Path) -> list[bytes]:
    """The bits of the parameters that `evaluate`, `figures`, `export` and `sample` use."""
    return bits(runs.load_model(runs.load(workdir)))
