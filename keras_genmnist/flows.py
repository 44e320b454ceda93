"""Normalizing flows: invertible maps of the latent space with a cheap log-determinant.

A posterior's flow is a callable from the encoder's features [B, H] to a bijector of its own for each image: cheap
forwards, which is the direction of `sample`.  A prior's flow is one bijector, or with a context [B, F] one for each
row: cheap backwards, that of `log_prob`.
"""

import math
from collections.abc import Callable

import tensorflow as tf
import tensorflow_probability as tfp
from tf_keras import layers

from keras_genmnist import networks

tfb = tfp.bijectors

MARGIN = 1e-3  # by which a constraint is kept, so that no determinant is 0
GATE_BIAS = 2.0  # sigmoid(2) = 0.88: an autoregressive step starts near the identity
MAX_LOG_SCALE = 3.0
SOFTPLUS_ONE = math.log(math.e - 1)  # softplus(SOFTPLUS_ONE) = 1


class Planar(tfb.Bijector):
    """f(z) = z + u tanh(w.z + b).  Cheap forwards; the inverse searches a root.

    w.u >= -1, which makes f invertible, by u^ = u + (m(w.u) - w.u) w / |w|^2.  Where the paper has
    m(a) = softplus(a) - 1, here m(a) = softplus(a + log(e - 1)) - 1: m(0) = 0, so u = 0 is the identity.

    Source: Rezende & Mohamed (2015), equations 10 to 12 and appendix A.1, arxiv.org/abs/1505.05770
    """

    def __init__(self, u: tf.Tensor, w: tf.Tensor, b: tf.Tensor, name: str = "planar"):
        """
        Args:
          u, w: [B, D].
          b: [B].
        """
        parameters = dict(locals())
        with tf.name_scope(name):
            wu = _dot(w, u)
            self.u = u + ((_above_minus_one(wu) - wu) / tf.maximum(_dot(w, w), 1e-12))[..., None] * w
            self.w, self.b, self.wu = w, b, _dot(w, self.u)
            super().__init__(forward_min_event_ndims=1, dtype=u.dtype, parameters=parameters, name=name)

    @classmethod
    def _parameter_properties(cls, dtype):
        vector = tfp.util.ParameterProperties(event_ndims=1)
        return {"u": vector, "w": vector, "b": tfp.util.ParameterProperties(event_ndims=0)}

    def _forward(self, z):
        return z + self.u * tf.tanh(_dot(self.w, z) + self.b)[..., None]

    def _forward_log_det_jacobian(self, z):
        return tf.math.log1p(self.wu * _tanh_slope(_dot(self.w, z) + self.b))

    def _inverse(self, y):
        wz = _solve(self.wu, 1.0, self.b, _dot(self.w, y))
        return y - self.u * tf.tanh(wz + self.b)[..., None]


class Radial(tfb.Bijector):
    """f(z) = z + beta (z - z0) / (alpha + |z - z0|).  Cheap both ways.

    alpha = softplus(a) > 0; beta = alpha (softplus(b + log(e - 1)) - 1) > -alpha, which makes f invertible; b = 0 is
    the identity.

    Source: Rezende & Mohamed (2015), equations 13 and 14 and appendix A.2, arxiv.org/abs/1505.05770
    """

    def __init__(self, z0: tf.Tensor, a: tf.Tensor, b: tf.Tensor, name: str = "radial"):
        """
        Args:
          z0: the centre, [B, D].
          a, b: [B].
        """
        parameters = dict(locals())
        with tf.name_scope(name):
            self.z0, self.alpha = z0, tf.nn.softplus(a) + MARGIN
            self.beta = self.alpha * _above_minus_one(b)
            super().__init__(forward_min_event_ndims=1, dtype=z0.dtype, parameters=parameters, name=name)

    @classmethod
    def _parameter_properties(cls, dtype):
        scalar = tfp.util.ParameterProperties(event_ndims=0)
        return {"z0": tfp.util.ParameterProperties(event_ndims=1), "a": scalar, "b": scalar}

    def _forward(self, z):
        return z + (self.beta / (self.alpha + _norm(z - self.z0)))[..., None] * (z - self.z0)

    def _forward_log_det_jacobian(self, z):
        h = 1 / (self.alpha + _norm(z - self.z0))
        across = tf.math.log1p(self.beta * h)  # D - 1 directions
        along = tf.math.log1p(self.beta * self.alpha * h**2)
        return (z.shape[-1] - 1) * across + along

    def _inverse(self, y):
        # |y - z0| = r + beta r / (alpha + r) is a quadratic equation of r = |z - z0|.
        far = _norm(y - self.z0)
        half = (self.alpha + self.beta - far) / 2
        root = tf.sqrt(half**2 + self.alpha * far)
        # The form without a difference of like numbers.
        r = tf.where(half > 0, self.alpha * far / (half + root), root - half)
        return self.z0 + (r / far)[..., None] * (y - self.z0)


