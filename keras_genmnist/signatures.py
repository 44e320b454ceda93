"""What an exported model offers and what it refuses: tf.functions with input signatures, by name.

A signature does not enforce its own shapes, and a server cannot be asked to be careful: every check is in the graph.
Of a model that takes labels, what is given latents or images is given the label of each too.
"""

import tensorflow as tf

from keras_genmnist import bounds
from keras_genmnist.distributions import StandardNormal, sample_each
from keras_genmnist.images import png
from keras_genmnist.models.base import GenerativeModel, told

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
    terms = _log_terms(model)
    if model.has_encoder:
        own += _posterior(model, terms)
    if model.likelihood:
        own.append(_log_likelihood(model, terms))
    if model.likelihood == "exact":
        own.append(_log_prob(model))
    if hasattr(model, "reconstruct"):
        own.append(_reconstruct(model))
    if hasattr(model, "encode_codes"):
        own.append(_encode_codes(model))
    if hasattr(model, "complete"):
        own.append(_complete(model))
    if model.takes_labels:
        own.append(_sample_class(model))
    if hasattr(model, "discriminate") and any(weight.numpy().any() for weight in model.discriminator.weights):
        own.append(_discriminate(model))  # a pretrained GAN comes without it: its weights are 0
    return {function.__name__: function for function in own}


def bound_draws(model: GenerativeModel) -> int | None:
    """How many draws `log_likelihood` should take of a model that knows only a bound; None of other models.

    More make the bound no tighter in expectation, and may take hours.
    """
    return (model.bound_draws or 1) if model.likelihood == "bound" else None


def portable(model: GenerativeModel, rows: int | None = None) -> dict[str, Signature]:
    """What a model computes without random numbers, checks or PNG files, for runtimes other than TensorFlow.

    encode: the posterior's `mean`, `log_variance` and `z`, as in `of`.
    decode: the `probabilities` given latents `z`.
    log_likelihood: log p(x), or of a model with a bound that has no noise this bound; nats.
    elbo_at_mean: of a model whose log p(x) takes draws, the ELBO with the posterior's centre in place of a draw, where
      the KL is exact if it is in `elbo`; a deterministic score, and no bound; nats.

    Of a model that takes labels, all but `log_likelihood` take the `label` of each row too.

    Args:
      model: with its weights.
      rows: how many images `log_likelihood` takes at a time; None for any number.
    """
    own: list[Signature] = []
    batch, labels = _batch(model), _labels(model)
    if model.has_encoder:

        @tf.function(input_signature=[batch, *labels], autograph=model.autograph)
        def encode(images, label=None):
            return model.encode(images, **told(label))

        own.append(encode)
    if model.has_latents:
        latents = tf.TensorSpec([None, model.latent_size], tf.float32)

        @tf.function(input_signature=[latents, *labels], autograph=model.autograph)
        def decode(z, label=None):
            return {"probabilities": model.decode(z, **told(label))}

        own.append(decode)
    if model.likelihood == "exact" or (model.likelihood == "bound" and model.bound_draws is None):

        @tf.function(input_signature=[tf.TensorSpec([rows, *model.image_shape])], autograph=model.autograph)
        def log_likelihood(images):
            return {"log_likelihood": model.log_likelihood(images)}

        own.append(log_likelihood)
    if model.likelihood == "importance":

        @tf.function(input_signature=[batch, *labels], autograph=model.autograph)
        def elbo_at_mean(images, label=None):
            centre = tf.zeros([1, tf.shape(images)[0], model.latent_size])
            return {"elbo_at_mean": bounds.elbo(model.log_terms_at(images, centre, **told(label)))}

        own.append(elbo_at_mean)
    return {function.__name__: function for function in own}


