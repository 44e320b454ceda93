import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from keras_genmnist import annealing, models, quadrature
from tests import tiny
from tests.oracles import ORACLE

tfd = tfp.distributions
STEP = 0.15  # in deviations of the oracle's Gaussian


def test_annealing_is_log_px_from_below_and_from_above(monkeypatch):
    monkeypatch.setattr(annealing, "TEMPERATURES", 100)
    monkeypatch.setattr(annealing, "CHAINS", 100)
    z = np.random.default_rng(1).standard_normal([6, 2])
    noise = np.random.default_rng(2).standard_normal([6, 4])
    x = (z @ ORACLE.weights.T + ORACLE.bias + ORACLE.scale * noise).reshape(6, 4, 1, 1).astype(np.float32)
    model = ORACLE.vae(shift=0.8, stretch=1.5)
    below = tf.function(annealing.lower)(model, tf.constant(x), 3, STEP)
    above = tf.function(annealing.upper)(model, tf.constant(x), tf.constant(z, tf.float32), 3, STEP)
    for estimate in (below, above):
        np.testing.assert_allclose(estimate, ORACLE.log_prob(x), atol=0.1)
    # Without the chains, the weights of so many draws from the encoder are further away.
    monkeypatch.setattr(annealing, "TEMPERATURES", 1)
    assert (np.abs(annealing.lower(model, tf.constant(x), 3, STEP) - ORACLE.log_prob(x)) > 0.1).any()


@pytest.mark.slow
def test_simulated_images_of_grey_levels_are_enclosed(monkeypatch):
    monkeypatch.setattr(annealing, "TEMPERATURES", 100)
    monkeypatch.setattr(annealing, "CHAINS", 20)
    model = models.build(tiny.config("vae", binarization="none", decoder="logistic"))
    x, z = annealing.simulate(model, 5, 3)
    np.testing.assert_allclose(255 * x, np.rint(255 * x), atol=1e-4)
    assert len(np.unique(x)) > 20
    below = tf.function(annealing.lower)(model, x, 3, STEP)
    above = tf.function(annealing.upper)(model, x, z, 3, STEP)
    np.testing.assert_allclose(below, above, atol=0.5)
    exact = quadrature.log_prob(model, x.numpy(), "test").log_px
    np.testing.assert_allclose(below, exact, atol=0.5)


def test_chains_are_right_for_densities_far_from_normalised(monkeypatch):
    monkeypatch.setattr(annealing, "TEMPERATURES", 200)
    start = tfd.Independent(tfd.Normal(tf.zeros([3, 2]), 1.0), 1)
    end = tfd.Independent(tfd.Normal(tf.fill([3, 2], 2.0), 0.3), 1)
    state = start.sample(1_000, seed=[0, 0])

    def chain(log_constant):
        weights = annealing._chain(
            start.log_prob, lambda z: end.log_prob(z) + log_constant, state, 0.2 * start.stddev(), 1
        )
        return tf.reduce_logsumexp(weights, axis=0) - np.log(len(state))

    np.testing.assert_allclose(tf.function(chain)(-400.0), [-400.0] * 3, atol=0.15)


@pytest.mark.parametrize("step", [0.1, 1.5])
def test_weights_are_unbiased_whatever_the_step(step, monkeypatch):
    # Few temperatures, and a step of which many moves are refused: what only weights that are right on average survive.
    monkeypatch.setattr(annealing, "TEMPERATURES", 5)
    monkeypatch.setattr(annealing, "CHAINS", 20_000)
    x = ORACLE.sample(3)
    found = annealing.lower(ORACLE.vae(shift=0.5, stretch=1.3), tf.constant(x), 3, step)
    np.testing.assert_allclose(found, ORACLE.log_prob(x), atol=0.03)  # weights with a relative deviation near 1: 0.007


def test_step_size_is_the_one_whose_bound_is_highest_on_simulated_images(monkeypatch):
    monkeypatch.setattr(annealing, "TEMPERATURES", 20)
    monkeypatch.setattr(annealing, "STEPS", (1e-4, 0.4, 50.0))  # one that stays where it is, and one never accepted
    monkeypatch.setattr(annealing, "simulate", lambda model, count, seed: (tf.constant(ORACLE.sample(count)), None))
    assert annealing.step_size(ORACLE.vae(shift=0.8, stretch=1.5), 3) == 0.4
