"""The benchmark's importance-weighted likelihood in JAX: networks as those of configs/vae.py, with weights at random.

Usage: python jax_iw.py IMAGES.npy DRAWS, images uint8 [N, 784], 0 or 1.  Prints one line of JSON: images_per_second,
without the time that compiling takes, and the mean NLL, nats per image.
"""

import itertools
import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

HIDDEN_SIZE, LATENT_SIZE, BATCH_SIZE, DRAWS_PER_CALL = 500, 40, 100, 50


def init(key, sizes):
    glorot = jax.nn.initializers.glorot_uniform()
    pairs = list(itertools.pairwise(sizes))
    return [
        (glorot(k, pair), jnp.zeros(pair[1])) for k, pair in zip(jax.random.split(key, len(pairs)), pairs, strict=True)
    ]


def mlp(layers, x):
    # Batch norm in evaluation is an affine map, which is as good as part of the layer before.
    for kernel, bias in layers[:-1]:
        x = jax.nn.relu(x @ kernel + bias)
    return x @ layers[-1][0] + layers[-1][1]


@jax.jit
def log_weights(params, x, key):
    encoder, decoder = params
    mean, scale = jnp.split(mlp(encoder, x), 2, axis=-1)
    scale = jax.nn.softplus(scale)
    noise = jax.random.normal(key, (DRAWS_PER_CALL, *mean.shape))
    z = mean + scale * noise
    logits = mlp(decoder, z)
    log_likelihood = (x * logits - jax.nn.softplus(logits)).sum(axis=-1)
    return log_likelihood + (0.5 * (noise**2 - z**2) + jnp.log(scale)).sum(axis=-1)


def nll(params, images, num_draws):
    total = 0.0
    for start in range(0, len(images), BATCH_SIZE):
        x = jnp.asarray(images[start : start + BATCH_SIZE], jnp.float32)
        keys = jax.random.split(jax.random.key(start), num_draws // DRAWS_PER_CALL)
        calls = [log_weights(params, x, key) for key in keys]  # that do not wait for each other
        log_w = np.concatenate(calls).astype(np.float64)
        total -= (np.logaddexp.reduce(log_w, axis=0) - np.log(num_draws)).sum()
    return total / len(images)


def main():
    images, num_draws = np.load(sys.argv[1]), int(sys.argv[2])
    hidden = [HIDDEN_SIZE, HIDDEN_SIZE]
    keys = jax.random.split(jax.random.key(0))
    sizes = [784, *hidden, 2 * LATENT_SIZE], [LATENT_SIZE, *hidden, 784]
    params = [init(key, own) for key, own in zip(keys, sizes, strict=True)]
    nll(params, images[:BATCH_SIZE], DRAWS_PER_CALL)  # compiles
    start = time.perf_counter()
    objective = nll(params, images, num_draws)
    print(json.dumps({"images_per_second": len(images) / (time.perf_counter() - start), "objective": objective}))


if __name__ == "__main__":
    main()
