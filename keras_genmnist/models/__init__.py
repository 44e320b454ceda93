"""Models: one file each, found by its name, with `build(config, spec) -> GenerativeModel`."""

import importlib
import pkgutil
from collections.abc import Callable

import tensorflow as tf
import tf_keras
from ml_collections import ConfigDict

from keras_genmnist import config as configs
from keras_genmnist import datasets, memory, precision
from keras_genmnist.config import require_choice, require_numbers
from keras_genmnist.datasets.spec import DatasetSpec
from keras_genmnist.errors import UsageError
from keras_genmnist.models.base import GenerativeModel


def names() -> list[str]:
    """The values `config.model` accepts, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def build(
    config: ConfigDict | str,
    spec: DatasetSpec | None = None,
    builder: Callable | None = None,
    **fields: bool | int | float | str,
) -> GenerativeModel:
    """The model of `config`, its variables made and initialised from config.seed.

    >>> import keras_genmnist as gm
    >>> model = gm.models.build("vae", gm.datasets.spec("mnist"), latent_size=2, hidden_size=8)
    >>> model.sample(3, seed=1)["images"].shape
    TensorShape([3, 28, 28, 1])

    Args:
      config: what to build, or the name of a config: see `genmnist list`.
      spec: of the images that it is a model of; that of config.dataset by default.
      builder: (config, spec) -> model, of a model of the user's own; by default that of models/NAME.py, with the name
        that config.model says.
      fields: other values of the config's fields.
    Raises:
      UsageError: if a config value is out of range, the model does not fit in memory, or `builder` gives none.
    """
    if isinstance(spec, datasets.Dataset):
        raise UsageError(f"spec is {spec!r}: give what its images are, its .spec")
    config = configs.load(config) if isinstance(config, str) else config.copy_and_resolve_references()
    configs.change(config, **fields)
    if builder is None:
        require_choice(config, model=names())
    make = builder or importlib.import_module(f"{__name__}.{config.model}").build
    require_numbers(config)
    require_choice(config, precision=precision.PRECISIONS)
    tf_keras.utils.set_random_seed(config.seed)
    spec = spec or datasets.spec(config.dataset)
    if spec is None:
        raise UsageError(f"{config.dataset} is not a data set with a name: give the spec of its images")
    with memory.variables_that_fit(), precision.of_networks(config.precision):
        model = make(config, spec)
        if not isinstance(model, GenerativeModel):
            raise UsageError(f"build(config, spec) of {config.model} gives {model!r:.60}: return a GenerativeModel")
        model.build_variables()
    if builder is None:
        _without_autograph(model)
    model.built = True  # so that `summary` and `save_weights` know
    return model


def _without_autograph(model: GenerativeModel) -> None:
    """Leaves the model's Python as it is written, also where tf_keras traces its steps, as `fit` does."""
    model.autograph = False
    for step in ("train_step", "test_step", "predict_step"):
        setattr(model, step, tf.autograph.experimental.do_not_convert(getattr(model, step)))
