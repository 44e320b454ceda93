import itertools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

from keras_genmnist import bounds, distributions, models, signatures
from keras_genmnist import config as configs
from keras_genmnist.datasets.spec import DatasetSpec
from keras_genmnist.distributions import StandardNormal
from keras_genmnist.errors import UsageError
from keras_genmnist.models.vae import VAE
from tests import conformance, tiny
from tests.oracles import ORACLE

tfd = tfp.distributions

NAMES = [name for name in configs.names() if configs.load(name).model == "vae"]


def test_vae_configs_are_those_of_the_literature():
    assert set(NAMES) >= {"vae", "vae_2d", "vae_conv"}
    assert configs.load("vae_2d").latent_size == 2


@pytest.mark.parametrize("name", tiny.all_but_some_slow(set(NAMES) - {"vae_2d"}, "vae", "vae_conv"))
def test_vae_conforms(name, digits, labels):
    # vae_2d is vae at tiny sizes.
    # No free bits: while the KL is below them, what reaches the encoder of a tiny model is next to nothing.
    config = tiny.config(name, free_bits=0.0)
    conformance.check(config, digits, labels if config.class_conditional else None)


@pytest.mark.parametrize(
    "changes",
    [
        {"prior": "mixture", "network": "mlp"},
        {"prior": "vamp", "prior_components": 12, "network": "mlp"},
        {"prior": "maf", "posterior": "planar"},
        {"prior": "realnvp", "posterior": "iaf"},
        {"decoder": "pixelcnn", "posterior": "sylvester"},
        {"decoder": "pixelcnn", "pixelcnn_orders": 8},
        {"decoder": "logistic", "binarization": "none", "posterior": "radial"},
    ],
)
def test_vae_of_classes_tells_every_piece(changes):
    spec = DatasetSpec("small", (4, 4, 1), num_classes=3)
    model = models.build(tiny.config("cvae", **changes), spec)
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 2, [6, 4, 4, 1]).astype(np.float32), np.arange(6) % 3
    model.compile(tf_keras.optimizers.Adam(1e-2))
    before = [variable.numpy() for variable in model.trainable_variables]
    for _ in range(3):
        logs = model.train_step((x, y))
    assert all(map(np.isfinite, logs.values()))
    for variable, old in zip(model.trainable_variables, before, strict=True):
        assert (variable.numpy() != old).any(), f"{variable.name} has no gradient"
    told = [model.log_terms(x, 3, tf.constant([1, 2]), y=labels)[:3] for labels in (y, [1, *y[1:]])]
    for own, other in zip(*told, strict=True):
        moved = (own != other).numpy()
        assert own.shape == (3, 6) and moved[:, 0].all() and not moved[:, 1:].any()
    seeds = tf.constant([[7, 0], [7, 1], [7, 2]])
    drawn, alone = model.draw_given(seeds, [0, 1, 2])["probabilities"], model.draw_given(seeds[1:2], [1])
    np.testing.assert_allclose(alone["probabilities"][0], drawn[1], atol=1e-6)


@pytest.mark.parametrize(
    "changes, refused",
    [
        ({"dataset": "binarized_mnist"}, "config.class_conditional=True learns from labels, binarized_mnist has none"),
        ({"inference": "svi"}, "config.class_conditional=True does not go with config.inference='svi': give False"),
        ({"inference": "semi_amortized"}, "config.class_conditional=True does not go with .*: give False"),
        ({"prior": "vamp", "prior_components": 9}, "config.prior_components=9 is out of range: give 10 or more"),
    ],
)
def test_vae_of_classes_refuses_what_cannot_be_told(changes, refused):
    with pytest.raises(UsageError, match=f"^{refused}"):
        models.build(tiny.config("vae", class_conditional=True, **changes))


