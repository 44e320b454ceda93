import contextlib
import json
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict

from keras_genmnist import cli, evaluate, files, sweep, workers
from keras_genmnist import config as configs
from keras_genmnist.errors import Fault, UsageError
from tests import test_cli, tiny

call, genmnist, eager = test_cli.call, test_cli.genmnist, tiny.eager
FLAGS = ["--config.dataset=mnist_5k", "--config.epochs=1"]


@pytest.fixture
def commands(monkeypatch):
    """Every config at tiny sizes, no scores of samples, and commands that run in this process, as a list."""
    loaded, ran, alone = configs.load, [], threading.Lock()
    monkeypatch.setattr(configs, "load", lambda name: tiny.shrunk(loaded(name)))
    monkeypatch.setattr(evaluate, "quality_of_samples", lambda run, *_: {"samples": {"frechet": {"mean": 2.0}}})
    monkeypatch.setattr(evaluate, "_samples_table", lambda record: "")

    def run(self, arguments, log):
        with alone:
            ran.append(arguments)
            try:
                cli.VERBS[arguments[0]](arguments[1:])
            except (UsageError, Fault) as error:
                log.write_text(f"genmnist: {error}\n")
                return error.exit_code
            return 0

    monkeypatch.setattr(workers.Workers, "_run", run)
    return ran


