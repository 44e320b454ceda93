import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from keras_genmnist import evaluate, mixing, runs
from keras_genmnist.errors import UsageError
from tests import test_cli, tiny

call, genmnist, eager = test_cli.call, test_cli.genmnist, tiny.eager


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two runs of 8 x 8 images, of models that know log p(x)."""
    folder = tmp_path_factory.mktemp("pair")
    first = tiny.untrained(tiny.begin_small(folder / "first", "pixelcnn"))
    config = first.config.copy_and_resolve_references()
    config.seed = 9
    second = runs.Run(folder / "second", "pixelcnn", config, "x", "c", data=first.data)
    runs.record(second)
    for run in (first, tiny.untrained(second)):
        model, rng = runs.load_model(run), np.random.default_rng(run.config.seed)
        for weight in model.weights:
            weight.assign(rng.normal(0, 0.3, weight.shape))
        runs.save(runs.scored(model.weights, model.weights), run.best, 1, number=2)
    return [first, second]


def test_em_finds_the_shares_that_made_the_images():
    rng = np.random.default_rng(0)
    log_px = rng.normal(0, 1, [3, 20_000])  # densities at images, relative to any other
    true = np.array([0.6, 0.4, 0.0])
    weights = np.exp(mixing.mixed(log_px, np.array([0.6, 0.4, 1e-300])))
    chosen = rng.choice(20_000, 20_000, p=weights / weights.sum())
    np.testing.assert_allclose(mixing.em(log_px[:, chosen]), true, atol=0.05)


def test_em_is_at_the_maximum():
    log_px = np.random.default_rng(1).normal(-80, 3, [3, 500])
    shares = mixing.em(log_px)
    assert shares.sum() == pytest.approx(1)
    best = mixing.mixed(log_px, shares).mean()
    for step in ([0.01, -0.01, 0], [-0.01, 0.01, 0], [0, 0.01, -0.01], [0.01, 0, -0.01]):
        assert mixing.mixed(log_px, shares + step).mean() < best
    assert mixing.em(np.stack([log_px[0], log_px[0] - 30]))[1] < 1e-5


def test_model_that_draws_no_image_does_no_harm(pair):
    models = [runs.load_model(own) for own in pair]
    for shares, drawing in (([1e-9, 1], models[1]), ([1, 1e-9], models[0])):
        drawn = mixing.MODELS["images"].of(models, shares).sample(3, seed=1)["images"].numpy()
        assert drawn.shape == (3, 8, 8, 1)
        seeds = tf.map_fn(lambda seed: tf.random.split(seed, 2), tf.constant([[1, 0], [1, 1], [1, 2]]))[:, 1]
        np.testing.assert_array_equal(drawn, drawing.draw(seeds)["images"])


@pytest.mark.slow
@pytest.mark.parametrize("of", mixing.MODELS)
def test_runs_together_are_a_run(pair, of, tmp_path, monkeypatch, capsys):
    made = mixing.mix(pair, tmp_path / "both", 5, "genmnist mix", of)
    said = capsys.readouterr().out
    assert "first " in said and "together " in said and "genmnist evaluate --workdir=" in said
    run = runs.load(made.workdir)
    assert run.config == made.config and run.data == pair[0].data and not run.own
    assert sum(run.config.shares) == pytest.approx(1)
    rows = runs.read_metrics(run)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[2]["val_nll"] < min(row["val_nll"] for row in rows[:2]) + 1e-6  # as noise, no image is for the other
    monkeypatch.setattr(evaluate, "quality_of_samples", lambda *_: {})
    monkeypatch.setattr(evaluate, "table", lambda record: "")
    record = evaluate.evaluate(run, None, per_image=tmp_path / "both.npz")
    images = runs.load_data(run).test.binary.astype(np.float32)
    models, shares = [runs.load_model(own) for own in pair], np.array(run.config.shares)
    expected = mixing.MODELS[of].of(models, shares).log_likelihood(images).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "both.npz")["log_px"], expected, rtol=1e-5)
    assert record["train_seconds"] == 2.0 and record["epochs"] == 3 and record["weights"] == "ema"
    assert record["config"]["components"] == [own.config.to_dict() for own in pair]
    assert json.loads(json.dumps(record))["trained"]["commit"] == [runs.origin()["commit"]]


def test_mix_refuses_what_does_not_go_together(pair, run, tmp_path, genmnist):
    first, second = pair
    for those, message in [
        ([first], "give two runs or more, each once"),
        ([first, first], "give two runs or more, each once"),
        ([first, run], "learned from other images than"),
        ([first, first, second], "give two runs or more, each once"),
    ]:
        with pytest.raises(UsageError, match=message):
            mixing.mix(those, tmp_path / "both", 5, "")
    config = first.config.copy_and_resolve_references()
    config.update({"binarization": "threshold", "soft_targets": False})
    other = runs.Run(tmp_path.parent / "other", "pixelcnn", config, "x", "c", data=first.data)
    runs.record(other)
    shutil.copytree(first.best, other.best)
    with pytest.raises(UsageError, match=r"other has config.binarization=threshold and .*first has dynamic, so that"):
        mixing.mix([first, other], tmp_path / "both", 5, "")
    with pytest.raises(UsageError, match="holds a run already: give another --workdir"):
        mixing.mix(pair, first.workdir, 5, "")
    outcome = genmnist("mix", f"--workdirs={first.workdir}")
    assert outcome.status == 2 and "give two runs or more, each once" in outcome.err
    assert list(tmp_path.iterdir()) == []
