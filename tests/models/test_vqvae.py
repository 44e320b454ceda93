import itertools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from keras_genmnist import models, networks
from keras_genmnist.autoregressive import GatedPixelCNN
from keras_genmnist.distributions import BernoulliDecoder
from keras_genmnist.errors import UsageError
from keras_genmnist.models.vqvae import LEAST, VQVAE, Codebook, Perplexity
from tests import conformance, tiny

SHAPE, NUMBER = (5, 6, 1), 3  # on a grid of 2 x 2


@pytest.fixture
def model():
    """Of images of 5 x 6, with three codes, its weights drawn at random."""
    sizes = SHAPE, 4, 1, 2
    model = VQVAE(
        networks.grid_encoder(*sizes),
        Codebook(NUMBER, 2, 0.9),
        BernoulliDecoder(networks.grid_decoder(*sizes), SHAPE),
        GatedPixelCNN(2, features=8, size=3, first_size=3, num_codes=NUMBER),
        SHAPE,
        position_features=2,
    )
    model.build_variables()
    generator = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(generator.normal(0, 0.35, weight.shape))
    model.codebook.shares.assign(tf.fill([NUMBER], 1 / NUMBER))
    model.codebook.sums.assign(generator.normal(0, 0.3, [NUMBER, 2]))
    return model


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(1).integers(0, 2, [8, *SHAPE]).astype(np.float32)


@pytest.fixture(scope="module")
def every():
    """All 81 grids."""
    return np.array(list(itertools.product(range(NUMBER), repeat=4)), np.int32).reshape(-1, 2, 2)


def test_vqvae_conforms(digits):
    config = tiny.config("vqvae")
    model = models.build(config)
    signatures = conformance.check_generative(model, config)
    assert signatures.keys() == {"sample_rows", "sample", "log_likelihood", "encode_codes", "reconstruct"}
    codes = signatures["encode_codes"](digits)["codes"]
    assert codes.dtype == tf.int32 and codes.shape == (8, 7, 7)
    np.testing.assert_array_equal(codes, model.encode_codes(digits))
    np.testing.assert_allclose(signatures["reconstruct"](digits)["probabilities"], model(digits), atol=1e-6)


def test_prior_of_all_grids_sums_to_one(model, every):
    log_prior = model.log_prior(every)
    np.testing.assert_allclose(tf.reduce_sum(tf.exp(log_prior)), 1, atol=1e-5)
    assert np.ptp(log_prior) > 2


def test_bound_is_the_largest_part_at_most_of_the_exact_likelihood(model, x, every):
    given = np.array([model.decoder(model.latents(np.repeat(z[None], 8, axis=0))).log_prob(x) for z in every])
    joint = given + model.log_prior(every).numpy()[:, None]  # [81, 8]
    terms = model.bound_terms(x)
    codes = model.encode_codes(x).numpy()
    own = (codes[None] == every[:, None]).all(axis=(2, 3)).argmax(axis=0)
    assert len(set(own)) > 2
    np.testing.assert_allclose(terms["reconstruction"], given[own, np.arange(8)], rtol=1e-5)
    np.testing.assert_allclose(terms["kl"], -model.log_prior(codes), rtol=1e-5)
    np.testing.assert_allclose(terms["elbo"], joint[own, np.arange(8)], rtol=1e-5)
    np.testing.assert_array_equal(terms["elbo"], model.log_likelihood(x, num_draws=3, seed=4))
    assert (terms["elbo"] < np.logaddexp.reduce(joint, axis=0)).numpy().all()


def test_code_is_the_nearest_of_the_codebook():
    codebook = Codebook(5, 3, 0.9)
    values = np.random.default_rng(0).normal(0, 1, [2, 4, 3]).astype(np.float32)
    squares = ((values[..., None, :] - codebook.vectors.numpy()) ** 2).sum(axis=-1)
    np.testing.assert_array_equal(codebook.nearest(values), squares.argmin(axis=-1))
    np.testing.assert_allclose(codebook(codebook.nearest(values)), codebook.vectors.numpy()[squares.argmin(axis=-1)])


