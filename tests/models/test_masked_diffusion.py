import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from keras_genmnist import likelihood, models
from keras_genmnist.errors import UsageError
from keras_genmnist.models.masked_diffusion import BINS, MaskedDiffusion
from keras_genmnist.networks import UNet
from tests import conformance, oracles, tiny

SHAPE = (2, 3, 1)
PIXELS = math.prod(SHAPE)


@pytest.fixture(scope="module")
def model():
    """One of 2 x 3 images, its weights drawn at random."""
    model = MaskedDiffusion(UNet(SHAPE, features=8, num_blocks=1, hidden_size=8, outputs=1), SHAPE, PIXELS)
    model.build_variables()
    generator = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(generator.normal(0, 0.35, weight.shape))
    return model


@pytest.fixture(scope="module")
def every():
    """All 64 binary images of 2 x 3 pixels."""
    return np.array(list(itertools.product([0.0, 1.0], repeat=PIXELS)), np.float32).reshape(-1, *SHAPE)


@pytest.fixture(scope="module")
def orders():
    """All 720 orders."""
    return np.array(list(itertools.permutations(range(PIXELS))), np.int32).reshape(-1, *SHAPE)


@pytest.fixture(scope="module")
def in_orders(model, every, orders):
    """log p(x | order), float64 [64, 720], by the definition: pixel by pixel."""
    known = every_mask = np.array(list(itertools.product([0.0, 1.0], repeat=PIXELS)), np.float32)
    images, masks = (np.repeat(every, 64, axis=0), np.tile(known.reshape(-1, *SHAPE), [64, 1, 1, 1]))
    ones = tf.sigmoid(model.logits(images, masks)).numpy().astype(np.float64).reshape(64, 64, PIXELS)
    own = np.where(every.reshape(64, 1, PIXELS) == 1, ones, 1 - ones)  # [image, mask, pixel]
    number = {tuple(mask): i for i, mask in enumerate(every_mask)}
    log_probs = np.zeros([64, len(orders)])
    for column, ranks in enumerate(orders.reshape(-1, PIXELS)):
        for pixel, rank in enumerate(ranks):
            log_probs[:, column] += np.log(own[:, number[tuple((ranks < rank).astype(float))], pixel])
    return log_probs


def frequencies(images) -> np.ndarray:
    """How often each of the 64 images, in the order of `every`, is among some."""
    index = (np.reshape(images, [-1, PIXELS]) @ 2 ** np.arange(PIXELS - 1, -1, -1)).astype(int)
    return np.bincount(index, minlength=64) / len(images)


def assert_as_often(images, expected):
    # 4 standard errors of a binomial share, with 1 / N for the rarest.
    count = len(images)
    np.testing.assert_array_less(abs(frequencies(images) - expected), 4 * np.sqrt(expected / count) + 1 / count)


def seeds(count, seed=7):
    return tf.stack([tf.fill([count], seed), tf.range(count)], axis=1)


def test_masked_diffusion_conforms():
    config = tiny.config("masked_diffusion")
    model = models.build(config)
    signatures = conformance.check_generative(model, config)
    assert signatures.keys() == {"sample_rows", "sample", "log_likelihood", "complete"}


def test_probabilities_of_all_images_sum_to_one_in_every_order(in_orders):
    np.testing.assert_allclose(np.exp(in_orders).sum(axis=0), 1, atol=1e-5)
    assert np.ptp(in_orders[-1]) > 0.3  # the orders differ, as those of a network that hears of no neighbour do not
    assert np.ptp(in_orders[:, 0]) > 3


def test_log_prob_in_order_is_pixel_by_pixel(model, every, orders, in_orders):
    for number in (0, 100, 719):
        found = model.log_prob_in_order(every, np.repeat(orders[number][None], 64, axis=0))
        np.testing.assert_allclose(found, in_orders[:, number], atol=1e-5)


def test_terms_of_the_bound_average_to_the_mean_over_orders(model, every, orders, in_orders):
    for number in (3, 40):
        x = np.repeat(every[number][None], 720, axis=0)
        terms = [model.bound_at(x, orders, tf.fill([720], t)) for t in range(PIXELS)]
        np.testing.assert_allclose(np.mean(terms), in_orders[number].mean(), atol=1e-5)


