"""What a training leaves in its process: TensorFlow and TFP keep the graph of its step for good, up to 0.1 GB each."""

import contextlib
from collections.abc import Iterator

import tensorflow_probability as tfp
from tensorflow.python.framework import ops


@contextlib.contextmanager
def released() -> Iterator[None]:
    """Lets go of what is traced within, so that it goes with the last reference to it.

    Afterwards no gradient can be taken through a function that was traced within.  Nothing public does this.
    """
    # Where gradients have a function of their own, as those of each sum over replicas, each graph registers it anew.
    gradients = ops.gradient_registry._registry
    known = set(gradients)
    try:
        yield
    finally:
        for name in gradients.keys() - known:
            del gradients[name]
        # Its keys are weak references to tensors, but its values refer to the graph of these.
        computed = tfp.bijectors.Bijector._cache.storage
        for tensors in computed:
            tensors.cancel()  # else each would still remove itself
        computed.clear()