def _draws(model: GenerativeModel) -> list[Signature]:
    # Traced once for both: drawing takes the longest to trace.
    draw = tf.function(model.draw, [tf.TensorSpec([None, 2], tf.int32)], autograph=model.autograph)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)], autograph=model.autograph)
    def sample_rows(seed):
        seed = capped(tf.size(seed), seed, "the number of seeds")
        return with_png(draw(tf.stack([seed, tf.zeros_like(seed)], axis=1)))

    @tf.function(input_signature=[INTEGER, INTEGER], autograph=model.autograph)
    def sample(num_samples, seed):
        return with_png(draw(_seeds(capped(num_samples, num_samples), seed)))

    return [sample_rows, sample]


def _latents(model: GenerativeModel) -> list[Signature]:
    latents, labels = tf.TensorSpec([None, model.latent_size], tf.float32), _labels(model)

    @tf.function(input_signature=[latents, *labels], autograph=model.autograph)
    def decode_probabilities(z, label=None):
        z = _finite(tf.ensure_shape(z, latents.shape), "z")
        y = _of_each(model, label, z)
        return {"probabilities": model.decode(capped(tf.shape(z)[0], z, "the number of rows of z"), **told(*y))}

    @tf.function(input_signature=[latents, *labels], autograph=model.autograph)
    def decode(z, label=None):
        return with_png(decode_probabilities(z) if label is None else decode_probabilities(z, label))

    numbers = tf.TensorSpec([None], tf.float32)

    @tf.function(input_signature=[latents, latents, numbers, *labels], autograph=model.autograph)
    def interpolate(z1, z2, alphas, label=None):
        z1, z2 = (_finite(tf.ensure_shape(z, latents.shape), name) for z, name in ((z1, "z1"), (z2, "z2")))
        alphas = _finite(tf.ensure_shape(alphas, numbers.shape), "alphas")
        first, second = (tf.shape(z, tf.int64)[0] for z in (z1, z2))
        alike = (first == second) | (first == 1) | (second == 1)  # one row serves all of the other
        z1 = require(alike, "give as many rows of z1 as of z2, or one", z1)
        pairs = z1 + z2
        number = tf.shape(pairs, tf.int64)[0] * tf.size(alphas, tf.int64)
        y = _of_each(model, label, pairs)
        z1, z2 = (capped(number, z, "the number of rows of z1 and z2 times that of alphas") for z in (z1, z2))
        return with_png({"probabilities": model.interpolate(z1, z2, alphas, *y)})

    return [decode, decode_probabilities, interpolate]


def _log_terms(model: GenerativeModel) -> Signature:
    """The model's log densities of so many draws: (images, number, seeds, labels if it takes them) -> LogTerms."""

    @tf.function(autograph=model.autograph)
    def log_terms(x, num_draws, seeds, *y):
        return model.log_terms(x, num_draws, seeds, **told(*y))

    return log_terms


def _posterior(model: GenerativeModel, log_terms: Signature) -> list[Signature]:
    batch, labels = _batch(model), _labels(model)

    # Traced once for both, as log_terms for `elbo` and `log_likelihood`.
    @tf.function(autograph=model.autograph)
    def encoded(x, noise, *y):
        return model.encode(x, noise, **told(*y))

    @tf.function(input_signature=[batch, *labels], autograph=model.autograph)
    def encode(images, label=None):
        y, centre = _of_each(model, label, images), tf.zeros([tf.shape(images)[0], model.latent_size])
        return in_chunks(encoded, checked(model, images), centre, *y)

    @tf.function(input_signature=[batch, tf.TensorSpec([None], tf.int32), *labels], autograph=model.autograph)
    def encode_draw(images, seed, label=None):
        require(tf.equal(tf.size(seed), tf.shape(images)[0]), "give a seed for each image")
        seeds = tf.stack([seed, tf.zeros_like(seed)], axis=1)
        noise = sample_each(StandardNormal(model.latent_size)(), seeds)
        y = _of_each(model, label, images)
        return in_chunks(encoded, checked(model, images), noise, *y)

    @tf.function(input_signature=[batch, INTEGER, *labels], autograph=model.autograph)
    def elbo(images, seed, label=None):
        @tf.function(autograph=model.autograph)
        def measured(x, seeds, *y):
            terms = log_terms(x, tf.constant(1), seeds, *y)
            values = {"elbo": bounds.elbo, "kl": bounds.kl, "reconstruction": bounds.reconstruction}
            return {name: value(terms) for name, value in values.items()}

        seeds = _seeds(tf.shape(images)[0], seed)
        of_each = _of_each(model, label, images)
        return in_chunks(measured, _scored(model, images), seeds, *of_each)

    return [encode, encode_draw, elbo]


