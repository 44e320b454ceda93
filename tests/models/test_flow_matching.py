import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

from keras_genmnist import models
from keras_genmnist.errors import UsageError
from keras_genmnist.models import flow_matching
from keras_genmnist.models.flow_matching import TIMES, FlowMatching, euler, heun, runge_kutta, solve, with_trace
from keras_genmnist.networks import UNet
from tests import conformance, tiny

SHAPE = (2, 2, 1)
PIXELS = math.prod(SHAPE)
DIAGONAL = np.diag([0.1, 0.5, 0.3, 2.0]).astype(np.float32)
_ROOT = np.random.default_rng(3).normal(0, 0.3, [PIXELS, PIXELS])
FULL = (_ROOT @ _ROOT.T + 0.1 * np.eye(PIXELS)).astype(np.float32)
MEAN = np.array([0.3, -0.5, 0.0, 0.2], np.float32)


class Gaussian(FlowMatching):
    """Its velocity is the one that leads to N(MEAN, covariance), in closed form.

    x(t) ~ N(t mean, c) with c = (1 - t)^2 I + t^2 covariance, and v(x, t) = E[image - noise | x(t) = x].
    """

    def __init__(self, covariance, **options):
        super().__init__(None, SHAPE, 20, **options)
        self.covariance = covariance

    def velocity(self, x, t, classes):
        flat, eye = tf.reshape(x, [-1, PIXELS]), np.eye(PIXELS, dtype=np.float32)
        gain = (t * self.covariance - (1 - t) * eye) @ tf.linalg.inv((1 - t) ** 2 * eye + t**2 * self.covariance)
        return tf.reshape(MEAN + (flat - t * MEAN) @ tf.transpose(gain), tf.shape(x))

    @property
    def density(self):
        return tfp.distributions.MultivariateNormalFullCovariance(MEAN, self.covariance)

    def image_of(self, noise):
        """Where the flow leads, exactly: MEAN + covariance^(1/2) noise."""
        values, vectors = np.linalg.eigh(self.covariance.astype(np.float64))
        root = vectors * np.sqrt(values) @ vectors.T
        return (MEAN + noise.reshape(-1, PIXELS) @ root).reshape(noise.shape)


@pytest.fixture(scope="module")
def network():
    """That of 2 x 2 images of three classes, its weights drawn at random."""
    network = UNet(SHAPE, features=4, num_blocks=1, hidden_size=8, outputs=1, takes_context=True)
    randomised(FlowMatching(network, SHAPE, 3, num_classes=3))
    return network


@pytest.fixture(scope="module")
def grey(mnist_5k):
    """Grey digits, float32 [32, 28, 28, 1], and their labels."""
    return mnist_5k.train.images[:32].astype(np.float32) / 255, mnist_5k.train.labels[:32]


def randomised(model):
    model.build_variables()
    generator = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(generator.normal(0, 0.3, weight.shape))
    return model


def noise(count, shape=SHAPE):
    return np.random.default_rng(1).normal(size=[count, *shape]).astype(np.float32)


def seeds(count, seed=7):
    return tf.stack([tf.fill([count], seed), tf.range(count)], axis=1)


