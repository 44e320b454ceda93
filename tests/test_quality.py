import json

import numpy as np
import pytest
from scipy import linalg, stats

from keras_genmnist import classifier, datasets, judges, quality
from keras_genmnist.errors import UsageError


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def whitened(features):
    """The same points moved, so that their mean is exactly 0 and their covariance exactly the identity."""
    centred = features - features.mean(axis=0)
    return centred @ np.linalg.inv(np.linalg.cholesky(np.cov(centred.T))).T


def test_frechet_distance_of_equal_sets_is_zero():
    a = 100 * normal(300, 6).astype(np.float32)
    # Of terms near 60,000 in float64.
    assert quality.frechet_distance(a, a[::-1]) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_is_the_closed_form_where_covariances_commute():
    a, b = whitened(normal(50, 4)), whitened(normal(70, 4, seed=1))
    scale_a, scale_b, shift = np.array([1.0, 2.0, 0.0, 3.0]), np.array([2.0, 1.0, 1.0, 5.0]), np.array([1.0, -2, 0, 3])
    expected = (shift**2).sum() + ((scale_a - scale_b) ** 2).sum()
    assert quality.frechet_distance(a * scale_a, b * scale_b + shift) == pytest.approx(expected)
    assert quality.frechet_distance(b * scale_b + shift, a * scale_a) == pytest.approx(expected)


def test_frechet_distance_is_that_of_the_papers_equation():
    a, b = normal(200, 5) @ normal(5, 5, seed=1), normal(90, 5, seed=2) @ normal(5, 5, seed=3) + 0.3
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = linalg.sqrtm(cov_a @ cov_b).real
    expected = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert quality.frechet_distance(a, b) == pytest.approx(expected)


def test_frechet_distance_of_fewer_points_than_features_stands():
    # Covariances of rank 1: points at -u and u, -v and v of unequal directions.  tr(C_a + C_b) - 2 |u'.v'|.
    u, v = np.array([1.0, 0, 0]), np.array([3.0, 4.0, 0])
    a, b = np.stack([-u, u]), np.stack([-v, v])
    assert quality.frechet_distance(a, b) == pytest.approx(2 * 1 + 2 * 25 - 2 * 2 * 3)


def test_frechet_distance_refuses_features_of_another_number():
    with pytest.raises(ValueError, match="must agree"):
        quality.frechet_distance(normal(10, 3), normal(10, 1))


def slow_precision_recall(real, generated, k):
    """By a loop over all pairs."""

    def covered(points, others):
        inside = 0
        for point in points:
            reaches = [sorted(np.linalg.norm(o - other) for other in others)[k] for o in others]
            inside += any(np.linalg.norm(point - o) <= reach for o, reach in zip(others, reaches, strict=True))
        return inside / len(points)

    return covered(generated, real), covered(real, generated)


@pytest.mark.parametrize("k", [1, 3])
def test_precision_recall_is_that_of_a_loop(monkeypatch, k):
    monkeypatch.setattr(quality, "BLOCK", 100)  # several blocks, the last one ragged
    real, generated = normal(30, 3), 1.5 * normal(23, 3, seed=1) + 2
    found = quality.precision_recall(real, generated, k)
    assert found == pytest.approx(slow_precision_recall(real, generated, k))
    assert 0 < found[0] < 1 and 0 < found[1] < 1 and found[0] != found[1]


def test_precision_recall_of_the_obvious_cases():
    # Two clusters; generated are all of it, one cluster only, one cluster and as much far off, all far off.
    clusters = normal(200, 2) * 0.1 + np.repeat([[0, 0], [10, 0]], 100, axis=0)
    first, far = clusters[:100] + 1e-3, clusters[:100] + 100
    assert quality.precision_recall(clusters, clusters) == (1, 1)
    assert quality.precision_recall(clusters, first) == pytest.approx((1, 0.5), abs=0.05)  # the cluster's own edge
    assert quality.precision_recall(clusters, np.concatenate([first, far])) == pytest.approx((0.5, 0.5), abs=0.05)
    assert quality.precision_recall(clusters, far) == (0, 0)


def test_class_shares_are_those_of_the_most_probable_class():
    probabilities = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.4, 0.35, 0.25], [0.9, 0.1, 0.0]])
    np.testing.assert_array_equal(quality.class_shares(probabilities), [0.75, 0, 0.25])
    np.testing.assert_array_equal(quality.class_shares(probabilities[:1]), [1, 0, 0])


def test_class_kl_is_the_divergence_from_uniform():
    assert quality.class_kl(np.full(10, 0.1)) == pytest.approx(0)
    assert quality.class_kl(np.eye(10)[3]) == pytest.approx(np.log(10))
    shares = np.array([0.5, 0.3, 0.2])
    assert quality.class_kl(shares) == pytest.approx(stats.entropy(shares, np.full(3, 1 / 3)))


