import numpy as np
import pytest
import tensorflow as tf

from keras_genmnist import bounds
from keras_genmnist.bounds import LogTerms


def random_terms(num_samples, layers=0):
    generator = np.random.default_rng(0)
    likelihood, prior, posterior = (generator.normal(mean, 3, [num_samples, 5]) for mean in (-90, -40, -20))
    kl = generator.normal(25, 3, [layers, 5]) if layers else None
    return LogTerms(*(None if t is None else tf.constant(t, tf.float32) for t in (likelihood, prior, posterior, kl)))


def test_elbo_is_reconstruction_less_kl_in_numbers():
    terms = LogTerms(tf.constant([[-90.0], [-80.0]]), tf.constant([[-30.0], [-50.0]]), tf.constant([[-10.0], [-20.0]]))
    assert bounds.reconstruction(terms).numpy() == [-85.0]
    assert bounds.kl(terms).numpy() == [25.0]
    assert bounds.elbo(terms).numpy() == [-110.0]
    np.testing.assert_array_equal(bounds.log_weights(terms), [[-110.0], [-110.0]])


def test_kl_in_closed_form_comes_before_the_draws():
    terms = random_terms(4, layers=1)
    np.testing.assert_array_equal(bounds.kl(terms), terms.layer_kl[0])
    expected = terms.log_likelihood.numpy().mean(axis=0) - terms.layer_kl[0]
    np.testing.assert_allclose(bounds.elbo(terms), expected, rtol=1e-6)  # float32


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_elbo_weighs_the_kl(layers):
    terms = random_terms(4, layers)
    np.testing.assert_array_equal(bounds.elbo(terms, kl_weight=0.0), bounds.reconstruction(terms))
    half = bounds.reconstruction(terms) - 0.5 * bounds.kl(terms)
    np.testing.assert_allclose(bounds.elbo(terms, kl_weight=0.5), half, rtol=1e-6)  # float32
    np.testing.assert_array_equal(bounds.elbo(terms, kl_weight=1.0), bounds.elbo(terms))


def test_elbo_without_kl_in_closed_form_is_the_mean_log_weight():
    terms = random_terms(6)
    np.testing.assert_allclose(bounds.elbo(terms), bounds.log_weights(terms).numpy().mean(axis=0), rtol=1e-6)  # float32


def test_free_bits_are_the_least_the_kl_costs():
    terms = random_terms(4, layers=1)
    mean_kl = float(tf.reduce_mean(terms.layer_kl))
    np.testing.assert_array_equal(bounds.elbo(terms, free_bits=mean_kl - 1), bounds.elbo(terms))
    floor = bounds.elbo(terms, kl_weight=0.5, free_bits=mean_kl + 1)
    np.testing.assert_allclose(floor, bounds.reconstruction(terms) - 0.5 * (mean_kl + 1), rtol=1e-6)  # float32


def test_kl_is_the_sum_of_the_layers():
    terms = random_terms(4, layers=3)
    assert bounds.layer_kl(terms).shape == (3, 5)
    np.testing.assert_allclose(bounds.kl(terms), terms.layer_kl.numpy().sum(axis=0), rtol=1e-6)  # float32
    assert bounds.layer_kl(random_terms(4)).shape == (1, 5)


@pytest.mark.parametrize("free_bits, kl", [(0.0, 2.0), ((0.0, 0.0), 2.0), ((0.0, 0.25), 2.0), ((0.0, 7.0), 4.0)])
def test_no_free_bits_of_a_layer_leave_its_kl_as_it_is(free_bits, kl):
    # By draws, as that of the lower layers of a bottom-up posterior, a KL may be below 0.
    terms = random_terms(4)._replace(layer_kl=tf.constant([5 * [-3.0], 5 * [5.0]]))
    with tf.GradientTape() as tape:
        tape.watch(terms.layer_kl)
        bound = bounds.elbo(terms, free_bits=free_bits)
    np.testing.assert_allclose(bound, bounds.reconstruction(terms) - kl, rtol=1e-6)  # float32
    np.testing.assert_array_equal(tape.gradient(bound, terms.layer_kl), [5 * [-1.0], 5 * [-1.0 if kl == 2 else 0.0]])


