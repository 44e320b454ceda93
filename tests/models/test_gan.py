import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from keras_genmnist import classifier, models, networks, quality
from keras_genmnist import config as configs
from keras_genmnist.datasets.spec import DatasetSpec
from keras_genmnist.distributions import StandardNormal
from keras_genmnist.errors import Fault, UsageError
from keras_genmnist.losses import LOSSES
from keras_genmnist.models.gan import GAN
from tests import conformance, tiny

NAMES = [name for name in configs.names() if configs.load(name).model == "gan"]


@pytest.fixture(scope="module")
def images(mnist_5k):
    """Grey digits, float32 [32, 28, 28, 1]."""
    return mnist_5k.train.images[:32].astype(np.float32) / 255


def compiled(config, rate: float = 1e-3) -> GAN:
    model = models.build(config)
    model.compile(tf_keras.optimizers.SGD(rate), tf_keras.optimizers.SGD(rate), seed=7)
    return model


def values(network) -> list[np.ndarray]:
    return [weight.numpy() for weight in network.trainable_weights]


def changed(network, before) -> list[bool]:
    return [(weight.numpy() != old).any() for weight, old in zip(network.trainable_weights, before, strict=True)]


def test_gan_configs_are_those_of_the_literature():
    assert NAMES == ["cgan", "dcgan", "gan", "wgan_gp"]
    assert configs.load("gan").loss == configs.load("dcgan").loss == "non_saturating"
    assert configs.load("wgan_gp").critic_steps > 1


@pytest.mark.parametrize("name", NAMES)
def test_gan_conforms(name):
    model = models.build(tiny.config(name))
    signatures = conformance.check_generative(model, tiny.config(name))
    labels = np.array([3, 1, 4]) if model.takes_labels else None
    conformance.check_decoder(model, signatures, tf.random.stateless_normal([3, 2], seed=[1, 2]), labels)
    expected = {"sample_rows", "sample", "decode", "decode_probabilities", "interpolate", "discriminate"}
    assert signatures.keys() == expected | ({"sample_class"} if model.takes_labels else set())


@pytest.mark.parametrize(
    "options",
    [
        {"network": "mlp", "loss": "hinge", "discriminator_norm": "spectral"},
        {"network": "conv", "loss": "wasserstein_gp", "discriminator_norm": "none", "gradient_penalty": 10.0},
        {"network": "conv", "loss": "non_saturating", "discriminator_norm": "batch", "r1_penalty": 0.0},
    ],
)
def test_gan_of_classes_step_trains_every_variable_of_both_networks(options, images):
    labels = np.arange(32) % 10
    model = compiled(tiny.config("cgan", **options))
    networks_before = values(model.generator), values(model.discriminator)
    logs = model.train_step((images, labels))
    assert all(map(np.isfinite, logs.values()))
    for part, before in zip((model.generator, model.discriminator), networks_before, strict=True):
        assert all(np.isfinite(weight).all() for weight in part.weights)
        still = [w.name for w, moved in zip(part.trainable_weights, changed(part, before), strict=True) if not moved]
        assert len(still) <= (1 if options["loss"] in ("hinge", "wasserstein_gp") else 0), still  # see above


def test_gan_of_classes_has_a_projection_discriminator(images):
    model = compiled(tiny.config("cgan", network="mlp", discriminator_norm="none"))
    labels, discriminator = np.arange(32) % 10, model.discriminator
    features = discriminator.phi(images).numpy()
    kernel, bias = discriminator.psi.get_weights()
    (classes,) = discriminator.classes.get_weights()
    assert classes.shape == (10, features.shape[1])
    expected = features @ kernel[:, 0] + bias + (features * classes[labels]).sum(axis=1)
    np.testing.assert_allclose(model.discriminate(images, y=labels), expected, atol=1e-5)


