"""A study and its storages: no trial is trained twice at once, and none is lost with its worker."""

import contextlib
import fcntl
import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest
from optuna.trial import TrialState

from keras_genmnist.errors import Fault, UsageError
from keras_genmnist.search.storage import hidden, open_storage
from keras_genmnist.search.study import CHANCES, Record, Study
from keras_genmnist.search.table import rows, table
from tests import postgres, tiny

RECORD = Record(
    "vae",
    {"latent_size": 4, "learning_rate": 1e-3, "norm": "none", "seed": 7},
    {"latent_size": "2..64", "learning_rate": "1e-4..1e-2:log", "norm": "none|batch"},
    10,
    ["elbo"],
)


@pytest.fixture(scope="module")
def server():
    with postgres.server() as started:
        yield started


@pytest.fixture(params=["journal", "postgresql"])
def where(request, tmp_path):
    """An address of a storage with no study of the name `where.name`."""
    if request.param == "journal":
        return str(tmp_path / "study.journal")
    server = request.getfixturevalue("server")
    return server.url


@pytest.fixture
def name(request):
    return f"study of {request.node.name}"[:99].replace("/", "-")


@pytest.fixture
def study(where, name):
    return Study(open_storage(where, name), name, RECORD, 4)


def joined(study: Study) -> Study:
    """The same study as another process sees it: by a connection, or by files, of its own."""
    return Study(open_storage(str(study.storage), study.name), study.name, None, None)


