import base64
import dataclasses
import html
import json
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
from ml_collections import ConfigDict

from keras_genmnist import evaluate, figures, files, likelihood, report
from keras_genmnist.errors import UsageError
from tests import test_cli

call, genmnist = test_cli.call, test_cli.genmnist


@pytest.fixture(scope="module")
def pair(run, tmp_path_factory):
    """Two runs: one scored, one of a name that HTML would take for a tag, which is not."""
    scored, plain = (tmp_path_factory.mktemp("pair") / name for name in ("scored", "a<b"))
    for workdir in (scored, plain):
        shutil.copytree(run.workdir, workdir)
        (workdir / "metrics.json").unlink(missing_ok=True)
    tail = likelihood._tail(np.array([1.5, 2.5]), np.array([0.5, 0.9]))
    split = {
        "num_images": 500,
        **{name: {"mean": -190.25, "se": 1.5} for name in ("elbo", "reconstruction")},
        "kl": {"mean": 5.0, "se": 0.1},
        "nll": {"mean": 186.75, "se": 1.25, "num_draws": 7, "proposal": "posterior"} | tail,
        "active_units": 2,
        "latent_size": 2,
    }
    samples = {"pixels": "mean images", "num_samples": 500}
    for name in ("frechet", "frechet_floor", "frechet_ratio", "precision", "recall"):
        samples[name] = {"mean": 3.75, "spread": None}
    record = {"epochs": 1, "binarization": "dynamic", "weights": "raw", "validation": split, "test": split}
    files.write_json(scored / "metrics.json", record | {"samples": samples})
    return [dataclasses.replace(run, workdir=scored), dataclasses.replace(run, workdir=plain, command="typed <here>")]


@pytest.fixture(scope="module")
def page(pair, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        drawn = list(figures.draw(pair[0], ["samples", "training_curves"]))
        patched.setattr(figures, "draw", lambda run, which: drawn)
        out = tmp_path_factory.mktemp("out") / "new" / "both.html"
        report.report(pair, out)
    return out.read_text()


def test_report_needs_no_other_file(page):
    assert re.findall(r"(?:src|href)=\"(?!data:image/png;base64,)", page) == []
    pictures = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]+)"', page)
    assert [alt for _, alt in pictures] == [
        f"{name} of {run}" for run in ("scored", "a&lt;b") for name in ("samples", "training curves")
    ]
    for content, _ in pictures:
        assert tf.io.decode_png(base64.b64decode(content)).shape[1] > 500


def test_report_says_what_was_trained_and_scored(page, pair):
    for part in ("mnist_5k, 28 x 28 x 1, dynamic", f"{pair[0].command}", "typed &lt;here&gt;", "1 epoch, "):
        assert part in page
    text = html.unescape(re.sub(r"<[^>]+>", " ", page))
    assert re.search(r"ELBO\s+-190.25 ± 1.50\s+-190.25 ± 1.50", text)
    assert re.search(r"NLL\s+186.75 ± 1.25", text) and re.search(r"Frechet distance\s+3.75", text)
    assert f"genmnist evaluate --workdir={pair[1].workdir}" in text  # it is not scored
    assert "the NLL is only an upper bound in expectation: it is by 7 draws, few for any image" in text


def test_report_of_a_run_that_went_on_since_has_no_old_scores(pair):
    assert report._record(pair[0], 1)["epochs"] == 1
    assert report._record(pair[0], 2) is None
    assert report._record(pair[1], 1) is None


@pytest.mark.parametrize("content", ["garbage", "{}", "[]", '{"epochs": 1, "test": {}}', "\xff"])
def test_scores_that_are_damaged_are_one_line(pair, genmnist, tmp_path, content):
    shutil.copytree(pair[0].workdir, tmp_path / "bad")
    (tmp_path / "bad" / "metrics.json").write_text(content, encoding="latin-1")
    outcome = genmnist("report", f"--workdir={tmp_path}/bad")
    test_cli.assert_one_line(outcome, 3, "metrics.json is damaged", f"`genmnist evaluate --workdir={tmp_path}/bad`")


def test_mixture_is_told_by_its_parts(pair):
    config = ConfigDict({"components": [{"model": "pixelcnn"}, {"model": "vae"}], "shares": [0.25, 0.75]})
    made = dataclasses.replace(pair[0], name="mixture", config=config)
    assert report._described(made) == "mixture of 25% pixelcnn and 75% vae"


def test_fields_that_differ_are_marked(page, pair):
    other = pair[1].config.copy_and_resolve_references()
    other.latent_size = 9
    found = report.fields([pair[0], dataclasses.replace(pair[1], config=other)])
    assert found["latent_size"] == ["2", "9"] and found["seed"] == ["3435", "3435"]
    assert 'class="differs"' not in page and "<th>latent_size</th><td>2</td><td>2</td>" in page


def test_fields_that_differ_in_case_alone_are_marked(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "draw", lambda run, which: [])
    other = pair[1].config.copy_and_resolve_references()
    other.dataset = other.dataset.upper()
    report.report([pair[0], dataclasses.replace(pair[1], config=other)], tmp_path / "r.html")
    assert re.findall(r'<tr class="differs"><th>(\w+)', (tmp_path / "r.html").read_text()) == ["dataset"]


def test_report_is_the_same_where_the_locale_is_not_utf_8(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "draw", lambda run, which: [])
    monkeypatch.setattr("io.text_encoding", lambda encoding, level=2: encoding or "ascii")
    report.report(pair[:1], tmp_path / "r.html")
    assert "\N{PLUS-MINUS SIGN}" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_every_figure_has_a_caption():
    assert {*figures.FIGURES} - {*figures.SLOW} == report.CAPTIONS.keys()


def test_report_refuses_what_it_cannot_write(pair, genmnist):
    with pytest.raises(UsageError, match="two runs are called scored, by the names of their directories: rename one"):
        report.report([pair[0], pair[0]], pair[0].workdir / "r.html")
    for arguments, message in [
        ([], "give --model=NAME, one of cgan, "),
        (["--model=vae", f"--workdir={pair[0].workdir}"], "give --model=NAME"),
        ([f"--workdir={pair[0].workdir}", "--out=report.pdf"], "--out=report.pdf is no .html file: give FILE.html"),
        (["--model=vea"], "did you mean vae?"),
    ]:
        outcome = genmnist("report", *arguments)
        assert outcome.status == 2 and message in outcome.err and len(outcome.err.splitlines()) == 1


def test_tables_of_an_evaluation_that_was_interrupted_have_no_scores_of_samples(pair):
    record = json.loads(pair[0].metrics_json.read_text())
    (likelihoods,) = evaluate.tables({name: own for name, own in record.items() if name != "samples"})
    assert likelihoods.columns == ["validation", "test"]


def test_tables_are_the_same_in_words(pair):
    record = json.loads(pair[0].metrics_json.read_text()) | {"model": "vae", "dataset": "mnist_5k", "best_epoch": 1}
    likelihoods, samples = evaluate.tables(record)
    assert likelihoods.columns == ["validation", "test"] and likelihoods.rows["KL"] == ["5.00 +- 0.10"] * 2
    assert samples.columns == ["mean images, raw"]
    assert evaluate.table(record) == f"vae on mnist_5k, epoch 1 of 1\n\n{likelihoods}\n\n{samples}"
