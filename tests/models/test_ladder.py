import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

from keras_genmnist import bounds, models
from keras_genmnist import config as configs
from keras_genmnist.datasets.spec import DatasetSpec
from keras_genmnist.errors import UsageError
from keras_genmnist.models import ladder
from keras_genmnist.models.ladder import MIN_SCALE, Gaussian, Ladder
from tests import conformance, tiny

tfd = tfp.distributions
NAMES = [name for name in configs.names() if configs.load(name).model == "ladder"]


def random_model(**changes):
    """Three layers of 4, 2 and 1 latents with random weights."""
    sizes = {"num_layers": 3, "latent_size": 4, "norm": "none", "dropout": 0.0, "bottom_up_noise": 0.0}
    model = models.build(tiny.config("ladder", **sizes | changes))
    generator = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(generator.normal(0, 0.3, weight.shape))
    return model


def test_ladder_configs_are_those_of_the_literature():
    assert set(NAMES) == {"ladder", "hvae", "ladder_conv"}
    model = models.build(configs.load("ladder"))
    assert model.layer_sizes == [64, 32, 16, 8, 4]
    assert model.latent_size == 124
    assert model.objective.free_bits == (0, 8, 4, 2, 1)  # above the lowest layer 1/4 nat of each latent


@pytest.mark.parametrize("name", tiny.all_but_some_slow(NAMES, "ladder"))
def test_ladder_conforms(name, digits, monkeypatch):
    monkeypatch.setattr(ladder, "BOTTOM_UP_BIAS", 0.0)  # draws of Gaussians so sure differ by less than float32 tells
    conformance.check(tiny.config(name, latent_size=4, batch_size=8), digits)


@pytest.mark.parametrize("name", ["ladder", "hvae"])
def test_ladder_of_classes_tells_every_network(name, monkeypatch):
    monkeypatch.setattr(ladder, "BOTTOM_UP_BIAS", 0.0)
    spec = DatasetSpec("small", (4, 4, 1), num_classes=3)
    model = models.build(tiny.config(name, class_conditional=True, latent_size=4, norm="none"), spec)
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 2, [6, 4, 4, 1]).astype(np.float32), np.arange(6) % 3
    model.compile(tf_keras.optimizers.Adam(1e-2))
    before = [variable.numpy() for variable in model.trainable_variables]
    for _ in range(3):
        model.train_step((x, y))
    for variable, old in zip(model.trainable_variables, before, strict=True):
        assert (variable.numpy() != old).any(), f"{variable.name} has no gradient"
    # Each network by itself: the features, each Gaussian of the way down, and the image.
    given, other = (model._infer(x, tf.ones([1, 6, 6]), y=labels) for labels in (y, [1, *y[1:]]))
    for own, changed in zip(given, other, strict=True):
        moved = (own.posterior.mean() != changed.posterior.mean()).numpy().any(axis=(0, 2))
        assert moved[0] and not moved[1:].any()
    z, first, second = tf.ones([1, 4]), *tf.one_hot([0, 1], 3)
    for part in (*model.decoder.conditionals[:1], model.decoder.decoder):
        size = 2 if part in model.decoder.conditionals else 4
        told = [part(z[:, :size], context=context[None]).mean() for context in (first, second)]
        assert (told[0] != told[1]).numpy().any()
    found = model.validate([(x, y)])
    assert found.keys() >= {"elbo", "kl_1", "active_units_2"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{}, {"network": "conv", "inference": "bottom_up", "dropout": 0.0, "bottom_up_noise": 0.0}]
)
def test_ladder_of_grey_levels_conforms(changes, grey_digits, monkeypatch):
    monkeypatch.setattr(ladder, "BOTTOM_UP_BIAS", 0.0)
    grey = {"binarization": "none", "decoder": "logistic", "latent_size": 4, "batch_size": 8}
    assert not models.build(tiny.config("ladder", **grey)).draws_bits
    check = conformance.check_together if changes else conformance.check
    check(tiny.config("ladder", **grey, **changes), grey_digits)