def test_free_bits_do_not_hide_a_kl_that_is_not_a_number():
    terms = random_terms(4)._replace(layer_kl=tf.fill([1, 5], np.nan))
    assert np.isnan(bounds.elbo(terms, free_bits=1.0)).all()


@pytest.mark.parametrize("free_bits, cost", [(5.0, 5 + 5 + 9), ((0.0, 5.0, 10.0), 1 + 5 + 10)])
def test_free_bits_are_of_each_layer(free_bits, cost):
    terms = random_terms(4)._replace(layer_kl=tf.constant([5 * [1.0], 5 * [4.0], 5 * [9.0]]))
    floor = bounds.elbo(terms, free_bits=free_bits)
    np.testing.assert_allclose(floor, bounds.reconstruction(terms) - cost, rtol=1e-6)  # float32


def test_free_bits_stop_the_gradient_of_the_kl():
    terms = random_terms(4, layers=1)
    for free_bits, slope in ((0.0, -1.0), (1.0, -1.0), (1000.0, 0.0)):
        with tf.GradientTape() as tape:
            tape.watch(terms.layer_kl)
            bound = tf.reduce_sum(bounds.elbo(terms, free_bits=free_bits))
        gradient = tape.gradient(bound, terms.layer_kl)
        np.testing.assert_array_equal(0.0 if gradient is None else gradient, slope)


def test_beta_weighs_the_kl_of_the_objective():
    terms = random_terms(4, layers=2)
    expected = bounds.reconstruction(terms) - 4.0 * 0.5 * bounds.kl(terms)
    np.testing.assert_allclose(bounds.Objective(beta=4.0)(terms, 0.5), expected, rtol=1e-6)  # float32
    np.testing.assert_array_equal(bounds.Objective(beta=1.0)(terms), bounds.elbo(terms))


@pytest.mark.parametrize("capacity, slope", [(60.0, 3.0), (10.0, -3.0)])
def test_capacity_draws_the_mean_kl_to_it_from_either_side(capacity, slope):
    terms = random_terms(4, layers=2)
    mean = float(tf.reduce_mean(bounds.kl(terms)))
    with tf.GradientTape() as tape:
        tape.watch(terms.layer_kl)
        value = tf.reduce_mean(bounds.Objective(beta=3.0, capacity=2 * capacity)(terms, 0.5))
    expected = tf.reduce_mean(bounds.reconstruction(terms)) - 3 * abs(mean - capacity)
    np.testing.assert_allclose(value, expected, rtol=1e-6)  # float32
    np.testing.assert_allclose(tape.gradient(value, terms.layer_kl), np.full([2, 5], slope / 5), rtol=1e-6)


@pytest.mark.parametrize(
    "options", [{}, {"beta": 4.0}, {"beta": 3.0, "capacity": 10.0}, {"beta": 3.0, "capacity": 90.0}]
)
def test_score_of_an_epoch_is_the_objective_of_its_means(options):
    terms, objective = random_terms(4, layers=1), bounds.Objective(**options)
    elbo, kl = (float(tf.reduce_mean(value(terms))) for value in (bounds.elbo, bounds.kl))
    np.testing.assert_allclose(objective.score(elbo, kl), tf.reduce_mean(objective(terms)), rtol=1e-6)
    assert bounds.Objective().score(-87.123456789, 25.1) == -87.123456789


def test_iwae_bound_weighs_the_kl():
    terms = random_terms(4)
    lighter = terms._replace(log_prior=0.3 * terms.log_prior, log_posterior=0.3 * terms.log_posterior)
    np.testing.assert_allclose(
        bounds.iwae_bound(terms, kl_weight=0.3), bounds.iwae_bound(lighter), rtol=1e-6
    )  # float32


