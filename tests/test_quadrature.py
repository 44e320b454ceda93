import itertools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

from keras_genmnist import distributions, flows, models, quadrature
from keras_genmnist.autoregressive import GatedPixelCNN
from keras_genmnist.distributions import BernoulliDecoder, LogisticDecoder, PixelCNNDecoder, Posterior, StandardNormal
from keras_genmnist.models.vae import VAE
from tests import tiny
from tests.oracles import ORACLE, LinearGaussian

tfd = tfp.distributions

SHAPE = (2, 3, 1)
EVERY = np.array(list(itertools.product([0, 1], repeat=6)), np.uint8).reshape(-1, *SHAPE)


def no_encoder(x, training=False):
    raise AssertionError("the mass is to be found without the posterior")


def linear_decoder(weights, bias):
    """Of independent bits with logits z weights + bias."""
    weights = np.asarray(weights, np.float32)
    dense = tf_keras.layers.Dense(6)
    dense.build([None, len(weights)])
    dense.set_weights([weights, np.asarray(bias, np.float32)])
    return BernoulliDecoder(tf_keras.Sequential([dense]), SHAPE)


def random_decoder(latent_size, scale):
    generator = np.random.default_rng(latent_size)
    return linear_decoder(generator.normal(0, scale, [latent_size, 6]), generator.normal(0, scale, 6))


def vae(decoder, prior=None, latent_size=2):
    return VAE(no_encoder, decoder, prior or StandardNormal(latent_size), SHAPE)


def shaken(piece, scale=0.5):
    """The piece with its variables moved at random."""
    piece()
    generator = np.random.default_rng(0)
    for variable in piece.trainable_variables:
        variable.assign_add(generator.normal(0, scale, variable.shape).astype(np.float32) * (variable.numpy() != 0))
    return piece


def log_prob(model, images):
    found = quadrature.log_prob(model, images, "test")
    assert found.grid_difference.max() < quadrature.TOLERANCE
    assert found.rule_difference.max() < quadrature.TOLERANCE
    return found.log_px


@pytest.mark.parametrize("scale", [0.7, 0.15])  # posteriors down to deviations of 0.4 and 0.1
@pytest.mark.parametrize("latent_size", [1, 2])
def test_quadrature_of_a_linear_gaussian_model_is_log_px(latent_size, scale):
    oracle = LinearGaussian(ORACLE.weights[:, :latent_size], ORACLE.bias, scale)
    x = oracle.sample(20)
    model = oracle.vae()
    model.encoder = no_encoder
    # Lattice sums of smooth functions: far closer than asked for, but for float32.
    np.testing.assert_allclose(log_prob(model, x), oracle.log_prob(x), atol=5e-4)


@pytest.mark.parametrize("scale", [0.5, 5.0, 50.0])
@pytest.mark.parametrize("latent_size", [1, 2])
def test_quadrature_of_all_images_sums_to_one(latent_size, scale):
    log_px = log_prob(vae(random_decoder(latent_size, scale), latent_size=latent_size), EVERY)
    np.testing.assert_allclose(np.exp(log_px).sum(), 1, atol=1e-3)


PRIORS = {
    "mixture": lambda: shaken(distributions.MixturePrior(4, 2)),
    "vamp": lambda: distributions.VampPrior(Posterior(tf_keras.layers.Flatten(), 2), 3, 2, SHAPE),
    "maf": lambda: shaken(distributions.FlowPrior(flows.MaskedAutoregressiveFlow(2, 2, 8), 2)),
    "realnvp": lambda: shaken(distributions.FlowPrior(flows.RealNVP(2, 2, 8), 2)),
}


@pytest.mark.parametrize("name", PRIORS)
def test_quadrature_under_a_learned_prior_sums_to_one(name):
    tf_keras.utils.set_random_seed(0)
    log_px = log_prob(vae(random_decoder(2, 3.0), PRIORS[name]()), EVERY)
    np.testing.assert_allclose(np.exp(log_px).sum(), 1, atol=1e-3)


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_quadrature_measures_in_units_of_the_prior(unit):
    class Scaled(StandardNormal):
        def __call__(self):
            return tfd.Independent(tfd.Normal(5 * unit * tf.ones([2]), unit), 1)

    weights = np.random.default_rng(0).normal(0, 3, [2, 6])
    scaled = linear_decoder(weights / unit, -5 * weights.sum(axis=0))
    expected = log_prob(vae(linear_decoder(weights, np.zeros(6))), EVERY)
    np.testing.assert_allclose(log_prob(vae(scaled, Scaled(2)), EVERY), expected, atol=1e-2)