def test_confident_share_counts_largest_probabilities_above_nine_tenths():
    probabilities = np.array([[0.95, 0.05], [0.05, 0.95], [0.89, 0.11], [0.9, 0.1], [0.5, 0.5]])
    assert quality.confident_share(probabilities) == 2 / 5


def test_nearest_is_that_of_all_distances(monkeypatch):
    monkeypatch.setattr(quality, "BLOCK", 150)
    samples, training = normal(7, 4, 4, 1), normal(50, 4, 4, 1, seed=1)
    distances = ((samples[:, None] - training) ** 2).sum(axis=(2, 3, 4))
    np.testing.assert_array_equal(quality.nearest(samples, training, 5), distances.argsort(axis=1)[:, :5])
    np.testing.assert_array_equal(quality.nearest(training[[8, 3]], training, 1), [[8], [3]])


def test_nearest_can_be_all():
    training = np.array([[3.0], [1.0], [2.0]])
    np.testing.assert_array_equal(quality.nearest(np.zeros([1, 1]), training, 3), [[1, 2, 0]])


@pytest.mark.parametrize("sigma", [0.1, 0.7])
def test_parzen_is_the_mean_of_normal_densities(monkeypatch, sigma):
    monkeypatch.setattr(quality, "BLOCK", 30)
    samples, images = normal(11, 2, 2, 1), normal(6, 2, 2, 1, seed=1)
    expected = [
        np.log(np.mean([stats.multivariate_normal(s.ravel(), sigma**2).pdf(x.ravel()) for s in samples]))
        for x in images
    ]
    np.testing.assert_allclose(quality.parzen(samples, images, sigma), expected)


def test_parzen_integrates_to_one_in_the_plane():
    axis = np.linspace(-6, 6, 241)
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    # A sum over a grid of 0.05 of Gaussians of sigma 0.3, eight sigmas inside the window, is exact to rounding.
    density = np.exp(quality.parzen(normal(20, 2).clip(-3, 3), points, 0.3))
    assert density.sum() * 0.05**2 == pytest.approx(1)


def test_parzen_of_far_images_does_not_underflow():
    # 784 pixels, each 1 off: exp(-784 / 0.02) is 0 in float64.
    expected = -784 / 0.02 - 784 * np.log(0.1 * np.sqrt(2 * np.pi))
    assert quality.parzen(np.zeros([3, 784]), np.ones([1, 784]), 0.1) == pytest.approx([expected])


def test_parzen_sigma_is_the_best_of_those_given():
    samples, validation = 2 * normal(500, 1), 2 * normal(500, 1, seed=1)
    sigmas = (0.001, 0.5, 30.0)
    assert quality.parzen_sigma(samples, validation, sigmas) == 0.5
    assert quality.parzen_sigma(samples, 100 + validation, sigmas) == 30.0


def grey(images):
    return images.astype(np.float32) / 255


@pytest.fixture(scope="module")
def real_score(mnist_5k):
    """Of 500 training images as if they were samples."""
    return quality.score(grey(mnist_5k.train.images[:500]), mnist_5k)


JUDGED = (
    "frechet",
    "frechet_floor",
    "frechet_ratio",
    "precision",
    "recall",
    "class_shares",
    "rarest_class",
    "commonest_class",
    "class_kl",
    "confident_share",
)


def test_over_judges_is_mean_and_standard_deviation():
    # Deviations -1, 0, 1: variance of three (1 + 0 + 1) / 2.
    assert quality.over_judges([1.0, 2.0, 3.0]) == {"mean": 2.0, "spread": 1.0, "each": [1.0, 2.0, 3.0]}
    found = quality.over_judges([np.array([0.5, 0.5]), np.array([0.25, 0.75])])
    assert (found["mean"], found["each"]) == ([0.375, 0.625], [[0.5, 0.5], [0.25, 0.75]])
    assert found["spread"] == pytest.approx([0.125 * np.sqrt(2)] * 2)
    assert quality.over_judges([2.0]) == {"mean": 2.0, "spread": None, "each": [2.0]}  # which one judge does not show


def test_score_is_json_of_every_metric_by_every_judge(real_score):
    assert json.loads(json.dumps(real_score)) == real_score
    assert list(real_score) == ["num_samples", "judges", *JUDGED, "parzen"]
    assert list(real_score["parzen"]) == ["mean", "se", "sigma"]
    assert real_score["num_samples"] == 500
    assert real_score["judges"] == [judge.sha256 for judge in classifier.JUDGES]
    for name in JUDGED:
        assert len(real_score[name]["each"]) == len(classifier.JUDGES)
        assert real_score[name] == quality.over_judges(real_score[name]["each"])
    assert real_score["frechet"]["spread"] > 0


