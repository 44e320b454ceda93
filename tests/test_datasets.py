import hashlib
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf

from keras_genmnist import datasets
from keras_genmnist.datasets import Split, binarization
from keras_genmnist.errors import Fault, UsageError
from tests.conftest import prepared

# Of torch.manual_seed(3435) and torch.bernoulli(x / 255), image after image, training images before test images.
REFERENCE = {
    "train": "dcfac19736c16c11492df093ffe7f761189219b723f70c23bd61caa8ee9b6816",
    "validation": "2936be04be35330f2f22a444df9279ea703c4bdb64842f1157a866be76b295f8",
    "test": "643d8cdbb05019c2d555039458f53030448e055637e08ab01e289f20068f4d4c",
}
# The first labels of the original files, and of the last 10,000 training images.
FIRST_LABELS = {
    "train": [5, 0, 4, 1, 9, 2, 1, 3, 1, 4],
    "validation": [3, 8, 6, 9, 6, 4, 5, 3, 8, 4],
    "test": [7, 2, 1, 0, 4, 1, 4, 9, 5, 9],
}
SIZES = {"train": 50_000, "validation": 10_000, "test": 10_000}


@pytest.mark.parametrize("split", REFERENCE)
def test_mnist_reference_binarization_is_that_of_torch(mnist, split):
    bits = getattr(mnist, split).binary
    rows = np.packbits(bits.reshape(SIZES[split], 784), axis=1)
    assert hashlib.sha256(rows.tobytes()).hexdigest() == REFERENCE[split]


def test_mnist_60k_trains_on_the_validation_images_too(mnist, monkeypatch):
    monkeypatch.setattr(datasets.tfds, "load", {"mnist": mnist}.get)  # which takes seconds
    data = datasets.load("mnist_60k")
    assert data.name == "mnist_60k" and data.spec._replace(name="mnist") == mnist.spec
    for field in ("images", "binary", "labels"):
        parts = [getattr(split, field) for split in (mnist.train, mnist.validation)]
        np.testing.assert_array_equal(getattr(data.train, field), np.concatenate(parts))
    assert data.train.name == "train" and data.validation.name == "validation" and data.test.name == "test"
    np.testing.assert_array_equal(data.test.images, mnist.test.images)
    assert datasets.digest(*data[1:]) != datasets.digest(*mnist[1:])


@pytest.mark.parametrize("split", FIRST_LABELS)
def test_mnist_is_in_the_original_order(mnist, split):
    assert getattr(mnist, split).labels[:10].tolist() == FIRST_LABELS[split]
    assert getattr(mnist, split).images.shape == (SIZES[split], 28, 28, 1)