def test_gan_of_classes_is_validated_by_the_class_asked_for(mnist_5k):
    model = compiled(tiny.config("cgan"))
    real, labels = mnist_5k.validation.scored("none"), mnist_5k.validation.labels
    batches = [(real[:300], labels[:300]), (real[300:], labels[300:])]
    assert 0 <= model.validate(batches)["class_asked_for"] < 0.3  # grey noise
    parts = iter([real[:300], real[300:]])
    model.compiled_decode = lambda z, y: next(parts)
    assert model.validate(batches)["class_asked_for"] > 0.98
    assert ["val_class_asked_for"] in model.curves.values()
    assert ["val_class_asked_for"] not in compiled(tiny.config("dcgan")).curves.values()


@pytest.mark.parametrize(
    "loss, norm",
    [
        (loss, norm)
        for loss in LOSSES
        for norm in ("none", "batch", "spectral")
        if (loss, norm) != ("wasserstein_gp", "batch")  # refused
    ],
)
def test_gan_step_trains_every_variable_of_both_networks(loss, norm, images):
    _step_trains_every_variable_of_both_networks(loss, "mlp", norm, images)


# A loss sees the logits alone, but its penalty goes through the network a second time.
@pytest.mark.parametrize(
    "loss, norm",
    [("hinge", "none"), ("non_saturating", "batch"), ("least_squares", "spectral"), ("wasserstein_gp", "spectral")],
)
def test_gan_step_trains_every_variable_of_convolutions(loss, norm, images):
    _step_trains_every_variable_of_both_networks(loss, "conv", norm, images)


def _step_trains_every_variable_of_both_networks(loss, network, norm, images):
    options = {"gradient_penalty": 10.0} if loss == "wasserstein_gp" else {"r1_penalty": 0.1 * (norm != "batch")}
    model = compiled(tiny.config("gan", network=network, loss=loss, discriminator_norm=norm, **options))
    networks_before = values(model.generator), values(model.discriminator)
    logs = model.train_step(images)
    assert all(map(np.isfinite, logs.values()))
    for part, before in zip((model.generator, model.discriminator), networks_before, strict=True):
        assert all(np.isfinite(weight).all() for weight in part.weights)
        # Where only differences of logits count, as for hinge within its margins, the last bias has no gradient.
        free = 1 if loss in ("hinge", "wasserstein_gp") and part is model.discriminator else 0
        assert all(changed(part, before)[: len(before) - free])


def test_gan_generator_steps_after_critic_steps_of_the_discriminator(images):
    model = compiled(tiny.config("gan", critic_steps=3))
    taken = []
    for _ in range(6):
        before = values(model.generator), values(model.discriminator)
        model.train_step(images)
        assert all(changed(model.discriminator, before[1]))
        taken.append(all(changed(model.generator, before[0])))
    assert taken == [False, False, True] * 2


