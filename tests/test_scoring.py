import csv
import itertools
import json

import numpy as np
import pytest
import tensorflow as tf

from keras_genmnist import bounds, datasets, models, quadrature, runs, scoring, signatures, sources
from keras_genmnist.datasets import binarization
from keras_genmnist.errors import UsageError
from tests import test_cli, tiny
from tests.oracles import ORACLE

call, genmnist = test_cli.call, test_cli.genmnist


@pytest.fixture(scope="module")
def source(run):
    return sources.of_run(run)


def seeds_of(images):
    return tf.stack([tf.fill([len(images)], 3), tf.range(len(images))], axis=1)


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_estimate_by_the_true_posterior_is_log_px_and_every_draw_counts():
    x = ORACLE.sample(6)
    found = signatures._estimated(ORACLE.vae().log_terms, x, tf.constant(40), seeds_of(x))
    np.testing.assert_allclose(found["log_likelihood"], ORACLE.log_prob(x), atol=1e-4)
    np.testing.assert_allclose(found["ess"], 40, rtol=1e-3)


@pytest.mark.parametrize("num_draws", [1, signatures.DRAWS, 2 * signatures.DRAWS + 5])
def test_estimate_in_parts_is_that_of_all_draws_at_once(num_draws):
    x, model = ORACLE.sample(3), ORACLE.vae(shift=0.3, stretch=1.5)
    terms, log_terms = [], model.log_terms
    model.log_terms = lambda *given: terms.append(log_terms(*given)) or terms[-1]
    found = signatures._estimated(model.log_terms, x, tf.constant(num_draws), seeds_of(x))
    assert len(terms) == -(-num_draws // signatures.DRAWS)
    log_w = np.concatenate([bounds.log_weights(own) for own in terms]).astype(np.float64)
    assert log_w.shape == (num_draws, 3) and len(np.unique(log_w[:, 0])) == num_draws
    weights = np.exp(log_w)
    np.testing.assert_allclose(found["log_likelihood"], np.log(weights.mean(axis=0)), atol=1e-4)
    np.testing.assert_allclose(found["ess"], weights.sum(axis=0) ** 2 / (weights**2).sum(axis=0), rtol=1e-3)
    reconstruction = np.concatenate([own.log_likelihood for own in terms]).mean(axis=0)
    np.testing.assert_allclose(found["bound"], reconstruction - bounds.kl(terms[0]), atol=1e-4)


def test_signature_of_a_model_that_knows_its_likelihood_gives_it(digits):
    model = models.build(tiny.config("pixelcnn"))
    found = signatures.of(model)["log_likelihood"](images=digits[:2], num_draws=tf.constant(7), seed=tf.constant(1))
    for name in ("log_likelihood", "bound"):
        np.testing.assert_allclose(found[name], model.log_likelihood(digits[:2]), rtol=1e-5)
    np.testing.assert_array_equal(found["ess"], [7, 7])


def test_auroc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    own, outliers = rng.integers(0, 6, 40), rng.integers(2, 9, 30)  # with ties, which count half
    pairs = [(b > a) + (b == a) / 2 for a, b in itertools.product(own, outliers)]
    assert scoring.auroc(own, outliers)["mean"] == pytest.approx(np.mean(pairs))
    assert scoring.auroc(own, own + 10) == {"mean": 1.0, "se": 0.0}
    assert scoring.auroc(own, own)["mean"] == pytest.approx(0.5)
    assert scoring.auroc(own, np.array([9])) == {"mean": 1.0, "se": None}


def test_standard_error_of_auroc_is_the_spread_over_data_sets():
    rng = np.random.default_rng(0)
    found = [scoring.auroc(rng.normal(size=200), rng.normal(1, 1, 80)) for _ in range(300)]
    spread = np.std([area["mean"] for area in found])
    # The spread of 300 values has a standard error of 4 %.
    assert np.mean([area["se"] for area in found]) == pytest.approx(spread, rel=0.15)


@pytest.mark.parametrize(("channels", "grey"), [(1, False), (1, True), (3, False), (3, True)])
def test_complexity_rises_from_black_over_a_square_to_noise(channels, grey):
    rng = np.random.default_rng(0)
    images = np.zeros([3, 28, 28, channels], np.float32)
    images[1, 5:14, 8:20] = 0.4 if grey else 1
    noise = rng.random(images.shape[1:])
    images[2] = noise if grey else noise > 0.5
    black, square, noise = scoring.complexity(images, bits=channels == 1 and not grey)
    assert black < square < noise
    entropy = 28 * 28 * channels * np.log(256 if grey else 2)
    # No compressor needs less than the entropy of noise.  PNG needs more of bits in colour, for which it has bytes.
    assert entropy < noise < (1 if grey or channels == 1 else 2) * entropy + 1000


def test_complexity_of_an_image_is_the_same_among_outliers(source, mnist_5k, tmp_path):
    def log_likelihood(images, num_draws, seed):
        return dict.fromkeys(("log_likelihood", "bound", "ess"), -tf.reduce_sum(images, axis=(1, 2, 3)))

    config = source.config.copy_and_resolve_references()
    config.binarization = "none"
    subject = source._replace(signatures={"log_likelihood": log_likelihood}, config=config)
    grey = mnist_5k.test.images[:5]
    parts = {"grey": grey, "bits": np.where(grey > 127, np.uint8(255), np.uint8(0))}
    for name, images in (parts | {"both": np.concatenate([*parts.values()])}).items():
        np.savez(tmp_path / f"{name}.npz", images=images)
    found = []
    for given in (["both"], ["grey", "bits"]):
        name, *against = (str(tmp_path / f"{part}.npz") for part in given)
        scoring.score(subject, name, tmp_path / "scores.csv", 1, *against)
        found.append([row["complexity"] for row in read(tmp_path / "scores.csv")])
    together, apart = found
    assert apart == together


@pytest.mark.slow
def test_scores_of_a_run_are_its_log_likelihoods(source, run, mnist_5k, tmp_path, capsys):
    found = scoring.score(source, None, tmp_path / "scores.csv", num_draws=400)
    rows = read(tmp_path / "scores.csv")
    assert len(rows) == 500
    assert [int(row["label"]) for row in rows] == mnist_5k.test.labels.tolist()
    values = np.array([float(row["log_likelihood"]) for row in rows])
    expected = quadrature.log_prob(runs.load_model(run), mnist_5k.test.binary[:100], "test").log_px
    assert abs(values[:100] - expected).mean() < 0.2
    assert (np.array([float(row["bound"]) for row in rows]) < values).mean() > 0.9
    assert found["log_likelihood"]["mean"] == pytest.approx(values.mean())
    assert f"log p(x) of 500 images of mnist_5k: {values.mean():.2f} +- " in capsys.readouterr().out
    ask, validation = sources.of_run(run).signatures["log_likelihood"], mnist_5k.validation.binary.astype(np.float32)
    parts = [
        ask(images=validation[start : start + 100], num_draws=tf.constant(400), seed=tf.constant(start // 100))
        for start in range(0, 500, 100)
    ]
    typical = abs(-values + np.mean([part["log_likelihood"] for part in parts]))
    np.testing.assert_allclose([float(row["outlier_typicality"]) for row in rows], typical, atol=1e-3)
    for row in rows[:9]:
        assert float(row["outlier_log_likelihood"]) == -float(row["log_likelihood"])
        corrected = -float(row["log_likelihood"]) - float(row["complexity"])
        assert float(row["outlier_complexity"]) == pytest.approx(corrected)


def test_an_export_gives_the_scores_of_its_run(source, exported, tmp_path):
    for name, subject in (("run", source), ("export", sources.of_export(exported))):
        scoring.score(subject, "mnist_5k", tmp_path / f"{name}.npz", num_draws=3)
    ours, theirs = (np.load(tmp_path / f"{name}.npz") for name in ("run", "export"))
    assert ours.files == theirs.files
    np.testing.assert_allclose(ours["log_likelihood"], theirs["log_likelihood"], atol=1e-3)


@pytest.mark.parametrize(("given", "bound_draws", "taken"), [(None, None, 100), (None, 10, 10), (3, 10, 3)])
def test_draws_are_those_of_evaluate_of_a_bound_and_else_a_hundred(given, bound_draws, taken, source, tmp_path):
    asked = set()

    def log_likelihood(images, num_draws, seed):
        asked.add(int(num_draws))
        return dict.fromkeys(("log_likelihood", "bound", "ess"), tf.zeros([len(images)]))

    subject = source._replace(signatures={"log_likelihood": log_likelihood}, bound_draws=bound_draws)
    scoring.score(subject, None, tmp_path / "scores.csv", given)
    assert asked == {taken}


def test_an_export_says_how_many_draws_a_bound_takes(source, exported):
    for name, expected in {"vae": None, "masked_diffusion": 10, "vqvae": 1, "pixelcnn": None}.items():
        assert signatures.bound_draws(models.build(tiny.config(name))) == expected
    record = json.loads((exported / "assets.extra" / "genmnist.json").read_text())
    assert "bound_draws" in record and sources.of_export(exported).bound_draws is source.bound_draws is None


def test_noise_is_told_from_digits(run, genmnist, tmp_path):
    noise = np.random.default_rng(0).integers(0, 3, [40, 28, 28], np.uint8) > 0  # lighter than what a model learns
    np.savez(tmp_path / "noise.npz", images=255 * noise.astype(np.uint8))
    outcome = genmnist(
        "score", f"--workdir={run.workdir}", f"--against={tmp_path}/noise.npz", "--num_draws=2", "--out=found.csv"
    )
    assert (outcome.status, outcome.err) == (0, "")
    rows = read("found.csv")
    assert [row["images"] for row in rows] == ["mnist_5k"] * 500 + [f"{tmp_path}/noise.npz"] * 40
    areas = dict(line.rsplit(None, 3)[:2] for line in outcome.out.splitlines() if "+- 0." in line)
    assert float(areas["-log p(x)"]) > 0.9
    assert test_cli.Path("found.png").stat().st_size > 10_000


def test_one_image_has_a_score_without_an_error(source, mnist_5k, tmp_path, capsys):
    name = tmp_path / "one$_$.npz"  # mathematics, in a figure
    np.savez(name, images=mnist_5k.test.images[:1])
    found = scoring.score(source, str(name), tmp_path / "scores.csv", 2, against="mnist_5k")
    assert found["log_likelihood"]["se"] is None and np.isfinite(found["log_likelihood"]["mean"])
    assert f"log p(x) of 1 image of {name}: {found['log_likelihood']['mean']:.2f} nats\n" in capsys.readouterr().out


def test_an_image_without_a_drawing_has_a_score(source, tmp_path):
    np.savez(tmp_path / "black.npz", images=np.zeros([2, 28, 28], np.uint8))
    found = scoring.score(source, str(tmp_path / "black.npz"), tmp_path / "scores.csv", 2)
    first, second = (float(row["log_likelihood"]) for row in read(tmp_path / "scores.csv"))
    assert found["log_likelihood"]["mean"] == pytest.approx((first + second) / 2)
    assert 0.7 < first / second < 1.3


def test_score_refuses_what_it_cannot_score(source, run, tmp_path):
    out = tmp_path / "scores.csv"
    gan = models.build(tiny.config("gan"))
    other = source._replace(signatures=signatures.of(gan), label="gan on mnist_5k")
    with pytest.raises(UsageError, match="gan on mnist_5k has no likelihood to score images by: give a model that has"):
        scoring.score(other, None, out, 5)
    with pytest.raises(UsageError, match="--num_draws=1025 is out of range: give 1 to 1024"):
        scoring.score(source, None, out, 1025)
    with pytest.raises(UsageError, match="--against=mnist_5k is what --images gives: give other images"):
        scoring.score(source, None, out, 5, "mnist_5k")
    np.savez(tmp_path / "colour.npz", images=np.random.default_rng(0).integers(0, 256, [9, 28, 28, 3], np.uint8))
    with pytest.raises(
        UsageError, match=r"colour.npz are coloured, and vae on mnist_5k is of grey images: give such ones"
    ):
        scoring.score(source, None, out, 5, str(tmp_path / "colour.npz"))
    assert not out.exists()


def test_images_of_another_size_are_resized_to_the_model_s(source, mnist_5k, tmp_path):
    digits = mnist_5k.test.images[:9]
    np.savez(tmp_path / "twice.npz", images=digits.repeat(2, axis=1).repeat(2, axis=2))
    images, _ = sources.images_of(str(tmp_path / "twice.npz"), source.spec, source.config, source.label)
    np.testing.assert_array_equal(images, binarization.reference(digits))
    smaller = source.spec._replace(image_shape=(14, 14, 1))
    images, labels = sources.images_of("mnist_5k", smaller, source.config, source.label)
    assert images.shape == (500, 14, 14, 1)
    np.testing.assert_array_equal(labels, mnist_5k.test.labels)
    means = mnist_5k.test.images.reshape(500, 14, 2, 14, 2, 1).mean(axis=(2, 4))
    np.testing.assert_array_equal(images, binarization.reference(np.rint(means).astype(np.uint8)))


def test_data_that_are_gone_are_told_of(source, tmp_path):
    config = source.config.copy_and_resolve_references()
    config.dataset = str(tmp_path / "gone.npz")
    with pytest.raises(UsageError, match=r"gone.npz"):
        scoring.score(source._replace(config=config), None, tmp_path / "scores.csv", 5)
    assert datasets.spec("mnist_5k")