class Sylvester(tfb.Bijector):
    """f(z) = z + Q R tanh(R~ Q^T z + b).  Cheap forwards; the inverse searches M roots, one after the other.

    Q has the first M columns of a product of H Householder reflections; R and R~ are upper triangular, and their
    diagonals, through tanh, lie in (-1, 1), which makes f invertible.  R = 0 is the identity.

    Source: van den Berg et al. (2018), equations 13 to 16 and section 4.2, arxiv.org/abs/1803.05649
    """

    def __init__(self, v: tf.Tensor, r: tf.Tensor, r_tilde: tf.Tensor, b: tf.Tensor, name: str = "sylvester"):
        """
        Args:
          v: normals of the reflections, [B, H, D].
          r, r_tilde: [B, M, M]; what is below the diagonal is not read.
          b: [B, M].
        """
        parameters = dict(locals())
        with tf.name_scope(name):
            self.normals = tf.unstack(v / _norm(v)[..., None], axis=-2)
            self.r, self.r_tilde = _triangular(r), _triangular(r_tilde)
            self.b, self.columns = b, b.shape[-1]
            super().__init__(forward_min_event_ndims=1, dtype=v.dtype, parameters=parameters, name=name)

    @classmethod
    def _parameter_properties(cls, dtype):
        matrix = tfp.util.ParameterProperties(event_ndims=2)
        return {"v": matrix, "r": matrix, "r_tilde": matrix, "b": tfp.util.ParameterProperties(event_ndims=1)}

    def _project(self, z):  # Q^T z
        for v in self.normals:
            z = z - 2 * _dot(v, z)[..., None] * v
        return z[..., : self.columns]

    def _lift(self, y):  # Q y
        zeros = [[0, 0]] * (y.shape.rank - 1)
        z = tf.pad(y, [*zeros, [0, self.normals[0].shape[-1] - self.columns]])
        for v in reversed(self.normals):
            z = z - 2 * _dot(v, z)[..., None] * v
        return z

    def _bend(self, y):  # R tanh(R~ y + b)
        return tf.linalg.matvec(self.r, tf.tanh(tf.linalg.matvec(self.r_tilde, y) + self.b))

    def _forward(self, z):
        return z + self._lift(self._bend(self._project(z)))

    def _forward_log_det_jacobian(self, z):
        slope = _tanh_slope(tf.linalg.matvec(self.r_tilde, self._project(z)) + self.b)
        diagonals = tf.linalg.diag_part(self.r) * tf.linalg.diag_part(self.r_tilde)
        return tf.reduce_sum(tf.math.log1p(slope * diagonals), axis=-1)

    def _inverse(self, z):
        target = self._project(z)
        y, h = [], []  # of the columns after i: triangular matrices read no others
        for i in reversed(range(self.columns)):
            row, row_tilde = (matrix[..., i, i + 1 :] for matrix in (self.r, self.r_tilde))
            later = _dot(row, tf.stack(h, axis=-1)) if h else 0.0
            shift = self.b[..., i] + (_dot(row_tilde, tf.stack(y, axis=-1)) if y else 0.0)
            here, scale = self.r[..., i, i], self.r_tilde[..., i, i]
            y.insert(0, _solve(here, scale, shift, target[..., i] - later))
            h.insert(0, tf.tanh(scale * y[0] + shift))
        return z - self._lift(self._bend(tf.stack(y, axis=-1)))


class PlanarFlow(tf.Module):
    """K planar maps whose parameters a layer reads off the features: features [B, H] -> bijector."""

    def __init__(self, steps: int, latent_size: int):
        super().__init__()
        self.steps, self.latent_size = steps, latent_size
        self.directions = layers.Dense(steps * latent_size, kernel_initializer="zeros")  # u = 0: the identity
        self.planes = layers.Dense(steps * (latent_size + 1))

    def __call__(self, features):
        # Over the root of K: the K displacements together then move as far at a step of the optimizer, whatever K.
        # Without it, K = 40 took the KL from 25 nats to thousands within an epoch, and it never came back.
        u = _split(self.directions(features) / math.sqrt(self.steps), self.steps, [self.latent_size])
        wb = _split(self.planes(features), self.steps, [self.latent_size + 1])
        return _chain([Planar(u, wb[..., :-1], wb[..., -1]) for u, wb in zip(u, wb, strict=True)])