def test_pixelvae_decodes_patch_by_patch(digits):
    model = models.build(tiny.config("pixelvae"))
    terms = model.log_terms(digits, 2, tf.constant([1, 2]))
    z = model.encoder(digits).experimental_sample_and_log_prob(2, seed=tf.constant([1, 2]))[0]
    logits = model.decoder.pixelcnn(digits, tf.nn.space_to_depth(model.decoder.network(z[0]), 2))
    patterns = tf.tensordot(tf.nn.space_to_depth(digits, 2), [8.0, 4.0, 2.0, 1.0], 1)
    costs = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(patterns, tf.int32), logits)
    np.testing.assert_allclose(terms.log_likelihood[0], -tf.reduce_sum(costs, axis=[1, 2]), rtol=1e-5)
    assert configs.load("pixelvae").free_bits > 5


def test_vae_whose_decoder_draws_in_several_orders_conforms(digits):
    conformance.check(tiny.config("pixelvae", free_bits=0.0, pixelcnn_orders=4), digits)


@pytest.mark.parametrize("training", [False, True])
def test_draws_of_an_image_take_the_orders_in_turn(training, digits):
    model = models.build(tiny.config("pixelvae", pixelcnn_orders=4, posterior="gaussian"))
    found = model.log_terms(digits, 6, tf.constant([1, 2]), training=training).log_likelihood
    z = distributions.draws_of(model.encoder(digits), 6, tf.constant([1, 2]))
    order = np.arange(6)[:, None] + training * np.arange(len(digits))
    expected = model.decoder(z).log_prob_in(tf.constant(order % 4, tf.int32), digits)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert not np.allclose(found, model.decoder(z).log_prob(digits), rtol=1e-5)


def test_vae_with_batch_norm_has_trained_statistics(digits):
    model = models.build(tiny.config("vae", norm="batch", hidden_layers=1))
    model.compile("adam")
    before = {w.name: w.numpy() for w in model.non_trainable_weights if "moving" in w.name}
    assert len(before) == 4  # mean and variance, of one layer in each network
    model.train_step(digits)
    for weight in model.non_trainable_weights:
        if weight.name in before:
            assert (weight.numpy() != before[weight.name]).any()


def test_vae_exact_kl_agrees_with_monte_carlo(digits):
    model = models.build(tiny.config("vae"))
    terms = model.log_terms(5 * digits, 3_000, tf.constant([1, 2]))  # large inputs: far from the prior
    estimates = (terms.log_posterior - terms.log_prior).numpy().astype(np.float64)
    standard_error = estimates.std(axis=0, ddof=1) / np.sqrt(len(estimates))
    (kl,) = terms.layer_kl.numpy()
    assert (kl > 20 * standard_error).all()  # else agreement would mean nothing
    # 4 standard errors: eight images of a fixed seed, one in 2,000 sets of draws is outside.
    np.testing.assert_array_less(np.abs(kl - estimates.mean(axis=0)), 4 * standard_error)


def test_vae_with_exact_posterior_weighs_every_draw_with_log_px():
    x = ORACLE.sample(6)
    log_w = bounds.log_weights(ORACLE.vae().log_terms(x, 10, tf.constant([1, 2])))
    # log p(x|z) + log p(z) - log q(z|x) = log p(x) whatever z is; float32 terms of about 10 nats round at 1e-6.
    np.testing.assert_allclose(log_w, np.tile(ORACLE.log_prob(x), [10, 1]), atol=2e-5)


def test_vae_with_exact_posterior_has_bounds_equal_to_log_px():
    x = ORACLE.sample(6)
    for num_samples in (1, 2, 17):
        terms = ORACLE.vae().log_terms(x, num_samples, tf.constant([3, 4]))
        np.testing.assert_allclose(bounds.iwae_bound(terms), ORACLE.log_prob(x), atol=2e-5)
        # Both halves of the KL by the same draws: the noise cancels, too.
        np.testing.assert_allclose(bounds.elbo(terms._replace(layer_kl=None)), ORACLE.log_prob(x), atol=2e-5)


