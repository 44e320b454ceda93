import itertools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from keras_genmnist import config as configs
from keras_genmnist import models, runs, signatures
from keras_genmnist.autoregressive import GatedPixelCNN
from keras_genmnist.errors import UsageError
from keras_genmnist.models.pixelcnn import PixelCNN
from keras_genmnist.signatures import CHUNK
from tests import conformance, tiny

eager = tiny.eager


def randomised(**options) -> PixelCNN:
    """A PixelCNN of 3 x 3 images, its weights drawn at random."""
    model = PixelCNN(GatedPixelCNN(2, features=8, size=3, first_size=3), (3, 3, 1), **options)
    model.build_variables()
    generator = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(generator.normal(0, 0.5, weight.shape))
    return model


@pytest.fixture(params=[0, 2], ids=["without positions", "with positions"])
def model(request):
    return randomised(position_features=request.param)


@pytest.fixture(scope="module")
def every():
    """All 512 binary images of 3 x 3 pixels."""
    return np.array(list(itertools.product([0.0, 1.0], repeat=9)), np.float32).reshape(-1, 3, 3, 1)


def test_pixelcnn_config_is_that_of_the_literature_but_for_a_wider_first_kernel():
    config = configs.load("pixelcnn")
    assert config.dataset == "binarized_mnist"
    assert config.kernel_size == 3
    assert config.first_kernel_size == 13  # there 7


def test_pixelcnn_conforms():
    config = tiny.config("pixelcnn")
    model = models.build(config)
    signatures = conformance.check_generative(model, config)
    assert signatures.keys() == {"sample_rows", "sample", "log_likelihood", "log_prob", "complete"}


def test_pixelcnn_probabilities_of_all_images_sum_to_one(model, every):
    log_prob = model.log_likelihood(every)
    assert log_prob.shape == 512
    np.testing.assert_allclose(tf.reduce_sum(tf.exp(log_prob)), 1, atol=1e-5)
    assert np.ptp(log_prob) > 3  # far from uniform, where any masks would do


def test_pixelcnn_draws_images_as_often_as_it_says(model, every):
    images = model.sample(1000, 1)["images"].numpy()
    expected = np.exp(model.log_likelihood(every).numpy().astype(np.float64))
    index = (images.reshape(-1, 9) @ 2 ** np.arange(8, -1, -1)).astype(int)
    likely = expected > 0.005
    assert likely.sum() > 5
    frequency = np.bincount(index, minlength=512)[likely] / 1000
    # 4 standard errors of a binomial share.
    np.testing.assert_array_less(np.abs(frequency - expected[likely]), 4 * np.sqrt(expected[likely] / 1000))


