import numpy as np
import tensorflow as tf

from keras_genmnist import annealing
from tests.oracles import ORACLE


def test_annealing_is_log_px_from_below_and_from_above(monkeypatch):
    monkeypatch.setattr(annealing, "TEMPERATURES", 300)
    monkeypatch.setattr(annealing, "CHAINS", 400)
    z = np.random.default_rng(1).standard_normal([6, 2])
    noise = np.random.default_rng(2).standard_normal([6, 4])
    x = (z @ ORACLE.weights.T + ORACLE.bias + ORACLE.scale * noise).reshape(6, 4, 1, 1).astype(np.float32)
    model = ORACLE.vae()
    below = tf.function(annealing.lower)(model, tf.constant(x), 3)
    above = tf.function(annealing.upper)(model, tf.constant(x), tf.constant(z, tf.float32), 3)
    for estimate in (below, above):
        np.testing.assert_allclose(estimate, ORACLE.log_prob(x), atol=0.1)
    # Without the chains, the weights of 400 draws from the prior are further away.
    monkeypatch.setattr(annealing, "TEMPERATURES", 1)
    assert (np.abs(annealing.lower(model, tf.constant(x), 3) - ORACLE.log_prob(x)) > 0.1).any()
