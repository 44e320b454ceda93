"""SavedModels that are served: the newest whole version of each export, picked up while the server runs."""

import contextlib
import functools
import os
import re
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import orjson
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from keras_genmnist import datasets, files, versions
from keras_genmnist.datasets import DatasetSpec
from keras_genmnist.errors import Fault, UsageError
from keras_genmnist.serve.batching import Arrays, Batcher

# Joined into one call.  More would not make a row cheaper, and one call must not keep the next ones waiting.
BATCH_ROWS = 32
# That warm up signatures.  More would leave the requests for what is served already too little of the cores.
WARM_UP_THREADS = 2
# That load models: one is read while another warms up.  Two are not read at once, for TensorFlow does not say whether
# that is safe.
LOADING_THREADS = 2
READING = threading.Lock()


class Signature:
    """A function of a SavedModel, called by one at a time.

    Calls at once would not be faster: TensorFlow's threads, 32 calls in two cores, have kept each other from running
    for seconds.  But a slow signature keeps no other one waiting.
    """

    def __init__(self, function, observe: Callable[[int], None]):
        """
        Args:
          function: the signature, as TensorFlow loads it.
          observe: is told the number of rows of each call of a signature that takes rows.
        """
        self._function = function
        self.inputs: dict[str, tf.TensorSpec] = function.structured_input_signature[1]
        self.outputs: dict[str, tf.TensorSpec] = function.structured_outputs
        specs = [*self.inputs.values(), *self.outputs.values()]
        # With two inputs it cannot be told whether the first dimension of both is rows: `interpolate` has alphas [A].
        takes_rows = len(self.inputs) == 1 and all(spec.shape.rank and spec.shape[0] is None for spec in specs)
        self._batcher = Batcher(self._call_rows, BATCH_ROWS, observe) if takes_rows else None
        self._running = threading.Lock()

    def __call__(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Calls it, joined with the calls that wait for it where it maps rows to rows.

        Args:
          inputs: arrays of the dtypes and shapes of `inputs`, by name.
        Returns:
          The outputs by name.
        Raises:
          tf.errors.OpError: what the graph refuses, in one sentence.
        """
        if self._batcher:
            return self._batcher(*inputs.values())
        with self._running:
            return self._call(inputs)

    def _call_rows(self, rows: np.ndarray) -> Arrays:
        return self._call(dict.fromkeys(self.inputs, rows))

    def _call(self, inputs: Arrays) -> Arrays:
        tensors = {name: tf.constant(array, self.inputs[name].dtype) for name, array in inputs.items()}
        try:
            return {name: output.numpy() for name, output in self._function(**tensors).items()}
        except tf.errors.OpError as error:
            raise type(error)(None, None, _sentence(error.message)) from error


def _sentence(message: str) -> str:
    """What a failed operation says, without the nodes and traces that TensorFlow wraps around it."""
    message = message.split("<stack traces unavailable>\n")[-1].split("\n\t [[")[0].split(" [Op:")[0]
    asserted = re.match(r"assertion failed: \[(.*?)[. ]*\](?: \[Condition|$)", message, re.S)
    return " ".join((asserted[1] if asserted else message).split())


class Servable:
    """One loaded version of an export.

    spec: of its images, as its genmnist.json says; of a SavedModel without one, nothing but what the signatures say.
    image_shape: (H, W, C); None where there are no images.
    grey: whether it learned from grey levels, not from bits.
    completes_any: whether it completes an image whichever pixels are known.
    """

    def __init__(self, name: str, version: int, path: Path, observe: Callable[[int], None]):
        """
        Args:
          name: that it is served by.
          version: its number.
          path: the version directory.
          observe: as Signature's.
        Raises:
          Fault: if it is no whole SavedModel.
        """
        self.name, self.version = name, version
        extra = path / "assets.extra"
        try:
            _require_files(path)
            with READING, files.literal(path) as literal:
                self._owner = tf.saved_model.load(literal)  # its variables live as long as it does
            functions = self._owner.signatures
            self.signatures = {key: Signature(functions[key], observe) for key in functions}
            graph = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs[0]
            self.signature_defs = {
                key: json_format.MessageToDict(
                    signature, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
                )
                for key, signature in graph.signature_def.items()
            }
            record = _json(extra / "genmnist.json")
            self.label = f"{record['model']} on {record['dataset']}" if record else name
            shape = self._image_shape()
            self.spec = datasets.spec_in(record) if record else DatasetSpec(name, shape)
            self.image_shape = shape or self.spec.image_shape
            self.grey = bool(record) and record["binarization"] == "none"
            self.completes_any = bool(record) and record.get("completes_any", False)
            self.latent_means = _latent_means(extra / "latent_means.json")
            self.log_likelihoods = _log_likelihoods(extra / "log_likelihoods.json")
            self._warm_up(extra / "tf_serving_warmup_requests")
        except Exception as error:  # of what may be any bytes
            reason = " ".join(str(getattr(error, "message", error)).split())
            raise Fault(f"{path} cannot be served: {type(error).__name__}: {reason}") from error

    def _warm_up(self, path: Path) -> None:
        """Plays the requests that an export carries for this: the first one of a signature can take half a second."""

        def play(record: tf.Tensor) -> None:
            log = PredictionLog.FromString(record.numpy())
            if log.WhichOneof("log_type") == "predict_log":  # the others are of requests that this server has not
                request = log.predict_log.request
                inputs = {key: tf.make_ndarray(tensor) for key, tensor in request.inputs.items()}
                self.signature(request.model_spec.signature_name or "serving_default")(inputs)

        with ThreadPoolExecutor(WARM_UP_THREADS) as pool:
            for _ in pool.map(play, tf.data.TFRecordDataset(str(path)) if path.exists() else ()):
                pass  # or raises what a request has

    def _image_shape(self) -> tuple[int, int, int] | None:
        """(H, W, C) of the images that the signatures take or give, if there are any."""
        takes = [signature.inputs.get("images") for signature in self.signatures.values()]
        gives = [signature.outputs.get("probabilities") for signature in self.signatures.values()]
        shapes = [spec.shape[1:] for spec in (*takes, *gives) if spec is not None and spec.shape.rank == 4]
        return next((tuple(shape) for shape in shapes if shape.is_fully_defined()), None)

    @property
    def latent_size(self) -> int | None:
        """The number of latents that `decode` takes, if there is such a signature; another's may take what it likes."""
        z = self.signatures["decode"].inputs.get("z") if "decode" in self.signatures else None
        return z.shape[1] if z is not None and z.shape.rank == 2 else None

    def signature(self, name: str) -> Signature:
        """The signature `name`.

        Raises:
          tf.errors.InvalidArgumentError: if there is none.
        """
        if name not in self.signatures:
            message = f'Serving signature name: "{name}" not found in signature def'
            raise tf.errors.InvalidArgumentError(None, None, message)
        return self.signatures[name]


def _require_files(folder: Path) -> None:
    """Checks that nothing has to be waited for: a pipe that nobody writes to would end the watch for new versions."""
    for path in folder.rglob("*"):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path.name} is neither a file nor a folder")