class RadialFlow(tf.Module):
    """K radial maps whose parameters a layer reads off the features: features [B, H] -> bijector."""

    def __init__(self, steps: int, latent_size: int):
        super().__init__()
        self.steps, self.latent_size = steps, latent_size
        self.strengths = layers.Dense(steps, kernel_initializer="zeros")  # b = 0: the identity
        self.centres = layers.Dense(steps * (latent_size + 1))

    def __call__(self, features):
        b = _split(self.strengths(features), self.steps, [])
        za = _split(self.centres(features), self.steps, [self.latent_size + 1])
        return _chain([Radial(za[..., :-1], za[..., -1], b) for za, b in zip(za, b, strict=True)])


class SylvesterFlow(tf.Module):
    """K Sylvester maps whose parameters a layer reads off the features: features [B, H] -> bijector."""

    def __init__(self, steps: int, latent_size: int, columns: int, reflections: int):
        super().__init__()
        self.steps, self.sizes = steps, (latent_size, columns, reflections)
        self.bends = layers.Dense(steps * columns**2, kernel_initializer="zeros")  # R = 0: the identity
        self.rest = layers.Dense(steps * (columns**2 + reflections * latent_size + columns))

    def __call__(self, features):
        latent_size, columns, reflections = self.sizes
        matrices, rest = self.bends(features), self.rest(features)
        cuts = [self.steps * size for size in (columns**2, reflections * latent_size, columns)]
        r_tilde, v, b = tf.split(rest, cuts, axis=-1)
        shapes = ([reflections, latent_size], [columns, columns], [columns, columns], [columns])
        values = [_split(t, self.steps, shape) for t, shape in zip((v, matrices, r_tilde, b), shapes, strict=True)]
        return _chain([Sylvester(*step) for step in zip(*values, strict=True)])


class InverseAutoregressiveFlow(tf.Module):
    """K inverse autoregressive steps given a context vector: features [B, H] -> bijector.

    z <- gate(z) z + (1 - gate(z)) m(z), with gate = sigmoid(s(z) + 2), m and s by a masked network that also sees the
    context; each step takes the latents in the reverse order of the one before.  Cheap forwards: the inverse of a MAF.
    Where K is above 4 the 2 is more, so that all gates together start as four do: 32 of 0.88 would leave 0.02 of z.

    Source: Kingma et al. (2016), algorithm 1 and equations 13 and 14, arxiv.org/abs/1606.04934
    """

    def __init__(self, steps: int, latent_size: int, hidden_size: int, context_size: int = 100):
        super().__init__()
        self.gate_bias = GATE_BIAS + math.log(max(1, steps / 4))
        self.context = layers.Dense(context_size, activation="elu")
        self.mades = [
            _made(latent_size, hidden_size, reverse=k % 2 == 1, context_size=context_size) for k in range(steps)
        ]

    def __call__(self, features):
        context = self.context(features)

        def step(made):
            def gated(z):
                m, s = tf.unstack(made(z, conditional_input=context), axis=-1)
                s += self.gate_bias
                return tfb.Invert(
                    tfb.Chain([tfb.Shift(tf.sigmoid(-s) * m), tfb.Scale(log_scale=tf.math.log_sigmoid(s))])
                )

            return tfb.Invert(tfb.MaskedAutoregressiveFlow(bijector_fn=_remember(gated)))

        return _chain([step(made) for made in self.mades])


class MaskedAutoregressiveFlow(tf.Module):
    """K autoregressive steps, each in the reverse order of the one before: context or None -> bijector.

    Cheap backwards.

    Source: Papamakarios et al. (2017), section 3.1, arxiv.org/abs/1705.07057
    """

    def __init__(self, steps: int, latent_size: int, hidden_size: int, context_size: int = 0):
        super().__init__()
        self.mades = [
            _made(latent_size, hidden_size, reverse=k % 2 == 1, context_size=context_size) for k in range(steps)
        ]

    def __call__(self, context=None):
        told = {} if context is None else {"conditional_input": context}

        def step(made):
            def affine(z):
                shift, log_scale = tf.unstack(made(z, **told), axis=-1)
                return tfb.Chain([tfb.Shift(shift), tfb.Scale(log_scale=_soft_clip(log_scale))])

            return tfb.MaskedAutoregressiveFlow(bijector_fn=_remember(affine))

        return _chain([step(made) for made in self.mades])


