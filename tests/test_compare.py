import json
import re
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import tensorflow as tf

from keras_genmnist import compare, evaluate, models, runs
from keras_genmnist import config as configs
from keras_genmnist.errors import UsageError
from tests import tiny

eager = tiny.eager


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Every config at tiny sizes."""
    loaded = configs.load
    monkeypatch.setattr(configs, "load", lambda name: tiny.shrunk(loaded(name)))


def one_epoch(name, config, seconds):
    config.epochs = 1
    return config


@pytest.mark.slow
def test_compare_trains_what_is_missing_and_shows_all(tmp_path, capsys, monkeypatch, eager):
    monkeypatch.setattr(compare, "_within", one_epoch)
    monkeypatch.setattr(evaluate, "quality_of_samples", lambda *arguments: {})  # which a comparison does not show
    monkeypatch.setattr(evaluate, "_samples_table", lambda record: "")
    found = compare.compare(["vae", "vae_2d"], 0.05, "mnist_5k", 2, tmp_path / "runs", tmp_path / "figures", "typed")
    printed = capsys.readouterr().out
    assert "2 of 2 models to train, 0.05 minutes each: vae, vae_2d" in printed
    for name, own in found.items():
        (used,) = re.findall(rf"{name} used ([0-9.]+) of 0.05 minutes, for 1 epoch\n", printed)
        assert float(used) == pytest.approx(own["train_seconds"] / 60, abs=0.01)  # both rounded
    for own in found.values():
        assert own["epochs"] == len(own["curve"]["seconds"]) == len(own["curve"]["nats"]) == 1
        assert own["milliseconds_per_image"] > 0
        assert {"elbo", "nll"} <= own["test"].keys()
    assert json.loads((tmp_path / "runs" / "compare.json").read_text()) == found
    assert runs.load(tmp_path / "runs" / "vae").command == "typed"
    assert (tmp_path / "figures" / "runs.png").stat().st_size > 10_000

    before = (tmp_path / "runs" / "vae" / "metrics.jsonl").read_text()
    again = compare.compare(["vae_2d", "vae"], 0.05, "mnist_5k", 2, tmp_path / "runs", tmp_path / "figures", "typed")
    printed = capsys.readouterr().out
    assert "0 of 2 models to train, 0.05 minutes each: none" in printed
    assert f"vae is in {tmp_path / 'runs'} already, of 1 epoch\n" in printed
    assert (tmp_path / "runs" / "vae" / "metrics.jsonl").read_text() == before
    assert list(again) == ["vae_2d", "vae"]
    assert again["vae"]["test"]["nll"] == found["vae"]["test"]["nll"]
    with pytest.raises(UsageError, match="holds vae on mnist_5k: give another --workdir"):
        compare.compare(["vae", "iaf"], 0.05, "mnist", 2, tmp_path / "runs", tmp_path / "figures", "")


def test_a_model_of_grey_levels_is_refused(tmp_path):
    with pytest.raises(UsageError, match="flow_matching is a model of grey levels, the others are of bits: leave it"):
        compare.compare(["vae", "flow_matching"], 5, "mnist_5k", 2, tmp_path / "runs", tmp_path / "figures", "")


def test_workdir_that_cannot_be_written_is_refused_before_anything_is_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "_within", lambda *arguments: pytest.fail("timed"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=rf"cannot write {tmp_path}/file/x/vae: {tmp_path}/file is a file"):
        compare.compare(["vae", "iaf"], 5, "mnist_5k", 2, tmp_path / "file" / "x", tmp_path / "figures", "")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_more_draws_than_fit_in_memory_are_refused_before_anything_is_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "_within", lambda *arguments: pytest.fail("timed"))
    with pytest.raises(UsageError, match=r"--num_draws=1000000000000 would take at least"):
        compare.compare(["vae", "iaf"], 5, "mnist_5k", 10**12, tmp_path / "runs", tmp_path / "figures", "")
    assert not list(tmp_path.iterdir())


def test_compare_knows_exact_likelihoods(digits):
    model = models.build(tiny.config("pixelcnn"))
    test = {"nll": {"mean": 81.234, "se": 0.1}}
    own = {"test": test, "train_seconds": 120.0, "epochs": 3, "curve": {"seconds": [1.0, 2.0], "nats": [90.0, 80.0]}}
    own["milliseconds_per_image"] = compare.cost(model, np.tile(digits, [30, 1, 1, 1]), jit_compile=False)
    row = compare.table({"pixelcnn": own}).splitlines()[1]
    assert row.split()[:7] == ["pixelcnn", "2.0", "3", "exact", "81.23", "+-", "0.10"]
    drawn = compare.figure({"pixelcnn": own}, {"pixelcnn": np.zeros([compare.SHOWN, 28, 28, 1])}, "mnist")
    assert len(drawn.axes[1].containers) == 1  # the NLL alone
    plt.close(drawn)


def test_compare_knows_bounds_without_a_likelihood(digits):
    model = models.build(tiny.config("masked_diffusion"))
    own = {"test": {"elbo": {"mean": -81.234, "se": 0.1}}, "train_seconds": 120.0, "epochs": 3}
    own["milliseconds_per_image"] = compare.cost(model, np.tile(digits, [30, 1, 1, 1]), jit_compile=False)
    row = compare.table({"masked_diffusion": own}).splitlines()[1]
    assert row.split()[:6] == ["masked_diffusion", "2.0", "3", "81.23", "+-", "0.10"]
    assert len(row.split()) == 7


@pytest.mark.parametrize(("count", "sizes"), [(7, [7]), (100, [100]), (200, [100]), (250, [100, 50])])
def test_cost_of_any_number_of_images_has_no_tracing_in_its_time(count, sizes, monkeypatch):
    happened = []

    def clock():
        happened.append("clock")
        return len(happened)

    def log_likelihood(x):
        happened.append(x.shape[0])  # as it is traced
        return tf.reduce_sum(x, axis=[1, 2, 3])

    monkeypatch.setattr(compare, "time", SimpleNamespace(perf_counter=clock))
    model = SimpleNamespace(likelihood="exact", autograph=False, log_likelihood=log_likelihood)
    timed = count if count <= 100 else count - 100
    assert compare.cost(model, np.zeros([count, 8, 8, 1]), jit_compile=False) == pytest.approx(1000 / timed)
    assert happened == [*sizes, "clock", "clock"]


@pytest.mark.parametrize(("shape", "inches"), [((28, 28, 1), 5.38), ((12, 20, 3), 4.92)])
def test_compare_draws_samples_of_any_shape(shape, inches):
    own = {"test": {"nll": {"mean": 81.0, "se": 0.1}}, "curve": {"seconds": [1.0, 2.0], "nats": [90.0, 80.0]}}
    samples = np.random.default_rng(0).random([compare.SHOWN, *shape])
    drawn = compare.figure({"a": own, "b": own}, {"a": samples, "b": samples}, "mine")
    (image,) = drawn.axes[2].images
    assert image.get_array().shape[:2] == (2 * (shape[0] + 1) - 1, compare.SHOWN * (shape[1] + 1) - 1)
    np.testing.assert_allclose(drawn.get_size_inches(), [11, inches], atol=0.01)
    plt.close(drawn)


def test_compare_refuses_what_it_cannot_compare(tmp_path):
    with pytest.raises(UsageError, match="gan has no likelihood"):
        compare.compare(["vae", "gan"], 1, "mnist_5k", 2, tmp_path, tmp_path, "")
    with pytest.raises(UsageError, match=r"unknown dataset 'nist'"):
        compare.compare(["vae"], 1, "nist", 2, tmp_path, tmp_path, "")
    with pytest.raises(UsageError, match="--minutes=1e-06 is too short"):
        compare.compare(["vae", "vae_2d"], 1e-6, "mnist_5k", 2, tmp_path, tmp_path, "")
    assert list(tmp_path.iterdir()) == []


def scripted(monkeypatch, seconds):
    """Epochs of a training that take `seconds`, the last for ever after; returns how many were asked for."""
    trained = []

    def train(run, started, enough):
        rows = []
        while len(rows) < run.config.epochs and not enough(rows):
            rows.append({"seconds": seconds[min(len(rows), len(seconds) - 1)]})
            trained.append(rows[-1])

    monkeypatch.setattr(compare.training, "train", train)
    monkeypatch.setattr(compare.runs, "read_metrics", lambda run: trained)
    return trained


@pytest.mark.parametrize(
    ("seconds", "budget", "epochs"),
    [
        ([70.0, 75.0, 62.0, 61.0], 360, 5),  # the second one was slow: 70 + 75 + 62 + 61 + 61.5 = 329.5
        ([70.0, 75.0, 61.0, 62.0], 329, 4),
        ([10.0, 2.0, 2.0], 60, 26),  # compiling is in the time: 10 + 25 * 2
        ([10.0, 2.0, 2.0], 61.9, 26),
        ([100.0], 100, 1),
        ([100.0, 80.0], 179, 1),
        ([30.0, 20.0, 18.0], 49, 1),
        ([30.0, 20.0, 18.0], 50, 2),
    ],
)
def test_as_many_epochs_are_trained_as_fit(seconds, budget, epochs, monkeypatch):
    scripted(monkeypatch, seconds)
    budgeted = compare._within("vae", configs.load("vae"), budget)
    assert budgeted.epochs == epochs
    taken = [seconds[min(n, len(seconds) - 1)] for n in range(epochs + 1)]
    assert sum(taken[:-1]) <= budget < sum(taken)


def test_the_trial_goes_on_until_epochs_are_steady_and_no_longer_than_the_time(monkeypatch):
    for seconds, budget, number in (
        ([9.0, 5.0, 4.0, 3.0, 2.0, 1.96], 600, 6),
        ([9.0, 2.0, 2.0], 600, 3),
        ([9.0, 5.0, 4.0, 3.0, 2.0, 1.96], 14, 2),
        ([2.0**-n for n in range(100)], 600, compare.TRIAL_EPOCHS),
    ):
        trained = scripted(monkeypatch, seconds)
        compare._within("vae", configs.load("vae"), budget)
        assert len(trained) == number


def test_the_warm_up_stays_the_same_share_of_the_training(monkeypatch):
    scripted(monkeypatch, [4.0, 2.0, 2.0])
    config = configs.load("ladder")
    config.epochs, config.warmup_epochs = 500, 50
    budgeted = compare._within("ladder", config, 62)
    assert (budgeted.epochs, budgeted.warmup_epochs) == (30, 3)
    assert (config.epochs, config.warmup_epochs) == (500, 50)


def test_dataset_that_is_none_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"unknown dataset 'minst'; did you mean mnist\?"):
        compare.compare(["vae", "iaf"], 5, "minst", 2, tmp_path, tmp_path, "")
