import itertools

import numpy as np
import pytest
import tensorflow as tf

from keras_genmnist import models, signatures
from keras_genmnist.autoregressive import GatedPixelCNN
from keras_genmnist.errors import UsageError
from keras_genmnist.models import average
from keras_genmnist.models.pixelcnn import PixelCNN
from keras_genmnist.orders import Orders
from tests import tiny
from tests.oracles import ORACLE

SHARES = [0.3, 0.7]


def randomised(model, seed: int):
    """The model with weights that make it far from uniform and from others."""
    model.build_variables()
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(rng.normal(0, 1, weight.shape))
    return model


def of_places(seed: int, shape=(3, 3, 1), **options) -> PixelCNN:
    return randomised(PixelCNN(GatedPixelCNN(2, 4, 3, 3, shape[-1], **options), shape, position_features=2), seed)


def in_orders(seed: int, orders: int = 8, **options) -> Orders:
    network = GatedPixelCNN(2, 4, 3, 3, **options)
    return randomised(Orders(PixelCNN(network, (4, 4, 1), orders, position_features=2), orders), seed)


def test_average_is_the_product_of_averaged_conditionals_and_sums_to_one():
    every = np.array(list(itertools.product([0.0, 1.0], repeat=9)), np.float32).reshape(-1, 3, 3, 1)
    components = [of_places(1), of_places(2)]
    model = average.of(components, SHARES)
    assert model.likelihood == "exact" and model.pixel_by_pixel
    white = [component.probabilities(every, None).numpy().astype(np.float64) for component in components]
    expected = np.prod(
        np.where(every > 0.5, *(np.tensordot(SHARES, p, 1) for p in (white, 1 - np.array(white)))), (1, 2, 3)
    )
    found = np.exp(model.log_likelihood(every).numpy().astype(np.float64))
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert found.sum() == pytest.approx(1, abs=1e-4)
    densities = np.exp([component.log_likelihood(every).numpy() for component in components])
    assert np.abs(found - SHARES @ densities).sum() > 0.05  # it is no mixture


def test_average_of_patches_averages_their_patterns():
    every = np.array(list(itertools.product([0.0, 1.0], repeat=8)), np.float32).reshape(-1, 2, 4, 1)
    components = [of_places(seed, (2, 4, 1), patch_size=2) for seed in (1, 2)]
    by_place = np.exp(
        [c.network.log_prob(every, c._context(None)).numpy()[:, 0, :, 0] for c in components]
    )  # [M, B, 2]
    model = average.of(components, SHARES)
    found = np.exp(model.log_likelihood(every).numpy().astype(np.float64))
    np.testing.assert_allclose(found, np.tensordot(SHARES, by_place, 1).prod(axis=1), rtol=1e-3)
    assert found.sum() == pytest.approx(1, abs=1e-4)


ATTENTION = {"attention_every": 1, "attention_heads": 2}
KINDS = {
    "pixels": lambda: [of_places(1), of_places(2)],
    "colours": lambda: [of_places(1, (4, 2, 3), patch_size=2), of_places(2, (4, 2, 3), patch_size=2, **ATTENTION)],
    "orders": lambda: [in_orders(1, patch_size=2, **ATTENTION), in_orders(2, patch_size=2)],
}


@pytest.mark.parametrize("kind", tiny.all_but_some_slow(KINDS, "pixels", "colours"))
def test_pixels_are_drawn_with_the_averaged_probabilities(kind):
    components = KINDS[kind]()
    model = average.of(components, SHARES)
    order = tf.range(12) % getattr(model, "orders", 1)
    inner, labels = (model.model, order) if isinstance(model, Orders) else (model, None)
    drawn = inner.draw_given(tf.stack([tf.range(12), tf.range(12) + 7], axis=1), labels)
    np.testing.assert_allclose(drawn["probabilities"], inner.probabilities(drawn["images"], labels), atol=1e-5)
    alone = components[0].model if isinstance(model, Orders) else components[0]
    assert np.abs(drawn["probabilities"] - alone.probabilities(drawn["images"], labels)).max() > 0.1
    assert model.sample(2, seed=1)["images"].shape == (2, *model.image_shape)


@pytest.mark.slow
def test_share_of_nearly_all_leaves_one_model():
    first, second = in_orders(1), in_orders(2)
    x = tf.cast(tf.random.stateless_uniform([5, 4, 4, 1], [1, 2]) < 0.5, tf.float32)
    model = average.of([first, second], [1 - 1e-7, 1e-7])
    np.testing.assert_allclose(model.log_likelihood(x), first.log_likelihood(x), atol=1e-2)
    half = tf.cast(tf.range(4) < 2, tf.float32)[None, :, None, None] * tf.ones_like(x)
    seeds = tf.stack([tf.range(5), tf.range(5)], axis=1)
    completed = model.complete(x, half, seeds)["images"].numpy()
    np.testing.assert_array_equal(completed[:, :2], x[:, :2])
    np.testing.assert_array_equal(completed, first.complete(x, half, seeds)["images"])


def test_average_is_a_model_like_others():
    configs = [tiny.config("pixelcnn", seed=seed) for seed in (1, 2)]
    config = tiny.config("pixelcnn")
    config.update({"model": "average", "components": [own.to_dict() for own in configs], "shares": SHARES})
    model = models.build(config)
    assert (
        "complete" in signatures.of(model)
        and signatures.of(model).keys() == signatures.of(models.build(configs[0])).keys()
    )
    assert len(model.trainable_weights) == sum(len(models.build(own).trainable_weights) for own in configs)
    for made in (model, average.of([of_places(1), of_places(2)], SHARES)):
        with pytest.raises(
            UsageError, match="this model is made of trained runs by `genmnist mix`, and is not trained itself"
        ):
            made.compile(optimizer="adam")


def test_average_refuses_what_does_not_go_place_by_place_alike():
    first = of_places(1, (4, 4, 1))
    classes = PixelCNN(GatedPixelCNN(2, 4, 3, 3), (4, 4, 1), num_classes=3)
    for other, message in [
        (ORACLE.vae(0.0, 1.0), "does not say what each place is given those before it: give PixelCNNs"),
        (classes, "a PixelCNN that is told the classes has no average: leave it out"),
        (in_orders(1), "in other orders: give those of one config.orders"),
        (of_places(1, (4, 4, 1), patch_size=2), "other places: give those of one config.patch_size"),
    ]:
        with pytest.raises(UsageError, match=message):
            average.of([first, other], SHARES)
    cut = of_places(1, (5, 4, 1), patch_size=2)
    with pytest.raises(UsageError, match=r"patch_size=2 does not divide images of 5 x 4, so that there is no average"):
        average.of([cut, cut], SHARES)
    with pytest.raises(UsageError, match=r"give those of one config\.orders"):
        average.of([in_orders(1, 8), in_orders(1, 4)], SHARES)
