"""Images of the user's own, from a path: a .npz file, a folder of PNG or JPEG files, or IDX files as MNIST ships."""

import gzip
import math
import os
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from keras_genmnist.datasets import arrays
from keras_genmnist.datasets.arrays import RESIZE, Arrays, Part
from keras_genmnist.errors import Fault, UsageError

SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
IMAGE_TYPES = (".png", ".jpg", ".jpeg")
IDX_IMAGES = re.compile(r"images([-.])idx\d-ubyte(\.gz)?$")
UPRIGHT = {  # by the orientation that EXIF tells
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
KEYS = "x_train and perhaps y_train, x_validation, y_validation, x_test, y_test; or images and perhaps labels"


def read(path: Path, image_size: int = 0, invert: bool = False) -> Arrays:
    """Reads images, with their labels and splits where the source has any; `arrays.splits` makes the others.

    - A .npz file: x_train, y_train, x_test, y_test as Keras has them, and x_validation, y_validation (or x_val, y_val);
      or images and labels.  All but the first are optional.  The images are [N, H, W], [N, H, W, 1] or [N, H, W, 3],
      of whole numbers from 0 to 255 or of numbers from 0 to 1.  Pickled objects are never loaded.
    - A folder of PNG or JPEG files, in the order of their names.  The folder that a file lies in is its class, unless
      all lie in the same.  If they all lie in train/, validation/ (or val/) and test/, these are the splits.
      Transparent images are laid on white.
    - The path of an IDX file such as train-images-idx3-ubyte.gz, or of a folder with one.  The labels and the test
      images (t10k-... or test-...) are taken from beside it, where they are.

    Args:
      path: of the file or the folder.
      image_size: the height and width that images are resized to; 0 leaves them as they are.
      invert: whether to exchange black and white.
    Raises:
      UsageError: if there is nothing that can be read at the path, or the images have a shape that is not accepted.
      Fault: if a file is damaged, or the values or the labels make no sense.
    """
    arrays.require_image_size(image_size)
    path = Path(path).expanduser()
    in_order = False
    if not path.exists():
        raise UsageError(f"no file or folder {path}")
    if path.is_dir() and (images := _idx_images_in(path)):
        parts = _idx(images)
    elif path.is_dir():
        parts, in_order = _folder(path, image_size), True
    elif path.suffix == ".npz":
        parts = _npz(path)
    elif IDX_IMAGES.search(path.name):
        parts = _idx(path)
    else:
        raise UsageError(
            f"{path.name} is no data set; accepted: a .npz file with {KEYS}; a folder of PNG or JPEG files; "
            "a file of IDX images such as train-images-idx3-ubyte.gz"
        )
    return arrays.check(**parts, image_size=image_size, invert=invert, in_order=in_order)


def _npz(path: Path) -> dict[str, Part]:
    # zipfile and NumPy raise a good part of what there is for a file that is no archive, or a damaged one.
    errors = (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)
    try:
        archive = zipfile.ZipFile(path)
        archive.close()
        file = np.load(path, allow_pickle=False)
    except errors as error:
        raise Fault(
            f"{path} is not a .npz file, or damaged ({_first_line(error)}); accepted: what np.savez writes"
        ) from error

    def array(key: str) -> np.ndarray:
        try:
            value = file[key]
        except errors as error:
            if "allow_pickle" in str(error):
                raise Fault(
                    f"{key} in {path} is an array of Python objects, which is not loaded; accepted: numbers, "
                    "or strings for labels: np.stack makes one array of images of one size"
                ) from error
            raise Fault(f"{key} in {path} is damaged ({_first_line(error)})") from error
        if not isinstance(value, np.ndarray) or value.ndim == 0:
            raise Fault(f"{key} in {path} is not an array")
        return value

    def part(images: str, labels: str) -> Part:
        return Part(array(images), array(labels) if labels in file.files else None, f"{images} in {path}")

    with file:
        splits = _splits({key.removeprefix("x_") for key in file.files if key.startswith("x_")}, path)
        if "train" in splits:
            keys = {split: (f"x_{name}", f"y_{name}") for split, name in splits.items()}
        elif "images" in file.files:
            keys = {"train": ("images", "labels")}
        else:
            raise UsageError(f"{path} has the arrays {', '.join(file.files) or '(none)'}; accepted: {KEYS}")
        if others := sorted(set(file.files) - {key for pair in keys.values() for key in pair}):
            warnings.warn(f"{path}: {', '.join(others)} not used; used names: {KEYS}", stacklevel=2)
        return {split: part(*pair) for split, pair in keys.items()}


def _splits(names: set[str], path: Path) -> dict[str, str]:
    """Those of `names` that stand for splits, by split."""
    found: dict[str, str] = {}
    for name in sorted(names & SPLITS.keys()):
        if SPLITS[name] in found:
            raise UsageError(f"{path} has both {found[SPLITS[name]]} and {name}; accepted: one of them")
        found[SPLITS[name]] = name
    return found


def _folder(root: Path, image_size: int) -> dict[str, Part]:
    places = _image_files(root)
    # An archive unpacks into a folder that holds all the others, and is no class.
    common = Path(os.path.commonpath([place.parent for place in places]))
    root, places = root / common, [place.relative_to(common) for place in places]
    splits = _by_split(root, places)
    decoded = dict(zip(places, _decoded(root, places, image_size), strict=True))
    parts = {}
    for split, (folder, own) in splits.items():
        classes = [place.parent.relative_to(folder).as_posix() for place in own]
        loose = [place for place, name in zip(own, classes, strict=True) if name == "."]
        if loose and len(loose) < len(own):
            inside = next(place for place, name in zip(own, classes, strict=True) if name != ".")
            raise UsageError(
                f"{root} holds {loose[0]}, in no folder of a class, and {inside}, in one; accepted: either for all"
            )
        labels = None if loose else np.array(classes)
        parts[split] = Part(np.stack([decoded[place] for place in own]), labels, str(root / folder))
    return parts


def _image_files(root: Path) -> list[Path]:
    """The places of image files below `root`, in an order that depends on nothing but their names."""
    places, others = [], set()
    for place in sorted((file.relative_to(root) for file in _below(root)), key=lambda place: place.parts):
        if not (root / place).is_file():
            continue
        if place.suffix.lower() in IMAGE_TYPES:
            places.append(place)
        else:
            others.add(place.suffix or place.name)
    if not places:
        found = f"but {', '.join(sorted(others)[:5])}" if others else "and nothing else either"
        raise UsageError(
            f"{root} holds no file {', '.join(IMAGE_TYPES)}, {found}; accepted: a folder of PNG or JPEG files"
        )
    return places


def _below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """The files below a folder, also through links to folders, but for those whose files are found without them."""
    above = (*above, folder.resolve())
    try:
        places = list(folder.iterdir())
    except PermissionError:
        if len(above) == 1:
            raise
        warnings.warn(f"{folder} is passed over, for there is no permission to read it", stacklevel=2)
        return
    for place in places:
        if place.name.startswith((".", "__MACOSX")):
            continue  # neither hidden ones nor what macOS leaves beside others: ._one.png, or __MACOSX of an archive
        if not place.is_dir():
            yield place
            continue
        target = place.resolve()
        if target not in above and not (place.is_symlink() and target.is_relative_to(above[0])):
            yield from _below(place, above)


def _by_split(root: Path, places: list[Path]) -> dict[str, tuple[Path, list[Path]]]:
    """Which files make which split, with the folder, below `root`, that classes are counted from."""
    tops = {place.parts[0] if len(place.parts) > 1 else place.name for place in places}
    splits = _splits(tops, root)
    if "train" not in splits or splits.keys() == {"train"} != tops:  # the latter: a class among others
        return {"train": (Path(), places)}
    if others := sorted(tops - SPLITS.keys()):
        raise UsageError(
            f"{root} holds {', '.join(splits.values())}, and {others[0]} beside them; accepted: images in "
            f"{', '.join(SPLITS)} alone, or in folders of other names, which are classes"
        )
    return {split: (Path(top), [place for place in places if place.parts[0] == top]) for split, top in splits.items()}


def _decoded(root: Path, places: list[Path], image_size: int) -> list[np.ndarray]:
    """The images, uint8 [H, W, C] of one shape."""
    images: Iterable[np.ndarray] = (_image(root / place) for place in places)
    if image_size:
        images = arrays.resize(images, image_size, str(root))
    result = []
    for place, image in zip(places, images, strict=True):
        result.append(image)
        arrays.require_size(image, str(root / place))
        if image.shape[:2] != result[0].shape[:2]:
            sizes = [" x ".join(map(str, each.shape[:2])) for each in (result[0], image)]
            raise UsageError(
                f"{root}: {places[0]} is {sizes[0]} and {place} is {sizes[1]}; accepted: one size; {RESIZE}"
            )
    if any(image.shape[2] == 3 for image in result):
        result = [np.broadcast_to(image, (*image.shape[:2], 3)) for image in result]
    return result


def _image(file: Path) -> np.ndarray:
    """A decoded PNG or JPEG file: uint8 [H, W, 1] or [H, W, 3], upright, transparency laid on white."""
    try:
        with Image.open(file, formats=("PNG", "JPEG")) as image:
            image.load()
            image = _upright(image)
    except UnidentifiedImageError as error:
        raise Fault(f"{file} is not a PNG or JPEG image; delete it, or save it as one") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Fault(f"{file} is damaged ({_first_line(error)}); delete it, or save it anew") from error
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip at 255
        return np.rint(np.asarray(image)[..., None] / 257).astype(np.uint8)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    image = image.convert("L" if image.mode in ("1", "L") else "RGB")
    return np.asarray(image).reshape(image.height, image.width, -1)


def _upright(image: Image.Image) -> Image.Image:
    """The image as EXIF tells to turn it, where that can be read: the pixels are whole without."""
    try:
        # Not ImageOps.exif_transpose, which rewrites all of EXIF and fails where any of it is odd.
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except (OSError, SyntaxError, ValueError, struct.error):
        orientation = None
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image.copy()


def _idx_images_in(folder: Path) -> Path | None:
    """The training images among the IDX files of a folder, or None where it has none."""
    found = {}  # by name without .gz: a file may be there twice, packed and unpacked
    for file in sorted(folder.iterdir()):
        if IDX_IMAGES.search(file.name) and "train" in file.name:
            found[file.name.removesuffix(".gz")] = file
    if len(found) > 1:
        names = ", ".join(sorted(file.name for file in found.values()))
        raise UsageError(f"{folder} holds the images of several data sets; accepted: the path of one of {names}")
    return next(iter(found.values()), None)


def _idx(images: Path) -> dict[str, Part]:
    def beside(name: str) -> Path | None:
        name = name.removesuffix(".gz")
        return next((file for file in (images.with_name(name), images.with_name(f"{name}.gz")) if file.is_file()), None)

    def part(file: Path) -> Part:
        labels = beside(re.sub(r"images([-.])idx\d", r"labels\1idx1", file.name))
        return Part(_idx_array(file), None if labels is None else _idx_array(labels), str(file))

    parts = {"train": part(images)}
    if "train" in images.name:
        for word in ("t10k", "test"):
            if test := beside(images.name.replace("train", word)):
                parts["test"] = part(test)
    return parts


def _idx_array(file: Path) -> np.ndarray:
    """The array of an IDX file: two zero bytes, the type, the rank, the sizes as big-endian uint32, and the values.

    Source: LeCun, Cortes & Burges, "The MNIST database of handwritten digits", section "File formats".
    """
    try:
        content = file.read_bytes()
        if file.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise Fault(f"{file} is damaged ({_first_line(error)})") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise Fault(f"{file} begins with {content[:3]!r}; accepted: an IDX file of bytes, so {bytes([0, 0, 8])!r}")
    rank = content[3]
    header = 4 + 4 * rank
    sizes = [int.from_bytes(content[place : place + 4], "big") for place in range(4, header, 4)]
    expected = header + math.prod(sizes)
    if len(content) != expected:
        raise Fault(f"{file} is damaged: it holds {len(content)} bytes, and {expected} by its header")
    return np.frombuffer(content, np.uint8, offset=header).reshape(sizes)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
