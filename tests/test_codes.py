"""Codes as the places of a gated PixelCNN: densities, what is seen of which, and draws."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from keras_genmnist.autoregressive import GatedPixelCNN
from keras_genmnist.codes import Codes

GRID, NUMBER = (2, 3), 3


@pytest.fixture(scope="module")
def network():
    """Of grids of 2 x 3 codes, each one of three, its weights drawn at random."""
    network = GatedPixelCNN(2, features=8, size=3, first_size=3, num_codes=NUMBER)
    network(tf.zeros([1, *GRID, 1]), tf.zeros([1, *GRID, 2]))
    generator = np.random.default_rng(0)
    for weight in network.weights:
        weight.assign(generator.normal(0, 0.4, weight.shape))
    return network


@pytest.fixture(scope="module")
def context():
    return tf.random.stateless_normal([1, *GRID, 2], seed=[5, 6])


@pytest.fixture(scope="module")
def every():
    """All 729 grids."""
    return np.array(list(itertools.product(range(NUMBER), repeat=6)), np.float32).reshape(-1, *GRID, 1)


def test_probabilities_of_all_grids_sum_to_one(network, context, every):
    log_prob = tf.reduce_sum(network.log_prob(every, context), axis=[1, 2, 3])
    np.testing.assert_allclose(tf.reduce_sum(tf.exp(log_prob)), 1, atol=1e-5)
    assert np.ptp(log_prob) > 3


def test_code_depends_on_exactly_the_codes_before_it(network, context):
    codes = np.random.default_rng(1).integers(0, NUMBER, [1, *GRID, 1]).astype(np.float32)
    logits = network(codes, context).numpy().reshape(6, NUMBER)
    for number, place in enumerate(np.ndindex(*GRID)):
        other = codes.copy()
        other[(0, *place)] = (other[(0, *place)] + 1) % NUMBER
        changed = (network(other, context).numpy().reshape(6, NUMBER) != logits).any(axis=1)
        assert changed.tolist() == [later > number for later in range(6)]


@pytest.mark.parametrize("compile", [lambda draw: draw, lambda draw: tf.function(draw, autograph=False)])
def test_cached_sampling_draws_the_codes_of_naive_sampling(network, context, compile):
    uniform = np.random.default_rng(1).random([40, *GRID, 1]).astype(np.float32)
    expected = np.zeros_like(uniform)
    for i, j in np.ndindex(*GRID):
        probabilities = tf.nn.softmax(network(expected, context)[:, i, j]).numpy().astype(np.float64)
        expected[:, i, j] = (probabilities.cumsum(axis=1)[:, :-1] <= uniform[:, i, j]).sum(axis=1, keepdims=True)
    drawn = compile(network.draw)(tf.constant(uniform), context)
    np.testing.assert_array_equal(drawn["images"], expected)
    np.testing.assert_allclose(tf.math.log(drawn["probabilities"]), network.log_prob(expected, context), atol=1e-4)
    assert (np.bincount(expected.astype(int).ravel(), minlength=NUMBER) > 20).all()


def test_draws_have_the_frequencies_of_their_probabilities():
    logits = tf.constant([1.0, -0.5, 0.3, -1.0])
    count = 20_000
    uniform = tf.random.stateless_uniform([count, 1], seed=[1, 2])
    codes, probabilities = Codes(4).draw(tf.tile(logits[None], [count, 1]), uniform)
    shares = np.bincount(codes.numpy()[:, 0].astype(int), minlength=4) / count
    expected = tf.nn.softmax(logits).numpy()
    np.testing.assert_array_less(abs(shares - expected), 4 * np.sqrt(expected / count))
    np.testing.assert_allclose(probabilities[:, 0], expected[codes.numpy()[:, 0].astype(int)], rtol=1e-6)


def test_largest_uniform_number_draws_the_last_code_and_none_beyond_it():
    logits = tf.random.stateless_normal([1000, 7], seed=[3, 4])
    codes, _ = Codes(7).draw(logits, tf.fill([1000, 1], np.float32(1 - 2**-24)))
    np.testing.assert_array_equal(codes, 6)
    np.testing.assert_array_equal(Codes(7).draw(logits, tf.zeros([1000, 1]))[0], 0)
