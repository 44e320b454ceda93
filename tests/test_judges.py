"""The classifiers of images that are not MNIST: trained once, kept in the user's cache, for exactly their data."""

import json
import math
from hashlib import sha256

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from keras_genmnist import classifier, cli, datasets, evaluate, judges, quality, runs
from keras_genmnist.errors import Fault, UsageError
from tests import tiny
from tests.test_cli import assert_one_line, call, genmnist  # noqa: F401

SHAPE = (9, 13, 3)


def quick(patch) -> None:
    """Has a training take seconds."""
    patch.setattr(judges, "FEWEST_STEPS", 50)
    patch.setattr(judges, "MOST_STEPS", 50)
    patch.setattr(judges, "AVERAGING", 0.5)


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Dim noise with a bright bar at one of three places, and which."""
    generator = np.random.default_rng(seed)
    images, labels = generator.integers(0, 100, [count, *SHAPE], np.uint8), generator.integers(0, 3, count)
    for image, label in zip(images, labels, strict=True):
        image[3:6, 1 + 4 * label : 4 + 4 * label] += 150
    return images, labels


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A .npz file of 240 training images of bars and 60 test images."""
    path = tmp_path_factory.mktemp("bars") / "bars.npz"
    (x_train, y_train), (x_test, y_test) = drawn(240, 1), drawn(60, 2)
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


@pytest.fixture(scope="module")
def bars(path):
    return datasets.load(str(path))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and trainings of a second."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    quick(monkeypatch)
    return tmp_path / "cache" / "genmnist" / "classifiers"