@pytest.mark.parametrize(("shift", "stretch"), [(0.0, 1.0), (0.3, 1.0), (0.0, 1.5), (-0.2, 0.7)])
def test_vae_elbo_is_log_px_less_the_gap_to_the_true_posterior(shift, stretch):
    x = ORACLE.sample(4)
    terms = ORACLE.vae(shift, stretch).log_terms(x, 20_000, tf.constant([5, 6]))
    standard_error = terms.log_likelihood.numpy().std(axis=0, ddof=1) / np.sqrt(20_000)
    # 4 standard errors of the reconstruction term, the only random one: about 0.02 nats against gaps of 0.1 to 0.6.
    error = np.abs(bounds.elbo(terms) - ORACLE.elbo(x, shift, stretch))
    np.testing.assert_array_less(error, 4 * standard_error)


def test_vae_iwae_bound_rises_from_the_elbo_to_log_px():
    x = ORACLE.sample(4)
    terms = ORACLE.vae(shift=0.3, stretch=1.5).log_terms(x, 16_384, tf.constant([7, 8]))

    def mean_bound(size):
        """The same draws in groups of `size`, each group within one of the next size; the mean over groups, [B]."""
        groups = bounds.LogTerms(*(tf.reshape(term, [size, -1]) for term in terms[:3]))
        return bounds.iwae_bound(groups).numpy().astype(np.float64).reshape(-1, len(x)).mean(axis=0)

    means = [mean_bound(size) for size in (1, 2, 16, 256, 16_384)]
    for lower, higher in itertools.pairwise(means):
        # Jensen's inequality holds for the draws themselves, image by image, and strictly for unequal weights.
        assert (higher > lower).all()
    log_w = bounds.log_weights(terms).numpy().astype(np.float64)
    weights = np.exp(log_w - means[-1])  # of mean 1
    root = np.sqrt(len(log_w))
    # 4 standard errors at either end; that of the log of a mean is that of the mean, relatively.
    np.testing.assert_array_less(np.abs(means[0] - ORACLE.elbo(x, 0.3, 1.5)), 4 * log_w.std(axis=0) / root)
    np.testing.assert_array_less(np.abs(means[-1] - ORACLE.log_prob(x)), 4 * weights.std(axis=0) / root)


def test_vae_learns_the_closed_form_elbo_gradient():
    # The pathwise gradient of the ELBO in the posterior's shift, against -shift / variance, its derivative by hand.
    x, shift = ORACLE.sample(4), tf.Variable(0.3)
    with tf.GradientTape() as tape:
        terms = ORACLE.vae(shift=shift).log_terms(x, 20_000, tf.constant([1, 1]))
        elbo = tf.reduce_mean(bounds.elbo(terms))
    expected = -(0.3 / ORACLE.posterior_variance).sum()
    # The reconstruction's gradient has a standard error of about 0.01 over 80,000 draws.
    np.testing.assert_allclose(tape.gradient(elbo, shift), expected, atol=0.05)


def test_vae_interpolates_from_z2_to_z1(digits):
    model = models.build(tiny.config("vae"))
    mean = model.encode(digits)["mean"]
    path = model.interpolate(mean[:1], mean[1:2], tf.constant([0.0, 1.0]))[0]
    np.testing.assert_allclose(path[0], model.decode(mean[1]), atol=1e-6)  # one row or two: rounding
    np.testing.assert_allclose(path[1], model.decode(mean[0]), atol=1e-6)


def test_vae_encode_gives_mean_and_log_variance():
    x = ORACLE.sample(3)
    encoding = ORACLE.vae().encode(x)
    np.testing.assert_allclose(encoding["mean"], ORACLE.posterior_mean(x), rtol=1e-5)  # float32
    log_variance = np.tile(np.log(ORACLE.posterior_variance), [3, 1])
    np.testing.assert_allclose(encoding["log_variance"], log_variance, rtol=1e-5)
    np.testing.assert_array_equal(encoding["z"], encoding["mean"])


