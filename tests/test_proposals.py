import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from keras_genmnist import bounds, models, proposals
from keras_genmnist.distributions import base_of
from tests import tiny
from tests.oracles import ORACLE

tfd = tfp.distributions

X = ORACLE.sample(5)
MODELS = {
    "gaussian": {"name": "vae"},
    "mixture prior": {"name": "vae", "prior": "mixture"},
    "realnvp prior": {"name": "vae", "prior": "realnvp"},
    "planar": {"name": "planar"},
    "iaf": {"name": "iaf"},
    "ladder": {"name": "ladder", "latent_size": 4},
    "hvae": {"name": "hvae", "latent_size": 4},
    "svi": {"name": "svi"},
}


def build(name, digits):
    """A tiny model whose posterior differs from its prior."""
    model = models.build(tiny.config(**MODELS[name]))
    model.log_terms(digits, 1, tf.constant([0, 0]))
    generator = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign_add(generator.normal(0, 0.15, weight.shape) * (weight.numpy() != 0))
    return model


def mean_ratio(log_w, log_px):
    """Means of w / p(x) over all draws and their standard errors, [B]."""
    ratio = np.exp(log_w.astype(np.float64) - log_px)
    return ratio.mean(axis=0), ratio.std(axis=0, ddof=1) / np.sqrt(len(ratio))


def drawn(model, x, proposal, calls, num_draws):
    """Log weights of so many calls of so many draws, [S, B], nats."""
    compiled = tf.function(lambda seed: proposals.PROPOSALS[proposal](model, x, num_draws, seed)[1])
    return np.concatenate([compiled(tf.constant([7, n])).numpy() for n in range(calls)])


# Of 1 to 3 draws all are from q, of 7 none is from the prior, of 8 and 50 some are from each component.
@pytest.mark.parametrize(("num_draws", "shift", "stretch"), [(3, 0, 1.2), (7, 0.5, 0.8), (8, 0.5, 0.4), (50, 0, 3)])
def test_defensive_weights_have_the_mean_px(num_draws, shift, stretch):
    log_w = drawn(ORACLE.vae(shift, stretch), X, "defensive", 8_000 // num_draws, num_draws)
    mean, error = mean_ratio(log_w, ORACLE.log_prob(X))
    assert error.max() < 0.05
    np.testing.assert_array_less(np.abs(mean - 1), 4 * error)


@pytest.mark.parametrize("stretch", [0.2, 0.35])
def test_defensive_finds_log_px_where_the_posterior_is_too_narrow(stretch):
    model, num_draws = ORACLE.vae(0.3, stretch), 2_000
    plain, defensive = (
        bound_of(proposals.PROPOSALS[name](model, X, num_draws, tf.constant([1, 2]))[1])
        for name in ("posterior", "defensive")
    )
    log_px = ORACLE.log_prob(X)
    assert (plain < log_px - 0.1).all()
    # An eighth of the draws are from the prior, 250, of which some 30 fall where the posterior is.
    np.testing.assert_allclose(defensive, log_px, atol=0.5)
    assert abs(np.mean(defensive - log_px)) < 0.15


def bound_of(log_w):
    """The importance-weighted bound of all draws, [B], nats."""
    log_w = np.asarray(log_w, np.float64)
    return np.logaddexp.reduce(log_w, axis=0) - np.log(len(log_w))


def test_defensive_weights_are_bounded_by_the_prior_component():
    # p(x, z) / (p(z) / 8 + ...) <= 8 max p(x | z).
    log_w = proposals.defensive(ORACLE.vae(1.0, 0.1), X, 800, tf.constant([1, 2]))[1]
    assert log_w.numpy().max() < np.log(8) - 4 * np.log(ORACLE.scale * np.sqrt(2 * np.pi)) + 1e-3


def test_defensive_with_an_exact_posterior_weighs_its_draws_by_the_mixture():
    model, num_draws = ORACLE.vae(), 40
    terms, log_w = proposals.defensive(model, X, num_draws, tf.constant([3, 4]))
    assert terms.log_likelihood.shape == (num_draws - 10 - 5 - 5, 5)
    # Of draws from q, log p(x, z) - log q = log p(x), and the mixture has half of q at least.
    assert (log_w.numpy()[:20] < ORACLE.log_prob(X) + np.log(2) + 1e-4).all()


def test_defensive_leaves_the_elbo_to_draws_from_the_posterior():
    # Single draws have a deviation of about 2 nats, and 5 images of 10,000 draws each one of 0.01.
    terms, _ = proposals.defensive(ORACLE.vae(0.2, 1.3), X, 20_000, tf.constant([5, 6]))
    np.testing.assert_allclose(np.mean(bounds.elbo(terms)), ORACLE.elbo(X, 0.2, 1.3).mean(), atol=0.05)


@pytest.mark.parametrize("name", MODELS)
def test_log_terms_at_noise_are_those_of_its_draws(name, digits):
    model = build(name, digits)
    noise = tf.random.stateless_normal([3, len(digits), model.latent_size], [1, 2])
    terms = model.log_terms_at(digits, 1.5 * noise)
    if name in ("ladder", "hvae"):
        layers = model._infer(digits, 1.5 * noise)
        e = tf.concat([layer.e for layer in layers], axis=-1)
        log_posterior = sum(tf.reduce_sum(layer.posterior.log_prob(layer.e), axis=-1) for layer in layers)
    else:
        posterior = model.encoder(digits)
        base = base_of(posterior)
        e = base.mean() + 1.5 * base.stddev() * noise
        if base is not posterior:
            e = posterior.bijector.forward(e)
        log_posterior = posterior.log_prob(e)
    np.testing.assert_allclose(terms.log_likelihood, model.decoder(e).log_prob(digits), rtol=1e-4)
    np.testing.assert_allclose(terms.log_prior, model.prior().log_prob(e), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(terms.log_posterior, log_posterior, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_defensive_weights_are_over_the_density_of_their_draws(name, digits, monkeypatch):
    # With q(z | x) in the place of p(x, z), weights are below 2 and have the mean 1, whatever the model.
    model = build(name, digits)
    log_terms_at = model.log_terms_at

    def of_posterior(x, noise):
        terms = log_terms_at(x, noise)
        return terms._replace(log_likelihood=terms.log_posterior - terms.log_prior)

    monkeypatch.setattr(model, "log_terms_at", of_posterior)
    log_w = drawn(model, digits, "defensive", 5, 200)
    assert log_w.max() < np.log(2) + 1e-3
    mean, error = mean_ratio(log_w, 0.0)
    assert 0 < error.max() < 0.05
    np.testing.assert_array_less(np.abs(mean - 1), 4.5 * error)  # 64 images of eight models


def test_noise_of_leads_back_to_z(digits):
    model = build("gaussian", digits)
    z = tf.random.stateless_normal([3, len(digits), 2], [1, 2])
    noise = model.noise_of(digits, z)
    np.testing.assert_allclose(model.log_terms_at(digits, noise).log_prior, model.prior().log_prob(z), rtol=1e-4)
    assert build("planar", digits).noise_of(digits, z) is None
    assert build("ladder", digits).noise_of(digits, z) is None
