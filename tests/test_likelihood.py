import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from keras_genmnist import distributions, likelihood, models, quadrature
from keras_genmnist.bounds import LogTerms
from keras_genmnist.distributions import StandardNormal
from keras_genmnist.models.base import active_units
from keras_genmnist.models.vae import VAE
from keras_genmnist.proposals import PROPOSALS
from tests import tiny
from tests.oracles import ORACLE, LinearGaussian


def weighted(model, x, num_draws):
    return likelihood.weighted(model, x, num_draws, "test").scores


class Tabulated:
    """A model whose log densities are a table [S, N]: image n, of value n, and draw s have the entry [s, n]."""

    latent_size, orders = 3, 1
    layer_sizes = (2, 1)
    draws_bits, autograph = True, False

    def __init__(self, num_draws, num_images):
        generator = np.random.default_rng(0)
        shape = [num_draws, num_images]
        # Sums near -1,000 nats: exp of them is zero, so that only a logsumexp gets through.
        self.log_likelihood, self.log_prior, self.log_posterior = (
            generator.normal(mean, 4, shape).astype(np.float32) for mean in (-900, -130, -30)
        )
        self.layer_kl = generator.normal(25, 5, [2, num_images]).astype(np.float32)

    def log_terms(self, x, num_samples, seed):
        rows = seed[1] + tf.range(num_samples)  # draws are numbered through all calls
        images = tf.cast(x[:, 0, 0, 0], tf.int32)
        tables = (self.log_likelihood, self.log_prior, self.log_posterior)
        terms = [tf.gather(tf.gather(table, rows), images, axis=1) for table in tables]
        return LogTerms(*terms, tf.gather(self.layer_kl, images, axis=1))

    def encode(self, x):
        return {"z": x[:, 0, 0] * [1.0, 0.0, 1.0]}


@pytest.mark.parametrize("num_draws", [1, 9, 10, 23])  # below, at and beside a multiple of the draws of a call
def test_likelihood_streamed_equals_one_shot(monkeypatch, num_draws):
    monkeypatch.setattr(likelihood, "DRAWS_PER_CALL", 5)
    monkeypatch.setattr(likelihood, "BATCH", 4)
    model = Tabulated(num_draws, 11)
    scores = weighted(model, np.arange(11).reshape(11, 1, 1, 1), num_draws)
    log_w = (model.log_likelihood + model.log_prior - model.log_posterior).astype(np.float64)
    nll = np.log(num_draws) - np.logaddexp.reduce(log_w, axis=0)
    reconstruction = model.log_likelihood.mean(axis=0, dtype=np.float64)
    ess = np.exp(2 * np.logaddexp.reduce(log_w, axis=0) - np.logaddexp.reduce(2 * log_w, axis=0))
    # float32 numbers near 1,000 are 6e-5 apart, near 2,000 (the squares) 1.2e-4, which the exponential makes relative.
    for name, values in (("nll", nll), ("reconstruction", reconstruction), ("kl", model.layer_kl.sum(axis=0))):
        np.testing.assert_allclose(scores[name]["mean"], values.mean(), atol=2e-4)
        np.testing.assert_allclose(scores[name]["se"], values.std(ddof=1) / np.sqrt(11), atol=2e-4)
    elbo = reconstruction - model.layer_kl.sum(axis=0)
    np.testing.assert_allclose(scores["elbo"]["mean"], elbo.mean(), atol=2e-4)
    np.testing.assert_allclose(scores["elbo"]["se"], elbo.std(ddof=1) / np.sqrt(11), atol=2e-4)
    np.testing.assert_allclose(scores["nll"]["ess"], ess.mean(), rtol=1e-3)
    assert (scores["nll"]["num_draws"], scores["nll"]["proposal"]) == (num_draws, "posterior")
    np.testing.assert_allclose(scores["nll"]["ess_least"], ess.min(), rtol=1e-3)
    np.testing.assert_allclose(scores["nll"]["ess_percentile_1"], np.quantile(ess, 0.01), rtol=1e-3)
    assert scores["nll"]["share_ess_below_10"] == (ess < 10).mean()
    for layer, kl in zip(scores["layers"], model.layer_kl, strict=True):
        np.testing.assert_allclose(layer["kl"]["mean"], kl.mean(), atol=2e-4)
    assert [(layer["active_units"], layer["latent_size"]) for layer in scores["layers"]] == [(1, 2), (1, 1)]
    assert scores["num_images"] == 11


