import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from keras_genmnist import bounds, classifier, datasets, evaluate, files, gap, likelihood, models, quality, runs
from keras_genmnist.errors import UsageError
from keras_genmnist.models.flow_matching import FlowMatching
from tests import tiny


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
    assert [record[key] for key in ("weights", "epochs", "command")] == ["ema", 1, "genmnist train"]
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
        "mean images, ema",
        "drawn bits, ema",
    ):
        assert part in table
    assert f"{len(classifier.JUDGES)} judges" in table


@pytest.fixture
def few(mnist_5k, monkeypatch):
    """20 validation and 20 test images, and no judging of samples."""
    fields = ("images", "binary", "labels")
    split = mnist_5k.test._replace(**{name: getattr(mnist_5k.test, name)[:20] for name in fields})
    monkeypatch.setattr(runs, "load_data", lambda run: mnist_5k._replace(validation=split, test=split))
    monkeypatch.setattr(evaluate, "quality_of_samples", lambda *arguments: {})
    monkeypatch.setattr(evaluate, "_samples_table", lambda record: "")
    return split


def test_evaluate_integrates_over_two_latents(run, few, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(evaluate, "NUM_DRAWS", 30)
    copy = runs.load(shutil.copytree(run.workdir, tmp_path / "vae_copy"))
    record = evaluate.evaluate(copy, None, results=False, per_image=tmp_path / "images.csv")
    for split in ("validation", "test"):
        scores = record[split]
        assert (scores["nll"]["num_draws"], scores["weighted_nll"]["num_draws"]) == ("quadrature", 30)
        # 30 draws of this model, whose posteriors are broad, are above but for their noise.
        assert -0.05 < scores["weighted_nll"]["mean"] - scores["nll"]["mean"] < 0.5
        assert scores["nll"]["mean"] < -scores["elbo"]["mean"]
    images = np.genfromtxt(tmp_path / "images.csv", delimiter=",", names=True)
    assert images.dtype.names == ("index", "label", "log_px", "elbo", "kl", "ess", "pareto_k")
    np.testing.assert_array_equal(images["index"], range(20))
    np.testing.assert_array_equal(images["label"], few.labels)
    assert -images["log_px"].mean() == pytest.approx(record["test"]["nll"]["mean"])
    shown = capfd.readouterr()
    assert "by quadrature, within" in shown.out and "NLL by draws" in shown.out and "upper bound" not in shown.err
    by_draws = evaluate.evaluate(copy, 30, results=False)
    assert by_draws["test"]["nll"] == record["test"]["weighted_nll"]  # --num_draws asks for draws


def test_evaluate_warns_of_a_nll_by_few_draws(run, few, tmp_path, capfd):
    copy = runs.load(shutil.copytree(run.workdir, tmp_path / "vae_copy"))
    for num_draws, reason in ((2, "it is by 2 draws"), (12, "fewer than 10 of the 12 draws count for")):
        evaluate.evaluate(copy, num_draws, results=False)
        err = capfd.readouterr().err
        assert err.count(f"only an upper bound in expectation: {reason}") == 1 and err.count("\n") == 1


def test_more_draws_than_fit_in_memory_are_refused_before_any(run, monkeypatch):
    monkeypatch.setattr(likelihood, "weighted", lambda *arguments: pytest.fail("drawn"))
    many = 10**12
    with pytest.raises(UsageError, match=rf"--num_draws={many} would take at least 1,600\.0 TB of memory, there are"):
        evaluate.evaluate(run, many, results=False)


def test_evaluate_refuses_a_proposal_where_there_are_no_draws(run, gan):
    with pytest.raises(UsageError, match=r"--proposal=defensive means nothing for vae: .*by quadrature.*--num_draws"):
        evaluate.evaluate(run, None, results=False, proposal="defensive")
    with pytest.raises(UsageError, match=r"--proposal=defensive means nothing for gan: .* no likelihood"):
        evaluate.evaluate(gan, None, results=False, proposal="defensive")
    with pytest.raises(UsageError, match=r"--per_image=a\.csv means nothing for gan: .* no likelihood"):
        evaluate.evaluate(gan, None, results=False, per_image=Path("a.csv"))


def test_evaluate_refuses_the_defensive_proposal_of_a_decoder_of_several_orders(tmp_path):
    run = tiny.untrained(tiny.begin(tmp_path / "run", "pixelvae", pixelcnn_orders=2, epochs=1))
    with pytest.raises(UsageError, match="--proposal=defensive does not go with 2 orders of pixels: leave it out"):
        evaluate.evaluate(run, 10, results=False, proposal="defensive")


def test_evaluate_of_a_pixelcnn_writes_the_likelihood_of_each_image(few, tmp_path):
    run = tiny.untrained(tiny.begin(tmp_path / "pixelcnn", "pixelcnn", epochs=1))
    record = evaluate.evaluate(run, None, results=False, per_image=tmp_path / "images.npz")
    with np.load(tmp_path / "images.npz") as images:
        assert list(images) == ["index", "label", "log_px"]
        assert -images["log_px"].mean() == pytest.approx(record["test"]["nll"]["mean"])
    with pytest.raises(UsageError, match=r"--proposal=defensive means nothing for pixelcnn: .* known exactly"):
        evaluate.evaluate(run, None, results=False, proposal="defensive")


def test_evaluate_of_a_masked_diffusion_tells_its_bound_and_a_mixture_of_orders(few, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(likelihood, "ORDERED_IMAGES", 2)
    monkeypatch.setattr(likelihood, "ORDERS", 2)
    run = tiny.untrained(tiny.begin(tmp_path / "masked", "masked_diffusion", epochs=1))
    record = evaluate.evaluate(run, None, results=False, per_image=tmp_path / "images.npz")
    test, count = record["test"], len(runs.load_data(run).test.images)
    assert (test["num_images"], test["elbo"]["num_draws"]) == (count, 10)
    assert -800 < test["elbo"]["mean"] < -200  # 543 nats are a bit a pixel
    mixture = test["mixture"]
    assert (mixture["num_images"], mixture["num_orders"]) == (2, likelihood.ORDERS)
    assert mixture["gain"]["mean"] == pytest.approx(-mixture["nll"]["mean"] - mixture["elbo"]["mean"])
    assert 0 < mixture["gain"]["mean"] < np.log(likelihood.ORDERS)
    assert "mixture" not in record["validation"]
    printed = capsys.readouterr().out
    cells = {"ELBO ": f"{test['elbo']['mean']:.2f} +-", "  draws an image": "10", "  first images": "2"}
    for label, cell in cells.items():
        (line,) = [line for line in printed.splitlines() if line.startswith(label)]
        assert cell in line
    with np.load(tmp_path / "images.npz") as images:
        assert list(images) == ["index", "label", "elbo"]
        assert images["elbo"].mean() == pytest.approx(test["elbo"]["mean"])
    with pytest.raises(UsageError, match=r"--proposal=defensive means nothing for masked_diffusion: .* no posterior"):
        evaluate.evaluate(run, None, results=False, proposal="defensive")


@pytest.mark.slow
@pytest.mark.parametrize("class_conditional", [False, True])
def test_evaluate_of_a_flow_tells_its_bound(few, tmp_path, monkeypatch, capsys, class_conditional):
    monkeypatch.setattr(FlowMatching, "bound_images", 5)
    options = {"class_conditional": class_conditional, "ema_decay": 0.9}
    run = tiny.untrained(tiny.begin(tmp_path / "flow", "flow_matching", **options))
    files.write(run.metrics_jsonl, b'{"epoch": 1, "step": 4, "loss": 900.0, "val_loss": 900.0, "seconds": 1.0}\n')
    record = evaluate.evaluate(run, 2, results=False, per_image=tmp_path / "images.npz")
    test = record["test"]["given_label"] if class_conditional else record["test"]
    assert record["test"]["num_images"] == test["num_images"] == 5 and test["elbo"]["num_draws"] == 2
    model, data = runs.load_model(run), runs.load_data(run)
    x, y = data.test.images[:5].astype(np.float32) / 255, data.test.labels[:5]
    measure = tf.function(model.log_likelihood, autograph=False)
    names = {"elbo": [], **({"elbo_given_label": [y]} if class_conditional else {})}
    with np.load(tmp_path / "images.npz") as images:
        assert list(images) == ["index", "label", *names]
        np.testing.assert_array_equal(images["label"], y)
        for name, told in names.items():
            expected = measure(x, *told, num_draws=2, seed=tf.constant([0, 0]))
            np.testing.assert_allclose(images[name], expected, rtol=1e-5)
    assert record["test"]["elbo"]["mean"] != test["elbo"]["mean"] or not class_conditional
    bits = test["bits_per_dimension"]["negative_elbo"]["mean"]
    assert bits == pytest.approx(-np.mean(expected) / (784 * np.log(2)), rel=1e-5)
    printed = capsys.readouterr().out
    (line,) = [line for line in printed.splitlines() if line.startswith("-ELBO, bits/dimension")]
    assert f"{bits:.4f} +-" in line
    assert ("ELBO, of p(x)" in printed and "given the label:" in printed) is class_conditional


def test_evaluate_of_a_vqvae_tells_its_bound_and_the_perplexity_of_the_codes(few, tmp_path, capsys):
    run = tiny.untrained(tiny.begin(tmp_path / "vqvae", "vqvae"))
    run.metrics_jsonl.write_text(json.dumps({"epoch": 1, "step": 4, "seconds": 1.0, "val_elbo": -500.0}) + "\n")
    record = evaluate.evaluate(run, None, results=False, per_image=tmp_path / "images.npz")
    model, test = runs.load_model(run), record["test"]
    terms, codes = model.bound_terms(few.binary), model.encode_codes(few.binary.astype(np.float32)).numpy()
    for name in ("elbo", "kl", "reconstruction"):
        assert test[name]["mean"] == pytest.approx(float(tf.reduce_mean(terms[name])), rel=1e-5)
    shares = np.array([(codes == code).mean() for code in range(4)])
    assert test["perplexity"] == pytest.approx(np.exp(-(shares * np.log(shares + 1e-30)).sum()))
    assert 1.1 < test["perplexity"] < 3.9
    assert (test["num_codes"], test["num_images"], "num_draws" in test["elbo"]) == (4, 20, False)
    assert f"{test['perplexity']:.1f} of 4" in capsys.readouterr().out
    with np.load(tmp_path / "images.npz") as images:
        assert list(images) == ["index", "label", "elbo", "reconstruction", "kl"]
    with pytest.raises(UsageError, match="--num_draws=10 means nothing for vqvae"):
        evaluate.evaluate(run, 10)


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    """A trained run of a VAE of grey levels."""
    changes = {"binarization": "none", "decoder": "logistic", "latent_size": 3}
    return tiny.train(tiny.begin(tmp_path_factory.mktemp("grey") / "grey", epochs=1, **changes))


def test_evaluate_of_grey_levels_tells_nats_and_bits_per_dimension(grey, few, tmp_path):
    record = evaluate.evaluate(grey, 3, results=False, per_image=tmp_path / "images.npz")
    assert record["binarization"] == "none"
    row = runs.read_metrics(grey)[0]
    assert row["binarization"] == "none" and np.isfinite(row["val_elbo"])
    images, model = few.images.astype(np.float32) / 255, runs.load_model(grey)
    terms = model.log_terms(images, 3, tf.constant([0, 0]))  # the draws of evaluate
    test = record["test"]
    assert test["elbo"]["mean"] == pytest.approx(np.mean(bounds.elbo(terms)), rel=1e-4)
    for name, nats in (("negative_elbo", -test["elbo"]["mean"]), ("nll", test["nll"]["mean"])):
        assert test["bits_per_dimension"][name]["mean"] == pytest.approx(nats / (784 * np.log(2)))
    assert test["bits_per_dimension"]["nll"]["se"] == pytest.approx(test["nll"]["se"] / (784 * np.log(2)))
    table = evaluate.table(record)
    assert "trained and scored on grey levels, ema weights" in table
    assert f"{test['bits_per_dimension']['nll']['mean']:.4f} +- {test['bits_per_dimension']['nll']['se']:.4f}" in table


def test_evaluate_says_nothing_of_bits_per_dimension_where_bits_are_scored(evaluated):
    record, _ = evaluated
    assert "bits_per_dimension" not in record["test"] and "bits/dimension" not in evaluate.table(record)


def test_evaluate_scores_what_was_thresholded(few, tmp_path):
    changes = {"binarization": "threshold", "latent_size": 3, "learning_rate": 0.05}  # so that the images matter
    run = tiny.train(tiny.begin(tmp_path / "run", epochs=2, **changes))
    model, images = runs.load_model(run), (few.images >= 128).astype(np.float32)
    row = runs.read_metrics(run)[0]
    assert row["binarization"] == "threshold"
    record = evaluate.evaluate(run, 3, results=False)
    assert record["binarization"] == "threshold"
    found = [np.mean(bounds.elbo(model.log_terms(x, 3, tf.constant([0, 0])))) for x in (images, few.binary)]
    assert record["test"]["elbo"]["mean"] == pytest.approx(found[0], rel=1e-4)
    assert abs(found[0] - found[1]) > 1  # of 300
    assert "threshold training, threshold binarization scored, ema weights" in evaluate.table(record)


@pytest.fixture(scope="module")
def gan(tmp_path_factory):
    """A trained run of a GAN whose weights are averaged."""
    return tiny.train(tiny.begin(tmp_path_factory.mktemp("gan") / "gan", "gan", epochs=1, ema_decay=0.9))


def assert_scored(found, samples, dataset, binarization="none"):
    expected = quality.score(samples, dataset, binarization)
    assert list(found) == ["pixels", *expected]
    for metric in ("frechet", "frechet_floor", "precision", "recall", "class_kl"):
        assert found[metric]["each"] == pytest.approx(expected[metric]["each"])


def test_evaluate_scores_mean_images_and_drawn_bits(run, evaluated, mnist_5k):
    record, _ = evaluated
    drawn = evaluate.draw(runs.load_model(run), 500)
    assert_scored(record["samples"], drawn["probabilities"], mnist_5k)
    assert_scored(record["samples_binary"], drawn["images"], mnist_5k, "dynamic")
    assert set(np.unique(drawn["images"])) == {0, 1}
    assert "samples_raw" not in record


@pytest.mark.slow
def test_evaluate_of_a_gan_scores_averaged_and_raw_weights(gan, mnist_5k):
    record = evaluate.evaluate(gan, num_draws=None, results=False)
    assert "test" not in record and "validation" not in record and "samples_binary" not in record
    for name, raw in (("samples", False), ("samples_raw", True)):
        assert record[name]["pixels"] == "grey levels"
        assert_scored(record[name], evaluate.draw(runs.load_model(gan, raw), 500)["images"], mnist_5k)
    assert record["samples"]["frechet"] != record["samples_raw"]["frechet"]
    table = evaluate.table(record)
    assert "grey levels, ema" in table and "grey levels, raw" in table and "NLL" not in table


def test_what_a_flow_draws_is_no_mean_image(mnist_5k, tmp_path, monkeypatch):
    run = tiny.begin(tmp_path / "flow", "flow_matching", ema_decay=0.9)
    monkeypatch.setattr(evaluate, "draw", lambda model, count: {"images": "levels", "probabilities": "levels"})
    monkeypatch.setattr(quality, "score", lambda samples, dataset: {"scored": samples})
    found = evaluate.quality_of_samples(run, models.build(run.config), mnist_5k)
    assert found == {"samples": {"pixels": "grey levels", "scored": "levels"}}


@pytest.mark.parametrize("name", ["vae", "ladder"])
def test_grey_levels_are_compared_with_grey_levels(name, mnist_5k, monkeypatch):
    model = models.build(tiny.config(name, decoder="logistic", binarization="none"))
    monkeypatch.setattr(evaluate, "draw", lambda model, count: {"images": "levels", "probabilities": "means"})
    monkeypatch.setattr(quality, "score", lambda samples, dataset, of="none": {"scored": samples, "of": of})
    assert evaluate.quality_of_samples(None, model, mnist_5k) == {
        "samples": {"pixels": "mean images", "scored": "means", "of": "none"},
        "samples_grey": {"pixels": "drawn grey levels", "scored": "levels", "of": "none"},
    }


@pytest.mark.parametrize("name, decoder", [("pixelcnn", None), ("vae", "pixelcnn"), ("vae", "bernoulli")])
def test_like_is_compared_with_like(name, decoder, mnist_5k, monkeypatch):
    model = models.build(tiny.config(name, **({"decoder": decoder} if decoder else {})))
    drawn = {"images": "bits", "probabilities": "probabilities"}
    monkeypatch.setattr(evaluate, "draw", lambda model, count: drawn)
    monkeypatch.setattr(quality, "score", lambda samples, dataset, of="none": {"scored": samples, "of": of})
    bits = {"samples_binary": {"pixels": "drawn bits", "scored": "bits", "of": "threshold"}}
    grey = {"samples": {"pixels": "mean images", "scored": "probabilities", "of": "none"}}
    # The probability of a pixel given the pixels drawn before it is no grey level of an image.
    expected = bits | grey if decoder == "bernoulli" else bits
    run = SimpleNamespace(config=SimpleNamespace(binarization="threshold"))
    assert evaluate.quality_of_samples(run, model, mnist_5k) == expected
    # Nor is there anything grey to compare with in binarized_mnist.
    bits_alone = mnist_5k._replace(spec=datasets.spec("binarized_mnist"))
    assert evaluate.quality_of_samples(run, model, bits_alone) == bits


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


@pytest.mark.slow
def test_evaluate_of_a_class_conditional_vae_tells_of_both_likelihoods(few, tmp_path):
    run = tiny.train(tiny.begin(tmp_path / "cvae", "cvae", epochs=1, network="mlp"))
    record = evaluate.evaluate(run, num_draws=20, per_image=tmp_path / "images.npz")
    test, given = record["test"], record["test"]["given_label"]
    assert given["nll"]["mean"] < test["nll"]["mean"] < given["nll"]["mean"] + np.log(10) + 0.5
    assert given["elbo"]["mean"] < -given["nll"]["mean"] and test["elbo"]["mean"] < -test["nll"]["mean"]
    with np.load(tmp_path / "images.npz") as images:
        assert test["nll"]["mean"] == pytest.approx(-images["log_px"].mean())
        assert given["nll"]["mean"] == pytest.approx(-images["log_px_given_label"].mean())
        assert test["label_accuracy"]["mean"] == (images["likeliest_class"] == images["label"]).mean()
    table = evaluate.table(record)
    for label in (
        "ELBO, of p(x)",
        "NLL, of p(x)",
        "likeliest class right",
        "given the label:",
        "effective sample size",
    ):
        assert f"\n{label}" in table


@pytest.mark.parametrize("name", ["cvae", "cgan"])
def test_samples_of_classes_are_scored_by_the_class_asked_for(name, mnist_5k, monkeypatch, tmp_path):
    model = models.build(tiny.config(name))
    seen = []
    monkeypatch.setattr(quality, "score", lambda samples, dataset, of="none", labels=None: seen.append(labels) or {})
    few = mnist_5k._replace(test=mnist_5k.test._replace(images=mnist_5k.test.images[:20]))
    run = runs.Run(tmp_path / "run", name, tiny.config(name, ema_decay=0.0), "", "")
    evaluate.quality_of_samples(run, model, few)
    drawn = evaluate.draw(model, 20)
    assert len(seen) == {"cvae": 2, "cgan": 1}[name]
    for labels in seen:
        np.testing.assert_array_equal(labels, drawn["labels"])
    seeds = tf.stack([tf.zeros(20, tf.int32), tf.range(20)], axis=1)
    expected = model.draw_given(seeds, drawn["labels"])["probabilities"]
    np.testing.assert_allclose(drawn["probabilities"], expected, atol=1e-6)


def test_table_tells_how_far_samples_are_of_their_class(evaluated):
    record, _ = evaluated
    table = evaluate.table(record)
    assert "class asked for" not in table
    asked = {
        "class_asked_for": {"mean": 0.975, "spread": 0.002},
        "frechet_by_class": {"mean": [float(number) for number in range(10)], "spread": None},
    }
    of_classes = record | {name: record[name] | asked for name in ("samples", "samples_binary")}
    lines = {line[:24].rstrip(): line[24:].split() for line in evaluate.table(of_classes).splitlines()}
    assert lines["class asked for"][:3] == ["97.5%", "+-", "0.2%"]
    assert lines["Frechet, mean of classes"] == ["4.50", "4.50"]
    assert lines["  7"] == ["7.00", "7.00"]