def _reconstruct(model: GenerativeModel) -> Signature:
    @tf.function(input_signature=[_batch(model), *_labels(model)], autograph=model.autograph)
    def reconstruct(images, label=None):
        images = capped(tf.shape(images)[0], checked(model, images), "the number of images")
        y = _of_each(model, label, images)
        return with_png({"probabilities": model.reconstruct(images, **told(*y))})

    return reconstruct


def _encode_codes(model: GenerativeModel) -> Signature:
    @tf.function(input_signature=[_batch(model)], autograph=model.autograph)
    def encode_codes(images):
        @tf.function(autograph=model.autograph)
        def encoded(x):
            return {"codes": model.encode_codes(x)}

        return in_chunks(encoded, checked(model, images))

    return encode_codes


def _log_likelihood(model: GenerativeModel, log_terms: Signature) -> Signature:
    @tf.function(input_signature=[_batch(model), INTEGER, INTEGER], autograph=model.autograph)
    def log_likelihood(images, num_draws, seed):
        num_draws = capped(num_draws, num_draws, "num_draws")
        # Unlike other signatures that take images, this one takes as long as it is asked to, for each of them.
        x = capped(tf.shape(images)[0], _scored(model, images), "the number of images")

        @tf.function(autograph=model.autograph)
        def measured(x, seeds):
            if model.likelihood == "importance":
                if model.takes_labels:
                    return _estimated_over_classes(log_terms, model.num_classes, x, num_draws, seeds)
                return _estimated(log_terms, x, num_draws, seeds)
            given = {} if model.likelihood == "exact" else {"num_draws": num_draws, "seed": seeds[0]}
            value = model.log_likelihood(x, **given)
            every = tf.fill(tf.shape(value), tf.cast(num_draws, tf.float32))
            return {"log_likelihood": value, "bound": value, "ess": every}

        return in_chunks(measured, x, _seeds(tf.shape(images)[0], seed))

    return log_likelihood


def _estimated_over_classes(
    log_terms: Signature, num_classes: int, x: tf.Tensor, num_draws: tf.Tensor, seeds: tf.Tensor
) -> dict[str, tf.Tensor]:
    """As `_estimated`, of p(x) = (1/C) sum{ p(x | y) : y }, by so many draws for each class; ess of the likeliest."""

    def given(label):
        return _estimated(log_terms, x, num_draws, seeds, tf.fill(tf.shape(x)[:1], label))

    outputs = dict.fromkeys(("log_likelihood", "bound", "ess"), tf.float32)
    by_class = tf.map_fn(given, tf.range(num_classes), fn_output_signature=outputs, parallel_iterations=1)

    def mean(log_values):
        return tf.reduce_logsumexp(log_values, axis=0) - tf.math.log(float(num_classes))

    likeliest = tf.argmax(by_class["log_likelihood"])
    ess = tf.gather(tf.transpose(by_class["ess"]), likeliest, batch_dims=1)
    return {"log_likelihood": mean(by_class["log_likelihood"]), "bound": mean(by_class["bound"]), "ess": ess}