@pytest.mark.parametrize("class_conditional", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_flow_matching_conforms(class_conditional):
    config = tiny.config("flow_matching", class_conditional=class_conditional)
    model = models.build(config)
    signatures = conformance.check_generative(model, config)
    expected = {"sample_rows", "sample", "log_likelihood"} | ({"sample_class"} if class_conditional else set())
    assert signatures.keys() == expected
    assert not model.draws_bits and model.likelihood == "bound"


@pytest.mark.parametrize("step, order", [(euler, 1), (heun, 2), (runge_kutta, 4)])
def test_solvers_lead_to_the_gaussian_and_err_by_their_order(step, order):
    model, start = Gaussian(FULL), noise(50)

    def error(num_steps):
        found = solve(lambda x, t, k: model.velocity(x, t, None), tf.constant(start), 0.0, 1.0, num_steps, step)
        return np.abs(found - model.image_of(start)).max()

    coarse, fine = (8, 16) if order == 4 else (32, 64)
    assert error(fine) < {1: 0.1, 2: 2e-3, 4: 1e-3}[order]
    assert error(coarse) / error(fine) == pytest.approx(2**order, rel=0.25)


def test_draws_are_where_the_flow_leads_in_as_many_steps(monkeypatch):
    model = Gaussian(FULL)
    draw = tf.function(model.draw, autograph=False)
    drawn = draw(seeds(400), num_steps=40)["images"].numpy()
    monkeypatch.setattr(Gaussian, "velocity", lambda self, x, t, classes: tf.zeros_like(x))
    unmoved = Gaussian(FULL)
    monkeypatch.setattr(flow_matching.tf, "clip_by_value", lambda x, low, high: x)
    start = 2 * (255 * unmoved.draw(seeds(400))["images"].numpy() + 0.5) / 256 - 1
    assert abs(start.mean()) < 0.1 and start.std() == pytest.approx(1, abs=0.1)
    assert abs(np.corrcoef(start.reshape(-1, PIXELS).T) - np.eye(PIXELS)).max() < 0.2
    expected = (256 * (model.image_of(start) + 1) / 2 - 0.5) / 255
    np.testing.assert_allclose(drawn, np.clip(expected, 0, 1), atol=2e-3)
    assert (drawn == 0).any() and (drawn == 1).any()


@pytest.mark.parametrize("solver, calls", [("euler", 5), ("heun", 9)])
def test_a_run_draws_in_its_own_steps_by_its_own_solver(solver, calls, monkeypatch):
    times = []
    model = FlowMatching(None, SHAPE, 5, solver=solver)
    monkeypatch.setattr(model, "velocity", lambda x, t, classes: times.append(float(t)) or tf.zeros_like(x))
    model.draw(seeds(2))
    assert len(times) == calls and set(np.round(times, 6)) == {0.0, 0.2, 0.4, 0.6, 0.8}


@pytest.mark.parametrize("covariance, tolerance", [(DIAGONAL, 2e-3), (FULL, None)])
def test_log_density_is_that_of_the_gaussian(covariance, tolerance):
    model = Gaussian(covariance)
    x = model.image_of(noise(20)).astype(np.float32)
    exact = model.density.log_prob(x.reshape(-1, PIXELS)).numpy()
    measure = tf.function(lambda seed: model.log_density(x, seed, None), autograph=False)
    if tolerance:  # of a diagonal Jacobian every probe gives the trace
        np.testing.assert_allclose(measure(tf.constant([0, 1])), exact, atol=tolerance)
        return
    found = np.array([measure(tf.constant([0, number])) for number in range(100)])
    error = found.mean(axis=1).std(ddof=1) / 10
    assert 0 < error < 0.1
    assert abs(found.mean() - exact.mean()) < 4 * error
    np.testing.assert_allclose(found.mean(axis=0), exact, atol=5 * found.std(axis=0, ddof=1).max() / 10)


def test_mean_of_all_probes_is_the_trace_of_the_jacobian(network):
    model = FlowMatching(network, SHAPE, 3, num_classes=3)
    x, classes = tf.constant(noise(5)), tf.one_hot([0, 1, 2, 0, 1], 3)

    def velocity(x):
        return model.velocity(x, tf.constant(0.4), classes)

    probes = np.array(list(itertools.product([-1.0, 1.0], repeat=PIXELS)), np.float32).reshape(-1, 1, *SHAPE)
    traces = np.array([with_trace(velocity, x, np.repeat(probe, 5, axis=0))[1] for probe in probes])
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = velocity(x)
    jacobian = tf.reshape(tape.batch_jacobian(value, x), [5, PIXELS, PIXELS])
    np.testing.assert_allclose(traces.mean(axis=0), tf.linalg.trace(jacobian), atol=1e-4)
    assert (traces.std(axis=0) > 1e-3).all()
    np.testing.assert_array_equal(with_trace(velocity, x, np.repeat(probes[0], 5, axis=0))[0], value)


@pytest.mark.slow
def test_density_of_any_velocity_integrates_to_one(monkeypatch):
    def exact(f, x, probe):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = f(x)
        return value, tf.linalg.trace(tf.reshape(tape.batch_jacobian(value, x), [-1, 2, 2]))

    monkeypatch.setattr(flow_matching, "with_trace", exact)
    shape = (1, 2, 1)
    model = randomised(FlowMatching(UNet(shape, 4, 1, 8, outputs=1, takes_context=True), shape, 3))
    axis = np.linspace(-9, 9, 61).astype(np.float32)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, *shape)
    log_density = tf.function(model.log_density, autograph=False)(grid, tf.constant([0, 1]), None).numpy()
    np.testing.assert_allclose(np.exp(log_density.astype(np.float64)).sum() * (axis[1] - axis[0]) ** 2, 1, atol=5e-3)
    near = np.abs(grid).max(axis=(1, 2, 3)) < 2
    normal = -0.5 * (grid**2).sum(axis=(1, 2, 3)) - np.log(2 * np.pi)
    assert abs(log_density - normal)[near].max() > 0.3  # another density than the noise's


