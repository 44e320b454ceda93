"""`genmnist export`: a run as a SavedModel that needs neither this package nor TFP nor Keras, or in another format.

Beside a SavedModel, in assets.extra/:

genmnist.json                 what it is: {"model", "dataset", "binarization", "completes_any", "bound_draws", "schema",
                              "config", "data", "commit", "id"}; the last tells its run from others
tf_serving_warmup_requests    a small request for each signature, which TensorFlow Serving plays before it serves
log_likelihoods.json          of a model with a likelihood: {"num_draws": N, "log_likelihoods": [nats, ...]}, what its
                              signature says of test images, in ascending order
latent_means.json             of a 2-D latent with an encoder: {"means": [[x, y], ...], "labels": [digit, ...] or null}
"""

import errno
import inspect
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from keras_genmnist import files, formats, migrations, runs, signatures, versions
from keras_genmnist.datasets import Split, eval_batches
from keras_genmnist.errors import Fault, UsageError
from keras_genmnist.models.base import GenerativeModel, LatentVariableModel, told
from keras_genmnist.runs import Run

NUM_MEANS = 2000  # enough to see where each digit lies, and 40 KB
NUM_SCORED, NUM_DRAWS = 200, 20  # images whose likelihood tells where that of another one stands


def export(run: Run, out: Path, format: str = "savedmodel") -> Path:
    """Writes the run's scored weights and signatures to out/NAME/VERSION/: the name of its directory, the next number.

    In another format than SavedModel, to out/NAME_FORMAT/VERSION/, with genmnist.json: a server of out/NAME/ would take
    it for a newer version.

    Where the newest version there is of another run, which a server now replaces by this one, it says so.

    A plain tf.Module of variables and functions: a Keras model that holds TFP layers cannot be saved as SavedModel.

    Args:
      run: a trained run.
      out: the folder of all exports.
      format: "savedmodel", or a name of `formats.FORMATS`.
    Returns:
      The version directory.
    Raises:
      UsageError: if it cannot be written, or there is no such format, or it cannot hold what the model computes.
      Fault: if there is no room for it, the run's weights are damaged, or no epoch is finished; as a SavedModel, for a
        2-D latent, if its dataset is damaged or absent.
    """
    if format != "savedmodel":
        return _convert(run, out, format)
    model = runs.load_model(run)
    own = signatures.of(model)
    module = tf.Module()
    module.weights = model.weights
    for name, function in own.items():
        setattr(module, name, function)
    served = {"serving_default": own["sample_rows"], **own}
    extra = {"genmnist.json": json.dumps(_description(run, model), indent=2)}
    plane = model.has_encoder and model.latent_size == 2
    if plane or model.likelihood:
        try:
            test = runs.load_data(run).test
            if model.likelihood:
                images = test.scored(run.config.binarization)
                draws = signatures.bound_draws(model) or NUM_DRAWS
                extra["log_likelihoods.json"] = json.dumps(_log_likelihoods(own["log_likelihood"], images, draws))
            if plane:
                extra["latent_means.json"] = json.dumps(_latent_means(model, test, run.config.binarization))
        except (UsageError, Fault) as error:
            if plane:
                raise
            runs.warn(f"the export does not say how likely test images are, because these cannot be had: {error}")
    folder = out / run.title
    before = versions.directories(folder)

    def fill(new: Path) -> None:
        tf.saved_model.save(module, str(new), served)
        (new / "assets.extra").mkdir()
        for name, text in extra.items():
            (new / "assets.extra" / name).write_text(text)
        with tf.io.TFRecordWriter(str(new / "assets.extra" / "tf_serving_warmup_requests")) as writer:
            for name, function in served.items():
                writer.write(warmup_request(run.title, name, function).SerializeToString(deterministic=True))

    target = _new_version(folder, fill)
    if before:
        _tell_of_another_run(before[max(before)], run)
    return target


