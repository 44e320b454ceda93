"""Models trained on full MNIST that come with the package, each in a file NAME.zip here:

run/           what a run's directory holds, without its weights
export/        what `genmnist export` wrote of it, without variables/
weights.npz    the weights of both: "0", "1", ... in their order; see `_rounded` and `_planes`

sha256.json holds the digests of these files.  One is unpacked when it is first asked for, into the user's cache.
"""

import contextlib
import functools
import hashlib
import io
import json
import os
import shutil
import stat
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_genmnist import config as configs
from keras_genmnist import files, runs
from keras_genmnist.errors import Fault, UsageError
from keras_genmnist.runs import Run

ZOO = Path(__file__).parent
RUN_FILES = ("config.json", "metrics.jsonl", "metrics.json")
SIZES = "sizes.json"  # beside what is unpacked: of each file
EPOCH = (1980, 1, 1, 0, 0, 0)  # of the files within: the same weights give the same bytes
# Of the 10 bits that a float16 has after its leading one: the others are a quarter of a file and no hundredth of a nat.
MANTISSA_BITS = 7


def names() -> list[str]:
    """The models that there are, sorted."""
    return sorted(_digests())


def require(name: str) -> str:
    """The digest of a pretrained model's file.

    Raises:
      UsageError: if there is none of that name.
    """
    digests = _digests()
    if name not in digests:
        raise UsageError(
            f"no pretrained model {name!r}{configs.suggest(name, list(digests))} There are: {', '.join(names())}"
        )
    return digests[name]


def run(name: str) -> Run:
    """The run of a pretrained model, in the user's cache.

    Raises:
      UsageError: if there is none of that name.
      Fault: if its file is damaged, or there is no room to unpack it.
    """
    return runs.load(_unpacked(name) / "runs" / name)


def export(name: str) -> Path:
    """The export of a pretrained model, as exports/NAME; see `run`."""
    return _unpacked(name) / "exports" / name


def rounded(run: Run, folder: Path) -> Run:
    """A run as it comes back from its file, in folder/NAME; export this one, so that the export is of the same weights.

    A GAN comes without its discriminator, which is zero.

    Args:
      run: a trained run that was evaluated.
      folder: where to write it.
    """
    workdir = folder / run.title
    workdir.mkdir(parents=True)
    for name in RUN_FILES:
        shutil.copy(run.workdir / name, workdir)
    model = runs.load_model(run)
    if discriminator := getattr(model, "discriminator", None):
        for weight in discriminator.weights:
            weight.assign(tf.zeros_like(weight))
    runs.save(_state([_rounded(weight.numpy()) for weight in model.weights]), workdir / "best", max_to_keep=1)
    return runs.load(workdir)


def pack(run: Run, version: Path) -> Path:
    """Writes NAME.zip, with the name of the run's directory.

    Args:
      run: a run of `rounded`.
      version: the directory of its export's version.
    Returns:
      The path of the file.
    """
    weights = [_planes(_rounded(weight.numpy())) for weight in runs.load_model(run).weights]
    stored = io.BytesIO()
    np.savez(stored, **{str(number): weight for number, weight in enumerate(weights)})
    told = {f"run/{name}": (run.workdir / name).read_bytes() for name in RUN_FILES}
    for path in sorted(version.rglob("*")):
        if path.is_file() and path.parent.name != "variables":
            told[f"export/{path.relative_to(version)}"] = path.read_bytes()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in (told | {"weights.npz": stored.getvalue()}).items():
            archive.writestr(zipfile.ZipInfo(name, EPOCH), data, zipfile.ZIP_LZMA)
    path = ZOO / f"{run.title}.zip"
    files.write(path, content.getvalue())
    digests = _digests() | {run.title: hashlib.sha256(content.getvalue()).hexdigest()}
    files.write_json(ZOO / "sha256.json", dict(sorted(digests.items())))
    return path


def _state(weights: list[np.ndarray]) -> tf.train.Checkpoint:
    """Of weights as packed; a SavedModel finds its variables by the same names as a run's model."""
    kept = [weight.astype(np.float32) if weight.dtype == np.float16 else weight for weight in weights]
    return tf.train.Checkpoint(weights=[tf.Variable(weight) for weight in kept])


def _rounded(weight: np.ndarray) -> np.ndarray:
    """float32 as float16 with MANTISSA_BITS; anything else as it is."""
    if weight.dtype != np.float32:
        return weight
    scale = np.exp2(np.frexp(weight)[1] - MANTISSA_BITS - 1.0)
    with np.errstate(over="ignore"):  # it is told below
        rounded = (np.round(weight / scale) * scale).astype(np.float16)
    if not np.isfinite(rounded).all():
        raise Fault("a weight is too large for float16")
    return rounded


def _planes(weight: np.ndarray) -> np.ndarray:
    """float16 [...] as its low bytes and its high ones, uint8 [2, ...], which compress better; all else as it is."""
    if weight.dtype != np.float16:
        return weight
    return np.moveaxis(weight.astype("<f2").reshape(*weight.shape, 1).view(np.uint8), -1, 0)


def _whole(stored: np.ndarray) -> np.ndarray:
    """What `_planes` made of a float16; all else as it is."""
    if stored.dtype != np.uint8:
        return stored
    return np.ascontiguousarray(np.moveaxis(stored, 0, -1)).view("<f2")[..., 0]


def _digests() -> dict[str, str]:
    path = ZOO / "sha256.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _unpacked(name: str) -> Path:
    """The folder that holds runs/NAME and exports/NAME/1."""
    digest = require(name)
    folder = _cache() / f"{name}-{digest[:12]}"
    if not _is_whole(folder):
        content = (ZOO / f"{name}.zip").read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise Fault(f"{ZOO / name}.zip is damaged: install the package again")
        with files.writing(folder), files.beside(folder.parent) as new:
            _unpack(name, content, new)
            sizes = {str(path.relative_to(new)): path.stat().st_size for path in new.rglob("*") if path.is_file()}
            files.write_json(new / SIZES, sizes)
            try:
                files.rename(new, folder)
            except OSError:
                if not _is_whole(folder):  # else another process was as fast
                    shutil.rmtree(folder, ignore_errors=True)  # what cannot be removed cannot be replaced either
                    files.rename(new, folder)
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether all that was unpacked into a folder is there, as long as it was; `evaluate` writes its own numbers."""
    try:
        sizes = json.loads((folder / SIZES).read_text())
        found = {path: (folder / path).stat().st_size for path in sizes}
        return all(found[path] == size or path.endswith("metrics.json") for path, size in sizes.items())
    except (AttributeError, OSError, ValueError):
        return False


def _unpack(name: str, content: bytes, folder: Path) -> None:
    run, version = folder / "runs" / name, folder / "exports" / name / "1"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.namelist():
            kind, _, path = member.partition("/")
            if path:
                target = (run if kind == "run" else version) / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(member))
        with np.load(io.BytesIO(archive.read("weights.npz"))) as stored:
            state = _state([_whole(stored[str(number)]) for number in range(len(stored))])
    runs.save(state, run / "best", max_to_keep=1)
    with files.literal(version) as literal:
        state.write(f"{literal}/variables/variables")


@functools.cache
def _cache() -> Path:
    """Where models are unpacked: below the user's cache or, where that cannot be written, the temporary folder."""
    folder = files.cache() / "pretrained"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        folder = Path(tempfile.gettempdir()) / f"genmnist-{os.getuid()}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        # Anyone may have made it, to have a model of theirs taken for ours.
        found = folder.lstat()
        is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
        return folder if is_ours else Path(tempfile.mkdtemp(prefix="genmnist-"))
