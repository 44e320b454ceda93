"""What signatures.py makes of requests."""

import numpy as np
import pytest
import tensorflow as tf

from keras_genmnist.signatures import CHUNK, in_chunks

ROWS = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5]


@pytest.mark.parametrize("rows", ROWS)
def test_chunks_make_a_whole_of_the_same_rows(rows):
    sizes = []

    def function(x, y):
        tf.py_function(lambda n: sizes.append(int(n)), [tf.shape(x)[0]], [])
        return {"sum": tf.reduce_sum(x, axis=1) + tf.cast(y, tf.float32), "x": 2 * x}

    @tf.function(input_signature=[tf.TensorSpec([None, 3]), tf.TensorSpec([None], tf.int32)])
    def whole(x, y):
        outputs = in_chunks(tf.function(function), x, y)
        assert {name: output.shape.as_list() for name, output in outputs.items()} == {"sum": [None], "x": [None, 3]}
        return outputs

    x, y = np.random.default_rng(0).normal(size=[rows, 3]).astype(np.float32), np.arange(rows, dtype=np.int32)
    outputs = whole(x, y)
    np.testing.assert_array_equal(outputs["x"], 2 * x)
    np.testing.assert_allclose(outputs["sum"], x.sum(axis=1) + y, rtol=1e-6)
    assert sum(sizes) == max(1, rows)  # of no rows, one is computed and cut off
    assert max(sizes) <= CHUNK  # which is what bounds the memory


def test_chunks_are_as_well_made_outside_of_a_graph():
    x = tf.range(float(CHUNK + 1))
    np.testing.assert_array_equal(in_chunks(tf.function(lambda x: {"y": -x}), x)["y"], -x)