def test_gan_step_is_alternating_gradient_descent():
    """With linear networks of one weight each, against the formulas."""
    generator = tf_keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
    discriminator = tf_keras.Sequential(
        [tf_keras.layers.Flatten(), tf_keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")]
    )
    model = GAN(generator, discriminator, StandardNormal(1), (1, 1, 1), "hinge")
    model.build_variables()
    model.compile(tf_keras.optimizers.SGD(0.1), tf_keras.optimizers.SGD(0.1), seed=7)
    x = np.full([4, 1, 1, 1], 0.9, np.float32)
    z_seed = tf.random.split(tf.constant([7, 0]), 2)[0]
    z = model.prior().sample(4, seed=z_seed).numpy()[:, 0].astype(np.float64)
    g = d = 1.0
    fake = 1 / (1 + np.exp(-g * z))
    d -= 0.1 * (np.mean(fake) - 0.9)  # of mean(1 - d x) + mean(1 + d fake), both within the hinge
    g -= 0.1 * np.mean(-d * fake * (1 - fake) * z)  # of the updated discriminator
    model.train_step(x)
    np.testing.assert_allclose(discriminator.get_weights()[0], [[d]], rtol=1e-5)
    np.testing.assert_allclose(generator.get_weights()[0], [[g]], rtol=1e-5)


def test_gan_training_brings_samples_nearer_to_the_images(images):
    model = models.build(tiny.config("gan", hidden_size=32, discriminator_norm="none"))
    model.compile(tf_keras.optimizers.Adam(1e-3, 0.5), tf_keras.optimizers.Adam(1e-3, 0.5), seed=7)

    def distance() -> float:
        samples = model.sample(200, 1)["images"].numpy()
        return np.linalg.norm(samples.mean(axis=0) - images.mean(axis=0))

    before = distance()
    step = tf.function(model.train_step)
    for _ in range(150):
        step(images)
    # Untrained samples are grey, 0.5 everywhere; the mean of the images is 0.13.
    assert distance() < before / 2


def test_gan_accuracy_is_the_share_of_pairs_ranked_rightly(images):
    model = compiled(tiny.config("gan"), rate=0.0)
    z = model.prior().sample(32, seed=tf.random.split(tf.constant([7, 0]), 2)[0])
    real, fake = model.discriminate(images), model.discriminate(model.generate(z, training=True))
    logs = model.train_step(images)
    assert 0 < logs["accuracy"] < 1
    np.testing.assert_allclose(logs["accuracy"], np.mean(real.numpy() > fake.numpy()), atol=1e-6)


def test_gan_validation_judges_as_many_samples_as_images(mnist_5k):
    model = compiled(tiny.config("gan"))
    real = mnist_5k.validation.scored("none")
    metrics = model.validate([real[:300], real[300:]])
    assert metrics == model.validate([real[:300], real[300:]])
    assert metrics["frechet"] > 100  # grey noise; real images are at 10
    assert 0 <= metrics["rarest_class"] <= 0.1
    # A generator that gives back the images themselves is at 0, and every digit is there.
    parts = iter([real[:300], real[300:]])
    model.compiled_decode = lambda z: next(parts)
    metrics = model.validate([real[:300], real[300:]])
    assert abs(metrics["frechet"]) < 1e-6
    assert metrics["rarest_class"] > 0.08
    assert model.score({"val_frechet": 3.0}) > model.score({"val_frechet": 4.0})


def test_gan_of_other_images_is_validated_by_their_pixels():
    spec = DatasetSpec("own", (9, 13, 3), num_classes=3)
    model = models.build(tiny.config("gan"), spec)
    model.compile("sgd", "sgd")
    real = np.random.default_rng(0).random([40, 9, 13, 3], np.float32)
    metrics = model.validate([real[:30], real[30:]])
    assert metrics.keys() == {"frechet"}  # nobody is there to tell the classes apart
    drawn = [model.decode(model.prior().sample(n, seed=tf.constant([0, i]))) for i, n in enumerate((30, 10))]
    expected = quality.frechet_distance(quality.pixels(np.concatenate(drawn)), quality.pixels(real))
    assert metrics["frechet"] == pytest.approx(expected, rel=1e-4)
    assert model.curves["Frechet distance of pixels"] == ["val_frechet"]
    rows = 9 * [{"accuracy": 0.7, "val_frechet": 3.0}]
    assert model.warnings(rows) == [] and model.score(rows[0]) == -3
    (warning,) = model.warnings(5 * [{"accuracy": 1.0, "val_frechet": 3.0}])
    assert "discriminator" in warning


def test_gan_says_what_a_class_of_its_images_should_have():
    model = models.build(tiny.config("gan"), DatasetSpec("emnist/balanced", (28, 28, 1), num_classes=47))
    assert model.warnings(5 * [row(rarest=0.002)]) == []  # a tenth of what it should be: not lost yet
    (warning,) = model.warnings(5 * [row(rarest=0.001)])
    assert "each of 47 equally frequent classes has 2.1%" in warning


def test_gan_without_the_classifier_does_not_begin_to_train(monkeypatch, tmp_path):
    model = models.build(tiny.config("gan"))
    judge = classifier.JUDGES[0]._replace(path=tmp_path / "classifier.npz")
    monkeypatch.setattr(classifier, "JUDGES", [judge])
    with pytest.raises(Fault, match=judge.sha256):
        model.compile("sgd", "sgd")


def row(accuracy: float = 0.7, rarest: float = 0.09) -> dict:
    return {"accuracy": accuracy, "val_rarest_class": rarest}


def test_gan_that_fares_well_has_no_warnings():
    model = models.build(tiny.config("gan"))
    for rows in ([row()], 9 * [row()], 4 * [row(1.0, 0.0)], [*4 * [row(1.0, 0.0)], row()]):
        assert model.warnings(rows) == []


def test_gan_reports_a_discriminator_that_has_won():
    (warning,) = models.build(tiny.config("gan")).warnings([row(), *5 * [row(accuracy=1.0)]])
    assert "discriminator" in warning and "5 epochs" in warning
    critic = models.build(tiny.config("wgan_gp"))
    assert critic.warnings(9 * [row(accuracy=1.0)]) == []  # a critic should be as good as it can


def test_gan_reports_mode_collapse():
    (warning,) = models.build(tiny.config("wgan_gp")).warnings([row(), *5 * [row(rarest=0.001)]])
    assert "mode collapse" in warning and "0.1%" in warning


def test_gan_spectral_norm_bounds_the_slope(images):
    model = compiled(tiny.config("gan", network="mlp", discriminator_norm="spectral"), rate=0.5)
    for _ in range(100):
        model.discriminate(images, training=True)  # a power iteration each
    for layer in model.discriminator.layers:
        if isinstance(layer, networks.SpectralNormalization):
            np.testing.assert_allclose(np.linalg.norm(layer.layer.kernel, 2), 1, rtol=0.02)
    assert networks.SpectralNormalization in map(type, model.discriminator.layers)


@pytest.mark.parametrize(
    "field, value, accepted",
    [
        ("binarization", "dynamic", "none"),
        ("loss", "hinje", "did you mean hinge"),
        ("network", "resnet", "mlp, conv"),
        ("discriminator_norm", "layer", "none, batch, spectral"),
        ("critic_steps", 0, "1 or more"),
        ("channels", 0, "1 or more"),
        ("label_smoothing", 1.0, "below 1"),
        ("label_smoothing", float("nan"), "below 1"),
        *(
            (field, value, "0 (none) or more, finite")
            for field in ("gradient_penalty", "r1_penalty")
            for value in (-1.0, float("nan"), float("inf"), 1e39)
        ),
    ],
)
def test_gan_refuses_a_value_out_of_range(field, value, accepted):
    with pytest.raises(UsageError) as refused:
        models.build(tiny.config("gan", **{field: value}))
    assert field in str(refused.value) and str(value) in str(refused.value) and accepted in str(refused.value)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"loss": "hinge", "label_smoothing": 0.1}, "loss='hinge' does not go with config.label_smoothing=0.1"),
        (
            {"loss": "wasserstein_gp", "gradient_penalty": 0.0},
            "gradient_penalty=0.0 .* which loss=wasserstein_gp needs",
        ),
        (
            {"loss": "wasserstein_gp", "gradient_penalty": 10.0, "discriminator_norm": "batch"},
            "discriminator_norm='batch' does not go with config.gradient_penalty=10.0: give none, spectral",
        ),
        (
            {"r1_penalty": 0.3, "discriminator_norm": "batch"},
            "discriminator_norm='batch' does not go with config.r1_penalty=0.3: give none, spectral",
        ),
        (
            {"dataset": "binarized_mnist"},
            "config.dataset=binarized_mnist has pixels of 0 and 1 alone",
        ),
    ],
)
def test_gan_refuses_options_that_do_not_go_together(options, message):
    with pytest.raises(UsageError, match=message):
        models.build(tiny.config("gan", **options))
