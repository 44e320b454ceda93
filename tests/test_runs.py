"""Run directories: what is damaged falls back and says so, nothing is lost, nothing is mixed."""

import dataclasses
import errno
import json
import os
import shutil
import subprocess

import numpy as np
import pytest
import tensorflow as tf

from keras_genmnist import __version__, files, runs, training
from keras_genmnist.errors import Fault, UsageError
from tests import tiny

eager = tiny.eager


def cut(path):
    """Leaves the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


def flip(path):
    """Changes one bit in the first third of a file, which no format here leaves unused."""
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 16
    path.write_bytes(bytes(content))


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


# config.json


def test_config_json_comes_back_as_it_was_written(tmp_path):
    run = tiny.begin(tmp_path / "run", learning_rate=0.1, norm="batch")
    loaded = runs.load(run.workdir)
    assert loaded == run
    assert [type(value) for value in loaded.config.values()] == [type(value) for value in run.config.values()]


@pytest.mark.parametrize("damage", [cut, empty, remove, lambda p: p.write_text('["a list"]')])
def test_damaged_config_json_falls_back_to_its_copy_and_says_so(damage, tmp_path, capsys):
    run = tiny.begin(tmp_path / "run")
    damage(run.workdir / "config.json")
    assert runs.exists(run.workdir)
    assert runs.load(run.workdir) == run
    message = capsys.readouterr().err
    assert (
        message.startswith("genmnist: ") and "config.json is missing or damaged" in message and message.count("\n") == 1
    )


def test_whole_config_json_says_nothing_of_its_copy(tmp_path, capsys):
    run = tiny.begin(tmp_path / "run")
    cut(run.checkpoints / "config.json")
    assert runs.load(run.workdir) == run
    assert capsys.readouterr().err == ""


def test_config_json_and_copy_both_damaged_is_a_fault(tmp_path):
    run = tiny.begin(tmp_path / "run")
    cut(run.workdir / "config.json")
    empty(run.checkpoints / "config.json")
    before = files_of(tmp_path)
    with pytest.raises(Fault, match=r"config\.json and its copy .* are both damaged"):
        runs.load(run.workdir)
    assert files_of(tmp_path) == before


def test_workdir_without_run_is_refused(tmp_path):
    assert not runs.exists(tmp_path)
    with pytest.raises(UsageError, match=f"no run in {tmp_path}.*genmnist train"):
        runs.load(tmp_path)


def test_folder_inside_a_run_is_not_taken_for_one(tmp_path):
    run = tiny.begin(tmp_path / "run")
    before = files_of(tmp_path)
    with pytest.raises(UsageError, match=f"{run.checkpoints} is a part of the run in {run.workdir}: give that"):
        runs.load(run.checkpoints)
    assert files_of(tmp_path) == before
    alone = tmp_path / "checkpoints"  # but a run may have this name
    assert runs.load(tiny.begin(alone).workdir).workdir == alone


def edit(path, **fields):
    """Changes fields of the config in a config.json."""
    content = json.loads(path.read_text())
    content["config"].update(fields)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("fields", [{"seed": 4}, {"latent_size": 2.0}, {"learning_rate": float("nan")}, {"new": 1}])
def test_config_json_that_disagrees_with_its_copy_is_a_fault_that_names_the_field_and_both_values(fields, tmp_path):
    run = tiny.begin(tmp_path / "run")
    edit(run.workdir / "config.json", **fields)
    before = files_of(tmp_path)
    with pytest.raises(Fault) as refused:
        runs.load(run.workdir)
    ((name, value),) = fields.items()
    assert f"disagree ({name} is {value} and {run.config.get(name)}): delete the one that is wrong" in str(
        refused.value
    )
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("wrong, seed", [("config.json", tiny.config().seed), ("checkpoints/config.json", 4)])
def test_of_two_that_disagree_the_one_is_used_that_is_not_deleted(wrong, seed, tmp_path):
    run = tiny.begin(tmp_path / "run")
    edit(run.workdir / "config.json", seed=4)
    (run.workdir / wrong).unlink()
    assert runs.load(run.workdir).config.seed == seed


def test_process_killed_between_config_json_and_its_copy_leaves_no_disagreement(tmp_path, monkeypatch):
    run = tiny.begin(tmp_path / "run", epochs=1)
    copy = run.checkpoints / "config.json"
    before = copy.read_bytes()
    changes = [{"epoch": 1, "step": 4, "old": {"epochs": 1}, "new": {"epochs": 3}, "command": "genmnist train"}]
    run = dataclasses.replace(run, config=tiny.config(epochs=3), changes=changes)
    runs.record(run)
    copy.write_bytes(before)
    assert runs.load(run.workdir) == run
    edit(run.workdir / "config.json", seed=4)
    with pytest.raises(Fault, match=r"disagree \(seed is 4 and 3435\)"):
        runs.load(run.workdir)


# Another config, another model, another process


def test_other_config_is_refused_naming_the_fields_that_differ(tmp_path):
    run = tiny.begin(tmp_path / "run")
    assert runs.go_on(run, "vae", tiny.config(), given=["epochs"]) == {}
    with pytest.raises(UsageError) as refused:
        runs.go_on(run, "vae", tiny.config(latent_size=3, decay="constant", epochs=3), given=["latent_size", "epochs"])
    message = str(refused.value)
    assert "latent_size is 2 there, 3 here" in message and "decay is cosine there, constant here" in message
    assert "hidden_size" not in message and "\n" not in message


def test_other_model_is_refused(tmp_path):
    with pytest.raises(UsageError, match="holds a run of vae, not of vae_conv"):
        runs.go_on(tiny.begin(tmp_path / "run"), "vae_conv", tiny.config("vae_conv"), given=[])


def test_a_run_goes_on_with_other_epochs_and_patience_if_they_are_asked_for(tmp_path):
    run, config = tiny.begin(tmp_path / "run"), tiny.config(epochs=3, patience=1)
    assert runs.go_on(run, "vae", config, given=["epochs", "patience", "seed"]) == {
        "old": {"epochs": 2, "patience": 0},
        "new": {"epochs": 3, "patience": 1},
    }
    with pytest.raises(UsageError, match="epochs is 2 there, 3 here, patience is 0 there, 1 here"):
        runs.go_on(run, "vae", config, given=["epochs"])  # the patience is that of a config that has changed since


def test_second_process_on_a_workdir_is_refused_until_the_first_ends(tmp_path):
    # A file opened twice holds two locks, in one process as in two.
    with runs.lock(tmp_path / "run"), pytest.raises(Fault, match=r"another process is training in .*run"):
        runs.lock(tmp_path / "run").__enter__()
    with runs.lock(tmp_path / "run"):
        pass


@pytest.mark.parametrize("there", [True, False])
def test_lock_leaves_nothing_where_no_run_was_begun(there, tmp_path):
    workdir = tmp_path / "runs" / "vae"
    if there:
        workdir.mkdir(parents=True)
    with pytest.raises(UsageError, match="refused"), runs.lock(workdir):
        raise UsageError("refused")
    assert list(tmp_path.rglob("*")) == there * [workdir.parent, workdir]
    with runs.lock(workdir):
        tiny.begin(workdir)
    assert (workdir / ".lock").exists()


def test_lock_hides_no_error_where_the_workdir_is_gone_or_holds_something(tmp_path):
    with pytest.raises(UsageError, match="refused"), runs.lock(tmp_path / "run"):
        shutil.rmtree(tmp_path / "run")
        raise UsageError("refused")
    with pytest.raises(UsageError, match="refused"), runs.lock(tmp_path / "run"):
        (tmp_path / "run" / "notes").write_text("")
        raise UsageError("refused")
    assert (tmp_path / "run" / "notes").exists()


def test_workdir_that_cannot_be_written_is_one_line(tmp_path):
    # A file in the place of a folder: permissions do not bind the superuser, who may run this.
    (tmp_path / "file").write_text("")
    for workdir in (tmp_path / "file", tmp_path / "file" / "run"):
        for act in (lambda workdir: runs.lock(workdir).__enter__(), tiny.begin):
            with pytest.raises(UsageError, match=r"cannot write.*file.* give a ") as refused:
                act(workdir)
            assert "\n" not in str(refused.value)


def test_file_system_without_locks_is_one_line_that_names_the_workdir(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))  # of no file

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(UsageError, match=rf"cannot write {tmp_path}/run: No locks available; give a --workdir"):
        runs.lock(tmp_path / "run").__enter__()


def test_trained_run_opens_whatever_trainings_are_refused_since(tmp_path):
    run = tiny.untrained(tiny.begin(tmp_path / "run", inference="semi_amortized"))
    config = run.config.copy_and_resolve_references()
    config.update({"free_bits": 2.0, "warmup_epochs": 5})
    run = dataclasses.replace(run, config=config)
    with pytest.raises(UsageError, match=r"config\.inference"):
        runs.build_model(run, run.spec)
    assert runs.load_model(run).num_parameters
    assert run.config.free_bits == 2.0


# Checkpoints


class Counter:
    """Three checkpoints of a small state, whose number of saves is in its variables."""

    def __init__(self, folder):
        self.folder = folder
        self.value, self.count = tf.Variable(tf.zeros(100)), tf.Variable(0)
        self.state = tf.train.Checkpoint(value=self.value, count=self.count)

    def save(self, times=3):
        for _ in range(times):
            self.value.assign_add(tf.ones(100))
            self.count.assign_add(1)
            runs.save(self.state, self.folder, max_to_keep=3)
        return self

    def restore(self):
        return runs.restore_latest(self.state, self.folder)

    @property
    def saves(self):
        """The number of saves this state has seen, the same in all its variables."""
        np.testing.assert_array_equal(self.value, np.full(100, self.count))
        return int(self.count)


DATA, INDEX = "data-00000-of-00001", "index"
DAMAGES = [(cut, DATA), (flip, DATA), (empty, DATA), (remove, DATA), (cut, INDEX), (flip, INDEX), (empty, INDEX)]
NAMES = ["cut-data", "flipped-data", "empty-data", "no-data", "cut-index", "flipped-index", "empty-index"]


@pytest.mark.parametrize("damage, suffix", DAMAGES, ids=NAMES)
def test_damaged_newest_checkpoint_falls_back_to_the_one_before_and_says_so(damage, suffix, tmp_path, capsys):
    Counter(tmp_path).save()
    damage(tmp_path / f"ckpt-3.{suffix}")
    restored = Counter(tmp_path)
    assert restored.restore() == str(tmp_path / "ckpt-2")
    assert restored.saves == 2
    message = capsys.readouterr().err
    assert message.startswith(f"genmnist: checkpoint {tmp_path / 'ckpt-3'} is damaged") and message.count("\n") == 1


@pytest.mark.parametrize("content", [b"", b"\x00garbage\xff", b"garbage", b'model_checkpoint_path: "ckpt-1"\n'])
def test_damaged_checkpoint_state_file_loses_nothing(content, tmp_path):
    run = tiny.begin(tmp_path / "run")
    state = training.Training(run)
    for number in (1, 2):
        state.progress.best_epoch.assign(number)
        state.save()
        runs.save(state.scored, run.best, max_to_keep=2)
    for folder in (run.checkpoints, run.best):
        (folder / "checkpoint").write_bytes(content)
    state = training.Training(run)
    assert int(state.progress.best_epoch) == 2
    state.progress.best_epoch.assign(3)
    state.save()
    assert int(training.Training(run).progress.best_epoch) == 3


def test_newest_checkpoint_is_found_by_number_not_by_name(tmp_path):
    Counter(tmp_path).save(11)  # ckpt-9, ckpt-10, ckpt-11
    restored = Counter(tmp_path)
    assert restored.restore() == str(tmp_path / "ckpt-11")


def test_remains_of_a_save_that_was_killed_are_passed_over(tmp_path, capsys):
    Counter(tmp_path).save()
    (tmp_path / "ckpt-4_temp").mkdir()
    (tmp_path / "ckpt-4_temp" / "part-00000-of-00001.data-00000-of-00001").write_bytes(b"half")
    shutil.copy(tmp_path / f"ckpt-3.{DATA}", tmp_path / f"ckpt-4.{DATA}")  # renamed in place, its index not yet
    restored = Counter(tmp_path)
    restored.restore()
    assert restored.saves == 3
    assert restored.save(1).saves == 4
    assert capsys.readouterr().err == ""


def test_save_on_a_full_disk_leaves_the_checkpoints_before_and_nothing_else(tmp_path):
    state = Counter(tmp_path).save()
    before = files_of(tmp_path)
    with tiny.full_disk(), pytest.raises(Fault, match=f"cannot write {tmp_path}: File too large; make room"):
        state.save(1)
    assert files_of(tmp_path) == before and [path for path in tmp_path.iterdir() if path.is_dir()] == []
    assert state.save(1).restore() == str(tmp_path / "ckpt-5")  # the one that failed was counted


def test_save_syncs_what_it_wrote(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "sync", synced.append)
    assert runs.save(Counter(tmp_path).state, tmp_path, max_to_keep=1) == str(tmp_path / "ckpt-1")
    assert set(synced) == {tmp_path / f"ckpt-1.{DATA}", tmp_path / f"ckpt-1.{INDEX}", tmp_path}


def test_save_into_a_folder_whose_name_is_a_pattern_deletes_nothing_elsewhere(tmp_path):
    beside = Counter(tmp_path / "axb").save()
    state = Counter(tmp_path / "a*b").save(5)
    assert sorted(path.stem for path in state.folder.glob("*.index")) == ["ckpt-3", "ckpt-4", "ckpt-5"]
    assert sorted(path.stem for path in beside.folder.glob("*.index")) == ["ckpt-1", "ckpt-2", "ckpt-3"]
    assert beside.restore() == str(tmp_path / "axb" / "ckpt-3")


def test_all_checkpoints_damaged_is_a_fault_and_nothing_is_deleted(tmp_path):
    Counter(tmp_path).save()
    for number in (1, 2, 3):
        cut(tmp_path / f"ckpt-{number}.{DATA}")
    before = files_of(tmp_path)
    with pytest.raises(Fault, match=f"none of the 3 checkpoints in {tmp_path} can be restored"):
        Counter(tmp_path).restore()
    assert files_of(tmp_path) == before


def test_folder_without_checkpoints_restores_nothing(tmp_path):
    state = Counter(tmp_path / "absent")
    assert state.restore() is None
    assert state.saves == 0


@pytest.mark.parametrize("other", [{"value": tf.Variable(tf.zeros(50))}, {"another": tf.Variable(0.0)}])
def test_checkpoint_of_other_variables_is_a_fault(other, tmp_path):
    Counter(tmp_path).save()
    with pytest.raises(Fault):
        runs.restore_latest(tf.train.Checkpoint(**other), tmp_path)


def test_run_with_a_damaged_checkpoint_trains_to_the_same_end(tmp_path, capsys, eager):
    run = tiny.train(tiny.begin(tmp_path / "run"))
    state, metrics, best = tiny.variables(run.checkpoints), tiny.rows(run), tiny.scored(run.workdir)
    cut(run.checkpoints / f"ckpt-2.{DATA}")
    capsys.readouterr()
    tiny.train(run)
    output = capsys.readouterr()
    assert "ckpt-2 is damaged" in output.err and "resuming" in output.out
    assert tiny.variables(run.checkpoints) == state
    assert tiny.rows(run) == metrics
    assert tiny.scored(run.workdir) == best


def test_run_whose_checkpoints_are_all_damaged_is_left_alone(tmp_path):
    run = tiny.begin(tmp_path / "run")
    training.Training(run).save()
    cut(run.checkpoints / f"ckpt-1.{DATA}")
    before = files_of(tmp_path)
    with pytest.raises(Fault, match="can be restored"):
        tiny.train(run)
    assert files_of(tmp_path) == before


def test_damaged_best_weights_fall_back_then_fault(run, tmp_path, capsys):
    copy = dataclasses.replace(run, workdir=tmp_path / "run")
    shutil.copytree(run.workdir, copy.workdir)
    (index,) = copy.best.glob("*.index")
    for path in copy.best.glob(f"{index.stem}.*"):
        shutil.copy(path, path.with_name(path.name.replace(index.stem, "ckpt-99")))
    cut(copy.best / f"ckpt-99.{DATA}")
    assert tiny.bits(runs.load_model(copy)) == tiny.bits(runs.load_model(run))
    assert "ckpt-99 is damaged" in capsys.readouterr().err
    cut(copy.best / f"{index.stem}.{DATA}")
    with pytest.raises(Fault, match=r"none of the 2 checkpoints in .*best"):
        runs.load_model(copy)


def test_run_without_a_finished_epoch_has_no_model_to_load(tmp_path):
    with pytest.raises(Fault, match=r"no finished epoch.*genmnist train --workdir="):
        runs.load_model(tiny.begin(tmp_path / "run"))


# metrics.jsonl


def test_half_written_line_of_metrics_is_left_out_and_said(tmp_path, capsys):
    run = tiny.begin(tmp_path / "run")
    assert runs.read_metrics(run) == []
    row = {"epoch": 1, "step": 4, "elbo": -1.5, "seconds": 2.0}
    for last in (json.dumps(row)[:20].encode(), b"\xff\xfe"):
        run.metrics_jsonl.write_bytes(json.dumps(row).encode() + b"\n" + last)
        assert runs.read_metrics(run) == [row]
        message = capsys.readouterr().err
        assert message.startswith("genmnist: ") and "damaged line" in message and message.count("\n") == 1


def test_half_written_line_of_metrics_is_gone_after_training_on(tmp_path, eager):
    run = tiny.begin(tmp_path / "run", epochs=1)
    run.metrics_jsonl.write_text('{"epoch": 1, "st')
    tiny.train(run)
    assert [json.loads(line)["epoch"] for line in run.metrics_jsonl.read_text().splitlines()] == [1]


# commit


def git(folder, *arguments):
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A git checkout of one commit, in which runs.py seems to lie."""
    monkeypatch.delenv("GENMNIST_COMMIT", raising=False)
    (tmp_path / "keras_genmnist").mkdir()
    (tmp_path / "keras_genmnist" / "runs.py").write_text("")
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "keras_genmnist" / "runs.py"))
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message=one", "--no-verify")
    return tmp_path


