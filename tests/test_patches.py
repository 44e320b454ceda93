"""Patches: a grid of places and back, and densities, known parts and draws of the patterns in them."""

import numpy as np
import pytest
import tensorflow as tf

from keras_genmnist.patches import Patches

# A place of one pixel, of 2 x 2 in two channels, and of 3 x 3.
KINDS = {"pixel": (1, 1), "patch in colour": (2, 2), "large patch": (3, 1)}


@pytest.fixture(params=KINDS)
def patches(request):
    return Patches(*KINDS[request.param])


def drawn_logits(patches, places=(3, 1, 1)):
    return 3 * tf.random.stateless_normal([*places, patches.num_logits], seed=[1, 2])


@pytest.mark.parametrize("shape", [(6, 6), (5, 7)])
def test_places_are_joined_to_the_image_they_are_of(patches, shape):
    images = tf.random.stateless_uniform([2, *shape, patches.channels], seed=[3, 4])
    places = patches.split(images)
    sides = [-(-side // patches.size) for side in shape]
    assert places.shape == (2, *sides, patches.pixels * patches.channels)
    np.testing.assert_array_equal(patches.join(places, *shape), images)
    beyond = np.prod(sides) * patches.pixels - np.prod(shape)
    assert (patches.split(images, outside=2.0) == 2).numpy().sum() == 2 * beyond * patches.channels


def every_image(patches, shape):
    """All binary images of this height and width, in one channel: the others are black."""
    count = int(np.prod(shape))
    images = np.zeros([2**count, *shape, patches.channels], np.float32)
    images[..., 0] = (np.arange(2**count)[:, None] >> np.arange(count) & 1).reshape(-1, *shape)
    return images


@pytest.mark.parametrize("cut", [0, 1], ids=["whole", "cut"])
def test_probabilities_of_all_patterns_sum_to_one(patches, cut):
    side = max(1, patches.size - cut)  # of a patch that is cut, a part lies beyond the image
    images = every_image(patches, (side, side))
    logits = tf.repeat(drawn_logits(patches)[:1], len(images), axis=0)
    log_prob = patches.log_prob(logits, images)
    assert log_prob.shape == (len(images), 1, 1, patches.channels)
    np.testing.assert_allclose(tf.reduce_sum(tf.exp(log_prob[..., 0])), 1, atol=1e-5)
    assert np.ptp(log_prob[..., 0]) > 0.3


def test_mean_over_patterns_is_the_sum_of_each_by_its_share(patches):
    images = every_image(patches, (patches.size, patches.size))
    logits = tf.repeat(drawn_logits(patches)[:1], len(images), axis=0)
    levels = np.zeros([1, patches.size, patches.size, patches.channels], np.float32)
    levels[..., 0] = np.random.default_rng(0).random(levels.shape[:3])
    shares = np.prod(np.where(images == 1, levels, 1 - levels), axis=(1, 2, 3))
    expected = np.sum(shares[:, None, None, None] * patches.log_prob(logits, images), axis=0)
    np.testing.assert_allclose(patches.log_prob(logits[:1], levels)[0], expected, rtol=1e-4)


def test_known_pixels_have_the_sum_over_what_the_others_may_be(patches):
    images = every_image(patches, (patches.size, patches.size))
    logits = tf.repeat(drawn_logits(patches)[:1], len(images), axis=0)
    log_prob = patches.log_prob(logits, images)[..., 0].numpy().ravel()
    known = np.random.default_rng(1).random(images.shape[1:3]) < 0.5
    known[0, 0] = True
    same = (images[:, known, 0] == images[5 % len(images), known, 0]).all(axis=1)
    uniform = np.full(images.shape[1:], 0.5, np.float32)
    uniform[known] = np.where(images[5 % len(images), known] == 1, -1.0, 2.0)
    found = patches.log_prob_known(logits[:1], tf.constant(uniform[None]))[0, 0, 0, 0]
    np.testing.assert_allclose(found, np.log(np.exp(log_prob)[same].sum()), rtol=1e-4)


def test_draws_have_the_frequencies_of_their_probabilities(patches):
    count = 20_000
    uniform = tf.random.stateless_uniform([count, 1, 1, patches.pixels * patches.channels], seed=[5, 6])
    logits = tf.repeat(drawn_logits(patches)[:1], count, axis=0)
    drawn, probabilities = patches.draw(logits, uniform)
    by_pixel = tf.reduce_sum(tf.math.log(tf.where(drawn == 1, probabilities, 1 - probabilities)), axis=-1)
    images = patches.join(drawn, patches.size, patches.size)
    log_prob = tf.reduce_sum(patches.log_prob(logits, images), axis=-1)
    np.testing.assert_allclose(log_prob, by_pixel, atol=1e-3)
    values, counts = np.unique(np.exp(log_prob.numpy().ravel().round(4)), return_counts=True)
    likely = values > 0.005
    # 5 standard errors of a binomial share; patterns of nearly one probability are counted as one.
    assert (np.abs(counts[likely] / count - values[likely]) < 5 * np.sqrt(values[likely] / count)).mean() > 0.9


def test_draws_keep_what_is_known_and_follow_it_also_backwards():
    patches = Patches(2, 1)
    logits = np.full([1, 1, 1, 16], -20.0, np.float32)
    logits[..., [0b0110, 0b1001]] = 0.0  # the first pixel is known by the last
    for last in (0, 1):
        uniform = np.full([1, 1, 1, 4], 0.3, np.float32)
        uniform[..., 3] = -1.0 if last else 2.0
        drawn, probabilities = patches.draw(tf.constant(logits), tf.constant(uniform))
        expected = [1, 0, 0, 1] if last else [0, 1, 1, 0]
        np.testing.assert_array_equal(drawn[0, 0, 0], expected)
        np.testing.assert_allclose(probabilities[0, 0, 0], expected, atol=1e-6)
