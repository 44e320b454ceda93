"""How likely images are to a model, in nats per image: bounds by draws, or what the model knows exactly."""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_genmnist import bounds, files, importance, memory, progress, quadrature
from keras_genmnist.datasets import eval_batches
from keras_genmnist.models.base import LatentVariableModel, TractableModel, active_units
from keras_genmnist.proposals import PROPOSALS

BATCH = 100
DRAWS_PER_CALL = 50  # with the batch, 5,000 decoder rows: enough to fill the cores, and 16 MB of logits
FEW = 10  # an effective sample size with which log p(x) is a matter of luck
TRUSTED_SHARE = 0.01  # of images with so few draws or such a tail; a NLL with more is called an upper bound


def require_memory(num_draws: int) -> None:
    """Checks that the log weights of a batch fit in memory: as TensorFlow gives them, joined, and as float64.

    Raises:
      UsageError: naming what they take and what there is.
    """
    memory.require((4 + 4 + 8) * BATCH * num_draws, f"--num_draws={num_draws}", "give fewer")


class Measured(NamedTuple):
    """What is known of N images.

    scores: means and standard errors over the images, nats.
    per_image: the same image by image, by the name of the column, [N] each: log_px and, of latent variables, elbo, kl,
      ess and pareto_k.
    """

    scores: dict
    per_image: dict[str, np.ndarray]


def weighted(
    model: LatentVariableModel,
    images: np.ndarray,
    num_draws: int,
    label: str,
    proposal: str = "posterior",
    integrate: bool = False,
) -> Measured:
    """ELBO and its terms, importance-weighted NLL, and how much of the latent space is used.

    NLL = -log (1/S) sum{ p(x, z[s]) / q(z[s] | x) : s = 1..S }

    Args:
      model: the model.
      images: [N, H, W, C], binary or, of a model of grey levels, of levels k / 255.
      num_draws: S.
      label: of the progress bar.
      proposal: of PROPOSALS, what q is here; the ELBO is that of the draws from the posterior among these.
      integrate: whether log p(x) is found by quadrature; then the importance-weighted NLL stands beside it.
    Returns:
      `layers` among the scores, where there are several, from the lowest up; of a model of grey levels also
      `bits_per_dimension` of the ELBO, negated, and of the NLL: nats / (H W C log 2).
    Source: Burda et al. (2016), section 3 and appendix C, arxiv.org/abs/1509.00519
    """

    # Not by XLA: of a core, a draw of vae, iaf and ladder takes 2.0, 1.5 and 3.1 times as long.
    @tf.function(autograph=model.autograph)
    def score(x, num_samples, seed):
        terms, log_w = PROPOSALS[proposal](model, x, num_samples, seed)
        bound = tf.concat([bounds.reconstruction(terms)[None], bounds.layer_kl(terms)], axis=0)
        return bound, tf.shape(terms.log_likelihood)[0], log_w

    encode = tf.function(model.encode, autograph=model.autograph)
    columns, weights, means = [], [], []
    batches = eval_batches(images, BATCH)
    for b, x in enumerate(progress.batches(batches, label)):
        calls = [
            [part.numpy() for part in score(x, min(DRAWS_PER_CALL, num_draws - start), tf.constant([b, start]))]
            for start in range(0, num_draws, DRAWS_PER_CALL)
        ]
        parts, counts, log_w = zip(*calls, strict=True)
        columns.append(np.average(np.array(parts, np.float64), axis=0, weights=counts))
        weights.append(_weighed(np.concatenate(log_w).astype(np.float64)))
        means.append(encode(x)["z"].numpy())
    reconstruction, *layer_kl = np.concatenate(columns, axis=1)
    log_px, ess, pareto_k = np.concatenate(weights, axis=1)
    kl = np.sum(layer_kl, axis=0)
    units = active_units(np.concatenate(means), model.layer_sizes)
    by_draws = mean_and_error(-log_px) | {"num_draws": num_draws, "proposal": proposal} | _tail(ess, pareto_k)
    nll = {"nll": by_draws}
    if integrate:
        log_px, *differences = quadrature.log_prob(model, images, label)
        checks = zip(("grid_difference", "rule_difference"), differences, strict=True)
        checks = {name: float(difference.max()) for name, difference in checks}
        nll = {"nll": mean_and_error(-log_px) | {"num_draws": "quadrature"} | checks, "weighted_nll": by_draws}
    scores = {
        "num_images": len(images),
        "elbo": mean_and_error(reconstruction - kl),
        "kl": mean_and_error(kl),
        "reconstruction": mean_and_error(reconstruction),
        **nll,
        "active_units": sum(units),
        "latent_size": model.latent_size,
    }
    if len(model.layer_sizes) > 1:
        scores["layers"] = [
            {"kl": mean_and_error(own), "active_units": count, "latent_size": size}
            for own, count, size in zip(layer_kl, units, model.layer_sizes, strict=True)
        ]
    elbo = reconstruction - kl
    if not model.draws_bits:
        nats = math.prod(model.image_shape) * math.log(2)
        bits = {"negative_elbo": -elbo / nats, "nll": -log_px / nats}
        scores["bits_per_dimension"] = {name: mean_and_error(values) for name, values in bits.items()}
    return Measured(scores, {"log_px": log_px, "elbo": elbo, "kl": kl, "ess": ess, "pareto_k": pareto_k})


