"""What an exported model offers and what it refuses: tf.functions with input signatures, by name.

A signature does not enforce its own shapes, and a server cannot be asked to be careful: every check is in the graph.
"""

from collections.abc import Callable

import tensorflow as tf

from keras_genmnist import bounds
from keras_genmnist.distributions import StandardNormal, sample_each
from keras_genmnist.images import png
from keras_genmnist.models.base import GenerativeModel

Signature = tf.types.experimental.PolymorphicFunction

# More in one request could exhaust a server's memory.
MAX_SAMPLES = 1024
# Images that a signature takes at once, where their number has no bound: a PixelCNN's activations are 0.6 MB an image.
CHUNK = 64
# Draws for each of these at once: with them, as many images to decode as there may be samples.
DRAWS = MAX_SAMPLES // CHUNK


def of(model: GenerativeModel) -> dict[str, Signature]:
    """The signatures of a model: those of what it states it can do."""
    own = _draws(model)
    if model.has_latents:
        own += _latents(model)
    if model.has_encoder:
        own += _posterior(model)
    if model.likelihood:
        own.append(_log_likelihood(model))
    if model.likelihood == "exact":
        own.append(_log_prob(model))
    if hasattr(model, "complete"):
        own.append(_complete(model))
    if model.takes_labels:
        own.append(_sample_class(model))
    if hasattr(model, "discriminate"):
        own.append(_discriminate(model))
    return {function.__name__: function for function in own}


def _draws(model: GenerativeModel) -> list[Signature]:
    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)], autograph=model.autograph)
    def sample_rows(seed):
        seed = capped(tf.size(seed), seed, "the number of seeds")
        return with_png(model.draw(tf.stack([seed, tf.zeros_like(seed)], axis=1)))

    @tf.function(input_signature=[INTEGER, INTEGER], autograph=model.autograph)
    def sample(num_samples, seed):
        return with_png(model.sample(capped(num_samples, num_samples), seed))

    return [sample_rows, sample]


def _latents(model: GenerativeModel) -> list[Signature]:
    latents = tf.TensorSpec([None, model.latent_size], tf.float32)

    @tf.function(input_signature=[latents], autograph=model.autograph)
    def decode_probabilities(z):
        z = _finite(tf.ensure_shape(z, latents.shape), "z")
        return {"probabilities": model.decode(capped(tf.shape(z)[0], z, "the number of rows of z"))}

    @tf.function(input_signature=[latents], autograph=model.autograph)
    def decode(z):
        return with_png(decode_probabilities(z))

    @tf.function(input_signature=[latents, latents, tf.TensorSpec([None], tf.float32)], autograph=model.autograph)
    def interpolate(z1, z2, alphas):
        z1, z2, alphas = _finite(z1, "z1"), _finite(z2, "z2"), _finite(alphas, "alphas")
        rows = tf.maximum(*(tf.shape(z, tf.int64)[0] for z in (z1, z2)))  # one row serves all of the other
        number, name = rows * tf.size(alphas, tf.int64), "the number of rows of z1 and z2 times that of alphas"
        z1, z2 = (capped(number, z, name) for z in (z1, z2))
        return with_png({"probabilities": model.interpolate(z1, z2, alphas)})

    return [decode, decode_probabilities, interpolate]


def _posterior(model: GenerativeModel) -> list[Signature]:
    batch = _batch(model)

    @tf.function(input_signature=[batch], autograph=model.autograph)
    def encode(images):
        return in_chunks(model.encode, checked(model, images), autograph=model.autograph)

    @tf.function(input_signature=[batch, tf.TensorSpec([None], tf.int32)], autograph=model.autograph)
    def encode_draw(images, seed):
        tf.debugging.assert_equal(tf.size(seed), tf.shape(images)[0], "give a seed for each image")
        seeds = tf.stack([seed, tf.zeros_like(seed)], axis=1)
        noise = sample_each(StandardNormal(model.latent_size)(), seeds)
        return in_chunks(model.encode, checked(model, images), noise, autograph=model.autograph)

    @tf.function(input_signature=[batch], autograph=model.autograph)
    def reconstruct(images):
        images = capped(tf.shape(images)[0], checked(model, images), "the number of images")
        return with_png({"probabilities": model.reconstruct(images)})

    @tf.function(input_signature=[batch, INTEGER], autograph=model.autograph)
    def elbo(images, seed):
        def measured(x, seeds):
            terms = model.log_terms(x, 1, seeds)
            values = {"elbo": bounds.elbo, "kl": bounds.kl, "reconstruction": bounds.reconstruction}
            return {name: value(terms) for name, value in values.items()}

        seeds = _seeds(tf.shape(images)[0], seed)
        return in_chunks(measured, _scored(model, images), seeds, autograph=model.autograph)

    return [encode, encode_draw, reconstruct, elbo]


