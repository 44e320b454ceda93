"""The benchmark's VAE in JAX, a whole epoch under lax.scan: 784-400-20-400-784, batch 100, Adam 1e-3, dynamic
Bernoulli binarization.

Usage: python jax_vae.py IMAGES.npy DRAWS, images uint8 [N, 784]; the ELBO of one draw or the IWAE bound of more.  One
epoch that does not count (it compiles), then three that do, or one of several draws; prints one line of JSON: the
median images_per_second, and the last epoch's mean bound, nats per image.
"""

import json
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

BATCH_SIZE, HIDDEN_SIZE, LATENT_SIZE = 100, 400, 20
DRAWS = int(sys.argv[2])
COUNTED_EPOCHS = 3 if DRAWS == 1 else 1
OPTIMIZER = optax.adam(1e-3)


def init(key):
    sizes = [(784, HIDDEN_SIZE), (HIDDEN_SIZE, 2 * LATENT_SIZE), (LATENT_SIZE, HIDDEN_SIZE), (HIDDEN_SIZE, 784)]
    glorot = jax.nn.initializers.glorot_uniform()
    return [(glorot(k, size), jnp.zeros(size[1])) for k, size in zip(jax.random.split(key, 4), sizes, strict=True)]


def mlp(layers, x):
    (kernel, bias), (kernel_out, bias_out) = layers
    return jax.nn.relu(x @ kernel + bias) @ kernel_out + bias_out


def negative_elbo(params, x, key):
    mean, log_variance = jnp.split(mlp(params[:2], x), 2, axis=-1)
    z = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)
    log_likelihood = -optax.sigmoid_binary_cross_entropy(mlp(params[2:], z), x).sum()
    kl = 0.5 * jnp.sum(jnp.exp(log_variance) + mean**2 - 1 - log_variance)
    return -(log_likelihood - kl) / len(x)


def negative_iwae_bound(params, x, key):
    mean, log_variance = jnp.split(mlp(params[:2], x), 2, axis=-1)
    noise = jax.random.normal(key, (DRAWS, *mean.shape))
    z = mean + jnp.exp(0.5 * log_variance) * noise
    log_likelihood = -optax.sigmoid_binary_cross_entropy(mlp(params[2:], z), x).sum(axis=-1)
    log_prior_over_posterior = 0.5 * (noise**2 + log_variance - z**2).sum(axis=-1)
    log_weights = log_likelihood + log_prior_over_posterior
    return -(jax.scipy.special.logsumexp(log_weights, axis=0) - jnp.log(DRAWS)).mean()


@jax.jit
def train_epoch(params, opt_state, images, key):
    def train_step(carry, batch):
        params, opt_state = carry
        indices, key = batch
        pixel_key, noise_key = jax.random.split(key)
        x = jax.random.bernoulli(pixel_key, images[indices] / 255.0).astype(jnp.float32)
        loss, gradients = jax.value_and_grad(negative_elbo if DRAWS == 1 else negative_iwae_bound)(params, x, noise_key)
        updates, opt_state = OPTIMIZER.update(gradients, opt_state)
        return (optax.apply_updates(params, updates), opt_state), -loss

    order_key, step_key = jax.random.split(key)
    order = jax.random.permutation(order_key, len(images)).reshape(-1, BATCH_SIZE)
    (params, opt_state), elbos = jax.lax.scan(
        train_step, (params, opt_state), (order, jax.random.split(step_key, len(order)))
    )
    return params, opt_state, elbos.mean()


def main():
    images = np.load(sys.argv[1])
    images = jnp.asarray(images[: len(images) // BATCH_SIZE * BATCH_SIZE])
    init_key, *epoch_keys = jax.random.split(jax.random.key(0), 2 + COUNTED_EPOCHS)
    params = init(init_key)
    opt_state = OPTIMIZER.init(params)
    rates = []
    for key in epoch_keys:
        start = time.perf_counter()
        params, opt_state, elbo = jax.block_until_ready(train_epoch(params, opt_state, images, key))
        rates.append(len(images) / (time.perf_counter() - start))
    print(json.dumps({"images_per_second": statistics.median(rates[1:]), "objective": float(elbo)}))


if __name__ == "__main__":
    main()
