"""The cases of TensorFlow Serving's json_tensor_test, as tables."""

import json

import numpy as np
import orjson
import pytest
import tensorflow as tf

from keras_genmnist.serve import tensors

INVALID = tf.errors.InvalidArgumentError


def spec(dtype, shape=None) -> tf.TensorSpec:
    return tf.TensorSpec(shape, dtype)


INTS, FLOATS, DOUBLES, STRINGS = ({"x": spec(dtype)} for dtype in (tf.int32, tf.float32, tf.float64, tf.string))
THREE = {"i": spec(tf.int32), "s": spec(tf.string), "f": spec(tf.float32)}
HELLO, WORLD = {"b64": "aGVsbG8="}, {"b64": "d29ybGQ="}
NAN = float("nan")


def read(body: str, specs):
    return tensors.inputs(tensors.parse(body.encode()), specs)


ACCEPTED = {
    "rows of a vector": (INTS, {"instances": [[1, 2], [3, 4], [5, 6]]}, {"x": [[1, 2], [3, 4], [5, 6]]}),
    "one row": (INTS, {"instances": [[1, 2]], "signature_name": "z"}, {"x": [[1, 2]]}),
    "scalar rows": (INTS, {"instances": [1, 2]}, {"x": [1, 2]}),
    "named rows of one input": (INTS, {"instances": [{"x": 1}, {"x": 2}]}, {"x": [1, 2]}),
    "whole and other numbers as floats": (FLOATS, {"instances": [1, 2.5, -3e2]}, {"x": [1, 2.5, -300]}),
    "and as doubles": (DOUBLES, {"instances": [1.0, 2, 0.662]}, {"x": [1, 2, 0.662]}),
    "numbers that are not finite": (FLOATS, {"inputs": [NAN, np.inf, -np.inf]}, {"x": [NAN, np.inf, -np.inf]}),
    "the largest float": (FLOATS, {"inputs": 3.4028234e38}, {"x": 3.4028234e38}),
    "whole numbers a float still tells apart": (FLOATS, {"inputs": [2**24 - 1]}, {"x": [2**24 - 1]}),
    "booleans": ({"x": spec(tf.bool)}, {"inputs": [True, False]}, {"x": [True, False]}),
    "bytes": ({"x": spec(tf.uint8)}, {"inputs": [0, 255]}, {"x": [0, 255]}),
    "large integers": ({"x": spec(tf.uint64)}, {"inputs": [2**64 - 1]}, {"x": [2**64 - 1]}),
    "base64 rows": (STRINGS, {"instances": [HELLO, WORLD]}, {"x": [b"hello", b"world"]}),
    "base64 lists": (STRINGS, {"instances": [[HELLO], [WORLD]]}, {"x": [[b"hello"], [b"world"]]}),
    "named base64": (STRINGS, {"instances": [{"x": [[HELLO], [WORLD]]}]}, {"x": [[[b"hello"], [b"world"]]]}),
    "base64 columns": (STRINGS, {"inputs": HELLO}, {"x": b"hello"}),
    "plain strings": (STRINGS, {"instances": ["a", "\u00e9"]}, {"x": [b"a", "\u00e9".encode()]}),
    "an array": (INTS, {"inputs": [[[1, 2], [3, 4]]]}, {"x": [[[1, 2], [3, 4]]]}),
    "a named array": (INTS, {"inputs": {"x": [[[1, 2], [3, 4]]]}}, {"x": [[[1, 2], [3, 4]]]}),
    "a scalar": (INTS, {"inputs": 7}, {"x": 7}),
    "an empty array": (INTS, {"inputs": []}, {"x": []}),
    "an empty array of rows": (INTS, {"inputs": [[], []]}, {"x": [[], []]}),
    "several inputs by row": (
        THREE,
        {"instances": [{"i": [[1], [2]], "s": ["a"], "f": 1}, {"f": NAN, "i": [[3], [4]], "s": [HELLO]}]},
        {"i": [[[1], [2]], [[3], [4]]], "s": [[b"a"], [b"hello"]], "f": [1, NAN]},
    ),
    "several inputs by column": (
        THREE,
        {"inputs": {"i": [[1, 2]], "s": HELLO, "f": [0.5]}},
        {"i": [[1, 2]], "s": b"hello", "f": [0.5]},
    ),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_inputs_are_read(case):
    specs, body, expected = ACCEPTED[case]
    found, by_row = read(json.dumps(body), specs)
    assert by_row == ("instances" in body)
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert array.dtype == (object if specs[name].dtype == tf.string else specs[name].dtype.as_numpy_dtype)
        np.testing.assert_array_equal(array, np.array(expected[name], array.dtype))


FOUR = {"x": spec(tf.float32, [None, 2])}
REFUSED = {
    # the body
    "nothing": (INTS, "", "JSON Parse error: .*empty"),
    "no JSON": (INTS, "instances = [1, 2]", "JSON Parse error"),
    "JSON cut off": (INTS, '{"instances": [1, 2', "JSON Parse error"),
    "more after the JSON": (INTS, '{"inputs": 1}X', "JSON Parse error"),
    "no UTF-8": (INTS, b'{"inputs": "\xff"}', "JSON Parse error"),
    "a list": (INTS, "[1]", "must be a JSON object, not a list"),
    "a string": (INTS, '"inputs"', 'must be a JSON object, not "inputs"'),
    "too deep for the parser": (INTS, '{"inputs": ' + "[" * 100_000, "JSON Parse error"),
    "too deep for both parsers": (INTS, '{"a": NaN, "inputs": ' + "[" * 100_000, "JSON Parse error"),
    "too deep for an array": (INTS, '{"inputs": ' + "[" * 500 + "1" + "]" * 500 + "}", "more than 64 lists"),
    # its keys
    "both forms": (INTS, {"instances": [1], "inputs": [1]}, "one of 'instances' and 'inputs', not both"),
    "neither form": (INTS, {"instance": [1]}, "one of 'instances' and 'inputs', not neither"),
    "instances that are none": (INTS, {"instances": 1}, "'instances' must be a list .*, not 1"),
    "no instance": (INTS, {"instances": []}, "at least one item, not an empty list"),
    # rows
    "ragged rows": (INTS, {"instances": [[1, 2], [3, 4], [5, 6, 7]]}, "input x is ragged: .*level 1"),
    "rows of other ranks": (INTS, {"instances": [[1, 2], [3, 4], [[5, 6]]]}, "input x is ragged: .*level 1"),
    "a number and a list": (INTS, {"instances": [1, [1]]}, "a list is not of expected type: int32"),
    "a list and a number": (INTS, {"instances": [[1], 1]}, "input x is ragged: .*level 1"),
    "plain rows of several inputs": (THREE, {"instances": [1]}, "an object with the inputs f, i, s"),
    "objects, then a list": (INTS, {"instances": [{"x": 1}, [2]]}, "item 1 is unlike the first"),
    "a list, then an object": (INTS, {"instances": [[2], {"x": [1]}]}, "item 1 is unlike the first"),
    "a row without an input": (THREE, {"instances": [{"i": 1, "s": ""}]}, "item 0 of 'instances' lacks f"),
    "a row with another input": (INTS, {"instances": [{"x": 1}, {"x": 1, "y": 2}]}, "item 1 of 'instances' has y"),
    "scalars by row": ({"x": spec(tf.int32, [])}, {"instances": [1]}, r"x has shape \[1\], expected \[\]"),
    # columns
    "ragged columns": (INTS, {"inputs": [[1], [2, 3]]}, "input x is ragged"),
    "a plain value for several": (THREE, {"inputs": [1]}, "an object with the inputs f, i, s"),
    "an input missing": (THREE, {"inputs": {"i": 1, "f": 1}}, "'inputs' lacks s: .* f, i, s"),
    "an input too many": (INTS, {"inputs": {"x": 1, "y": 1, "a": 2}}, "'inputs' has a, y, no input"),
    "another rank": (FOUR, {"inputs": [1.0, 2.0]}, r"input x has shape \[2\], expected \[any, 2\]"),
    "another size": (FOUR, {"inputs": [[1.0, 2.0, 3.0]]}, r"input x has shape \[1, 3\], expected \[any, 2\]"),
    "a scalar for an array": (FOUR, {"inputs": 1.0}, r"input x has shape \[\], expected \[any, 2\]"),
    "null for an input": (INTS, {"inputs": None}, "null is not of expected type: int32"),
    # values
    "strings for integers": (INTS, {"instances": [[1, 2], ["a", "b"]]}, '"a" is not of expected type: int32'),
    "a long string": (INTS, {"inputs": "a" * 10_000}, f'"{"a" * 39}... is not of expected type: int32'),
    "strings for floats": (FLOATS, {"inputs": ["1.5"]}, '"1.5" is not of expected type: float32'),
    "booleans for integers": (INTS, {"inputs": [True]}, "true is not of expected type: int32"),
    "booleans for floats": (FLOATS, {"inputs": [1.0, False]}, "false is not of expected type: float32"),
    "objects for floats": (FLOATS, {"inputs": {"x": [{"y": 1}]}}, "an object is not of expected type: float32"),
    "decimals for integers": (INTS, {"inputs": [1.0]}, "1.0 is not of expected type: int32"),
    "NaN for integers": (INTS, {"inputs": [NAN]}, "NaN is not of expected type: int32"),
    "numbers for booleans": ({"x": spec(tf.bool)}, {"inputs": [1]}, "1 is not of expected type: bool"),
    "numbers for strings": (STRINGS, {"inputs": [1]}, "1 is not of expected type: string"),
    "objects for strings": (STRINGS, {"inputs": {"x": {"b64": "", "y": 1}}}, "an object is not of .*: string"),
    "too large for int32": (INTS, {"inputs": [2**31]}, "2147483648 is out of range: .*-2147483648 to 2147483647"),
    "too small for int32": (INTS, {"inputs": [1, -(2**31) - 1]}, "-2147483649 is out of range"),
    "negative for uint8": ({"x": spec(tf.uint8)}, {"inputs": [-1]}, "-1 is out of range: give 0 to 255"),
    "too large for a float": (FLOATS, {"inputs": [1.7976931348623157e308]}, "float32 without loss of precision"),
    "too exact for a float": (FLOATS, {"inputs": [16777217]}, "16777217 does not fit float32 without loss"),
    "too exact for a double": (DOUBLES, {"inputs": [9007199254740993]}, "does not fit float64 without loss"),
    "beyond all integers": (FLOATS, '{"y": NaN, "inputs": [1' + "0" * 400 + "]}", "does not fit float32 without"),
    "no base64": (STRINGS, {"inputs": {"b64": "?"}}, "input x: a 'b64' value is not base64"),
    "no ASCII": (STRINGS, {"inputs": {"b64": "é"}}, "input x: a 'b64' value is not base64"),
    "base64 cut off": (STRINGS, {"inputs": {"b64": "aGVsbG8"}}, "input x: a 'b64' value is not base64"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_inputs_that_are_wrong_are_refused(case):
    specs, body, message = REFUSED[case]
    body = body if isinstance(body, str | bytes) else json.dumps(body)
    with pytest.raises(INVALID, match=message) as refused:
        tensors.inputs(tensors.parse(body if isinstance(body, bytes) else body.encode()), specs)
    assert "\n" not in refused.value.message and len(refused.value.message) < 200


@pytest.mark.parametrize(
    "value",
    [rb'"\ud800"', rb'"\uDfff\ud83d"', rb'{"\udc00": 1}', b'"\xed\xa0\x80"', b'"\xff"', b"1e999", b"[-1e999]", b"01"],
)
def test_numbers_that_are_not_finite_make_nothing_else_acceptable(value):
    # They need another parser, which takes what is no Unicode: it could be neither compared nor sent back.
    for first in (b"1", b"NaN"):
        with pytest.raises(INVALID, match="JSON Parse error") as refused:
            tensors.parse(b'{"x": ' + first + b', "signature_name": ' + value + b"}")
        refused.value.message.encode()


def test_strings_beside_numbers_that_are_not_finite_are_read():
    body = rb'{"a": NaN, "b": "\ud83d\ude00 \\ud800 \u00e9", "c": [-1e308, Infinity]}'
    found = tensors.parse(body)
    assert (found["b"], found["c"]) == ("\N{GRINNING FACE} \\ud800 \u00e9", [-1e308, float("inf")])


def test_inputs_of_a_type_that_json_lacks_are_unimplemented():
    with pytest.raises(tf.errors.UnimplementedError, match="complex64"):
        read('{"inputs": 1}', {"x": spec(tf.complex64)})


@pytest.mark.parametrize(("body", "name"), [({}, "serving_default"), ({"signature_name": ""}, "serving_default")])
def test_signature_name_has_a_default(body, name):
    assert tensors.signature_name(body) == name
    assert tensors.signature_name({"signature_name": "sample"}) == "sample"


def test_signature_name_must_be_a_string():
    with pytest.raises(INVALID, match="'signature_name' must be a string value, not 5"):
        tensors.signature_name({"signature_name": 5})


def array(values, dtype=np.float32) -> np.ndarray:
    return np.array(values, dtype)


CUBE = [[[1, 2], [3, 4], [5, 6]], [[7, 8], [9, 0], [1, 2]]]
TEXTS = array([[b"foo", b"bar"], [b"baz", "\u00e9".encode()]], object)
ENCODED = [[{"b64": "Zm9v"}, {"b64": "YmFy"}], [{"b64": "YmF6"}, {"b64": "w6k="}]]
ANSWERS = {
    "one output": ({"x": array(CUBE, np.int32)}, CUBE, CUBE),
    "numbers": ({"x": array([1, 2], np.int64)}, [1, 2], [1, 2]),
    "booleans": ({"x": array([True, False], bool)}, [True, False], [True, False]),
    "bytes": ({"x_bytes": TEXTS}, ENCODED, ENCODED),
    "no rows": ({"x": np.zeros([0, 2])}, [], []),
    "no rows of two outputs": ({"x": np.zeros([0, 1, 2]), "y": np.zeros([0, 3])}, [], {"x": [], "y": []}),
    "several outputs": (
        {"i": array(CUBE, np.int32), "f": array([[0.5], [2]]), "d": array([8, 9], float), "s": TEXTS, "s_bytes": TEXTS},
        [
            {"i": CUBE[0], "f": [0.5], "d": 8, "s": ["foo", "bar"], "s_bytes": ENCODED[0]},
            {"i": CUBE[1], "f": [2], "d": 9, "s": ["baz", "\u00e9"], "s_bytes": ENCODED[1]},
        ],
        {"i": CUBE, "f": [[0.5], [2]], "d": [8, 9], "s": [["foo", "bar"], ["baz", "\u00e9"]], "s_bytes": ENCODED},
    ),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_answer_by_row_and_by_column(case):
    outputs, rows, columns = ANSWERS[case]
    assert orjson.loads(tensors.answer(outputs, by_row=True)) == {"predictions": rows}
    assert orjson.loads(tensors.answer(outputs, by_row=False)) == {"outputs": columns}


def test_answer_of_a_scalar():
    assert tensors.answer({"x": array(0.5)}, by_row=False) == b'{"outputs":0.5}'


def test_answer_tells_floats_from_integers_and_as_short_as_they_are():
    assert tensors.answer({"x": array([9000000, 0.2, 3e-5])}, by_row=True) == b'{"predictions":[9000000.0,0.2,0.00003]}'


def test_answer_writes_numbers_that_are_not_finite_bare():
    outputs = {"x": array([[NAN, np.inf], [3, -np.inf]]), "y": array([1, 2], np.int32)}
    rows = b'{"predictions": [{"x": [NaN, Infinity], "y": 1}, {"x": [3.0, -Infinity], "y": 2}]}'
    assert tensors.answer(outputs, by_row=True) == rows
    assert tensors.answer({"x": outputs["x"]}, by_row=False) == b'{"outputs": [[NaN, Infinity], [3.0, -Infinity]]}'


UNANSWERABLE = {
    "complex numbers": ({"x": array([1], np.complex64)}, "output x is of type complex64"),
    "a scalar by row": ({"x": array(1)}, "no common number of rows"),
    "other numbers of rows": ({"x": array([1, 2]), "y": array([1])}, "no common number of rows"),
    "rows and none": ({"x": np.zeros([0, 2]), "y": np.zeros([1, 2])}, "no common number of rows"),
}


@pytest.mark.parametrize("case", UNANSWERABLE)
def test_answer_that_json_cannot_hold_is_refused(case):
    outputs, message = UNANSWERABLE[case]
    with pytest.raises(INVALID, match=message):
        tensors.answer(outputs, by_row=True)
