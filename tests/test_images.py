import numpy as np
import tensorflow as tf

from keras_genmnist import images


def test_tile_lays_images_out_row_by_row():
    a, b, c = (np.full([2, 3, 1], value, np.float32) for value in (0.1, 0.2, 0.3))
    a[0, 0] = 0.9  # not symmetric: a transposed tile would show
    sheet = images.tile(np.stack([a, b, c]), columns=2, gap=0)
    assert sheet.shape == (4, 6, 1)
    assert sheet.dtype == np.float32
    np.testing.assert_array_equal(sheet[:2, :3], a)
    np.testing.assert_array_equal(sheet[:2, 3:], b)
    np.testing.assert_array_equal(sheet[2:, :3], c)


def test_tile_draws_a_line_between_images_and_none_around_them():
    sheet = images.tile(np.ones([4, 2, 3, 1]), columns=2)
    assert sheet.shape == (5, 7, 1)
    expected = np.ones([5, 7])
    expected[2], expected[:, 3] = images.LINE, images.LINE
    np.testing.assert_array_equal(sheet[..., 0], expected)


def test_tile_leaves_empty_places_black():
    sheet = images.tile(np.ones([5, 2, 2, 1]), columns=3, gap=0)
    assert sheet.shape == (4, 6, 1)
    assert sheet[2:, 4:].max() == 0
    assert sheet.sum() == 5 * 4


def test_tile_takes_tensors():
    values = np.random.default_rng(0).random([4, 2, 2, 1])
    np.testing.assert_array_equal(images.tile(tf.constant(values), 2), images.tile(values, 2))


def test_png_keeps_every_grey_level():
    levels = np.arange(256).reshape(16, 16, 1)
    file = images.png(tf.constant(levels / 255, tf.float32)).numpy()
    assert file.startswith(b"\x89PNG")
    np.testing.assert_array_equal(tf.io.decode_png(file), levels)


def test_png_of_a_batch_is_a_file_an_image():
    values = tf.random.stateless_uniform([2, 3, 4, 5, 1], seed=[1, 2])
    files = images.png(values)
    assert files.shape == (2, 3)
    decoded = tf.io.decode_png(files[1, 2])
    # One of 255 levels: half a level off at most, and one for how the half is rounded.
    np.testing.assert_allclose(decoded / 255, values[1, 2], atol=1 / 255)


def test_png_clips_what_is_out_of_range():
    decoded = tf.io.decode_png(images.png(tf.constant([[[-0.5], [1.5]]])))
    assert decoded.numpy().ravel().tolist() == [0, 255]
