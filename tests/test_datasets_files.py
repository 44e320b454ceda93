"""Images of the user's own: where they may come from, how they are split, and what is said of every mistake."""

import errno
import gzip
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_genmnist.datasets import arrays, binarization, files
from keras_genmnist.errors import Fault, UsageError

ROOT = Path(__file__).parent.parent
OMNIGLOT = ROOT.parent / "shared" / "data" / "omniglot_images_background_small1.zip"


def pictures(count=36, height=10, width=9, channels=1) -> np.ndarray:
    """Dark grey images, uint8 [count, height, width, channels], no two alike, made of integers alone."""
    numbers = np.arange(count * height * width * channels, dtype=np.uint64)
    values = (numbers * 2654435761 % 2**32 // 2**24) ** 2 // 256
    values[:2] = 0, 255
    return values.astype(np.uint8).reshape(count, height, width, channels)


def classes(count=36) -> np.ndarray:
    """0, 0, 0, 0, 1, 1, 1, 1, ..."""
    return np.arange(count) // 4


def npz(folder: Path, **members) -> Path:
    np.savez(folder / "mine.npz", **members)
    return folder / "mine.npz"


def png_folder(folder: Path, images, labels=None) -> Path:
    for number, image in enumerate(images):
        place = folder / ("" if labels is None else str(labels[number])) / f"{number:03}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(place)
    return folder


def idx(file: Path, values: np.ndarray) -> Path:
    content = (
        bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.astype(np.uint8).tobytes()
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
    return file


def written(folder: Path, source: str) -> Path:
    """36 pictures in 9 classes, in order, from one of the accepted sources."""
    images, labels = pictures(), classes()
    if source == "npz":
        return npz(folder, images=images, labels=labels)
    if source == "npz of colours":
        return npz(folder, x_train=np.repeat(images, 3, axis=-1), y_train=labels[:, None].astype(np.float32))
    if source == "npz of floats":
        return npz(folder, images=images[..., 0] / 255, labels=labels.astype(np.uint8))
    if source == "npz of whole floats":
        return npz(folder, images=images.astype(np.float32), labels=labels.astype(str))
    if source == "folder":
        return png_folder(folder, images, labels)
    zipped = ".gz" if source == "idx.gz" else ""
    idx(folder / f"train-labels-idx1-ubyte{zipped}", labels)
    file = idx(folder / f"train-images-idx3-ubyte{zipped}", images[..., 0])
    return folder if source == "folder of idx" else file


SOURCES = ["npz", "npz of colours", "npz of floats", "npz of whole floats", "folder", "idx", "idx.gz", "folder of idx"]


@pytest.mark.parametrize("source", SOURCES)
def test_the_same_images_are_the_same_wherever_they_come_from(source, tmp_path):
    read = files.read(written(tmp_path, source))
    np.testing.assert_array_equal(read.train.images, pictures())
    np.testing.assert_array_equal(read.train.labels, classes())
    assert read.train.images.dtype == np.uint8
    assert read.train.labels.dtype == np.int64
    assert read.validation is read.test is read.class_names is None
    assert read.in_order
    # Recorded once: results hold it, so it must never change.
    assert read.sha256 == "0b2bdc0f3f14a47406bd0303ba77cef7992071f87ab6f769dfee3809fe8beacd"


def test_digest_depends_on_pixels_labels_shapes_and_splits():
    part = arrays.Part(pictures(), classes(), "")
    others = [
        (part._replace(labels=None),),
        (part._replace(labels=classes()[::-1]),),
        (part._replace(images=255 - part.images),),
        (part._replace(images=part.images.reshape(36, 9, 10, 1)),),
        (part, part),
        (part, None, part),
    ]
    assert len({arrays.digest(*each) for each in [(part,), *others]}) == 7
    assert arrays.digest(part) == arrays.digest(part._replace(name="elsewhere"))


@pytest.mark.filterwarnings("ignore:images in")
def test_digest_is_that_of_the_images_as_they_are_trained_on(tmp_path):
    path = written(tmp_path, "npz")
    digests = {files.read(path, *options).sha256 for options in ((), (16,), (0, True), (16, True))}
    assert len(digests) == 4


# Splits


def three(dataset):
    return dataset.train, dataset.validation, dataset.test


def test_splits_keep_the_order_where_there_is_a_test_split(tmp_path):
    # As MNIST has it: so Keras' mnist.npz and MNIST's own files give what the data set of that name is.
    labels = classes() % 5
    path = npz(tmp_path, x_train=pictures()[:30], y_train=labels[:30], x_test=pictures()[30:], y_test=labels[30:])
    dataset = arrays.splits("mine", files.read(path))
    assert [len(split.images) for split in three(dataset)] == [25, 5, 6]
    np.testing.assert_array_equal(np.concatenate([split.images for split in three(dataset)]), pictures())
    np.testing.assert_array_equal(np.concatenate([split.labels for split in three(dataset)]), labels)
    bits = np.concatenate([split.binary for split in three(dataset)])
    np.testing.assert_array_equal(bits, binarization.reference(pictures()))
    assert dataset.spec == ("mine", (10, 9, 1), 5, "grey", None, None)


def test_idx_files_have_a_test_split_beside_them(tmp_path):
    for name, rows in (("train", slice(0, 30)), ("t10k", slice(30, None))):
        idx(tmp_path / f"{name}-images-idx3-ubyte.gz", pictures()[rows])
        idx(tmp_path / f"{name}-labels-idx1-ubyte.gz", classes()[rows] % 5)
    for path in (tmp_path, tmp_path / "train-images-idx3-ubyte.gz"):
        dataset = arrays.splits("mine", files.read(path))
        np.testing.assert_array_equal(np.concatenate([split.images for split in three(dataset)]), pictures())
    test_alone = files.read(tmp_path / "t10k-images-idx3-ubyte.gz")
    np.testing.assert_array_equal(test_alone.train.images, pictures()[30:])
    assert test_alone.test is None
    idx(tmp_path / "train-images-idx3-ubyte", pictures()[:30])  # unpacked, and the other kept
    np.testing.assert_array_equal(files.read(tmp_path).train.images, pictures()[:30])


@pytest.mark.parametrize("source", ["npz", "folder"])
def test_splits_are_made_at_random_where_there_is_no_test_split(source, tmp_path):
    count = 144
    images, labels = pictures(count), np.arange(count) // 72
    path = npz(tmp_path, images=images, labels=labels) if source == "npz" else png_folder(tmp_path, images, labels)
    dataset = arrays.splits("mine", files.read(path))
    assert [len(split.images) for split in three(dataset)] == [100, 20, 24]
    for split in three(dataset):
        assert 0.25 < split.labels.mean() < 0.75  # of either class: they came one after the other
        np.testing.assert_array_equal(
            split.labels, [np.where((images == x).all((1, 2, 3)))[0][0] // 72 for x in split.images]
        )
    assert len(np.unique(np.concatenate([split.images for split in three(dataset)]), axis=0)) == count
    order = np.random.RandomState(arrays.SPLIT_SEED).permutation(count)
    np.testing.assert_array_equal(dataset.test.images, images[order[120:]])
    np.testing.assert_array_equal(dataset.validation.images, images[order[100:120]])


def test_validation_is_drawn_at_random_from_training_images_that_are_sorted(tmp_path):
    labels = np.arange(30) // 15
    path = npz(tmp_path, x_train=pictures(30), y_train=labels, x_test=pictures()[30:], y_test=[0, 1] * 3)
    dataset = arrays.splits("mine", files.read(path))
    assert set(dataset.validation.labels) == {0, 1}
    np.testing.assert_array_equal(dataset.test.images, pictures()[30:])  # left as it is
    for split, rows in (("train", slice(0, 30)), ("test", slice(30, None))):  # by names, which may say what they show
        png_folder(tmp_path / "png" / split, pictures()[rows])
    unlabelled = arrays.splits("mine", files.read(tmp_path / "png"))
    np.testing.assert_array_equal(unlabelled.validation.images, dataset.validation.images)


@pytest.mark.parametrize("source", ["npz", "npz with val", "folder", "folder with val"])
def test_splits_of_the_source_are_kept(source, tmp_path):
    validation = "val" if "val" in source else "validation"
    parts = {"train": pictures()[:20], validation: pictures()[20:30], "test": pictures()[30:]}
    if "npz" in source:
        path = npz(tmp_path, **{f"x_{name}": images for name, images in parts.items()})
    else:
        path = tmp_path
        for name, images in parts.items():
            png_folder(path / name, images)
    dataset = arrays.splits("mine", files.read(path))
    for split, images in zip(three(dataset), parts.values(), strict=True):
        np.testing.assert_array_equal(split.images, images)
        assert split.labels is None
    assert dataset.spec.num_classes is None


def test_a_validation_split_of_the_source_is_kept_where_there_is_no_test_split(tmp_path):
    dataset = arrays.splits("mine", files.read(npz(tmp_path, x_train=pictures()[:30], x_val=pictures()[30:])))
    assert [len(split.images) for split in three(dataset)] == [25, 6, 5]
    np.testing.assert_array_equal(dataset.validation.images, pictures()[30:])


def test_binary_images_are_known_as_such(tmp_path):
    bits = pictures() > 100
    dataset = arrays.splits("mine", files.read(npz(tmp_path, images=bits)))
    assert dataset.spec.values == "binary"
    for split in three(dataset):
        np.testing.assert_array_equal(split.images, 255 * split.binary)


# Values and labels


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_zeros_and_ones_are_black_and_white(dtype, tmp_path):
    bits = pictures() > 100
    read = files.read(npz(tmp_path, images=bits.astype(dtype)))
    np.testing.assert_array_equal(read.train.images, 255 * bits)


def test_values_from_0_to_16_are_scaled_and_this_is_said(tmp_path):
    # scikit-learn's load_digits().images.
    digits = (np.arange(36 * 64).reshape(36, 8, 8) % 17) ** 2 // 16
    with pytest.warns(UserWarning, match="no value is above 16, so 16 is taken as white"):
        read = files.read(npz(tmp_path, images=digits.astype(np.float64)))
    np.testing.assert_array_equal(read.train.images[..., 0], np.rint(digits * 255 / 16))


def test_colour_images_stay_so_if_any_pixel_is(tmp_path):
    images = np.repeat(pictures(), 3, axis=-1)
    images[-1, -1, -1, 0] ^= 1
    read = files.read(npz(tmp_path, images=images))
    np.testing.assert_array_equal(read.train.images, images)
    read = files.read(npz(tmp_path, x_train=images[:-1], x_test=images[-1:]))
    assert read.train.images.shape[-1] == read.test.images.shape[-1] == 3
    read = files.read(png_folder(tmp_path / "png", [*pictures()[:3], images[-1]]))  # grey files and a coloured one
    np.testing.assert_array_equal(read.train.images, images[[0, 1, 2, -1]])


@pytest.mark.parametrize(
    ("labels", "names", "first"),
    [
        (["b", "a", "c"], ("a", "b", "c"), [1, 0, 2]),
        ([b"b", b"a", b"a"], ("a", "b"), [1, 0, 0]),
        (["10", "9", "2"], ("2", "9", "10"), [2, 1, 0]),
        (["1", "0", "2"], None, [1, 0, 2]),
        ([26, 1, 4], ("1", "4", "26"), [2, 0, 1]),
        ([2.0, 0.0, 1.0], None, [2, 0, 1]),
        ([True, False, True], None, [1, 0, 1]),
    ],
)
def test_labels_become_classes(labels, names, first, tmp_path):
    read = files.read(npz(tmp_path, images=pictures(), labels=np.tile(labels, 12)))
    assert read.class_names == names
    assert read.train.labels[:3].tolist() == first
    assert not read.in_order


@pytest.mark.parametrize("dtype", [object, np.dtypes.StringDType()])  # the former as a column of pandas
def test_strings_are_labels_in_any_array(dtype):
    labels = np.array(["b", "ant", "c"] * 12, dtype)
    checked = arrays.check(arrays.Part(pictures(), labels, "mine"))
    assert checked.class_names == ("ant", "b", "c")
    assert checked.train.labels[:3].tolist() == [1, 0, 2]


@pytest.mark.parametrize("missing", [None, 3, float("nan")])
def test_objects_that_are_no_strings_are_no_labels(missing):
    labels = np.array(["b", missing, "c"] * 12, object)
    with pytest.raises(Fault, match="the labels of mine are of type object; accepted: strings, or whole"):
        arrays.check(arrays.Part(pictures(), labels, "mine"))


def test_classes_are_counted_over_all_splits(tmp_path):
    path = npz(tmp_path, x_train=pictures(), y_train=["b", "d"] * 18, x_test=pictures(8), y_test=["a", "e"] * 4)
    dataset = arrays.splits("mine", files.read(path))
    assert dataset.spec.class_names == ("a", "b", "d", "e")
    assert dataset.spec.num_classes == 4
    assert set(dataset.train.labels) | set(dataset.validation.labels) == {1, 2}
    assert set(dataset.test.labels) == {0, 3}


# Folders


def test_classes_may_lie_in_folders_of_folders_and_in_splits(tmp_path):
    for split in ("train", "test"):
        png_folder(tmp_path / split / "Greek", pictures(18), ["alpha", "beta"] * 9)
        png_folder(tmp_path / split / "Latin", pictures(18), ["a", "b"] * 9)
    read = files.read(tmp_path)
    assert read.class_names == ("Greek/alpha", "Greek/beta", "Latin/a", "Latin/b")
    assert np.bincount(read.train.labels).tolist() == np.bincount(read.test.labels).tolist() == [9, 9, 9, 9]


def test_a_folder_that_holds_all_others_is_no_class(tmp_path):
    png_folder(tmp_path / "archive" / "images", pictures(), classes())
    read = files.read(tmp_path)
    assert read.class_names is None
    np.testing.assert_array_equal(read.train.labels, classes())
    assert files.read(png_folder(tmp_path / "other" / "images", pictures())).train.labels is None
    assert files.read(tmp_path / "other").train.labels is None


def test_a_class_may_be_called_train(tmp_path):
    read = files.read(png_folder(tmp_path, pictures(), ["car", "plane", "train"] * 12))
    assert read.class_names == ("car", "plane", "train")
    assert read.test is None


def test_files_that_are_no_images_are_left_out(tmp_path):
    png_folder(tmp_path, pictures(), classes())
    for name in (".DS_Store", "0/._000.png", "Thumbs.db", "README.txt", "__MACOSX/0/000.png", ".cache/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"no image")
    (tmp_path / "folder.png").mkdir()
    np.testing.assert_array_equal(files.read(tmp_path).train.images, pictures())


def test_classes_may_be_links_to_folders(tmp_path):
    png_folder(tmp_path / "elsewhere", pictures()[18:])
    root = png_folder(tmp_path / "mine", pictures()[:18], ["a"] * 18)
    (root / "b").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "a" / "all").symlink_to(root, target_is_directory=True)  # a loop, which is left out
    (root / "latest").symlink_to(root / "a", target_is_directory=True)  # its images are there without it
    read = files.read(root)
    assert read.class_names == ("a", "b")
    assert np.bincount(read.train.labels).tolist() == [18, 18]
    np.testing.assert_array_equal(read.train.images, pictures())


def test_folder_that_may_not_be_read_is_passed_over_with_a_warning(tmp_path, monkeypatch):
    png_folder(tmp_path, pictures())
    read_folder = Path.iterdir

    def iterdir(self):
        if self.name == "lost+found":  # of root alone, on a volume
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return read_folder(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    for hidden in ("lost+found", ".Trash-0"):
        (tmp_path / hidden).mkdir()
    with pytest.warns(UserWarning, match=r"lost\+found is passed over, for there is no permission to read it"):
        np.testing.assert_array_equal(files.read(tmp_path).train.images, pictures())


def saved(file: Path, image: Image.Image, **options) -> np.ndarray:
    """What is read of a folder with this image alone, [H, W, C]."""
    image.save(file, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return files.read(file.parent).train.images[0]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_kind_of_png_is_read(mode, tmp_path):
    grey = pictures(1)[0]
    image = Image.fromarray(grey[..., 0])
    if mode == "1":
        grey = np.where(grey > 127, 255, 0)
        image = image.point(lambda value: 255 * (value > 127), "1")
    elif mode == "I;16":
        image = Image.fromarray(257 * grey[..., 0].astype(np.uint16))
    else:
        image = image.convert(mode)
    np.testing.assert_array_equal(saved(tmp_path / "a.png", image), grey)


def test_transparent_pixels_are_white(tmp_path):
    ink = np.zeros([8, 8, 4], np.uint8)  # black, as a glyph on a transparent ground is
    ink[2:4, :, 3] = 255
    ink[4:6, :, 3] = 102
    read = saved(tmp_path / "a.png", Image.fromarray(ink))
    assert read.shape == (8, 8, 1)
    np.testing.assert_array_equal(read[:, 0, 0], [255, 255, 0, 0, 153, 153, 255, 255])


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_files_are_read_upright(mode, tmp_path):
    image = Image.new("L", (16, 8), 0)
    image.paste(255, (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    read = saved(tmp_path / "a.JPG", image.convert(mode), format="JPEG", exif=exif, quality=95)
    assert read.shape == (16, 8, 1)
    assert read[:8].min() > 250
    assert read[8:].max() < 5


def test_jpeg_file_is_upright_whatever_else_its_exif_says(tmp_path):
    image = Image.new("L", (16, 8), 0)
    image.paste(255, (0, 0, 8, 8))
    orientation = struct.pack("<HHLHH", 0x0112, 3, 1, 6, 0)
    unit = struct.pack("<HHL4s", 0x0128, 2, 1, b"?")  # of the resolution: text, where a number is expected
    exif = b"Exif\0\0II*\0" + struct.pack("<LH", 8, 2) + orientation + unit + bytes(4)
    read = saved(tmp_path / "a.jpg", image, format="JPEG", exif=exif, quality=95)
    assert read.shape == (16, 8, 1)
    assert read[:8].min() > 250


def test_exif_that_breaks_off_turns_nothing(tmp_path):
    image = Image.new("L", (16, 8), 0)
    assert saved(tmp_path / "a.png", image, exif=b"Exif\0\0II*\0").shape == (8, 16, 1)


def test_resized_pixels_are_averages_over_areas(tmp_path):
    image = pictures(1, 21, 13)[0]
    exact = np.zeros([8, 8])
    for i in range(8 * 21):  # every pixel cut in 8 x 8
        for j in range(8 * 13):
            exact[i // 21, j // 13] += image[i // 8, j // 8, 0]
    exact = np.rint(exact / (21 * 13)).astype(np.uint8)
    with pytest.warns(UserWarning, match="images of 21 x 13 lose their proportions as they become 8 x 8"):
        resized = arrays.resize([image], 8, "mine")[0][..., 0]
    np.testing.assert_array_equal(resized, exact)
    colour = np.stack([image[..., 0], 255 - image[..., 0], 0 * image[..., 0]], axis=-1)
    with pytest.warns(UserWarning):
        np.testing.assert_array_equal(arrays.resize([colour], 8, "mine")[0][..., 0], exact)


def test_images_can_be_enlarged_and_resized_to_what_they_are():
    image = pictures(1, 8, 8)[0]
    np.testing.assert_array_equal(arrays.resize([image], 16, "")[0], image.repeat(2, axis=0).repeat(2, axis=1))
    np.testing.assert_array_equal(arrays.resize([image], 8, "")[0], image)


def test_omniglot_becomes_32_x_32_white_on_black(tmp_path):
    if not OMNIGLOT.exists():
        pytest.skip(f"{OMNIGLOT.name} is not in {OMNIGLOT.parent}")
    root = tmp_path / "characters"
    with zipfile.ZipFile(OMNIGLOT) as archive:
        names = [name for name in archive.namelist() if "/Early_Aramaic/" in name or "/Greek/character0" in name]
        archive.extractall(root, names)
    with pytest.raises(UsageError, match=r"105 x 105 .*accepted: 8 x 8 to 64 x 64.*--config.image_size=32"):
        files.read(root)
    with pytest.warns(UserWarning, match="--config.invert=true"):
        files.read(root, image_size=32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = arrays.splits(str(root), files.read(root, image_size=32, invert=True))
    assert dataset.spec.image_shape == (32, 32, 1)
    assert dataset.spec.num_classes == 22 + 9
    assert dataset.spec.class_names[0] == "Early_Aramaic/character01"
    assert dataset.spec.values == "grey"
    assert sum(len(split.images) for split in three(dataset)) == 20 * 31
    # Averages over areas keep what ink there is.
    originals = [np.asarray(Image.open(file)) for file in sorted(root.rglob("*.png"))]
    read = files.read(root, image_size=32, invert=True)
    ink = [1 - original.mean() for original in originals]
    np.testing.assert_allclose(read.train.images.mean((1, 2, 3)) / 255, ink, atol=0.5 / 255)


# Mistakes


def changed(values, place, value):
    values = values.copy()
    values[place] = value
    return values


def ragged():
    values = np.empty(2, object)
    values[:] = [np.zeros([8, 8]), np.zeros([9, 9])]
    return values


GREY = pictures(36, 10, 9)
MISTAKES_IN_NPZ = [
    # members of the file, error, what its message says
    (
        {"images": changed(GREY / 255, (3, 1, 1), np.nan)},
        Fault,
        "images in .*: image 3 holds NaN or infinity; accepted: ",
    ),
    ({"images": changed(GREY / 255, (4, 1, 1), np.inf)}, Fault, "image 4 holds NaN or infinity"),
    ({"images": GREY / 127.5 - 1}, Fault, r"from -1 to 1; accepted: .*: \(images \+ 1\) / 2 brings them there"),
    ({"images": 257 * GREY.astype(np.uint16)}, Fault, r"from 0 to 65535; .*: images / 65535 brings"),
    ({"images": GREY / 25.5}, Fault, "from 0 to 10; accepted: .*divide the images by the value of white"),
    (
        {"images": changed(GREY.astype(float), 7, GREY[7] / 255)},
        Fault,
        "image 7 of images in .* goes from 0 to 1 and other",
    ),
    (
        {"x_train": GREY, "x_test": GREY / 255},
        Fault,
        "image 0 of x_test in .* goes from 0 to 1 and other",
    ),
    ({"x_train": GREY, "x_test": GREY > 99}, Fault, "x_test in .* goes from 0 to 1 and other images to 255"),
    ({"images": GREY.astype(complex)}, Fault, "the values are of type complex128; accepted"),
    ({"images": GREY.astype(str)}, Fault, "the values are of type <U3; accepted"),
    ({"images": ragged()}, Fault, "images in .* is an array of Python objects, which is not loaded"),
    ({"images": GREY, "labels": ragged()}, Fault, "labels in .* is an array of Python objects, which is not loaded"),
    ({"images": np.uint8(3)}, Fault, "images in .* is not an array"),
    ({"images": GREY[:0]}, UsageError, ": there is none"),
    ({"images": GREY[:, :0]}, UsageError, r"images in .*: 0 x 9 pixels; accepted: 8 x 8 to 64 x 64"),
    ({"x_train": GREY, "x_test": GREY[:, :, :0, 0]}, UsageError, r"x_test in .*: 10 x 0 pixels; accepted: 8 x 8 to"),
    ({"images": GREY.reshape(36, 90)}, UsageError, r"\(36, 90\); accepted: .*reshape\(-1, height, width\)"),
    (
        {"images": GREY.reshape(-1, 81)},
        UsageError,
        r"\(40, 81\); accepted: .*reshape\(-1, 9, 9\) makes images of rows",
    ),
    ({"images": GREY.reshape(36, 1, 10, 9)}, UsageError, r"accepted: .*np.moveaxis\(images, 1, -1\)"),
    ({"images": pictures(channels=3).transpose(0, 3, 1, 2)}, UsageError, r"accepted: .*np.moveaxis\(images, 1, -1\)"),
    ({"images": pictures(channels=2)}, UsageError, r"accepted: .*: images\[..., :1\] leaves out transparency"),
    ({"images": pictures(channels=4)}, UsageError, r"accepted: .*: images\[..., :3\] leaves out transparency"),
    ({"images": pictures(channels=5)}, UsageError, r"the shape is \(36, 10, 9, 5\); accepted: \[N, H, W\], [^:]*$"),
    ({"images": pictures(height=7)}, UsageError, "7 x 9 pixels; accepted: 8 x 8 to 64 x 64; --config.image_size=32"),
    ({"images": pictures(width=65)}, UsageError, "10 x 65 pixels; accepted: 8 x 8 to 64 x 64; --config.image_size=32"),
    ({"x_train": GREY, "x_test": pictures(width=10)}, UsageError, "10 x 9 x 1 and those of x_test in .* 10 x 10 x 1"),
    ({"x_train": GREY, "x_test": pictures(channels=3)}, UsageError, "10 x 9 x 1 and those of x_test in .* 10 x 9 x 3"),
    ({"images": GREY, "labels": classes(35)}, Fault, "there are 36, and 35 labels; accepted: a label for each"),
    (
        {"images": GREY, "labels": classes() + 0.5},
        Fault,
        "hold 0.5 for image 0; accepted: strings, or whole numbers from 0",
    ),
    ({"images": GREY, "labels": changed(classes(), 5, -1)}, Fault, "hold -1 for image 5; accepted"),
    ({"images": GREY, "labels": changed(classes() * 1.0, 9, np.nan)}, Fault, "hold nan for image 9; accepted"),
    ({"images": GREY, "labels": changed(classes() * 1.0, 9, np.inf)}, Fault, "hold inf for image 9; accepted"),
    ({"images": GREY, "labels": np.eye(9)[classes()]}, Fault, r"\(36, 9\); accepted: .*np.argmax\(labels, axis=1\)"),
    ({"images": GREY, "labels": classes().astype(complex)}, Fault, "of type complex128; accepted"),
    (
        {"x_train": GREY, "y_train": classes(), "x_test": GREY},
        UsageError,
        "x_train in .* has labels and x_test in .* has none",
    ),
    (
        {"x_train": GREY, "y_train": classes(), "x_test": GREY, "y_test": ["a"] * 36},
        Fault,
        "partly numbers and partly str",
    ),
    ({"pixels": GREY, "target": classes()}, UsageError, "has the arrays pixels, target; accepted: x_train and perhaps"),
    ({}, UsageError, r"has the arrays \(none\); accepted: x_train"),
    ({"x_test": GREY}, UsageError, "has the arrays x_test; accepted: x_train"),
    (
        {"x_train": GREY, "x_val": GREY, "x_validation": GREY},
        UsageError,
        "has both val and validation; accepted: one of them",
    ),
]


@pytest.mark.parametrize(("members", "error", "message"), MISTAKES_IN_NPZ, ids=[row[2][:50] for row in MISTAKES_IN_NPZ])
def test_a_mistake_in_a_npz_file_gets_one_line(members, error, message, tmp_path):
    path = npz(tmp_path, **members)
    with pytest.raises(error, match=message) as raised:
        files.read(path)
    assert "\n" not in str(raised.value)
    assert "mine.npz" in str(raised.value)


def mistaken_path(folder: Path, mistake: str) -> Path:
    png = folder / "png" / "a" / "b.png"
    if mistake == "nowhere":
        return folder / "nowhere.npz"
    if mistake == "text":
        (folder / "mine.txt").write_text("images")
        return folder / "mine.txt"
    if mistake == "empty folder":
        png.parent.mkdir(parents=True)
        return folder / "png"
    if mistake == "other images":
        png_folder(folder / "png", GREY[:1])
        (folder / "png" / "000.png").rename(folder / "png" / "000.tif")
        return folder / "png"
    if mistake in ("no npz", "empty npz", "npy as npz"):
        file = folder / "mine.npz"
        file.write_bytes({"no npz": b"images", "empty npz": b""}.get(mistake, b""))
        if mistake == "npy as npz":
            with file.open("wb") as opened:
                np.save(opened, GREY)
        return file
    if mistake in ("cut npz", "damaged npz"):
        file = npz(folder, images=GREY)
        content = bytearray(file.read_bytes())
        content[1000] ^= 255
        file.write_bytes(content if mistake == "damaged npz" else content[:1000])
        return file
    if "idx" in mistake:
        file = idx(folder / "train-images-idx3-ubyte", GREY[..., 0])
        if mistake == "cut idx":
            file.write_bytes(file.read_bytes()[:500])
        elif mistake == "idx without sizes":
            file.write_bytes(file.read_bytes()[:7])
        elif mistake == "idx of floats":
            file.write_bytes(b"\0\0\x0d\3" + file.read_bytes()[4:])
        elif mistake == "cut idx.gz":
            file = idx(folder / "train-images-idx3-ubyte.gz", GREY[..., 0])
            file.write_bytes(file.read_bytes()[:500])
        elif mistake == "labels of another idx":
            idx(folder / "train-labels-idx1-ubyte", classes(30))
        elif mistake == "two idx":
            idx(folder / "letters-train-images-idx3-ubyte.gz", GREY[..., 0])
            return folder
        return file
    png_folder(folder / "png", GREY, ["a"] * 18 + ["c"] * 18)
    if mistake == "cut png":
        png.write_bytes((folder / "png" / "a" / "000.png").read_bytes()[:60])
    elif mistake == "no png":
        png.write_text("<html>")
    elif mistake == "large":
        Image.new("L", (70, 9)).save(folder / "png" / "a" / "000.png")
    elif mistake == "sizes":
        Image.new("L", (12, 11)).save(png)
    elif mistake == "loose":
        Image.new("L", (9, 10)).save(folder / "png" / "d.png")
    elif mistake == "beside splits":
        for name, new in (("a", "train"), ("c", "test")):
            (folder / "png" / name).rename(folder / "png" / new)
        png_folder(folder / "png" / "more", GREY)
    elif mistake == "two validations":
        for name, new in (("a", "val"), ("c", "validation")):
            (folder / "png" / name).rename(folder / "png" / new)
    return folder / "png"


MISTAKES = [
    ("nowhere", UsageError, "no file or folder .*nowhere.npz"),
    ("text", UsageError, "mine.txt is no data set; accepted: a .npz file with x_train"),
    ("empty folder", UsageError, "png holds no file .png, .jpg, .jpeg, and nothing else either; accepted"),
    ("other images", UsageError, "png holds no file .png, .jpg, .jpeg, but .tif; accepted"),
    ("no npz", Fault, r"mine.npz is not a .npz file, or damaged \(File is not a zip file\); accepted: what np.savez"),
    ("empty npz", Fault, "mine.npz is not a .npz file, or damaged"),
    ("npy as npz", Fault, "mine.npz is not a .npz file, or damaged"),
    ("cut npz", Fault, "mine.npz is not a .npz file, or damaged"),
    ("damaged npz", Fault, r"images in .*mine.npz is damaged \(Bad CRC-32"),
    ("cut idx", Fault, "train-images-idx3-ubyte is damaged: it holds 500 bytes, and 3256 by its header"),
    ("idx without sizes", Fault, "train-images-idx3-ubyte is damaged: it holds 7 bytes"),
    ("idx of floats", Fault, r"ubyte begins with .*\\r'; accepted: an IDX file of bytes"),
    ("cut idx.gz", Fault, r"ubyte.gz is damaged \(Compressed file ended"),
    ("labels of another idx", Fault, "ubyte: there are 36, and 30 labels; accepted"),
    (
        "two idx",
        UsageError,
        "accepted: the path of one of letters-train-images-idx3-ubyte.gz, train-images-idx3-ubyte$",
    ),
    ("cut png", Fault, r"a/b.png is damaged \(.*\); delete it"),
    ("no png", Fault, "a/b.png is not a PNG or JPEG image"),
    ("large", UsageError, "a/000.png: 9 x 70 pixels; accepted: 8 x 8 to 64 x 64; --config.image_size=32"),
    ("sizes", UsageError, "a/000.png is 10 x 9 and a/b.png is 11 x 12; accepted: one size; --config.image_size=32"),
    ("loose", UsageError, "png holds d.png, in no folder of a class, and a/000.png, in one; accepted: either for all"),
    ("beside splits", UsageError, "png holds test, train, and more beside them; accepted: images in train"),
    ("two validations", UsageError, "png has both val and validation; accepted: one of them"),
]


@pytest.mark.parametrize(("mistake", "error", "message"), MISTAKES, ids=[row[0] for row in MISTAKES])
def test_a_mistaken_path_gets_one_line(mistake, error, message, tmp_path):
    path = mistaken_path(tmp_path, mistake)
    with pytest.raises(error, match=message) as raised:
        files.read(path)
    assert "\n" not in str(raised.value)


def test_folder_of_different_sizes_can_be_resized(tmp_path):
    with pytest.warns(UserWarning, match="images of 10 x 9 lose their proportions"):
        read = files.read(mistaken_path(tmp_path, "sizes"), image_size=16)
    assert read.train.images.shape == (37, 16, 16, 1)


@pytest.mark.parametrize("image_size", [-1, 7, 65])
def test_image_size_out_of_range_is_refused(image_size, tmp_path):
    with pytest.raises(UsageError, match=f"image_size is {image_size}; accepted: 8 to 64, or 0"):
        files.read(written(tmp_path, "folder"), image_size=image_size)
    with pytest.raises(UsageError, match=f"image_size is {image_size}; accepted: 8 to 64, or 0"):
        arrays.check(arrays.Part(GREY, None, "mine"), image_size=image_size)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {"images": GREY[:13]},
            "images in .*: 13 images are too few; at least 14 .* a sixth makes the test and a sixth of",
        ),
        (
            {"x_train": GREY[:11], "x_test": GREY},
            "x_train in .*: 11 images are too few; at least 12 .* sixth makes the valid",
        ),
        (
            {"x_train": GREY[:11], "x_val": GREY},
            "x_train in .*: 11 images are too few; at least 12 .* a sixth makes the test",
        ),
        (
            {"x_test": GREY[:1], "x_train": GREY},
            "x_test in .*: 1 image is too few; at least 2 are needed, for the standard error of a score",
        ),
        (
            {"x_val": GREY[:1], "x_train": GREY, "x_test": GREY},
            "x_val in .*: 1 image is too few; at least 2 are needed",
        ),
    ],
)
def test_too_few_images_to_split_are_refused(members, message, tmp_path):
    read = files.read(npz(tmp_path, **members))
    with pytest.raises(UsageError, match=message):
        arrays.splits("mine", read)
    first = next(iter(members))
    more = files.read(npz(tmp_path, **members | {first: GREY[: len(members[first]) + 1]}))
    assert min(len(split.images) for split in three(arrays.splits("mine", more))) >= 2  # one has no standard error


@pytest.mark.parametrize("grey", [0, 200])
def test_images_that_show_nothing_are_no_training_images(grey, tmp_path):
    read = files.read(npz(tmp_path, x_train=0 * GREY + np.uint8(grey), x_test=GREY))
    with pytest.raises(Fault, match=f"x_train in .*: every pixel is {grey} of 255, so there is nothing to learn"):
        arrays.splits("mine", read)


@pytest.mark.parametrize(
    ("members", "invert", "message"),
    [
        ({"images": 255 - GREY}, False, "images in .*: the mean pixel is 0.67 of white, .*: --config.invert=true$"),
        ({"images": GREY}, True, "images in .*: the mean pixel is 0.67 of white, .*: --config.invert=false$"),
        ({"images": GREY, "labels": [3] * 36}, False, "images in .*: all images are of one class$"),
        ({"images": GREY // 3}, False, "images in .*: the brightest pixel is 85 of 255: if that is white, divide"),
        ({"images": GREY // 64}, False, "images in .*: no value is above 3, so 3 is taken as white, and not 255$"),
        ({"x_train": GREY, "x_tst": GREY}, False, "mine.npz: x_tst not used; used names: x_train"),
    ],
)
def test_what_is_probably_a_mistake_gets_a_warning(members, invert, message, tmp_path):
    with pytest.warns(UserWarning, match=message) as warned:
        files.read(npz(tmp_path, **members), invert=invert)
    assert len(warned) == 1


def test_what_is_no_mistake_gets_no_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files.read(written(tmp_path, "npz"))
        bright = np.stack([255 - GREY[..., 0], GREY[..., 0], 255 - GREY[..., 0]], axis=-1)
        files.read(npz(tmp_path, images=bright))  # colours have no ground to be light or dark
        files.read(npz(tmp_path, images=255 - GREY), invert=True)
        files.read(npz(tmp_path, images=changed(GREY.astype(float), 3, 0)))  # a black image is on any scale