def test_normalised_weights_are_those_of_the_warmed_up_bound():
    terms = random_terms(6)
    with tf.GradientTape() as tape:
        tape.watch(terms.log_likelihood)
        bound = tf.reduce_sum(bounds.iwae_bound(terms, kl_weight=0.3))
    slopes = tape.gradient(bound, terms.log_likelihood)
    np.testing.assert_allclose(bounds.normalised_weights(terms, kl_weight=0.3), slopes, rtol=1e-4, atol=1e-7)  # float32


def test_normalised_weights_sum_to_one_and_are_constants():
    terms = random_terms(6)
    weights = bounds.normalised_weights(terms)
    np.testing.assert_allclose(tf.reduce_sum(weights, axis=0), 1, rtol=1e-6)
    np.testing.assert_allclose(
        tf.math.log(weights[0] / weights[1]), np.diff(bounds.log_weights(terms)[1::-1], axis=0)[0], rtol=1e-3
    )


def test_iwae_bound_of_one_draw_is_the_elbo():
    terms = random_terms(1)
    np.testing.assert_allclose(bounds.iwae_bound(terms), bounds.elbo(terms), rtol=1e-6)  # float32


def test_iwae_bound_is_the_log_of_the_mean_weight():
    terms = random_terms(7)
    log_likelihood, log_prior, log_posterior = (term.numpy().astype(np.float64) for term in terms[:3])
    # exp(-110) is far above the smallest float64: the definition itself can be computed.
    expected = np.log(np.exp(log_likelihood + log_prior - log_posterior).mean(axis=0))
    np.testing.assert_allclose(bounds.iwae_bound(terms), expected, rtol=1e-6)  # float32


def test_iwae_bound_survives_weights_below_the_smallest_float():
    terms = random_terms(7)
    low = terms._replace(log_likelihood=terms.log_likelihood - 1000)
    # float32 numbers near 1,100 are 1.2e-4 apart.
    np.testing.assert_allclose(bounds.iwae_bound(low), bounds.iwae_bound(terms) - 1000, atol=5e-4)


def test_iwae_bound_is_above_the_elbo():
    terms = random_terms(7)  # unequal weights: Jensen's inequality is strict
    assert (bounds.iwae_bound(terms) > bounds.elbo(terms)).numpy().all()


def test_iwae_bound_differentiates_to_the_normalised_weights():
    terms = random_terms(7)
    with tf.GradientTape() as tape:
        tape.watch(terms.log_likelihood)
        bound = tf.reduce_sum(bounds.iwae_bound(terms))
    normalised = tf.nn.softmax(bounds.log_weights(terms), axis=0)
    # float32; log weights near -110 are 8e-6 apart.
    np.testing.assert_allclose(tape.gradient(bound, terms.log_likelihood), normalised, rtol=1e-4)


@pytest.mark.parametrize("bound", [bounds.log_weights, bounds.elbo, bounds.iwae_bound])
@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("shape", [(5,), (5, 1), (1, 5), (4, 5, 1), (5, 4), ()])
def test_bounds_refuse_terms_that_differ_in_shape(bound, place, shape):
    terms = list(random_terms(4)[:3])
    terms[place] = tf.zeros(shape)
    with pytest.raises(ValueError, match=r"log terms must all be \[S, B\]; got .*\(4, 5\)"):
        bound(LogTerms(*terms))


@pytest.mark.parametrize("bound", [bounds.log_weights, bounds.elbo, bounds.iwae_bound])
@pytest.mark.parametrize("shape", [(5,), (4, 5, 1)])
def test_bounds_refuse_terms_that_are_not_draws_by_images(bound, shape):
    with pytest.raises(ValueError, match=r"log terms must all be \[S, B\]"):
        bound(LogTerms(*[tf.zeros(shape)] * 3))


@pytest.mark.parametrize("shape", [(5, 1), (5,), (1, 5, 1), ()])
def test_elbo_refuses_a_kl_of_another_shape(shape):
    with pytest.raises(ValueError, match="kl"):
        bounds.elbo(random_terms(4)._replace(layer_kl=tf.zeros(shape)))
