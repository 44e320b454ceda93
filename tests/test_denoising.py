import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from keras_genmnist.denoising import LevelPixels, NormalPixels


def mean_velocity(prior, x, t):
    """E[ pixel - noise | x(t) = x ] by a sum over a fine grid of pixels.

    prior: their density [N] at `GRID`.
    """
    noise = (x - t * GRID) / (1 - t)
    weights = prior * np.exp(-0.5 * noise**2)
    return np.sum(weights * (GRID - noise)) / np.sum(weights)


GRID = np.linspace(-6, 6, 1_200_001)


def velocity(pixels, x, t, said):
    shaped = tf.reshape(tf.constant(x, tf.float32), [-1, 1, 1, 1])
    said = tf.broadcast_to(tf.constant(said, tf.float32), [len(x), 1, 1, pixels.outputs])
    return pixels.velocity(shaped, tf.fill(tf.shape(shaped), float(t)), said).numpy().ravel()


@pytest.mark.parametrize("t", [0.0, 0.3, 0.9, 0.99])
def test_velocity_is_the_mean_over_the_posterior_of_the_pixel(t):
    logits = np.array([2.0, -1.0, 0.5, 0.0, 1.0])
    pixels = LevelPixels(5, 256)
    scales = np.sqrt(pixels.variances.astype(np.float64))
    density = tfp.distributions.Normal(pixels.means.astype(np.float64), scales).prob(GRID[:, None]).numpy()
    prior = density @ (np.exp(logits) / np.exp(logits).sum())
    x = np.array([-1.1, -0.4, 0.0, 0.7, 0.95])
    expected = [mean_velocity(prior, own, t) for own in x]
    np.testing.assert_allclose(velocity(pixels, x, t, logits), expected, rtol=1e-3, atol=1e-3)


def test_network_that_says_nothing_leaves_the_velocity_of_normal_pixels():
    prior = np.exp(-0.5 * GRID**2)
    x = np.array([-2.0, 0.1, 1.5])
    found = velocity(NormalPixels(), x, 0.4, [0.0])
    np.testing.assert_allclose(found, [mean_velocity(prior, own, 0.4) for own in x], atol=1e-5)
    np.testing.assert_allclose(velocity(NormalPixels(), x, 0.4, [1.0]) - found, (0.6**2 + 0.4**2) ** -0.5, atol=1e-5)


def test_ends_stand_for_the_darkest_and_the_brightest_level():
    pixels = LevelPixels(3, 256)
    np.testing.assert_allclose(pixels.means, [-255 / 256, 0, 255 / 256])
    uniform = tfp.distributions.Uniform(-1.0, -1 + 2 / 256)
    assert pixels.means[0] == pytest.approx(uniform.mean().numpy())
    assert pixels.variances[0] == pytest.approx(uniform.variance().numpy(), rel=1e-4)


def test_velocities_are_finite_with_finite_gradients_at_both_ends_of_the_path():
    pixels = LevelPixels(33, 256)
    x = tf.reshape(tf.linspace(-8.0, 8.0, 65), [1, 65, 1, 1])
    for t in (0.0, 1.0):
        said = tf.zeros([1, 65, 1, 33])
        with tf.GradientTape() as tape:
            tape.watch([x, said])
            v = pixels.velocity(x, tf.constant(t, shape=[1, 1, 1, 1]), said)
        np.testing.assert_allclose(v, x if t else tf.zeros_like(x) - x, atol=2e-5)
        for gradient in tape.gradient(v, [x, said]):
            assert np.isfinite(gradient).all()