@pytest.mark.parametrize("commitment", [0.0, 0.5])
def test_encoder_has_the_gradient_of_the_decoder_at_the_codes(model, x, commitment):
    model.commitment = commitment
    model.compile(tf_keras.optimizers.SGD(1.0), tf_keras.optimizers.SGD(0.0))
    variables = model.encoder.trainable_variables
    with tf.GradientTape() as tape:
        found = model.encoder(x)
        vectors = model.codebook(model.codebook.nearest(found))
        with tf.GradientTape() as at_codes:
            at_codes.watch(vectors)
            loss = -tf.reduce_mean(model.decoder(tf.reshape(vectors, [8, 8])).log_prob(x))
        slopes = at_codes.gradient(loss, vectors) + commitment * 2 * (found - vectors) / 8
        product = tf.reduce_sum(tf.stop_gradient(slopes) * found)
    pairs = zip(variables, tape.gradient(product, variables), strict=True)
    expected = [variable - gradient for variable, gradient in pairs]
    assert abs(found - vectors).numpy().max() > 0.1
    model.train_step(x)
    for variable, value in zip(variables, expected, strict=True):
        np.testing.assert_allclose(variable, value, rtol=1e-4, atol=1e-4)  # steps of up to 10


def test_rate_pulls_what_is_found_to_codes_by_their_nearness_and_their_probability(model, x):
    generator = np.random.default_rng(2)
    logits = generator.normal(0, 2, [8, 2, 2, NUMBER]).astype(np.float32)
    found = tf.constant(generator.normal(0, 1, [8, 2, 2, 2]), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(found)
        rate = model.rate(found, logits)
    gaps = model.codebook.vectors.numpy() - found.numpy()[..., None, :]  # [8, 2, 2, K, D]
    squares = (gaps**2).sum(axis=-1)
    variance = squares.min(axis=-1).mean() / 2
    weights = np.exp(-squares / (2 * variance))
    weights /= weights.sum(axis=-1, keepdims=True)
    costs = np.log(np.exp(logits).sum(axis=-1, keepdims=True)) - logits
    own = (weights * costs).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(rate, own.sum(axis=(1, 2, 3)), rtol=1e-4)
    # d weight[k] / d found = weight[k] (gap[k] - mean gap) / variance
    slopes = ((weights * (costs - own))[..., None] * gaps).sum(axis=-2) / variance
    np.testing.assert_allclose(tape.gradient(rate, found), slopes, rtol=1e-3, atol=1e-4)


def test_rate_has_its_weight_from_the_end_of_the_warmup(model, x):
    moved = {}
    start = [weight.numpy() for weight in model.weights]
    for rate_weight, warmup_steps, steps in ((0.0, 0, 1), (200.0, 0, 1), (200.0, 4, 1), (200.0, 4, 3)):
        for weight, value in zip(model.weights, start, strict=True):
            weight.assign(value)
        model.rate_weight = rate_weight
        optimizer = tf_keras.optimizers.SGD(0.0)
        model.compile(optimizer, tf_keras.optimizers.SGD(0.0), warmup_steps=warmup_steps)
        optimizer.iterations.assign(steps - 1)
        optimizer.learning_rate = 1.0
        model.train_step(x)
        moved[rate_weight, warmup_steps, steps] = model.encoder.trainable_variables[0] - start[0]
    plain, whole = moved[0.0, 0, 1], moved[200.0, 0, 1]
    assert abs(whole - plain).numpy().max() > 1
    np.testing.assert_array_equal(moved[200.0, 4, 1], plain)
    np.testing.assert_allclose(moved[200.0, 4, 3], (plain + whole) / 2, rtol=1e-3, atol=1e-3)


def test_each_optimizer_trains_its_own(model, x):
    moved = {}
    for rates in ((0.01, 0.0), (0.0, 0.01)):
        model.compile(*map(tf_keras.optimizers.SGD, rates))
        before = [weight.numpy() for weight in model.trainable_weights]
        model.train_step(x)
        pairs = zip(model.trainable_weights, before, strict=True)
        moved[rates] = {id(weight) for weight, old in pairs if (weight.numpy() != old).any()}
    of_prior = {id(weight) for weight in [*model.prior.trainable_weights, model.positions]}
    assert moved[0.0, 0.01] == of_prior
    assert moved[0.01, 0.0] == {id(weight) for weight in model.trainable_weights} - of_prior


def test_codebook_converges_to_the_means_of_clusters():
    generator = np.random.default_rng(0)
    centres = np.array([[4.0, 0.0], [-4.0, 1.0], [0.0, 5.0]])
    cluster = generator.choice(3, 200, p=[0.5, 0.3, 0.2])
    values = (centres[cluster] + generator.normal(0, 0.5, [200, 2])).astype(np.float32)
    codebook = Codebook(3, 2, 0.9)
    codebook.shares.assign([0.3, 0.3, 0.4])
    codebook.sums.assign([[0.3, 0.0], [-0.3, 0.0], [0.0, 0.4]])
    for step in range(200):
        codebook.update(values, codebook.nearest(values), tf.constant([0, step]))
    np.testing.assert_allclose(codebook.vectors, [values[cluster == k].mean(axis=0) for k in range(3)], atol=1e-4)
    np.testing.assert_allclose(codebook.shares, np.bincount(cluster) / 200, atol=1e-6)


def test_dead_code_begins_anew_and_a_live_one_is_not_touched():
    values = np.random.default_rng(0).normal(0, 1, [50, 2]).astype(np.float32)
    codes = np.repeat([0, 2], 25).astype(np.int32)

    def updated(seed, restart=True):
        codebook = Codebook(4, 2, 0.9)
        codebook.shares.assign([0.4, 1.2 * LEAST / 4, 0.3, 0.9 * LEAST / 4])
        codebook.sums.assign(np.arange(8).reshape(4, 2) / 10)
        codebook.update(values, codes, tf.constant([3, seed]), restart)
        return codebook.shares.numpy(), codebook.sums.numpy(), codebook.vectors.numpy()

    shares, sums, vectors = updated(7)
    near = np.array([values[:25].sum(axis=0), [0, 0], values[25:].sum(axis=0), [0, 0]]) / 50
    live = [0, 1, 2]
    np.testing.assert_allclose(shares[live], [0.9 * 0.4 + 0.05, 0.9 * 1.2 * LEAST / 4, 0.9 * 0.3 + 0.05], rtol=1e-6)
    np.testing.assert_allclose(sums[live], (0.9 * np.arange(8).reshape(4, 2) / 10 + 0.1 * near)[live], rtol=1e-5)
    assert shares[3] == 0.25
    assert (abs(values - vectors[3]).max(axis=1) < 1e-6).sum() == 1
    np.testing.assert_array_equal(updated(7)[1], sums)
    np.testing.assert_allclose(
        updated(7, restart=False)[1], 0.9 * np.arange(8).reshape(4, 2) / 10 + 0.1 * near, rtol=1e-5
    )
    assert any((updated(seed)[2][3] != vectors[3]).any() for seed in (8, 9))


def test_dead_code_begins_anew_far_from_the_codes():
    values = np.zeros([1000, 2], np.float32)
    values[500:] = [[3.0, 4.0]]
    values[500] = [0.0, 10.0]  # twice as far, and so four times as likely as each of the others
    codebook, taken = Codebook(1001, 2, 0.9), []
    for step in range(20):
        codebook.sums.assign(tf.zeros([1001, 2]))
        codebook.shares.assign(tf.one_hot(0, 1001))
        codebook.update(values, tf.zeros([1000], tf.int32), tf.constant([0, step]))
        taken.append(codebook.vectors.numpy()[1:])
    taken = np.concatenate(taken)
    assert (abs(taken).sum(axis=1) > 0).all()
    share, expected = (taken[:, 1] == 10).mean(), 4 / (4 + 499)
    assert abs(share - expected) < 4 * np.sqrt(expected / len(taken))


@pytest.mark.parametrize("steps", [2, 3])
def test_dead_codes_begin_anew_in_the_first_steps_alone(model, x, steps):
    model.restart_steps = 2
    model.compile(tf_keras.optimizers.SGD(1e-9), tf_keras.optimizers.SGD(1e-9))
    for _ in range(steps):
        model.codebook.shares.assign([1.0, 1e-9, 1e-9])
        model.codebook.sums.assign([[0.1, 0.2], [1.0, 1.0], [1.0, 1.0]])  # far away
        model.train_step(x)
    even = [1 / NUMBER, 1 / NUMBER] if steps == 2 else [0.9e-9, 0.9e-9]
    np.testing.assert_allclose(model.codebook.shares[1:], even, rtol=1e-5)


def test_a_code_that_nothing_is_near_to_stays_where_it_is_for_ever():
    codebook, values = Codebook(2, 2, 0.1), np.ones([10, 2], np.float32)
    codebook.shares.assign([0.5, 0.5])
    codebook.sums.assign([[0.5, 0.5], [3.0, 4.0]])
    for step in range(100):  # a share of 1e-100, were it to fade on
        codebook.update(values, codebook.nearest(values), tf.constant([0, step]), restart=False)
    np.testing.assert_allclose(codebook.vectors, [[1, 1], [6, 8]], rtol=1e-5)


def test_codes_that_the_first_step_does_not_use_begin_anew_after_it():
    codebook = Codebook(16, 2, 0.99)
    values = np.random.default_rng(0).normal(20, 1, [400, 2]).astype(np.float32)  # far from all codes
    for step in range(3):
        codebook.update(values, codebook.nearest(values), tf.constant([0, step]))
    assert len(np.unique(codebook.nearest(values))) > 8


def test_codebook_slows_down_as_the_networks_do(model, x):
    decay = tf_keras.optimizers.schedules.PolynomialDecay(1e-6, 4, end_learning_rate=0.0)
    model.compile(tf_keras.optimizers.SGD(decay), tf_keras.optimizers.SGD(0.0))
    before = model.codebook.shares.numpy()
    for pace in (1.0, 0.75, 0.5, 0.25, 0.0):
        near = np.bincount(model.encode_codes(x).numpy().ravel(), minlength=NUMBER) / 32
        model.train_step(x)
        before += pace * 0.1 * (near - before)
        np.testing.assert_allclose(model.codebook.shares, before, rtol=1e-4)


def test_perplexity_is_the_number_of_codes_in_equal_use():
    perplexity = Perplexity(6)
    perplexity.update_state(tf.constant([[0, 1], [2, 3]]))
    np.testing.assert_allclose(perplexity.result(), 4, rtol=1e-6)
    perplexity.update_state(tf.constant([0, 0, 0, 0]))
    shares = np.array([5, 1, 1, 1]) / 8
    np.testing.assert_allclose(perplexity.result(), np.exp(-(shares * np.log(shares)).sum()), rtol=1e-6)
    perplexity.reset_state()
    perplexity.update_state(tf.constant([5]))
    assert perplexity.result() == 1


def test_draws_are_of_the_prior_and_the_decoder(model, every):
    count = 3000
    drawn = tf.function(model.draw, autograph=False)(tf.stack([tf.fill([count], 7), tf.range(count)], axis=1))
    means = model.decoder.draw(model.latents(every), 0.5)["probabilities"].numpy().reshape(81, -1)
    found = drawn["probabilities"].numpy().reshape(count, 1, -1)
    number = abs(found - means).max(axis=2).argmin(axis=1)
    np.testing.assert_allclose(found[:, 0], means[number], atol=1e-5)
    expected = np.exp(model.log_prior(every))
    shares = np.bincount(number, minlength=81) / count
    np.testing.assert_array_less(abs(shares - expected), 4 * np.sqrt(expected / count) + 1 / count)
    assert abs(drawn["images"].numpy().mean() - found.mean()) < 0.01  # of 90,000 bits


@pytest.mark.slow
def test_training_moves_every_variable_and_raises_the_bound(digits):
    model = models.build(tiny.config("vqvae", channels=4, prior_features=8))
    model.compile(tf_keras.optimizers.Adam(1e-2), tf_keras.optimizers.Adam(1e-2))
    before, weights = model.validate([digits]), [weight.numpy() for weight in model.weights]
    terms = model.bound_terms(digits)
    for name in ("elbo", "kl", "reconstruction"):
        np.testing.assert_allclose(before[name], tf.reduce_mean(terms[name]), rtol=1e-5)
    assert before.keys() == {"elbo", "kl", "reconstruction", "perplexity"}
    step = tf.function(model.train_step, autograph=False)
    for _ in range(60):
        step(digits)
    for weight, old in zip(model.weights, weights, strict=True):
        assert np.isfinite(weight).all()
        assert (weight.numpy() != old).any(), f"{weight.name} has no gradient"
    after = model.validate([digits])
    assert after["elbo"] > before["elbo"] + 200
    assert 2 < after["perplexity"] <= 4
    assert model.score({"val_elbo": -80.0}) > model.score({"val_elbo": -90.0})


@pytest.mark.parametrize(
    "field, value, accepted",
    [
        ("decoder", "pixelcnn", "bernoulli, logistic"),
        ("binarization", "none", "logistic"),
        ("num_codes", 0, "1 or more"),
        ("code_size", 0, "1 or more"),
        ("channels", 0, "1 or more"),
        ("num_blocks", 0, "1 or more"),
        ("prior_layers", 0, "1 or more"),
        ("prior_features", 0, "1 or more"),
        ("prior_kernel", 2, "odd"),
        ("restart_steps", -1, "0 (none) or more"),
        ("memory", 1.0, "below 1"),
        ("commitment", -1.0, "0 (none) or more"),
        ("rate_weight", -1.0, "0 (none) or more"),
        ("position_features", -1, "0 to 10000"),
    ],
)
def test_vqvae_refuses_a_value_out_of_range(field, value, accepted):
    with pytest.raises(UsageError) as refused:
        models.build(tiny.config("vqvae", **{field: value}))
    assert field in str(refused.value) and str(value) in str(refused.value) and accepted in str(refused.value)
