"""What moves the weights in training: Adam, or Muon for matrices and Adam for the rest.

Each replica gives the gradient of the mean over its rows of the batch, and all move their weights by the mean of these.

Sources: Kingma & Ba (2015), "Adam", arxiv.org/abs/1412.6980; Jordan et al. (2024), "Muon: An optimizer for hidden
layers in neural networks", kellerjordan.github.io/posts/muon; Liu et al. (2025), "Muon is Scalable for LLM Training",
arxiv.org/abs/2502.16982
"""

import math

import tensorflow as tf
import tf_keras

NARROWEST = 16  # rows and columns of a matrix that Muon moves: what is smaller is hardly a matrix
MOMENTUM = 0.95
ITERATIONS = 5
SMALLEST = 1e-7  # norm of a momentum that moves a matrix by a whole step
COEFFICIENTS = 3.4445, -4.7750, 2.0315  # of Jordan et al.: fast, and close to orthogonal rather than orthogonal
RMS = 0.2  # of an update at a rate of 1, as Adam's is: Liu et al., section 2.2


class Adam(tf_keras.optimizers.Adam):
    """Adam that changes a weight by one operation; by the dozen of tf_keras it is half of a small network's step."""

    def update_step(self, gradient, variable):
        number = self._index_dict[self._var_key(variable)]
        step = tf.cast(self.iterations + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[number].handle,
            v=self._velocities[number].handle,
            beta1_power=tf.pow(tf.cast(self.beta_1, variable.dtype), step),
            beta2_power=tf.pow(tf.cast(self.beta_2, variable.dtype), step),
            lr=tf.cast(self.learning_rate, variable.dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tf.convert_to_tensor(gradient),
        )

    def _use_weight_decay(self, variable):
        return variable.shape.rank >= 2  # no biases and scales

    def aggregate_gradients(self, grads_and_vars):
        # A constraint here is the mask of a masked network (see flows.py), whose gradient reaches weights that do not
        # exist: the norm of the gradient may not have them in it.
        grads_and_vars = [
            (g if g is None or v.constraint is None else v.constraint(tf.convert_to_tensor(g)), v)
            for g, v in grads_and_vars
        ]
        count = tf.distribute.get_strategy().num_replicas_in_sync
        if count > 1:
            grads_and_vars = [(None if g is None else tf.convert_to_tensor(g) / count, v) for g, v in grads_and_vars]
        return super().aggregate_gradients(grads_and_vars)


class Muon(Adam):
    """Moves a matrix by its momentum made orthogonal, so by as much in each direction, and other weights as Adam does.

    The kernel of a convolution is the matrix of what it multiplies at one place.  The learning rate is of the size of
    Adam's.  The first and the last layer are moved so too if they have NARROWEST rows and columns;
    Jordan et al. leave them to Adam.  Masked kernels go to Adam: moved as far where there is hardly any gradient, the
    gates of an inverse autoregressive flow close within 300 steps, and nothing opens them again.

    Source: Jordan et al.; its size as in Liu et al., section 2.2
    """

    def update_step(self, gradient, variable):
        if not is_matrix(variable):
            super().update_step(gradient, variable)
            return
        gradient = tf.convert_to_tensor(gradient)
        momentum = self._momentums[self._index_dict[self._var_key(variable)]]
        momentum.assign(MOMENTUM * momentum + (1 - MOMENTUM) * gradient)
        ahead = MOMENTUM * momentum + (1 - MOMENTUM) * gradient  # of Nesterov
        update = orthogonal(tf.reshape(ahead, [-1, ahead.shape[-1]]))
        rate = tf.cast(self.learning_rate, variable.dtype) * RMS * math.sqrt(max(update.shape))
        variable.assign_sub(rate * tf.reshape(update, variable.shape))


def is_matrix(variable: tf.Variable) -> bool:
    """Whether Muon moves it."""
    if variable.shape.rank < 2 or variable.constraint is not None:
        return False
    return min(math.prod(variable.shape[:-1]), variable.shape[-1]) >= NARROWEST


def orthogonal(matrix: tf.Tensor) -> tf.Tensor:
    """About U V^T of the singular value decomposition U S V^T of a matrix, by iterations of Newton and Schulz.

    Args:
      matrix: [N, M], of rank min(N, M).
    Returns:
      [N, M], of the same singular vectors, and of singular values between 0.68 and 1.21, but for those that were below
      2e-3 of the norm, which are smaller.  All are where the norm is below SMALLEST.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    found = tf.transpose(matrix) if tall else matrix
    # What is left of a momentum since its gradient became 0 is no direction, and the square of 1e-20 is 0.
    found /= tf.maximum(tf.norm(found), SMALLEST)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        square = tf.matmul(found, found, transpose_b=True)
        found = a * found + tf.matmul(b * square + c * tf.matmul(square, square), found)
    return tf.transpose(found) if tall else found


OPTIMIZERS = {"adam": Adam, "muon": Muon}
