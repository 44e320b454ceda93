"""One training by several processes."""

import numpy as np
import pytest

from keras_genmnist import cluster, runs, training
from tests import tiny
from tests.test_cluster import free_port

EPOCHS = 15  # of 4 steps


def rows_of(workdir) -> int:
    path = workdir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


@pytest.mark.slow
def test_workers_train_as_one_and_a_killed_one_ends_the_job_which_other_replicas_resume(tmp_path):
    flags = tiny.flags(norm="batch", epochs=EPOCHS)
    addresses = ",".join(f"localhost:{free_port()}" for _ in range(2))
    # The second has a workdir of its own, as on a machine of its own, and writes nothing there.
    workers = [
        tiny.start(
            "train", *flags, f"--workdir={tmp_path / name}", f"--workers={addresses}", f"--index={n}", cwd=tmp_path
        )
        for n, name in enumerate(["run", "nothing"])
    ]
    first, second = workers
    tiny.wait_for(lambda: rows_of(tmp_path / "run") >= 2, first)
    second.kill()
    second.communicate()
    said, complaint = first.communicate(timeout=120)
    assert first.returncode == 3, complaint
    assert "2 workers with 2 replicas in all" in said
    assert complaint.splitlines()[-1].startswith("genmnist: another worker has ended or cannot be reached")
    assert f"resume with `genmnist train --workdir={tmp_path / 'run'}`" in complaint
    assert not (tmp_path / "nothing").exists()

    run = runs.load(tmp_path / "run")
    assert 2 <= len(runs.read_metrics(run)) < EPOCHS
    training.train(run, 0.0, strategy=cluster.strategy("cpu:4", None, None, run.config.batch_size))
    alone = tiny.train(tiny.begin(tmp_path / "alone", norm="batch", epochs=EPOCHS))
    for weight, expected in zip(runs.load_model(run).weights, runs.load_model(alone).weights, strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=1e-5)
    last, expected = (runs.read_metrics(each)[-1] for each in (run, alone))
    assert last["val_elbo"] == pytest.approx(expected["val_elbo"], abs=0.01)
    assert last["elbo"] == pytest.approx(expected["elbo"], abs=0.01)


def test_index_that_names_no_worker_is_refused(tmp_path):
    for given, said in [([], "--index is not given"), (["--index=2"], "--index is 2")]:
        process = tiny.start("train", "--model=vae", "--workers=a:1,b:2", *given, cwd=tmp_path)
        _, complaint = process.communicate(timeout=60)
        assert process.returncode == 2
        assert complaint == f"genmnist: {said}: say which of the 2 --workers this is, from 0\n"