def test_vae_encode_draw_draws_from_the_posterior():
    x = np.repeat(np.clip(ORACLE.sample(1), 0, 1), 4000, axis=0)  # a signature takes pixels
    drawn = signatures.of(ORACLE.vae())["encode_draw"](tf.constant(x), tf.range(4000))
    noise = (drawn["z"] - drawn["mean"]).numpy() / np.exp(drawn["log_variance"].numpy() / 2)
    # 4 standard errors of the mean and of the variance of 4,000 standard normal numbers.
    np.testing.assert_allclose(noise.mean(axis=0), 0, atol=4 / np.sqrt(4000))
    np.testing.assert_allclose(noise.var(axis=0), 1, atol=4 * np.sqrt(2 / 4000))
    np.testing.assert_allclose(drawn["mean"][:2], ORACLE.posterior_mean(x[:2]), rtol=1e-5)  # float32


@pytest.mark.parametrize(("step", "weight"), [(0, 0.0), (5, 0.5), (10, 1.0), (20, 1.0)])
def test_vae_train_step_warms_the_kl_up_linearly(step, weight):
    class Unit(tf_keras.Model):
        """q(z | x) = N(z; mean, 1): the KL is mean^2 / 2 and its gradient the mean."""

        def __init__(self):
            super().__init__()
            self.mean = self.add_weight("mean", [1], initializer="ones")

        def call(self, x, training=False):
            return tfd.Independent(tfd.Normal(self.mean * tf.ones([len(x), 1]), 1.0), 1)

    def decoder(z, training=False):  # takes no notice of z: the likelihood has no gradient
        return tfd.Independent(tfd.Bernoulli(logits=tf.zeros([*z.shape[:-1], 2, 2, 1])), 3)

    model = VAE(Unit(), decoder, StandardNormal(1), (2, 2, 1))
    model.compile(tf_keras.optimizers.SGD(1.0), warmup_steps=10)
    model.optimizer.iterations.assign(step)
    model.train_step(tf.ones([3, 2, 2, 1]))
    np.testing.assert_allclose(model.encoder.mean, [1 - weight], atol=1e-6)  # float32


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("vae", "latent_size"),
        ("vae", "hidden_size"),
        ("vae", "hidden_layers"),
        ("vae_conv", "encoder_channels"),
        ("vae_conv", "decoder_channels"),
    ],
)
def test_vae_refuses_sizes_below_one(name, field):
    config = configs.load(name)
    config[field] = 0
    with pytest.raises(UsageError, match=rf"config.{field}=0 is out of range: give .*\b1\b"):
        models.build(config)


def test_vae_refuses_an_unknown_network():
    config = configs.load("vae")
    config.network = "cnn"
    with pytest.raises(UsageError, match=r"config.network='cnn' .*mlp, conv"):
        models.build(config)


# Flows, priors and bounds