def test_bound_is_that_of_dequantized_levels():
    model = Gaussian(DIAGONAL)
    levels = np.array([[0, 17, 128, 255], [200, 90, 60, 130]])
    x = (levels / 255).astype(np.float32).reshape(-1, *SHAPE)
    pieces = -1 + 2 * (levels[:, None] + (np.arange(1000)[:, None] + 0.5) / 1000) / 256
    density = tfp.distributions.MultivariateNormalDiag(MEAN, np.sqrt(np.diag(DIAGONAL)))
    expected = density.log_prob(pieces.astype(np.float32)).numpy().mean(axis=1) - PIXELS * math.log(128)
    found = tf.function(model.log_likelihood, autograph=False)(x, num_draws=50, seed=3)
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_bound_averages_its_draws(monkeypatch):
    seen = []

    def log_density(self, x, seed, classes):
        seen.append((x.numpy(), seed.numpy()))
        return tf.reduce_sum(x, axis=[1, 2, 3])

    monkeypatch.setattr(Gaussian, "log_density", log_density)
    model, x = Gaussian(DIAGONAL), np.full([3, *SHAPE], 100 / 255, np.float32)
    found = model.bound_terms(x, num_draws=4, seed=1)["elbo"]
    expected = np.mean([points.sum(axis=(1, 2, 3)) for points, _ in seen], axis=0) - PIXELS * math.log(128)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert len({tuple(seed) for _, seed in seen}) == 4
    points = 128 * (np.array([points for points, _ in seen]) + 1)
    assert (points >= 100).all() and (points <= 101).all() and np.ptp(points) > 0.8
    assert len(np.unique(points)) == points.size
    assert (model.bound_terms(x, num_draws=4, seed=2)["elbo"] != found).numpy().all()


def test_bound_without_a_label_is_that_of_all_classes_together(network, monkeypatch):
    model, x = FlowMatching(network, SHAPE, 3, num_classes=3), np.round(255 * np.abs(np.sin(noise(4)))) / 255
    bound = tf.function(model.bound_terms, autograph=False)
    given = [bound(x, tf.fill([4], label), num_draws=2, seed=1)["elbo"] for label in tf.range(3)]
    assert (np.ptp(given, axis=0) > 1e-3).all()
    without = bound(x, num_draws=2, seed=1)["elbo"]
    own = model.velocity
    monkeypatch.setattr(model, "velocity", lambda x, t, classes: own(x, t, tf.zeros_like(classes)))
    untold = tf.function(model.bound_terms, autograph=False)
    np.testing.assert_allclose(untold(x, tf.fill([4], 1), num_draws=2, seed=1)["elbo"], without, rtol=1e-5)


def test_guidance_goes_from_no_class_through_the_class_beyond_it(network):
    x, t, classes = tf.constant(noise(3)), tf.constant(0.3), tf.one_hot([0, 1, 2], 3)

    def guided(guidance):
        model = FlowMatching(network, SHAPE, 3, num_classes=3, label_dropout=0.1, guidance=guidance)
        return model.guided(x, t, classes).numpy()

    model = FlowMatching(network, SHAPE, 3, num_classes=3)
    given, without = (model.velocity(x, t, context).numpy() for context in (classes, tf.zeros([3, 3])))
    assert abs(given - without).min() > 1e-4
    for guidance, expected in ((1.0, given), (0.0, without), (3.0, 3 * given - 2 * without)):
        np.testing.assert_allclose(guided(guidance), expected, atol=1e-5)


def test_times_of_a_batch_are_even_shares_apart(monkeypatch, grey):
    images, _ = grey
    model = models.build(tiny.config("flow_matching"))
    seen = []
    monkeypatch.setattr(model, "velocity", lambda x, t, classes: seen.append((x, t)) or tf.zeros_like(x))
    errors = model.errors(images, tf.constant([0, 1]), None).numpy()
    (x, t), other = seen[0], model.errors(images, tf.constant([0, 2]), None)
    np.testing.assert_allclose(np.diff(t), 1 / 32, atol=1e-6)
    assert 0 <= t[0] < 1 / 32 and seen[1][1][0] != t[0]
    assert (errors != other.numpy()).all()
    # The last point of the path is nearly the image, the first nearly noise of variance 1.
    np.testing.assert_allclose(x[31], 2 * images[31] - 1, atol=5 / 32)
    assert np.std(x[0]) == pytest.approx(1, abs=0.1)
    # Without a velocity the error is that of x - noise.
    assert errors.mean() / 784 == pytest.approx(1 + np.mean((2 * images - 1) ** 2), rel=0.02)


