"""What a flow can express: four densities in the plane, fitted by the posterior flows.

Source: Rezende & Mohamed (2015), section 6.1, table 1 and figure 3, arxiv.org/abs/1505.05770
"""

import functools
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras
from matplotlib.figure import Figure

from keras_genmnist import flows

tfd = tfp.distributions

EDGE = 4.0  # the paper's window is [-4, 4] squared
STEPS = {"planar": (2, 8, 32), "radial": (2, 8, 32), "iaf": (2, 8, 32)}
FLOWS = {
    "planar": lambda steps: flows.PlanarFlow(steps, 2),
    "radial": lambda steps: flows.RadialFlow(steps, 2),
    "iaf": lambda steps: flows.InverseAutoregressiveFlow(steps, 2, hidden_size=32, context_size=16),
}
ITERATIONS, BATCH, LEARNING_RATE = 8_000, 256, 5e-3
FITS = 2  # from different starts: some end in a poor optimum, deep flows too
PIXELS = 200


def energies(z: tf.Tensor) -> tf.Tensor:
    """The four energies U of densities exp(-U) / Z, z [S, 4, 2] -> [S, 4]: column k is the k-th energy of z[:, k].

    The paper's last three run on along z1 for ever; here each has walls at the edges of the paper's window.
    """
    z1, z2 = z[..., 0], z[..., 1]
    w1 = tf.sin(2 * math.pi * z1 / 4)
    w2 = 3 * tf.exp(-0.5 * ((z1 - 1) / 0.6) ** 2)
    w3 = 3 * tf.sigmoid((z1 - 1) / 0.3)

    def either(a, b):  # -log(exp(-a^2 / 2) + exp(-b^2 / 2))
        return -tf.reduce_logsumexp(tf.stack([-0.5 * a**2, -0.5 * b**2]), axis=0)

    radius = tf.sqrt(z1**2 + z2**2 + 1e-12)
    values = tf.stack(
        [
            0.5 * ((radius - 2) / 0.4) ** 2 + either((z1 - 2) / 0.6, (z1 + 2) / 0.6),
            0.5 * ((z2 - w1) / 0.4) ** 2,
            either((z2 - w1) / 0.35, (z2 - w1 + w2) / 0.35),
            either((z2 - w1) / 0.4, (z2 - w1 + w3) / 0.35),
        ],
        axis=-1,
    )
    own = tf.linalg.diag_part(values)  # energy k of column k
    walls = tf.reduce_sum(tf.nn.relu(tf.abs(z) - EDGE) ** 2, axis=-1)
    return own + 10 * walls


def grid(edge: float, pixels: int) -> np.ndarray:
    """Centres of the pixels of [-edge, edge] squared, rows from above, float32 [pixels^2, 2]."""
    axis = (np.arange(pixels, dtype=np.float32) + 0.5) / pixels * 2 * edge - edge
    return np.stack(np.meshgrid(axis, axis[::-1]), axis=-1).reshape(-1, 2)


@functools.cache  # every fit is compared with them
def log_normalisers() -> np.ndarray:
    """log Z of the four densities by a fine sum that reaches beyond the walls, [4]."""
    points = grid(EDGE + 2, 1200)
    area = (2 * (EDGE + 2) / 1200) ** 2
    values = energies(tf.repeat(points[:, None], 4, axis=1)).numpy().astype(np.float64)
    return np.log(np.exp(-values).sum(axis=0) * area)


def fit(name: str, steps: int, seed: int, iterations: int = ITERATIONS) -> Callable[[], tfd.Distribution]:
    """Fits one flow to each of the four densities by the gradient of KL(q || p), annealed as in equation 20 there.

    From a Gaussian with learned mean and scale, as in a VAE.  The four are the rows of one batch: planar and radial
    parameters are those of a row, an IAF sees its row as context.

    Args:
      name: of FLOWS.
      steps: K.
      seed: of the start and of the draws.
      iterations: of Adam.
    Returns:
      () -> the fitted distribution, batch [4], event [2].
    """
    tf_keras.utils.set_random_seed(seed)
    flow, mean, log_scale = FLOWS[name](steps), tf.Variable(tf.zeros([4, 2])), tf.Variable(tf.zeros([4, 2]))

    def distribution():
        base = tfd.MultivariateNormalDiag(mean, tf.exp(log_scale))
        return tfd.TransformedDistribution(base, flow(tf.eye(4)))

    distribution()  # makes the flow's variables
    variables = [mean, log_scale, *flow.trainable_variables]
    optimizer = tf_keras.optimizers.Adam(tf_keras.optimizers.schedules.CosineDecay(LEARNING_RATE, iterations))
    optimizer.build(variables)

    @tf.function(autograph=False, jit_compile=True)
    def train():
        def step(i):
            weight = tf.minimum(1.0, 0.01 + 2 * tf.cast(i, tf.float32) / iterations)
            with tf.GradientTape() as tape:
                z, log_q = distribution().experimental_sample_and_log_prob(BATCH, seed=tf.stack([seed, i]))
                loss = tf.reduce_sum(tf.reduce_mean(log_q + weight * energies(z), axis=0))
            gradients = tape.gradient(loss, variables)
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
            return [i + 1]

        tf.while_loop(lambda i: i < iterations, step, [0])

    train()
    return distribution


def divergences(distribution: tfd.Distribution, seed: int) -> np.ndarray:
    """KL(q || p) of the four densities, from 50,000 draws, nats, [4]."""
    z, log_q = distribution.experimental_sample_and_log_prob(50_000, seed=tf.constant([seed, -1]))
    return (log_q + energies(z)).numpy().astype(np.float64).mean(axis=0) + log_normalisers()


def figure(seed: int) -> Figure:
    """The four densities and the best of FITS fits of each flow, side by side; above each panel KL(q || p) in nats."""
    points = grid(EDGE, PIXELS)
    columns = [("target", "", np.exp(-energies(tf.repeat(points[:, None], 4, axis=1)).numpy()), None)]
    for name, sizes in STEPS.items():
        for steps in sizes:
            fits = [fit(name, steps, seed + start)() for start in range(FITS)]
            kls = np.stack([divergences(fitted, seed) for fitted in fits])
            best, kl = kls.argmin(axis=0), kls.min(axis=0)
            print(f"{name:6} K = {steps:2}: KL " + "  ".join(f"{value:.3f}" for value in kl) + " nats", flush=True)
            # Far from where an IAF has its mass, its inverse divides by gates near 0 and overflows: no density there.
            found = np.stack([np.nan_to_num(fitted.prob(points[:, None]).numpy()) for fitted in fits])
            columns.append((name, f"$K = {steps}$", found[best, :, range(4)].T, kl))
    canvas = Figure(figsize=(1.7 * len(columns), 8.2), layout="constrained")
    axes = canvas.subplots(4, len(columns))
    for place, (name, size, density, kl) in enumerate(columns):
        for row in range(4):
            axis = axes[row, place]
            axis.imshow(density[:, row].reshape(PIXELS, PIXELS), cmap="viridis")
            axis.set(xticks=[], yticks=[])
            lines = [f"{name} {size}"] if row == 0 else []
            axis.set_title("\n".join([*lines, f"KL {kl[row]:.2f}" if kl is not None else ""]), fontsize=9)
    canvas.suptitle(
        "Four densities and the posterior flows of K steps fitted to them (Rezende & Mohamed 2015, figure 3); "
        f"KL(q || p) in nats, the best of {FITS} fits",
        fontsize=11,
    )
    return canvas
