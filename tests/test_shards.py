"""What is computed batch by batch, by several devices and workers: nothing of it depends on which has which batch."""

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_genmnist import api, classifier, cluster, datasets, evaluate, likelihood, models, runs, shards
from tests import tiny
from tests.test_cluster import free_port


def on(devices: str):
    """Has `shards.rows` use these devices."""
    return shards.over(cluster.strategy(devices, None, None))


def test_rows_come_in_the_order_of_the_batches_and_each_device_computes_some():
    met, devices, lock = threading.Barrier(3, timeout=60), set(), threading.Lock()

    def function(number, batch):
        if number < 3:
            met.wait()  # passes only if three are computed at a time
        value = tf.constant(batch) + number
        with lock:
            devices.add(value.device)
        return {"sum": value.numpy(), "number": np.full(len(batch), number)}

    batches = [np.full(1 + number % 2, 10.0 * number) for number in range(7)]
    with on("cpu:3"):
        found = shards.rows(function, batches, "test")
    np.testing.assert_array_equal(found["number"], [0, 1, 1, 2, 3, 3, 4, 5, 5, 6])
    np.testing.assert_array_equal(found["sum"], 11.0 * found["number"])
    assert devices == {f"/job:localhost/replica:0/task:0/device:CPU:{number}" for number in range(3)}


def test_error_of_one_batch_ends_all():
    def function(number, batch):
        raise MemoryError(f"of {batch}")

    with pytest.raises(MemoryError, match="of a"), on("cpu:2"):
        shards.rows(function, ["a"], "test")


def all_scored(model):
    """The model, of which a bound would be scored of a few images."""
    model.bound_images = 250
    return model


def flow_of_two_classes():
    spec = datasets.spec("mnist")._replace(num_classes=2)  # each class takes as long as all of an image
    return all_scored(models.build(tiny.config("flow_matching", class_conditional=True), spec))


MEASURES = {
    "vae": lambda x, y: likelihood.weighted(models.build(tiny.config()), x, 3, "test"),
    "vae, quadrature": lambda x, y: likelihood.weighted(
        models.build(tiny.config()), x[:201], 2, "test", integrate=True
    ),
    "cvae": lambda x, y: likelihood.weighted(models.build(tiny.config("cvae")), x, 20, "test", labels=y),
    "pixelcnn, orders": lambda x, y: likelihood.exact(models.build(tiny.config("pixelcnn")), x),
    "pixelcnn, labels": lambda x, y: likelihood.exact(
        models.build(tiny.config("pixelcnn", orders=1, class_conditional=True)), x, y
    ),
    "masked_diffusion": lambda x, y: likelihood.bounded(
        all_scored(models.build(tiny.config("masked_diffusion"))), x, 2, "test", 2
    ),
    "flow_matching": lambda x, y: likelihood.bounded(
        flow_of_two_classes(), x[:101] / 1.0, 1, "test", labels=y[:101] % 2
    ),
    "vqvae": lambda x, y: likelihood.bounded(models.build(tiny.config("vqvae")), x, None, "test"),
}


@pytest.mark.parametrize("name", tiny.all_but_some_slow(MEASURES, "vae"))
def test_likelihoods_of_several_devices_are_those_of_one(name, mnist_5k, monkeypatch):
    monkeypatch.setattr(likelihood, "ORDERED_IMAGES", 2)
    x, y = mnist_5k.test.binary[:250], mnist_5k.test.labels[:250]  # two batches and a half
    one = MEASURES[name](x, y)
    with on("cpu:2"):
        two = MEASURES[name](x, y)
    assert two.scores == one.scores
    assert two.per_image.keys() == one.per_image.keys()
    for column, values in one.per_image.items():
        np.testing.assert_array_equal(two.per_image[column], values)


def test_samples_and_what_judges_see_of_them_are_those_of_one_device(mnist_5k):
    model = models.build(tiny.config())
    one = evaluate.draw(model, 1100)
    read = classifier.JUDGES[0].load().read(one["probabilities"])
    with on("cpu:2"):
        two = evaluate.draw(model, 1100)
        again = classifier.JUDGES[0].load().read(two["probabilities"])
    for name in ("images", "probabilities"):
        assert one[name].shape == (1100, 28, 28, 1)
        np.testing.assert_array_equal(two[name], one[name])
    np.testing.assert_array_equal(again.features, read.features)
    np.testing.assert_array_equal(again.probabilities, read.probabilities)


def small(folder: Path) -> Path:
    """A run of a VAE of 3 latents on 2,600 images of 8 x 8, 260 of them for the test: three batches."""
    path = folder / "images.npz"
    images = np.random.default_rng(1).integers(0, 90, [2600, 8, 8], np.uint8)
    np.savez(path, images=images, labels=np.arange(2600) % 3)
    config = tiny.config(dataset=str(path), latent_size=3, norm="none")
    data = runs.describe(datasets.load(str(path)))
    run = runs.Run(folder / "run", "vae", config, "genmnist train", "commit", data=data)
    runs.record(run)
    return tiny.untrained(run).workdir


@pytest.mark.slow
def test_workers_evaluate_as_one_and_the_first_alone_writes(tmp_path):
    workdir = small(tmp_path)
    one, two, parts = (shutil.copytree(workdir, tmp_path / name) for name in ("one", "two", "parts"))
    addresses = ",".join(f"localhost:{free_port()}" for _ in range(2))
    given = ["--num_draws=7", "--per_image=images.npz"]
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    processes = [
        tiny.start("evaluate", f"--workdir={two}", *given, f"--workers={addresses}", f"--index={n}", cwd=folder)
        for n, folder in enumerate(folders)
    ]
    said = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "2 workers with 2 replicas in all" in said[0][0]
    assert "worker 1 has ended with worker 0" in said[1][0] and "wrote" not in said[1][0]
    assert [path.name for path in folders[0].iterdir()] == ["images.npz"] and not list(folders[1].iterdir())

    evaluate.evaluate(runs.load(one), 7, per_image=tmp_path / "one.npz")
    api.open(parts).evaluate(7, devices="cpu:2")
    expected, *found = (json.loads((each / "metrics.json").read_text()) for each in (one, two, parts))
    for record in found:
        assert record | {"evaluated": None} == expected | {"evaluated": None}
    with np.load(tmp_path / "one.npz") as ours, np.load(folders[0] / "images.npz") as theirs:
        assert len(ours["elbo"]) > likelihood.BATCH, "each worker has a batch"
        for name in ours:
            np.testing.assert_array_equal(theirs[name], ours[name])


@pytest.mark.slow
def test_worker_that_is_killed_ends_the_evaluation_in_one_line(tmp_path):
    workdir = small(tmp_path)
    addresses = ",".join(f"localhost:{free_port()}" for _ in range(2))
    first, second = (
        tiny.start(
            *("evaluate", f"--workdir={workdir}", f"--workers={addresses}", f"--index={n}", "--num_draws=9"),
            cwd=tmp_path,
            before=f"from keras_genmnist import likelihood; likelihood.weighted = {wait}",
        )
        for n, wait in enumerate(["likelihood.weighted", "lambda *_: __import__('os')._exit(9)"])
    )
    assert second.wait(timeout=120) == 9
    said, complaint = first.communicate(timeout=240)
    assert first.returncode == 3, (said, complaint)
    assert complaint.splitlines()[-1] == "genmnist: another worker has ended or cannot be reached: evaluation stopped"
    assert not (workdir / "metrics.json").exists()
