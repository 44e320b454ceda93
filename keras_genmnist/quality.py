"""Sample quality: how drawn images compare with real ones, without a likelihood.

Features and class probabilities are those of the judges of the data set, see judges.py, so the numbers compare among
models of one data set judged by the same weights (their hashes are in every score), and with none measured by another
network.  How far they depend on the judge is told by their spread: two models whose scores differ by less are equal.
Where a data set has no judges, its images are compared by their pixels, and every score says so.
"""

import numpy as np
from scipy import linalg, special

from keras_genmnist import judges
from keras_genmnist.classifier import Classifier
from keras_genmnist.datasets import Dataset
from keras_genmnist.datasets.arrays import overlaps
from keras_genmnist.errors import UsageError

BLOCK = 5_000_000  # distances held at once: 40 MB
SIGMAS = tuple(np.logspace(-1, 0, 10).tolist())  # the grid of the code of Goodfellow et al. (2014)
SIGMA_IMAGES = 1_000  # of the validation split, to choose sigma: all would cost ten times the metric itself
CONFIDENT = 0.9
NEIGHBOURS = 3
LARGEST = 16  # pixels, either way, of what is compared pixel by pixel: more would be noise, and slow
SEED = 3435


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance of Gaussians fitted to features.  |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))

    The trace of the root is the sum of the singular values of R_a R_b^T, with C = R^T R by a QR decomposition of the
    features: no covariance is formed, so nothing is squared, and a singular one is no trouble.

    Args:
      a: [N, F], features; N > 1.
      b: [M, F]; M > 1.
    Returns:
      The distance, at least 0 but for rounding.  The fewer the points the higher: it compares only at equal sizes.
    Raises:
      ValueError: if the two differ in F.
    Source: Heusel et al. (2017), equation 6, arxiv.org/abs/1706.08500
    """
    (mean_a, root_a), (mean_b, root_b) = _moments(a), _moments(b)
    if mean_a.shape != mean_b.shape:
        raise ValueError(f"features must agree in number; got {a.shape} and {b.shape}")
    overlap = linalg.svdvals(root_a @ root_b.T).sum()
    return float(np.sum((mean_a - mean_b) ** 2) + np.sum(root_a**2) + np.sum(root_b**2) - 2 * overlap)


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean [F] and an R, [min(N, F), F], with R^T R the covariance."""
    features = features.astype(np.float64)
    mean = features.mean(axis=0)
    return mean, np.linalg.qr(features - mean, mode="r") / np.sqrt(len(features) - 1)


def precision_recall(real: np.ndarray, generated: np.ndarray, k: int = NEIGHBOURS) -> tuple[float, float]:
    """Improved precision and recall: the share of each set that lies within the other's manifold.

    A set's manifold is the union of balls around its points, each reaching to the k-th nearest other point of the set.
    An outlier's ball is large and can hold what resembles nothing: a high precision means little beside a large
    `frechet_distance`.  By the test images of MNIST and the three judges, noise has 0.00, 0.44 and 0.09.

    Args:
      real: [N, F], features; N > k.
      generated: [M, F]; M > k.  Both numbers depend on N and M: they compare only at equal sizes.
      k: neighbours.
    Returns:
      Precision, the share of `generated` within the real manifold, and recall, the share of `real` within the generated
      one, in [0, 1].
    Source: Kynkaanniemi et al. (2019), equations 1 and 2, arxiv.org/abs/1904.06991
    """
    real, generated = real.astype(np.float64), generated.astype(np.float64)
    reach_real, reach_generated = (
        # The nearest of all is the point itself.
        np.concatenate([np.partition(block, k, axis=1)[:, k] for _, block in _squared_distances(points, points)])
        for points in (real, generated)
    )
    precise, recalled = np.zeros(len(generated), bool), np.zeros(len(real), bool)
    for rows, block in _squared_distances(generated, real):
        precise[rows] = (block <= reach_real).any(axis=1)
        recalled |= (block <= reach_generated[rows, None]).any(axis=0)
    return float(precise.mean()), float(recalled.mean())


def _squared_distances(a: np.ndarray, b: np.ndarray):
    """|a[n] - b[m]|^2 in blocks of rows: yields (slice of rows, [rows, M]), of a [N, F] and b [M, F]."""
    squares_a, squares_b = (np.einsum("nf,nf->n", x, x) for x in (a, b))
    count = max(1, BLOCK // len(b))
    for start in range(0, len(a), count):
        rows = slice(start, start + count)
        yield rows, squares_a[rows, None] - 2 * a[rows] @ b.T + squares_b


def pixels(images: np.ndarray) -> np.ndarray:
    """What images are compared by where no classifier is at hand: averages over areas, at most LARGEST x LARGEST.

    Two images that a shift of one pixel makes equal are far apart in this space, and blurred samples come out well: the
    numbers compare models of one data set, and say less than a judge does.

    Args:
      images: [N, H, W, C].
    Returns:
      [N, min(H, LARGEST) min(W, LARGEST) C], in the units of the images.
    """
    height, width = images.shape[1:3]
    rows, columns = (overlaps(size, min(size, LARGEST)) / size for size in (height, width))
    return np.einsum("ih,jw,nhwc->nijc", rows, columns, images, optimize=True).reshape(len(images), -1)


def class_shares(probabilities: np.ndarray) -> np.ndarray:
    """The share of samples whose most probable class is each: [N, C] -> [C]."""
    return np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1]) / len(probabilities)


