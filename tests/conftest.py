"""Data and one tiny trained run, shared by all tests.  Nothing is downloaded: TFDS_DATA_DIR names prepared MNIST."""

import fcntl
import functools
import os
import signal
from collections.abc import Callable
from pathlib import Path

# Before TensorFlow starts: tests run side by side, one process for each core, and so do the commands they start.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["TF_NUM_INTRAOP_THREADS"] = "1"

import numpy as np
import pytest
import tensorflow as tf

from keras_genmnist import classifier, datasets, export, runs
from keras_genmnist.datasets import Dataset
from keras_genmnist.runs import Run
from tests import tiny

# As the command line has it: the default threading adds gradients in an order that varies.
tf.config.threading.set_inter_op_parallelism_threads(1)

# For trainings on several devices; whatever does not ask for one computes on the first, which has all threads.
DEVICES = 4
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], DEVICES * [tf.config.LogicalDeviceConfiguration()]
)

# Where the tests run in the background, SIGINT is ignored, by what they start as well.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Nor does a test depend on whether the checkout has changes that are not committed.
os.environ["GENMNIST_COMMIT"] = "0123456789ab"


def prepared(name: str) -> Path:
    """The folder of a prepared tfds dataset; skips the test where there is none."""
    folder = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser() / name
    if not any(folder.glob("*/dataset_info.json")):  # a download that failed leaves the folder
        pytest.skip(f"{name} is not prepared: set TFDS_DATA_DIR")
    return folder


@pytest.fixture(scope="session", autouse=True)
def fewer():
    """Loads each judge once, not for each score, and has exports score a few images: both take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier.Judge, "load", functools.cache(classifier.Judge.load))
        patch.setattr(export, "NUM_SCORED", 20)
        yield


@pytest.fixture(scope="session")
def mnist() -> Dataset:
    prepared("mnist")
    return datasets.load("mnist")


@pytest.fixture(scope="session")
def mnist_5k() -> Dataset:
    return datasets.load("mnist_5k")


@pytest.fixture(scope="session")
def digits(mnist_5k) -> np.ndarray:
    """Eight binary images, float32 [8, 28, 28, 1]."""
    return mnist_5k.test.binary[:8].astype(np.float32)


@pytest.fixture(scope="session")
def labels(mnist_5k) -> np.ndarray:
    """Of `digits`, int64 [8]."""
    return mnist_5k.test.labels[:8]


@pytest.fixture(scope="session")
def grey_digits(mnist_5k) -> np.ndarray:
    """The same in grey levels k / 255."""
    return mnist_5k.test.images[:8].astype(np.float32) / 255


def made_once(tmp_path_factory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder that `make` fills, by whichever of the processes side by side asks for it first."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # which they share
    with open(folder / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / name).exists():
            make(folder / f"{name}.new")
            (folder / f"{name}.new").rename(folder / name)
    return folder / name


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Run:
    """A trained run with a latent of 2 dimensions.  Read it, and write elsewhere."""
    made = made_once(tmp_path_factory, "run", lambda folder: tiny.train(tiny.begin(folder / "vae", epochs=1)))
    return runs.load(made / "vae")


@pytest.fixture(scope="session")
def exported(run, tmp_path_factory) -> Path:
    """The run's export, a version directory.  Read it, and write elsewhere."""
    return made_once(tmp_path_factory, "exports", lambda folder: export.export(run, folder)) / "vae" / "1"
