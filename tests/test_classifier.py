import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from keras_genmnist import classifier
from keras_genmnist.errors import Fault

EVERY = range(len(classifier.JUDGES))


@pytest.fixture(scope="module")
def loaded():
    return classifier.JUDGES[0].load()


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
    with np.load(classifier.JUDGES[0].path) as file:
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


@pytest.mark.parametrize("number", EVERY)
def test_classifier_is_right_on_mnist_5k(number, mnist_5k):
    assert accuracy(classifier.JUDGES[number].load(), mnist_5k.test) >= 0.98  # images it was trained on


@pytest.mark.slow
@pytest.mark.parametrize("number", EVERY)
def test_accuracy_of_every_judge_is_what_its_docstring_and_the_page_on_results_say(number, mnist):
    measured = 100 * accuracy(classifier.JUDGES[number].load(), mnist.test)
    page = (Path(__file__).parent.parent / "docs" / "results.md").read_text()
    for text in (classifier.__doc__, page):
        stated = re.search(r"([\d.]+),\s+([\d.]+)\s+and\s+([\d.]+)\s+% of the test\s+images", text).groups()
        assert measured == pytest.approx(float(stated[number]), abs=0.015)  # another order of sums may turn an image


def test_load_is_the_same_each_time(loaded, digits):
    again = classifier.Judge.load.__wrapped__(classifier.JUDGES[0])  # the tests' own keeps what it loads
    np.testing.assert_array_equal(again.features(digits), loaded.features(digits))


def test_judges_differ(digits):
    assert len({judge.sha256 for judge in classifier.JUDGES}) == len(classifier.JUDGES) == 3
    features = [classifier.JUDGES[number].load().features(digits) for number in EVERY]
    assert all(np.abs(a - b).max() > 0.1 for i, a in enumerate(features) for b in features[:i])


def look_in(path, number, monkeypatch):
    """Makes `path` the file of a judge, and returns the SHA-256 that it should have."""
    judges = list(classifier.JUDGES)
    judges[number] = judges[number]._replace(path=path)
    monkeypatch.setattr(classifier, "JUDGES", judges)
    return judges[number].sha256


@pytest.mark.parametrize("number", EVERY)
def test_load_tells_of_a_missing_file(number, tmp_path, monkeypatch):
    sha256 = look_in(tmp_path / "classifier.npz", number, monkeypatch)
    with pytest.raises(Fault) as raised:
        classifier.JUDGES[number].load()
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    for part in (f"{tmp_path}/classifier.npz", "No such file", sha256):
        assert part in message


@pytest.mark.parametrize("number", EVERY)
def test_load_tells_of_an_altered_file(number, tmp_path, monkeypatch):
    altered = tmp_path / "classifier.npz"
    content = bytearray(classifier.JUDGES[number].path.read_bytes())
    content[len(content) // 2] ^= 1
    altered.write_bytes(content)
    sha256 = look_in(altered, number, monkeypatch)
    with pytest.raises(Fault) as raised:
        classifier.JUDGES[number].load()
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    found = hashlib.sha256(content).hexdigest()
    for part in (str(altered), found, sha256):
        assert part in message