@pytest.mark.parametrize("posterior", ["planar", "radial", "sylvester", "iaf"])
def test_flow_with_identity_parameters_is_the_plain_vae(posterior, digits):
    plain, model = (models.build(tiny.config("vae", posterior=name, norm="none")) for name in ("gaussian", posterior))
    parts = [(m.encoder.network, m.encoder.parameters, m.decoder) for m in (plain, model)]
    for ours, theirs in zip(*parts, strict=True):
        theirs.set_weights(ours.get_weights())
    for variable in model.encoder.flow.trainable_variables:
        variable.assign(tf.zeros_like(variable))
    if posterior == "iaf":
        for made in model.encoder.flow.mades:
            *_, gate_bias = (v for v in made.trainable_variables if v.shape.rank == 1)
            gate_bias.assign(tf.fill(gate_bias.shape, 100.0))  # gate = 1
    seed = tf.constant([1, 2])
    ours, theirs = plain.log_terms(digits, 3, seed), model.log_terms(digits, 3, seed)
    for name in ("log_likelihood", "log_prior", "log_posterior"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


@pytest.mark.parametrize("posterior", ["planar", "radial", "sylvester", "iaf"])
def test_flow_posterior_scores_its_end_and_not_its_start(posterior, digits):
    model = models.build(tiny.config("vae", posterior=posterior))
    for k, variable in enumerate(model.encoder.flow.trainable_variables):
        noise = tf.random.stateless_normal(variable.shape, [k, 0], stddev=0.3)
        variable.assign_add(tf.where(variable == 0, 0.0, noise) if posterior == "iaf" else noise)  # masks stay
    seed = tf.constant([1, 2])
    terms = model.log_terms(digits, 3, seed)
    q = model.encoder(digits)
    start = q.distribution.sample(3, seed=seed)
    end = q.bijector.forward(start)
    assert np.abs(end - start).max() > 0.01
    np.testing.assert_allclose(terms.log_prior, model.prior().log_prob(end), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(terms.log_likelihood, model.decoder(end).log_prob(digits), rtol=1e-5)
    log_det = q.bijector.forward_log_det_jacobian(start, event_ndims=1)
    np.testing.assert_allclose(terms.log_posterior, q.distribution.log_prob(start) - log_det, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "posterior", "prior"),
    [  # vae_best and vampprior are two more
        ("conv", "planar", "maf"),
        ("mlp", "sylvester", "vamp"),
        ("mlp", "radial", "mixture"),
        ("mlp", "iaf", "maf"),
    ],
)
def test_any_posterior_goes_with_any_prior_and_network(network, posterior, prior, digits):
    conformance.check_together(tiny.config("vae", network=network, posterior=posterior, prior=prior), digits)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"network": "conv", "posterior": "iaf", "prior": "vamp"},
        {"inference": "semi_amortized", "refine_gradient": "full"},
        {"bound": "iwae", "train_draws": 3, "gradient": "dreg"},
    ],
)
def test_vae_of_grey_levels_conforms(changes, grey_digits):
    check = conformance.check_together if changes else conformance.check
    check(tiny.config("vae", binarization="none", decoder="logistic", **changes), grey_digits)


def test_vae_of_grey_levels_scores_levels_alone(grey_digits):
    model = models.build(tiny.config("vae", binarization="none", decoder="logistic"))
    elbo = signatures.of(model)["elbo"]
    exact = bounds.elbo(model.log_terms(grey_digits, 1, tf.constant([[7, row] for row in range(len(grey_digits))])))
    np.testing.assert_allclose(elbo(grey_digits, tf.constant(7))["elbo"], exact, atol=1e-3)
    # As a client writes numbers: with four digits.
    np.testing.assert_allclose(elbo(grey_digits.round(4), tf.constant(7))["elbo"], exact, atol=1e-3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="give pixels of k / 255, k from 0 to 255"):
        elbo(grey_digits + np.float32(0.5 / 255) * (grey_digits < 0.5), tf.constant(7))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"give pixels in \[0, 1\]"):
        elbo(255 * grey_digits, tf.constant(7))