@pytest.fixture(scope="module")
def made(bars, tmp_path_factory):
    """A cache with two judges of the bars."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        quick(patch)
        judges.make(bars, 2, "genmnist classifier --dataset=bars.npz")
    return cache


def grey(images):
    return images.astype(np.float32) / 255


@pytest.mark.parametrize("shape", [(8, 8, 1), (15, 64, 1), (16, 16, 3), (64, 64, 1)])
def test_classifier_reads_images_of_any_shape(shape):
    reader = classifier.Classifier(classifier.build(shape, 5))
    reading = reader.read(np.random.default_rng(0).random([3, *shape], np.float32))
    assert reading.features.shape == (3, classifier.NUM_FEATURES) and reading.probabilities.shape == (3, 5)
    assert np.ptp(reading.features, axis=0).max() > 0  # something of the image gets through
    np.testing.assert_allclose(reading.probabilities.sum(axis=1), 1, rtol=1e-6)


def test_classifier_of_mnist_is_the_one_that_ships():
    with np.load(classifier.JUDGES[0].path) as file:
        shipped = [file[name].shape for name in file.files]
    assert [weight.shape for weight in classifier.build().get_weights()] == shipped
    layers = [(layer.name.split("_")[0], getattr(layer, "padding", "")) for layer in classifier.build().layers]
    assert [padding for name, padding in layers if padding] == 4 * ["valid"]


def test_digits_of_mnist_are_distorted_as_they_were_for_the_judges_that_ship(mnist_5k):
    images, seed = tf.constant(grey(mnist_5k.test.images[:20])), tf.constant([5, 7], tf.int64)
    # The formula that those were trained by, of 28 x 28 pixels alone.
    draws = tf.random.stateless_uniform([5, 20], seed, -1.0, 1.0)
    angle, across, along = math.radians(12) * draws[0], 1 + 0.12 * draws[1], 1 + 0.12 * draws[2]
    a, b, c, d = across * tf.cos(angle), -across * tf.sin(angle), along * tf.sin(angle), along * tf.cos(angle)
    x, y, zero = 13.5 + 2.0 * draws[3], 13.5 + 2.0 * draws[4], tf.zeros_like(a)
    maps = tf.stack([a, b, x - 13.5 * (a + b), c, d, y - 13.5 * (c + d), zero, zero], axis=1)
    expected = tf.raw_ops.ImageProjectiveTransformV3(
        images=images, transforms=maps, output_shape=[28, 28], fill_value=0.0, interpolation="BILINEAR"
    )
    found = judges.distorted(images, seed)
    np.testing.assert_array_equal(found, expected)
    assert (found.numpy() != images.numpy()).any()


def test_distortions_are_about_the_centre_of_images_that_are_not_square(monkeypatch):
    image = np.zeros([1, 9, 13, 1], np.float32)
    image[0, 4, 6] = 1
    monkeypatch.setattr(judges, "SHIFT", 0)
    monkeypatch.setattr(judges, "ANGLE", math.pi)
    for number in range(5):
        turned = judges.distorted(tf.constant(image), tf.constant([number, 1]))
        assert np.unravel_index(np.argmax(turned), turned.shape) == (0, 4, 6, 0)


def test_make_stores_judges_with_accuracy_and_hash(bars, made, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(made))
    digest = datasets.digest(bars.train, bars.validation, bars.test)
    folder = made / "genmnist" / "classifiers" / digest
    content = json.loads((folder / "judges.json").read_text())
    assert content["data"] == digest == judges.name(bars)
    assert (content["image_shape"], content["num_classes"]) == (list(SHAPE), 3)
    assert sorted(path.name for path in folder.iterdir()) == ["0.npz", "1.npz", "judges.json"]
    found = judges.find(digest)
    assert len(found) == 2 and found[0].sha256 != found[1].sha256
    for own, judge in zip(content["judges"], found, strict=True):
        assert own["sha256"] == judge.sha256 == sha256(judge.path.read_bytes()).hexdigest()
        trained = judge.load()
        for name in ("validation", "test"):
            split = getattr(bars, name)
            right = trained.probabilities(grey(split.images)).argmax(axis=1) == split.labels
            assert own["accuracy"][name] == right.mean() > 0.8


def test_judges_are_those_of_exactly_their_data(bars, made, mnist_5k, monkeypatch):
    assert judges.name(bars) is None and judges.find(None) == []  # in an empty cache
    monkeypatch.setenv("XDG_CACHE_HOME", str(made))
    assert judges.name(bars)
    images = bars.train.images.copy()
    images[0, 0, 0, 0] ^= 1
    assert judges.name(bars._replace(train=bars.train._replace(images=images))) is None
    assert judges.name(bars._replace(spec=bars.spec._replace(num_classes=None))) is None
    assert judges.find(judges.name(mnist_5k)) == classifier.JUDGES
    assert datasets.spec("binarized_mnist").judge == datasets.spec("mnist").judge == judges.MNIST
    assert all(datasets.spec(name).judge in (None, judges.MNIST) for name in datasets.names())
    judged = [name for name in datasets.names() if datasets.spec(name).judge]
    assert sorted(judged) == ["binarized_mnist", "mnist", "mnist_5k", "mnist_60k"]


def test_score_is_by_the_judges_of_the_data(bars, made, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(made))
    found = quality.score(grey(drawn(60, 3)[0]), bars)
    assert found["judges"] == [judge.sha256 for judge in judges.find(judges.name(bars))] and "space" not in found
    shares = np.bincount(drawn(60, 3)[1], minlength=3) / 60
    np.testing.assert_allclose(found["class_shares"]["mean"], shares, atol=0.1)
    assert found["precision"]["mean"] > 0.5
    head, *rows = str(
        evaluate._samples_table({"weights": "raw", "samples": {"pixels": "grey levels", **found}})
    ).splitlines()
    assert "over 2 judges" in head and any(row.startswith("rarest class") for row in rows)


def untrained(dataset, seed, label):
    """In place of judges.train, where the judge need not be right about anything."""
    tf_keras.utils.set_random_seed(seed)
    return classifier.build(dataset.spec.image_shape, dataset.spec.num_classes)


def test_training_again_adds_what_is_missing(bars, cache, capsys, monkeypatch):
    monkeypatch.setattr(judges, "train", untrained)
    judges.make(bars, 1, "again")
    (first,) = judges.find(judges.name(bars))
    kept = first.path.stat().st_mtime_ns
    index = judges.make(bars, 2, "again")
    both = judges.find(judges.name(bars))
    assert len(both) == 2 and both[0].sha256 == first.sha256
    assert first.path.stat().st_mtime_ns == kept
    assert "is there already" in capsys.readouterr().out
    assert judges.make(bars, 1, "again") == index and judges.find(judges.name(bars)) == both


def test_an_altered_judge_is_a_fault_that_says_how_to_train_it(bars, made, cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(made))
    judge = judges.find(judges.name(bars))[0]
    altered = cache / "0.npz"
    altered.parent.mkdir(parents=True)
    altered.write_bytes(judge.path.read_bytes()[:-1])
    with pytest.raises(Fault, match=rf"{altered} is altered.* delete .*`genmnist classifier --dataset=bars\.npz`"):
        judge._replace(path=altered).load()


@pytest.mark.parametrize("text", ["{", "[]", '{"judges": [{"file": "0.npz"}]}'])
def test_a_damaged_list_of_judges_is_a_fault(text, bars, cache):
    index = cache / datasets.digest(bars.train, bars.validation, bars.test) / "judges.json"
    index.parent.mkdir(parents=True)
    index.write_text(text)
    for act in (lambda: judges.find(judges.name(bars)), lambda: judges.make(bars, 1, "again")):
        with pytest.raises(Fault, match=f"{index} is damaged: delete"):
            act()


def test_judges_that_make_no_sense_are_refused(bars, mnist_5k, cache):
    one = bars._replace(train=bars.train._replace(labels=np.zeros_like(bars.train.labels)))
    nameless = bars._replace(spec=bars.spec._replace(num_classes=None))
    for dataset, reason in ((mnist_5k, "ship with the package"), (nameless, "no labels"), (one, "of one class")):
        with pytest.raises(UsageError, match=reason):
            judges.make(dataset, 1, "again")
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_found_before_the_training(bars, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(judges, "train", None)  # would be called
    with pytest.raises(UsageError, match=r"cannot write .*file is a file; set XDG_CACHE_HOME"):
        judges.make(bars, 1, "again")


@pytest.mark.slow
def test_verb_trains_the_judge_that_evaluate_asks_for(path, genmnist, tmp_path, cache):  # noqa: F811
    flags = [f"--config.{field}={value}" for field, value in (tiny.SIZES | tiny.FAST).items()]
    fields = [flag for flag in flags if flag[9:].split("=")[0] in tiny.config("gan")]
    sizes = [f"--config.dataset={path}", "--config.batch_size=50", "--config.epochs=1"]
    assert genmnist("train", "--model=gan", "--workdir=gan", *fields, *sizes).status == 0
    run = runs.load(tmp_path / "gan")
    assert run.spec.judge is None
    (row,) = runs.read_metrics(run)
    assert "val_frechet" in row and "val_rarest_class" not in row
    outcome = genmnist("evaluate", "--workdir=gan")
    (told,) = [line for line in outcome.err.splitlines() if line.startswith("genmnist: ")]
    assert "no classifier judges bars yet" in told and f"`genmnist classifier --dataset={path}`" in told
    assert "by their pixels alone" in outcome.out and "rarest class" not in outcome.out
    assert "Parzen windows" in outcome.out
    assert json.loads(run.metrics_json.read_text())["samples"]["space"] == "pixels"

    outcome = genmnist("classifier", f"--dataset={path}", "--seeds=1")
    assert outcome.status == 0
    assert "right about" in outcome.out and f"wrote {cache}" in outcome.out
    outcome = genmnist("evaluate", "--workdir=gan")
    assert outcome.status == 0 and "classifier judges" not in outcome.err
    assert "by one judge" in outcome.out and "rarest class" in outcome.out
    # What an epoch was chosen by stays to the end of the run; another run begins with the judge.
    assert genmnist("train", "--workdir=gan", "--config.epochs=2").status == 0
    assert ["val_rarest_class" in row for row in runs.read_metrics(run)] == [False, False]
    assert genmnist("train", "--model=gan", "--workdir=judged", *fields, *sizes).status == 0
    judged = runs.load(tmp_path / "judged")
    assert judged.spec.judge == judges.name(datasets.load(str(path)))
    assert "val_rarest_class" in runs.read_metrics(judged)[0]
    # And it is not judged otherwise where the judge is lost.
    (cache / judged.spec.judge / "judges.json").unlink()
    assert_one_line(genmnist("train", "--workdir=judged", "--config.epochs=2"), 3, "judges.json", "genmnist classifier")


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "give --dataset=NAME"),
        (["--dataset=mnist_5k"], "ship with the package"),
        (["--dataset=mnst_5k"], "did you mean mnist_5k"),
        (["--dataset=mnist_5k", "--image_size=32"], "leave it out"),
        (["--dataset=mnist_5k", "--seeds=0"], "seeds"),
    ],
)
def test_verb_refuses(flags, message, genmnist):  # noqa: F811
    assert_one_line(genmnist("classifier", *flags), 2, message)


def test_command_is_one_that_the_verb_takes():
    assert judges.command("my images.npz", 32, True) == (
        "genmnist classifier '--dataset=my images.npz' --image_size=32 --invert"
    )
    assert "classifier" in cli.VERBS
