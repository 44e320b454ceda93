"""`genmnist tune`: trials are runs, the best is found on validation images, and no mishap ends a study."""

import csv
import json
import math
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

import keras_genmnist as gm
from keras_genmnist import config as configs
from keras_genmnist import runs, training, tuning
from keras_genmnist.datasets.splits import Split
from keras_genmnist.errors import Diverged, Fault, UsageError
from keras_genmnist.search.space import default
from tests import postgres, test_cli, tiny

eager, call, genmnist, assert_one_line = tiny.eager, test_cli.call, test_cli.genmnist, test_cli.assert_one_line
SEARCH = "--search=latent_size:2..6,learning_rate:1e-3..1e-1:log,norm:none|layer"
FIELDS = {"norm": "none", "seed": 3}


def tune_flags(*more: str, **changes) -> list[str]:
    return ["tune", *tiny.flags(**FIELDS | changes), SEARCH, *more]


def elbo(config, epoch: int) -> float:
    """What a training that takes no time gives."""
    rate = abs(math.log10(config.learning_rate) + 2)
    return -100.0 - config.latent_size - 10 * rate - 5 / epoch + 3 * (config.norm == "layer")


@pytest.fixture
def quick(monkeypatch):
    """Trainings whose ELBO is `elbo`: what is tested here is what is made of them."""

    def train(run, started, enough=lambda rows: False, change=None, strategy=None):
        runs.record(run)
        rows = runs.read_metrics(run)
        while len(rows) < run.config.epochs and not enough(rows):
            row = {"epoch": len(rows) + 1, "step": 4 * len(rows) + 4, "seconds": 0.5}
            rows.append(row | {"val_elbo": elbo(run.config, row["epoch"])})
            with open(run.metrics_jsonl, "a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            ended(run, row["epoch"])
        print(f"finished {run.workdir}: {len(rows)} epochs")

    # What else happens at the end of an epoch: a test puts it here.
    hooks = []

    def ended(run, epoch):
        for hook in hooks:
            hook(run, epoch)

    monkeypatch.setattr(training, "train", train)
    # They leave nothing, and to look for it takes seconds in a process that has run many tests.
    monkeypatch.setattr(tuning.gc, "collect", lambda: 0)
    return hooks


@pytest.fixture
def tuned(genmnist, quick):
    """Four trials of two epochs, in runs/tune/vae; what was said."""
    outcome = genmnist(*tune_flags("--trials=4", "--epochs=2", epochs=5))
    assert outcome.status == 0, outcome
    return outcome


def trials(workdir=None) -> list[dict]:
    """What trials.csv says."""
    with open((workdir or Path("runs/tune/vae")) / "trials.csv") as file:
        return list(csv.DictReader(file))


def test_trials_are_runs_and_the_best_of_them_is_told(tuned, genmnist, tmp_path):
    folder = tmp_path / "runs" / "tune" / "vae"
    found = trials(folder)
    assert [row["state"] for row in found] == ["complete"] * 4
    for row in found:
        run = runs.load(folder / "trials" / row["run"])
        scores = [epoch["val_elbo"] for epoch in runs.read_metrics(run)]
        assert len(scores) == run.config.epochs == 2
        assert float(row["elbo"]) == max(scores)
        for field in ("latent_size", "learning_rate", "norm"):
            assert str(run.config[field]) == row[field]
        assert run.config.hidden_size == tiny.SIZES["hidden_size"]
    best = max(found, key=lambda row: float(row["elbo"]))
    config = runs.load(folder / "best").config
    assert (config.epochs, str(config.latent_size)) == (5, best["latent_size"])
    assert f"the config of trial {best['trial']} is in runs/tune/vae/best" in tuned.out
    assert f"another process joins by  genmnist tune --workdir={folder}\n" in tuned.out
    first = next(line for line in tuned.out.splitlines() if line.split()[:2] == ["trial", "ELBO"])
    assert tuned.out.splitlines()[tuned.out.splitlines().index(first) + 1].split()[0] == best["trial"]
    for name in ("history", "importance", "parallel_coordinates", "slice"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert not (folder / "pareto.png").exists()
    # The same command again trains nothing, and with more trials goes on.
    again = genmnist(*tune_flags("--trials=5", "--epochs=2", epochs=5))
    assert "4 of 5 trials done" in again.out and again.out.count("\ntrial 4:") == 1
    assert trials(folder)[:4] == found


@pytest.mark.slow
def test_best_is_trained_to_full_length_and_kept(tuned, genmnist, monkeypatch):
    best = Path("runs/tune/vae/best")
    outcome = genmnist("tune", "--workdir=runs/tune/vae", "--finish")
    assert outcome.status == 0 and "finished runs/tune/vae/best: 5 epochs" in outcome.out
    assert len(runs.read_metrics(runs.load(best))) == 5
    # Where another config is better later, what is trained stays; an untrained one is replaced.
    monkeypatch.setattr(
        tuning.Claim,
        "complete",
        lambda self, values, original=tuning.Claim.complete, **told: original(self, [0.0], **told),
    )
    before = runs.load(best).config
    outcome = genmnist("tune", "--workdir=runs/tune/vae", "--trials=5")
    assert_one_line(outcome, 2, "runs/tune/vae/best is trained", "trial 4 is better now", "move it away")
    assert runs.load(best).config == before
    runs.load(best).metrics_jsonl.unlink()
    assert genmnist("tune", "--workdir=runs/tune/vae").status == 0
    assert runs.load(best).config != before


@pytest.mark.slow
def test_best_that_another_worker_finishes_is_left_to_it(tuned, genmnist):
    with runs.lock(Path("runs/tune/vae/best")):
        outcome = genmnist("tune", "--workdir=runs/tune/vae", "--finish")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.endswith("another process trains runs/tune/vae/best to full length\n")


@pytest.mark.slow
def test_test_images_are_not_scored(genmnist, eager, monkeypatch):
    scored = []

    def remember(self, binarization, original=Split.scored):
        scored.append(len(self.images))
        return original(self, binarization)

    monkeypatch.setattr(Split, "scored", remember)
    data = gm.datasets.load("mnist_5k")
    smaller = data._replace(test=data.test._replace(images=data.test.images[:7], labels=data.test.labels[:7]))
    monkeypatch.setattr(runs.datasets, "load", lambda *args, **given: smaller)
    assert genmnist(*tune_flags("--trials=2", "--epochs=1")).status == 0
    assert scored and set(scored) == {len(data.validation.images)}


def test_diverged_and_failed_trials_are_told_and_do_not_end_the_study(genmnist, quick):
    def fail(run, epoch):
        if run.workdir.name == "0001":
            raise Diverged("elbo is not finite at step 4 (epoch 1)")
        if run.workdir.name == "0002":
            raise MemoryError("no room\nfor 1 GB")

    quick.append(fail)
    outcome = genmnist(*tune_flags("--trials=4", "--epochs=1"))
    assert outcome.status == 0
    assert [row["state"] for row in trials()] == ["complete", "failed", "failed", "complete"]
    assert "trial 1 failed: elbo is not finite at step 4 (epoch 1)" in outcome.out
    assert "trial 2 failed: MemoryError: no room for 1 GB" in outcome.out


def test_training_that_diverges_says_so_as_such(tmp_path, eager):
    with pytest.raises(Diverged, match="is not finite"):
        tiny.train(tiny.begin(tmp_path / "vae", learning_rate=1e30, epochs=1))


def test_study_without_a_complete_trial_is_one_line_with_the_reason(genmnist, quick):
    def fail(run, epoch):
        raise Diverged("elbo is not finite")

    quick.append(fail)
    assert_one_line(
        genmnist(*tune_flags("--trials=2", "--epochs=1")), 3, "no trial of vae is complete", "elbo is not finite"
    )


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device", "checkpoints"), Fault("the data have another sha256")]
)
def test_what_every_trial_would_meet_ends_the_worker_and_loses_nothing(error, genmnist, quick):
    def fail(run, epoch):
        raise error

    quick.append(fail)
    assert_one_line(genmnist(*tune_flags("--trials=2", "--epochs=2")), 3, str(error.args[-1]))
    quick.clear()
    assert genmnist("tune", "--workdir=runs/tune/vae").status == 0
    assert [(row["state"], row["run"], row["epochs"]) for row in trials()] == [
        ("complete", "0000", "2"),
        ("complete", "0002", "2"),
    ]


def test_pruned_trial_ends_early(genmnist, quick, monkeypatch):
    monkeypatch.setattr(tuning.Claim, "should_prune", lambda self: self.number == 1)
    outcome = genmnist(*tune_flags("--trials=2", "--epochs=3"))
    assert "pruned after 1 of 3 epochs" in outcome.out
    row = trials()[1]
    (epoch,) = runs.read_metrics(runs.load(Path("runs/tune/vae/trials/0001")))
    assert (row["state"], float(row["elbo"]), row["epochs"]) == ("pruned", epoch["val_elbo"], "1")


@pytest.mark.slow
def test_search_finds_what_is_good(genmnist, quick):
    assert genmnist(*tune_flags("--trials=25", "--epochs=4")).status == 0
    found = [row for row in trials() if row["state"] == "complete"]
    values = [float(row["elbo"]) for row in found]
    assert np.mean(values[-8:]) > np.mean(values[:5]) + 2, "it draws where it was good"
    assert sum(row["state"] == "pruned" for row in trials()) >= 3


@pytest.mark.slow
def test_interrupted_trial_goes_on_where_it_stopped(genmnist, eager, monkeypatch):
    original = training.Training.end_epoch

    def end_epoch(self):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "end_epoch", end_epoch)
        assert genmnist(*tune_flags("--trials=1", "--epochs=3")).status == 143
    assert genmnist("tune", "--workdir=runs/tune/vae").status == 0
    (row,) = trials()
    assert (row["trial"], row["run"], row["epochs"]) == ("1", "0000", "3")
    log = Path("runs/tune/vae/trials/0000/log.txt").read_text()
    assert "resuming vae" in log and log.count("epoch 1/3") == 1
    # With the same seeds, what another run says is what an uninterrupted one says.
    config = runs.load(Path("runs/tune/vae/trials/0000")).config
    whole = tiny.train(runs.Run(Path("whole"), "vae", config, "", ""))
    assert float(row["elbo"]) == max(epoch["val_elbo"] for epoch in runs.read_metrics(whole))


