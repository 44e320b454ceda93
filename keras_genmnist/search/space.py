"""What a search may change: for each field of a config, a range or a choice of values.

A space is written `latent_size:8..64,learning_rate:1e-4..5e-3:log,norm:none|batch|layer`.
"""

import math
from typing import NamedTuple

from ml_collections import ConfigDict

from keras_genmnist import config as configs
from keras_genmnist.errors import UsageError

# What would make the scores of two trials another quantity, as `orders`, of which training scores one alone, and
# `times`, over which `loss` is a mean; and what the search sets itself.
FIXED = (
    *("model", "dataset", "image_size", "invert", "binarization", "class_conditional", "epochs"),
    *("orders", "pixelcnn_orders", "times"),
)
FORMS = "LOW..HIGH, LOW..HIGH:log, LOW..HIGH:STEP or A|B|C"


class Range(NamedTuple):
    """Numbers from `low` to `high`, both included: evenly, evenly in their logarithm, or in steps from `low`."""

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None

    @property
    def ends(self) -> tuple:
        """The values that tell whether all are accepted."""
        return self.low, self.high


class Choice(NamedTuple):
    """One of these values."""

    values: tuple

    @property
    def ends(self) -> tuple:
        """The values that tell whether all are accepted."""
        return self.values


Space = dict[str, Range | Choice]


def written(text: str) -> dict[str, str]:
    """What `--search` says, field by field: "a:1..2,b:x|y" is {"a": "1..2", "b": "x|y"}.

    Raises:
      UsageError: if a part of it has no field, or a field comes twice.
    """
    found = {}
    for part in text.split(","):
        field, colon, values = (word.strip() for word in part.partition(":"))
        if not colon or not field:
            raise UsageError(f"--search has {part.strip()!r}: give FIELD:VALUES, where VALUES are {FORMS}")
        if field in found:
            raise UsageError(f"--search has {field} twice: give each field once")
        found[field] = values
    return found


def parse(values: dict[str, str], config: ConfigDict) -> Space:
    """The space that is written so, for a config of these fields.

    >>> parse({"latent_size": "8..64", "norm": "none|batch"}, ConfigDict({"latent_size": 40, "norm": "batch"}))
    {'latent_size': Range(low=8, high=64, log=False, step=None), 'norm': Choice(values=('none', 'batch'))}

    Args:
      values: field -> values, as `written` has them.
      config: the config whose fields they are.
    Raises:
      UsageError: naming the field, what is wrong with it, and what is accepted.
    """
    if not values:
        raise UsageError(f"the search has no field: give --search=FIELD:VALUES, where VALUES are {FORMS}")
    for field, text in values.items():
        if not isinstance(text, str):
            raise UsageError(f"the search has {field}: {text!r}; give a string, {FORMS}")
        if field in FIXED:
            raise UsageError(f"--search={field}:... would give scores that do not compare: leave {field} out")
        if field not in config:
            near = configs.suggest(field, list(config))
            raise UsageError(f"unknown config field {field!r} in --search{near} Fields: {', '.join(sorted(config))}")
    return {field: _parsed(field, text, type(config[field])) for field, text in values.items()}


def _parsed(field: str, text: str, kind: type) -> Range | Choice:
    said = f"--search={field}:{text}"
    bounds, _, manner = text.partition(":")
    if ".." not in bounds:
        values = tuple(_value(word, kind, said) for word in text.split("|"))
        if len(set(values)) < max(2, len(values)):
            raise UsageError(f"{said} is no choice: give {FORMS}, with different values")
        return Choice(values)
    if kind not in (int, float):
        raise UsageError(f"{said} is a range, and config.{field} is {kind.__name__}: give A|B|C")
    low, high = (_value(word, kind, said) for word in bounds.split("..", 1))
    if not low < high:
        raise UsageError(f"{said} is upside down or empty: give LOW..HIGH with LOW below HIGH")
    if manner == "log":
        if low <= 0:
            raise UsageError(f"{said} has no logarithm at {low}: begin above 0, or leave out :log")
        return Range(low, high, log=True)
    step = _value(manner, kind, said) if manner else None
    if step is not None and not 0 < step <= high - low:
        raise UsageError(f"{said} has a step of {step}: give one above 0, at most {high - low}")
    return Range(low, high, step=step)


def _value(word: str, kind: type, said: str):
    """A value of a field of this type."""
    word = word.strip()
    try:
        if kind is bool:
            return {"true": True, "false": False}[word.lower()]
        value = kind(word)
        if kind is float and not math.isfinite(value):
            raise ValueError
        if not word:
            raise ValueError
    except (ValueError, KeyError):
        names = {bool: "true and false", int: "whole numbers", float: "finite numbers", str: "names"}
        raise UsageError(f"{said} has {word!r}, and the field takes {names[kind]}: give {FORMS}") from None
    return value


def default(name: str, config: ConfigDict) -> dict[str, str]:
    """The space of the config `name`: its `search()`, or else the learning rates and the batch size around its own."""
    if (own := configs.search(name)) is not None:
        return own
    rates = [field for field in config if field.endswith("learning_rate") and not field.startswith("refine")]
    around = {field: f"{config[field] / 10:.3g}..{config[field] * 10:.3g}:log" for field in rates}
    return around | {"batch_size": f"{max(1, config.batch_size // 2)}..{2 * config.batch_size}:log"}