def _log_likelihood(model: GenerativeModel) -> Signature:
    @tf.function(input_signature=[_batch(model), INTEGER, INTEGER], autograph=model.autograph)
    def log_likelihood(images, num_draws, seed):
        num_draws = capped(num_draws, num_draws, "num_draws")
        # Unlike other signatures that take images, this one takes as long as it is asked to, for each of them.
        x = capped(tf.shape(images)[0], _scored(model, images), "the number of images")
        if model.likelihood == "exact":

            def known(x):
                value = model.log_likelihood(x)
                every = tf.fill(tf.shape(value), tf.cast(num_draws, tf.float32))
                return {"log_likelihood": value, "bound": value, "ess": every}

            return in_chunks(known, x, autograph=model.autograph)

        def estimated(x, seeds):
            return _estimated(model, x, num_draws, seeds)

        return in_chunks(estimated, x, _seeds(tf.shape(images)[0], seed), autograph=model.autograph)

    return log_likelihood


def _estimated(model: GenerativeModel, x: tf.Tensor, num_draws: tf.Tensor, seeds: tf.Tensor) -> dict[str, tf.Tensor]:
    """What `num_draws` draws from the posterior of each image say, DRAWS of them at a time.

    Returns:
      log_likelihood: the importance-weighted log p(x); bound: the ELBO; ess: effective sample size; [B] each.
    """

    def step(start, total, squares, elbo):
        count = tf.minimum(DRAWS, num_draws - start)
        terms = model.log_terms(x, count, tf.map_fn(lambda seed: tf.random.fold_in(seed, start), seeds))
        log_w = bounds.log_weights(terms)
        return (
            start + count,
            tf.reduce_logsumexp(tf.concat([total[None], log_w], axis=0), axis=0),
            tf.reduce_logsumexp(tf.concat([squares[None], 2 * log_w], axis=0), axis=0),
            elbo + tf.cast(count, tf.float32) * bounds.elbo(terms),
        )

    none = tf.fill(tf.shape(x)[:1], float("-inf"))
    start = (0, none, none, tf.zeros(tf.shape(x)[:1]))
    _, total, squares, elbo = tf.while_loop(lambda start, *_: start < num_draws, step, start, parallel_iterations=1)
    number = tf.cast(num_draws, tf.float32)
    return {
        "log_likelihood": total - tf.math.log(number),
        "bound": elbo / number,
        "ess": tf.exp(2 * total - squares),
    }


def _log_prob(model: GenerativeModel) -> Signature:
    @tf.function(input_signature=[_batch(model)], autograph=model.autograph)
    def log_prob(images):
        def measured(x):
            return {"log_prob": model.log_likelihood(x)}

        return in_chunks(measured, checked(model, images, binary=True), autograph=model.autograph)

    return log_prob


def _complete(model: GenerativeModel) -> Signature:
    @tf.function(input_signature=[_batch(model), _batch(model), INTEGER], autograph=model.autograph)
    def complete(images, mask, seed):
        tf.debugging.assert_equal(tf.shape(mask), tf.shape(images), "images and mask must agree in shape")
        count = capped(tf.shape(images)[0], tf.shape(images)[0], "the number of images")
        known = checked(model, images, binary=True), checked(model, mask, "mask", binary=True)
        return with_png(model.complete(*known, _seeds(count, seed)))

    return complete


def _sample_class(model: GenerativeModel) -> Signature:
    @tf.function(input_signature=[INTEGER, INTEGER, INTEGER], autograph=model.autograph)
    def sample_class(label, num_samples, seed):
        message = f"label is out of range: give 0 to {model.num_classes - 1}"
        tf.debugging.assert_non_negative(label, message)
        tf.debugging.assert_less(label, model.num_classes, message)
        count = capped(num_samples, num_samples)
        return with_png(model.draw_given(_seeds(count, seed), tf.fill([count], label)))

    return sample_class


def _discriminate(model: GenerativeModel) -> Signature:
    @tf.function(input_signature=[_batch(model)], autograph=model.autograph)
    def discriminate(images):
        def judged(x):
            return {"logits": model.discriminate(x)}

        return in_chunks(judged, checked(model, images), autograph=model.autograph)

    return discriminate