@pytest.mark.slow
def test_sweep_trains_each_seed_and_tells_their_spread(commands, tmp_path, capsys, eager, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ["sweep", "--models=vae,iwae", "--seeds=2", "--num_draws=2", *FLAGS, "--workdir=both", "--results"]
    cli.VERBS["sweep"](asked[1:])
    printed = capsys.readouterr().out
    assert [ran[0] for ran in commands].count("train") == [ran[0] for ran in commands].count("evaluate") == 4
    found = json.loads((tmp_path / "both" / "sweep.json").read_text())
    assert json.loads((tmp_path / "results" / "both.json").read_text()) == found
    log_px, elbo = {}, {}
    for name in ("iwae", "vae"):
        own = found["models"][name]
        assert [run["seed"] for run in own["runs"]] == [3435, 3436]
        records = [json.loads((tmp_path / "both" / f"{name}-{s}" / "metrics.json").read_text()) for s in (3435, 3436)]
        elbo[name] = [-record["test"]["elbo"]["mean"] for record in records]
        assert own["elbo"]["values"] == pytest.approx(elbo[name])
        assert own["elbo"]["mean"] == pytest.approx(np.mean(elbo[name]))
        assert own["elbo"]["sd"] == pytest.approx(abs(np.subtract(*elbo[name])) / np.sqrt(2))
        assert own["nll"]["se"] == pytest.approx(np.mean([record["test"]["nll"]["se"] for record in records]))
        assert own["frechet"] == {"values": [2.0, 2.0], "mean": 2.0, "sd": 0.0, "se": None}
        files = [tmp_path / "both" / f"{name}-{seed}" / "per_image.npz" for seed in (3435, 3436)]
        log_px[name] = np.stack([np.load(file)["log_px"] for file in files])
    (difference,) = found["differences"]
    worse, best = difference["model"], difference["best"]
    assert {worse, best} == {"vae", "iwae"}
    gain = log_px[best].mean() - log_px[worse].mean()
    assert gain > 0 and difference["mean"] == pytest.approx(gain)
    assert f"{best} is better than {worse} by {gain:.2f} nats an image" in printed
    assert "iwae-3436: done (4 of 4" in printed

    del commands[:]
    cli.VERBS["sweep"]([*asked[1:-3], *FLAGS, "--workdir=both"])  # all is there: nothing is done again
    assert commands == []
    cli.VERBS["sweep"](["--models=vae", "--seeds=1", "--num_draws=3", *FLAGS, "--workdir=both"])
    assert [ran[0] for ran in commands] == ["train", "evaluate"]


def test_a_run_that_fails_is_told_of_and_the_others_are_not_lost(commands, tmp_path, capsys, eager):
    (tmp_path / "both" / "vae-3435").mkdir(parents=True)
    (tmp_path / "both" / "vae-3435" / "best").write_text("in the way")
    with pytest.raises(Fault, match=r"1 of 2 runs failed: vae-3435; what each said is in .*, and the same command"):
        cli.VERBS["sweep"](["--models=vae", "--seeds=2", "--num_draws=2", *FLAGS, f"--workdir={tmp_path / 'both'}"])
    printed = capsys.readouterr().out
    assert "vae-3435: " in printed and "holds best but no run: give a --workdir that is new or empty (1 of 2" in printed
    found = json.loads((tmp_path / "both" / "sweep.json").read_text())
    assert [run["seed"] for run in found["models"]["vae"]["runs"]] == [3436]
    assert found["models"]["vae"]["nll"]["sd"] is None and found["differences"] == []


def test_a_model_without_likelihood_is_told_by_its_samples(commands, tmp_path, capsys, eager):
    cli.VERBS["sweep"](["--models=gan", "--seeds=2", "--num_draws=5", *FLAGS, f"--workdir={tmp_path}"])
    found = json.loads((tmp_path / "sweep.json").read_text())
    assert found["models"]["gan"].keys() == {"runs", "frechet"} and found["differences"] == []
    assert not any("--num_draws" in argument or "--per_image" in argument for ran in commands for argument in ran)
    assert "2.00 +- 0.00" in capsys.readouterr().out


def test_sweep_refuses_what_cannot_be_swept(commands, genmnist):
    for arguments, message in [
        ([], "--models= must be one or more, each once, of "),
        (["--models=vae,vae"], "--models=vae,vae must be one or more, each once"),
        (["--models=vea"], "unknown model 'vea'; did you mean vae?"),
        (["--models=vae", "--seeds=0"], "seeds"),
        (["--models=vae", "--config.latentsize=3"], "unknown config field 'latentsize'; did you mean latent_size?"),
        (["--models=vae", "--config.latent_size=0"], "config.latent_size=0 is out of range"),
        (["--models=vae,flow_matching", *FLAGS], "flow_matching is a model of grey levels, vae of bits"),
        (["--models=vae", "--jobs=999", *FLAGS], "--jobs=999 is out of range: give 1 to"),
    ]:
        outcome = genmnist("sweep", *arguments)
        assert outcome.status == 2 and len(outcome.err.splitlines()) == 1
        assert message in outcome.err
    assert commands == []


def test_a_run_of_another_process_is_left_to_it_and_waited_for(commands, tmp_path, monkeypatch, eager):
    another = contextlib.ExitStack()
    assert another.enter_context(files.claimed(tmp_path / "vae-3435.lock", ""))
    # It has not trained the run, as if it had been killed.
    monkeypatch.setattr(sweep, "time", SimpleNamespace(time=time.time, sleep=lambda seconds: another.close()))
    asked = ["--models=vae", "--seeds=2", "--num_draws=2", "--jobs=1", *FLAGS, f"--workdir={tmp_path}"]
    cli.VERBS["sweep"](asked)
    trained = [arguments[-1] for arguments in commands if arguments[0] == "train"]
    assert trained == [f"--workdir={tmp_path / name}" for name in ("vae-3436", "vae-3435")]
    runs = json.loads((tmp_path / "sweep.json").read_text())["models"]["vae"]["runs"]
    assert [run["seed"] for run in runs] == [3435, 3436]


def record(place, **changes):
    """What an evaluation leaves in the directory of a run."""
    split = {"elbo": {"mean": -90.0, "se": 0.1}, "nll": {"mean": 88.0, "se": 0.1, "num_draws": 1000}}
    own = {"config": {"seed": 1}, "epochs": 1, "test": split, "samples": {"frechet": {"mean": 2.0}}} | changes
    own = dict.fromkeys(("seed", "train_seconds", "command", "trained", "evaluated")) | {"best_epoch": 1} | own
    place.mkdir()
    (place / "metrics.json").write_text(json.dumps({name: value for name, value in own.items() if value != "none"}))
    np.savez(place / "per_image.npz", log_px=np.zeros(5))
    return place


def test_a_run_is_finished_once_its_samples_are_scored_and_by_as_many_draws(tmp_path):
    config = ConfigDict({"seed": 1, "epochs": 1})
    few = {"elbo": {"mean": -90.0, "se": 0.1}, "nll": {"mean": 88.0, "se": 0.1, "num_draws": 2}}
    for name, changes, num_draws, expected in [
        ("whole", {"config": {"seed": 1, "epochs": 1}}, None, True),
        ("without_samples", {"config": {"seed": 1, "epochs": 1}, "samples": "none"}, None, False),
        ("by_few", {"config": {"seed": 1, "epochs": 1}, "test": few}, None, False),
        ("by_few_as_wanted", {"config": {"seed": 1, "epochs": 1}, "test": few}, 2, True),
        (
            "by_quadrature",
            {"config": {"seed": 1, "epochs": 1}, "test": {"nll": {"num_draws": "quadrature"}}},
            None,
            True,
        ),
        ("not_by_draws", {"config": {"seed": 1, "epochs": 1}, "test": {"nll": {"num_draws": "quadrature"}}}, 2, False),
        ("by_more", {"config": {"seed": 1, "epochs": 1}}, 2, False),
        ("of_less_epochs", {"config": {"seed": 1, "epochs": 1}, "epochs": 0, "best_epoch": 0}, None, False),
    ]:
        assert sweep._finished(record(tmp_path / name, **changes), config, 1, num_draws) is expected, name


def test_a_run_that_stopped_early_is_finished_and_what_is_damaged_is_not(tmp_path):
    config = ConfigDict({"seed": 1, "epochs": 60, "patience": 2})
    own = {"config": config.to_dict(), "epochs": 8}
    assert sweep._finished(record(tmp_path / "stopped", **own, best_epoch=6), config, 1, None)
    assert not sweep._finished(record(tmp_path / "going_on", **own, best_epoch=7), config, 1, None)
    for content in ("[]", "1", '{"test": []}', ""):
        (tmp_path / "stopped" / "metrics.json").write_text(content)
        assert not sweep._finished(tmp_path / "stopped", config, 1, None)


def test_a_model_of_which_fewer_images_are_scored_is_compared_by_these(tmp_path, capsys):
    for name, values in {"one-1": [-90.0, -80.0, -999.0], "two-1": [-92.0, -83.0]}.items():
        np.savez(record(tmp_path / name) / "per_image.npz", log_px=np.array(values))
    plans = dict.fromkeys(("one", "two"), ConfigDict({"seed": 1}))
    (difference,) = sweep._found(plans, 1, tmp_path, [])["differences"]
    assert (difference["best"], difference["num_images"], difference["mean"]) == ("one", 2, 2.5)


def test_paired_difference_leaves_out_what_both_share():
    rng = np.random.default_rng(0)
    images = rng.normal(-90, 20, 10_000)  # how hard an image is, which both models see alike
    seeds = rng.normal(0, 0.3, [5, 1])
    worse = images + seeds + rng.normal(0, 1, [5, 10_000])
    better = images + 0.5 + rng.normal(0, 0.3, [5, 1]) + rng.normal(0, 1, [5, 10_000])
    found = sweep.paired(worse, better)
    assert found["mean"] == pytest.approx(better.mean() - worse.mean())
    assert found["se_images"] == pytest.approx(np.sqrt(2 / 5) / 100, rel=0.05)  # of each alone it is 0.2
    spread = [own.mean(axis=1).var(ddof=1) for own in (worse, better)]
    assert found["se_seeds"] == pytest.approx(np.sqrt(sum(spread) / 5))
    assert found["se"] == pytest.approx(np.hypot(found["se_images"], found["se_seeds"]))
    assert abs(found["mean"] - 0.5) < 4 * found["se"]
    assert sweep.paired(worse[:1], better)["se_seeds"] is None