@pytest.mark.parametrize("inference", ["ladder", "bottom_up"])
def test_ladder_log_weights_are_those_of_z(inference, digits):
    # log p(x | z[1]) + log p(z) - log q(z | x) computed in z: the coordinates e must leave it as it is.
    model = random_model(inference=inference)
    noise = tf.random.stateless_normal([5, len(digits), 7], [1, 2])
    layers = model._infer(digits, noise)
    terms = model.log_terms(digits, 5, tf.constant([1, 2]))
    log_p = log_q = 0
    for number, layer in enumerate(layers):
        above = layers[number + 1 :]
        prior = model.decoder.conditionals[number](above[0].z) if above else tfd.Normal(tf.zeros([1]), 1.0)
        log_p += tf.reduce_sum(prior.log_prob(layer.z), axis=-1)
        # Of e = (z - m) / s it is N(a, b), so of z it is N(m + s a, s b).
        q = layer.posterior
        log_q += tf.reduce_sum(
            tfd.Normal(prior.mean() + prior.stddev() * q.loc, prior.stddev() * q.scale).log_prob(layer.z), axis=-1
        )
    log_w = model.decoder.decoder(layers[0].z).log_prob(digits) + log_p - log_q
    np.testing.assert_allclose(bounds.log_weights(terms), log_w, rtol=1e-4)


def test_hvae_posteriors_are_those_of_the_layer_below(digits):
    model = random_model(inference="bottom_up")
    noise = tf.random.stateless_normal([5, len(digits), 7], [1, 2])
    below = model.encoder.network(digits)
    for posterior, layer, own in zip(
        model.encoder.posteriors, model._infer(digits, noise), tf.split(noise, [4, 2, 1], axis=-1), strict=True
    ):
        q = posterior(below)
        np.testing.assert_allclose(layer.z, q.mean() + q.stddev() * own, rtol=1e-5)
        below = layer.z


def gaussian(mean, scale):
    """N(mean, scale^2) whatever it is given; scale is MIN_SCALE or more."""
    piece = Gaussian(tf_keras.Sequential(), 1)
    piece.parameters = tf_keras.layers.Dense(
        2,
        kernel_initializer="zeros",
        bias_initializer=tf.constant_initializer([mean, np.log(np.expm1(scale - MIN_SCALE) + 1e-30)]),
    )
    return piece


def test_ladder_merges_by_precision(digits):
    # Two layers of one latent: what the image says is N(2, 0.5^2), p(z[1] | z[2]) is N(1, 2^2).
    ladder = Ladder([tf_keras.layers.Flatten(), tf_keras.layers.Flatten()], [1, 1])
    ladder.bottom_up = [gaussian(2.0, 0.5), gaussian(0.3, 0.7)]
    low, top = ladder.infer(digits[:1], [gaussian(1.0, 2.0)], 2 * [tf.zeros([1, 1, 1])], training=False)
    for ours, expected in ((top.posterior.loc, 0.3), (top.posterior.scale, 0.7), (top.z, 0.3)):
        np.testing.assert_allclose(ours, [[[expected]]], rtol=1e-5)
    precision = 1 / 0.5**2 + 1 / 2**2
    mean = (2 / 0.5**2 + 1 / 2**2) / precision
    np.testing.assert_allclose(low.z, [[[mean]]], rtol=1e-5)
    np.testing.assert_allclose(1 + 2 * low.posterior.loc, [[[mean]]], rtol=1e-5)
    np.testing.assert_allclose(2 * low.posterior.scale, [[[precision**-0.5]]], rtol=1e-5)


# As small as 1e-17 in a training of ladder: a latent that no image moves from where the layer above puts it.
@pytest.mark.parametrize("bottom_up_scale, prior_scale", [(2e-4, 2.0), (20.0, MIN_SCALE)])
def test_ladder_has_gradients_where_one_is_much_surer_than_the_other(bottom_up_scale, prior_scale, digits):
    ladder = Ladder([tf_keras.layers.Flatten(), tf_keras.layers.Flatten()], [1, 1])
    ladder.bottom_up, prior = [gaussian(2.0, bottom_up_scale), gaussian(0.3, 0.7)], gaussian(1.0, prior_scale)
    with tf.GradientTape() as tape:
        low, _ = ladder.infer(digits[:1], [prior], 2 * [tf.zeros([1, 1, 1])], training=True)
        kl = low.posterior.kl_divergence(tfd.Normal(0.0, 1.0))
    np.testing.assert_allclose(low.posterior.scale, [[[min(1, bottom_up_scale / prior_scale)]]], rtol=1e-3)
    for gradient in tape.gradient(kl, [ladder.bottom_up[0].parameters.bias, prior.parameters.bias]):
        assert np.isfinite(gradient).all() and gradient[0] != 0