def test_logit_normal_times_are_logistic_of_normal_ones():
    t = TIMES["logit_normal"](tf.linspace(0.0, 1.0, 1001)).numpy()
    assert np.isfinite(t).all() and 0 < t[0] < 0.02 and 0.98 < t[-1] < 1
    logits = np.log(t[1:-1] / (1 - t[1:-1]))
    assert abs(logits.mean()) < 1e-4 and logits.std() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("class_conditional", [False, True])
def test_training_moves_every_variable_and_lowers_the_error(grey, class_conditional):
    config = tiny.config("flow_matching", class_conditional=class_conditional)
    batch = grey if class_conditional else grey[0]
    model = models.build(config)
    model.compile(tf_keras.optimizers.Adam(1e-2), seed=3)
    before, weights = model.validate([batch])["loss"], [weight.numpy() for weight in model.weights]
    assert model.validate([batch])["loss"] == before  # by the same draws
    step = tf.function(model.train_step, autograph=False)
    for _ in range(40):
        step(batch)
    for weight, old in zip(model.weights, weights, strict=True):
        assert np.isfinite(weight).all()
        assert (weight.numpy() != old).any(), f"{weight.name} has no gradient"
    assert model.validate([batch])["loss"] < before - 200
    assert model.score({"val_loss": 100.0}) > model.score({"val_loss": 110.0})


def test_training_is_a_function_of_seed_and_step(grey):
    def trained(seed):
        model = models.build(tiny.config("flow_matching", class_conditional=True))
        model.compile(tf_keras.optimizers.SGD(1e-4), seed=seed)
        losses = [float(model.train_step(grey)["loss"]) for _ in range(3)]
        return losses, tiny.bits(model)

    (losses, bits), again, other = trained(3), trained(3), trained(4)
    assert (losses, bits) == again
    assert losses[0] != other[0][0] and bits != other[1]
    assert len(set(losses)) == 3


def test_labels_are_left_out_as_often_as_the_config_says(grey, monkeypatch):
    images, labels = (np.tile(part, [8, *[1] * (part.ndim - 1)]) for part in grey)
    model = models.build(tiny.config("flow_matching", class_conditional=True, label_dropout=0.25))
    model.compile(tf_keras.optimizers.SGD(0.0), seed=1)
    seen = []
    own = model.errors
    monkeypatch.setattr(model, "errors", lambda x, seed, classes: seen.append(classes.numpy()) or own(x, seed, classes))
    for _ in range(2):
        model.train_step((images, labels))
    model.test_step((images, labels))
    for classes in seen[:2]:
        heard = classes.sum(axis=1) == 1
        np.testing.assert_array_equal(classes[heard].argmax(axis=1), labels[heard])
        assert (classes[~heard] == 0).all() and abs(1 - heard.mean() - 0.25) < 0.11  # 4 standard errors
    assert (seen[0] != seen[1]).any()
    np.testing.assert_array_equal(seen[2].argmax(axis=1), labels)  # all in validation


@pytest.mark.parametrize(
    "field, value, accepted",
    [
        ("binarization", "dynamic", "give none"),
        ("features", 0, "1 or more"),
        ("num_blocks", 0, "1 or more"),
        ("hidden_size", 0, "1 or more"),
        ("sampling_steps", 0, "1 or more"),
        ("sampling_steps", 1001, "at most 1000"),
        ("solver", "rk4", "euler, heun"),
        ("times", "cosine", "uniform, logit_normal"),
        ("label_dropout", 0.0, "above 0"),
        ("label_dropout", 1.0, "below 1"),
        ("guidance", -1.0, "0 or more"),
        ("guidance", 2.0, "class_conditional"),
    ],
)
def test_flow_matching_refuses_a_value_out_of_range(field, value, accepted):
    with pytest.raises(UsageError) as refused:
        models.build(tiny.config("flow_matching", **{field: value}))
    message = str(refused.value)
    assert field in message and str(value) in message and accepted in message and "\n" not in message


def test_flow_matching_refuses_bits():
    with pytest.raises(UsageError, match=r"config.dataset=binarized_mnist has pixels of 0 and 1 alone"):
        models.build(tiny.config("flow_matching", dataset="binarized_mnist"))
