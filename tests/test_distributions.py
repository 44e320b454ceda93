import itertools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

from keras_genmnist.autoregressive import GatedPixelCNN
from keras_genmnist.distributions import (
    BernoulliDecoder,
    DiagonalMixture,
    PixelCNNDecoder,
    Posterior,
    StandardNormal,
)

tfd = tfp.distributions


@pytest.fixture
def decoder():
    """Of 3 x 3 images from two latent dimensions."""
    return BernoulliDecoder(tf_keras.layers.Dense(9, bias_initializer="random_normal"), (3, 3, 1))


@pytest.fixture
def z():
    """[S, B, D] = [4, 5, 2]"""
    return tf.random.stateless_normal([4, 5, 2], seed=[1, 2])


def test_bernoulli_decoder_probabilities_sum_to_one(decoder, z):
    every = np.array(list(itertools.product([0.0, 1.0], repeat=9)), np.float32).reshape(-1, 3, 3, 1)
    log_prob = decoder(z[0, :1]).log_prob(every)
    assert log_prob.shape == 512
    np.testing.assert_allclose(tf.reduce_sum(tf.exp(log_prob)), 1, rtol=1e-5)  # 512 float32 terms


def test_bernoulli_decoder_log_prob_is_the_cross_entropy(decoder, z):
    x = np.random.default_rng(0).integers(0, 2, [5, 3, 3, 1]).astype(np.float32)
    kernel, bias = (decoder(z), decoder.network.get_weights())[1]
    logits = z.numpy().astype(np.float64) @ kernel + bias
    pixels = x.reshape(5, 9)
    expected = (pixels * logits - np.log1p(np.exp(logits))).sum(axis=-1)
    np.testing.assert_allclose(decoder(z).log_prob(x), expected, rtol=1e-5)  # float32


def test_bernoulli_decoder_mean_is_the_sigmoid_of_the_logits_in_place(decoder, z):
    mean = decoder(z).mean()
    assert mean.shape == (4, 5, 3, 3, 1)
    expected = tf.sigmoid(decoder.network(tf.reshape(z, [-1, 2])))
    np.testing.assert_allclose(tf.reshape(mean, [-1, 9]), expected, rtol=1e-6)  # float32


def test_bernoulli_decoder_folds_draws_and_images_and_back(decoder, z):
    x = np.random.default_rng(0).integers(0, 2, [5, 3, 3, 1]).astype(np.float32)
    whole = decoder(z).log_prob(x)
    assert whole.shape == (4, 5)
    for s, b in itertools.product(range(4), range(5)):
        # One row or twenty: a matrix product may round differently.
        np.testing.assert_allclose(whole[s, b], decoder(z[s, b]).log_prob(x[b]), rtol=1e-5)


def test_bernoulli_decoder_draws_where_uniform_numbers_are_below(decoder, z):
    uniform = tf.random.stateless_uniform([4, 5, 3, 3, 1], [3, 4])
    drawn = decoder.draw(z, uniform)
    np.testing.assert_array_equal(drawn["probabilities"], decoder(z).mean())
    np.testing.assert_array_equal(drawn["images"], uniform < decoder(z).mean())


@pytest.fixture
def pixelcnn_decoder():
    """Of 3 x 3 images from two latent dimensions, its weights drawn at random."""
    network = tf_keras.Sequential([tf_keras.layers.Dense(18), tf_keras.layers.Reshape((3, 3, 2))])
    decoder = PixelCNNDecoder(network, GatedPixelCNN(2, features=4, size=3, first_size=3), (3, 3, 1))
    decoder(tf.zeros([1, 2])).log_prob(tf.zeros([1, 3, 3, 1]))
    generator = np.random.default_rng(0)
    for weight in decoder.weights:
        weight.assign(generator.normal(0, 0.7, weight.shape))
    return decoder


def test_pixelcnn_decoder_probabilities_sum_to_one_for_any_latents(pixelcnn_decoder, z):
    every = np.array(list(itertools.product([0.0, 1.0], repeat=9)), np.float32).reshape(-1, 1, 3, 3, 1)
    log_prob = pixelcnn_decoder(tf.tile(z[:1, :3], [512, 1, 1])).log_prob(every)
    assert log_prob.shape == (512, 3)
    np.testing.assert_allclose(tf.reduce_sum(tf.exp(log_prob), axis=0), 1, atol=1e-5)
    assert np.ptp(log_prob, axis=1).max() > 1  # the latents matter


def test_pixelcnn_decoder_folds_draws_and_images_and_back(pixelcnn_decoder, z):
    x = np.random.default_rng(0).integers(0, 2, [5, 3, 3, 1]).astype(np.float32)
    whole = pixelcnn_decoder(z).log_prob(x)
    assert whole.shape == (4, 5)
    for s, b in itertools.product(range(4), range(5)):
        np.testing.assert_allclose(whole[s, b], pixelcnn_decoder(z[s, b : b + 1]).log_prob(x[b]), rtol=1e-5)


def test_pixelcnn_decoder_draws_with_the_probabilities_it_says(pixelcnn_decoder, z):
    uniform = tf.random.stateless_uniform([4, 5, 3, 3, 1], [3, 4])
    drawn = pixelcnn_decoder.draw(z, uniform)
    images, probabilities = drawn["images"].numpy(), drawn["probabilities"].numpy().astype(np.float64)
    np.testing.assert_array_equal(images, uniform < drawn["probabilities"])
    log_prob = np.log(np.where(images == 1, probabilities, 1 - probabilities)).sum(axis=(2, 3, 4))
    np.testing.assert_allclose(pixelcnn_decoder(z).log_prob(images), log_prob, rtol=1e-4)
    likelier = pixelcnn_decoder.draw(z, 0.5)
    np.testing.assert_array_equal(likelier["images"], likelier["probabilities"] > 0.5)


