import itertools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

from keras_genmnist import bounds, models
from keras_genmnist import config as configs
from keras_genmnist.distributions import standard_normal
from keras_genmnist.errors import UsageError
from keras_genmnist.models.vae import VAE
from tests import conformance, tiny
from tests.oracles import ORACLE

tfd = tfp.distributions

NAMES = [name for name in configs.names() if configs.load(name).model == "vae"]


def test_vae_configs_are_those_of_the_literature():
    assert set(NAMES) >= {"vae", "vae_2d", "vae_conv"}
    assert configs.load("vae_2d").latent_size == 2


@pytest.mark.parametrize("name", NAMES)
def test_vae_conforms(name, digits):
    conformance.check(tiny.config(name), digits)


def test_vae_with_batch_norm_has_trained_statistics(digits):
    model = models.build(tiny.config("vae", batch_norm=True, hidden_layers=1))
    model.compile("adam")
    before = {w.name: w.numpy() for w in model.non_trainable_weights if "moving" in w.name}
    assert len(before) == 4  # mean and variance, of one layer in each network
    model.train_step(digits)
    for weight in model.non_trainable_weights:
        if weight.name in before:
            assert (weight.numpy() != before[weight.name]).any()


def test_vae_exact_kl_agrees_with_monte_carlo(digits):
    model = models.build(tiny.config("vae"))
    terms = model.log_terms(5 * digits, 3_000, tf.constant([1, 2]))  # large inputs: far from the prior
    estimates = (terms.log_posterior - terms.log_prior).numpy().astype(np.float64)
    standard_error = estimates.std(axis=0, ddof=1) / np.sqrt(len(estimates))
    assert (terms.exact_kl.numpy() > 20 * standard_error).all()  # else agreement would mean nothing
    # 4 standard errors: eight images of a fixed seed, one in 2,000 sets of draws is outside.
    np.testing.assert_array_less(np.abs(terms.exact_kl - estimates.mean(axis=0)), 4 * standard_error)


def test_vae_with_exact_posterior_weighs_every_draw_with_log_px():
    x = ORACLE.sample(6)
    log_w = bounds.log_weights(ORACLE.vae().log_terms(x, 10, tf.constant([1, 2])))
    # log p(x|z) + log p(z) - log q(z|x) = log p(x) whatever z is; float32 terms of about 10 nats round at 1e-6.
    np.testing.assert_allclose(log_w, np.tile(ORACLE.log_prob(x), [10, 1]), atol=2e-5)


def test_vae_with_exact_posterior_has_bounds_equal_to_log_px():
    x = ORACLE.sample(6)
    for num_samples in (1, 2, 17):
        terms = ORACLE.vae().log_terms(x, num_samples, tf.constant([3, 4]))
        np.testing.assert_allclose(bounds.iwae_bound(terms), ORACLE.log_prob(x), atol=2e-5)
        # Both halves of the KL by the same draws: the noise cancels, too.
        np.testing.assert_allclose(bounds.elbo(terms._replace(exact_kl=None)), ORACLE.log_prob(x), atol=2e-5)


@pytest.mark.parametrize(("shift", "stretch"), [(0.0, 1.0), (0.3, 1.0), (0.0, 1.5), (-0.2, 0.7)])
def test_vae_elbo_is_log_px_less_the_gap_to_the_true_posterior(shift, stretch):
    x = ORACLE.sample(4)
    terms = ORACLE.vae(shift, stretch).log_terms(x, 20_000, tf.constant([5, 6]))
    standard_error = terms.log_likelihood.numpy().std(axis=0, ddof=1) / np.sqrt(20_000)
    # 4 standard errors of the reconstruction term, the only random one: about 0.02 nats against gaps of 0.1 to 0.6.
    error = np.abs(bounds.elbo(terms) - ORACLE.elbo(x, shift, stretch))
    np.testing.assert_array_less(error, 4 * standard_error)


