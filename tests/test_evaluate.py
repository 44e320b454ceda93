import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from keras_genmnist import classifier, evaluate, gap, models, quality, runs
from keras_genmnist.bounds import LogTerms
from keras_genmnist.errors import UsageError
from tests import tiny
from tests.oracles import ORACLE, LinearGaussian


def likelihood(model, x, num_draws):
    return evaluate.likelihood(model, x, num_draws, "test")


class Tabulated:
    """A model whose log densities are a table [S, N]: image n, of value n, and draw s have the entry [s, n]."""

    latent_size = 3
    layer_sizes = (2, 1)

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
    monkeypatch.setattr(evaluate, "DRAWS_PER_CALL", 5)
    monkeypatch.setattr(evaluate, "BATCH", 4)
    model = Tabulated(num_draws, 11)
    scores = likelihood(model, np.arange(11).reshape(11, 1, 1, 1), num_draws)
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
    assert scores["nll"]["num_draws"] == num_draws
    for layer, kl in zip(scores["layers"], model.layer_kl, strict=True):
        np.testing.assert_allclose(layer["kl"]["mean"], kl.mean(), atol=2e-4)
    assert [(layer["active_units"], layer["latent_size"]) for layer in scores["layers"]] == [(1, 2), (1, 1)]
    assert scores["num_images"] == 11


@pytest.mark.parametrize("num_draws", [1, evaluate.DRAWS_PER_CALL + 3])
def test_likelihood_with_exact_posterior_is_log_px(num_draws):
    x = ORACLE.sample(120)  # two batches
    scores = likelihood(ORACLE.vae(), x, num_draws)
    # float32 terms of about 10 nats.
    np.testing.assert_allclose(scores["nll"]["mean"], -ORACLE.log_prob(x).mean(), atol=1e-5)
    np.testing.assert_allclose(scores["nll"]["se"], ORACLE.log_prob(x).std(ddof=1) / np.sqrt(120), atol=1e-5)
    np.testing.assert_allclose(scores["nll"]["ess"], num_draws, rtol=1e-4)  # equal weights: every draw counts
    assert scores["active_units"] == scores["latent_size"] == 2


def test_likelihood_with_a_wrong_posterior_approaches_log_px_from_the_elbo():
    x, num_draws = ORACLE.sample(100), 500
    scores = likelihood(ORACLE.vae(shift=0.2, stretch=1.3), x, num_draws)
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

    monkeypatch.setattr(evaluate, "DRAWS_PER_CALL", 5)
    monkeypatch.setattr(evaluate, "BATCH", 4)
    likelihood(Spy(15, 8), np.arange(8).reshape(8, 1, 1, 1), 15)
    assert len(seeds) == len(set(seeds)) == 6


def test_likelihood_does_not_count_a_dead_unit():
    dead = LinearGaussian(ORACLE.weights * [1, 0], ORACLE.bias, ORACLE.scale)  # the second latent moves no pixel
    x = dead.sample(120)
    scores = likelihood(dead.vae(), x, 1)
    assert (scores["active_units"], scores["latent_size"]) == (1, 2)


@pytest.mark.parametrize(("spread", "active"), [(0.08, 0), (0.12, 2)])  # 0.08^2 < 0.01 < 0.12^2
def test_likelihood_counts_units_whose_mean_varies_by_a_hundredth(spread, active):
    class Model(Tabulated):
        latent_size = 2

        def encode(self, x):
            means = spread * tf.where(x[:, 0, 0] % 2 == 0, [[1.0, -1.0]], [[-1.0, 1.0]])
            return {"z": means}

    scores = likelihood(Model(1, 10), np.arange(10).reshape(10, 1, 1, 1), 1)
    assert scores["active_units"] == active


def test_mean_and_error_are_those_of_the_images():
    scores = evaluate.mean_and_error(np.array([1.0, 2.0, 3.0, 6.0]))
    # Variance of the sample (4 + 1 + 0 + 9) / 3 = 14 / 3, of the mean a quarter of it.
    assert scores == pytest.approx({"mean": 3.0, "se": np.sqrt(14 / 3 / 4)})


