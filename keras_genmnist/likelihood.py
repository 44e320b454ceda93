"""How likely images are to a model, in nats per image: bounds by draws, or what the model knows exactly."""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_genmnist import bounds, files, importance, memory, quadrature, shards
from keras_genmnist.datasets import eval_batches
from keras_genmnist.models.base import (
    BoundedModel,
    GenerativeModel,
    LatentVariableModel,
    TractableModel,
    active_units,
    told,
)
from keras_genmnist.proposals import PROPOSALS

BATCH = 100
DRAWS_PER_CALL = 50  # with the batch, 5,000 decoder rows: enough to fill the cores, and 16 MB of logits
ORDERS, ORDERED_IMAGES = 4, 50  # every order of an image takes as many passes as it has pixels
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
      ess and pareto_k; of a model that knows a bound alone, elbo and its terms; of a model that takes labels as
      `_over_classes` says.
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
    labels: np.ndarray | None = None,
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
      labels: [N], of a model that takes them: all this is given the image's own, and S / C draws given each of the C
        classes make p(x) of it, see `_over_classes`.
    Returns:
      `layers` among the scores, where there are several, from the lowest up; of a model of grey levels also
      `bits_per_dimension` of the ELBO, negated, and of the NLL: nats / (H W C log 2).
    Source: Burda et al. (2016), section 3 and appendix C, arxiv.org/abs/1509.00519
    """

    # Not by XLA: of a core, a draw of vae, iaf and ladder takes 2.0, 1.5 and 3.1 times as long.
    @tf.function(autograph=model.autograph)
    def score(x, num_samples, seed, *y):
        terms, log_w = PROPOSALS[proposal](model, x, num_samples, seed, *y)
        bound = tf.concat([bounds.reconstruction(terms)[None], bounds.layer_kl(terms)], axis=0)
        return bound, tf.shape(terms.log_likelihood)[0], log_w

    most = DRAWS_PER_CALL - DRAWS_PER_CALL % model.orders  # as many of each order, but for the last call's

    def drawn(b, x, num_draws, *y):
        calls = [
            [part.numpy() for part in score(x, min(most, num_draws - start), tf.constant([b, start]), *y)]
            for start in range(0, num_draws, most)
        ]
        parts, counts, log_w = zip(*calls, strict=True)
        return np.average(np.array(parts, np.float64), axis=0, weights=counts), np.concatenate(log_w).astype(np.float64)

    encode = tf.function(model.encode, autograph=model.autograph)

    def measure(b, batch):
        x, *y = [batch] if labels is None else batch
        terms, log_w = drawn(b, x, num_draws, *y)
        found = {"terms": terms.T, "weights": _weighed(log_w).T, "means": encode(x, **told(*y))["z"].numpy()}
        if y:
            draws = max(1, num_draws // model.num_classes)
            given = [drawn(b, x, draws, np.full_like(y[0], number)) for number in range(model.num_classes)]
            by_class = [[importance.log_mean(w), terms[0] - terms[1:].sum(axis=0)] for terms, w in given]
            found["by_class"] = np.moveaxis(by_class, 2, 0)
        return found

    found = shards.rows(measure, eval_batches(images, BATCH, labels), label)
    reconstruction, *layer_kl = found["terms"].T
    log_px, ess, pareto_k = found["weights"].T
    kl = np.sum(layer_kl, axis=0)
    units = active_units(found["means"], model.layer_sizes, labels)
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
        scores["bits_per_dimension"] = _bits(model, negative_elbo=-elbo, nll=-log_px)
    given = Measured(scores, {"log_px": log_px, "elbo": elbo, "kl": kl, "ess": ess, "pareto_k": pareto_k})
    return given if labels is None else _over_classes(model, given, labels, *found["by_class"].T)


def _bits(model: GenerativeModel, **nats: np.ndarray) -> dict[str, dict]:
    """Bits per dimension of what is given in nats, [N] each."""
    bit = math.prod(model.image_shape) * math.log(2)
    return {name: mean_and_error(values / bit) for name, values in nats.items()}


def _over_classes(
    model: GenerativeModel,
    given: Measured,
    labels: np.ndarray,
    log_px: np.ndarray,
    elbo: np.ndarray | None = None,
) -> Measured:
    """What is known of images whose labels are hidden, beside what is known given the labels.

    p(x) = (1/C) sum{ p(x | y) : classes y }, as each is as likely before the image is seen.  Lower bounds of the
    log p(x | y) give one of log p(x); that of the image's own class is the one by more draws.

    Args:
      model: that takes labels.
      given: of log p(x | y), of the images' own labels.
      labels: [N].
      log_px, elbo: of log p(x | y), of every class, all by as many draws: [C, N].
    Returns:
      `elbo` and `nll` of log p(x); `label_accuracy`, the share of images whose label is the class of the highest
      log p(x | y); and as `given_label` all scores of log p(x | y).
    """
    rows = np.arange(len(labels))
    columns = {f"{name}_given_label": given.per_image[name] for name in ("log_px", "elbo") if name in given.per_image}
    columns |= {name: values for name, values in given.per_image.items() if name not in ("log_px", "elbo")}
    likeliest, means = log_px.argmax(axis=0), {}
    for name, by_class in (("log_px", log_px), ("elbo", elbo)):
        if by_class is not None:
            by_class[labels, rows] = given.per_image[name]
            means[name] = np.logaddexp.reduce(by_class, axis=0) - np.log(len(by_class))
    own = {name: value for name, value in given.scores.items() if name != "num_images"}
    drawn = {name: own["nll"][name] for name in ("num_draws", "proposal") if name in own["nll"]}
    scores = {"num_images": len(labels)} | ({"elbo": mean_and_error(means["elbo"])} if elbo is not None else {})
    scores |= {
        "nll": mean_and_error(-means["log_px"]) | drawn,
        "label_accuracy": mean_and_error((likeliest == labels).astype(np.float64)),
        "given_label": own,
    }
    if "bits_per_dimension" in own:
        scores["bits_per_dimension"] = _bits(model, negative_elbo=-means["elbo"], nll=-means["log_px"])
    return Measured(scores, means | columns | {"likeliest_class": likeliest})


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
    nll = scores.get("given_label", scores).get("nll", {})  # a bound has none
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


def exact(model: TractableModel, images: np.ndarray, labels: np.ndarray | None = None) -> Measured:
    """The NLL of a model that knows it; among the scores of one of several orders, also that of each alone.

    Args:
      model: the model.
      images: uint8 [N, H, W, C], binary.
      labels: [N], of a model that takes them; see `_over_classes`.
    """
    several = hasattr(model, "log_likelihood_by_order")
    function = model.log_likelihood_by_order if several else model.log_likelihood
    log_prob = tf.function(function, autograph=model.autograph, reduce_retracing=True)

    def read(x, *y):
        return log_prob(x, *y).numpy().astype(np.float64)

    def of_all(read):  # images [B, H, W, C] -> [..., B]
        batches = eval_batches(images, BATCH)
        found = shards.rows(lambda _, x: {"log_px": np.moveaxis(read(x), -1, 0)}, batches, "likelihood")
        return np.moveaxis(found["log_px"], 0, -1)

    def measured(found):
        log_px = importance.log_mean(found) if several else found
        scores = {"num_images": len(images), "nll": mean_and_error(-log_px)}
        if several:
            scores["orders"] = [mean_and_error(-own) for own in found]
        return Measured(scores, {"log_px": log_px})

    if labels is None:
        return measured(of_all(read))
    classes = range(model.num_classes)
    # [C, N], or with orders [C, K, N]
    found = of_all(lambda x: np.array([read(x, np.full(len(x), number)) for number in classes]))
    given = measured(found[labels, ..., np.arange(len(labels))].T)
    return _over_classes(
        model, given, labels, np.array([importance.log_mean(own) for own in found]) if several else found
    )


def bounded(
    model: BoundedModel,
    images: np.ndarray,
    num_draws: int | None,
    label: str,
    num_orders: int = 0,
    labels: np.ndarray | None = None,
    **given,
) -> Measured:
    """The bound of a model that knows no more, and a tighter one for some images of a model that draws in any order.

    elbo = E[ log p(x | order) ] <= E[ log (1/M) sum{ p(x | order m) : m = 1..M } ] <= log p(x)

    Args:
      model: the model.
      images: [N, H, W, C], binary or, of a model of grey levels, of levels k / 255; the first `bound_images` are
        scored.
      num_draws: of the bound, for each image; None where it has no noise.
      label: of the progress bar.
      num_orders: M, drawn for each of the first ORDERED_IMAGES images; 0 for none.
      labels: [N], of a model that takes them, which knows the bound without them too.
      given: what else `bound_terms` is to be told.
    Returns:
      With labels, as `given_label` the same scores, all given the image's own.
      With orders, `mixture` among the scores: of these images the `nll` by the mean over M orders, the `elbo` by the
      mean of their logs, and the `gain` of one over the other.  Of a model of codes, also their `perplexity` and how
      many there are, `num_codes`.
    """
    images = images[: model.bound_images]
    measure = tf.function(model.bound_terms, autograph=model.autograph, reduce_retracing=True)

    def measured(*y):
        def of_batch(b, batch):
            told = {"num_draws": num_draws or 1, "seed": tf.constant([0, b]), **given}
            terms = measure(*(batch if y else [batch]), **told)
            return {name: part.numpy().astype(np.float64) for name, part in terms.items()}

        terms = shards.rows(of_batch, eval_batches(images, BATCH, *y), label)
        scores = {"num_images": len(images)} | {name: mean_and_error(values) for name, values in terms.items()}
        if num_draws:
            scores["elbo"]["num_draws"] = num_draws
        if not model.draws_bits:
            scores["bits_per_dimension"] = _bits(model, negative_elbo=-terms["elbo"])
        return scores, terms

    scores, terms = measured()
    if labels is not None:
        scores["given_label"], known = measured(labels[: len(images)])
        terms |= {f"{name}_given_label": values for name, values in known.items()}
    if hasattr(model, "encode_codes"):
        encode = tf.function(model.encode_codes, autograph=model.autograph, reduce_retracing=True)
        codes = shards.rows(lambda _, x: {"codes": encode(x).numpy()}, eval_batches(images, BATCH))["codes"].ravel()
        scores |= {"perplexity": perplexity(codes), "num_codes": model.num_codes}
    if num_orders:
        in_order = tf.function(
            lambda x, seeds: model.log_prob_in_order(x, model.orders(seeds)), autograph=model.autograph
        )
        x = images[:ORDERED_IMAGES].astype(np.float32)
        seeds = [tf.stack([tf.fill([len(x)], m), tf.range(len(x))], axis=1) for m in range(num_orders)]
        found = shards.rows(lambda _, own: {"log_probs": in_order(x, own).numpy()[None]}, seeds, "orders")
        log_probs = found["log_probs"].astype(np.float64)
        log_px, mean = importance.log_mean(log_probs), log_probs.mean(axis=0)
        found = {"elbo": mean, "nll": -log_px, "gain": log_px - mean}
        scores["mixture"] = {"num_images": len(x), "num_orders": num_orders}
        scores["mixture"] |= {name: mean_and_error(values) for name, values in found.items()}
    return Measured(scores, terms)


def perplexity(codes: np.ndarray) -> float:
    """exp(entropy) of how often each code is used, as whole numbers [...]: how many are as good as in equal use."""
    shares = np.unique(codes, return_counts=True)[1] / codes.size
    return float(np.exp(-(shares * np.log(shares)).sum()))


def rows(scores: dict) -> dict[str, Callable[[dict], str]]:
    """How a table shows scores like these: the label of a row -> its cell for the scores of a split."""

    def order(number):
        return lambda score: f"{score['orders'][number]['mean']:.2f} +- {score['orders'][number]['se']:.2f}"

    if "given_label" in scores:

        def of_given(cell):
            return lambda score: cell(score["given_label"])

        def share(score):
            return f"{score['label_accuracy']['mean']:.2%} +- {score['label_accuracy']['se']:.2%}"

        found = {"ELBO, of p(x)": _nats("elbo")} if "elbo" in scores else {}
        if "nll" in scores:
            found |= {"NLL, of p(x)": _nats("nll"), "likeliest class right": share}
        found["given the label:"] = lambda score: ""
        return found | {label: of_given(cell) for label, cell in rows(scores["given_label"]).items()}
    if "elbo" not in scores:
        numbers = range(len(scores.get("orders", [])))
        alone = {f"  order {number + 1} alone": order(number) for number in numbers}
        return {"exact NLL": _nats("nll")} | alone
    if "nll" not in scores:
        return _rows_of_bound(scores)
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

    found = {"ELBO": _nats("elbo"), "KL": _nats("kl"), "reconstruction": _nats("reconstruction"), "NLL": _nats("nll")}
    if by_draws != "nll":
        found |= {
            "  by quadrature, within": lambda score: f"{_error(score['nll']):.4f}",
            "NLL by draws": _nats(by_draws),
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
        found |= {"-ELBO, bits/dimension": _bits_cell("negative_elbo"), "NLL, bits/dimension": _bits_cell("nll")}
    layers = range(len(scores.get("layers", [])))
    return found | {f"layer {number + 1}: KL, active": layer(number) for number in layers}


def _nats(key: str) -> Callable[[dict], str]:
    return lambda score: f"{score[key]['mean']:.2f} +- {score[key]['se']:.2f}"


def _bits_cell(key: str) -> Callable[[dict], str]:
    def cell(score):
        value = score["bits_per_dimension"][key]
        return f"{value['mean']:.4f} +- {value['se']:.4f}"

    return cell


def _rows_of_bound(scores: dict) -> dict[str, Callable[[dict], str]]:
    def mixture(key):
        def cell(score):
            value = score.get("mixture", {}).get(key, "")  # of the test images alone
            return f"{value['mean']:.2f} +- {value['se']:.2f}" if isinstance(value, dict) else str(value)

        return cell

    found = {"ELBO": _nats("elbo")}
    if "num_draws" in scores["elbo"]:
        found["  draws an image"] = lambda score: f"{score['elbo']['num_draws']:,}"
    found |= {label: _nats(key) for label, key in (("KL", "kl"), ("reconstruction", "reconstruction")) if key in scores}
    if "perplexity" in scores:
        found["perplexity of codes"] = lambda score: f"{score['perplexity']:.1f} of {score['num_codes']}"
    if "bits_per_dimension" in scores:
        found["-ELBO, bits/dimension"] = _bits_cell("negative_elbo")
    found["images"] = lambda score: f"{score['num_images']:,}"
    if "mixture" not in scores:
        return found
    return found | {
        f"NLL, mean of {scores['mixture']['num_orders']} orders": mixture("nll"),
        "  first images": mixture("num_images"),
        "  their ELBO": mixture("elbo"),
        "  above that": mixture("gain"),
    }


def write(path: Path, per_image: dict[str, np.ndarray], labels: np.ndarray | None) -> None:
    """Writes what is known of each image, a row each, with its index and its label, if there are labels.

    Args:
      path: .npz for arrays of NumPy, else comma-separated.
      per_image: of Measured.
      labels: [N].
    Raises:
      UsageError: if the path cannot be written.
    """
    count = len(next(iter(per_image.values())))
    columns = {"index": np.arange(count)} | ({} if labels is None else {"label": labels[:count]}) | per_image
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