def _json(path: Path):
    """What a file says, if there is one; nothing that could not be told again, as a NaN."""
    return orjson.loads(path.read_bytes()) if path.exists() else None


def _latent_means(path: Path) -> dict | None:
    """Points of the plane and the digit of each, for the explorer."""
    found = _json(path)
    if found is not None:
        points, labels = np.asarray(found["means"], np.float64), found["labels"]
        if points.shape != (len(points), 2) or len(points) != len(points if labels is None else labels):
            raise ValueError(f"{path.name} does not hold points of the plane with the digit of each")
    return found


def _log_likelihoods(path: Path) -> dict | None:
    """How likely test images are, in ascending order, and by how many draws, for the explorer."""
    found = _json(path)
    if found is not None:
        values, draws = np.asarray(found["log_likelihoods"], np.float64), found["num_draws"]
        if values.ndim != 1 or not len(values) or (np.diff(values) < 0).any() or not isinstance(draws, int):
            raise ValueError(f"{path.name} does not hold log-likelihoods in ascending order and their number of draws")
    return found


class Model:
    """A name, and the version that is served by it."""

    def __init__(self, name: str, directories: Callable[[], dict[int, Path]], observe: Callable[[int], None]):
        """
        Args:
          name: that it is served by.
          directories: the version directories that there are, by number; the newest is served.
          observe: as Signature's.
        """
        self.name, self._directories, self._observe = name, directories, observe
        self.served: Servable | None = None
        self.broken: dict[int, str] = {}  # why a version cannot be served
        self._stamps: dict[int, list] = {}  # of the broken ones

    def refresh(self) -> None:
        """Serves the newest version that is whole.  One that is not is reported, and tried again when it changes."""
        directories = self._directories()
        self.broken = {version: why for version, why in self.broken.items() if version in directories}
        for version, path in sorted(directories.items(), reverse=True):
            if self.served and version == self.served.version:
                return
            stamp = _stamp(path)
            if version in self.broken and stamp == self._stamps[version]:
                continue
            try:
                self.served = Servable(self.name, version, path, self._observe)
            except Fault as error:
                self.broken[version], self._stamps[version] = str(error), stamp
                print(f"genmnist: {error}", file=sys.stderr, flush=True)
                continue
            self.broken.pop(version, None)
            print(f"serving {self.name} version {version}", flush=True)
            return

    def status(self) -> list[dict]:
        """What TensorFlow Serving says of each version, newest first."""
        states = {version: ("END", "UNKNOWN", why) for version, why in self.broken.items()}
        if self.served:
            states[self.served.version] = ("AVAILABLE", "OK", "")
        return [
            {"version": str(version), "state": state, "status": {"error_code": code, "error_message": message}}
            for version, (state, code, message) in sorted(states.items(), reverse=True)
        ]


