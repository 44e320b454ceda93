import os
import time
from pathlib import Path

import pytest

from keras_genmnist import workers
from keras_genmnist.errors import UsageError


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Makes a shell script stand in for this package's commands."""

    def stand_in(script):
        path = tmp_path / "command"
        path.write_text(f"#!/bin/sh\nshift 2  # -m keras_genmnist\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(workers.sys, "executable", str(path))

    return stand_in


def test_shares_part_the_machine(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 2, 4, 7, 8})
    parts = workers.shares(2)
    assert [part.cores for part in parts] == [{1, 4, 8}, {2, 7}]
    assert [part.gpus for part in parts] == [None, None]
    assert [part.gpus for part in workers.shares(2, gpus=3)] == [(0, 2), (1,)]
    with pytest.raises(UsageError, match="--jobs=6 is out of range: give 1 to 5, a core each"):
        workers.shares(6)
    with pytest.raises(UsageError, match="--jobs=2 is out of range: give 1 to 1, a GPU each"):
        workers.shares(2, gpus=1)


def test_each_command_runs_on_its_share(command, tmp_path, monkeypatch):
    command('echo "$1 on $(nproc), GPU $CUDA_VISIBLE_DEVICES"; sleep 0.3; exit $2')
    cores = os.sched_getaffinity(0)
    core = min(cores)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    parts = [workers.Share(frozenset({core}), (gpu,)) for gpu in (0, 1)]
    logs = {item: tmp_path / f"{item}.log" for item in "abc"}
    start = time.monotonic()
    with workers.Workers(parts) as crew:
        ended = list(crew.each("abc", lambda item, run: run([item, str(len(item) + 2)], logs[item])))
    assert ended == [("a", 3), ("b", 3), ("c", 3)]
    assert time.monotonic() - start < 0.85  # two of the three side by side
    said = sorted(workers.last_line(log) for log in logs.values())
    assert {line.split(" GPU ")[0] for line in said} == {f"{item} on 1," for item in "abc"}
    assert {line[-1] for line in said} == {"5", "7"}
    assert workers.last_line(tmp_path / "none.log") == ""
    assert os.sched_getaffinity(0) == cores  # of this thread, which keeps all


def test_a_command_is_ended_once_it_has_done_what_is_wanted(command, tmp_path):
    command('trap "exit 143" TERM; echo started; while :; do sleep 0.05; done')
    log, share = tmp_path / "log", workers.Share(frozenset(os.sched_getaffinity(0)), None)
    with workers.Workers([share]) as crew:
        ((_, status),) = crew.each([log], lambda item, run: run([], log, until=lambda: "started" in log.read_text()))
    assert status == 143


def test_a_command_is_left_to_save_what_it_has(command, tmp_path):
    # As a training does, it dies of a second signal.
    command('trap "trap - TERM; sleep 2; echo saved; exit 143" TERM; echo started; while :; do sleep 0.05; done')
    log, share = tmp_path / "log", workers.Share(frozenset(os.sched_getaffinity(0)), None)
    with workers.Workers([share]) as crew:
        ((_, status),) = crew.each([log], lambda item, run: run([], log, until=lambda: True))
    assert (status, workers.last_line(log)) == (143, "saved")


def test_what_still_runs_is_stopped_and_saves(command, tmp_path):
    command('trap "echo saved; exit 143" TERM; echo started; while :; do sleep 0.05; done')
    log, queued = tmp_path / "log", tmp_path / "queued"
    share = workers.Share(frozenset(os.sched_getaffinity(0)), None)
    with pytest.raises(KeyboardInterrupt), workers.Workers([share]) as crew:
        crew.each([log, queued], lambda item, run: run([], item))
        while workers.last_line(log) != "started":
            time.sleep(0.02)
        raise KeyboardInterrupt
    assert workers.last_line(log) == "saved"
    assert not queued.exists()


def test_a_command_finds_the_package_and_nothing_in_the_present_folder(command, tmp_path, monkeypatch):
    command('echo "$PYTHONPATH"; exit 0')
    monkeypatch.delenv("PYTHONPATH", raising=False)
    log, package = tmp_path / "log", str(Path(workers.__file__).parent.parent)
    for given, expected in (("", package), ("/elsewhere", f"{package}:/elsewhere")):
        monkeypatch.setenv("PYTHONPATH", given)
        with open(log, "w") as file:
            assert workers.start([], stdout=file).wait(10) == 0
        assert log.read_text() == f"{expected}\n"