def test_log_likelihood_is_unbiased(model, every, in_orders):
    x = np.repeat(every[40][None], 40, axis=0)
    measure = tf.function(model.log_likelihood, autograph=False)
    spread = {}
    for num_draws in (1, PIXELS):
        batches = np.array([measure(x, num_draws=num_draws, seed=tf.constant(seed)).numpy() for seed in range(50)])
        error = batches.mean(axis=1).std(ddof=1) / np.sqrt(50)  # of independent batches
        assert abs(batches.mean() - in_orders[40].mean()) < 4 * error
        assert error < 0.1
        spread[num_draws] = batches.std()
    assert spread[1] > 2.3 * spread[PIXELS]  # the root of 6 is 2.4
    same, other = (measure(x, num_draws=1, seed=tf.constant(seed)).numpy() for seed in (0, 1))
    np.testing.assert_array_equal(same, measure(x, num_draws=1, seed=tf.constant(0)))
    assert (same != other).any()


def test_bound_of_an_image_does_not_depend_on_its_row(model, every, in_orders):
    x = np.repeat(every[40][None], 12, axis=0)
    measure = tf.function(model.log_likelihood, autograph=False)
    batches = np.array([measure(x, num_draws=1, seed=tf.constant(seed)).numpy() for seed in range(300)])
    errors = batches.std(axis=0, ddof=1) / np.sqrt(len(batches))
    assert (abs(batches.mean(axis=0) - in_orders[40].mean()) < 4 * errors).all()
    # The t of a batch are spread evenly, so its mean varies less than that of 12 images by themselves.
    assert batches.mean(axis=1).std() < batches.std() / np.sqrt(12)


@pytest.mark.parametrize("num_draws, batch", [(1, 12), (3, 4), (6, 1)])
def test_log_likelihood_sees_every_step_equally_often(model, monkeypatch, num_draws, batch):
    square = np.arange(PIXELS) ** 2
    monkeypatch.setattr(model, "bound_at", lambda x, ranks, t: tf.cast(t**2, tf.float32))
    for seed in range(10):
        found = model.log_likelihood(np.zeros([batch, *SHAPE]), num_draws=num_draws, seed=seed).numpy()
        np.testing.assert_allclose(found.mean(), square.mean(), rtol=1e-6)


def test_log_likelihood_in_few_steps_sees_the_pixels_of_those_before(model, monkeypatch):
    monkeypatch.setattr(model, "bound_at", lambda x, ranks, t: tf.cast(t**2, tf.float32))
    monkeypatch.setattr(model, "schedule", lambda num_steps: tf.constant([0, 1, 4, PIXELS]))
    found = model.bound_terms(np.zeros([4, *SHAPE]), num_draws=3, num_steps=3)["elbo"].numpy()
    np.testing.assert_allclose(found.mean(), (1 * 0 + 3 * 1 + 2 * 16) / PIXELS, rtol=1e-6)


def test_mixture_of_all_orders_is_what_the_bound_is_below(model, every, in_orders, monkeypatch):
    monkeypatch.setattr(likelihood, "ORDERED_IMAGES", 64)
    columns = iter(tf.constant(in_orders.T))  # of the next order, for all images
    monkeypatch.setattr(model, "log_prob_in_order", lambda x, ranks: next(columns))
    monkeypatch.setattr(model, "orders", lambda seeds: seeds)
    monkeypatch.setattr(likelihood.tf, "function", lambda function, **options: function)
    scores = likelihood.bounded(model, every, 12, "test", num_orders=720).scores
    mixture, log_px = scores["mixture"], np.log(np.exp(in_orders).mean(axis=1))
    np.testing.assert_allclose(mixture["nll"]["mean"], -log_px.mean(), atol=1e-5)
    np.testing.assert_allclose(mixture["elbo"]["mean"], in_orders.mean(), atol=1e-5)
    np.testing.assert_allclose(mixture["gain"]["mean"], (log_px - in_orders.mean(axis=1)).mean(), atol=1e-5)
    assert mixture["gain"]["mean"] > 0.05
    assert (scores["num_images"], scores["elbo"]["num_draws"]) == (64, 12)
    assert abs(scores["elbo"]["mean"] - in_orders.mean()) < 0.5