def share_as_asked(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The share of samples whose most probable class is the one asked for: [N, C], [N]."""
    return float((probabilities.argmax(axis=1) == labels).mean())


def class_kl(shares: np.ndarray) -> float:
    """KL(shares || uniform), nats: 0 where all C classes are as frequent, log C where one is all.  sum{ s log(s C) }

    Args:
      shares: [C], summing to one.
    """
    return float(special.xlogy(shares, shares * len(shares)).sum())


def confident_share(probabilities: np.ndarray) -> float:
    """The share of samples whose largest probability is above CONFIDENT; probabilities [N, C].

    Low for blends of digits.  High does not mean digits: the classifier has seen nothing else, and is sure of noise.
    """
    return float((probabilities.max(axis=1) > CONFIDENT).mean())


def nearest(samples: np.ndarray, training: np.ndarray, count: int) -> np.ndarray:
    """The training images nearest to each sample by L2 distance of pixels, nearest first.

    Copies show.  Their absence proves little: an image moved by a pixel is near to others (Theis et al. 2016,
    arxiv.org/abs/1511.01844).

    Args:
      samples: [N, ...].
      training: [M, ...], in the same units.
      count: how many, at most M.
    Returns:
      Indices into `training`, [N, count].
    """
    found = []
    # In float32, which misplaces near ties alone: 50,000 images in float64 are 314 MB.
    for _, block in _squared_distances(_rows(samples, np.float32), _rows(training, np.float32)):
        near = np.argpartition(block, count - 1, axis=1)[:, :count]
        order = np.take_along_axis(block, near, axis=1).argsort(axis=1, kind="stable")
        found.append(np.take_along_axis(near, order, axis=1))
    return np.concatenate(found)


def _rows(images: np.ndarray, dtype: type) -> np.ndarray:
    return images.reshape(len(images), -1).astype(dtype)


def parzen(samples: np.ndarray, images: np.ndarray, sigma: float) -> np.ndarray:
    """Log-likelihood of images under Gaussian kernels on samples.  log (1/N) sum{ N(x; s[n], sigma^2 I) : n = 1..N }

    A historical metric, to compare with the papers that report it.  Goodfellow et al. warn that its variance is
    high and that it works badly in many dimensions; it is far from a model's own log-likelihood, and k-means centroids
    of MNIST score higher than real images (Theis et al. 2016, table 1, arxiv.org/abs/1511.01844).

    Args:
      samples: [N, ...], D values each, in [0, 1].
      images: [M, ...], likewise.
      sigma: bandwidth; see `parzen_sigma`.
    Returns:
      [M], nats, of a density over R^D: no more comparable with the nats of binary images than metres are.  10,000
      training images of MNIST give its test images a mean of 242.5 (Theis et al.: 243).
    Source: Goodfellow et al. (2014), section 5, arxiv.org/abs/1406.2661
    """
    samples, images = _rows(samples, np.float64), _rows(images, np.float64)
    kernels = [special.logsumexp(block / (-2 * sigma**2), axis=1) for _, block in _squared_distances(images, samples)]
    return np.concatenate(kernels) - np.log(len(samples)) - images.shape[1] * np.log(sigma * np.sqrt(2 * np.pi))


def parzen_sigma(samples: np.ndarray, validation: np.ndarray, sigmas: tuple[float, ...] = SIGMAS) -> float:
    """The sigma of `sigmas` under which `parzen` gives validation images the highest mean."""
    return max(sigmas, key=lambda sigma: parzen(samples, validation, sigma).mean())


def over_judges(values: list) -> dict:
    """What all judges together say of one quantity, for JSON.

    Args:
      values: of each judge, numbers or arrays of one shape.
    Returns:
      Their `mean`, their `spread`, which is the standard deviation (null of one judge), and `each`, judge 0's first.
    """
    each = np.asarray(values, np.float64)
    spread = each.std(axis=0, ddof=1).tolist() if len(each) > 1 else None
    return {"mean": each.mean(axis=0).tolist(), "spread": spread, "each": each.tolist()}


def score(samples: np.ndarray, dataset: Dataset, binarization: str = "none", labels: np.ndarray | None = None) -> dict:
    """All metrics of a model's samples against a dataset's test images, by its judges or, without any, by pixels.

    Args:
      samples: float32 [N, H, W, C] in [0, 1].
      dataset: its training images give the floor, its validation images choose Parzen's sigma.
      binarization: of the images that the samples are compared with: "none" for grey levels; of bits, that of the
        model, as in `Split.scored`.
      labels: [N], of the classes that the samples were asked to be of, if so.
    Returns:
      For JSON, each quantity that a judge sees as in `over_judges`.  `judges` are the SHA-256 of their weights; without
      any, `space` is "pixels", nothing is said of classes, and there is one number of each kind.  `frechet` is the
      distance of the samples from the test images, `frechet_floor` that of as many random training images,
      `frechet_ratio` one by the other: 1 is what real images reach.  `parzen` is of grey levels alone: it is a density
      over them.  Given labels, `class_asked_for` is the share of samples that a judge puts in their class, and
      `frechet_by_class` and `frechet_floor_by_class` have the distances of each class's own images, unless one of the
      sets has fewer than two.
    Raises:
      UsageError: if there are too few images for NEIGHBOURS.
      Fault: if a judge is missing or altered.
    """
    if min(len(samples), len(dataset.test.images)) <= NEIGHBOURS:
        raise UsageError(
            f"{dataset.name} has {len(dataset.test.images)} test images, with which samples cannot be compared: give "
            f"at least {NEIGHBOURS + 1}"
        )
    train = dataset.train
    size = min(len(samples), len(train.images))
    index = np.random.default_rng(SEED).choice(len(train.images), size, replace=False)
    chosen = train._replace(images=train.images[index], binary=train.binary[index])
    classes = None if labels is None else (labels, dataset.test.labels, train.labels[index])
    test, chosen = (split.scored(binarization).astype(np.float32) for split in (dataset.test, chosen))
    found = {"num_samples": len(samples)}
    if panel := judges.find(judges.name(dataset)):
        found["judges"] = [judge.sha256 for judge in panel]
        seen = [_judged(judge.load(), samples, test, chosen, classes) for judge in panel]
    else:
        found["space"] = "pixels"
        seen = [_compared(pixels(samples), pixels(test), pixels(chosen), classes)]
    found |= {name: over_judges([own[name] for own in seen]) for name in seen[0]}
    return found | ({"parzen": _parzen(samples, dataset)} if binarization == "none" else {})


def _compared(samples: np.ndarray, test: np.ndarray, training: np.ndarray, classes: tuple | None = None) -> dict:
    """How features of samples and of training images compare with those of test images; [N, F] each.

    classes: of the three, [N] each.
    """
    distance, floor = frechet_distance(samples, test), frechet_distance(training, test)
    precision, recall = precision_recall(test, samples)
    return {
        "frechet": distance,
        "frechet_floor": floor,
        "frechet_ratio": distance / floor,
        "precision": precision,
        "recall": recall,
        **(_compared_by_class((samples, test, training), classes) if classes else {}),
    }


def _compared_by_class(features: tuple, classes: tuple) -> dict[str, list[float]]:
    """Frechet distances class by class, where each has the two images of either kind that they take."""
    numbers = range(1 + max(int(own.max()) for own in classes))
    parts = [[f[own == number] for f, own in zip(features, classes, strict=True)] for number in numbers]
    if any(len(part) < 2 for own in parts for part in own):
        return {}
    return {
        "frechet_by_class": [frechet_distance(samples, test) for samples, test, _ in parts],
        "frechet_floor_by_class": [frechet_distance(training, test) for _, test, training in parts],
    }


def _judged(
    judge: Classifier, samples: np.ndarray, test: np.ndarray, training: np.ndarray, classes: tuple | None
) -> dict:
    """What one judge says; images [N, H, W, C] in [0, 1]."""
    reading = judge.read(samples)
    shares = class_shares(reading.probabilities)
    asked = {"class_asked_for": share_as_asked(reading.probabilities, classes[0])} if classes else {}
    return (
        _compared(reading.features, judge.features(test), judge.features(training), classes)
        | asked
        | {
            "class_shares": shares,
            "rarest_class": shares.min(),
            "commonest_class": shares.max(),
            "class_kl": class_kl(shares),
            "confident_share": confident_share(reading.probabilities),
        }
    )


def _parzen(samples: np.ndarray, dataset: Dataset) -> dict[str, float]:
    test, validation = (_grey(split.images) for split in (dataset.test, dataset.validation))
    sigma = parzen_sigma(samples, validation[:SIGMA_IMAGES])
    log_likelihoods = parzen(samples, test, sigma)
    error = log_likelihoods.std(ddof=1) / np.sqrt(len(log_likelihoods))
    return {"mean": float(log_likelihoods.mean()), "se": float(error), "sigma": sigma}


def _grey(images: np.ndarray) -> np.ndarray:
    """uint8 grey levels 0..255 -> float32 in [0, 1]."""
    return images.astype(np.float32) / 255
