import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from keras_genmnist import annealing
from tests.oracles import ORACLE

tfd = tfp.distributions


def test_annealing_is_log_px_from_below_and_from_above(monkeypatch):
    monkeypatch.setattr(annealing, "TEMPERATURES", 100)
    monkeypatch.setattr(annealing, "CHAINS", 100)
    z = np.random.default_rng(1).standard_normal([6, 2])
    noise = np.random.default_rng(2).standard_normal([6, 4])
    x = (z @ ORACLE.weights.T + ORACLE.bias + ORACLE.scale * noise).reshape(6, 4, 1, 1).astype(np.float32)
    model = ORACLE.vae(shift=0.8, stretch=1.5)
    below = tf.function(annealing.lower)(model, tf.constant(x), 3)
    above = tf.function(annealing.upper)(model, tf.constant(x), tf.constant(z, tf.float32), 3)
    for estimate in (below, above):
        np.testing.assert_allclose(estimate, ORACLE.log_prob(x), atol=0.1)
    # Without the chains, the weights of so many draws from the encoder are further away.
    monkeypatch.setattr(annealing, "TEMPERATURES", 1)
    assert (np.abs(annealing.lower(model, tf.constant(x), 3) - ORACLE.log_prob(x)) > 0.1).any()


def test_chains_are_right_for_densities_far_from_normalised(monkeypatch):
    monkeypatch.setattr(annealing, "TEMPERATURES", 200)
    start = tfd.Independent(tfd.Normal(tf.zeros([3, 2]), 1.0), 1)
    end = tfd.Independent(tfd.Normal(tf.fill([3, 2], 2.0), 0.3), 1)
    state = start.sample(1_000, seed=[0, 0])

    def chain(log_constant):
        weights = annealing._chain(start.log_prob, lambda z: end.log_prob(z) + log_constant, state, start.stddev(), 1)
        return tf.reduce_logsumexp(weights, axis=0) - np.log(len(state))

    np.testing.assert_allclose(tf.function(chain)(-400.0), [-400.0] * 3, atol=0.15)
