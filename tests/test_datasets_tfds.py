"""Data sets by their names in TensorFlow Datasets, of which only MNIST may be at hand: others are mocked."""

import numpy as np
import pytest
import tensorflow as tf

from keras_genmnist import datasets
from keras_genmnist.datasets import tfds as named

COUNT = 12  # fake examples of each split
OTHERS = [name for name in named.SPECS if name not in ("mnist", "binarized_mnist")]


@pytest.fixture
def mocked(monkeypatch):
    """TensorFlow Datasets with made-up images, those of each data set's own features."""
    import tensorflow_datasets as tfds

    splits = [
        tfds.core.SplitInfo(name=name, shard_lengths=[COUNT], num_bytes=0, filename_template=None)
        for name in ("train", "test")
    ]
    monkeypatch.setattr(tfds.core.DatasetInfo, "splits", tfds.core.SplitDict(splits))
    with tfds.testing.mock_data(num_examples=COUNT, policy=tfds.testing.MockPolicy.USE_CODE):
        yield


@pytest.mark.parametrize("name", OTHERS)
def test_named_dataset_has_the_shape_and_labels_of_its_spec(name, mocked):
    dataset = datasets.load(name)
    assert dataset.spec == datasets.spec(name)
    assert dataset.name == name
    sizes = [len(split.images) for split in (dataset.train, dataset.validation, dataset.test)]
    assert sizes == [10, 2, 12]
    for split in (dataset.train, dataset.validation, dataset.test):
        assert split.images.dtype == split.binary.dtype == np.uint8
        assert split.images.shape[1:] == split.binary.shape[1:] == dataset.spec.image_shape
        assert set(np.unique(split.binary)) <= {0, 1}
        if dataset.spec.num_classes is None:
            assert split.labels is None
        else:
            assert split.labels.dtype == np.int64
            if name != "emnist/letters":  # whose labels, made up from its features, go to 36
                assert split.labels.max() < dataset.spec.num_classes


@pytest.mark.parametrize("name", OTHERS)
def test_named_dataset_names_all_its_classes_and_has_no_judge_of_digits(name):
    spec = datasets.spec(name)
    assert spec.judge is None
    if spec.num_classes is not None:
        assert len(set(spec.class_names)) == spec.num_classes


def test_emnist_is_turned_upright():
    stored = tf.constant(np.arange(6, dtype=np.uint8).reshape(2, 3, 1))
    upright = named._upright({"image": stored, "label": 5})
    np.testing.assert_array_equal(upright["image"][..., 0], [[0, 3], [1, 4], [2, 5]])
    assert upright["label"] == 5


def test_omniglot_is_inverted_and_averaged_over_areas():
    stored = np.full([105, 105, 3], 255, np.uint8)
    stored[:, 60:] = 0  # black ink on the right
    image = named._small_and_white_on_black({"image": tf.constant(stored), "label": 0, "alphabet": 3})["image"].numpy()
    assert image.shape == (28, 28, 1)
    np.testing.assert_array_equal(image[:, :16], 0)
    np.testing.assert_array_equal(image[:, 16:], 255)  # the edge is at 60 of 105, 16 of 28


def test_emnist_letters_are_counted_from_0(monkeypatch):
    labels = np.arange(1, 27)
    monkeypatch.setattr(
        named, "_rows", lambda name, split: {"image": np.zeros([26, 28, 28, 1], np.uint8), "label": labels}
    )
    dataset = datasets.load("emnist/letters")
    assert sorted(dataset.test.labels) == list(range(26))
    assert dataset.spec.class_names[0] == "A"


@pytest.fixture
def prepared(monkeypatch, tmp_path):
    """A data set that is prepared, in a folder and with a cache of its own; how often it has been decoded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    (tmp_path / "kmnist" / "1.0.0").mkdir(parents=True)
    (tmp_path / "kmnist" / "1.0.0" / "records").write_bytes(b"1")
    decoded = []

    def read(name):
        decoded.append(name)
        images = np.random.default_rng(0).integers(0, 256, [12, 28, 28, 1], np.uint8)
        return {"images": images, "labels": np.arange(12) % 10, "starts": np.array([6, 8])}

    monkeypatch.setattr(named, "_read", read)
    return decoded


def assert_equal(one, other):
    for name in ("train", "validation", "test"):
        mine, its = getattr(one, name), getattr(other, name)
        np.testing.assert_array_equal(mine.images, its.images)
        np.testing.assert_array_equal(mine.labels, its.labels)


def test_data_set_is_decoded_once(prepared):
    first = named.load("kmnist")
    assert_equal(named.load("kmnist"), first)
    assert prepared == ["kmnist"]


def test_data_set_that_has_changed_is_decoded_again(prepared, tmp_path):
    named.load("kmnist")
    (tmp_path / "kmnist" / "1.0.0" / "records").write_bytes(b"12")
    named.load("kmnist")
    assert len(prepared) == 2


@pytest.mark.parametrize("harm", [lambda kept: kept[:1000], lambda kept: b"", lambda kept: kept[:-200] + 200 * b"x"])
def test_damaged_cache_of_a_data_set_is_written_anew(prepared, tmp_path, harm):
    first = named.load("kmnist")
    kept = tmp_path / "cache" / "genmnist" / "datasets" / "kmnist.npz"
    kept.write_bytes(harm(kept.read_bytes()))
    assert_equal(named.load("kmnist"), first)
    named.load("kmnist")
    assert len(prepared) == 2


def test_data_set_without_a_cache_that_can_be_written_loads(prepared, tmp_path):
    (tmp_path / "cache").write_text("")
    assert_equal(named.load("kmnist"), named.load("kmnist"))
    assert len(prepared) == 2
