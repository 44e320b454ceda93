"""Files of an exported model for runtimes other than TensorFlow: TFLite and ONNX.

Both hold `signatures.portable`: what takes neither random numbers nor PNG files, and refuses nothing.  Each file is run
once by its own interpreter before it is given back.
"""

import contextlib
import importlib.util
import inspect
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from keras_genmnist import runs, signatures
from keras_genmnist.errors import UsageError
from keras_genmnist.models.base import GenerativeModel
from keras_genmnist.signatures import Signature


def tflite(model: GenerativeModel) -> dict[str, bytes]:
    """model.tflite, which has all signatures, and needs none of TensorFlow's own operations.

    Raises:
      UsageError: if the model has none, or none that TFLite can express; what it cannot is left out, with a warning.
    """
    # A loop over classes or orders keeps what it finds in a list, whose elements' shape TFLite must know.
    own = _portable(model, "tflite", rows=1)
    try:
        content = _tflite(own, model)
    except UsageError:
        kept = _each(own, lambda name: _tflite({name: own[name]}, model))
        content = _tflite({name: own[name] for name in kept}, model)
    return {"model.tflite": content}


def onnx(model: GenerativeModel) -> dict[str, bytes]:
    """SIGNATURE.onnx for each signature: ONNX knows of one function in a file.

    Raises:
      UsageError: as `tflite`; if tf2onnx or onnxruntime are not installed.
    """
    if not all(map(importlib.util.find_spec, ("tf2onnx", "onnxruntime"))):
        raise UsageError(
            "--format=onnx needs tf2onnx and onnxruntime: pip install 'keras_genmnist[onnx]', or '.[onnx]' in a clone"
        )
    own = _portable(model, "onnx")
    return {f"{name}.onnx": content for name, content in _each(own, lambda name: _onnx(own[name])).items()}


FORMATS = {"tflite": tflite, "onnx": onnx}


def _each(own: dict[str, Signature], convert: Callable[[str], bytes]) -> dict[str, bytes]:
    """What becomes of each signature that can be converted; of the others it tells."""
    found, refused = {}, {}
    for name in own:
        try:
            found[name] = convert(name)
        except UsageError as error:
            refused[name] = error
    if not found:
        raise next(iter(refused.values()))
    for name, error in refused.items():
        runs.warn(f"the export is without {name}: {error}")
    return found


def _tflite(own: dict[str, Signature], model: GenerativeModel) -> bytes:
    module = tf.Module()
    module.weights = model.weights
    with tempfile.TemporaryDirectory() as folder, _hushed():
        tf.saved_model.save(module, folder, own)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(own))
        try:
            content = converter.convert()
        except Exception as error:  # of a class that TensorFlow keeps to itself
            raise _refused("tflite", re.findall(r"'tf\.(\w+)'", str(error))) from error
    with warnings.catch_warnings():  # it is deprecated in favour of another package
        warnings.simplefilter("ignore")
        interpreter = tf.lite.Interpreter(model_content=content)
    for name, function in own.items():
        _compare("tflite", function, lambda inputs, name=name: interpreter.get_signature_runner(name)(**inputs))
    return content


def _onnx(function: Signature) -> bytes:
    import onnxruntime
    import tf2onnx
    from onnx import checker, numpy_helper

    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # it goes on past what it does not know
    handlers = {name: (handler, []) for name, handler in HANDLERS.items()}
    with _hushed():
        converted, _ = tf2onnx.convert.from_function(function, function.input_signature, custom_op_handlers=handlers)
    # Of tensors made outside the function, as a distribution's parameters, tf2onnx makes inputs.
    captured = {place.name: value for value, place in function.get_concrete_function().graph.captures}
    for given in [given for given in converted.graph.input if given.name in captured]:
        converted.graph.initializer.append(numpy_helper.from_array(captured[given.name].numpy(), given.name))
        converted.graph.input.remove(given)
    try:
        checker.check_model(converted)
    except checker.ValidationError as error:
        raise _refused("onnx", re.findall(r"No Op registered for (\w+)", str(error))) from error
    content = converted.SerializeToString()

    def run(inputs):
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(None, inputs), strict=True))

    _compare("onnx", function, run)
    return content


def _compare(format: str, function: Signature, run: Callable[[dict], dict]) -> None:
    """Refuses what a converter made of a signature unless it computes the same: some of it goes wrong in silence."""
    inputs, random = {}, np.random.default_rng(0)
    names = inspect.signature(function.python_function).parameters
    for name, spec in zip(names, function.input_signature, strict=False):  # a label comes last, where it is taken
        # Bits, which are pixels and labels too.
        inputs[name] = random.integers(0, 2, [size or 2 for size in spec.shape]).astype(spec.dtype.as_numpy_dtype)
    expected = function(**{name: tf.constant(value) for name, value in inputs.items()})
    try:
        with _hushed():
            found = run(inputs)
        same = all(np.allclose(found[name], value, rtol=1e-3, atol=1e-3) for name, value in expected.items())
    except Exception:  # each runtime has its own
        same = False
    if not same:
        raise _refused(format, [])


def _expm1(ctx, node, name: str, args: list) -> None:
    """exp(x) - 1"""
    (x,), dtype, shape = node.input, ctx.get_dtype(node.output[0]), ctx.get_shape(node.output[0])
    ctx.remove_node(node.name)
    exp = ctx.make_node("Exp", [x], shapes=[shape], dtypes=[dtype])
    ctx.make_node("Sub", [exp.output[0], _number(ctx, 1.0)], outputs=node.output, shapes=[shape], dtypes=[dtype])


def _mul_no_nan(ctx, node, name: str, args: list) -> None:
    """x y, and 0 where y is 0, whatever x is"""
    (x, y), dtype, shape = node.input, ctx.get_dtype(node.output[0]), ctx.get_shape(node.output[0])
    ctx.remove_node(node.name)
    product = ctx.make_node("Mul", [x, y], shapes=[shape], dtypes=[dtype])
    zero = _number(ctx, 0.0)
    is_zero = ctx.make_node("Equal", [y, zero])
    chosen = [is_zero.output[0], zero, product.output[0]]
    ctx.make_node("Where", chosen, outputs=node.output, shapes=[shape], dtypes=[dtype])


def _number(ctx, value: float) -> str:
    from tf2onnx import utils

    return ctx.make_const(utils.make_name("number"), np.array(value, np.float32)).output[0]


# Operations of TFP's distributions that tf2onnx does not know, in terms of those that it knows.
HANDLERS = {"Expm1": _expm1, "MulNoNan": _mul_no_nan}


def _portable(model: GenerativeModel, format: str, rows: int | None = None) -> dict[str, Signature]:
    own = signatures.portable(model, rows)
    if not own:
        raise UsageError(
            f"--format={format} has no place for random numbers, and this model does nothing without them: "
            "give --format=savedmodel"
        )
    return own


def _refused(format: str, operations: list[str]) -> UsageError:
    named = f"this model's {', '.join(sorted(set(operations)))}" if operations else "what this model computes"
    return UsageError(f"--format={format} cannot express {named}: give --format=savedmodel")


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Hides what converters write to standard error from C++: what is wrong they say in exceptions too."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
