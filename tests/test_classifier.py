import hashlib

import numpy as np
import pytest

from keras_genmnist import classifier
from keras_genmnist.errors import Fault


@pytest.fixture(scope="module")
def loaded():
    return classifier.load()


def accuracy(loaded, split):
    found = loaded.probabilities(split.images.astype(np.float32) / 255).argmax(axis=1)
    return (found == split.labels).mean()


def test_classifier_reads_features_and_probabilities(loaded, mnist_5k):
    images = mnist_5k.test.images[:7].astype(np.float32) / 255
    features, probabilities = loaded.read(images)
    assert features.shape == (7, classifier.NUM_FEATURES) and probabilities.shape == (7, 10)
    assert features.dtype == probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(loaded.features(images), features)
    np.testing.assert_array_equal(loaded.probabilities(images), probabilities)


def test_classifier_features_are_what_its_last_layer_sees(loaded, mnist_5k):
    with np.load(classifier.PATH) as file:
        *_, kernel, bias = (file[name] for name in file.files)
    features, probabilities = loaded.read(mnist_5k.test.images[:50].astype(np.float32) / 255)
    assert features.min() == 0  # of ReLUs
    logits = features @ kernel + bias
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    # float32 logits near 20 are 2e-6 apart, which the exponential makes relative.
    np.testing.assert_allclose(probabilities, expected / expected.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-7)


def test_classifier_reads_an_image_alike_in_any_batch(loaded, mnist_5k, monkeypatch):
    images = mnist_5k.test.images[:10].astype(np.float32) / 255
    whole = loaded.features(images)
    monkeypatch.setattr(classifier, "BATCH", 4)
    # Sums of a thousand float32 numbers in another order.
    np.testing.assert_allclose(loaded.features(images), whole, atol=1e-4)


def test_classifier_is_right_on_mnist_5k(loaded, mnist_5k):
    assert accuracy(loaded, mnist_5k.test) >= 0.98  # images it was trained on


def test_classifier_is_right_on_mnist(loaded, mnist):
    assert accuracy(loaded, mnist.test) >= 0.992


def test_load_is_the_same_each_time(loaded, digits):
    np.testing.assert_array_equal(classifier.load().features(digits), loaded.features(digits))


def test_load_tells_of_a_missing_file(tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "PATH", tmp_path / "classifier.npz")
    with pytest.raises(Fault) as raised:
        classifier.load()
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    for part in (f"{tmp_path}/classifier.npz", "No such file", classifier.HASH):
        assert part in message


def test_load_tells_of_an_altered_file(tmp_path, monkeypatch):
    altered = tmp_path / "classifier.npz"
    content = bytearray(classifier.PATH.read_bytes())
    content[len(content) // 2] ^= 1
    altered.write_bytes(content)
    monkeypatch.setattr(classifier, "PATH", altered)
    with pytest.raises(Fault) as raised:
        classifier.load()
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    found = hashlib.sha256(content).hexdigest()
    for part in (str(altered), found, classifier.HASH):
        assert part in message