def test_worker_that_cannot_write_fails_no_trial(genmnist, quick):
    place = Path("runs/tune/vae/trials")
    place.parent.mkdir(parents=True)
    place.touch()  # where a folder is to be
    assert_one_line(genmnist(*tune_flags("--trials=2", "--epochs=1")), 2, "cannot write runs/tune/vae/trials/0000")
    place.unlink()
    assert genmnist("tune", "--workdir=runs/tune/vae").status == 0
    assert [row["state"] for row in trials()] == ["complete"] * 2


@pytest.mark.slow
def test_several_objectives_give_a_front(genmnist, quick):
    outcome = genmnist(*tune_flags("--trials=3", "--epochs=1", "--objectives=elbo,parameters,seconds"))
    assert outcome.status == 0
    assert Path("runs/tune/vae/pareto.png").exists()
    for row in trials():
        run = runs.load(Path("runs/tune/vae/trials") / row["run"])
        assert float(row["parameters"]) == runs.build_model(run, run.spec).num_parameters
        assert float(row["seconds"]) == 0.5


@pytest.mark.parametrize(
    ("name", "changes", "measure", "direction"),
    [
        ("vae", {}, "elbo", "maximize"),
        ("iwae", {}, "iwae", "maximize"),
        ("pixelcnn", {}, "nll", "minimize"),
        ("dcgan", {}, "frechet", "minimize"),
        ("flow_matching", {}, "loss", "minimize"),
        ("masked_diffusion", {}, "elbo", "maximize"),
        ("vqvae", {}, "elbo", "maximize"),
        ("ladder", {"beta": 2.0}, "elbo", "maximize"),
    ],
)
def test_objective_is_what_the_model_is_measured_by(name, changes, measure, direction):
    config = tiny.config(name, **changes)
    record = tuning.plan(name, config, {"batch_size": "10|20"})
    assert (record.objectives, record.directions) == ([measure], [direction])
    assert record.epochs == max(1, config.epochs // 10)


@pytest.mark.slow
def test_ends_of_default_spaces_can_be_built():
    for name in configs.names():
        if configs.search(name) is not None:
            config = tiny.config(name)
            tuning.plan(name, config, default(name, config))


def test_file_of_a_model_is_read_where_the_locale_is_not_utf_8(tmp_path, monkeypatch):
    monkeypatch.setattr("io.text_encoding", lambda encoding, level=2: encoding or "ascii")
    text = "# \N{GREEK SMALL LETTER BETA}\nfrom keras_genmnist.models.vae import build\n"
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    record = tuning.plan("mine", tiny.config("vae"), {"batch_size": "10|20"}, source=tmp_path / "mine.py")
    assert record.source == text


def test_warm_up_stays_the_same_share_of_a_trial():
    record = tuning.plan("ladder", tiny.config("ladder", epochs=40, warmup_epochs=10), {"dropout": "0..0.5"}, 8)
    assert tuning._trial_config(record, {}).warmup_epochs == 2
    assert tuning._full(record, {}).warmup_epochs == 10


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--search=latentsize:2..4"], ["'latentsize'", "did you mean latent_size?"]),
        (["--search=latent_size:8..4"], ["latent_size:8..4", "upside down"]),
        (["--search=norm:none|bach"], ["config.norm='bach'", "did you mean batch?"]),
        (["--search=latent_size:0..4"], ["config.latent_size=0", "1 or more"]),
        (["--search=epochs:1..4"], ["epochs", "do not compare"]),
        (["--search=pixelcnn_orders:1|4"], ["pixelcnn_orders", "do not compare"]),
        (["--config.bound=iwae", "--search=train_draws:1..9"], ["--search=train_draws:", "needs --objectives=elbo"]),
        (["--objectives=elb"], ["'elb'", "did you mean elbo?", "seconds"]),
        (["--objectives=seconds,elbo"], ["seconds,elbo", "must begin with elbo"]),
        (["--objectives=elbo,elbo"], ["must begin with elbo", "seconds and parameters may come once each"]),
        (["--config.bound=iwae", "--objectives=iwae,elbo"], ["iwae,elbo must begin with iwae or elbo, after which"]),
        (["--storage=mysql://host/base"], ["mysql://host/base", "postgresql://"]),
        (["--study=a/b"], ["--study=a/b"]),
        (["--trials=0"], ["trials"]),
        (["--epochs=0"], ["epochs"]),
        (["--jobs=0"], ["jobs"]),
        (["--workers=2"], ["unknown flag '--workers=2'", "jobs"]),
        (["--pruner=best"], ["pruner", "median"]),
        (["--config.dataset=mnst"], ["mnst"]),
        (["--workdir=/proc/none"], ["/proc/none"]),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(arguments, parts, genmnist, tmp_path):
    assert_one_line(genmnist("tune", *tiny.flags(), *arguments), 2, *parts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["--model=NAME", "--study=NAME"]),
        (["--workdir=runs/tune/none"], ["no search in runs/tune/none"]),
        (["--study=none"], ["no search in runs/tune/none"]),
        (["--workdir=runs", "--search=norm:a|b"], ["--search needs --model=NAME"]),
        (["--workdir=runs", "--config.norm=none"], ["--config.norm needs --model=NAME"]),
        (["--study=vae", "--storage=postgresql://127.0.0.1:1/none"], ["cannot reach postgresql://127.0.0.1:1/none"]),
    ],
)
def test_joining_what_is_not_there_is_one_line_and_leaves_nothing(arguments, parts, genmnist, tmp_path):
    assert_one_line(genmnist("tune", *arguments), 3 if "cannot" in parts[0] else 2, *parts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_study_of_another_model_is_refused(tuned, genmnist):
    assert_one_line(
        genmnist("tune", "--model=iaf", "--workdir=runs/tune/vae"), 2, "model is vae there, iaf here", "--workdir"
    )
    assert_one_line(genmnist(*tune_flags("--epochs=3", epochs=5)), 2, "epochs is 2 there, 3 here")


@pytest.mark.slow
def test_without_optuna_the_extra_is_named(tmp_path):
    process = tiny.start("tune", "--model=vae", cwd=tmp_path, before="import sys; sys.modules['optuna'] = None")
    out, err = process.communicate()
    assert_one_line(test_cli.Outcome(process.returncode, out, err), 2, "pip install 'keras_genmnist[tune]'")


def test_notebook_tunes(tmp_path, monkeypatch, quick):
    monkeypatch.chdir(tmp_path)
    sizes = {field: tiny.SIZES[field] for field in ("dataset", "batch_size", "hidden_size")}
    found = gm.tune("vae", search={"latent_size": "2..6"}, trials=2, epochs=1, jit_compile=False, **sizes)
    assert found.best == max(found.trials, key=lambda row: row["elbo"])
    assert found.config.latent_size == found.best["latent_size"] and found.config.epochs == 300
    assert isinstance(found.figure("history"), Figure)
    with pytest.raises(UsageError, match="unknown figure 'hist'; did you mean history"):
        found.figure("hist")
    joined = gm.tune(workdir="runs/tune/vae", trials=3)
    assert len(joined.trials) == 3 and repr(joined) == "<3 trials of vae in runs/tune/vae>"


@pytest.mark.slow
def test_model_of_ones_own_is_tuned(genmnist, eager, tmp_path):
    source = (test_cli.ROOT / "examples" / "ring.py").read_text()
    (tmp_path / "ring.py").write_text(source.replace("get_config():\n", "get_config():  # mine\n"))
    more = ["--config.hidden_size=8", "--config.batch_size=1000", "--search=radius:1..5", "--trials=2", "--epochs=1"]
    assert genmnist("tune", "--model=ring.py", *more).status == 0
    (tmp_path / "ring.py").unlink()
    outcome = genmnist("tune", "--workdir=runs/tune/ring", "--trials=3")
    assert outcome.status == 0
    assert "# mine" in (tmp_path / "runs/tune/ring/best/model.py").read_text()


# Several processes


@pytest.fixture(params=["journal", "postgresql"])
def storage(request, tmp_path):
    """The flags that name a storage."""
    if request.param == "journal":
        yield [f"--storage={tmp_path / 'shared.journal'}"]
    else:
        with postgres.server() as server:
            yield [f"--storage={server.url}"]


def start(tmp_path, *arguments: str) -> subprocess.Popen:
    return tiny.start("tune", *arguments, cwd=tmp_path)


def metrics(tmp_path) -> dict[str, list[int]]:
    """The epochs that each trial's run tells of."""
    return {
        path.parent.name: [json.loads(line)["epoch"] for line in path.read_text().splitlines()]
        for path in tmp_path.glob("runs/tune/vae/trials/*/metrics.jsonl")
    }


@pytest.mark.slow
def test_killed_worker_loses_nothing_and_no_trial_is_trained_twice(storage, tmp_path):
    flags = [*tiny.flags(**FIELDS), SEARCH, "--trials=4", "--epochs=20", "--pruner=none", "--threads=1", *storage]
    one = start(tmp_path, *flags)
    tiny.wait_for(lambda: any(len(epochs) > 2 for epochs in metrics(tmp_path).values()), one)
    other = start(tmp_path, "--study=vae", *storage, "--threads=1", "--summary=false")
    tiny.wait_for(lambda: len(metrics(tmp_path)) > 1, other)
    one.send_signal(signal.SIGKILL)
    killed = one.communicate()[0]
    out, err = other.communicate(timeout=300)
    assert other.returncode == 0, err
    done = start(tmp_path, "--study=vae", *storage)
    said = done.communicate()[0]
    assert "4 trials: 4 complete" in said
    found = trials(tmp_path / "runs" / "tune" / "vae")
    assert len({row["run"] for row in found}) == 4 and len({row["learning_rate"] for row in found}) == 4
    assert sorted(metrics(tmp_path)) == sorted(row["run"] for row in found)
    assert all(epochs == list(range(1, 21)) for epochs in metrics(tmp_path).values())
    assert len([row for row in found if int(row["trial"]) >= 4]) == 1, "one was begun again"
    assert killed.count(": ELBO") + out.count(": ELBO") == 4


@pytest.mark.slow
def test_two_jobs_are_started_and_stopped(tmp_path):
    flags = [*tiny.flags(**FIELDS), SEARCH, "--epochs=400", "--pruner=none"]
    parent = start(tmp_path, *flags, "--trials=3", "--jobs=2")
    tiny.wait_for(lambda: len([epochs for epochs in metrics(tmp_path).values() if epochs]) == 2, parent)
    parent.terminate()
    out, _ = parent.communicate(timeout=60)
    assert parent.returncode == 143
    assert "2 jobs of" in out
    before = metrics(tmp_path)
    state = start(tmp_path, "--workdir=runs/tune/vae", "--summary=false")
    tiny.wait_for(lambda: sum(map(len, metrics(tmp_path).values())) > sum(map(len, before.values())) + 3, state)
    state.terminate()
    state.communicate()
    assert sorted(metrics(tmp_path)) == ["0000", "0001"], "those that were stopped went on"
    assert all(epochs == list(range(1, len(epochs) + 1)) for epochs in metrics(tmp_path).values())