def _estimated(
    log_terms: Signature, x: tf.Tensor, num_draws: tf.Tensor, seeds: tf.Tensor, *y: tf.Tensor
) -> dict[str, tf.Tensor]:
    """What `num_draws` draws from the posterior of each image say, DRAWS of them at a time.

    Returns:
      log_likelihood: the importance-weighted log p(x), or log p(x | y); bound: the ELBO; ess: effective sample size;
        [B] each.
    """

    def step(start, total, squares, elbo):
        count = tf.minimum(DRAWS, num_draws - start)
        own = tf.map_fn(lambda seed: tf.random.fold_in(seed, start), seeds)
        terms = log_terms(x, count, own, *y)
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
        @tf.function(autograph=model.autograph)
        def measured(x):
            return {"log_prob": model.log_likelihood(x)}

        return in_chunks(measured, checked(model, images, binary=True))

    return log_prob


def _complete(model: GenerativeModel) -> Signature:
    @tf.function(input_signature=[_batch(model), _batch(model), INTEGER], autograph=model.autograph)
    def complete(images, mask, seed):
        require(tf.equal(tf.shape(mask), tf.shape(images)), "images and mask must agree in shape")
        count = capped(tf.shape(images)[0], tf.shape(images)[0], "the number of images")
        known = checked(model, images, binary=True), checked(model, mask, "mask", binary=True)
        return with_png(model.complete(*known, _seeds(count, seed)))

    return complete


def _sample_class(model: GenerativeModel) -> Signature:
    @tf.function(input_signature=[INTEGER, INTEGER, INTEGER], autograph=model.autograph)
    def sample_class(label, num_samples, seed):
        count = capped(num_samples, num_samples)
        return with_png(model.draw_given(_seeds(count, seed), tf.fill([count], _known(model, label))))

    return sample_class


def _discriminate(model: GenerativeModel) -> Signature:
    @tf.function(input_signature=[_batch(model), *_labels(model)], autograph=model.autograph)
    def discriminate(images, label=None):
        @tf.function(autograph=model.autograph)
        def judged(x, *y):
            return {"logits": model.discriminate(x, **told(*y))}

        y = _of_each(model, label, images)
        return in_chunks(judged, checked(model, images), *y)

    return discriminate


INTEGER = tf.TensorSpec([], tf.int32)


def _batch(model: GenerativeModel) -> tf.TensorSpec:
    return tf.TensorSpec([None, *model.image_shape], tf.float32)


def _labels(model: GenerativeModel) -> list[tf.TensorSpec]:
    """What a signature takes beside latents or images: the label of each, of a model that takes labels."""
    return [tf.TensorSpec([None], tf.int32)] if model.takes_labels else []


def _of_each(model: GenerativeModel, label: tf.Tensor | None, rows: tf.Tensor) -> list[tf.Tensor]:
    """The labels given to a signature, one for each row; none where it takes none."""
    if label is None:
        return []
    return [_known(model, require(tf.equal(tf.size(label), tf.shape(rows)[0]), "give a label for each row", label))]


def _known(model: GenerativeModel, label: tf.Tensor) -> tf.Tensor:
    """The labels given to a signature, refused unless there are such classes."""
    known = (label >= 0) & (label < model.num_classes)
    return require(known, f"label is out of range: give 0 to {model.num_classes - 1}", label, given=label)