@pytest.fixture(scope="module")
def evaluated(run, tmp_path_factory):
    """The record of a copy of the run, and the folder it was evaluated in."""
    folder = tmp_path_factory.mktemp("evaluate")
    copy = runs.load(shutil.copytree(run.workdir, folder / "vae_copy"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return evaluate.evaluate(copy, num_draws=2, results=True), folder


def test_evaluate_writes_metrics_and_results(evaluated):
    record, folder = evaluated
    assert json.loads((folder / "vae_copy" / "metrics.json").read_text()) == record
    assert json.loads((folder / "results" / "vae_copy-mnist_5k.json").read_text()) == record


def test_evaluate_records_what_was_scored(run, evaluated):
    record, _ = evaluated
    assert record["config"] == run.config.to_dict()
    assert [record[key] for key in ("model", "dataset", "binarization", "seed")] == ["vae", "mnist_5k", "dynamic", 3435]
    assert [record[key] for key in ("weights", "epochs", "command")] == ["raw", 1, "genmnist train"]
    here = {"machine": runs.machine(), "commit": runs.commit()}
    assert record["evaluated"] == here
    assert record["trained"] == {key: [value] for key, value in here.items()}
    # 784-8-8-(2+2) and 2-8-8-784: weights, and biases or what batch norm has in their place.
    encoder, decoder = 785 * 8 + 9 * 8 + 9 * 4, 3 * 8 + 9 * 8 + 9 * 784
    assert record["parameters"] == encoder + decoder
    for split in ("validation", "test"):
        scores = record[split]
        assert scores["num_images"] == 500
        assert scores["nll"]["num_draws"] == 2
        assert scores["elbo"]["mean"] == pytest.approx(scores["reconstruction"]["mean"] - scores["kl"]["mean"])
        assert -scores["nll"]["mean"] > scores["elbo"]["mean"] - 1  # two draws: above but for noise of 0.1
        assert all(scores[name]["se"] > 0 for name in ("elbo", "kl", "reconstruction", "nll"))
    assert record["validation"]["elbo"] != record["test"]["elbo"]
    for name, pixels in (("samples", "mean images"), ("samples_binary", "drawn bits")):
        assert (record[name]["pixels"], record[name]["num_samples"]) == (pixels, 500)
        assert record[name]["judges"] == [judge.sha256 for judge in classifier.JUDGES]


def test_result_names_every_machine_and_commit_of_the_training(run, tmp_path, monkeypatch):
    copy = runs.load(shutil.copytree(run.workdir, tmp_path / "run"))
    (row,) = runs.read_metrics(run)
    older = {key: value for key, value in row.items() if key not in ("machine", "commit")}
    rows = [older, older, row | {"machine": "A", "commit": "a"}, row | {"machine": "A", "commit": "b"}, older]
    copy.metrics_jsonl.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = evaluate.provenance(copy)
    # An older version said in config.json alone what began the run.
    assert found["trained"] == {"machine": [None, "A"], "commit": ["commit", "a", "b"]}


@pytest.mark.parametrize("which", ["here", "trained"])
def test_results_of_code_that_is_in_no_commit_are_refused_before_any_work(which, run, tmp_path, monkeypatch):
    copy = runs.load(shutil.copytree(run.workdir, tmp_path / "run"))
    if which == "here":
        monkeypatch.setattr(runs, "commit", lambda: "c0ffee+")
    else:
        (row,) = runs.read_metrics(run)
        copy.metrics_jsonl.write_text(json.dumps(row | {"commit": "c0ffee+"}) + "\n")
    monkeypatch.setattr(runs, "load_model", None)  # would be called for any work
    for verb in (lambda: evaluate.evaluate(copy, 2, results=True), lambda: gap.gap(copy, 2, True, tmp_path)):
        with pytest.raises(UsageError, match=r"--results .* c0ffee: .* leave out --results") as raised:
            verb()
        assert len(str(raised.value).splitlines()) == 1
        assert (str(copy.workdir) in str(raised.value)) == (which == "trained")
    assert not copy.metrics_json.exists()


def test_likelihood_is_kept_where_the_samples_fail(run, evaluated, tmp_path, monkeypatch):
    copy = runs.load(shutil.copytree(run.workdir, tmp_path / "vae_copy"))
    copy.metrics_json.unlink(missing_ok=True)

    def out_of_memory(*arguments):
        raise MemoryError

    monkeypatch.setattr(evaluate, "draw", out_of_memory)
    with pytest.raises(MemoryError):
        evaluate.evaluate(copy, num_draws=2, results=False)
    record, _ = evaluated
    kept = json.loads(copy.metrics_json.read_text())
    assert kept == {key: value for key, value in record.items() if not key.startswith("samples")}


def test_evaluate_table_shows_every_number(evaluated):
    record, _ = evaluated
    table = evaluate.table(record)
    for split in ("validation", "test"):
        assert split in table
        for name in ("elbo", "kl", "reconstruction", "nll"):
            assert f"{record[split][name]['mean']:.2f} +- {record[split][name]['se']:.2f}" in table
    for samples in (record["samples"], record["samples_binary"]):
        for name, form in (("frechet", ".2f"), ("frechet_floor", ".2f"), ("precision", ".1%"), ("rarest_class", ".1%")):
            assert f"{samples[name]['mean']:{form}} +- {samples[name]['spread']:{form}}" in table
    parzen = record["samples"]["parzen"]
    assert f"{parzen['mean']:.1f} +- {parzen['se']:.1f} nats" in table
    for part in (
        "mnist_5k",
        "dynamic",
        "reference",
        "draws for the NLL",
        "of 2",
        "mean images, raw",
        "drawn bits, raw",
    ):
        assert part in table
    assert f"{len(classifier.JUDGES)} judges" in table


@pytest.fixture(scope="module")
def gan(tmp_path_factory):
    """A trained run of a GAN whose weights are averaged."""
    return tiny.train(tiny.begin(tmp_path_factory.mktemp("gan") / "gan", "gan", epochs=1, ema_decay=0.9))


def assert_scored(found, samples, dataset, binary=False):
    expected = quality.score(samples, dataset, binary)
    assert list(found) == ["pixels", *expected]
    for metric in ("frechet", "frechet_floor", "precision", "recall", "class_kl"):
        assert found[metric]["each"] == pytest.approx(expected[metric]["each"])


def test_evaluate_scores_mean_images_and_drawn_bits(run, evaluated, mnist_5k):
    record, _ = evaluated
    drawn = evaluate.draw(runs.load_model(run), 500)
    assert_scored(record["samples"], drawn["probabilities"], mnist_5k)
    assert_scored(record["samples_binary"], drawn["images"], mnist_5k, binary=True)
    assert set(np.unique(drawn["images"])) == {0, 1}
    assert "samples_raw" not in record


def test_evaluate_of_a_gan_scores_averaged_and_raw_weights(gan, mnist_5k):
    record = evaluate.evaluate(gan, num_draws=None, results=False)
    assert "test" not in record and "validation" not in record and "samples_binary" not in record
    for name, raw in (("samples", False), ("samples_raw", True)):
        assert record[name]["pixels"] == "grey levels"
        assert_scored(record[name], evaluate.draw(runs.load_model(gan, raw), 500)["images"], mnist_5k)
    assert record["samples"]["frechet"] != record["samples_raw"]["frechet"]
    table = evaluate.table(record)
    assert "grey levels, ema" in table and "grey levels, raw" in table and "NLL" not in table


@pytest.mark.parametrize("name, decoder", [("pixelcnn", None), ("vae", "pixelcnn"), ("vae", "bernoulli")])
def test_like_is_compared_with_like(name, decoder, mnist_5k, monkeypatch):
    model = models.build(tiny.config(name, **({"decoder": decoder} if decoder else {})))
    drawn = {"images": "bits", "probabilities": "probabilities"}
    monkeypatch.setattr(evaluate, "draw", lambda model, count: drawn)
    monkeypatch.setattr(quality, "score", lambda samples, dataset, binary=False: {"scored": samples, "binary": binary})
    bits = {"samples_binary": {"pixels": "drawn bits", "scored": "bits", "binary": True}}
    grey = {"samples": {"pixels": "mean images", "scored": "probabilities", "binary": False}}
    # The probability of a pixel given the pixels drawn before it is no grey level of an image.
    expected = bits | grey if decoder == "bernoulli" else bits
    assert evaluate.quality_of_samples(None, model, mnist_5k) == expected
    # Nor is there anything grey to compare with in binarized_mnist.
    assert evaluate.quality_of_samples(None, model, mnist_5k._replace(name="binarized_mnist")) == bits


def test_evaluate_of_a_gan_refuses_num_draws(gan):
    with pytest.raises(UsageError, match=r"--num_draws=7 means nothing for gan: .* no likelihood .*Frechet distance"):
        evaluate.evaluate(gan, num_draws=7, results=False)


def test_draw_is_of_the_model_whatever_the_calls(gan, monkeypatch):
    model = runs.load_model(gan)
    drawn = evaluate.draw(model, 7)["images"]
    assert drawn.shape == (7, 28, 28, 1)
    monkeypatch.setattr(evaluate, "SAMPLES_PER_CALL", 3)
    np.testing.assert_allclose(evaluate.draw(model, 7)["images"], drawn, atol=1e-6)  # other numbers of rows
    assert len(np.unique(drawn.reshape(7, -1), axis=0)) == 7