def test_bernoulli_decoder_is_finite_for_extreme_logits(z):
    decoder = BernoulliDecoder(
        tf_keras.layers.Dense(9, kernel_initializer=tf_keras.initializers.Constant(1e4)), (3, 3, 1)
    )
    for x in (tf.zeros([5, 3, 3, 1]), tf.ones([5, 3, 3, 1])):
        assert np.isfinite(decoder(z).log_prob(x)).all()


@pytest.fixture
def posterior():
    return Posterior(tf_keras.layers.Flatten(), latent_size=2)


def test_gaussian_posterior_is_the_normal_of_its_parameters(posterior):
    x = np.random.default_rng(0).normal(size=[5, 3, 3, 1]).astype(np.float32)
    q = posterior(x)
    assert (q.batch_shape, q.event_shape) == ((5,), (2,))
    kernel, bias = posterior.parameters.get_weights()
    mean, raw = np.split(x.reshape(5, 9).astype(np.float64) @ kernel + bias, 2, axis=-1)
    scale = np.log1p(np.exp(raw))
    np.testing.assert_allclose(q.mean(), mean, rtol=1e-4, atol=1e-6)  # float32 sums of nine terms that may cancel
    np.testing.assert_allclose(q.stddev(), scale, rtol=1e-5)  # float32
    z = np.random.default_rng(1).normal(size=[4, 5, 2])
    log_prob = (-0.5 * ((z - mean) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi)).sum(axis=-1)
    np.testing.assert_allclose(q.log_prob(z.astype(np.float32)), log_prob, rtol=1e-4)  # float32


def test_gaussian_posterior_draws_are_functions_of_the_seed(posterior):
    q = posterior(tf.ones([5, 3, 3, 1]))
    draws = q.sample(4, seed=tf.constant([1, 2]))
    assert draws.shape == (4, 5, 2)
    np.testing.assert_array_equal(draws, q.sample(4, seed=tf.constant([1, 2])))
    assert (draws != q.sample(4, seed=tf.constant([1, 3]))).numpy().all()
    assert len(np.unique(draws)) == 4 * 5 * 2


def test_StandardNormal_log_prob_is_the_formula():
    z = np.random.default_rng(0).normal(size=[4, 5, 3]).astype(np.float32)
    prior = StandardNormal(3)()
    assert prior.event_shape == 3
    expected = -0.5 * (z.astype(np.float64) ** 2 + np.log(2 * np.pi)).sum(axis=-1)
    np.testing.assert_allclose(prior.log_prob(z), expected, rtol=1e-5)  # float32


def test_StandardNormal_has_a_closed_form_kl_from_the_posterior(posterior):
    q = posterior(tf.random.stateless_normal([5, 3, 3, 1], seed=[1, 2]))
    mean, scale = q.mean().numpy().astype(np.float64), q.stddev().numpy().astype(np.float64)
    expected = 0.5 * (mean**2 + scale**2 - 1 - 2 * np.log(scale)).sum(axis=-1)  # Kingma & Welling (2014), appendix B
    kl = tfd.kl_divergence(q, StandardNormal(2)())
    np.testing.assert_allclose(kl, expected, rtol=1e-4)  # float32, of terms that cancel


@pytest.mark.parametrize("scale", [0.01, 0.03, 0.1, 1.0])
def test_DiagonalMixture_is_exact_at_small_scales(scale):
    generator = np.random.default_rng(0)
    means, spread, noise = (generator.normal(size=[50, 40]) for _ in range(3))
    scales = (scale * np.exp(0.2 * spread)).astype(np.float32)
    means = means.astype(np.float32)
    z = (means + scales * noise).astype(np.float32)  # a draw from each component

    def log_prob(family, dtype):
        loc, spread, points = (tf.Variable(values, dtype=dtype) for values in (means, scales, z))
        with tf.GradientTape() as tape:
            components = tfd.Independent(tfd.Normal(loc, spread), 1)
            values = family(tfd.Categorical(tf.zeros([50], dtype)), components).log_prob(points)
        return [values, *tape.gradient(values, [loc, spread, points])]

    ours, exact = log_prob(DiagonalMixture, tf.float32), log_prob(tfd.MixtureSameFamily, tf.float64)
    assert ours[0].dtype == tf.float32
    # float32 numbers of 150 nats are 1.5e-5 apart; those of a gradient are relative to its size.
    np.testing.assert_allclose(ours[0], exact[0], rtol=0, atol=5e-5)
    for own, true in zip(ours[1:], exact[1:], strict=True):
        np.testing.assert_allclose(own, true, rtol=0, atol=1e-6 * np.abs(true).max())


@pytest.mark.parametrize("shape", [(3,), (5, 3), (4, 5, 3)])
def test_DiagonalMixture_log_prob_is_that_of_tfp(shape):
    generator = np.random.default_rng(0)
    means, scales = generator.normal(size=[7, 3]), np.exp(generator.normal(size=[7, 3]))
    components = tfd.Independent(tfd.Normal(means.astype(np.float32), scales.astype(np.float32)), 1)
    weights = tfd.Categorical(generator.normal(size=7).astype(np.float32))
    z = generator.normal(size=shape).astype(np.float32)
    log_prob = DiagonalMixture(weights, components).log_prob(z)
    assert log_prob.shape == shape[:-1]
    np.testing.assert_allclose(log_prob, tfd.MixtureSameFamily(weights, components).log_prob(z), rtol=1e-4)  # float32