class RealNVP(tf.Module):
    """K affine coupling layers, which move the two halves of the latents in turn: context or None -> bijector.

    Cheap both ways.

    Source: Dinh et al. (2017), section 3, arxiv.org/abs/1605.08803
    """

    def __init__(self, steps: int, latent_size: int, hidden_size: int, context_size: int = 0):
        super().__init__()
        self.latent_size, self.networks = latent_size, []
        for k in range(steps):
            network = networks.mlp(2, hidden_size)
            moved = latent_size - self._masked(k)
            network.add(layers.Dense(2 * moved, kernel_initializer="zeros"))  # shift = log scale = 0: the identity
            if context_size:
                network = networks.Conditional(network)
                network(tf.zeros([1, latent_size - moved]), tf.zeros([1, context_size]))
            else:
                network.build([None, latent_size - moved])
            self.networks.append(network)

    def _masked(self, k: int) -> int:  # how many latents step k leaves as they are
        return (self.latent_size + k % 2) // 2

    def __call__(self, context=None):
        def step(k, network):
            def affine(z, moved):
                parameters = network(*networks.folded(z, context))
                parameters = tf.reshape(parameters, tf.concat([tf.shape(z)[:-1], [2 * moved]], axis=0))
                shift, log_scale = tf.split(parameters, 2, axis=-1)
                return tfb.Chain([tfb.Shift(shift), tfb.Scale(log_scale=_soft_clip(log_scale))])

            # A negative number masks the last latents instead of the first.
            masked = self._masked(k) * (-1) ** k
            return tfb.RealNVP(num_masked=masked, bijector_fn=_remember(affine))

        return _chain([step(k, network) for k, network in enumerate(self.networks)])


def _made(latent_size: int, hidden_size: int, reverse: bool, context_size: int = 0) -> tfb.AutoregressiveNetwork:
    """Masked network with two outputs a latent (Germain et al. 2015, arxiv.org/abs/1502.03509)."""
    conditional = {"conditional": True, "conditional_event_shape": context_size} if context_size else {}
    made = tfb.AutoregressiveNetwork(
        params=2,
        event_shape=latent_size,
        hidden_units=[hidden_size, hidden_size],
        input_order="right-to-left" if reverse else "left-to-right",
        activation="swish",  # with relu or elu, TensorFlow's graph optimiser breaks on what it fuses in an export
        **conditional,
    )
    made.build([None, latent_size])
    return made


def _chain(steps: list[tfb.Bijector]) -> tfb.Bijector:
    return tfb.Chain(steps[::-1])  # tfb.Chain applies its last bijector first


def _split(parameters: tf.Tensor, steps: int, shape: list[int]) -> list[tf.Tensor]:
    """[B, K * size] -> K of [B, *shape]."""
    return tf.unstack(tf.reshape(parameters, [-1, steps, *shape]), axis=1)


def _remember(function: Callable) -> Callable:
    """`function`, not called again for the tensor it was last called for.

    tfb asks for the values and for the log-determinant separately; the network's backward pass would run twice.
    """
    last = (None, None)

    def remembering(x, *args):
        nonlocal last
        if last[0] is not x:
            last = (x, function(x, *args))
        return last[1]

    return remembering


def _dot(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(a * b, axis=-1)


def _norm(x: tf.Tensor) -> tf.Tensor:
    return tf.sqrt(_dot(x, x) + 1e-12)  # the root has no slope at 0


def _tanh_slope(x: tf.Tensor) -> tf.Tensor:
    return 1 - tf.tanh(x) ** 2


def _above_minus_one(x: tf.Tensor) -> tf.Tensor:
    """Increasing, 0 at 0, above -1 everywhere."""
    return (1 - MARGIN) * (tf.nn.softplus(x + SOFTPLUS_ONE) - 1)


def _soft_clip(x: tf.Tensor) -> tf.Tensor:
    """Near x where x is small, within MAX_LOG_SCALE of 0 everywhere."""
    return MAX_LOG_SCALE * tf.tanh(x / MAX_LOG_SCALE)


def _triangular(matrix: tf.Tensor) -> tf.Tensor:
    """The upper triangle, its diagonal through tanh."""
    diagonal = (1 - MARGIN) * tf.tanh(tf.linalg.diag_part(matrix))
    return tf.linalg.set_diag(tf.linalg.band_part(matrix, 0, -1), diagonal)


def _solve(c: tf.Tensor, scale: tf.Tensor, shift: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """The one y with y + c tanh(scale y + shift) = target, where c scale > -1."""
    c, target = c + tf.zeros_like(target), target + tf.zeros_like(c)
    return tfp.math.find_root_chandrupatla(
        lambda y: y + c * tf.tanh(scale * y + shift) - target,
        low=target - tf.abs(c) - MARGIN,
        high=target + tf.abs(c) + MARGIN,
        position_tolerance=1e-7,
        value_tolerance=0.0,
    ).estimated_root