def test_ladder_kl_agrees_with_monte_carlo(digits):
    model = random_model()
    terms = model.log_terms(digits, 3_000, tf.constant([1, 2]))
    estimates = (terms.log_posterior - terms.log_prior).numpy().astype(np.float64)
    # The closed form of a layer is averaged over the draws above it, and varies less than its own estimate.
    standard_error = estimates.std(axis=0, ddof=1) / np.sqrt(len(estimates))
    assert terms.layer_kl.shape == (3, len(digits))
    assert (bounds.kl(terms).numpy() > 10 * standard_error).all()  # else agreement would mean nothing
    np.testing.assert_array_less(np.abs(bounds.kl(terms) - estimates.mean(axis=0)), 4 * standard_error)


def test_hvae_kl_of_layers_is_that_of_the_draws(digits):
    terms = random_model(inference="bottom_up").log_terms(digits, 4, tf.constant([1, 2]))
    mean = tf.reduce_mean(terms.log_posterior - terms.log_prior, axis=0)
    np.testing.assert_allclose(bounds.kl(terms), mean, rtol=1e-5)


@pytest.mark.parametrize("inference", ["ladder", "bottom_up"])
def test_ladder_decodes_what_it_encodes_from_z(inference, digits):
    model = random_model(inference=inference)
    layers = model._infer(digits, tf.zeros([1, len(digits), 7]))
    np.testing.assert_allclose(
        model.reconstruct(digits), model.decoder.decoder(layers[0].z).mean()[0], rtol=1e-4, atol=1e-6
    )


def test_ladder_decoding_depends_on_every_layer():
    model = random_model()
    e = tf.random.stateless_normal([20, 7], [1, 2])
    for number in range(7):
        moved = model.decode(e + tf.one_hot(number, 7))
        assert np.abs(moved - model.decode(e)).max() > 1e-5  # not of each image: a ReLU may be off


def test_ladder_votes_begin_sure(digits):
    model = models.build(tiny.config("ladder", num_layers=3, latent_size=4, norm="none"))
    features = digits
    for network, gaussian in zip(model.encoder.networks, model.encoder.bottom_up, strict=True):
        features = network(features)
        assert tf.reduce_max(gaussian(features).stddev()) < 0.1
    assert tf.reduce_min(model.decoder.conditionals[0](tf.zeros([1, 2])).stddev()) > 0.5


def test_ladder_reports_the_kl_of_each_layer(digits):
    model = random_model()
    model.compile("adam")
    logs = model.validate([digits])
    layers = [logs[f"kl_{number}"] for number in (1, 2, 3)]
    np.testing.assert_allclose(sum(layers), logs["kl"], rtol=1e-5)
    assert model.curves["validation KL of each layer (nats per image)"] == ["val_kl_1", "val_kl_2", "val_kl_3"]


def test_ladder_reports_the_active_units_of_each_layer(digits):
    model = random_model()
    model.compile("adam")
    # The top layer's only latent no longer depends on the image.
    kernel = model.encoder.bottom_up[-1].parameters.kernel
    kernel.assign(tf.zeros_like(kernel))
    means = model.encode(digits)["z"].numpy()
    lowest, middle = (means[:, part].var(axis=0) for part in (slice(0, 4), slice(4, 6)))
    logs = model.validate([digits[:5], digits[5:]])
    assert [logs[f"active_units_{n}"] for n in (1, 2, 3)] == [(lowest > 0.01).sum(), (middle > 0.01).sum(), 0]
    assert logs["active_units_1"] > 0
    assert model.curves["validation active units of each layer"] == [f"val_active_units_{n}" for n in (1, 2, 3)]


def test_units_that_only_tell_classes_apart_are_not_active():
    spec = DatasetSpec("small", (4, 4, 1), num_classes=3)
    model = models.build(tiny.config("ladder", class_conditional=True, latent_size=4, norm="none"), spec)
    model.compile("adam")
    model.compiled_encode = lambda x, y: {"z": tf.tile(tf.cast(y, tf.float32)[:, None], [1, model.latent_size])}
    found = model.validate([(np.zeros([6, 4, 4, 1], np.float32), np.arange(6) % 3)])
    assert [found[f"active_units_{number}"] for number, _ in enumerate(model.layer_sizes, 1)] == [0, 0]