@pytest.mark.parametrize("number", range(len(classifier.JUDGES)))
def test_score_is_made_of_the_metrics(number, real_score, mnist_5k):
    samples, test, validation = (
        grey(images[:500]) for images in (mnist_5k.train.images, mnist_5k.test.images, mnist_5k.validation.images)
    )
    network = classifier.JUDGES[number].load()
    features, probabilities = network.read(samples)
    real = network.features(test)
    shares = quality.class_shares(probabilities)
    expected = {
        "frechet": quality.frechet_distance(features, real),
        "precision": quality.precision_recall(real, features)[0],
        "recall": quality.precision_recall(real, features)[1],
        "class_kl": quality.class_kl(shares),
        "rarest_class": shares.min(),
        "commonest_class": shares.max(),
        "confident_share": quality.confident_share(probabilities),
    }
    found = {name: real_score[name]["each"][number] for name in JUDGED}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["class_shares"] == shares.tolist()
    assert found["precision"] != found["recall"]
    assert found["frechet_ratio"] == pytest.approx(found["frechet"] / found["frechet_floor"])
    log_likelihoods = quality.parzen(samples, test, real_score["parzen"]["sigma"])
    assert real_score["parzen"] == pytest.approx(
        {
            "mean": log_likelihoods.mean(),
            "se": stats.sem(log_likelihoods),
            "sigma": quality.parzen_sigma(samples, validation),
        }
    )


def test_score_of_training_images_is_near_the_floor_and_of_noise_far(real_score, mnist_5k):
    noise = quality.score(np.random.default_rng(0).random([500, 28, 28, 1], np.float32), mnist_5k)
    assert noise["frechet_floor"] == real_score["frechet_floor"]  # it does not depend on the samples
    for judge in range(len(classifier.JUDGES)):
        real, far = ({name: score[name]["each"][judge] for name in JUDGED} for score in (real_score, noise))
        assert 0.5 < real["frechet_ratio"] < 2
        assert far["frechet_ratio"] > 20
        assert real["precision"] > 0.7
        assert real["recall"] > 0.7 > 0.3 > far["recall"]
        assert real["class_kl"] < 0.01 < 1 < far["class_kl"]
        assert real["confident_share"] > 0.95
    # An outlier's ball, see `precision_recall`: judge 1 has noise in one.  The spread tells.
    assert (
        noise["precision"]["each"][0] < 0.3 < noise["precision"]["spread"] and real_score["precision"]["spread"] < 0.1
    )
    assert real_score["parzen"]["mean"] > noise["parzen"]["mean"] + 100


def test_score_ratio_is_to_the_floor_of_as_many_training_images(real_score, mnist_5k):
    few = quality.score(grey(mnist_5k.train.images[:100]), mnist_5k)
    assert few["frechet_floor"]["mean"] > 2 * real_score["frechet_floor"]["mean"]  # the bias of few


def test_score_of_bits_is_against_those_that_the_model_learned(mnist_5k):
    bits = mnist_5k.train.scored("threshold")[-500:].astype(np.float32)
    like, unlike = (quality.score(bits, mnist_5k, name)["frechet_ratio"]["mean"] for name in ("threshold", "dynamic"))
    assert like < 1 < unlike


def test_score_of_bits_is_against_bits(mnist_5k):
    bits = mnist_5k.train.binary[:500].astype(np.float32)
    like, unlike = quality.score(bits, mnist_5k, "dynamic"), quality.score(bits, mnist_5k)
    assert list(like) == ["num_samples", "judges", *JUDGED]  # Parzen's density is one of grey levels
    chosen = np.random.default_rng(quality.SEED).choice(mnist_5k.train.binary, 500, replace=False)
    for number in range(len(classifier.JUDGES)):
        network = classifier.JUDGES[number].load()
        test = network.features(mnist_5k.test.binary.astype(np.float32))
        found = {name: like[name]["each"][number] for name in JUDGED}
        assert found["frechet"] == pytest.approx(quality.frechet_distance(network.features(bits), test))
        floor = quality.frechet_distance(network.features(chosen.astype(np.float32)), test)
        assert found["frechet_floor"] == pytest.approx(floor)
        assert 0.5 < found["frechet_ratio"] < 2 < unlike["frechet_ratio"]["each"][number]


@pytest.fixture(scope="module")
def unlabelled():
    """Grey images, 9 x 13 in colour, which no classifier knows."""
    drawn = np.random.default_rng(5).integers(0, 256, [90, 9, 13, 3], np.uint8)
    drawn[:, 2:5, 3:9] //= 4
    return datasets.from_arrays(drawn, name="own")