@pytest.mark.parametrize("num_draws", [1, likelihood.DRAWS_PER_CALL + 3])
def test_likelihood_with_exact_posterior_is_log_px(num_draws):
    x = ORACLE.sample(120)  # two batches
    scores = weighted(ORACLE.vae(), x, num_draws)
    # float32 terms of about 10 nats.
    np.testing.assert_allclose(scores["nll"]["mean"], -ORACLE.log_prob(x).mean(), atol=1e-5)
    np.testing.assert_allclose(scores["nll"]["se"], ORACLE.log_prob(x).std(ddof=1) / np.sqrt(120), atol=1e-5)
    np.testing.assert_allclose(scores["nll"]["ess"], num_draws, rtol=1e-4)  # equal weights: every draw counts
    assert scores["active_units"] == scores["latent_size"] == 2


def test_likelihood_with_a_wrong_posterior_approaches_log_px_from_the_elbo():
    x, num_draws = ORACLE.sample(100), 500
    scores = weighted(ORACLE.vae(shift=0.2, stretch=1.3), x, num_draws)
    log_px, elbo = ORACLE.log_prob(x).mean(), ORACLE.elbo(x, 0.2, 1.3).mean()
    # 50,000 draws with a standard deviation of about 2 nats each (reconstruction) have a standard error of 0.01 nats.
    np.testing.assert_allclose(scores["elbo"]["mean"], elbo, atol=0.04)
    assert -scores["nll"]["mean"] > scores["elbo"]["mean"] + 0.1
    # Weights with a relative variance below 1: each image's error is below 1 / sqrt(500) = 0.045, their mean's a tenth.
    np.testing.assert_allclose(-scores["nll"]["mean"], log_px, atol=0.02)
    assert 1 < scores["nll"]["ess"] < num_draws


def test_likelihood_draws_anew_for_every_batch_and_call(monkeypatch):
    seeds = []

    class Spy(Tabulated):
        def log_terms(self, x, num_samples, seed):
            tf.py_function(lambda s: seeds.append(tuple(s.numpy())), [seed], [])
            return super().log_terms(x, num_samples, seed)

    monkeypatch.setattr(likelihood, "DRAWS_PER_CALL", 5)
    monkeypatch.setattr(likelihood, "BATCH", 4)
    weighted(Spy(15, 8), np.arange(8).reshape(8, 1, 1, 1), 15)
    assert len(seeds) == len(set(seeds)) == 6


def test_draws_of_an_image_take_every_order_as_often(monkeypatch, digits):
    model = models.build(tiny.config("pixelvae_best", posterior="gaussian"))
    counts, given = [], distributions.AutoregressiveBernoulli.log_prob_in

    def log_prob_in(self, order, x):
        tf.py_function(lambda order: counts.append(np.bincount(order.numpy()[:, 0], minlength=8)), [order], [])
        return given(self, order, x)

    monkeypatch.setattr(distributions.AutoregressiveBernoulli, "log_prob_in", log_prob_in)
    monkeypatch.setattr(likelihood, "DRAWS_PER_CALL", 10)
    weighted(model, digits[:2], 24)
    assert np.sum(counts, axis=0).tolist() == [3] * 8


