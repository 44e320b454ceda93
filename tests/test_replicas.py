"""What replicas share: each has its rows of what one device would have."""

import numpy as np
import tensorflow as tf

from keras_genmnist import bounds, cluster, replicas

VALUES = tf.random.stateless_normal([8, 3], [1, 2]) + tf.constant([0.0, 0.0, 3.0])


def of_both(function) -> list[np.ndarray]:
    """What `function`, of a replica's rows of VALUES, gives in each of two replicas."""
    strategy = cluster.strategy("cpu:2", None, None, 8)
    given = strategy.experimental_distribute_values_from_function(
        lambda c: VALUES[4 * c.replica_id_in_sync_group : 4 * c.replica_id_in_sync_group + 4]
    )
    found = tf.function(lambda x: strategy.run(function, (x,)))(given)
    return [part.numpy() for part in strategy.experimental_local_results(found)]


def test_rows_are_those_of_the_draw_of_the_whole_batch():
    def draw(count):
        return tf.random.stateless_uniform([2, count, 3], [3, 4])

    found = of_both(lambda x: replicas.rows(draw, tf.shape(x)[0], axis=1))
    np.testing.assert_array_equal(np.concatenate(found, axis=1), draw(8))
    np.testing.assert_array_equal(replicas.rows(draw, 8, axis=1), draw(8))


def test_sums_means_and_picked_rows_are_those_of_the_whole_batch():
    index = tf.constant([7, 0, 3, 4, 4])
    for found in of_both(lambda x: replicas.picked(x, index)):
        np.testing.assert_array_equal(found, tf.gather(VALUES, index))
    for found in of_both(replicas.all_rows):
        np.testing.assert_array_equal(found, VALUES)
    for found in of_both(lambda x: replicas.mean(tf.reduce_mean(x, axis=0))):
        np.testing.assert_allclose(found, tf.reduce_mean(VALUES, axis=0), rtol=1e-5)
    for found in of_both(lambda x: replicas.total(tf.reduce_sum(x, axis=0))):
        np.testing.assert_allclose(found, tf.reduce_sum(VALUES, axis=0), rtol=1e-5)


def test_capacity_and_free_bits_are_of_the_mean_over_the_whole_batch():
    def objective(x, **options):
        terms = bounds.LogTerms(x[None, :, 0], x[None, :, 1], x[None, :, 2])
        return bounds.Objective(**options)(terms)

    kl = float(tf.reduce_mean(VALUES[:, 2] - VALUES[:, 1]))
    # Between the mean of all and that of the rows of one: these alone would say otherwise.
    halves = [float(tf.reduce_mean(half[:, 2] - half[:, 1])) for half in (VALUES[:4], VALUES[4:])]
    assert min(halves) < kl < max(halves)
    between = (kl + max(halves)) / 2
    assert between > 0
    for options in ({"capacity": between}, {"free_bits": between}):
        found = of_both(lambda x, options=options: objective(x, **options))
        np.testing.assert_allclose(np.concatenate(found), objective(VALUES, **options), rtol=1e-5)
