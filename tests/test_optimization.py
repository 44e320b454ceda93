"""Muon: matrices move by about an orthogonal matrix, and all else as by Adam."""

import numpy as np
import pytest
import tensorflow as tf

from keras_genmnist import models, optimization, training
from tests import tiny

RATE = 1e-2
ANY = tf.random.stateless_normal


@pytest.mark.parametrize("shape", [(16, 16), (16, 40), (40, 16)])
def test_orthogonal_is_near_the_orthogonal_factor_of_the_polar_decomposition(shape):
    matrix = ANY(shape, [1, 2])
    singular, left, right = tf.linalg.svd(matrix)
    found = optimization.orthogonal(matrix)
    # In the basis of the singular vectors it is diagonal, so of the same singular vectors.
    inside = tf.matmul(tf.matmul(left, found, transpose_a=True), right).numpy()
    np.testing.assert_allclose(inside, np.diag(np.diag(inside)), atol=1e-4)
    assert (singular / tf.norm(matrix)).numpy().min() > 2e-3
    assert np.all((np.diag(inside) > 0.68) & (np.diag(inside) < 1.21))


def test_orthogonal_of_no_gradient_is_zero():
    np.testing.assert_array_equal(optimization.orthogonal(tf.zeros([16, 20])), 0)


@pytest.mark.parametrize("length", [1e-15, 1e-19, 1e-22, 1e-30])
def test_orthogonal_of_what_is_left_of_a_gradient_is_hardly_anything(length):
    # As a momentum is some time after its gradient became 0.  The squares of some of its numbers are 0 in 32 bits, and
    # by a norm of the others alone the iterations would diverge.
    assert np.abs(optimization.orthogonal(length * ANY([100, 320], [5, 6]))).max() < 1e-3


def moved(optimizer, gradients: list[tf.Tensor], constraint=None) -> np.ndarray:
    """What the gradients, one after the other, have moved a variable by."""
    variable = tf.Variable(tf.zeros_like(gradients[0]), constraint=constraint)
    for gradient in gradients:
        optimizer.apply_gradients([(gradient, variable)])
    return variable.numpy()


def test_muon_moves_a_kernel_by_its_momentum_made_orthogonal():
    shape = [3, 3, 4, 16]
    first, second = (ANY(shape, [seed, 0]) for seed in (1, 2))
    momentum = 0.95 * 0.05 * first + 0.05 * second
    followed = first, 0.95 * momentum + 0.05 * second  # of Nesterov; the length of the first does not count
    steps = [optimization.orthogonal(tf.reshape(vector, [36, 16])) for vector in followed]
    expected = -RATE * 0.2 * 6 * (steps[0] + steps[1])
    found = moved(optimization.Muon(RATE), [first, second])
    np.testing.assert_allclose(found, tf.reshape(expected, shape), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(200, 200), (200, 32), (5, 5, 16, 96)])
def test_an_update_of_muon_is_about_as_large_as_one_of_adam(shape):
    found = moved(optimization.Muon(RATE), [1e-3 * ANY(shape, [3, 4])])
    assert 0.15 * RATE < np.sqrt(np.mean(found**2)) < 0.25 * RATE


@pytest.mark.parametrize("shape", [(), (400,), (15, 400), (3, 5, 400), (400, 15)])
def test_muon_moves_what_is_no_matrix_as_adam_does(shape):
    gradients = [ANY(shape, [seed, 0]) for seed in range(3)]
    found, expected = (moved(kind(RATE), gradients) for kind in (optimization.Muon, optimization.Adam))
    np.testing.assert_array_equal(found, expected)


def test_muon_moves_a_masked_kernel_as_adam_does():
    gradients = [ANY([20, 20], [seed, 0]) for seed in range(3)]
    mask = tf.linalg.band_part(tf.ones([20, 20]), 0, -1)
    found, expected = (
        moved(kind(RATE), gradients, lambda kernel: mask * kernel) for kind in (optimization.Muon, optimization.Adam)
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", [optimization.Muon, optimization.Adam])
def test_kernels_alone_decay_by_the_rate_times_the_weight_decay(kind):
    kernel, bias = tf.Variable(tf.ones([20, 20])), tf.Variable(tf.ones([20]))
    optimizer = kind(RATE, weight_decay=0.3)
    for _ in range(2):
        optimizer.apply_gradients([(tf.zeros([20, 20]), kernel), (tf.zeros([20]), bias)])
    np.testing.assert_allclose(kernel, np.full([20, 20], (1 - 0.3 * RATE) ** 2), rtol=1e-6)
    np.testing.assert_array_equal(bias, np.ones(20))


@pytest.mark.parametrize("kind", [optimization.Muon, optimization.Adam])
def test_weights_that_a_mask_leaves_out_change_nothing_of_the_others(kind):
    mask = tf.linalg.band_part(tf.ones([20, 20]), 0, -1)
    gradients = [ANY([20, 20], [seed, 0]) for seed in range(3)]
    whole, masked = (
        moved(kind(RATE, global_clipnorm=1.0), those, lambda weights: mask * weights)
        for those in (gradients, [mask * gradient for gradient in gradients])
    )
    np.testing.assert_array_equal(whole, masked)


def test_the_only_constraints_of_weights_are_masks():
    # What `optimization` does with them is right of masks alone.
    model = models.build(tiny.config("vae_best"))
    constrained = [weight for weight in model.trainable_weights if weight.constraint is not None]
    assert constrained
    for weight in constrained:
        mask = weight.constraint(tf.ones_like(weight)).numpy()
        assert set(np.unique(mask)) <= {0, 1}
        np.testing.assert_array_equal(weight.constraint(3 * tf.ones_like(weight)), 3 * mask)


def test_the_optimizer_is_that_of_the_config():
    assert type(training.optimizer(tiny.config(optimizer="muon"), 10)) is optimization.Muon
    assert type(training.optimizer(tiny.config(optimizer="adam"), 10)) is optimization.Adam
    assert type(training.optimizer(tiny.config("gan"), 10, "generator_optimizer")) is optimization.Adam