def test_likelihood_does_not_count_a_dead_unit():
    dead = LinearGaussian(ORACLE.weights * [1, 0], ORACLE.bias, ORACLE.scale)  # the second latent moves no pixel
    x = dead.sample(120)
    scores = weighted(dead.vae(), x, 1)
    assert (scores["active_units"], scores["latent_size"]) == (1, 2)


def test_unit_that_tells_classes_apart_alone_is_not_active_where_the_class_is_told():
    labels = np.arange(40) % 2 * 3
    means = np.stack([labels - 1.5, np.arange(40) / 10], axis=1)
    assert active_units(means, [1, 1]) == [1, 1]
    assert active_units(means, [1, 1], labels) == [0, 1]


@pytest.mark.parametrize(("spread", "active"), [(0.08, 0), (0.12, 2)])  # 0.08^2 < 0.01 < 0.12^2
def test_likelihood_counts_units_whose_mean_varies_by_a_hundredth(spread, active):
    class Model(Tabulated):
        latent_size = 2

        def encode(self, x):
            means = spread * tf.where(x[:, 0, 0] % 2 == 0, [[1.0, -1.0]], [[-1.0, 1.0]])
            return {"z": means}

    scores = weighted(Model(1, 10), np.arange(10).reshape(10, 1, 1, 1), 1)
    assert scores["active_units"] == active


def measured_by(weights):
    """What is measured of a model whose log weights, [S, N], are these."""

    class Weighted(Tabulated):
        latent_size, layer_sizes = 3, (3,)

        def __init__(self):
            super().__init__(*weights.shape)
            self.log_likelihood, self.layer_kl = weights.astype(np.float32), self.layer_kl[:1]
            self.log_prior = self.log_posterior = np.zeros_like(self.log_likelihood)

    images = np.arange(weights.shape[1]).reshape(-1, 1, 1, 1)
    return likelihood.weighted(Weighted(), images, len(weights), "test")


def test_likelihood_reports_the_tail_and_doubts_it():
    # Weights U^-k of a known shape: 0.3 for 60 images, 1.5 for 40.
    shapes = np.repeat([0.3, 1.5], [60, 40])
    exponential = np.random.default_rng(1).exponential(size=[1000, 100])
    scores, per_image = measured_by(-100 + shapes * exponential)
    nll = scores["nll"]
    assert abs(nll["share_pareto_k_above_0.7"] - 0.4) < 0.03
    assert nll["share_ess_below_10"] == (per_image["ess"] < 10).mean() > 0.1
    assert (per_image["pareto_k"][:60].mean() < 0.5) and (per_image["pareto_k"][60:].mean() > 1.2)
    line = likelihood.doubt(scores)
    assert "\n" not in line
    for part in ("upper bound", "fewer than 10 of the 1,000", f"{nll['share_pareto_k_above_0.7']:.1%}", "0.7"):
        assert part in line
    assert likelihood.doubt(measured_by(0.3 * exponential).scores) is None


def test_likelihood_by_few_draws_has_no_tail_to_tell_of():
    scores, per_image = measured_by(np.random.default_rng(1).normal(size=[20, 5]))
    assert scores["nll"]["share_pareto_k_above_0.7"] is None and np.isnan(per_image["pareto_k"]).all()
    assert "-" in likelihood.rows(scores)["share of k above 0.7"](scores)


def test_likelihood_image_by_image_averages_to_the_scores():
    scores, per_image = likelihood.weighted(ORACLE.vae(0.2, 1.3), ORACLE.sample(120), 70, "test")
    assert set(per_image) == {"log_px", "elbo", "kl", "ess", "pareto_k"}
    assert all(column.shape == (120,) for column in per_image.values())
    for name, column in (("nll", -per_image["log_px"]), ("elbo", per_image["elbo"]), ("kl", per_image["kl"])):
        assert scores[name]["mean"] == pytest.approx(column.mean())
    assert scores["nll"]["ess"] == pytest.approx(per_image["ess"].mean())