def _weighed(log_w: np.ndarray) -> np.ndarray:
    """log p(x), effective sample size and Pareto k by log weights [S, B]: [3, B]."""
    functions = (importance.log_mean, importance.effective_sample_size, importance.pareto_k)
    return np.array([function(log_w) for function in functions])


def _tail(ess: np.ndarray, pareto_k: np.ndarray) -> dict:
    """How many draws count, and of how many images too few do."""
    few_draws = bool(np.isnan(pareto_k).any())
    return {
        "ess": float(ess.mean()),
        "ess_least": float(ess.min()),
        "ess_percentile_1": float(np.quantile(ess, 0.01)),
        "share_ess_below_10": float((ess < FEW).mean()),
        "share_pareto_k_above_0.7": None if few_draws else float((pareto_k > importance.RELIABLE_K).mean()),
    }


def doubt(scores: dict) -> str | None:
    """Why the NLL among the scores is not to be trusted, in a line, if it is not."""
    nll = scores["nll"]
    if nll.get("num_draws") == "quadrature":
        if _error(nll) > quadrature.TOLERANCE:
            return f"the quadrature of log p(x) is off by up to {_error(nll):.2g} nats for an image"
    elif nll.get("num_draws", FEW) < FEW:
        return f"the NLL is only an upper bound in expectation: it is by {nll['num_draws']} draws, few for any image"
    elif "ess" in nll:
        share = nll["share_pareto_k_above_0.7"] or 0.0
        if max(share, nll["share_ess_below_10"]) > TRUSTED_SHARE:
            return (
                f"the NLL is only an upper bound in expectation: fewer than {FEW} of the {nll['num_draws']:,} draws "
                f"count for {nll['share_ess_below_10']:.1%} of the images, and the weights of {share:.1%} have a "
                f"Pareto k above {importance.RELIABLE_K}"
            )
    return None


def exact(model: TractableModel, images: np.ndarray) -> Measured:
    """The NLL of a model that knows it; among the scores of one of several orders, also that of each alone.

    Args:
      model: the model.
      images: uint8 [N, H, W, C], binary.
    """
    several = hasattr(model, "log_likelihood_by_order")
    function = model.log_likelihood_by_order if several else model.log_likelihood
    log_prob = tf.function(function, autograph=model.autograph, reduce_retracing=True)
    batches = progress.batches(eval_batches(images, BATCH), "likelihood")
    found = np.concatenate([log_prob(x).numpy().astype(np.float64) for x in batches], axis=-1)
    log_px = importance.log_mean(found) if several else found
    scores = {"num_images": len(images), "nll": mean_and_error(-log_px)}
    if several:
        scores["orders"] = [mean_and_error(-own) for own in found]
    return Measured(scores, {"log_px": log_px})


