"""The average of trained PixelCNNs, place by place.

p(x) = prod{ sum{ s[m] p_m(x[i] | x[0], ..., x[i-1]) : m } : places i },  shares s >= 0 with sum 1

A mixture of the models, see mixture.py, has one sum over them for all of an image, so that no image is likelier than
under the model that is best for it.  Here each place has a sum of its own, and no such limit holds.
"""

from collections.abc import Sequence

from ml_collections import ConfigDict

from keras_genmnist.datasets.spec import DatasetSpec
from keras_genmnist.errors import UsageError
from keras_genmnist.models.base import TractableModel, components_of


def of(components: Sequence[TractableModel], shares: Sequence[float]) -> TractableModel:
    """The average of models that go through the same images in the same places.

    Raises:
      UsageError: if one does not say what each place is given those before it, is told the classes, or goes through
        images in other places or orders than the first.
    """
    for component in components:
        name = type(component).__name__
        if not hasattr(component, "averaged"):
            raise UsageError(f"a {name} does not say what each place is given those before it: give PixelCNNs")
        if component.takes_labels:
            raise UsageError(f"a {name} that is told the classes has no average: leave it out")
    if len({(type(component), getattr(component, "orders", 1)) for component in components}) > 1:
        raise UsageError("the models go through images in other orders: give those of one config.orders")
    return components[0].averaged(components[1:], shares)


def build(config: ConfigDict, spec: DatasetSpec) -> TractableModel:
    """The average of `config`: its `components` are configs, and its `shares` those of each; errors as of `of`."""
    return of(components_of(config, spec), config.shares)
