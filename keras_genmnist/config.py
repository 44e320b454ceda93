"""Configs: a file configs/NAME.py with `get_config() -> ConfigDict` is what `--model=NAME` trains.

It may have `search() -> {field: values}`, what `genmnist tune` varies, see search/space.py.

So is a file of the user's own, by its path; a model of the user's own stands in it as `build(config, spec)`.
"""

import difflib
import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from keras_genmnist.errors import UsageError

SMALLEST, LARGEST = 1.2e-38, 3.4e38  # of float32, in which everything is computed: beyond are 0 and infinity
# Layers and steps are each built, or run, by themselves; maps come at every place of an image, and the masks of a flow
# are squares.  Whether the units of other fields fit in memory is found out when the model is built.
MOST = {"_layers": 10**3, "_steps": 10**3, "_reflections": 10**3, "channels": 10**4, "features": 10**4}
MOST |= {"flow_size": 10**4, "prior_size": 10**4, "latent_size": 10**6, "": 10**9}
LARGEST_KERNEL = 55  # sees an image of 28 pixels from any of them

_PACKAGE = Path(__file__).parent
# Inside the package when installed as a wheel, beside it in a checkout.
_FOLDER = next((f for f in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if f.is_dir()), _PACKAGE / "configs")


def names() -> list[str]:
    """The names `--model` accepts, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.py"))


def load(name: str) -> ConfigDict:
    """The config `name`, unlocked values and all.

    Args:
      name: one of `names`, or the path of a file NAME.py.
    Raises:
      UsageError: if there is no such config, which suggests the nearest name, or the file cannot be run.
    """
    module = _module(name)
    if not hasattr(module, "get_config"):
        raise UsageError(f"{name} has no get_config(): give a file that returns a ConfigDict by it")
    config = module.get_config()
    if not isinstance(config, ConfigDict):
        raise UsageError(f"get_config() of {name} gives {config!r:.60}: return a ConfigDict, as config.training(...)")
    return config


def search(name: str) -> dict[str, str] | None:
    """What `genmnist tune` varies of the config `name`: its `search()`, {field: values}; None where it has none.

    Args:
      name: as of `load`.
    Raises:
      UsageError: as `load`.
    """
    found = getattr(_module(name), "search", None)
    return found and found()


def is_path(name: str) -> bool:
    """Whether a config is named by the path of a file."""
    return name.endswith(".py") or os.sep in name


def title(name: str) -> str:
    """What a run of the config is called: its name, or that of its file."""
    return Path(name).stem if is_path(name) else name


def builder(path: Path) -> Callable | None:
    """The `build` of a user's file, (config, spec) -> model, or None where it has none and config.model says which."""
    return getattr(_module(str(path)), "build", None)


def training(model: str, **fields) -> ConfigDict:
    """The fields that every training has, and `fields`: what a config of the user's own is made of.

    >>> from keras_genmnist import config
    >>> config.training("mine", latent_size=8, epochs=3).epochs
    3

    Args:
      model: what to call the model.
      fields: others of its own, or other values.
    """
    fields = {
        "dataset": "mnist",
        "image_size": 0,
        "invert": False,
        "binarization": "dynamic",
        "batch_size": 100,
        "epochs": 50,
        "learning_rate": 1e-3,
        "decay": "constant",
        "clip_norm": 0.0,
        "ema_decay": 0.0,
        "patience": 0,
        "jit_compile": False,
        "precision": "float32",
        "seed": 3435,
    } | fields
    return ConfigDict({"model": model, **fields})


def change(config: ConfigDict, **fields) -> ConfigDict:
    """Sets fields of a config.

    Raises:
      UsageError: naming a field that it does not have, with the nearest one, or a value of another type.
    """
    for field, value in fields.items():
        if field not in config:
            raise UsageError(
                f"unknown config field {field!r}{suggest(field, list(config))} Fields: {', '.join(sorted(config))}"
            )
        kind = type(config[field])
        if kind is float and type(value) is int:
            value = float(value)
        require_type(field, value, kind)
        config[field] = value
    return config


def require_type(field: str, value, kind: type) -> None:
    """Checks that a field's value is of the type of its default; see `require`."""
    if type(value) is not kind:
        names = {bool: "True or False", int: "a whole number", float: "a number", str: "a string"}
        raise UsageError(f"config.{field}={value!r} is not of the field's type: give {names.get(kind, kind.__name__)}")


def based_on(name: str, **changes) -> ConfigDict:
    """The config `name` with some values changed; raises UsageError as `change` does."""
    return change(load(name), **changes)


def description(name: str) -> str:
    """The first line of the config's docstring: what it is and its paper."""
    return _module(name).__doc__.splitlines()[0]


def suggest(name: str, known: list[str]) -> str:
    """'; did you mean X?' where a known name is near, or is longer, else a full stop."""
    longer = [other for other in known if len(name) > 2 and other.startswith(f"{name.lower()}_")]
    near = longer or difflib.get_close_matches(name.lower(), known, n=1)
    return f"; did you mean {near[0]}?" if near else "."