def test_draws_are_those_of_the_mixture_over_all_orders(model, in_orders):
    drawn = tf.function(model.draw, autograph=False)(seeds(2000))
    expected = np.exp(in_orders).mean(axis=1)
    assert (expected > 0.01).sum() > 10
    assert_as_often(drawn["images"], expected)
    probabilities, images = drawn["probabilities"].numpy(), drawn["images"].numpy()
    assert abs(probabilities.mean() - images.mean()) < 0.03  # 4 standard errors are 0.018


def test_draws_in_few_steps_are_those_of_the_mixture_in_as_many(model, every, orders):
    tile = np.repeat(every, 720, axis=0), np.tile(orders, [64, 1, 1, 1])
    in_two = model.log_prob_in_order(*tile, num_steps=2).numpy().reshape(64, 720)
    estimates = model.bound_terms(np.repeat(every[40][None], 4000, axis=0), num_draws=1, num_steps=2)["elbo"].numpy()
    assert abs(estimates.mean() - in_two[40].mean()) < 4 * estimates.std() / np.sqrt(4000)
    np.testing.assert_allclose(np.exp(in_two).sum(axis=0), 1, atol=1e-4)
    drawn = tf.function(model.draw, autograph=False)(seeds(2000), num_steps=2)
    assert_as_often(drawn["images"], np.exp(in_two).mean(axis=1))


def test_completion_is_given_known_pixels_wherever_they_lie(model, every, orders, in_orders):
    mask = np.array([0, 1, 0, 0, 0, 1], np.float32).reshape(SHAPE)
    fits = (every * mask == mask).all(axis=(1, 2, 3))  # both known pixels are white
    first = (np.where(mask == 1, orders, -1).max(axis=(1, 2, 3))) == 1  # the orders in which they are the first two
    joint = np.exp(in_orders[:, first]) * fits[:, None]
    expected = (joint / joint.sum(axis=0)).mean(axis=1)
    complete = tf.function(model.complete, autograph=False)
    count = 2000
    known = np.repeat(mask[None], count, axis=0)
    drawn = complete(known, known, seeds(count))
    assert_as_often(drawn["images"], expected)
    np.testing.assert_array_equal(drawn["probabilities"][:, 1, 2], 1)
    # The last pixel tells of those above.
    white = np.array([0, 1, 0, 0, 0, 0], np.float32).reshape(SHAPE)
    black = complete(np.repeat(white[None], count, axis=0), known, seeds(count))["images"].numpy()
    assert abs(black[:, 0].mean(axis=0) - drawn["images"].numpy()[:, 0].mean(axis=0)).max() > 0.05


def test_completion_keeps_what_is_known_and_draws_the_rest_from_its_own_seed(model):
    images = model.draw(seeds(6))["images"].numpy()
    for known in (np.zeros_like(images), np.ones_like(images), np.random.default_rng(0).integers(0, 2, images.shape)):
        known = known.astype(np.float32)
        drawn = model.complete(images, known, seeds(6, 8))
        np.testing.assert_array_equal(known * drawn["images"], known * images)
        for row in (0, 5):  # beside others, of which more or less is known
            one = [part[row : row + 1] for part in (images, known, seeds(6, 8))]
            for name, values in model.complete(*one).items():
                np.testing.assert_allclose(values[0], drawn[name][row], atol=1e-6)
    blank = np.zeros_like(images)
    np.testing.assert_array_equal(model.complete(blank, blank, seeds(6))["images"], images)


