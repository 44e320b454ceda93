"""Runs stand alone: verbs open a run by its own config.json, name what they write by the run, and go on with it."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from keras_genmnist import annealing, classifier, export, figures, gap, models, runs, training
from keras_genmnist import config as configs
from tests import test_cli, test_export, test_training, tiny
from tests.test_cli import assert_one_line

eager, call, genmnist = tiny.eager, test_cli.call, test_cli.genmnist
one_step_a_call = test_training.one_step_a_call
ROOT = Path(__file__).parent.parent


def advised(text: str) -> list[str]:
    """The arguments of the one command that a message recommends."""
    (command,) = re.findall(r"`(genmnist [^`]*)`", text)
    return shlex.split(command)[1:]


def copy_of(run: runs.Run, workdir: str) -> Path:
    return Path(shutil.copytree(run.workdir, workdir))


# Nothing is looked up in configs/


@pytest.fixture
def without_config(run, genmnist, monkeypatch) -> Path:
    """A copy of the run, in the present folder, whose config has another name today."""
    workdir = copy_of(run, "runs/gone")
    for path in workdir.rglob("config.json"):
        path.write_text(path.read_text().replace('"name": "vae"', '"name": "gone"'))
    monkeypatch.setattr(configs, "load", lambda name: pytest.fail(f"configs/ was asked for {name}"))
    return workdir


@pytest.mark.parametrize(
    "command",
    [
        "figures --workdir=runs/gone --which=samples",
        "export --workdir=runs/gone",
        "sample --workdir=runs/gone",
        "sample --model=gone",
        "evaluate --workdir=runs/gone --num_draws=1",
        "gap --workdir=runs/gone --num_images=2",
    ],
)
def test_verb_works_on_a_run_whose_config_is_no_more(command, without_config, genmnist, monkeypatch):
    # What takes long is not what is tested.
    monkeypatch.setattr(classifier, "JUDGES", classifier.JUDGES[:1])
    monkeypatch.setattr(annealing, "step_size", lambda *args: 0.4)
    monkeypatch.setattr(gap, "measure", lambda *args: {name: np.arange(2.0) for name in gap.LEVELS})
    monkeypatch.setattr(gap, "sandwich", lambda *args: {name: np.arange(2.0) for name in ("lower", "upper")})
    outcome = genmnist(*command.split())
    assert outcome.status == 0, outcome.err
    assert "wrote " in outcome.out


def test_run_whose_config_is_no_more_goes_on(without_config, genmnist, eager):
    outcome = genmnist("train", f"--workdir={without_config}", "--config.epochs=2")
    assert (outcome.status, outcome.err) == (0, "")
    assert [row["epoch"] for row in runs.read_metrics(runs.load(without_config))] == [1, 2]


# --config_from


def test_config_from_a_run_trains_the_same_again(run, genmnist, eager):
    copy_of(run, "old")
    command = ["train", "--config_from=old", "--workdir=new"]
    assert genmnist(*command).status == 0
    new = runs.load(Path("new"))
    assert (new.name, new.config.to_dict()) == (run.name, run.config.to_dict())
    assert new.command == shlex.join(["genmnist", *command]) and new.identity != runs.load(Path("old")).identity
    assert tiny.scored(Path("new"))
    assert "new is finished" in genmnist(*command).out
    assert_one_line(genmnist(*command, "--config.latent_size=3"), 2, "latent_size is 2 there, 3 here")


def test_config_from_takes_fields_from_the_command_line_and_names_the_run_by_the_model(run, genmnist, eager):
    for source in (run.workdir, run.workdir / "config.json"):
        assert genmnist("train", f"--config_from={source}", "--config.latent_size=3").status == 0
        assert runs.load(Path("runs/vae")).config.latent_size == 3
        shutil.rmtree("runs")


def test_config_from_a_result_is_that_of_the_result(genmnist, monkeypatch):
    trained = []
    monkeypatch.setattr(training, "train", lambda run, *more, **given: trained.append(run))
    path = ROOT / "tests" / "data" / "first_version" / "planar_k10.json"
    assert genmnist("train", f"--config_from={path}", "--config.dataset=mnist_5k").status == 0
    (run,) = trained
    assert (run.workdir, run.name) == (Path("runs/planar"), "planar")
    expected = json.loads(path.read_text())["config"]
    expected |= {"dataset": "mnist_5k", "norm": "batch", "image_size": 0, "invert": False, "class_conditional": False}
    expected |= {"beta": 1.0, "capacity": 0.0, "precision": "float32", "pixelcnn_patch_size": 1}
    expected |= {"optimizer": "adam", "weight_decay": 0.0, "pixelcnn_orders": 1}
    expected.pop("batch_norm")
    assert run.config.to_dict() == expected


@pytest.mark.parametrize(
    "flags, status, parts",
    [
        (["--config_from=nowhere"], 2, ["no nowhere", "results/NAME.json"]),
        (["--config_from=empty"], 2, ["no run in empty"]),
        (["--config_from=file"], 3, ["file holds no whole config"]),
        ([f"--config_from={ROOT}/results/compare.json"], 3, ["compare.json holds no whole config"]),
        (["--config_from=file", "--model=vae"], 2, ["either --model or --config_from"]),
        ([f"--config_from={ROOT}/results/vae.json", "--config.latent_sze=3"], 2, ["did you mean latent_size?"]),
        ([f"--config_from={ROOT}/results/vae.json", "--config.epochs=0", "--workdir=w"], 2, ["epochs=0"]),
    ],
)
def test_config_from_what_holds_none_is_one_line(flags, status, parts, genmnist):
    Path("empty").mkdir()
    Path("file").write_text('{"model": "vae", "config": [1]}')
    assert_one_line(genmnist("train", *flags), status, *parts)
    assert sorted(path.name for path in Path().iterdir()) == ["empty", "file"]


# What is written is named by the run


def test_two_runs_of_one_config_write_beside_each_other(run, genmnist, monkeypatch):
    test_export.stub_save(monkeypatch)
    for workdir in ("small", "runs/vae_big"):
        copy_of(run, workdir)
        printed = genmnist("figures", f"--workdir={workdir}", "--which=samples").out
        printed += genmnist("export", f"--workdir={workdir}").out
        name = Path(workdir).name
        assert f"wrote figures/{name}_samples.png" in printed and f"wrote exports/{name}/1" in printed
    assert sorted(path.name for path in Path("figures").iterdir()) == ["small_samples.png", "vae_big_samples.png"]
    assert sorted(map(str, Path("exports").glob("*/*"))) == ["exports/small/1", "exports/vae_big/1"]
    monkeypatch.chdir("small")
    assert "wrote figures/small_samples.png" in genmnist("figures", "--workdir=.", "--which=samples").out


def test_captions_name_the_run_and_its_config(run, tmp_path):
    def caption(workdir):
        moved = runs.load(shutil.copytree(run.workdir, tmp_path / workdir))
        return figures._caption(figures.Subject(moved, None, None, [], 1))

    assert caption("vae_big").startswith("vae_big (vae) on mnist_5k")
    assert caption("deeper/vae").startswith("vae on mnist_5k")


def test_export_says_that_the_version_before_is_of_another_run(run, genmnist, eager, monkeypatch):
    test_export.stub_save(monkeypatch)
    copy_of(run, "a/vae")
    assert genmnist("train", "--config_from=a/vae", "--workdir=b/vae", "--config.latent_size=3").status == 0
    assert genmnist("export", "--workdir=a/vae") == (0, "wrote exports/vae/1\n", "")
    assert genmnist("export", "--workdir=a/vae") == (0, "wrote exports/vae/2\n", "")
    outcome = genmnist("export", "--workdir=b/vae")
    assert outcome.out == "wrote exports/vae/3\n"
    assert_one_line(outcome, 0, "exports/vae/2", "of another run, of vae on mnist_5k", run.commit)
    assert genmnist("export", "--workdir=b/vae").err == ""
    record = json.loads(Path("exports/vae/4/assets.extra/genmnist.json").read_text())
    assert record["id"] == runs.load(Path("b/vae")).identity
    assert str(Path().absolute()) not in json.dumps(record)


def test_run_keeps_its_identity_when_it_is_moved_and_trained_on(run, genmnist, eager):
    identity = runs.load(copy_of(run, "vae")).identity
    assert genmnist("train", "--workdir=vae", "--config.epochs=2").status == 0
    assert runs.load(Path("vae").rename("moved")).identity == identity


def test_identity_of_an_older_run_is_that_of_its_older_exports():
    stored = ROOT / "tests" / "data" / "schema_1"
    record = json.loads((stored / "config.json").read_text())
    exported = {"model": record["name"], "dataset": "mnist_5k", "config": record["config"], "commit": record["commit"]}
    assert runs.load(stored).identity == runs.identity_of(exported)
    exported["config"]["seed"] = 4
    assert runs.load(stored).identity != runs.identity_of(exported)


def test_warmup_requests_are_for_the_name_that_a_server_gives(run, tmp_path, monkeypatch):
    test_export.stub_save(monkeypatch)
    asked = []
    own = export.warmup_request
    monkeypatch.setattr(export, "warmup_request", lambda name, *rest: asked.append(name) or own(name, *rest))
    moved = runs.load(shutil.copytree(run.workdir, tmp_path / "vae_big"))
    assert export.export(moved, tmp_path).parent == tmp_path / "vae_big"
    assert set(asked) == {"vae_big"}


# Going on with more epochs


def test_finished_run_goes_on_and_says_what_the_schedule_does(run, genmnist, eager):
    copy_of(run, "w")
    outcome = genmnist("train", "--workdir=w", "--config.epochs=2")
    assert (outcome.status, outcome.err) == (0, "")
    # Half of a cosine from 0.002: (1 + cos(pi / 2)) / 2.
    assert (
        "w goes on from step 4: epochs is 2 now, not 1; the cosine decay is planned over 2 epochs now: "
        "learning_rate goes on at 0.001, by the old plan at 0\n"
    ) in outcome.out
    assert "finished w: 2 epochs" in outcome.out
    content = json.loads(Path("w/config.json").read_text())
    assert content["config"]["epochs"] == 2
    assert content["changes"] == [
        {
            "epoch": 1,
            "step": 4,
            "old": {"epochs": 1},
            "new": {"epochs": 2},
            "command": "genmnist train --workdir=w --config.epochs=2",
        }
    ]
    assert "is finished" in genmnist("train", "--workdir=w").out
    assert json.loads(Path("w/config.json").read_text()) == content


def test_run_that_goes_on_resumes_bit_for_bit(run, genmnist, eager, monkeypatch, one_step_a_call):
    whole, stopped = copy_of(run, "whole"), copy_of(run, "stopped")
    assert genmnist("train", "--workdir=whole", "--config.epochs=3").status == 0
    test_training.signal_at(monkeypatch, tiny.STEPS + 2)
    assert genmnist("train", "--workdir=stopped", "--config.epochs=3").status == 143
    assert genmnist("train", "--workdir=stopped").status == 0
    test_training.assert_same_training(runs.load(stopped), runs.load(whole))


def test_the_learning_rate_of_a_run_that_goes_on_is_that_of_the_new_plan(run, tmp_path, eager):
    moved = runs.load(shutil.copytree(run.workdir, tmp_path / "w"))
    moved.config.epochs = 4
    state = training.Training(moved)
    state.model.train_step(next(state.chunks())[0])
    rate = float(state.model.optimizer.learning_rate)
    np.testing.assert_allclose(rate, moved.config.learning_rate * (1 + np.cos(np.pi / 4)) / 2, rtol=1e-6)


def test_unfinished_run_goes_on_with_other_epochs(genmnist, eager, monkeypatch, one_step_a_call):
    test_training.signal_at(monkeypatch, 2)
    assert genmnist("train", "--workdir=w", *tiny.flags(epochs=1, decay="constant")).status == 143
    outcome = genmnist("train", "--workdir=w", *tiny.flags(epochs=2, decay="constant"))
    assert "w goes on from step 2: epochs is 2 now, not 1; the learning rate stays as it is\n" in outcome.out
    assert [row["epoch"] for row in runs.read_metrics(runs.load(Path("w")))] == [1, 2]


def test_epochs_that_a_config_has_today_change_no_run(run, genmnist):
    """As where configs/vae.py has other epochs than when the run was begun."""
    workdir = copy_of(run, "w")
    flags = [flag for flag in tiny.flags(epochs=1) if "epochs" not in flag]
    assert_one_line(genmnist("train", "--workdir=w", *flags), 2, "epochs is 1 there, 300 here")
    assert runs.load(workdir).changes == []


# Each piece of advice leads on


def test_finished_run_says_how_to_go_on(run, genmnist, eager):
    copy_of(run, "a b")
    outcome = genmnist(*advised(genmnist("train", "--workdir=a b").out))
    assert outcome.status == 0 and "finished a b: 2 epochs" in outcome.out


@pytest.mark.slow
def test_run_that_lost_its_patience_says_how_to_go_on(genmnist, eager, monkeypatch):
    scores = {1: 2.0, 2: 1.0, 3: 3.0, 4: 4.0, 5: 5.0}
    monkeypatch.setattr(models.base.LatentVariableModel, "score", lambda self, row: scores[row["epoch"]])
    assert "no better one" in genmnist("train", "--workdir=w", *tiny.flags(epochs=4, patience=1)).out
    finished = genmnist("train", "--workdir=w", "--config.epochs=5").out
    assert "w is finished: 2 epochs, the best is 1; there was no better one in 1 epochs" in finished
    outcome = genmnist(*advised(finished))
    assert outcome.status == 0 and "patience is 2 now, not 1" in outcome.out
    assert [row["epoch"] for row in runs.read_metrics(runs.load(Path("w")))][2:] == [3, 4, 5]


@pytest.mark.slow
def test_fewer_epochs_than_are_done_are_refused_with_a_way_to_have_them(genmnist, eager):
    assert genmnist("train", "--workdir=w", *tiny.flags(epochs=2)).status == 0
    before = {path: path.read_bytes() for path in Path("w").rglob("*") if path.is_file()}
    outcome = genmnist("train", "--workdir=w", "--config.epochs=1")
    assert_one_line(outcome, 2, "config.epochs=1 is fewer than the 2 done in w")
    assert {path: path.read_bytes() for path in Path("w").rglob("*") if path.is_file()} == before
    outcome = genmnist(*advised(outcome.err))
    assert outcome.status == 0 and "finished w-2: 1 epoch," in outcome.out


def test_run_with_another_config_can_be_resumed_as_advised(run, genmnist, eager):
    copy_of(run, "w")
    refused = genmnist("train", "--workdir=w", "--config.latent_size=9", "--config.epochs=2")
    assert_one_line(refused, 2, "latent_size is 2 there, 9 here")
    finished = genmnist(*advised(refused.err))
    assert finished.status == 0 and "w is finished" in finished.out
    assert genmnist(*advised(finished.out)).status == 0


def test_no_run_can_be_trained_as_advised(genmnist, monkeypatch):
    trained = []
    monkeypatch.setattr(training, "train", lambda run, *more, **given: trained.append((run.workdir, run.name)))
    assert genmnist(*advised(genmnist("evaluate", "--model=vae", "--workdir=a b").err)).status == 0
    assert trained == [(Path("a b"), "vae")]


def test_workdir_of_another_model_can_be_used_as_advised(run, genmnist):
    copy_of(run, "runs/iaf")
    refused = genmnist("sample", "--model=iaf")
    assert_one_line(refused, 2, "runs/iaf holds a run of vae, not of iaf: give --workdir=runs/iaf alone")
    assert genmnist("sample", "--workdir=runs/iaf").status == 0


LOST = {
    "all of best/": lambda w: shutil.rmtree(w / "best"),
    "every checkpoint of best/": lambda w: [path.write_bytes(b"") for path in (w / "best").glob("*.index")],
    "metrics.jsonl": lambda w: (w / "metrics.jsonl").unlink(),
}


@pytest.mark.parametrize("lose", LOST.values(), ids=LOST)
def test_what_is_lost_can_be_trained_anew_as_advised(lose, run, genmnist, eager):
    lose(copy_of(run, "w"))
    outcome = genmnist("evaluate", "--workdir=w", "--num_draws=1")
    assert outcome.status == 3
    assert genmnist(*advised(outcome.err)).status == 0
    assert tiny.scored(Path("w-2"))


def test_no_finished_epoch_can_be_trained_as_advised(genmnist, eager):
    tiny.begin(Path("w"), epochs=1)
    outcome = genmnist("figures", "--workdir=w")
    assert_one_line(outcome, 3, "w has no finished epoch yet")
    assert genmnist(*advised(outcome.err)).status == 0


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["checkpoints", "best"])
def test_training_does_not_begin_again_where_checkpoints_are_lost(folder, genmnist, eager):
    assert genmnist("train", "--workdir=w", *tiny.flags(epochs=2)).status == 0
    for path in Path("w", folder).glob("ckpt-*"):
        path.unlink()
    before = {path: path.read_bytes() for path in Path("w").rglob("*") if path.is_file()}
    outcome = genmnist("train", "--workdir=w", "--config.epochs=3")
    assert_one_line(outcome, 3, f"w/{folder} has no checkpoint any more")
    assert {path: path.read_bytes() for path in Path("w").rglob("*") if path.is_file()} == before
    assert genmnist(*advised(outcome.err)).status == 0


def test_lost_metrics_are_said_when_training_goes_on(run, genmnist, eager):
    copy_of(run, "w")
    Path("w/metrics.jsonl").unlink()
    outcome = genmnist("train", "--workdir=w", "--config.epochs=2")
    assert_one_line(outcome, 0, "w/metrics.jsonl has lost epoch 1: training goes on")
    assert [row["epoch"] for row in runs.read_metrics(runs.load(Path("w")))] == [2]
    assert_one_line(genmnist("train", "--workdir=w", "--config.epochs=3"), 0, "has lost epoch 1")
