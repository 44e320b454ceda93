import numpy as np
import pytest
import tensorflow as tf

from keras_genmnist import models
from keras_genmnist.augmentation import moved, transformed
from keras_genmnist.errors import UsageError
from tests import tiny

SIDE = 21
SEED = tf.constant([3, 8])


def spots(*places) -> tf.Tensor:
    """An image for each place (row, column), white there and black elsewhere."""
    images = np.zeros([len(places), SIDE, SIDE, 1], np.float32)
    for image, place in zip(images, places, strict=True):
        image[place] = 1
    return tf.constant(images)


def centre(images) -> np.ndarray:
    """The centres of mass, (row, column) of each."""
    mass = np.asarray(images)[..., 0]
    along = np.arange(SIDE)
    rows, columns = mass.sum(axis=2) @ along, mass.sum(axis=1) @ along
    return np.stack([rows, columns], axis=1) / mass.sum(axis=(1, 2))[:, None]


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ((0, 0, 0, 0), (10, 16)),
        ((0, 1, 0, 0), (10, 16 + 0.05 * SIDE)),
        ((0, 0, 1, 0), (10 + 0.05 * SIDE, 16)),
        ((1, 0, 0, 0), (10 - 6 * np.sin(np.radians(15)), 10 + 6 * np.cos(np.radians(15)))),
        ((0, 0, 0, 1), (10, 16.6)),
        ((-1, 0, 0, -1), (10 + 5.4 * np.sin(np.radians(15)), 10 + 5.4 * np.cos(np.radians(15)))),
    ],
)
def test_images_are_turned_shifted_and_scaled_about_their_middle(by, expected):
    found = transformed(spots((10, 16)), tf.constant([by], tf.float32))
    np.testing.assert_allclose(centre(found), [expected], atol=0.1)
    np.testing.assert_allclose(
        centre(transformed(spots((10, 10)), tf.constant([(by[0], 0, 0, by[3])], tf.float32))), [[10, 10]], atol=1e-3
    )
    assert found.numpy().min() >= 0 and found.numpy().max() <= 1 + 1e-6


def test_share_of_images_is_moved_and_the_others_stay():
    levels = tf.random.stateless_uniform([2000, 9, 9, 1], [1, 2])
    x = tf.cast(tf.random.stateless_uniform([2000, 9, 9, 1], [1, 3]) < levels, tf.float32)
    bits, found, is_moved = (value.numpy() for value in moved(x, levels, 0.3, SEED))
    assert is_moved.mean() == pytest.approx(0.3, abs=0.04)
    np.testing.assert_array_equal(bits[~is_moved], x[~is_moved])
    np.testing.assert_array_equal(found[~is_moved], levels[~is_moved])
    assert (np.abs(found - levels.numpy())[is_moved].mean(axis=(1, 2, 3)) > 0.01).all()
    assert set(np.unique(bits)) == {0, 1}
    # Bits are drawn with the probabilities that are given with them.
    low = (found < 0.5) & is_moved[:, None, None, None]
    assert bits[low].mean() == pytest.approx(found[low].mean(), abs=0.01)
    again, other = moved(x, levels, 0.3, SEED), moved(x, levels, 0.3, SEED + 1)
    np.testing.assert_array_equal(bits, again[0])
    assert (other[2].numpy() != is_moved).any()
    assert not moved(x, levels, 0.0, SEED)[2].numpy().any()


def test_network_is_told_what_is_moved_in_training_alone():
    model = models.build(tiny.config("pixelcnn", augmented=1.0, orders=1, position_features=0))
    levels = tf.random.stateless_uniform([4, 28, 28, 1], [1, 2])
    x = tf.cast(levels > 0.5, tf.float32)
    for project in model.network.contexts:  # the move is all of the context
        assert project.kernel.shape[0] == 1
    before = model.log_likelihood(x), model.objective(x, None, levels, SEED), model.objective(x, None, None, SEED)
    for project in model.network.contexts:
        project.kernel.assign_add(tf.ones_like(project.kernel))
    np.testing.assert_array_equal(model.log_likelihood(x), before[0])
    np.testing.assert_array_equal(model.objective(x, None, None, SEED), before[2])
    assert (np.abs((model.objective(x, None, levels, SEED) - before[1]).numpy()) > 1e-3).all()


def test_objective_without_moves_is_what_it_was():
    levels = tf.random.stateless_uniform([4, 28, 28, 1], [1, 2])
    x = tf.cast(levels > 0.5, tf.float32)
    model = models.build(tiny.config("pixelcnn", augmented=1e-9, orders=1))
    np.testing.assert_allclose(
        model.objective(x, None, levels, SEED), model.expected_log_likelihood(x, levels), rtol=1e-6
    )


def test_share_is_checked():
    with pytest.raises(UsageError, match=r"config\.augmented=1\.5 .*0 to 1"):
        models.build(tiny.config("pixelcnn", augmented=1.5))
    with pytest.raises(
        UsageError, match=r"config\.soft_targets=False does not go with config\.augmented=0\.5: give True"
    ):
        models.build(tiny.config("pixelcnn", augmented=0.5, soft_targets=False))