@pytest.mark.parametrize(
    "field, value, accepted",
    [
        ("decoder", "pixelcnn", "bernoulli, logistic"),
        ("decoder", "logistic", "config.binarization='dynamic' does not go with config.decoder='logistic': give none"),
        ("binarization", "none", "config.decoder='bernoulli' does not go with"),
        ("inference", "top_down", "ladder, bottom_up"),
        ("network", "resnet", "mlp, conv"),
        ("num_layers", 0, "1 or more"),
        ("latent_size", 0, "1 or more"),
        *(("free_bits", value, "0 (none) or more, finite") for value in (-1.0, float("nan"), float("inf"), 1e39)),
        ("dropout", 1.0, "0 (none) or a value below 1"),
        ("bottom_up_noise", -0.5, "0 (none) or more, finite"),
        ("bottom_up_noise", float("inf"), "0 (none) or more, finite"),
        ("bottom_up_noise", float("nan"), "0 (none) or more, finite"),
        ("dropout", float("nan"), "0 (none) or a value below 1"),
    ],
)
def test_ladder_refuses_a_value_out_of_range(field, value, accepted):
    with pytest.raises(UsageError) as refused:
        models.build(tiny.config("ladder", **{field: value}))
    assert field in str(refused.value) and str(value) in str(refused.value) and accepted in str(refused.value)


@pytest.mark.parametrize("inference", ["ladder", "bottom_up"])
def test_layers_of_a_single_latent_are_traced_for_any_number_of_rows(inference):
    model = random_model(latent_size=2, inference=inference)
    assert model.layer_sizes == [2, 1, 1]
    images, noise = tf.TensorSpec([None, 28, 28, 1]), tf.TensorSpec([None, 4])
    for function, *rows in ((model.decode, noise), (model.encode, images, noise)):
        tf.function(function, autograph=False).get_concrete_function(*rows)  # raises where a shape is lost


def test_dropout_is_of_the_seed_in_training_and_of_the_layers_above_the_lowest(digits):
    model = random_model(dropout=0.5)
    noise = tf.zeros([1, len(digits), 7])

    def bottom_up(training, seed):
        # Where the prior is the same, a layer's posterior changes with its bottom-up Gaussian: the top has no prior.
        return model._infer(digits, noise, training, tf.constant([1, seed]))[-1].posterior.mean().numpy()

    np.testing.assert_array_equal(bottom_up(True, 1), bottom_up(True, 1))
    assert np.abs(bottom_up(True, 1) - bottom_up(True, 2)).max() > 1e-3
    np.testing.assert_array_equal(bottom_up(False, 1), bottom_up(False, 2))

    alone = random_model(num_layers=1, dropout=0.5)  # a lowest layer only
    first, second = (
        alone._infer(digits, tf.zeros([1, len(digits), 4]), True, tf.constant([1, seed]))[0].posterior.mean()
        for seed in (1, 2)
    )
    np.testing.assert_array_equal(first, second)


def test_bottom_up_noise_is_of_the_layers_above_the_lowest(digits):
    def scales(bottom_up_noise):
        layers = random_model(bottom_up_noise=bottom_up_noise)._infer(digits, tf.zeros([1, len(digits), 7]))
        return [layer.posterior.scale.numpy() for layer in layers]

    (low, middle, top), (noisy_low, noisy_middle, noisy_top) = scales(0.0), scales(0.5)
    np.testing.assert_allclose(noisy_low, low, rtol=5e-3)  # but the mean of the layer above, and so the prior, moves
    # That of the product of N(0, 1) and a Gaussian of scale r is r / sqrt(1 + r^2); the topmost has no such product.
    r = middle / np.sqrt(1 - middle**2)
    noisy = np.sqrt(r**2 + 0.25)
    np.testing.assert_allclose(noisy_middle, noisy / np.sqrt(1 + noisy**2), rtol=1e-3)
    np.testing.assert_allclose(noisy_top, np.sqrt(top**2 + 0.25), rtol=1e-5)


@pytest.mark.parametrize("field", ["dropout", "bottom_up_noise"])
def test_noise_on_the_way_up_does_not_go_with_bottom_up_inference(field):
    with pytest.raises(UsageError, match=rf"'bottom_up' does not go with config\.{field}=0\.5: give ladder"):
        models.build(tiny.config("hvae", **{field: 0.5}))


def test_checkpoint_of_an_earlier_version_is_restored(tmp_path):
    saved, restored = random_model(), random_model()
    old = tf.train.Checkpoint(votes=saved.encoder.bottom_up, networks=saved.encoder.networks)  # as it was called
    path = tf.train.Checkpoint(encoder=old).save(str(tmp_path / "ckpt"))
    for weight in restored.encoder.weights:
        weight.assign(weight + 1)
    tf.train.Checkpoint(encoder=restored.encoder).restore(path).assert_existing_objects_matched()
    for one, other in zip(saved.encoder.weights, restored.encoder.weights, strict=True):
        np.testing.assert_array_equal(one, other)