def test_score_without_a_judge_is_by_pixels_and_says_so(unlabelled):
    samples = np.random.default_rng(6).random([12, 9, 13, 3], np.float32)
    found = quality.score(samples, unlabelled)
    assert json.loads(json.dumps(found)) == found
    names = ["frechet", "frechet_floor", "frechet_ratio", "precision", "recall"]
    assert list(found) == ["num_samples", "space", *names, "parzen"]
    assert (found["num_samples"], found["space"]) == (12, "pixels")
    real = grey(unlabelled.test.images).reshape(len(unlabelled.test.images), -1)  # smaller than 16 x 16: as they are
    frechet = quality.frechet_distance(samples.reshape(12, -1), real)
    precision, recall = quality.precision_recall(real, samples.reshape(12, -1))
    measured = {"frechet": frechet, "precision": precision, "recall": recall}
    for name, value in measured.items():
        assert found[name] == {"mean": pytest.approx(value), "spread": None, "each": [pytest.approx(value)]}
    ratio = found["frechet_ratio"]["mean"] * found["frechet_floor"]["mean"]
    assert ratio == pytest.approx(frechet)
    bits = quality.score(np.round(samples), unlabelled, "dynamic")
    assert list(bits) == ["num_samples", "space", *names]


def test_digit_classifiers_judge_nothing_but_mnist(mnist_5k, monkeypatch):
    # Of the same shape, labelled 0 to 9, and no digits for all that anyone knows.
    garments = mnist_5k._replace(spec=mnist_5k.spec._replace(name="fashion_mnist", judge=None))
    monkeypatch.setenv("XDG_CACHE_HOME", "/nonexistent")
    samples = grey(mnist_5k.train.images[:100])
    found = quality.score(samples, garments)
    assert "judges" not in found and found["space"] == "pixels"
    assert found["parzen"] == quality.score(samples, mnist_5k)["parzen"]


def test_pixels_are_averages_over_areas():
    images = normal(3, 32, 24, 2)
    averages = images.reshape(3, 16, 2, 24, 2).mean(axis=2)
    # 24 columns become 16: each new one covers one and a half.
    left = (averages[:, :, 0::3] + averages[:, :, 1::3] / 2) / 1.5
    right = (averages[:, :, 1::3] / 2 + averages[:, :, 2::3]) / 1.5
    expected = np.stack([left, right], axis=3).reshape(3, -1)
    np.testing.assert_allclose(quality.pixels(images), expected)
    small = normal(4, 8, 16, 1)
    np.testing.assert_allclose(quality.pixels(small), small.reshape(4, -1))


def test_pixels_tell_images_from_noise(mnist_5k):
    real, more = (quality.pixels(grey(mnist_5k.train.images[cut])) for cut in (slice(400), slice(400, 800)))
    noise = quality.pixels(np.random.default_rng(0).random([400, 28, 28, 1], np.float32))
    assert real.shape == (400, 256)
    assert 10 * quality.frechet_distance(real, more) < quality.frechet_distance(real, noise)
    assert quality.precision_recall(real, more)[0] > 0.6 > quality.precision_recall(real, noise)[0] == 0


def test_score_refuses_test_images_too_few_for_neighbours(unlabelled):
    few = unlabelled._replace(test=unlabelled.validation._replace(images=unlabelled.validation.images[:3]))
    with pytest.raises(UsageError, match=r"own has 3 test images.* at least 4"):
        quality.score(np.zeros([3, 9, 13, 3], np.float32), few)


def test_score_of_classes_tells_whether_they_are_those_asked_for(mnist_5k, monkeypatch):
    monkeypatch.setattr(classifier, "JUDGES", classifier.JUDGES[:1])
    images, labels = grey(mnist_5k.train.images[:500]), mnist_5k.train.labels[:500]
    found = quality.score(images, mnist_5k, labels=labels)
    assert found["class_asked_for"]["mean"] > 0.99
    by_class, floor = (np.array(found[name]["mean"]) for name in ("frechet_by_class", "frechet_floor_by_class"))
    assert by_class.shape == floor.shape == (10,)
    judge = judges.find("mnist")[0].load()
    threes = [
        judge.features(part) for part in (images[labels == 3], grey(mnist_5k.test.images[mnist_5k.test.labels == 3]))
    ]
    assert found["frechet_by_class"]["each"][0][3] == pytest.approx(quality.frechet_distance(*threes), rel=1e-4)
    # Training images asked for as what they are come as near as others; asked for as their neighbour they do not.
    assert (by_class / floor).mean() < 1.3
    wrong = quality.score(images, mnist_5k, labels=(labels + 1) % 10)
    assert wrong["class_asked_for"]["mean"] < 0.01
    assert np.mean(wrong["frechet_by_class"]["mean"]) > 3 * by_class.mean()
    assert wrong["frechet"] == found["frechet"] == quality.score(images, mnist_5k)["frechet"]
    few = quality.score(images[:60], mnist_5k, labels=np.full(60, 3))
    assert "class_asked_for" in few and "frechet_by_class" not in few