def _seeds(count: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Of each of `count` images, int32 [N, 2]."""
    return tf.stack([tf.fill([count], seed), tf.range(count)], axis=1)


def checked(model: GenerativeModel, images: tf.Tensor, name: str = "images", binary: bool = False) -> tf.Tensor:
    """The images [B, H, W, C] given to a signature as `name`, refused unless they are pixels in [0, 1], or bits."""
    # A signature does not enforce its own shapes, and grey levels 0..255 would pass for pixels.
    images = _finite(tf.ensure_shape(images, [None, *model.image_shape]), name)
    message = f"values of {name} are out of range: give pixels {'of 0 or 1' if binary else 'in [0, 1]'}"
    fit = (images == 0.0) | (images == 1.0) if binary else (images >= 0.0) & (images <= 1.0)
    return require(fit, message, images, given=images)


def capped(number: tf.Tensor | int, values: tf.Tensor | int, name: str = "num_samples") -> tf.Tensor:
    """`values`, once the number of images has been checked: what is made of them cannot run, and allocate, before."""
    number = tf.convert_to_tensor(number)
    message = f"{name} is out of range: give 1 to {MAX_SAMPLES}"
    return require((number > 0) & (number <= MAX_SAMPLES), message, values, given=number)


def in_chunks(function: Signature, *rows: tf.Tensor) -> dict[str, tf.Tensor]:
    """`function` of all rows, computed CHUNK of them at a time: its memory does not grow with their number.

    Args:
      function: a tf.function of tensors [n, ...] -> tensors [n, ...] by name, each row from its own alone.
      rows: tensors [B, ...].
    Returns:
      The outputs, [B, ...].
    """
    # Traced once: the loop needs to know its outputs before it starts.
    specs = [tf.TensorSpec([None, *part.shape[1:]], part.dtype) for part in rows]
    chunk = function.get_concrete_function(*specs)
    # Of no rows, one of zeros is computed and cut off: not every function takes none.
    count = tf.shape(rows[0])[0]
    some = tf.maximum(1, count)
    rows = [tf.pad(part, [[0, some - count], *([[0, 0]] * (part.shape.rank - 1))]) for part in rows]
    chunks = -(-some // CHUNK)
    found = {
        name: tf.TensorArray(spec.dtype, chunks, element_shape=[None, *spec.shape[1:]], infer_shape=False)
        for name, spec in chunk.structured_outputs.items()
    }

    def step(i, found):
        outputs = chunk(*(part[i * CHUNK : (i + 1) * CHUNK] for part in rows))
        return i + 1, {name: array.write(i, outputs[name]) for name, array in found.items()}

    _, found = tf.while_loop(lambda i, found: i < chunks, step, (0, found), parallel_iterations=1)
    return {name: array.concat()[:count] for name, array in found.items()}


def _scored(model: GenerativeModel, images: tf.Tensor) -> tf.Tensor:
    """The images [B, H, W, C] given to a signature, refused unless they are what the model has a likelihood of."""
    return checked(model, images, binary=True) if model.draws_bits else _levels(checked(model, images))


def _levels(images: tf.Tensor) -> tf.Tensor:
    """The levels k / 255 nearest to images in [0, 1], refused unless they are as near as four digits can be."""
    levels = tf.round(255 * images)
    message = "values of images are no grey levels: give pixels of k / 255, k from 0 to 255"
    return require(tf.abs(255 * images - levels) < 0.02, message, levels / 255, given=images)


def require(
    condition: tf.Tensor, message: str, values: tf.Tensor | int = 0, given: tf.Tensor | None = None
) -> tf.Tensor:
    """`values`, once the condition, bool [...], has been found to hold everywhere.

    Where it does not, the message ends in the first of what was `given`, [...], that it does not hold for.
    """
    told = tf.constant(message)
    if given is not None:
        wrong = tf.boolean_mask(tf.reshape(given, [-1]), ~tf.reshape(condition, [-1]))[:1]
        wrong = tf.as_string(wrong, shortest=given.dtype.is_floating)
        told = tf.strings.reduce_join(tf.concat([[f"{message}, not "], wrong], axis=0))
    # Of strings alone: with numbers beside them, tf.debugging.assert_less and the like build a branch for each check,
    # and these were a fifth of the time that an export takes.
    check = tf.debugging.Assert(tf.reduce_all(condition), [told])
    with tf.control_dependencies([] if check is None else [check]):  # None when eager: already done
        return tf.identity(values)


def _finite(values: tf.Tensor, name: str) -> tf.Tensor:
    return tf.debugging.check_numerics(values, f"{name} must be finite")


def with_png(outputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """A signature's outputs and, as `png_bytes` [N], its `probabilities` as PNG files."""
    # A digit as PNG is 180 bytes, as JSON numbers 4 to 15 KB.
    return outputs | {"png_bytes": png(outputs["probabilities"])}
