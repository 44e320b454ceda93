import itertools
import types

import numpy as np
import pytest
import tensorflow as tf

from keras_genmnist import figures, models, signatures
from keras_genmnist.autoregressive import GatedPixelCNN
from keras_genmnist.errors import UsageError
from keras_genmnist.models import mixture
from keras_genmnist.models.base import TractableModel
from keras_genmnist.models.pixelcnn import PixelCNN
from tests import tiny
from tests.oracles import ORACLE

SHARES = [0.3, 0.7]


@pytest.fixture(scope="module")
def components():
    """Two models of 3 x 3 bits, far from uniform and from each other."""
    found = []
    for seed in (1, 2):
        model = PixelCNN(GatedPixelCNN(2, 4, 3, 3), (3, 3, 1))
        model.build_variables()
        rng = np.random.default_rng(seed)
        for weight in model.weights:
            weight.assign(rng.normal(0, 1.5, weight.shape))
        found.append(model)
    return found


@pytest.mark.slow
def test_exact_mixture_is_the_sum_of_its_densities_and_sums_to_one(components):
    every = np.array(list(itertools.product([0.0, 1.0], repeat=9)), np.float32).reshape(-1, 3, 3, 1)
    model = mixture.of(components, SHARES)
    assert model.likelihood == "exact" and model.pixel_by_pixel
    densities = np.exp([component.log_likelihood(every).numpy().astype(np.float64) for component in components])
    found = np.exp(model.log_likelihood(every).numpy().astype(np.float64))
    np.testing.assert_allclose(found, SHARES @ densities, rtol=1e-4)
    assert found.sum() == pytest.approx(1, abs=1e-4)
    assert np.abs(densities[0] - densities[1]).sum() > 0.5
    drawn = model.sample(4000, seed=1)["images"].numpy().reshape(4000, 9) @ 2 ** np.arange(8, -1, -1)
    shares = np.bincount(drawn.astype(int), minlength=512) / 4000
    assert np.abs(shares - found).sum() < 0.5 * np.abs(shares - densities[0]).sum()


class Constant(TractableModel):
    """Draws images of one value, and in the corner the first number of the seed."""

    def __init__(self, value):
        super().__init__((2, 2, 1))
        self.value = value

    def draw_given(self, seeds, labels):
        corner = tf.reshape([1.0, 0, 0, 0], [2, 2, 1]) * tf.cast(seeds[:, 0], tf.float32)[:, None, None, None]
        return dict.fromkeys(("images", "probabilities"), corner + self.value)


@pytest.mark.slow
def test_draws_are_of_the_components_by_their_shares_and_of_their_own_seeds():
    model = mixture.of([Constant(0.25), Constant(0.5)], SHARES)
    seeds = tf.stack([tf.range(3000), tf.range(3000) + 7], axis=1)
    drawn = model.draw(seeds)["images"].numpy()
    assert set(np.unique(drawn[:, 1, 1])) == {0.25, 0.5}
    assert (drawn[:, 1, 1] == 0.5).mean() == pytest.approx(0.7, abs=0.03)  # 3.6 standard deviations
    np.testing.assert_array_equal(model.draw(seeds[11:14])["images"], drawn[11:14])
    own = tf.map_fn(lambda seed: tf.random.split(seed, 2), seeds)[:, 1, 0].numpy()
    np.testing.assert_allclose(drawn[:, 0, 0, 0] - drawn[:, 1, 1, 0], own.astype(np.float32), rtol=1e-6)
    alone = mixture.of([Constant(0.25), Constant(0.5)], [1 - 1e-6, 1e-6]).draw(seeds[:4])["images"]
    assert (alone[:, 1, 1] == 0.25).numpy().all()  # none of the other, which draws no image


def test_estimated_mixture_is_exact_where_its_posteriors_are():
    x = ORACLE.sample(6)
    model = mixture.of([ORACLE.vae(0.0, 1.0), ORACLE.vae(0.0, 1.0)], SHARES)
    assert model.likelihood == "bound"
    for num_draws in (1, 120):  # in one part, and in three
        found = model.bound_terms(x, num_draws=num_draws, seed=5)["elbo"]
        np.testing.assert_allclose(found, ORACLE.log_prob(x), rtol=1e-4)