@pytest.mark.parametrize("log_scale", [-1.0, -4.0])
def test_quadrature_of_grey_levels_sums_to_one(log_scale):
    dense = tf_keras.layers.Dense(1)
    dense.build([None, 1])
    dense.set_weights([np.float32([[0.7]]), np.float32([0.4])])  # posteriors down to deviations of 0.04
    decoder = LogisticDecoder(dense, (1, 1, 1))
    decoder.log_scale.assign([log_scale])
    model = VAE(no_encoder, decoder, StandardNormal(1), (1, 1, 1))
    every = (np.arange(256) / 255).astype(np.float32).reshape(-1, 1, 1, 1)
    log_px = log_prob(model, every)
    np.testing.assert_allclose(np.exp(log_px).sum(), 1, atol=1e-3)
    z = np.linspace(-9, 9, 20_001, dtype=np.float32)[:, None]
    joint = decoder(z).log_prob(every[:, None]) + model.prior().log_prob(z)
    np.testing.assert_allclose(log_px, np.log(np.exp(joint.numpy().astype(np.float64)).sum(axis=1) * 9e-4), atol=2e-3)


def test_quadrature_of_a_pixelcnn_decoder_is_the_sum_over_a_lattice():
    tf_keras.utils.set_random_seed(0)
    network = tf_keras.Sequential([tf_keras.layers.Dense(12), tf_keras.layers.Reshape((2, 3, 2))])
    decoder = PixelCNNDecoder(network, GatedPixelCNN(2, features=2, size=3, first_size=3), SHAPE)
    decoder(tf.zeros([1, 2])).log_prob(tf.zeros([1, *SHAPE]))
    generator = np.random.default_rng(0)
    for weight in decoder.weights:
        weight.assign(generator.normal(0, 1, weight.shape))
    # Four of the images, and the sum over a lattice that is written out.
    axis = np.arange(-6, 6, 0.25, dtype=np.float32)
    z = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 1, 2)
    images = EVERY[::16]
    log_likelihood = decoder(tf.tile(z, [1, len(images), 1])).log_prob(images.astype(np.float32)).numpy()
    log_prior = -(z**2).sum(axis=-1) / 2 - np.log(2 * np.pi)
    expected = np.logaddexp.reduce(log_likelihood + log_prior, axis=0) + 2 * np.log(0.25)
    assert np.ptp(log_likelihood, axis=0).max() > 1  # the latents matter
    np.testing.assert_allclose(log_prob(vae(decoder), images), expected, atol=5e-3)


@pytest.mark.parametrize("place", [0.0, 2.3, 9.77])
@pytest.mark.parametrize("width", [0.3, 0.01])
@pytest.mark.parametrize("latent_size", [1, 2])
def test_quadrature_finds_narrow_posteriors_wherever_they_lie(latent_size, width, place):
    # Bits 2 d and 2 d + 1 are both 1 where latent d lies between `place` and place + width, with edges width / 10 soft.
    slope = 10 / width
    weights, bias = np.zeros([latent_size, 6]), np.zeros(6)
    for d in range(latent_size):
        weights[d, 2 * d], bias[2 * d] = slope, -slope * place
        weights[d, 2 * d + 1], bias[2 * d + 1] = -slope, slope * (place + width)
    image = np.ones([1, *SHAPE], np.uint8)
    z = np.linspace(-20, 20, 8_000_001)
    edges = np.logaddexp(0, -slope * (z - place)) + np.logaddexp(0, slope * (z - place - width))
    one = np.logaddexp.reduce(-edges - z**2 / 2) - np.log(2 * np.pi) / 2 + np.log(z[1] - z[0])
    expected = latent_size * one - (6 - 2 * latent_size) * np.log(2)
    # The decoder's float32 logits, of terms of up to 1e4.
    np.testing.assert_allclose(
        log_prob(vae(linear_decoder(weights, bias), latent_size=latent_size), image), [expected], atol=6e-3
    )