INTEGER = tf.TensorSpec([], tf.int32)


def _batch(model: GenerativeModel) -> tf.TensorSpec:
    return tf.TensorSpec([None, *model.image_shape], tf.float32)


def _seeds(count: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Of each of `count` images, int32 [N, 2]."""
    return tf.stack([tf.fill([count], seed), tf.range(count)], axis=1)


def checked(model: GenerativeModel, images: tf.Tensor, name: str = "images", binary: bool = False) -> tf.Tensor:
    """The images [B, H, W, C] given to a signature as `name`, refused unless they are pixels in [0, 1], or bits."""
    # A signature does not enforce its own shapes, and grey levels 0..255 would pass for pixels.
    images = _finite(tf.ensure_shape(images, [None, *model.image_shape]), name)
    message = f"values of {name} are out of range: give pixels {'of 0 or 1' if binary else 'in [0, 1]'}"
    checks = [
        tf.debugging.assert_non_negative(images, message),
        tf.debugging.assert_less_equal(images, 1.0, message),
    ]
    if binary:
        checks.append(tf.debugging.assert_equal(images, tf.round(images), message))
    with tf.control_dependencies(checks):
        return tf.identity(images)


def capped(number: tf.Tensor | int, values: tf.Tensor | int, name: str = "num_samples") -> tf.Tensor:
    """`values`, once the number of images has been checked: what is made of them cannot run, and allocate, before."""
    number, most = tf.cast(number, tf.int64), tf.constant(MAX_SAMPLES, tf.int64)
    message = f"{name} is out of range: give 1 to {MAX_SAMPLES}"
    checks = (
        tf.debugging.assert_positive(number, message),
        tf.debugging.assert_less_equal(number, most, message),
    )
    with tf.control_dependencies([check for check in checks if check is not None]):  # None when eager: already done
        return tf.identity(values)


def in_chunks(function: Callable[..., dict[str, tf.Tensor]], *rows: tf.Tensor, autograph: bool) -> dict[str, tf.Tensor]:
    """`function` of all rows, computed CHUNK of them at a time: its memory does not grow with their number.

    Args:
      function: tensors [n, ...] -> float32 tensors [n, ...] by name, each row from its own alone.
      rows: tensors [B, ...].
      autograph: as of the model whose function it is.
    Returns:
      The outputs, [B, ...].
    """
    # Traced once: the loop needs to know its outputs before it starts.
    specs = [tf.TensorSpec([None, *part.shape[1:]], part.dtype) for part in rows]
    chunk = tf.function(function, autograph=autograph).get_concrete_function(*specs)
    count = tf.shape(rows[0])[0]
    chunks = tf.maximum(1, -(-count // CHUNK))  # of no rows, the outputs are empty
    found = {
        name: tf.TensorArray(tf.float32, chunks, element_shape=[None, *spec.shape[1:]], infer_shape=False)
        for name, spec in chunk.structured_outputs.items()
    }

    def step(i, found):
        outputs = chunk(*(part[i * CHUNK : (i + 1) * CHUNK] for part in rows))
        return i + 1, {name: array.write(i, outputs[name]) for name, array in found.items()}

    _, found = tf.while_loop(lambda i, found: i < chunks, step, (0, found), parallel_iterations=1)
    return {name: array.concat() for name, array in found.items()}


def _scored(model: GenerativeModel, images: tf.Tensor) -> tf.Tensor:
    """The images [B, H, W, C] given to a signature, refused unless they are what the model has a likelihood of."""
    return checked(model, images, binary=True) if model.draws_bits else _levels(checked(model, images))


def _levels(images: tf.Tensor) -> tf.Tensor:
    """The levels k / 255 nearest to images in [0, 1], refused unless they are as near as four digits can be."""
    levels = tf.round(255 * images)
    message = "values of images are no grey levels: give pixels of k / 255, k from 0 to 255"
    with tf.control_dependencies([tf.debugging.assert_less(tf.abs(255 * images - levels), 0.02, message)]):
        return levels / 255


def _finite(values: tf.Tensor, name: str) -> tf.Tensor:
    return tf.debugging.check_numerics(values, f"{name} must be finite")


def with_png(outputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """A signature's outputs and, as `png_bytes` [N], its `probabilities` as PNG files."""
    # A digit as PNG is 180 bytes, as JSON numbers 4 to 15 KB.
    return outputs | {"png_bytes": png(outputs["probabilities"])}
