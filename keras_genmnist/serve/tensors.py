"""TensorFlow Serving's JSON: a request's body to arrays, arrays to the body of an answer.

An error is TensorFlow's own, as TensorFlow Serving's are: its code tells the status of the answer.

Source: tensorflow.org/tfx/serving/api_rest, and where that is silent tensorflow_serving/util/json_tensor.cc.
"""

import base64
import itertools
import json
import math
from collections.abc import Mapping

import numpy as np
import orjson
import tensorflow as tf

MAX_RANK = 64  # NumPy's
QUOTED = 40  # characters of a wrong value that an error shows


def invalid(message: str) -> tf.errors.InvalidArgumentError:
    """What to raise of a request that is wrong."""
    return tf.errors.InvalidArgumentError(None, None, message)


def parse(body: bytes) -> dict:
    """The JSON object that a body is.  NaN, Infinity and -Infinity are numbers.

    Raises:
      tf.errors.InvalidArgumentError: if it is none.
    """
    try:
        found = _loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid(f"JSON Parse error: {error}") from error
    if not isinstance(found, dict):
        raise invalid(f"the body must be a JSON object, not {_quoted(found)}")
    return found


def _loads(body: bytes):
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        if b"NaN" not in body and b"Infinity" not in body:
            raise
    # No JSON, and so not orjson's.  What else orjson refuses, json has to be told to: what is no Unicode, and overflow.
    text = body.decode()
    found = json.loads(text, parse_float=_finite)
    if "\\u" in text:
        json.dumps(found, ensure_ascii=False).encode()
    return found


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:QUOTED]} is too large")
    return value


def signature_name(request: dict) -> str:
    """The signature that a request asks for."""
    name = request.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(f"'signature_name' must be a string value, not {_quoted(name)}")
    return name or "serving_default"


def inputs(request: dict, specs: Mapping[str, tf.TensorSpec]) -> tuple[dict[str, np.ndarray], bool]:
    """The inputs that a request gives.

    Args:
      request: with `instances`, a list with an item for each row, or `inputs`, an array for each input.
      specs: of the signature's inputs, by name.
    Returns:
      inputs: arrays by name, of the dtypes and shapes of `specs`.
      by_row: whether they came as `instances`; then the answer goes by row too.
    Raises:
      tf.errors.InvalidArgumentError: if they are not those of the signature.
    """
    given = [key for key in ("instances", "inputs") if key in request]
    if len(given) != 1:
        raise invalid(f"give one of 'instances' and 'inputs', not {'both' if given else 'neither'}")
    by_row = given == ["instances"]
    columns = (_of_rows if by_row else _of_columns)(request[given[0]], specs)
    return {name: _array(columns[name], name, spec) for name, spec in specs.items()}, by_row


def _of_rows(instances, specs: Mapping[str, tf.TensorSpec]) -> dict[str, list]:
    """The values of each input, from a list of rows."""
    if not isinstance(instances, list) or not instances:
        raise invalid(f"'instances' must be a list of at least one item, not {_quoted(instances)}")
    named = _is_object(instances[0])
    if not named and len(specs) > 1:
        raise invalid(f"each of 'instances' must be an object with the inputs {_listed(specs)}")
    for place, instance in enumerate(instances):
        if _is_object(instance) != named:
            raise invalid(f"'instances' must be all objects or all plain values, and item {place} is unlike the first")
        if named:
            _require_names(instance, specs, f"item {place} of 'instances'")
    if not named:
        return dict.fromkeys(specs, instances)
    return {name: [instance[name] for instance in instances] for name in specs}


def _of_columns(columns, specs: Mapping[str, tf.TensorSpec]) -> dict:
    """The values of each input, from an object of them, or from the value of the only one."""
    if _is_object(columns):
        _require_names(columns, specs, "'inputs'")
        return columns
    if len(specs) > 1:
        raise invalid(f"'inputs' must be an object with the inputs {_listed(specs)}")
    return dict.fromkeys(specs, columns)


def _require_names(given: dict, specs: Mapping[str, tf.TensorSpec], where: str) -> None:
    missing, extra = specs.keys() - given.keys(), given.keys() - specs.keys()
    if missing:
        raise invalid(f"{where} lacks {_listed(missing)}: the signature's inputs are {_listed(specs)}")
    if extra:
        raise invalid(f"{where} has {_listed(extra)}, no input of the signature: these are {_listed(specs)}")


def _array(value, name: str, spec: tf.TensorSpec) -> np.ndarray:
    """A number, string or boolean, or nested lists of them, as the array that `spec` asks for."""
    shape, flat = [], [value]
    while flat and type(flat[0]) is list:
        if len(shape) == MAX_RANK:
            raise invalid(f"input {name} is nested in more than {MAX_RANK} lists")
        if set(map(type, flat)) != {list} or len(set(map(len, flat))) > 1:
            raise invalid(f"input {name} is ragged: its lists differ in length at level {len(shape)}")
        shape.append(len(flat[0]))
        flat = list(itertools.chain.from_iterable(flat))
    if not spec.shape.is_compatible_with(shape):
        expected = "[" + ", ".join("any" if size is None else str(size) for size in spec.shape) + "]"
        raise invalid(f"input {name} has shape {shape}, expected {expected}")
    return _converted(flat, name, spec.dtype).reshape(shape)