def begun_by_a_process(study: Study, *, killed: bool) -> dict:
    """The number and the values of a trial that another process begins, and holds, or is killed with."""
    program = f"""
import json, sys
from keras_genmnist.search.storage import open_storage
from keras_genmnist.search.study import Study
claim = Study(open_storage({str(study.storage)!r}, {study.name!r}), {study.name!r}, None, None).claim()
claim.report(-100.0, 1)
print(json.dumps([claim.number, claim.values, claim.run]), flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=tiny.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    said = process.stdout.readline()
    if killed:
        process.send_signal(signal.SIGKILL)
        process.wait()
    number, values, run = json.loads(said)
    return {"process": process, "number": number, "values": values, "run": run}


def test_two_workers_have_different_trials_and_as_many_as_are_wanted(study):
    other = joined(study)
    claims = [worker.claim() for worker in (study, other, study, other)]
    assert [claim.number for claim in claims] == [0, 1, 2, 3]
    assert len({str(claim.values) for claim in claims}) == 4
    assert study.claim() is other.claim() is None
    assert [claim.number for claim in claims] == [trial.number for trial in other.open]
    for claim in claims:
        claim.complete([-100.0 - claim.number])
    assert study.claim() is None and not other.open
    assert [trial.number for trial in other.best] == [0]


def test_what_a_trial_draws_repeats(where, name, study):
    again = Study(open_storage(where, f"{name} again"), f"{name} again", RECORD, 4)
    for number in range(4):
        one, other = study.claim(), again.claim()
        assert one.values == other.values
        one.complete([float(number)])
        other.complete([float(number)])


@pytest.mark.slow
def test_trial_of_a_killed_worker_is_begun_again_once_and_that_of_a_live_one_is_not(study):
    alive, dead = begun_by_a_process(study, killed=False), begun_by_a_process(study, killed=True)
    again, other = study.claim(), joined(study).claim()
    with contextlib.closing(alive["process"].stdin):
        assert (alive["number"], dead["number"], again.number, other.number) == (0, 1, 2, 3)
        assert again.values == dead["values"] and again.run == dead["run"] == "0001"
        assert alive["values"] != other.values != dead["values"]
        assert [trial.number for trial in study.trials] == [0, 2, 3]  # the dead one's is another's now
        again.complete([-90.0])
        other.complete([-95.0])
    alive["process"].wait()
    last = study.claim()
    assert last.values == alive["values"] and last.run == "0000"
    last.complete([-80.0])
    assert [row["state"] for row in rows(study)] == ["complete"] * 3
    assert study.wanted == 4
    assert study.claim().run == "0005"


@pytest.mark.slow
def test_trial_that_kills_its_workers_is_failed(study):
    for _ in range(CHANCES):
        number = begun_by_a_process(study, killed=True)["number"]
    assert study.claim().number == number + 1
    row = next(row for row in rows(study) if row["trial"] == number)
    assert row["state"] == "failed" and row["reason"] == "its worker was lost"
    assert f"trial {number} failed: its worker was lost" in table(study)


def test_trial_that_is_given_back_is_begun_again_however_often(study):
    claim = first = study.claim()
    for _ in range(CHANCES + 1):
        claim.give_back(0)
        claim = joined(study).claim()
        assert (claim.values, claim.run) == (first.values, "0000")
    assert len(study.trials) == 1


def test_trial_that_another_worker_took_over_is_left(study):
    claim = study.claim()
    study._enqueue(study.open[0])
    with pytest.raises(Exception, match="trial 0 is another worker's now"):
        claim.report(1.0, 1)


def test_pruned_and_failed_trials_are_told(study):
    study._optuna.set_user_attr("trials", 8)
    for _ in range(5):  # of which none is pruned
        claim = study.claim()
        for epoch in (1, 2, 3):
            claim.report(float(epoch), epoch)
            assert not claim.should_prune()
        claim.complete([3.0], epochs=3, minutes=0.5)
    poor = study.claim()
    for epoch in (1, 2, 3):
        poor.report(-float(epoch), epoch)
    assert poor.should_prune()
    poor.prune(epochs=3, minutes=0.5)
    study.claim().fail("elbo is not finite at step 3")
    found = rows(study)
    assert [row["state"] for row in found] == ["complete"] * 5 + ["pruned", "failed"]
    assert found[5]["elbo"] == -1.0 and found[6]["elbo"] is None
    assert "7 trials: 5 complete, 1 pruned, 1 failed" in table(study)
    assert "trial 6 failed: elbo is not finite at step 3" in table(study)


def test_several_objectives_have_a_front(where, name):
    record = replace(RECORD, objectives=["elbo", "seconds"])
    study = Study(open_storage(where, name), name, record, 4)
    for values in ([-100.0, 5.0], [-90.0, 9.0], [-95.0, 9.5], [-110.0, 1.0]):
        claim = study.claim()
        claim.report(values[0], 1)
        assert not claim.should_prune()
        claim.complete(values)
    assert [trial.values for trial in study.best] == [[-90.0, 9.0], [-100.0, 5.0], [-110.0, 1.0]]


def test_best_of_what_is_minimised_is_the_lowest(where, name):
    study = Study(open_storage(where, name), name, replace(RECORD, objectives=["nll"]), 2)
    for value in (90.0, 80.0):
        study.claim().complete([value])
    assert [trial.value for trial in study.best] == [80.0]


def test_study_of_another_model_or_search_is_refused_with_what_differs(study):
    for change, parts in (
        ({"model": "iaf"}, ["model is vae there, iaf here"]),
        ({"config": RECORD.config | {"norm": "batch"}}, ["norm is none there, batch here"]),
        ({"epochs": 20}, ["epochs is 10 there, 20 here"]),
        ({"search": {"latent_size": "2..4"}}, ["2..64"]),
    ):
        with pytest.raises(UsageError) as error:
            Study(study.storage, study.name, replace(RECORD, **change), None)
        for part in parts:
            assert part in str(error.value)
    with pytest.raises(UsageError, match=f"no study other in .* it has .*{re.escape(study.name)}"):
        Study(study.storage, "other", None, None)
    assert joined(study).record == RECORD and asdict(joined(study).record) == asdict(RECORD)
    assert Study(study.storage, study.name, RECORD, 9).wanted == joined(study).wanted == 9


# The journal


def test_journal_goes_on_after_a_line_that_a_full_disk_cut_off(tmp_path):
    path = tmp_path / "study.journal"
    study = Study(open_storage(str(path), "vae"), "vae", RECORD, 4)
    study.claim().complete([-1.0])
    with open(path, "a") as file:
        file.write('{"op_code":4,"wor')
    study.claim().complete([-2.0])
    assert [trial.value for trial in joined(study).trials] == [-1.0, -2.0]


def test_lock_of_a_killed_writer_is_not_waited_for(tmp_path):
    path = tmp_path / "study.journal"
    study = Study(open_storage(str(path), "vae"), "vae", RECORD, 4)
    program = f"""
