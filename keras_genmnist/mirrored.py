"""Several replicas of a model in training, each on a device of its own, in one process or in several.

Beside the model of the training there is one whose weights tf.distribute keeps on every device.  It takes the steps;
the training's own, on one device, is what is validated, drawn from and saved, as if there were no other.
"""

import contextlib
import operator
from collections.abc import Callable, Iterator

import tensorflow as tf
import tf_keras

from keras_genmnist import cluster, precision
from keras_genmnist.models import GenerativeModel

GO_ON, STOPPED, FAILED = 1, 0, -1  # what the first worker tells the others


class Mirrored:
    """A model and its optimizers on all devices of a strategy, alike on each."""

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        model: GenerativeModel,
        optimizers: dict[str, tf_keras.optimizers.Optimizer],
        make: Callable[[], tuple[GenerativeModel, dict[str, tf_keras.optimizers.Optimizer]]],
    ):
        """
        Args:
          strategy: of MirroredStrategy or MultiWorkerMirroredStrategy.
          model, optimizers: on one device.
          make: makes others like them.
        """
        self.strategy, self.model = strategy, model
        self.alone = len(cluster.workers(strategy)) == 1
        own = strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(context.replica_id_in_sync_group)
        )
        self.numbers = [int(number) for number in strategy.experimental_local_results(own)]  # of this process' replicas
        self._told = tf.function(lambda said: strategy.run(lambda: _summed([tf.identity(said)])[0]), autograph=False)
        with strategy.scope(), tf.variable_creator_scope(_of_the_first):
            self.replica, others = make()
        for metric in self.replica.metrics:
            metric.result = lambda: tf.constant(0.0)  # nobody reads it, and it would be exchanged after each step
        self.pairs = [*zip(model.weights, self.replica.weights, strict=True)]
        for name, optimizer in optimizers.items():
            self.pairs += zip(precision.state(optimizer), precision.state(others[name]), strict=True)
        self.sums = [
            pair
            for metric, other in zip(model.metrics, self.replica.metrics, strict=True)
            for pair in zip(metric.variables, other.variables, strict=True)
        ]

    @property
    def weights(self) -> list[tf.Variable]:
        """Of the first replica of this process."""
        return [self.strategy.experimental_local_results(weight)[0] for weight in self.replica.weights]

    def parts(self, make: Callable[[tuple[int, int]], Iterator]) -> Iterator:
        """What each replica of this process is given of batches.

        Args:
          make: (number, of how many) -> the batches' rows that the replica of this number takes.
        """
        count = self.strategy.num_replicas_in_sync
        for parts in zip(*(make((number, count)) for number in self.numbers), strict=True):
            given = dict(zip(self.numbers, parts, strict=True))
            yield self.strategy.experimental_distribute_values_from_function(
                lambda context, given=given: given[context.replica_id_in_sync_group]
            )

    def begin(self) -> None:
        """Gives every replica the state of the first worker's model and optimizers."""

        def take():
            first = _is_first()
            values = [tf.where(first, plain, tf.zeros_like(plain)) for plain, _ in self.pairs]
            for (_, mirrored), value in zip(self.pairs, _summed(values), strict=True):
                mirrored.assign(value)

        with self.together():
            tf.function(lambda: self.strategy.run(take), autograph=False)()

    def end(self) -> None:
        """Gives the training's own model and optimizers the state of the replicas."""
        for plain, mirrored in self.pairs:
            plain.assign(self.strategy.experimental_local_results(mirrored)[0])

    def steps(self, batches, first: tf.Tensor, end: tf.Tensor, after: Callable[[], None]) -> tf.Tensor:
        """A step on each of batches[first:end], and `after` each what else there is to do; whether all is finite.

        The metrics of the training's own model take in what those of the replicas have summed up.
        """
        for _, mirrored in self.sums:
            for part in self.strategy.experimental_local_results(mirrored):
                part.assign(tf.zeros_like(part))

        def step(position):
            def run(step):
                self.strategy.run(
                    lambda batches: step(tf.nest.map_structure(operator.itemgetter(position), batches)), (batches,)
                )

            self.replica.step_of_replicas(run)
            after()
            return [position + 1]

        with tf.control_dependencies(tf.while_loop(lambda position: position < end, step, [first])):
            found = self.strategy.run(lambda: _summed([tf.identity(mirrored) for _, mirrored in self.sums]))
        for (plain, _), value in zip(self.sums, found, strict=True):
            plain.assign_add(self.strategy.experimental_local_results(value)[0])
        return tf.reduce_all(tf.math.is_finite([metric.result() for metric in self.model.metrics]))

    def tell(self, order: int, steps: int = 0, stop: bool = False) -> tuple[int, int, bool]:
        """What all workers agree on before they go on.

        Args:
          order: GO_ON, STOPPED or FAILED; that of the first worker counts.
          steps: to be taken next; likewise.
          stop: whether this worker is asked to stop.
        Returns:
          The order, the steps, and whether any worker is asked to stop.
        """
        if self.alone:
            return order, steps, stop
        chief = cluster.is_chief(self.strategy)
        said = tf.constant([order * chief, steps * chief, stop], tf.int64)
        with self.together():
            found = self.strategy.experimental_local_results(self._told(said))[0]
        order, steps, stop = (int(number) for number in found // len(self.numbers))
        return order, steps, stop > 0

    def together(self) -> contextlib.AbstractContextManager[None]:
        """As `cluster.together`."""
        return cluster.together(self.strategy, "training stopped")


def _of_the_first(create: Callable, **given) -> tf.Variable:
    """A variable that replicas may assign to: all of them assign the same."""
    if given.get("aggregation") in (None, tf.VariableAggregation.NONE):
        given["aggregation"] = tf.VariableAggregation.ONLY_FIRST_REPLICA
    return create(**given)


def _is_first() -> tf.Tensor:
    return tf.equal(tf.distribute.get_replica_context().replica_id_in_sync_group, 0)


def _summed(values: list[tf.Tensor]) -> list[tf.Tensor]:
    replica = tf.distribute.get_replica_context()
    return [replica.all_reduce("SUM", value) for value in values]  # together they would have to be of one type