def test_vae_iwae_bound_rises_from_the_elbo_to_log_px():
    x = ORACLE.sample(4)
    terms = ORACLE.vae(shift=0.3, stretch=1.5).log_terms(x, 16_384, tf.constant([7, 8]))

    def mean_bound(size):
        """The same draws in groups of `size`, each group within one of the next size; the mean over groups, [B]."""
        groups = bounds.LogTerms(*(tf.reshape(term, [size, -1]) for term in terms[:3]))
        return bounds.iwae_bound(groups).numpy().astype(np.float64).reshape(-1, len(x)).mean(axis=0)

    means = [mean_bound(size) for size in (1, 2, 16, 256, 16_384)]
    for lower, higher in itertools.pairwise(means):
        # Jensen's inequality holds for the draws themselves, image by image, and strictly for unequal weights.
        assert (higher > lower).all()
    log_w = bounds.log_weights(terms).numpy().astype(np.float64)
    weights = np.exp(log_w - means[-1])  # of mean 1
    root = np.sqrt(len(log_w))
    # 4 standard errors at either end; that of the log of a mean is that of the mean, relatively.
    np.testing.assert_array_less(np.abs(means[0] - ORACLE.elbo(x, 0.3, 1.5)), 4 * log_w.std(axis=0) / root)
    np.testing.assert_array_less(np.abs(means[-1] - ORACLE.log_prob(x)), 4 * weights.std(axis=0) / root)


def test_vae_learns_the_closed_form_elbo_gradient():
    # The pathwise gradient of the ELBO in the posterior's shift, against -shift / variance, its derivative by hand.
    x, shift = ORACLE.sample(4), tf.Variable(0.3)
    with tf.GradientTape() as tape:
        terms = ORACLE.vae(shift=shift).log_terms(x, 20_000, tf.constant([1, 1]))
        elbo = tf.reduce_mean(bounds.elbo(terms))
    expected = -(0.3 / ORACLE.posterior_variance).sum()
    # The reconstruction's gradient has a standard error of about 0.01 over 80,000 draws.
    np.testing.assert_allclose(tape.gradient(elbo, shift), expected, atol=0.05)


def test_vae_interpolates_from_z2_to_z1(digits):
    model = models.build(tiny.config("vae"))
    mean, _ = model.encode(digits)
    path = model.interpolate(mean[:1], mean[1:2], tf.constant([0.0, 1.0]))[0]
    np.testing.assert_allclose(path[0], model.decode(mean[1]), atol=1e-6)  # one row or two: rounding
    np.testing.assert_allclose(path[1], model.decode(mean[0]), atol=1e-6)


def test_vae_encode_gives_mean_and_log_variance():
    x = ORACLE.sample(3)
    mean, log_variance = ORACLE.vae().encode(x)
    np.testing.assert_allclose(mean, ORACLE.posterior_mean(x), rtol=1e-5)  # float32
    np.testing.assert_allclose(log_variance, np.tile(np.log(ORACLE.posterior_variance), [3, 1]), rtol=1e-5)


@pytest.mark.parametrize(("step", "weight"), [(0, 0.0), (5, 0.5), (10, 1.0), (20, 1.0)])
def test_vae_train_step_warms_the_kl_up_linearly(step, weight):
    class Unit(tf_keras.Model):
        """q(z | x) = N(z; mean, 1): the KL is mean^2 / 2 and its gradient the mean."""

        def __init__(self):
            super().__init__()
            self.mean = self.add_weight("mean", [1], initializer="ones")

        def call(self, x, training=False):
            return tfd.Independent(tfd.Normal(self.mean * tf.ones([len(x), 1]), 1.0), 1)

    def decoder(z, training=False):  # takes no notice of z: the likelihood has no gradient
        return tfd.Independent(tfd.Bernoulli(logits=tf.zeros([*z.shape[:-1], 2, 2, 1])), 3)

    model = VAE(Unit(), decoder, standard_normal(1), (2, 2, 1))
    model.compile(tf_keras.optimizers.SGD(1.0), warmup_steps=10)
    model.optimizer.iterations.assign(step)
    model.train_step(tf.ones([3, 2, 2, 1]))
    np.testing.assert_allclose(model.encoder.mean, [1 - weight], atol=1e-6)  # float32


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("vae", "latent_size"),
        ("vae", "hidden_size"),
        ("vae", "hidden_layers"),
        ("vae_conv", "encoder_channels"),
        ("vae_conv", "decoder_channels"),
    ],
)
def test_vae_refuses_sizes_below_one(name, field):
    config = configs.load(name)
    config[field] = 0
    with pytest.raises(UsageError, match=rf"config.{field}=0 is out of range: give .*\b1\b"):
        models.build(config)


def test_vae_refuses_an_unknown_network():
    config = configs.load("vae")
    config.network = "cnn"
    with pytest.raises(UsageError, match=r"config.network='cnn' .*mlp, conv"):
        models.build(config)
