import itertools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from keras_genmnist import config as configs
from keras_genmnist import models, runs, signatures
from keras_genmnist.autoregressive import GatedPixelCNN
from keras_genmnist.datasets.spec import DatasetSpec
from keras_genmnist.errors import UsageError
from keras_genmnist.models.pixelcnn import PixelCNN
from keras_genmnist.orders import Orders
from keras_genmnist.signatures import CHUNK
from tests import conformance, tiny

eager = tiny.eager


def randomised(orders=1, patch_size=1, attention_every=0, num_classes=0, **options) -> PixelCNN | Orders:
    """A PixelCNN of 3 x 3 images, its weights drawn at random."""
    network = GatedPixelCNN(2, features=8, size=3, first_size=3, patch_size=patch_size, attention_every=attention_every)
    labels = num_classes if orders == 1 else orders * max(1, num_classes)
    model = PixelCNN(network, (3, 3, 1), labels, **options)
    if orders > 1:
        model = Orders(model, orders, num_classes)
    model.build_variables()
    generator = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(generator.normal(0, 0.5, weight.shape))
    return model


def compiled(function):
    """Loops of hundreds of steps take seconds in Python."""
    return tf.function(function, autograph=False)


# Patches of 2 x 2, which cut images of 3 x 3, attention, orders, and all of these.
KINDS = {
    "pixels": {},
    "positions": {"position_features": 2},
    "patches": {"patch_size": 2},
    "orders": {"orders": 8},
    "all": {"patch_size": 2, "attention_every": 1, "orders": 4, "position_features": 2},
}


@pytest.fixture(params=KINDS)
def model(request):
    return randomised(**KINDS[request.param])


@pytest.fixture(scope="module")
def every():
    """All 512 binary images of 3 x 3 pixels."""
    return np.array(list(itertools.product([0.0, 1.0], repeat=9)), np.float32).reshape(-1, 3, 3, 1)


def test_pixelcnn_of_the_literature_is_still_in_reach():
    of_pixels = {"patch_size": 1, "orders": 1, "attention_every": 0, "soft_targets": False, "num_layers": 8}
    of_pixels |= {"features": 16, "first_kernel_size": 13, "kernel_size": 3}
    model = models.build(configs.based_on("pixelcnn", **of_pixels))
    assert model.num_parameters == 53_569  # as results/pixelcnn-binarized_mnist.json has it


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
    images = compiled(model.sample)(1000, 1)["images"].numpy()
    expected = np.exp(model.log_likelihood(every).numpy().astype(np.float64))
    index = (images.reshape(-1, 9) @ 2 ** np.arange(8, -1, -1)).astype(int)
    likely = expected > 0.005
    assert likely.sum() > 5
    frequency = np.bincount(index, minlength=512)[likely] / 1000
    # 4 standard errors of a binomial share.
    np.testing.assert_array_less(np.abs(frequency - expected[likely]), 4 * np.sqrt(expected[likely] / 1000))


def test_pixelcnn_probabilities_are_those_the_pixels_were_drawn_with(model):
    drawn = compiled(model.sample)(500, 1)
    probabilities, images = (drawn[name].numpy().astype(np.float64) for name in ("probabilities", "images"))
    log_prob = np.log(np.where(images == 1, probabilities, 1 - probabilities)).sum(axis=(1, 2, 3))
    images = images.astype(np.float32)
    if isinstance(model, Orders):  # each image was drawn in one of them
        off = np.abs(model.log_likelihood_by_order(images) - log_prob).min(axis=0)
        np.testing.assert_allclose(off, 0, atol=1e-3)
    else:
        np.testing.assert_allclose(model.log_likelihood(images), log_prob, rtol=1e-4)
    # Of 4,500 pixels drawn with probabilities p, the share of ones is within 4 standard errors (0.03) of the mean of p.
    assert abs(probabilities.mean() - images.mean()) < 0.03