def test_estimated_mixture_rises_with_the_draws_and_stays_below():
    x = ORACLE.sample(200)
    model = mixture.of([ORACLE.vae(0.4, 1.3), ORACLE.vae(-0.4, 1.3)], SHARES)
    few, many = (model.bound_terms(x, num_draws=number, seed=3)["elbo"].numpy().mean() for number in (1, 200))
    log_px = ORACLE.log_prob(x).mean()
    assert few < many - 0.05 < log_px
    assert many == pytest.approx(log_px, abs=0.05)
    first, second = model.by_component(x, 3, tf.constant([0, 0])).numpy()
    assert (first != second).all()  # draws of their own


def test_mixture_is_a_model_like_others():
    configs = [tiny.config("pixelcnn", seed=seed) for seed in (1, 2)]
    config = tiny.config("pixelcnn")
    config.update({"model": "mixture", "components": [own.to_dict() for own in configs], "shares": SHARES})
    model = models.build(config)
    assert signatures.of(model).keys() == {"sample_rows", "sample", "log_likelihood", "log_prob"}
    digits = tf.cast(tf.random.stateless_uniform([3, 28, 28, 1], [1, 2]) < 0.2, tf.float32)
    assert len(model.trainable_weights) == sum(len(models.build(own).trainable_weights) for own in configs)
    expected = signatures.of(model)["log_prob"](images=digits)["log_prob"]
    np.testing.assert_allclose(model.log_likelihood(digits), expected, rtol=1e-5)
    with pytest.raises(UsageError, match="made of trained runs by `genmnist mix`, and is not trained"):
        model.compile(optimizer="adam")


def test_mixture_refuses_what_would_be_no_density(components):
    def stand_in(likelihood, draws_bits=True, takes_labels=False):
        given = {"likelihood": likelihood, "draws_bits": draws_bits, "takes_labels": takes_labels}
        return types.SimpleNamespace(image_shape=(3, 3, 1), pixel_by_pixel=False, autograph=False, **given)

    for other, message in [
        (stand_in("bound"), "has a bound of its likelihood alone: give models whose likelihood is exact"),
        (stand_in(None), "has no likelihood: give models"),
        (stand_in("importance", takes_labels=True), "told the classes has a likelihood for each: leave it out"),
        (stand_in("exact", draws_bits=False), "some of the models are of bits and others of grey levels"),
    ]:
        with pytest.raises(UsageError, match=message):
            mixture.of([components[0], other], SHARES)


@pytest.mark.parametrize("name", ["training_curves", "progress"])
def test_mixture_has_no_figures_of_a_training(components, run, name):
    assert "made of trained ones" in figures._lacks(name, mixture.of(components, SHARES), run)
    assert figures._lacks(name, components[0], run) is None


def test_draws_of_a_batch_are_none_of_another_one():
    seen = []

    class Recorded:
        orders = 1

        def log_terms(self, x, count, seed):
            seen.append(tuple(seed.numpy()))
            return ORACLE.vae().log_terms(x, count, seed)

    tf.config.run_functions_eagerly(True)
    try:
        for batch in (0, mixture.DRAWS_PER_CALL):
            mixture._by_draws(Recorded(), ORACLE.sample(3), 2 * mixture.DRAWS_PER_CALL, tf.constant([0, batch]))
    finally:
        tf.config.run_functions_eagerly(False)
    assert len(set(seen)) == len(seen) == 4


def test_draws_of_an_image_take_every_order_as_often():
    counts = []

    class Recorded:
        orders = 8

        def log_terms(self, x, count, seed):
            counts.append(int(count))
            return ORACLE.vae().log_terms(x, count, seed)

    tf.config.run_functions_eagerly(True)
    try:
        mixture._by_draws(Recorded(), ORACLE.sample(3), 200, tf.constant([0, 0]))
    finally:
        tf.config.run_functions_eagerly(False)
    assert sum(counts) == 200 and not any(count % 8 for count in counts)  # a call begins with the first order