def _convert(run: Run, out: Path, format: str) -> Path:
    if format not in formats.FORMATS:
        raise UsageError(f"no format {format!r}: give savedmodel, {', '.join(formats.FORMATS)}")
    model = runs.load_model(run)
    contents = formats.FORMATS[format](model)
    description = json.dumps(_description(run, model) | {"format": format}, indent=2)

    def fill(new: Path) -> None:
        new.mkdir()
        for name, content in (contents | {"genmnist.json": description.encode()}).items():
            (new / name).write_bytes(content)

    return _new_version(out / f"{run.title}_{format}", fill)


def _new_version(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Has `fill` write a directory, and gives it the next number in the folder, when it is whole: a server polls it."""
    with files.writing(folder, "give an --out you may write to"), files.made(folder), files.beside(folder) as new:
        fill(new)
        for path in (new, *new.rglob("*")):
            files.sync(path)
        while True:
            newest = max((versions.number_of(path.name) or 0 for path in folder.iterdir()), default=0)  # files too
            target = folder / str(newest + 1)
            try:
                files.rename(new, target)
                return target
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # else another process took the number
                    raise


def warmup_request(model: str, signature: str, function: tf.types.experimental.PolymorphicFunction) -> PredictionLog:
    """A small request for a signature: a batch of 1, every number a 1, which is a seed, a count and a pixel.

    A label is 0, the only one where there is one class.

    Args:
      model: what a server calls the model.
      signature: the signature's name.
      function: a tf.function with an input signature.
    Returns:
      A record of assets.extra/tf_serving_warmup_requests.
    Source: www.tensorflow.org/tfx/serving/saved_model_warmup
    """
    log = PredictionLog()
    request = log.predict_log.request
    request.model_spec.name, request.model_spec.signature_name = model, signature
    names = inspect.signature(function.python_function).parameters
    for name, spec in zip(names, function.input_signature, strict=False):  # a label comes last, where it is taken
        values = np.full([size or 1 for size in spec.shape], name != "label", spec.dtype.as_numpy_dtype)
        request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
    return log


def _description(run: Run, model: GenerativeModel) -> dict:
    return {
        "model": run.name,
        "dataset": run.spec.name,
        "binarization": run.binarization,
        "completes_any": model.completes_any,
        "bound_draws": signatures.bound_draws(model),
        "schema": migrations.SCHEMA,
        "config": run.config.to_dict(),
        "data": run.data,
        "commit": run.commit,
        "id": run.identity,
    }


def _tell_of_another_run(version: Path, run: Run) -> None:
    try:
        record = files.parse_json((version / "assets.extra" / "genmnist.json").read_text())
        if runs.identity_of(record) == run.identity:
            return
        other = f"another run, of {record['model']} on {record['dataset']}, begun at commit {record['commit']}"
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        other = "something that it does not tell of"
    runs.warn(f"{version}, the version before, is of {other}: a server of {version.parent} goes over to the new one")


def _latent_means(model: LatentVariableModel, split: Split, binarization: str) -> dict:
    """Where the posteriors of a split's first images lie in the plane, and their digits."""
    told_of = split.labels[:NUM_MEANS] if model.takes_labels else None
    pairs = map(model.images_and_labels, eval_batches(split.scored(binarization)[:NUM_MEANS], 500, told_of))
    means = np.concatenate([model.encode(x, **told(y))["z"] for x, y in pairs]).astype(np.float64)
    labels = None if split.labels is None else split.labels[:NUM_MEANS].tolist()
    return {"means": means.round(3).tolist(), "labels": labels}


def _log_likelihoods(measure: signatures.Signature, images: np.ndarray, num_draws: int) -> dict:
    """What the signature says of a split's first images."""
    x = tf.constant(images[:NUM_SCORED], tf.float32)
    values = measure(images=x, num_draws=tf.constant(num_draws), seed=tf.constant(0))["log_likelihood"]
    return {"num_draws": num_draws, "log_likelihoods": np.sort(values).astype(np.float64).round(2).tolist()}