def test_likelihood_by_quadrature_stands_beside_that_by_draws():
    x, model = ORACLE.sample(30), ORACLE.vae(0.5, 0.3)
    scores, per_image = likelihood.weighted(model, x, 60, "test", integrate=True)
    np.testing.assert_allclose(per_image["log_px"], ORACLE.log_prob(x), atol=5e-4)
    assert scores["nll"]["mean"] == pytest.approx(-per_image["log_px"].mean())
    assert scores["nll"]["num_draws"] == "quadrature"
    assert max(scores["nll"]["grid_difference"], scores["nll"]["rule_difference"]) < quadrature.TOLERANCE
    by_draws = likelihood.weighted(model, x, 60, "test").scores
    assert scores["weighted_nll"] == by_draws["nll"] and scores["elbo"] == by_draws["elbo"]
    assert scores["weighted_nll"]["mean"] > scores["nll"]["mean"] + 0.1
    assert likelihood.doubt(scores) is None
    scores["nll"]["rule_difference"] = 0.25
    assert "off by up to 0.25 nats" in likelihood.doubt(scores)


def test_likelihood_by_another_proposal_names_it():
    x, model = ORACLE.sample(60), ORACLE.vae(0.3, 0.3)
    plain, defensive = (likelihood.weighted(model, x, 400, "test", name).scores for name in PROPOSALS)
    assert defensive["nll"]["proposal"] == "defensive"
    nll = -ORACLE.log_prob(x).mean()
    assert plain["nll"]["mean"] > nll + 0.2
    np.testing.assert_allclose(defensive["nll"]["mean"], nll, atol=0.1)
    np.testing.assert_allclose(defensive["elbo"]["mean"], ORACLE.elbo(x, 0.3, 0.3).mean(), atol=0.1)


OF_CLASSES = [ORACLE._replace(bias=ORACLE.bias + shift) for shift in (0.0, 0.8, -0.5)]


