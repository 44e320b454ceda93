"""What the importance weights of an image's draws say: log p(x), and how far it is to be trusted.

log weights: log w[s] = log p(x, z[s]) - log (density that z[s] was drawn from), [S, B], nats.
"""

import numpy as np

RELIABLE_K = 0.7  # as in the paper below
SMALLEST = 1e-300  # of an excess: ratios of such numbers are finite


def log_mean(log_w: np.ndarray) -> np.ndarray:
    """log (1/S) sum{ w[s] }: in expectation at most log p(x).  [S, B] -> [B], nats."""
    return np.logaddexp.reduce(log_w, axis=0) - np.log(len(log_w))


def effective_sample_size(log_w: np.ndarray) -> np.ndarray:
    """(sum of weights)^2 / sum of squared weights, from 1 to S.  [S, B] -> [B]"""
    return np.exp(2 * np.logaddexp.reduce(log_w, axis=0) - np.logaddexp.reduce(2 * log_w, axis=0))


def pareto_k(log_w: np.ndarray) -> np.ndarray:
    """The shape k of the generalized Pareto distribution that the largest weights follow.

    Moments of the weights of order 1 / k and above do not exist; above RELIABLE_K, no number of draws in reach is
    enough for log p(x), which `log_mean` then puts too low.

    Args:
      log_w: [S, B], nats.
    Returns:
      [B]; NaN where S is 20 or less, which leaves no tail to fit.
    Source: Vehtari et al. (2015), "Pareto Smoothed Importance Sampling", arxiv.org/abs/1507.02646
    """
    size = int(np.ceil(min(len(log_w) / 5, 3 * np.sqrt(len(log_w)))))
    if size < 5:
        return np.full(log_w.shape[1], np.nan)
    cutoff, *tail = np.sort(log_w.astype(np.float64), axis=0)[-size - 1 :]
    # In units of the largest weight.  By expm1, as weights that are almost equal differ by rounding alone.
    excess = np.exp(tail - tail[-1]) * -np.expm1(cutoff - tail)
    k = pareto_shape(np.maximum(excess, SMALLEST))
    # Ten observations of a shape of 0.5, without which few draws give any k at all.
    return (size * k + 10 * 0.5) / (size + 10)


def pareto_shape(excess: np.ndarray) -> np.ndarray:
    """The shape k of generalized Pareto distributions, F(x) = 1 - (1 + k x / scale)^(-1/k), fitted to draws.

    The mean of b = -k / scale under an approximate posterior, on a grid, where the k of a b has a closed form.

    Args:
      excess: M draws from each of B distributions, above 0 and in ascending order, [M, B].
    Returns:
      [B]
    Source: Zhang & Stephens (2009), "A New and Efficient Estimation Method for the Generalized Pareto Distribution",
    section 3, doi.org/10.1198/tech.2009.08017; with their k of the opposite sign
    """
    count = len(excess)
    grid = 30 + int(np.sqrt(count))
    quartile, largest = excess[int(count / 4 + 0.5) - 1], excess[-1]
    steps = 1 - np.sqrt(grid / (np.arange(1, grid + 1) - 0.5))
    b = 1 / largest + steps[:, None] / (3 * quartile)  # [grid, B], below 1 / largest
    k = np.log1p(-b[:, None] * excess).mean(axis=1)
    log_likelihood = count * (np.log(-b / k) - k - 1)
    weights = np.exp(log_likelihood - np.logaddexp.reduce(log_likelihood, axis=0))
    return np.log1p(-(weights * b).sum(axis=0) * excess).mean(axis=0)
