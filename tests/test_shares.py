"""The rows of a batch that each of several replicas takes, with the bits that they have in the whole batch."""

import numpy as np
import pytest
import tensorflow as tf

from keras_genmnist.datasets import Split, binarization


def split(shape: tuple[int, int, int]) -> Split:
    images = np.random.default_rng(1).integers(0, 256, [30, *shape], np.uint8)
    return Split(images, (images > 127).astype(np.uint8), np.arange(30) % 3)


# Images of 9 and 15 pixels, so that a replica begins in the middle of a word or of a block of words, and of 16.
@pytest.mark.parametrize("shape", [(3, 3, 1), (5, 3, 1), (4, 4, 1)])
@pytest.mark.parametrize("binarized", ["dynamic", "none"])
def test_shares_of_a_batch_are_its_rows(shape, binarized):
    given = {"binarization": binarized, "batch_size": 12, "seed": 3, "first_step": 1, "last_step": 4}
    whole = list(split(shape).train_batches(**given, labelled=True))
    for count in (2, 3, 4):
        shares = [split(shape).train_batches(**given, labelled=True, share=(n, count)) for n in range(count)]
        for (images, labels), *parts in zip(whole, *shares, strict=True):
            assert {len(part) for part, _ in parts} == {12 // count}
            np.testing.assert_array_equal(np.concatenate([part for part, _ in parts]), images)
            np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), labels)


@pytest.mark.parametrize("seed", [[-5, 7], [3, 2**40]])
def test_words_are_those_of_tensorflow_from_any_block_on(seed):
    seed = tf.constant(seed, tf.int64)
    all_words = tf.random.stateless_uniform([41], seed, minval=None, maxval=None, dtype=tf.uint32)
    for block in (0, 1, 7):
        np.testing.assert_array_equal(binarization._words(seed, block, 41 - 4 * block), all_words[4 * block :])