def _only(path: Path) -> dict[int, Path]:
    """The version directory `path` by number, while it exists."""
    return {versions.number_of(path.name): path} if path.is_dir() else {}


def _stamp(folder: Path) -> list:
    """Changes when a file of the folder does, or why it cannot be looked at."""

    def seen(path: Path) -> tuple[str, int, int]:
        found = path.stat() if path.exists() else path.lstat()  # a link that leads nowhere
        return str(path), found.st_mtime_ns, found.st_size

    try:
        return sorted(map(seen, folder.rglob("*")))
    except FileNotFoundError:  # it goes while it is looked at
        raise
    except OSError as error:  # to load it will fail too, and be told
        return [str(error)]


class Repository:
    """The models that are served, by name."""

    def __init__(self, exports: list[Path], observe: Callable[[int], None]):
        """
        Args:
          exports: exports/NAME for its newest version, always, or exports/NAME/VERSION for that one.
          observe: as Signature's.
        Raises:
          UsageError: if one holds no SavedModel, or two have one name.
        """
        self.models: dict[str, Model] = {}
        for export in exports:
            path = Path(os.path.abspath(export))
            version = versions.number_of(path.name) if (path / "saved_model.pb").exists() else None
            found = versions.directories(path).values() if version is None else [path]
            # Unlike Path.exists, it is False of what lies in a folder that may not be searched.
            if not any(os.path.exists(folder / "saved_model.pb") for folder in found):
                raise UsageError(
                    f"no SavedModel in {export}: give exports/NAME or exports/NAME/VERSION of `genmnist export`"
                )
            name = (path if version is None else path.parent).name
            if name in self.models:
                raise UsageError(f"two exports are named {name}: give each name once")
            every = functools.partial(versions.directories if version is None else _only, path)
            self.models[name] = Model(name, every, observe)

    def refresh(self) -> None:
        """Looks for new versions."""

        def look(model: Model) -> None:
            with contextlib.suppress(OSError):  # a file that goes while it is looked at: the next look will tell
                model.refresh()

        with ThreadPoolExecutor(LOADING_THREADS) as pool:
            for _ in pool.map(look, self.models.values()):
                pass  # or raises what is no fault of an export

    @property
    def waiting(self) -> list[str]:
        """The names by which no version is served yet."""
        return [name for name, model in self.models.items() if not model.served]

    def servable(self, name: str, version: int | None = None) -> Servable:
        """What is served by a name.

        Raises:
          tf.errors.NotFoundError: if there is nothing, or not this version.
        """
        served = self.models[name].served if name in self.models else None
        if served is None or version not in (None, served.version):
            wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise tf.errors.NotFoundError(None, None, f"Servable not found for request: {wanted}")
        return served

    def status(self, name: str, version: int | None = None) -> list[dict]:
        """What TensorFlow Serving says of a model's versions, or of one.

        Raises:
          tf.errors.NotFoundError: if there is none.
        """
        found = self.models[name].status() if name in self.models else []
        found = [state for state in found if version in (None, int(state["version"]))]
        if not found:
            wanted = "any versions" if version is None else f"version {version}"
            raise tf.errors.NotFoundError(None, None, f"Could not find {wanted} of model {name}")
        return found