def test_quadrature_adds_up_two_modes_of_different_widths():
    z = np.linspace(-8, 8, 4_000_001)
    network = tf_keras.Sequential([tf_keras.layers.Lambda(_slit)])
    found = log_prob(vae(BernoulliDecoder(network, SHAPE), latent_size=1), np.ones([1, *SHAPE], np.uint8))
    logits = _slit(tf.constant(z[:, None], tf.float64)).numpy()
    terms = -np.logaddexp(0, -logits).sum(axis=1) - z**2 / 2 - np.log(2 * np.pi) / 2
    left, right = (np.logaddexp.reduce(terms[side]) for side in (z < 0, z > 0))
    assert abs(left - right) < 2  # both count
    np.testing.assert_allclose(found, [np.logaddexp(left, right) + np.log(z[1] - z[0])], atol=6e-3)


def _slit(z):
    """Logits of six bits that are likely together in a broad hill around -1 and in one of width 0.01 at 1.003."""
    hill = 5 - 2 * (z + 1) ** 2
    slit = 12 - ((z - 1.003) / 0.01) ** 2
    return tf.tile(tf.maximum(hill, slit) / 6, [1, 6])


def test_quadrature_agrees_with_a_fine_lattice_for_a_decoder_of_digits(digits):
    digits = digits[:4]
    model = models.build(tiny.config("vae_2d", hidden_size=16, norm="none"))
    for weight in model.decoder.trainable_weights:
        weight.assign(np.random.default_rng(len(weight.shape)).normal(0, 0.4, weight.shape))
    model.encoder = no_encoder
    found = log_prob(model, digits.astype(np.uint8))
    axis = (np.arange(-8 * 32, 8 * 32, dtype=np.float32) + 0.3) / 32
    expected = np.full(len(digits), -np.inf)
    for y in np.array_split(axis, 32):  # in strips
        z = np.stack(np.meshgrid(axis, y), axis=-1).reshape(-1, 2)
        logits = tf.reshape(model.decoder.network(z), [len(z), -1]).numpy()
        constant = tf.reduce_sum(tf.nn.softplus(logits), axis=1) + (z**2).sum(axis=1) / 2 + np.log(2 * np.pi)
        terms = logits @ digits.reshape(len(digits), -1).T - constant.numpy()[:, None]
        expected = np.logaddexp(expected, np.logaddexp.reduce(terms, axis=0))
    np.testing.assert_allclose(found, expected - 2 * np.log(32), atol=6e-3)


def test_quadrature_says_how_far_off_it_is(monkeypatch):
    monkeypatch.setattr(quadrature, "HALVINGS", 0)
    model = vae(linear_decoder([[500.0, -500, 0, 0, 0, 0]], [-1, 11, 0, 0, 0, 0]), latent_size=1)
    image = np.ones([1, *SHAPE], np.uint8)
    found = quadrature.log_prob(model, image, "test")
    assert found.grid_difference[0] > quadrature.TOLERANCE
    monkeypatch.setattr(quadrature, "HALVINGS", 10)
    assert abs(found.log_px - log_prob(model, image)) > quadrature.TOLERANCE


def test_quadrature_does_not_depend_on_the_images_beside_it(monkeypatch):
    model = vae(random_decoder(2, 5.0))
    whole = quadrature.log_prob(model, EVERY[:30], "test").log_px
    monkeypatch.setattr(quadrature, "GROUP", 7)
    monkeypatch.setattr(quadrature, "CELLS_PER_CALL", 500)
    np.testing.assert_allclose(quadrature.log_prob(model, EVERY[:30], "test").log_px, whole, atol=1e-4)  # float32


@pytest.mark.parametrize(("latent_size", "applies"), [(1, True), (2, True), (3, False)])
def test_quadrature_is_for_one_or_two_latents(latent_size, applies):
    assert quadrature.applies(models.build(tiny.config("vae", latent_size=latent_size))) == applies
