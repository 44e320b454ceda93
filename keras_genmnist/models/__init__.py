"""Models: one file each, found by its name, with `build(config, spec) -> GenerativeModel`."""

import importlib
import pkgutil

import tf_keras
from ml_collections import ConfigDict

from keras_genmnist import datasets, memory
from keras_genmnist.config import require_choice, require_numbers
from keras_genmnist.datasets.spec import DatasetSpec
from keras_genmnist.models.base import GenerativeModel


def names() -> list[str]:
    """The values `config.model` accepts, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def build(config: ConfigDict, spec: DatasetSpec | None = None) -> GenerativeModel:
    """The model of `config`, its variables made and initialised from config.seed.

    Args:
      config: what to build.
      spec: of the images that it is a model of; that of config.dataset by default.
    Raises:
      UsageError: if a config value is out of range, or the model does not fit in memory.
    """
    require_choice(config, model=names())
    require_numbers(config)
    tf_keras.utils.set_random_seed(config.seed)
    spec = spec or datasets.spec(config.dataset)
    with memory.variables_that_fit():
        model = importlib.import_module(f"{__name__}.{config.model}").build(config, spec)
        model.build_variables()
    return model