def test_vampprior_is_the_mixture_of_its_pseudo_images_posteriors(digits):
    model = models.build(tiny.config("vampprior"))
    z = tf.random.stateless_normal([4, 2], [1, 2])
    components = model.encoder(model.prior.pseudo_images)
    expected = tf.reduce_logsumexp(components.log_prob(z[:, None]), axis=1) - np.log(3)
    np.testing.assert_allclose(model.prior().log_prob(z), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"binarization": "none"}, "decoder='bernoulli' does not go with config.binarization='none': give logistic"),
        ({"binarization": "none", "decoder": "pixelcnn"}, "decoder='pixelcnn' does not go with .* give logistic"),
        ({"decoder": "logistic"}, "binarization='dynamic' does not go with config.decoder='logistic': give none"),
        (
            {"dataset": "binarized_mnist", "decoder": "logistic", "binarization": "none"},
            "decoder='logistic' does not go with config.dataset='binarized_mnist': give bernoulli, pixelcnn",
        ),
        ({"posterior": "planar", "inference": "svi"}, "posterior='planar' does not go with config.inference='svi'"),
        ({"prior": "vamp", "inference": "svi"}, "prior='vamp' does not go with config.inference='svi'"),
        ({"bound": "iwae", "free_bits": 0.5}, "bound='iwae' does not go with config.free_bits=0.5: give elbo"),
        ({"bound": "iwae", "beta": 4.0}, "bound='iwae' does not go with config.beta=4.0: give elbo"),
        ({"bound": "iwae", "capacity": 25.0}, "bound='iwae' does not go with config.capacity=25.0: give elbo"),
        ({"free_bits": 2.0, "capacity": 25.0}, "free_bits=2.0 does not go with config.capacity=25.0: give 0.0"),
        ({"gradient": "stl", "capacity": 25.0}, "gradient='stl' does not go with config.capacity=25.0: give standard"),
        ({"inference": "svi", "beta": 4.0}, "beta=4.0 does not go with config.inference='svi': give 1.0"),
        ({"inference": "svi", "free_bits": 2.0}, "free_bits=2.0 does not go with config.inference='svi': give 0.0"),
        (
            {"inference": "semi_amortized", "warmup_epochs": 5},
            "warmup_epochs=5 does not go with config.inference='semi_amortized': give 0",
        ),
        ({"posterior": "iaf", "gradient": "stl"}, "posterior='iaf' does not go with config.gradient='stl'"),
        ({"gradient": "dreg"}, "bound='elbo' does not go with config.gradient='dreg': give iwae"),
        ({"gradient": "stl", "bound": "iwae"}, "bound='iwae' does not go with config.gradient='stl': give elbo"),
        ({"gradient": "stl", "free_bits": 0.5}, "free_bits=0.5 does not go with config.gradient='stl': give 0.0"),
    ],
)
def test_vae_refuses_options_that_do_not_go_together(options, message):
    with pytest.raises(UsageError, match=message):
        models.build(tiny.config("vae", **options))


def oracle_gradients(gradient: str, bound: str, num_draws: int, kl_weight: float, images: int = 4000) -> np.ndarray:
    """What a training step makes of the posterior mean's shift, one estimate a copy of one image, [images, 2]."""
    x = np.repeat(ORACLE.sample(1), images, axis=0)
    shift = tf.Variable(tf.fill([images, 2], 0.3))
    model = ORACLE.vae(shift, 1.2, bounds.Objective(bound, num_draws, gradient))
    model.shift = shift  # Keras trains what is an attribute
    model.compile(tf_keras.optimizers.SGD(images), seed=1, warmup_steps=4)  # of the mean over the images
    model.optimizer.iterations.assign(round(4 * kl_weight))
    model.train_step(x)
    return shift.numpy().astype(np.float64) - np.float32(0.3)


@pytest.mark.parametrize("kl_weight", [0.25, 0.5, 1.0])
@pytest.mark.parametrize(
    ("gradient", "bound", "num_draws"),
    [("dreg", "iwae", 8), ("dreg", "iwae", 1), ("stl", "elbo", 3)],
)
def test_path_gradient_has_the_mean_of_the_standard_one_and_less_variance(gradient, bound, num_draws, kl_weight):
    standard, path = (oracle_gradients(name, bound, num_draws, kl_weight) for name in ("standard", gradient))
    error = np.sqrt((standard.var(axis=0) + path.var(axis=0)) / len(path))
    assert (np.abs(path.mean(axis=0)) > 5 * error).any()  # else agreement would mean nothing
    # 4 standard errors, 18 times: one in 900 sets of draws is outside.
    np.testing.assert_array_less(np.abs(standard.mean(axis=0) - path.mean(axis=0)), 4 * error)
    assert (path.var(axis=0) < 0.9 * standard.var(axis=0)).all()


