"""Mixed precision in training: the layers of networks compute in 16 bits; weights, densities and losses have 32.

Source: Micikevicius et al. (2018), "Mixed Precision Training", section 3, arxiv.org/abs/1710.03740
"""

import contextlib
import functools
from collections.abc import Callable, Iterator

import tensorflow as tf
import tf_keras
from tf_keras import mixed_precision

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
_policy = "float32"


@contextlib.contextmanager
def of_networks(policy: str) -> Iterator[None]:
    """Has each `network` that is made meanwhile compute by a policy, one of PRECISIONS."""
    global _policy
    before, _policy = _policy, policy
    try:
        yield
    finally:
        _policy = before


def network(make: Callable) -> Callable:
    """A function, or an __init__, that makes layers by the policy of networks.

    What they return may be of 16 bits.  A layer made elsewhere has 32, and casts what it is given.
    """

    @functools.wraps(make)
    def made(*args, **given):
        before = mixed_precision.global_policy()
        mixed_precision.set_global_policy(_policy)
        try:
            return make(*args, **given)
        finally:
            mixed_precision.set_global_policy(before)

    return made


def optimizer(inner: tf_keras.optimizers.Optimizer, policy: str) -> tf_keras.optimizers.Optimizer:
    """The optimizer of a training by this policy.

    Gradients below 6e-8 are 0 in float16, so there they are those of a multiple of the loss, the largest one at which
    none overflows; the step in which one does is left out.  The numbers of bfloat16 have the range of float32.
    """
    return mixed_precision.LossScaleOptimizer(inner) if policy == "mixed_float16" else inner


def gradients(tape: tf.GradientTape, loss: tf.Tensor, variables, *optimizers: tf_keras.optimizers.Optimizer):
    """The gradients of a loss, computed from the multiple of it that the optimizers ask for; see `optimizer`.

    Args:
      tape: of the loss.
      loss: [], float32.
      variables: any structure of them.
      optimizers: that apply the gradients.
    Returns:
      The same structure of gradients.
    """
    scales = [own.loss_scale for own in optimizers if isinstance(own, mixed_precision.LossScaleOptimizer)]
    if not scales:
        return tape.gradient(loss, variables)
    scale = tf.reduce_min(scales)
    found = tape.gradient(loss, variables, output_gradients=scale)
    return tf.nest.map_structure(lambda gradient: None if gradient is None else gradient / scale, found)


def state(optimizer: tf_keras.optimizers.Optimizer) -> list[tf.Variable]:
    """The variables of an optimizer, its learning rate, and the multiple of the loss."""
    own = [*optimizer.variables, optimizer.learning_rate]
    if isinstance(optimizer, mixed_precision.LossScaleOptimizer):
        own += [optimizer._loss_scale.current_loss_scale, optimizer.dynamic_counter]
    return own