def test_pixelcnn_completion_keeps_what_is_known_and_draws_the_rest(model):
    seeds = tf.stack([tf.fill([50], 7), tf.range(50)], axis=1)
    images = compiled(model.sample)(50, 3)["images"].numpy()
    upper, complete = np.zeros_like(images), compiled(model.complete)
    upper[:, :2] = 1
    completed = complete(images, upper, seeds)["images"].numpy()
    np.testing.assert_array_equal(completed[:, :2], images[:, :2])
    assert len(np.unique(completed[:, 2].reshape(50, 3), axis=0)) > 2
    np.testing.assert_array_equal(complete(images, np.ones_like(images), seeds)["images"], images)
    nothing = complete(images, np.zeros_like(images), seeds)
    np.testing.assert_array_equal(nothing["images"], compiled(model.draw)(seeds)["images"])


def test_pixelcnn_log_prob_takes_any_number_of_images(digits):
    many = np.tile(digits[:, 8:16, 8:16], [CHUNK // len(digits) + 1, 1, 1, 1])
    for changes in ({}, {"class_conditional": True}):
        model = models.build(tiny.config("pixelcnn", **changes), DatasetSpec("own", (8, 8, 1), num_classes=3))
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
    model = models.build(tiny.config("pixelcnn", orders=1))
    model.compile(tf_keras.optimizers.Adam(1e-2))
    before = float(model.validate([digits])["nll"])
    np.testing.assert_allclose(before, -tf.reduce_mean(model.log_likelihood(digits)), rtol=1e-5)
    step = tf.function(model.train_step)
    for _ in range(30):
        step(digits)
    # 543 nats untrained (a bit a pixel), and a grey image of the mean pixel 206.
    assert model.validate([digits])["nll"] < before - 200
    assert model.score({"val_nll": 80.0}) > model.score({"val_nll": 90.0})


@pytest.mark.slow
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


def gradients(model, batch) -> tf.Tensor:
    """Of one training step, all in a row; the optimizer is one that only keeps them."""
    kept = []
    model.optimizer.apply_gradients = lambda pairs: kept.extend(gradient for gradient, _ in pairs)
    model.train_step(batch)
    return tf.concat([tf.reshape(tf.convert_to_tensor(gradient), [-1]) for gradient in kept], axis=0)


@pytest.mark.parametrize("kind", ["positions", "patches", "orders"])
def test_soft_targets_have_the_same_gradient_in_expectation_and_less_of_its_variance(kind):
    # Every binarization of an image of 2 x 2 grey pixels and black ones, by its probability.
    levels = np.zeros([1, 3, 3, 1], np.float32)
    levels[0, :2, :2, 0] = [[0.2, 0.5], [0.7, 0.9]]
    bits = np.array(list(itertools.product([0.0, 1.0], repeat=4)), np.float32)
    shares = np.prod(np.where(bits == 1, levels[0, :2, :2].ravel(), 1 - levels[0, :2, :2].ravel()), axis=1)
    found = {}
    for soft in (False, True):
        model = randomised(takes_levels=soft, **KINDS[kind])
        model.compile(tf_keras.optimizers.SGD())
        images = np.zeros([16, 1, 3, 3, 1], np.float32)
        images[:, 0, :2, :2, 0] = bits.reshape(-1, 2, 2)
        gradient = compiled(lambda x: gradients(model, {"images": x, "levels": levels}))  # noqa: B023
        found[soft] = np.array([gradient(tf.constant(x)) for x in images])
    means = {soft: shares @ found[soft] for soft in found}
    assert np.abs(means[False]).max() > 0.1
    np.testing.assert_allclose(means[True], means[False], atol=1e-4)
    hard, soft = (shares @ np.sum((found[soft] - means[soft]) ** 2, axis=1) for soft in (False, True))
    assert 0 < soft < 0.8 * hard


def test_soft_targets_train_by_levels_of_the_pipeline(tmp_path, eager, monkeypatch):
    seen = []

    def expected_log_likelihood(self, x, levels, y=None):
        seen.append((x.numpy(), levels.numpy()))
        return original(self, x, levels, y)

    original = PixelCNN.expected_log_likelihood
    monkeypatch.setattr(PixelCNN, "expected_log_likelihood", expected_log_likelihood)
    changes = {"patch_size": 2, "orders": 2, "soft_targets": True, "class_conditional": True}
    (row,) = tiny.rows(tiny.train(tiny.begin_small(tmp_path / "run", "pixelcnn", **changes)))
    assert 0 < row["nll"] < 60
    bits, levels = next(pair for pair in seen if pair[1].any())  # the first builds the variables, of black images
    assert set(np.unique(bits)) == {0, 1}
    np.testing.assert_allclose(levels * 255, np.rint(levels * 255), atol=1e-4)
    grey = (levels > 0) & (levels < 1)
    assert grey.mean() > 0.05
    np.testing.assert_array_equal(bits[~grey], levels[~grey])  # permuted alike


@pytest.mark.parametrize("binarization", ["static", "threshold"])
def test_soft_targets_need_bits_that_are_drawn_anew(binarization):
    with pytest.raises(UsageError, match=f"binarization='{binarization}' does not go with config.soft_targets=True"):
        models.build(tiny.config("pixelcnn", soft_targets=True, binarization=binarization))


def test_pixelcnn_predicts_each_pixel_from_those_before_it(model, every):
    if not isinstance(model, Orders):
        probabilities = model(every).numpy()
        log_prob = np.log(np.where(every == 1, probabilities, 1 - probabilities)).sum(axis=(1, 2, 3))
        np.testing.assert_allclose(model.log_likelihood(every), log_prob, rtol=1e-3)


@pytest.mark.parametrize(
    "field, value, accepted",
    [
        ("patch_size", 4, "1, 2, 3"),
        ("attention_every", -1, "0 (none) to num_layers"),
        ("attention_heads", 3, "a divisor of config.features=2"),
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


@pytest.fixture(params=KINDS)
def conditional(request):
    return randomised(num_classes=3, **KINDS[request.param])


def log_prob_given(model, x, label):
    return model.log_likelihood(x, np.full(len(x), label))


def test_pixelcnn_of_classes_is_a_mixture_of_distributions(conditional, every):
    given = np.array([log_prob_given(conditional, every, label) for label in range(3)], np.float64)
    np.testing.assert_allclose(np.exp(given).sum(axis=1), 1, atol=1e-5)
    assert (np.ptp(given, axis=0) > 0.01).mean() > 0.9  # the class matters
    np.testing.assert_allclose(conditional.log_likelihood(every), np.log(np.exp(given).mean(axis=0)), rtol=1e-4)


@pytest.mark.slow
def test_pixelcnn_of_classes_draws_from_the_chosen_one(conditional, every):
    seeds = tf.stack([tf.fill([500], 7), tf.range(500)], axis=1)
    draw_given = compiled(conditional.draw_given)
    for label in range(3):
        images = draw_given(seeds, tf.fill([500], label))["images"].numpy()
        fits = [log_prob_given(conditional, images, other).numpy().mean() for other in range(3)]
        assert np.argmax(fits) == label
    kinds = np.unique(compiled(conditional.draw)(seeds)["images"].numpy().reshape(500, -1), axis=0)
    assert len(kinds) > 20


def test_pixelcnn_of_classes_completes_by_the_class_that_fits():
    model = models.build(tiny.config("pixelcnn", class_conditional=True, orders=1))
    # Class 3 is sure that the first row is white, all others that it is black.
    model.log_prob_known = lambda images, mask, labels: tf.where(labels == 3, 0.0, -1e3)
    seen = []
    model.complete_given = lambda x, mask, seeds, labels: seen.append(labels.numpy()) or {"probabilities": x}
    model.complete(
        np.zeros([4, 28, 28, 1], np.float32), np.zeros([4, 28, 28, 1], np.float32), tf.ones([4, 2], tf.int32)
    )
    np.testing.assert_array_equal(seen[0], [3, 3, 3, 3])


@pytest.mark.slow
def test_pixelcnn_of_classes_conforms_and_samples_a_class():
    config = tiny.config("pixelcnn", class_conditional=True)
    model = models.build(config)
    sample_class = conformance.check_generative(model, config)["sample_class"]
    assert sample_class(tf.constant(3), tf.constant(5), tf.constant(7))["images"].shape == (5, 28, 28, 1)
    for label in (-1, 10):
        with pytest.raises(tf.errors.InvalidArgumentError, match="label is out of range: give 0 to 9"):
            sample_class(tf.constant(label), tf.constant(5), tf.constant(7))


def test_pixelcnn_of_classes_trains_on_labels(tmp_path, eager, mnist_5k, monkeypatch):
    run = tiny.train(tiny.begin_small(tmp_path / "run", "pixelcnn", class_conditional=True))
    (row,) = tiny.rows(run)
    assert 0 < row["val_nll"] < 60
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
