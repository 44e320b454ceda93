"""Adversarial losses, against formulas in float64 and closed forms."""

import numpy as np
import pytest
import tensorflow as tf

from keras_genmnist import losses
from keras_genmnist.losses import LOSSES

REAL = np.array([-3.0, -0.5, 0.0, 0.7, 4.0])
FAKE = np.array([2.5, -1.5, 0.0, 0.3, -6.0])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


EXPECTED = {
    "minimax": (
        -np.log(sigmoid(REAL)).mean() - np.log(1 - sigmoid(FAKE)).mean(),
        np.log(1 - sigmoid(FAKE)).mean(),
    ),
    "non_saturating": (
        -np.log(sigmoid(REAL)).mean() - np.log(1 - sigmoid(FAKE)).mean(),
        -np.log(sigmoid(FAKE)).mean(),
    ),
    "least_squares": (((REAL - 1) ** 2).mean() / 2 + (FAKE**2).mean() / 2, ((FAKE - 1) ** 2).mean() / 2),
    "hinge": (np.maximum(0, 1 - REAL).mean() + np.maximum(0, 1 + FAKE).mean(), -FAKE.mean()),
    "wasserstein_gp": (FAKE.mean() - REAL.mean(), -FAKE.mean()),
}


def float32(values):
    return tf.constant(values, tf.float32)


@pytest.mark.parametrize("name", LOSSES)
def test_loss_is_its_formula(name):
    discriminator, generator = EXPECTED[name]
    np.testing.assert_allclose(LOSSES[name].discriminator(float32(REAL), float32(FAKE), 1.0), discriminator, rtol=1e-6)
    np.testing.assert_allclose(LOSSES[name].generator(float32(FAKE)), generator, rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_loss_is_finite_for_extreme_logits(name):
    for real, fake in ((1e4, -1e4), (-1e4, 1e4)):
        assert np.isfinite(LOSSES[name].discriminator(float32([real]), float32([fake]), 1.0))
        assert np.isfinite(LOSSES[name].generator(float32([fake])))


@pytest.mark.parametrize("name", LOSSES)
def test_generator_wants_what_the_discriminator_does_not(name):
    real, fake = float32([0.3]), float32([0.3])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([real, fake])
        discriminator = LOSSES[name].discriminator(real, fake, 1.0)
        generator = LOSSES[name].generator(fake)
    assert tape.gradient(discriminator, real) < 0 < tape.gradient(discriminator, fake)
    assert tape.gradient(generator, fake) < 0


@pytest.mark.parametrize("name, best", [("minimax", np.log(0.8 / 0.2)), ("least_squares", 0.8)])
def test_label_smoothing_moves_the_best_logit_of_real_images_alone(name, best):
    logits = tf.linspace(-5.0, 5.0, 10_001)
    fake = float32([-1.0])
    at = tf.vectorized_map(lambda logit: LOSSES[name].discriminator(logit[None], fake, 0.8), logits)
    np.testing.assert_allclose(logits[np.argmin(at)], best, atol=0.01)  # flat there: float32 cannot tell neighbours
    unsmoothed = LOSSES[name].discriminator(float32([best]), fake, 1.0) - LOSSES[name].discriminator(
        float32([best]), float32([2.0]), 1.0
    )
    smoothed = LOSSES[name].discriminator(float32([best]), fake, 0.8) - LOSSES[name].discriminator(
        float32([best]), float32([2.0]), 0.8
    )
    np.testing.assert_allclose(smoothed, unsmoothed, rtol=1e-5)


def test_losses_that_have_a_target_are_those_that_smoothing_changes():
    changed = [
        name
        for name, loss in LOSSES.items()
        if loss.discriminator(float32(REAL), float32(FAKE), 0.8) != loss.discriminator(float32(REAL), float32(FAKE), 1)
    ]
    assert changed == list(losses.TARGETS)


@pytest.fixture
def images():
    """Real and fake images, [5, 2, 2, 1] each."""
    return tf.unstack(tf.random.stateless_normal([2, 5, 2, 2, 1], seed=[1, 2]))


def test_penalties_of_a_linear_discriminator_are_those_of_its_slope(images):
    slope = float32(np.array([1.0, -2.0, 0.5, 3.0]).reshape(2, 2, 1))
    norm = np.sqrt(1 + 4 + 0.25 + 9)

    def discriminate(x):
        return tf.reduce_sum(slope * x, axis=[1, 2, 3])

    penalty = losses.gradient_penalty(discriminate, *images, seed=tf.constant([1, 2]))
    np.testing.assert_allclose(penalty, (norm - 1) ** 2, rtol=1e-5)
    np.testing.assert_allclose(losses.r1_penalty(discriminate, images[0]), norm**2 / 2, rtol=1e-5)


def test_gradient_penalty_is_taken_at_points_uniform_between_the_pairs():
    # D(x) = |x|^2 / 2 has the gradient x: from all zeros to all threes, its norm is 3 u sqrt(784) at the share u.
    real, fake = tf.zeros([2000, 28, 28, 1]), tf.fill([2000, 28, 28, 1], 3 / 28)
    seen = []

    def discriminate(x):
        seen.append(x.numpy())
        return tf.reduce_sum(x**2, axis=[1, 2, 3]) / 2

    penalty = losses.gradient_penalty(discriminate, real, fake, seed=tf.constant([1, 2]))
    norms = np.linalg.norm(seen[0].reshape(2000, -1), axis=1)
    assert np.ptp(seen[0].reshape(2000, -1), axis=1).max() < 1e-6  # one share for all pixels of a pair
    np.testing.assert_allclose(penalty, ((norms - 1) ** 2).mean(), rtol=1e-4)
    # The quartiles of 2,000 uniform draws lie within 0.01 (one standard error) of theirs, here times 3; five of them.
    np.testing.assert_allclose(np.quantile(norms, [0.25, 0.5, 0.75]), [0.75, 1.5, 2.25], atol=0.15)


def test_penalty_of_a_flat_discriminator_has_a_finite_gradient(images):
    weight = tf.Variable(0.0)
    with tf.GradientTape() as tape:
        penalty = losses.gradient_penalty(
            lambda x: weight * tf.reduce_sum(x, axis=[1, 2, 3]), *images, seed=tf.constant([1, 2])
        )
    np.testing.assert_allclose(penalty, 1, rtol=1e-5)
    assert np.isfinite(tape.gradient(penalty, weight))