def _module(name: str):
    if is_path(name):
        return _user_module(Path(name))
    if name not in names():
        raise UsageError(f"unknown model {name!r}{suggest(name, names())} Models: {', '.join(names())}")
    spec = importlib.util.spec_from_file_location(f"keras_genmnist.configs.{name}", _FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _user_module(path: Path):
    if path.suffix != ".py":
        raise UsageError(f"{path} is no Python file: give the path of one, which ends in .py")
    try:
        spec = importlib.util.spec_from_file_location(f"keras_genmnist.own.{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except FileNotFoundError as error:
        raise UsageError(f"no config {path}: give one of {', '.join(names())}, or the path of a file") from error
    except Exception as error:  # whatever the user's own code raises
        raise UsageError(
            f"{path} cannot be run ({type(error).__name__}: {' '.join(str(error).split()):.200})"
        ) from error
    return module


def require(config: ConfigDict, field: str, holds: bool, accepted: str) -> None:
    """Checks that a field is in its range.

    Args:
      config: the config.
      field: name of the field.
      holds: whether its value is accepted.
      accepted: the values accepted, in words.
    Raises:
      UsageError: naming the field, the value given and the values accepted.
    """
    if not holds:
        raise UsageError(f"config.{field}={config[field]} is out of range: give {accepted}")


def require_numbers(config: ConfigDict) -> None:
    """Checks that no whole number is too large, and no other so small that float32 makes it 0; see `require`.

    Raises:
      UsageError: also for a field that is neither text nor a number nor a truth value, as config.json has no other.
    """
    for field, value in config.items():
        if not isinstance(value, str | int | float) and "components" not in config:
            kind = "None" if value is None else f"a {type(value).__name__}"
            raise UsageError(f"config.{field} is {kind}: give text, a number, True or False, or several fields")
        if isinstance(value, float):
            require(config, field, not 0 < abs(value) < SMALLEST, f"0, or no less than {SMALLEST} in size")
        elif isinstance(value, int):
            require(config, field, value < 2**31, "2147483647 or less")


def require_positive(config: ConfigDict, *fields: str) -> None:
    """Checks that whole-number fields are at least 1, and no more than can be meant; see `require`."""
    for field in fields:
        most = next(most for end, most in MOST.items() if field.endswith(end))
        whole = isinstance(config[field], int)  # a file edited by hand may say anything
        require(config, field, whole and 1 <= config[field] <= most, f"a whole number, 1 or more, at most {most}")


def require_finite(config: ConfigDict, *fields: str) -> None:
    """Checks that fields of which 0 means none are finite and not below 0; see `require`."""
    for field in fields:
        require(config, field, 0 <= config[field] <= LARGEST, "0 (none) or more, finite")  # so that nan is refused too


def require_kernel(config: ConfigDict, *fields: str) -> None:
    """Checks that kernel sizes have a centre and something around it, within the image; see `require`."""
    for field in fields:
        fits = 3 <= config[field] <= LARGEST_KERNEL and config[field] % 2 == 1
        require(config, field, fits, f"an odd number, 3 to {LARGEST_KERNEL}")


def require_choice(config: ConfigDict, **choices) -> None:
    """Checks that `config.field` is one of the values given for it.

    Raises:
      UsageError: naming the field, the value given and the values accepted.
    """
    for field, accepted in choices.items():
        value = config[field]
        if value not in accepted:
            near = suggest(str(value), [str(a) for a in accepted])
            raise UsageError(f"config.{field}={value!r} is not known{near} Accepted: {', '.join(map(str, accepted))}")


def require_fit(config: ConfigDict, other: str, **choices) -> None:
    """Checks that `config.field` is one of the values that go with that of the field `other`.

    Raises:
      UsageError: naming both fields, their values and the values accepted.
    """
    for field, accepted in choices.items():
        if config[field] not in accepted:
            raise UsageError(
                f"config.{field}={config[field]!r} does not go with config.{other}={config[other]!r}: "
                f"give {', '.join(map(str, accepted))}"
            )


def require_objective(config: ConfigDict) -> None:
    """Checks what changes the cost of the KL: `free_bits`, `beta` and `capacity`; see `require` and `require_fit`."""
    require_finite(config, "free_bits", "capacity")
    require(config, "beta", 0 < config.beta <= LARGEST, "a value above 0, finite")
    if config.capacity:
        require_fit(config, "capacity", free_bits=[0.0])
    for field, usual in (("free_bits", 0.0), ("beta", 1.0), ("capacity", 0.0)):
        if config[field] != usual:
            require_fit(config, field, bound=["elbo"])  # the weights of the IWAE bound have no KL to weigh or to spare


def require_labels(config: ConfigDict, dataset: str, num_classes: int | None) -> int:
    """The number of classes that the model is told, 0 for none.

    Args:
      config: the config.
      dataset: the name of the data set.
      num_classes: of its labels; None where there are none.
    Raises:
      UsageError: if `config.class_conditional` wants labels and there are none.
    """
    if not config.class_conditional:
        return 0
    if not num_classes:
        raise UsageError(
            f"config.class_conditional=True learns from labels, {dataset} has none: give another config.dataset"
        )
    return num_classes


def require_likelihood(config: ConfigDict, values: str, of_bits: Sequence[str] = ("bernoulli", "pixelcnn")) -> None:
    """Checks that `config.decoder` has a likelihood of the pixels that `config.binarization` makes.

    Args:
      config: the config.
      values: of the data set's images, "binary" or "grey".
      of_bits: the decoders that have a likelihood of bits.
    Raises:
      UsageError: naming two fields that do not go together, their values and the values accepted.
    """
    if values == "binary":
        bits = ["dynamic", "static", "threshold"]
        require_fit(config, "dataset", decoder=of_bits, binarization=bits)
    elif config.decoder == "logistic":
        require_fit(config, "decoder", binarization=["none"])
    elif config.binarization == "none":
        require_fit(config, "binarization", decoder=["logistic"])