def _converted(flat: list, name: str, dtype: tf.DType) -> np.ndarray:
    """Values as an array [N]; refused unless they are of `dtype` as they stand: nothing is wrapped or parsed."""
    if dtype in (tf.float16, tf.float32, tf.float64):
        _require_types(flat, {int, float}, name, dtype)
        return _floats(flat, name, dtype)
    if dtype.is_integer:
        _require_types(flat, {int}, name, dtype)
        for value in (min(flat), max(flat)) if flat else ():
            if not dtype.min <= value <= dtype.max:
                raise invalid(f"input {name}: {_quoted(value)} is out of range: give {dtype.min} to {dtype.max}")
        return np.array(flat, dtype.as_numpy_dtype)
    if dtype.is_bool:
        _require_types(flat, {bool}, name, dtype)
        return np.array(flat, bool)
    if dtype == tf.string:
        _require_types(flat, {str, dict}, name, dtype)
        return _objects([_bytes(value, name) for value in flat])
    raise tf.errors.UnimplementedError(None, None, f"input {name} is of type {dtype.name}, which JSON cannot give")


def _require_types(flat: list, accepted: set[type], name: str, dtype: tf.DType) -> None:
    if not set(map(type, flat)) <= accepted:
        wrong = next(value for value in flat if type(value) not in accepted)
        raise invalid(f"input {name}: {_quoted(wrong)} is not of expected type: {dtype.name}")


def _floats(flat: list, name: str, dtype: tf.DType) -> np.ndarray:
    exact = 2 ** (np.finfo(dtype.as_numpy_dtype).nmant + 1)
    wrong = [value for value in flat if type(value) is int and abs(value) >= exact]
    if not wrong:
        given = np.array(flat, np.float64)
        with np.errstate(over="ignore"):
            array = given.astype(dtype.as_numpy_dtype)
        wrong = given[np.isinf(array) & np.isfinite(given)].tolist()
    if wrong:
        raise invalid(f"input {name}: {_quoted(wrong[0])} does not fit {dtype.name} without loss of precision")
    return array


def _bytes(value: str | dict, name: str) -> bytes:
    if isinstance(value, str):
        return value.encode(errors="replace")
    if _is_object(value):
        raise invalid(f"input {name}: an object is not of expected type: string")
    try:
        return base64.b64decode(value["b64"], validate=True)
    except ValueError as error:
        raise invalid(f"input {name}: a 'b64' value is not base64: {error}") from error


def _is_object(value) -> bool:
    """Whether a value names inputs: {"b64": "..."} does not, it is a string."""
    return isinstance(value, dict) and not (value.keys() == {"b64"} and isinstance(value["b64"], str))


def _quoted(value) -> str:
    """A value as an error shows it."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    text = json.dumps(value)
    return text if len(text) <= QUOTED else f"{text[:QUOTED]}..."


def _listed(names) -> str:
    return ", ".join(sorted(names))


def answer(outputs: Mapping[str, np.ndarray], by_row: bool) -> bytes:
    """The body of an answer.

    Args:
      outputs: arrays by name; a single one is given without its name.
      by_row: whether the answer is `predictions`, an item for each row, or `outputs`, an array for each output.
    Raises:
      tf.errors.InvalidArgumentError: if JSON cannot hold them, or by row, if they differ in their number of rows.
    """
    columns = {name: _plain(array, name) for name, array in outputs.items()}
    if not by_row:
        body = {"outputs": columns if len(columns) > 1 else next(iter(columns.values()))}
    else:
        sizes = {array.shape[:1] for array in outputs.values()}
        if len(sizes) > 1 or () in sizes:
            raise invalid("the outputs have no common number of rows: ask by 'inputs' instead of 'instances'")
        if len(columns) > 1:
            rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        else:
            rows = next(iter(columns.values()))
        body = {"predictions": rows}
    if all(np.isfinite(array).all() for array in outputs.values() if array.dtype.kind == "f"):
        return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    # TensorFlow Serving writes NaN and Infinity bare, orjson null.
    return json.dumps(body, default=lambda array: array.tolist()).encode()


def _plain(array: np.ndarray, name: str):
    """What JSON is made of: numbers stay an array, strings become nested lists."""
    if array.dtype == object:
        if name.endswith("_bytes"):
            strings = [{"b64": base64.b64encode(value).decode()} for value in array.ravel()]
        else:
            strings = [value.decode(errors="replace") for value in array.ravel()]
        return _objects(strings).reshape(array.shape).tolist()
    if array.dtype.kind not in "fiub":
        raise invalid(f"output {name} is of type {array.dtype}, which JSON cannot hold")
    return array[()]  # of a scalar the number: orjson takes no array without axes


def _objects(values: list) -> np.ndarray:
    """An array [N] of Python objects: NumPy would look into those that are containers."""
    array = np.empty(len(values), object)
    array[:] = values
    return array
