import json

import numpy as np
import pytest
import tensorflow as tf

from keras_genmnist import annealing, gap, models, progress, runs
from keras_genmnist.bounds import LogTerms
from keras_genmnist.errors import UsageError
from tests import tiny
from tests.oracles import ORACLE


@pytest.fixture
def small(monkeypatch):
    """Numbers of draws and steps that a test has time for."""
    for name, value in (("DRAWS", 200), ("ROUNDS", 2), ("ROUND", 10), ("LOOKING_DRAWS", 50)):
        monkeypatch.setattr(gap, name, value)
    monkeypatch.setattr(annealing, "TEMPERATURES", 10)


@pytest.mark.slow
def test_gaps_of_the_oracle_are_those_it_has(monkeypatch):
    for name, value in (("DRAWS", 2_000), ("ROUNDS", 4), ("LOOKING_DRAWS", 100)):
        monkeypatch.setattr(gap, name, value)
    monkeypatch.setattr(annealing, "TEMPERATURES", 100)
    monkeypatch.setattr(annealing, "CHAINS", 64)
    # Its true posterior is Gaussian: all that a shifted and stretched one loses is amortization.
    x = ORACLE.sample(5)
    levels = gap.measure(gap.Search(ORACLE.vae(shift=0.4, stretch=1.3)), x, "test", 0.4)
    assert levels.keys() == gap.LEVELS.keys()
    np.testing.assert_allclose(levels["log_px"], ORACLE.log_prob(x), atol=0.1)
    np.testing.assert_allclose(levels["amortized"], ORACLE.elbo(x, 0.4, 1.3), atol=0.15)  # 1,000 draws
    for name in ("best", "planar"):
        np.testing.assert_allclose(levels[name], ORACLE.log_prob(x), atol=0.05)
    assert ((levels["best"] - levels["amortized"]) > 0.2).all()


@pytest.mark.parametrize("flow", ["gaussian", "iaf"])
def test_the_search_starts_at_the_posterior_of_the_encoder(flow, digits):
    model = models.build(tiny.config("vae", posterior=flow, norm="none"))
    x = tf.constant(digits)
    start = gap.amortized(model, x)
    z, log_prob = gap.posterior(model, x, start).experimental_sample_and_log_prob(3, seed=[1, 2])
    expected_z, expected = model.encoder(x).experimental_sample_and_log_prob(3, seed=[1, 2])
    np.testing.assert_allclose(z, expected_z, rtol=1e-5)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5)
    planes = gap.posterior(model, x, gap.with_planes(start))
    np.testing.assert_allclose(planes.experimental_sample_and_log_prob(3, seed=[1, 2])[1], expected, rtol=1e-4)


def test_the_search_goes_on_through_a_round_that_loses(monkeypatch):
    monkeypatch.setattr(gap, "RATES", gap.RATES[:1])
    search = object.__new__(gap.Search)
    search.ticker = progress.Ticker()
    search.ascend = lambda x, parameters, seed, rate: [parameters[0] + 1]

    def terms(x, parameters, num_draws, seed):
        height = tf.gather(tf.constant([0.0, -1.0, 5.0, *[4.0] * gap.PATIENCE, 9.0]), parameters[0][:, 0])[None]
        return LogTerms(height, tf.zeros_like(height), tf.zeros_like(height))

    search.terms = terms
    np.testing.assert_array_equal(search.best(None, [tf.constant([[0]])])[0], [[2]])  # and gives up before the last


def test_the_search_gets_higher_by_shorter_steps_where_longer_ones_only_lose():
    search = object.__new__(gap.Search)
    search.ticker = progress.Ticker()
    search.ascend = lambda x, parameters, seed, rate: [parameters[0] + (1.0 if rate < 0.002 else -1.0)]

    def terms(x, parameters, num_draws, seed):
        height = tf.minimum(parameters[0], 3.0)[None, :, 0]
        return LogTerms(height, tf.zeros_like(height), tf.zeros_like(height))

    search.terms = terms
    assert search.best(None, [tf.constant([[0.0]])])[0] == 3


def test_the_estimate_of_an_image_is_chosen_by_others():
    # Of the even images the second is highest, of the odd ones the first: each is chosen for the others.
    estimates = np.array([[0.0, 5.0, 1.0, 6.0], [3.0, 2.0, 4.0, 2.5]])
    np.testing.assert_array_equal(gap.highest_elsewhere(estimates), [0.0, 2.0, 1.0, 2.5])


@pytest.mark.slow
def test_the_sandwich_encloses_log_px(small, monkeypatch):
    monkeypatch.setattr(annealing, "TEMPERATURES", 50)
    model = models.build(tiny.config("vae"))
    enclosed = gap.sandwich(model, 20, 0.4)
    assert enclosed["lower"].shape == enclosed["upper"].shape == (20,)
    assert enclosed["lower"].mean() < enclosed["upper"].mean() + 0.1
    assert abs(enclosed["lower"].mean() - enclosed["upper"].mean()) < 1


@pytest.mark.slow
def test_gap_writes_a_table_a_figure_and_a_result(small, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    record = gap.gap(run, 8, results=True, out=tmp_path / "figures")
    printed, told = capsys.readouterr()
    for line in ("train: 0 of 1 batches", "test: 0 of 1 batches", "20 steps at 0.02", "10 steps at 0.005"):
        assert line in told  # it takes minutes, and standard error is no terminal here
    for label in (*gap.LEVELS.values(), "amortization gap", "annealing check"):
        assert label in printed
    for split in ("train", "test"):
        levels = [record[split][name]["mean"] for name in gap.LEVELS]
        assert (np.diff(levels) < 0.3).all()  # by 200 draws, of nats that vary by 3 from draw to draw
        gaps = record[split]["gaps"]
        total = gaps["approximation"]["mean"] + gaps["amortization"]["mean"]
        np.testing.assert_allclose(total, levels[0] - levels[-1], rtol=1e-6)
    assert json.loads((tmp_path / "results" / f"{run.workdir.name}_gap-mnist_5k.json").read_text()) == record
    assert (tmp_path / "figures" / f"{run.title}_gap.png").stat().st_size > 5_000


def test_gap_refuses_what_it_cannot_measure(run, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="--num_images=501 is out of range: give 2 to 500"):
        gap.gap(run, 501, results=False, out=tmp_path)
    for config in (tiny.config("pixelcnn"), tiny.config("ladder"), tiny.config("ladder", num_layers=1)):
        monkeypatch.setattr(runs, "load_model", lambda run, config=config: models.build(config))
        with pytest.raises(UsageError, match="no such gap"):
            gap.gap(run, 8, results=False, out=tmp_path)