def test_commit_of_a_checkout_tells_whether_it_was_changed(checkout):
    assert runs.commit() == git(checkout, "rev-parse", "HEAD")[:12]
    (checkout / "keras_genmnist" / "runs.py").write_text("changed")
    assert runs.commit() == git(checkout, "rev-parse", "HEAD")[:12] + "+"


def test_commit_is_that_of_the_code_alone(checkout):
    for name in ("results/vae.json", "docs/results.md"):  # what `evaluate --results` itself leaves behind
        (checkout / name).parent.mkdir(exist_ok=True)
        (checkout / name).write_text("{}")
    git(checkout, "add", "--all")
    assert not runs.commit().endswith("+")
    (checkout / "configs").mkdir()
    (checkout / "configs" / "mine.py").write_text("")  # no commit holds it, and a run can be of it
    assert runs.commit().endswith("+")


def test_commit_of_an_image_is_the_recorded_one(checkout, monkeypatch):
    monkeypatch.setenv("GENMNIST_COMMIT", "0123456789ab")
    assert runs.commit() == "0123456789ab"


def test_commit_without_checkout_is_the_version(checkout):
    shutil.rmtree(checkout / ".git")
    assert runs.commit() == __version__


def test_commit_without_git_is_the_version(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert runs.commit() == __version__
