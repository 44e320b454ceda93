"""Orders of the pixels: the transformations, the mixture over them, and training that draws one for each row."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from keras_genmnist import likelihood, models
from keras_genmnist.datasets.spec import DatasetSpec
from keras_genmnist.errors import UsageError
from keras_genmnist.models.base import TractableModel
from keras_genmnist.orders import Orders
from keras_genmnist.symmetries import restored, transformed
from tests import tiny

SHAPE = (4, 4, 2)


def permutations(shape: tuple[int, ...], count: int) -> np.ndarray:
    """Where each pixel of T_0 x, T_1 x, ... comes from, [K, H W C]."""
    places = np.tile(np.arange(np.prod(shape)).reshape(1, *shape), [count, 1, 1, 1])
    return np.reshape(transformed(places, tf.range(count), count), [count, -1])


def test_orders_are_the_reflections_and_transposes():
    image = np.arange(32).reshape(SHAPE)
    found = image.ravel()[permutations(SHAPE, 8)].reshape(8, *SHAPE)
    upright = [image, image[:, ::-1], image[::-1], image[::-1, ::-1]]
    np.testing.assert_array_equal(found, [*upright, *(x.transpose(1, 0, 2) for x in upright)])
    for count in (1, 2, 4):
        np.testing.assert_array_equal(permutations(SHAPE, count), permutations(SHAPE, 8)[:count])
    assert permutations((2, 3, 1), 4).shape == (4, 6)


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_restored_undoes_what_transformed_does_of_each_image(count, images):
    numbers = tf.range(40) % count
    moved = transformed(images, numbers, count)
    assert np.any(moved != images) == (count > 1)
    np.testing.assert_array_equal(restored(moved, numbers, count), images)


class Weighted(TractableModel):
    """log p(x | label) is a sum of the pixels, weighted by the label: what it is told and shown is plain to see."""

    def __init__(self, labels: int):
        super().__init__(SHAPE)
        self.num_classes = labels
        self.table = self.add_weight(
            "table", [labels, 32], initializer=tf_keras.initializers.RandomNormal(stddev=1.0, seed=1)
        )

    def log_likelihood(self, x, y=None):
        return tf.reduce_sum(tf.gather(self.table, y) * tf.reshape(x, [-1, 32]), axis=1)

    def build_variables(self):
        pass


@pytest.fixture(scope="module")
def images():
    return (np.random.default_rng(0).random([40, *SHAPE]) < 0.5).astype(np.float32)


@pytest.mark.parametrize("classes", [0, 3])
def test_mixture_is_the_mean_over_orders_each_told_its_own(images, classes):
    model = Orders(Weighted(8 * max(1, classes)), 8, classes)
    y = np.arange(40) % 3 if classes else None
    table, pixels = model.model.table.numpy(), images.reshape(40, 32)[:, permutations(SHAPE, 8)]  # [B, K, P]
    each = np.einsum("kcp,bkp->ckb", table.reshape(8, -1, 32), pixels)  # [C, K, B]
    own = each[y, :, np.arange(40)].T if classes else each[0]
    np.testing.assert_allclose(model.log_likelihood_by_order(images, y), own, rtol=1e-4, atol=1e-4)
    expected = np.log(np.exp(own).mean(axis=0))
    np.testing.assert_allclose(model.log_likelihood(images, y), expected, rtol=1e-4, atol=1e-4)
    alone = np.log(np.exp(each).mean(axis=(0, 1)))
    np.testing.assert_allclose(model.log_likelihood(images), alone, rtol=1e-4, atol=1e-4)


def test_training_draws_an_order_for_each_image_from_seed_and_step(images):
    def seen(seed, step, batch):
        model = Orders(Weighted(8), 8)
        found = model.objective(tf.constant(batch), None, None, tf.constant([seed, step]))
        return found.numpy(), model.log_likelihood_by_order(batch).numpy()

    many = np.tile(images, [20, 1, 1, 1])
    objective, by_order = seen(1, 5, many)
    order = np.abs(by_order - objective).argmin(axis=0)
    np.testing.assert_allclose(by_order[order, np.arange(800)], objective, rtol=1e-4, atol=1e-4)
    assert (np.abs(np.bincount(order, minlength=8) - 100) < 5 * np.sqrt(100 * 7 / 8)).all()  # 5 standard errors
    np.testing.assert_array_equal(seen(1, 5, many)[0], objective)
    for other in ((1, 6), (2, 5)):
        assert (seen(*other, many)[0] != objective).mean() > 0.5
    changed = np.concatenate([1 - many[:1], many[1:]])
    np.testing.assert_array_equal(seen(1, 5, changed)[0][1:], objective[1:])


def test_step_gives_the_objective_its_seed_and_number(images, monkeypatch):
    model, seeds = Orders(Weighted(2), 2), []
    model.compile(tf_keras.optimizers.Adam(1e-3), seed=7)
    monkeypatch.setattr(model, "objective", lambda x, y, levels, seed: seeds.append(seed) or model.log_likelihood(x, y))
    for _ in range(2):
        model.train_step(images)
    np.testing.assert_array_equal(seeds, [[7, 0], [7, 1]])


def test_validation_sees_orders_in_turn_and_evaluation_all_of_them(images):
    model = Orders(Weighted(4), 4)
    model.compile(tf_keras.optimizers.Adam(1e-3))
    by_order = model.log_likelihood_by_order(images).numpy()
    expected = -by_order[np.arange(40) % 4, np.arange(40)].mean()
    np.testing.assert_allclose(model.validate([images])["nll"], expected, rtol=1e-5)
    scores = likelihood.exact(model, images.astype(np.uint8)).scores
    np.testing.assert_allclose([own["mean"] for own in scores["orders"]], -by_order.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(scores["nll"]["mean"], -model.log_likelihood(images).numpy().mean(), rtol=1e-5)
    cells = {label: cell(scores) for label, cell in likelihood.rows(scores).items()}
    assert list(cells) == ["exact NLL", "  order 1 alone", "  order 2 alone", "  order 3 alone", "  order 4 alone"]


def test_completion_takes_the_orders_in_which_the_known_pixels_come_first():
    model = models.build(tiny.config("pixelcnn", orders=8, patch_size=2), DatasetSpec("own", (6, 6, 1)))
    generator = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(generator.normal(0, 0.5, weight.shape))
    seen = []
    given = model.model.complete_given
    model.model.complete_given = lambda *args: seen.append(args[-1].numpy()) or given(*args)
    x, seeds = np.zeros([60, 6, 6, 1], np.float32), tf.stack([tf.fill([60], 7), tf.range(60)], axis=1)
    for cut, first in (((slice(0, 3), slice(None)), {0, 1}), ((slice(None), slice(3, 6)), {5, 7})):
        mask = np.zeros_like(x)
        mask[(slice(None), *cut)] = 1
        completed = model.complete(x + mask, mask, seeds)["images"].numpy()
        assert completed[(slice(None), *cut)].all()
        assert len(np.unique(completed.reshape(60, -1), axis=0)) > 5
        orders = seen.pop()
        shown = [np.arange(36)[permutations((6, 6, 1), 8)[k]] for k in set(orders.tolist())]
        known = set(np.flatnonzero(mask[0].ravel()))
        assert all(set(order[:18]) == known for order in shown)
        assert len(shown) == 2, first


def test_more_orders_than_images_have_are_refused():
    config = tiny.config("pixelcnn", orders=8)
    with pytest.raises(
        UsageError, match=r"config.orders=8 transposes images, and these have 4 x 6 pixels: give 1, 2, 4"
    ):
        models.build(config, DatasetSpec("own", (4, 6, 1)))
    with pytest.raises(UsageError, match=r"config.orders=3 is not known. Accepted: 1, 2, 4, 8"):
        models.build(tiny.config("pixelcnn", orders=3))