def test_pixelcnn_probabilities_are_those_the_pixels_were_drawn_with(model):
    drawn = model.sample(500, 1)
    probabilities, images = (drawn[name].numpy().astype(np.float64) for name in ("probabilities", "images"))
    log_prob = np.log(np.where(images == 1, probabilities, 1 - probabilities)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(model.log_likelihood(images.astype(np.float32)), log_prob, rtol=1e-4)
    # Of 4,500 pixels drawn with probabilities p, the share of ones is within 4 standard errors (0.03) of the mean of p.
    assert abs(probabilities.mean() - images.mean()) < 0.03


def test_pixelcnn_completion_keeps_what_is_known_and_draws_the_rest(model):
    seeds = tf.stack([tf.fill([50], 7), tf.range(50)], axis=1)
    images = model.sample(50, 3)["images"].numpy()
    upper = np.zeros_like(images)
    upper[:, :2] = 1
    completed = model.complete(images, upper, seeds)["images"].numpy()
    np.testing.assert_array_equal(completed[:, :2], images[:, :2])
    assert len(np.unique(completed[:, 2].reshape(50, 3), axis=0)) > 2
    np.testing.assert_array_equal(model.complete(images, np.ones_like(images), seeds)["images"], images)
    nothing = model.complete(images, np.zeros_like(images), seeds)
    np.testing.assert_array_equal(nothing["images"], model.draw(seeds)["images"])


def test_pixelcnn_log_prob_takes_any_number_of_images(digits):
    for changes in ({}, {"class_conditional": True}):
        model = models.build(tiny.config("pixelcnn", **changes))
        many = np.tile(digits, [CHUNK // len(digits) + 1, 1, 1, 1])
        found = signatures.of(model)["log_prob"](many)["log_prob"]
        np.testing.assert_allclose(found, model.log_likelihood(many), rtol=1e-5)


def test_pixelcnn_completion_of_a_signature_depends_on_the_seed_alone(digits):
    complete = signatures.of(models.build(tiny.config("pixelcnn")))["complete"]
    mask = np.zeros_like(digits)
    mask[:, :14] = 1
    first, *others = (complete(digits, mask, tf.constant(seed)) for seed in (7, 7, 8))
    ours, again, other = (drawn["images"].numpy() for drawn in (first, *others))
    np.testing.assert_array_equal(ours, again)
    assert (ours != other).any()
    np.testing.assert_array_equal(ours[:, :14], digits[:, :14])
    np.testing.assert_array_equal(first["probabilities"][:, :14], digits[:, :14])  # and so its PNG
    assert np.ptp(first["probabilities"][:, 14:]) > 0
    with pytest.raises(tf.errors.InvalidArgumentError, match="agree in shape"):
        complete(digits, mask[:1], tf.constant(7))
    with pytest.raises(tf.errors.InvalidArgumentError, match="out of range"):
        complete(255 * digits, mask, tf.constant(7))
    for images, hidden, name in ((0.5 * digits, mask, "images"), (digits, 0.5 * mask, "mask"), (digits, -mask, "mask")):
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"values of {name} are out of range.*of 0 or 1"):
            complete(images, hidden, tf.constant(7))


def test_pixelcnn_training_raises_log_prob(digits):
    model = models.build(tiny.config("pixelcnn"))
    model.compile(tf_keras.optimizers.Adam(1e-2))
    before = float(model.validate([digits])["nll"])
    np.testing.assert_allclose(before, -tf.reduce_mean(model.log_likelihood(digits)), rtol=1e-5)
    step = tf.function(model.train_step)
    for _ in range(30):
        step(digits)
    # 543 nats untrained (a bit a pixel), and a grey image of the mean pixel 206.
    assert model.validate([digits])["nll"] < before - 200
    assert model.score({"val_nll": 80.0}) > model.score({"val_nll": 90.0})


def test_pixelcnn_learns_where_pixels_are():
    # White in one place alone, in no order that the pixels before it could tell.
    always = np.zeros([200, 5, 5, 1], np.float32)
    always[:, 2, 2] = 1
    losses = {}
    for size in (0, 4):
        tf_keras.utils.set_random_seed(0)
        model = PixelCNN(GatedPixelCNN(1, features=8, size=3, first_size=3), (5, 5, 1), position_features=size)
        model.compile(tf_keras.optimizers.Adam(3e-2))
        step = tf.function(model.train_step)
        for _ in range(300):
            step(always)
        losses[size] = float(model.validate([always])["nll"])
    # Where the 3 pixels above and the one to the left are black, the next is white once in a few times.
    assert losses[0] > 1
    assert losses[4] < 0.3


@pytest.mark.parametrize(
    "field, value, accepted",
    [
        ("binarization", "none", "dynamic, static"),
        ("num_layers", 0, "1 or more"),
        ("features", 0, "1 or more"),
        ("kernel_size", 4, "an odd number"),
        ("first_kernel_size", 1, "an odd number, 3 to 55"),
        ("position_features", -1, "0 to 10000"),
    ],
)
def test_pixelcnn_refuses_a_value_out_of_range(field, value, accepted):
    with pytest.raises(UsageError) as refused:
        models.build(tiny.config("pixelcnn", **{field: value}))
    assert field in str(refused.value) and str(value) in str(refused.value) and accepted in str(refused.value)


@pytest.fixture(params=[0, 2], ids=["without positions", "with positions"])
def conditional(request):
    return randomised(num_classes=3, position_features=request.param)


def log_prob_given(model, x, label):
    return model.log_likelihood(x, np.full(len(x), label))


def test_pixelcnn_of_classes_is_a_mixture_of_distributions(conditional, every):
    given = np.array([log_prob_given(conditional, every, label) for label in range(3)], np.float64)
    np.testing.assert_allclose(np.exp(given).sum(axis=1), 1, atol=1e-5)
    assert (np.ptp(given, axis=0) > 0.01).all()  # the class matters
    np.testing.assert_allclose(conditional.log_likelihood(every), np.log(np.exp(given).mean(axis=0)), rtol=1e-4)


def test_pixelcnn_of_classes_draws_from_the_chosen_one(conditional, every):
    seeds = tf.stack([tf.fill([500], 7), tf.range(500)], axis=1)
    for label in range(3):
        images = conditional.draw_given(seeds, tf.fill([500], label))["images"].numpy()
        fits = [log_prob_given(conditional, images, other).numpy().mean() for other in range(3)]
        assert np.argmax(fits) == label
    shares = np.unique(conditional.draw(seeds)["images"].numpy().reshape(500, -1), axis=0)
    assert len(shares) > 50


def test_pixelcnn_of_classes_completes_by_the_class_that_fits():
    model = models.build(tiny.config("pixelcnn", class_conditional=True))
    # Class 3 is sure that the first row is white, all others that it is black.
    model._log_prob_by_class = lambda x, mask: tf.tile(tf.where(tf.range(10) == 3, 0.0, -1e3)[:, None], [1, len(x)])
    seen = []
    drawn = model._drawn
    model._drawn = lambda uniform, labels: seen.append(labels.numpy()) or drawn(uniform, labels)
    model.complete(
        np.zeros([4, 28, 28, 1], np.float32), np.zeros([4, 28, 28, 1], np.float32), tf.ones([4, 2], tf.int32)
    )
    np.testing.assert_array_equal(seen[0], [3, 3, 3, 3])


def test_pixelcnn_of_classes_conforms_and_samples_a_class():
    config = tiny.config("pixelcnn", class_conditional=True)
    model = models.build(config)
    sample_class = conformance.check_generative(model, config)["sample_class"]
    assert sample_class(tf.constant(3), tf.constant(5), tf.constant(7))["images"].shape == (5, 28, 28, 1)
    for label in (-1, 10):
        with pytest.raises(tf.errors.InvalidArgumentError, match="label is out of range: give 0 to 9"):
            sample_class(tf.constant(label), tf.constant(5), tf.constant(7))


def test_pixelcnn_of_classes_trains_on_labels(tmp_path, eager, mnist_5k, monkeypatch):
    run = tiny.train(tiny.begin(tmp_path / "run", "pixelcnn", class_conditional=True, epochs=1))
    (row,) = tiny.rows(run)
    assert 0 < row["val_nll"] < 600
    unlabelled = mnist_5k._replace(train=mnist_5k.train._replace(labels=None))
    monkeypatch.setattr(runs, "load_data", lambda run: unlabelled)
    with pytest.raises(UsageError, match="pixelcnn learns from labels, mnist_5k has none"):
        tiny.train(tiny.begin(tmp_path / "other", "pixelcnn", class_conditional=True))


def test_checkpoint_of_an_earlier_version_is_restored(tmp_path):
    saved, restored = (randomised(position_features=2) for _ in range(2))
    restored.positions.assign(saved.positions + 1)
    old = tf.train.Checkpoint(places=saved.positions, network=saved.network)  # as it was called
    path = tf.train.Checkpoint(model=old).save(str(tmp_path / "ckpt"))
    tf.train.Checkpoint(model=restored).restore(path).expect_partial()
    np.testing.assert_array_equal(restored.positions, saved.positions)