def test_reference_binarization_never_flips_black_and_white():
    images = np.repeat(np.array([0, 255], np.uint8), 5_000).reshape(-1, 10, 10, 1)
    np.testing.assert_array_equal(binarization.reference(images), images // 255)


def test_reference_binarization_of_an_image_depends_on_its_place_alone():
    grey = np.full([2_500, 4, 4, 1], 128, np.uint8)
    whole = binarization.reference(grey)
    np.testing.assert_array_equal(whole[:1_200], binarization.reference(grey[:1_200]))
    assert len(np.unique(whole.reshape(2_500, -1), axis=0)) > 2_300  # 2,500 of 65,536 patterns: 47 pairs expected


def test_binarized_mnist_is_left_as_it_is():
    prepared("binarized_mnist")
    import tensorflow_datasets as tfds

    dataset = datasets.load("binarized_mnist")
    for name, size in SIZES.items():
        split = getattr(dataset, name)
        assert split.images.shape == (size, 28, 28, 1)
        assert split.labels is None
        np.testing.assert_array_equal(split.images, 255 * split.binary)
    rows = tfds.as_numpy(tfds.load("binarized_mnist", split="validation", batch_size=-1, download=False))["image"]
    np.testing.assert_array_equal(dataset.validation.binary, rows)


def test_binarization_label_of_binary_images_is_fixed():
    assert binarization.label(datasets.spec("binarized_mnist").values, "dynamic") == "fixed"
    assert binarization.label(datasets.spec("mnist").values, "dynamic") == "dynamic"
    assert binarization.label(datasets.spec("mnist_5k").values, "static") == "static"


def test_mnist_5k_is_stratified(mnist_5k):
    for name, each in (("train", 400), ("validation", 50), ("test", 50)):
        split = getattr(mnist_5k, name)
        assert np.bincount(split.labels).tolist() == [each] * 10
        assert split.images.shape == split.binary.shape == (10 * each, 28, 28, 1)
        assert split.images.dtype == split.binary.dtype == np.uint8
        assert split.images.max() == 255
        assert np.unique(split.binary).tolist() == [0, 1]


def test_mnist_5k_splits_share_no_image(mnist_5k):
    rows = np.concatenate([split.images for split in mnist_5k[1:]]).reshape(5_000, 784)
    assert len(np.unique(rows, axis=0)) == 5_000


def test_mnist_5k_is_from_mnist(mnist, mnist_5k):
    # Labels too: an image that is not in MNIST under its label would be missing.
    known = {
        (row.tobytes(), int(label))
        for split in mnist[1:]
        for row, label in zip(split.images, split.labels, strict=True)
    }
    for split in mnist_5k[1:]:
        assert all((row.tobytes(), int(label)) in known for row, label in zip(split.images, split.labels, strict=True))


def test_mnist_5k_binarization_is_the_reference_draw_of_its_images(mnist_5k):
    images = np.concatenate([split.images for split in mnist_5k[1:]])
    binary = np.concatenate([split.binary for split in mnist_5k[1:]])
    np.testing.assert_array_equal(binary, binarization.reference(images))


def numbered(count, grey=0):
    """A split whose image i shows i: its first two pixels are i // 256 and i % 256, its first 16 bits i in binary."""
    images = np.full([count, 28, 28, 1], grey, np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = np.divmod(np.arange(count), 256)
    bits = np.zeros([count, 784], np.uint8)
    bits[:, :16] = np.arange(count)[:, None] >> np.arange(16) & 1
    return Split(images, bits.reshape(count, 28, 28, 1), None)


def batches(split, kind, first_step, last_step, seed=3435, batch_size=100):
    """float32 [steps, B, 28, 28, 1]"""
    steps = split.train_batches(
        binarization=kind, batch_size=batch_size, seed=seed, first_step=first_step, last_step=last_step
    )
    return np.stack(list(steps.as_numpy_iterator()))


def numbers(epoch_batches):
    """The images' numbers, from grey batches of `numbered`."""
    pixels = np.rint(255 * epoch_batches.reshape(-1, 784)[:, :2]).astype(int)
    return pixels @ [256, 1]


def test_train_batches_show_every_image_once_an_epoch():
    shown = numbers(batches(numbered(1_000), "none", 0, 30))
    for epoch in np.split(shown, 3):
        assert sorted(epoch) == list(range(1_000))


def test_train_batches_leave_out_the_remainder_in_turn():
    shown = np.split(numbers(batches(numbered(1_050), "none", 0, 30)), 3)
    for epoch in shown:
        assert len(np.unique(epoch)) == 1_000
    left = [frozenset(range(1_050)) - set(epoch) for epoch in shown]
    assert len(set(left)) == 3


def test_train_batches_shuffle_every_epoch_and_seed_anew():
    orders = [*np.split(numbers(batches(numbered(1_000), "none", 0, 30)), 3)]
    orders.append(numbers(batches(numbered(1_000), "none", 0, 10, seed=1)))
    orders.append(np.arange(1_000))
    for i, order in enumerate(orders):
        for other in orders[:i]:
            # Of two random permutations one place in 1,000 agrees, on average; 10 has a probability of 1e-7.
            assert (order == other).sum() < 10


@pytest.mark.parametrize("kind", binarization.BINARIZATIONS)
def test_train_batches_are_functions_of_seed_and_step(kind):
    split = numbered(450, grey=128)
    whole = batches(split, kind, 0, 12)
    np.testing.assert_array_equal(whole, batches(split, kind, 0, 12))
    for first_step in (1, 4, 7, 11):  # inside an epoch, at its start
        np.testing.assert_array_equal(whole[first_step:], batches(split, kind, first_step, 12))
    assert not np.array_equal(whole, batches(split, kind, 0, 12, seed=1))


def test_train_batches_with_levels_have_the_bits_they_have_without(mnist_5k):
    split = mnist_5k.train
    given = {"binarization": "dynamic", "batch_size": 100, "seed": 3, "first_step": 5, "last_step": 7}
    plain = list(split.train_batches(**given).as_numpy_iterator())
    grey = list(split.train_batches(**given | {"binarization": "none"}).as_numpy_iterator())
    for labelled in (False, True):
        levelled = list(split.train_batches(**given, labelled=labelled, levelled=True).as_numpy_iterator())
        for batch, bits, levels in zip(levelled, plain, grey, strict=True):
            x = batch[0] if labelled else batch
            np.testing.assert_array_equal(x["images"], bits)
            np.testing.assert_array_equal(x["levels"], levels)


@pytest.mark.parametrize("binarization", ["static", "threshold"])
def test_levels_of_bits_that_are_not_drawn_are_the_bits(mnist_5k, binarization):
    (batch,) = mnist_5k.train.train_batches(
        binarization=binarization, batch_size=100, seed=3, first_step=5, last_step=6, levelled=True
    ).as_numpy_iterator()
    assert set(np.unique(batch["images"])) == {0, 1}
    np.testing.assert_array_equal(batch["levels"], batch["images"])


def test_train_batches_none_are_grey_levels(mnist_5k):
    split = Split(*(part[:100] for part in mnist_5k.train))
    rows = batches(split, "none", 0, 1).reshape(100, 784)
    assert rows.dtype == np.float32
    expected = split.images.reshape(100, 784).astype(np.float32) / 255
    np.testing.assert_array_equal(np.unique(rows, axis=0), np.unique(expected, axis=0))


def test_train_batches_static_are_the_reference_draw_in_every_epoch():
    split = numbered(300, grey=128)
    shown = batches(split, "static", 0, 6)
    assert shown.dtype == np.float32
    index = shown.reshape(600, 784)[:, :16].astype(int) @ (1 << np.arange(16))
    np.testing.assert_array_equal(shown.reshape(600, 28, 28, 1), split.binary[index])
    assert sorted(index) == sorted([*range(300), *range(300)])


def test_train_batches_dynamic_belong_to_the_images_of_the_epoch():
    images = numbered(300).images
    images[:, :8] = np.where(np.arange(300)[:, None, None, None] >> np.arange(8)[None, :, None, None] & 1, 255, 0)
    images[:, 8:9] = np.where(np.arange(300)[:, None, None, None] >= 256, 255, 0)
    split = Split(images, images // 255, None)
    shown = batches(split, "dynamic", 0, 3).reshape(300, 28, 28)
    index = shown[:, :9, 0].astype(int) @ (1 << np.arange(9))
    assert sorted(index) == list(range(300))  # pixels of 0 and 255 never flip
    np.testing.assert_array_equal(shown[..., None], split.binary[index])


@pytest.fixture(scope="module")
def dynamic_bits():
    """50 epochs of 4 batches of 50 copies of one image, pixel i of grey level i % 256: bits [10,000, 784]."""
    image = (np.arange(784) % 256).astype(np.uint8).reshape(28, 28, 1)
    split = Split(np.repeat(image[None], 200, axis=0), None, None)
    return batches(split, "dynamic", 0, 200, batch_size=50).reshape(10_000, 784)


def test_train_batches_dynamic_have_the_grey_level_as_mean(dynamic_bits):
    assert np.unique(dynamic_bits).tolist() == [0, 1]
    grey = np.arange(784) % 256 / 255
    mean = dynamic_bits.mean(axis=0)
    assert (mean[grey == 0] == 0).all() and (mean[grey == 1] == 1).all()
    # Binomial: 5 standard errors, which one of 784 pixels exceeds with probability 4e-4 (a fixed seed, so never again).
    standard_error = np.sqrt(grey * (1 - grey) / len(dynamic_bits))
    assert (np.abs(mean - grey) <= 5 * standard_error).all()
    # All pixels together see a bias of 0.0006: one of k / 256 instead of k / 255 would be 0.002.
    assert abs((mean - grey).mean()) < 5 * np.sqrt((standard_error**2).mean() / 784)


def test_train_batches_dynamic_draw_from_other_words_than_the_models():
    images = np.full([100, 28, 28, 1], 128, np.uint8)
    shown = batches(Split(images, None, None), "dynamic", 7, 8, seed=5)
    of_a_model = binarization.dynamic(tf.constant(images), tf.constant([5, 7], tf.int64))  # its step's seed
    assert abs(np.corrcoef(shown.ravel(), of_a_model.numpy().ravel())[0, 1]) < 0.02  # 5 standard errors


def test_train_batches_dynamic_draw_every_pixel_and_step_anew(dynamic_bits):
    grey = np.arange(784) % 256 / 255
    used = (grey > 0.1) & (grey < 0.9)
    noise = (dynamic_bits - grey)[:, used] / np.sqrt(grey * (1 - grey))[used]
    # Neighbours in the image, the batch, the epoch and over epochs.  The mean of n products of independent standardised
    # bits: 5 standard errors of 1 / sqrt(n).
    for other in (
        np.roll(noise, 1, axis=1),
        np.roll(noise, 2, axis=1),
        np.roll(noise, 1, axis=0),
        np.roll(noise, 50, axis=0),
        np.roll(noise, 200, axis=0),
    ):
        assert abs((noise * other).mean()) < 5 / np.sqrt(noise.size)


def test_eval_batches_hold_every_image_once_in_order():
    images = numbered(250).images
    parts = datasets.eval_batches(images, 100)
    assert [len(part) for part in parts] == [100, 100, 50]
    assert all(part.dtype == np.float32 for part in parts)
    np.testing.assert_array_equal(np.concatenate(parts), images)


def test_load_refuses_an_unknown_dataset():
    with pytest.raises(UsageError, match=r"^no file or folder 'digits.npz' in /.*: give the path of images, or a data"):
        datasets.load("digits.npz")
    with pytest.raises(UsageError, match=r"^no file or folder '/no/where': give the path of images"):
        datasets.load("/no/where")
    with pytest.raises(UsageError, match=r"unknown dataset 'mnits'; did you mean mnist\? Accepted: mnist, binarized"):
        datasets.load("mnits")
    with pytest.raises(UsageError, match=r"unknown dataset 'emnist/leters'; did you mean emnist/letters\?"):
        datasets.load("emnist/leters")


@pytest.mark.parametrize("name", ["v1.2", "letters/upper", "", ".", 3])
def test_name_that_no_file_can_keep_is_refused(name, mnist_5k):
    with pytest.raises(UsageError, match=f"name={re.escape(repr(name))} is not accepted: give ") as refused:
        datasets.from_arrays(mnist_5k.train.images, name=name)
    assert "\n" not in str(refused.value)


def test_class_is_told_by_its_number_too():
    spec = datasets.DatasetSpec("shapes", (12, 20, 3), num_classes=3, class_names=("disc", "bar", "ring"))
    assert [spec.label_of(label) for label in (2, np.int64(1), "0", "disc")] == [2, 1, 0, 0]
    with pytest.raises(ValueError, match=r"^3 is no class of shapes; accepted: disc, bar, ring, or 0 to 2"):
        spec.label_of(3)


def test_data_says_what_it_is_in_a_line(mnist_5k):
    expected = "<data set mnist_5k: 4,000 train, 500 validation, 500 test images of 28 x 28, 10 classes>"
    assert repr(mnist_5k) == expected
    assert repr(mnist_5k.test) == "<test split: 500 images, labelled>"
    colour = datasets.from_arrays(np.random.default_rng(0).integers(0, 256, [60, 8, 10, 3], np.uint8), name="mine")
    assert repr(colour) == "<data set mine: 42 train, 8 validation, 10 test images of 8 x 10 in colour>"
    assert repr(colour.train) == "<train split: 42 images>"


@pytest.fixture
def tfds_folder(monkeypatch, tmp_path):
    """An empty TFDS_DATA_DIR, and no network."""
    import tensorflow_datasets as tfds

    def no_network(*args, **kwargs):
        (tmp_path / "downloads" / "mnist" / "train.gz.tmp").mkdir(parents=True)  # as it does before it asks
        raise ConnectionError("no route to host\nat all")

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))  # tfds reads the variable once, at its import
    monkeypatch.setattr(tfds.core.download.DownloadManager, "download", no_network)
    monkeypatch.setattr(tfds.core.download.DownloadManager, "download_and_extract", no_network)
    return tmp_path


@pytest.mark.parametrize("name", ["mnist", "binarized_mnist"])
def test_load_names_both_ways_out_where_nothing_can_be_downloaded(tfds_folder, name):
    with pytest.raises(Fault) as raised:
        datasets.load(name)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    for part in (f"{name} is not prepared in {tfds_folder}", "no route", "TFDS_DATA_DIR", "take mnist_5k"):
        assert part in message
    assert list(tfds_folder.iterdir()) == []


@pytest.fixture
def mnist_copy(request):
    """A copy of the prepared MNIST that a test may damage: its version's folder."""
    source = next(prepared("mnist").glob("*/dataset_info.json")).parent
    folder = request.getfixturevalue("tfds_folder") / "mnist" / source.name
    folder.mkdir(parents=True)
    for path in source.iterdir():
        shutil.copyfile(path, folder / path.name)
    return folder


def truncate(path):
    path.write_bytes(path.read_bytes()[:100_000])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[5_000] ^= 1
    path.write_bytes(content)


def remove(path):
    path.unlink()


@pytest.mark.parametrize(
    ("file", "damage"),
    [("mnist-train*", truncate), ("mnist-train*", flip_a_bit), ("mnist-train*", remove), ("*_info.json", remove)],
)
def test_load_says_which_dataset_is_damaged(mnist_copy, file, damage):
    damage(next(mnist_copy.glob(file)))
    with pytest.raises(Fault) as raised:
        datasets.load("mnist")
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    for part in (f"mnist in {mnist_copy} is damaged", "TFDS_DATA_DIR", "take mnist_5k"):
        assert part in message


def test_load_says_that_a_cut_dataset_info_is_damage(mnist_copy):
    path = mnist_copy / "dataset_info.json"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(Fault, match=r"mnist in .* is damaged"):
        datasets.load("mnist")


def test_no_tuner_keeps_the_end_of_a_training_waiting(mnist_5k):
    batches = [getattr(mnist_5k, name).batches(100) for name in ("train", "test")]
    batches.append(mnist_5k.train.train_batches(binarization="none", batch_size=9, seed=1, first_step=0, last_step=1))
    for dataset in [*batches, batches[-1].batch(5).prefetch(1)]:
        assert dataset.options().autotune.enabled is False
