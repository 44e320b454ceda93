"""What the replicas of a model share in a training step: the draws and the means of the whole batch.

Each takes its rows of the same batch, the same number as any other.  With one device, a replica is all there is, and
nothing here changes what is computed.
"""

from collections.abc import Callable

import tensorflow as tf


def several() -> bool:
    """Whether what is being built, or run, is one of several replicas."""
    return tf.distribute.get_strategy().num_replicas_in_sync > 1


def _own() -> tf.distribute.ReplicaContext | None:
    """This one of several replicas; None where there is one, or where what is run is none of them."""
    return tf.distribute.get_replica_context() if several() else None


def rows(draw: Callable[[tf.Tensor | int], tf.Tensor], count: tf.Tensor | int, axis: int = 0) -> tf.Tensor:
    """This replica's rows of what is drawn for the whole batch: N replicas see the draws that one would.

    Args:
      draw: number of rows -> tensor with as many along `axis`.
      count: of this replica's rows.
      axis: along which the rows lie.
    """
    own = _own()
    if own is None:
        return draw(count)
    whole = draw(own.num_replicas_in_sync * count)
    return tf.gather(whole, own.replica_id_in_sync_group * count + tf.range(count), axis=axis)


def mean(value: tf.Tensor) -> tf.Tensor:
    """The mean over the replicas, with its gradient: of means over their rows, the mean over the whole batch."""
    own = _own()
    return value if own is None else own.all_reduce("MEAN", value)


def total(value: tf.Tensor) -> tf.Tensor:
    """The sum over the replicas."""
    own = _own()
    return value if own is None else own.all_reduce("SUM", value)


def all_rows(values: tf.Tensor) -> tf.Tensor:
    """The rows of all replicas, in the order of the whole batch: [B, ...] -> [N B, ...]."""
    own = _own()
    return values if own is None else own.all_gather(values, axis=0)


def picked(values: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """The rows of these numbers in the whole batch, int [K], wherever they are: [B, ...] -> [K, ...]."""
    own = _own()
    if own is None:
        return tf.gather(values, index)
    count = tf.shape(values, out_type=index.dtype)[0]
    place = index - tf.cast(own.replica_id_in_sync_group, index.dtype) * count
    here = (place >= 0) & (place < count)
    found = tf.gather(values, tf.clip_by_value(place, 0, count - 1))
    mask = tf.reshape(here, [-1] + [1] * (len(values.shape) - 1))
    return total(tf.where(mask, found, tf.zeros_like(found)))