import os, signal
from keras_genmnist.search.storage import open_storage
open_storage({str(path)!r}, "vae").optuna._backend._lock.acquire()
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], env=tiny.environment()).returncode == -signal.SIGKILL
    start = time.monotonic()
    assert study.claim().number == 0
    assert time.monotonic() - start < 2


def test_damaged_journal_is_one_line(tmp_path):
    path = tmp_path / "study.journal"
    path.write_text("no journal\n" * 3)
    with pytest.raises(Fault, match=r"study\.journal is damaged"):
        open_storage(str(path), "vae")


def test_two_studies_share_a_journal(tmp_path):
    path = str(tmp_path / "study.journal")
    one, other = (Study(open_storage(path, name), name, RECORD, 2) for name in ("one", "other"))
    assert one.claim().number == other.claim().number == 0


def test_claiming_waits(tmp_path):
    study = Study(open_storage(str(tmp_path / "study.journal"), "vae"), "vae", RECORD, 2)
    with study.storage.claiming(), open(study.storage.locks / "vae-claim") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# PostgreSQL


def test_password_is_not_shown(server):
    assert hidden(server.url) == server.url.replace(":secret@", ":***@")
    assert hidden("postgresql://me@h/d?port=1&password=se:cret&x=1") == "postgresql://me@h/d?port=1&password=***&x=1"
    assert ":***@" in open_storage(server.url, "any").shown
    assert hidden("genmnist tune --storage=postgresql://me:a:b@h/d") == (
        "genmnist tune --storage=postgresql://me:***@h/d"
    )


def test_lock_is_taken_again_after_the_connection_was_lost(server, name):
    study = Study(open_storage(server.url, name), name, RECORD, 4)
    claim = study.claim()
    server.stop()
    with pytest.raises(Fault, match=r"cannot reach postgresql://.*:\*\*\*@"):
        claim.report(-1.0, 1)
    server.start()
    claim.report(-2.0, 2)
    other = joined(study)
    assert other.claim().number == 1  # the first trial is held
    claim.complete([-2.0])
    assert other.trials[0].state == TrialState.COMPLETE


def test_lock_that_another_worker_took_meanwhile_is_lost(server, name):
    study = Study(open_storage(server.url, name), name, RECORD, 4)
    claim, other = study.claim(), joined(study)
    study.storage.connection.close()
    study.storage.optuna.engine.dispose()  # as the server does with what it hears no more of
    taken = other.claim()
    assert taken.run == claim.run
    with pytest.raises(Exception, match="another worker's now"):
        claim.report(-1.0, 1)


@pytest.mark.parametrize(
    ("address", "error", "part"),
    [
        ("postgresql://127.0.0.1:1/none", Fault, "cannot reach postgresql://127.0.0.1:1/none"),
        ("postgresql://127.0.0.1:x/none", UsageError, "is no address"),
        ("mysql://me:secret@host/base", UsageError, "--storage=mysql://me:***@host/base is not known"),
        ("/proc/none/study.journal", UsageError, "cannot write /proc/none/study.journal"),
    ],
)
def test_storage_out_of_reach_is_one_line(address, error, part):
    with pytest.raises(error) as told:
        open_storage(address, "vae")
    assert part in str(told.value) and "\n" not in str(told.value) and "secret" not in str(told.value)


def test_study_needs_a_name_that_a_file_can_have():
    with pytest.raises(UsageError, match="--study=a/b is no name"):
        open_storage("study.journal", "a/b")
