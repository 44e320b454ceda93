import numpy as np
import pytest
from scipy import stats

from keras_genmnist import importance


def tail_size(num_draws):
    return int(np.ceil(min(num_draws / 5, 3 * np.sqrt(num_draws))))


def pulled(k, num_draws):
    """The k that is reported where the fit gives k: the prior counts as ten weights of a shape of 0.5."""
    size = tail_size(num_draws)
    return (size * k + 5) / (size + 10)


def test_log_mean_and_effective_sample_size_are_the_formulas_far_from_one():
    log_w = np.random.default_rng(0).normal(-1000, 3, [40, 7])  # exp of them is zero
    weights = np.exp(log_w + 1000)
    np.testing.assert_allclose(importance.log_mean(log_w), np.log(weights.mean(axis=0)) - 1000, rtol=1e-12)
    expected = weights.sum(axis=0) ** 2 / (weights**2).sum(axis=0)
    np.testing.assert_allclose(importance.effective_sample_size(log_w), expected, rtol=1e-9)


@pytest.mark.parametrize("k", [-0.5, -0.1, 0.3, 0.7, 1.2])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_pareto_shape_is_that_of_the_draws(k, scale):
    draws = stats.genpareto.rvs(k, scale=scale, size=[2_000, 30], random_state=1)
    found = importance.pareto_shape(np.sort(draws, axis=0))
    # Of 2,000 draws k has a standard error of about (1 + k) / sqrt(2,000), the mean of 30 a fifth of that.
    np.testing.assert_allclose(found.mean(), k, atol=4 * (1 + abs(k)) / np.sqrt(2_000 * 30))
    assert found.std() < 2 * (1 + abs(k)) / np.sqrt(2_000)


@pytest.mark.parametrize("k", [0.0, 0.5, 0.9])
def test_pareto_shape_agrees_with_maximum_likelihood(k):
    draws = np.sort(stats.genpareto.rvs(k, size=500, random_state=2))
    fitted, _, _ = stats.genpareto.fit(draws, floc=0)
    # Two efficient estimators of the same draws: much closer to one another than the standard error, 0.05.
    np.testing.assert_allclose(importance.pareto_shape(draws[:, None]), [fitted], atol=0.015)


@pytest.mark.parametrize("stretch", [0.3, 0.5, 0.8, 1.0, 2.0])
def test_pareto_k_of_gaussian_weights_is_known(stretch):
    """Of draws from N(0, stretch^2 I) in the plane for N(0, I), weights are U^-k exactly, with k = 1 - stretch^2."""
    num_draws, images = 4_000, 100
    squares = np.random.default_rng(3).chisquare(2, [num_draws, images])
    log_w = -300 + (1 - stretch**2) * squares / 2
    found = importance.pareto_k(log_w)
    # What is left of 4,000 draws for the fit are 190.  Bounded weights are below 0: U^c has the shape -1.
    expected = pulled(1 - stretch**2 if stretch <= 1 else -1.0, num_draws)
    if stretch == 1:  # equal weights
        assert (found < 0.1).all()
    else:
        np.testing.assert_allclose(found.mean(), expected, atol=5 * 2 / np.sqrt(190 * images))


def test_pareto_k_of_bounded_weights_is_not_above_zero():
    log_w = np.log(np.random.default_rng(4).uniform(1, 2, [1000, 50]))
    assert (importance.pareto_k(log_w) < 0).all()


def test_pareto_k_reads_float32_weights_that_are_equal_but_for_rounding():
    log_w = (np.full([1000, 3], -136.5) + np.random.default_rng(5).choice([0, 1.5e-5], [1000, 3])).astype(np.float32)
    assert (importance.pareto_k(log_w) < 0.1).all()


def test_pareto_k_is_large_and_finite_where_one_weight_is_all():
    log_w = np.random.default_rng(6).normal(-3000, 500, [1000, 4]).astype(np.float32)
    found = importance.pareto_k(log_w)
    assert np.isfinite(found).all() and (found > 5).all()


@pytest.mark.parametrize(("num_draws", "known"), [(1, False), (20, False), (21, True), (100, True)])
def test_pareto_k_wants_a_tail_of_five(num_draws, known):
    log_w = np.random.default_rng(7).normal(size=[num_draws, 3])
    assert np.isfinite(importance.pareto_k(log_w)).all() == known