@pytest.mark.parametrize("num_steps", [1, 2, 8, 28, 98, 783, 784])
def test_schedule_costs_as_little_as_that_of_the_dynamic_programme(num_steps):
    model = models.build(tiny.config("masked_diffusion"))
    size = 784
    even = model.schedule(num_steps).numpy()  # of an untrained model
    np.testing.assert_allclose(even, np.linspace(0, size, num_steps + 1), atol=2.5)
    t = np.arange(BINS) + 0.5
    fall = 0.06 + 0.2 * np.exp(-t / 3)
    model.step_losses.assign([5 * fall, 5 * np.ones(BINS)])
    starts = model.schedule(num_steps).numpy()
    assert (starts[0], starts[-1], len(starts)) == (0, size, num_steps + 1)
    assert (np.diff(starts) > 0).all()
    losses = np.interp(np.sqrt(np.arange(size) / size), t / BINS, fall)
    cost = (np.diff(starts) * losses[starts[:-1]]).sum()
    least = oracles.cheapest_steps(losses, num_steps)
    assert least - 1e-6 < cost < least + 0.3
    if num_steps == 8:
        assert (np.diff(even) * losses[even[:-1]]).sum() > least + 5


def test_fewer_pixels_than_steps_are_drawn_one_by_one():
    network = UNet(SHAPE, features=2, num_blocks=1, hidden_size=2, outputs=1)
    assert MaskedDiffusion(network, SHAPE, sampling_steps=98).sampling_steps == PIXELS


def test_training_moves_every_variable_and_raises_the_bound(digits):
    model = models.build(tiny.config("masked_diffusion"))
    model.compile(tf_keras.optimizers.Adam(1e-2))
    before, weights = model.validate([digits])["elbo"], [weight.numpy() for weight in model.weights]
    # 543 nats untrained (a bit a pixel); and exactly what `log_likelihood` says of the same draws.
    np.testing.assert_allclose(before, tf.reduce_mean(model.log_likelihood(digits, num_draws=1)), rtol=1e-5)
    step = tf.function(model.train_step, autograph=False)
    for _ in range(60):
        step(digits)
    for weight, old in zip(model.weights, weights, strict=True):
        assert np.isfinite(weight).all()
        assert (weight.numpy() != old).any(), f"{weight.name} has no gradient"
    assert model.validate([digits])["elbo"] > before + 200
    assert model.score({"val_elbo": -80.0}) > model.score({"val_elbo": -90.0})


def test_likelihood_is_by_as_many_draws_as_in_evaluate_unless_told(model, every):
    assert model.bound_draws == 10
    by_default, one, ten = (
        model.log_likelihood(every[:8], **draws) for draws in ({}, {"num_draws": 1}, {"num_draws": 10})
    )
    np.testing.assert_array_equal(by_default, ten)
    assert np.abs(by_default - one).max() > 0.01


def test_losses_by_step_are_those_of_training(digits):
    model = models.build(tiny.config("masked_diffusion"))
    model.compile(tf_keras.optimizers.SGD(0.0))
    model.logits = lambda x, known: tf.zeros_like(x) * model.trainable_variables[0][0, 0, 0, 0]
    for _ in range(20):
        model.train_step(digits)
    sums, counts = model.step_losses.numpy()
    np.testing.assert_allclose(counts.sum(), BINS * 0.999**20 + 8 * (1 - 0.999**20) / 0.001, rtol=1e-4)
    # Every pixel costs a bit.
    seen = sums - 0.999**20 * (1 - ((np.arange(BINS) + 0.5) / BINS) ** 2)
    np.testing.assert_allclose(seen, math.log(2) * (counts - 0.999**20), atol=1e-4)


@pytest.mark.parametrize(
    "field, value, accepted",
    [
        ("binarization", "none", "dynamic, static"),
        ("features", 0, "1 or more"),
        ("num_blocks", 0, "1 or more"),
        ("hidden_size", 0, "1 or more"),
        ("sampling_steps", 0, "1 or more"),
    ],
)
def test_masked_diffusion_refuses_a_value_out_of_range(field, value, accepted):
    with pytest.raises(UsageError) as refused:
        models.build(tiny.config("masked_diffusion", **{field: value}))
    assert field in str(refused.value) and str(value) in str(refused.value) and accepted in str(refused.value)