def oracle_of_classes(stretch: float) -> VAE:
    """p(x | y) is OF_CLASSES[y], and the posterior given y the true one, its scales multiplied."""
    weights, variance = (tf.constant(a, tf.float32) for a in (ORACLE.weights, ORACLE.posterior_variance))
    biases = tf.constant([own.bias for own in OF_CLASSES], tf.float32)

    def encoder(x, training=False, context=None):
        mean = (tf.reshape(x, [-1, 4]) - context @ biases) @ weights * variance / ORACLE.scale**2
        return tfp.distributions.Independent(
            tfp.distributions.Normal(mean, stretch * tf.sqrt(variance) * tf.ones_like(mean)), 1
        )

    def decoder(z, training=False, context=None):
        mean = tf.linalg.matvec(weights, z) + context @ biases
        return tfp.distributions.Independent(tfp.distributions.Normal(mean[..., None, None], ORACLE.scale), 3)

    decoder.draws_bits = True  # its nats are no bits per dimension
    return VAE(encoder, decoder, StandardNormal(2), (4, 1, 1), num_classes=3)


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_likelihood_of_classes_is_given_the_label_and_without_it(proposal):
    x, labels = np.concatenate([own.sample(30) for own in OF_CLASSES]), np.repeat([0, 1, 2], 30)
    scores, per_image = likelihood.weighted(oracle_of_classes(1.2), x, 600, "test", proposal, labels=labels)
    by_class = np.array([own.log_prob(x) for own in OF_CLASSES])
    expected = {
        "log_px": np.logaddexp.reduce(by_class, axis=0) - np.log(3),
        "log_px_given_label": by_class[labels, np.arange(90)],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(per_image[name].mean(), values.mean(), atol=0.02)
        np.testing.assert_allclose(per_image[name], values, atol=0.3)
    # The same for all images: the gap of a stretched posterior is that of its KL, of every class.
    gap = ORACLE.log_prob(x[:1]) - ORACLE.elbo(x[:1], 0.0, 1.2)
    for name, bound in (("log_px", "elbo"), ("log_px_given_label", "elbo_given_label")):
        np.testing.assert_allclose((expected[name] - per_image[bound]).mean(), gap, atol=0.03)
    accuracy = (by_class.argmax(axis=0) == labels).mean()
    assert 0.6 < accuracy < 0.95
    assert scores["label_accuracy"]["mean"] == (per_image["likeliest_class"] == labels).mean()
    assert abs(scores["label_accuracy"]["mean"] - accuracy) < 0.06
    for own, suffix in ((scores, ""), (scores["given_label"], "_given_label")):
        assert own["nll"]["mean"] == pytest.approx(-per_image[f"log_px{suffix}"].mean())
        assert own["elbo"]["mean"] == pytest.approx(per_image[f"elbo{suffix}"].mean())
        assert (own["nll"]["num_draws"], own["nll"]["proposal"]) == (600, proposal)
    assert scores["nll"]["mean"] > scores["given_label"]["nll"]["mean"] + 0.2
    assert likelihood.doubt(scores) is None
    cells = {label: cell(scores) for label, cell in likelihood.rows(scores).items()}
    assert cells["NLL, of p(x)"].startswith(f"{scores['nll']['mean']:.2f}")
    assert cells["NLL"].startswith(f"{scores['given_label']['nll']['mean']:.2f}")
    assert cells["likeliest class right"].startswith(f"{scores['label_accuracy']['mean']:.2%}")


def test_likelihood_of_classes_where_it_is_exact():
    table = np.log(np.random.default_rng(0).random([3, 40]))

    class Exact:
        """Image n, of value n, has log p(x | y) of table[y, n]."""

        autograph, num_classes = False, 3

        def log_likelihood(self, x, y):
            return tf.gather(tf.gather(table, y[0]), tf.cast(x[:, 0, 0, 0], tf.int32))

    labels = np.arange(40) % 3
    scores, per_image = likelihood.exact(Exact(), np.arange(40).reshape(-1, 1, 1, 1), labels)
    given = table[labels, np.arange(40)]
    np.testing.assert_allclose(per_image["log_px_given_label"], given, rtol=1e-6)
    np.testing.assert_allclose(per_image["log_px"], np.log(np.exp(table).mean(axis=0)), rtol=1e-6)
    assert scores["given_label"] == {"nll": likelihood.mean_and_error(-given)}
    assert scores["label_accuracy"]["mean"] == (table.argmax(axis=0) == labels).mean()
    cells = {label: cell(scores) for label, cell in likelihood.rows(scores).items()}
    assert cells["exact NLL"].startswith(f"{-given.mean():.2f}")


@pytest.mark.parametrize("labels", [None, np.array([7, 2, 1])])
def test_write_of_each_image(tmp_path, labels):
    columns = {"log_px": np.array([-80.125, -91.5, -70.0]), "ess": np.array([1.0, 2.5, np.nan])}
    likelihood.write(tmp_path / "images.npz", columns, labels)
    likelihood.write(tmp_path / "images.csv", columns, labels)
    head, *lines = (tmp_path / "images.csv").read_text().splitlines()
    names = ["index", *(["label"] if labels is not None else []), "log_px", "ess"]
    assert head.split(",") == names
    assert lines[0] == ("0,7,-80.125,1.0" if labels is not None else "0,-80.125,1.0")
    with np.load(tmp_path / "images.npz") as arrays:
        assert list(arrays) == names
        for number, name in enumerate(names):
            np.testing.assert_array_equal(arrays[name], [float(line.split(",")[number]) for line in lines])


def test_mean_and_error_are_those_of_the_images():
    scores = likelihood.mean_and_error(np.array([1.0, 2.0, 3.0, 6.0]))
    # Variance of the sample (4 + 1 + 0 + 9) / 3 = 14 / 3, of the mean a quarter of it.
    assert scores == pytest.approx({"mean": 3.0, "se": np.sqrt(14 / 3 / 4)})