def test_path_gradient_vanishes_where_the_posterior_is_exact():
    x, shift = ORACLE.sample(5), tf.zeros([5, 2])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(shift)
        path = bounds.PathGradient(tape)
        terms = ORACLE.vae(shift).log_terms(x, 4, tf.constant([1, 2]), hold=path.hold)
        total = tf.reduce_sum(bounds.elbo(terms))
    np.testing.assert_allclose(path.gradients(total, 1.0, [shift])[0], 0, atol=1e-4)  # float32


@pytest.mark.parametrize(("gradient", "bound"), [("dreg", "iwae"), ("stl", "elbo")])
def test_gradient_estimators_agree_on_the_decoder(gradient, bound, digits):
    def step(gradient):
        model = models.build(tiny.config("vae", bound=bound, train_draws=4, gradient=gradient, norm="none"))
        model.compile(tf_keras.optimizers.SGD(1e-3))
        before = [w.numpy() for w in model.decoder.trainable_weights]
        model.train_step(digits)
        return [w.numpy() - old for w, old in zip(model.decoder.trainable_weights, before, strict=True)]

    for ours, theirs in zip(step("standard"), step(gradient), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)  # float32 differences of weights


@pytest.mark.parametrize("name", ["vae", "ladder"])
def test_beta_changes_what_is_trained_and_not_what_is_reported(name, digits):
    def trained(**options):
        model = models.build(tiny.config(name, free_bits=0.0, norm="none", **options))
        model.compile(tf_keras.optimizers.SGD(1e-3), warmup_steps=4)
        model.optimizer.iterations.assign(4)
        logs = {metric: float(value) for metric, value in model.train_step(digits).items()}
        return model, logs

    (plain, logs), (weighed, same) = trained(), trained(beta=4.0)
    assert logs == same  # of the step before the weights changed
    moved = [float(tf.reduce_max(tf.abs(a - b))) for a, b in zip(plain.weights, weighed.weights, strict=True)]
    assert max(moved) > 1e-6
    assert weighed.score({"val_elbo": -100.0, "val_kl": 20.0}) == -160
    capacity = models.build(tiny.config(name, free_bits=0.0, beta=2.0, capacity=25.0))
    assert capacity.score({"val_elbo": -100.0, "val_kl": 20.0}) == -90


def test_iwae_is_monitored_by_its_own_bound(digits):
    model = models.build(tiny.config("vae", bound="iwae", train_draws=5))
    assert model.score({"val_iwae": -85.0, "val_elbo": -90.0}) == -85
    logs = model.test_step(digits)
    terms = model.log_terms(digits, 5, tf.constant([0, 0]))
    np.testing.assert_allclose(logs["iwae"], tf.reduce_mean(bounds.iwae_bound(terms)), rtol=1e-6)
    assert logs["iwae"] > logs["elbo"]


@pytest.mark.parametrize(
    "changes",
    [  # the field that is wrong first
        {"posterior": "real"},
        {"prior": "flow"},
        {"bound": "elob"},
        {"gradient": "reinforce"},
        {"flow_steps": 0, "posterior": "planar"},
        {"prior_components": 0, "prior": "vamp"},
        {"train_draws": 0},
        {"beta": 0.0},
        {"beta": float("nan")},
        {"capacity": -1.0},
        {"free_bits": -1.0},
        {"free_bits": float("nan")},
        {"free_bits": float("inf")},
        {"free_bits": 1e39},
        {"flow_columns": 3, "posterior": "sylvester"},
        {"latent_size": 1, "prior": "realnvp"},
    ],
)
def test_vae_refuses_values_out_of_range(changes):
    with pytest.raises(UsageError) as error:
        models.build(tiny.config("vae", **changes))
    field = next(iter(changes))
    assert str(error.value).startswith(f"config.{field}={changes[field]!r} is ")
    assert "\n" not in str(error.value)