def rows(scores: dict) -> dict[str, Callable[[dict], str]]:
    """How a table shows scores like these: the label of a row -> its cell for the scores of a split."""

    def nats(key):
        return lambda score: f"{score[key]['mean']:.2f} +- {score[key]['se']:.2f}"

    def order(number):
        return lambda score: f"{score['orders'][number]['mean']:.2f} +- {score['orders'][number]['se']:.2f}"

    if "elbo" not in scores:
        numbers = range(len(scores.get("orders", [])))
        alone = {f"  order {number + 1} alone": order(number) for number in numbers}
        return {"exact NLL": nats("nll")} | alone
    by_draws = "weighted_nll" if "weighted_nll" in scores else "nll"

    def draws(key, form):
        def cell(score):
            value = score[by_draws][key]
            return "-" if value is None else format(value, form)

        return cell

    def units(score):
        return f"{score['active_units']} of {score['latent_size']}"

    def layer(number):
        return lambda score: f"{score['layers'][number]['kl']['mean']:.2f}, {units(score['layers'][number])}"

    found = {"ELBO": nats("elbo"), "KL": nats("kl"), "reconstruction": nats("reconstruction"), "NLL": nats("nll")}
    if by_draws != "nll":
        found |= {
            "  by quadrature, within": lambda score: f"{_error(score['nll']):.4f}",
            "NLL by draws": nats(by_draws),
        }
    found |= {
        "draws for the NLL": draws("num_draws", ","),
        "  from": draws("proposal", ""),
        "effective sample size": draws("ess", ".1f"),
        "  first percentile": draws("ess_percentile_1", ".1f"),
        "  least": draws("ess_least", ".1f"),
        "  share below 10": draws("share_ess_below_10", ".1%"),
        "share of k above 0.7": draws("share_pareto_k_above_0.7", ".1%"),
        "active units": units,
    }
    if "bits_per_dimension" in scores:

        def bits(key):
            def cell(score):
                value = score["bits_per_dimension"][key]
                return f"{value['mean']:.4f} +- {value['se']:.4f}"

            return cell

        found |= {"-ELBO, bits/dimension": bits("negative_elbo"), "NLL, bits/dimension": bits("nll")}
    layers = range(len(scores.get("layers", [])))
    return found | {f"layer {number + 1}: KL, active": layer(number) for number in layers}


def write(path: Path, per_image: dict[str, np.ndarray], labels: np.ndarray | None) -> None:
    """Writes what is known of each image, a row each, with its index and its label, if there are labels.

    Args:
      path: .npz for arrays of NumPy, else comma-separated.
      per_image: of Measured.
      labels: [N].
    Raises:
      UsageError: if the path cannot be written.
    """
    columns = {"index": np.arange(len(per_image["log_px"]))} | ({} if labels is None else {"label": labels}) | per_image
    if path.suffix == ".npz":
        content = io.BytesIO()
        np.savez(content, **columns)
        files.write(path, content.getvalue())
    else:
        table = [columns, *zip(*(column.tolist() for column in columns.values()), strict=True)]
        files.write(path, "".join(f"{','.join(map(str, row))}\n" for row in table).encode())
    print(f"wrote {path}")


def _error(nll: dict) -> float:
    """How far off two checks of a quadrature are at most, nats."""
    return max(nll["grid_difference"], nll["rule_difference"])


def mean_and_error(values: np.ndarray) -> dict[str, float]:
    """The mean over images and its standard error."""
    return {"mean": float(values.mean()), "se": float(values.std(ddof=1) / np.sqrt(len(values)))}
