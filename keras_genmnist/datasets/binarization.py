"""How grey levels become bits: drawn anew in every epoch, drawn once, or cut at a half."""

import math

import numpy as np
import tensorflow as tf

BINARIZATIONS = ("dynamic", "static", "threshold", "none")
REFERENCE_SEED = 3435
WORDS = 4  # that Philox makes at each count; Salmon et al. (2011), section 4.2, doi.org/10.1145/2063384.2063405


def label(values: str, binarization: str) -> str:
    """How training images become binary, for the records: images that are binary already are "fixed" whatever is set.

    Args:
      values: of a DatasetSpec.
      binarization: one of BINARIZATIONS.
    """
    return "fixed" if values == "binary" else binarization


def reference(images: np.ndarray) -> np.ndarray:
    """The one draw that validation and test images are always scored on, and static training images are.

    Bit-identical to torch.manual_seed(3435) followed by torch.bernoulli(x / 255) image after image: PyTorch's CPU
    generator is the same Mersenne twister, and its float32 uniform is the low 24 bits of a draw over 2^24.

    Args:
      images: uint8 [N, ...], grey levels 0..255.
    Returns:
      uint8 [N, ...], 0 or 1.
    """
    generator = np.random.RandomState(REFERENCE_SEED)
    binary = np.empty_like(images)
    for start in range(0, len(images), 1000):  # in pieces: 70,000 images at once would hold 220 MB of draws
        piece = images[start : start + 1000]
        bits = generator.randint(0, 2**32, size=piece.shape, dtype=np.uint32) & (2**24 - 1)
        binary[start : start + 1000] = bits.astype(np.float32) / np.float32(2**24) < piece.astype(np.float32) / 255
    return binary


def threshold(images: np.ndarray) -> np.ndarray:
    """Pixels are 1 where the grey level is above a half.  uint8 [N, ...] -> uint8 [N, ...], 0 or 1."""
    return (images >= 128).astype(np.uint8)


def dynamic(images: tf.Tensor, seed: tf.Tensor, first: int = 0) -> tf.Tensor:
    """Draws pixels that are 1 with probability images / 255, exact at 0 and 255 and within 2^-16 between.

    Integers, because 784 float uniforms an image cost as much as a decoder.

    Args:
      images: uint8 [B, H, W, C].
      seed: int64 [2].
      first: of the batch that these are some rows of, the number of the first: their bits are those that they would
        have beside all others, none of which are drawn.
    Returns:
      bool [B, H, W, C].
    """
    size, before = tf.size(images), first * math.prod(images.shape[1:])
    block, skipped = divmod(before, 2 * WORDS)
    # Two pixels a word: where their number is odd, one draw is left over.
    words = _words(seed, block, (skipped + size + 1) // 2)
    bits = tf.reshape(tf.reshape(tf.bitcast(words, tf.uint16), [-1])[skipped : skipped + size], tf.shape(images))
    return 255 * tf.cast(bits, tf.int32) < 65536 * tf.cast(images, tf.int32)


def _words(seed: tf.Tensor, block: int, count: tf.Tensor) -> tf.Tensor:
    """Random numbers, uint32 [count], from the block of WORDS on; from block 0 those of tf.random.stateless_uniform."""
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
    low = counter[0] + block
    counter = tf.stack([low, counter[1] + tf.cast(low < counter[0], tf.uint64)])
    philox = tf.random.Algorithm.PHILOX.value
    return tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[count], key=key, counter=counter, alg=philox, dtype=tf.uint32
    )
