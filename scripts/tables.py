"""Writes the tables of README.md and docs/ from results/*.json.

Each stands between a line <!-- results: NAME --> and a line <!-- end -->.

Usage: python scripts/tables.py, in the root of the repository, after `genmnist evaluate --results`; `make results` does
both.
"""

import json
import re
import shlex
import statistics
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from keras_genmnist import cli
from keras_genmnist.errors import UsageError
from keras_genmnist.migrations import migrate

ROOT = Path(__file__).parent.parent
SHOWN = 11  # rows in README
LEVELS = (86, 84, 82, 81, 80, 79, 78)  # nats
SEED = re.compile(r"-seed\d+$")  # at the end of the name of a run that differs from NAME in the seed alone
START = re.compile(r"--init_from=(?:\S*/)?([^/\s]+)")  # the name of the run whose weights a training started from
PARTS = re.compile(r"--workdirs=(\S+)")  # the runs of a mixture
PLACE = re.compile(r"(?<=<!-- results: )([a-z ]+)( -->\n)(.*?)(?=<!-- end -->)", re.S)


def read(folder: Path = ROOT / "results") -> dict[str, dict]:
    """The records, by the names of their files."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def pages() -> list[Path]:
    """The files that tables are written into."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def filled(page: str, records: dict[str, dict]) -> str:
    """The text with every table made anew from the records."""
    return PLACE.sub(lambda place: place[1] + place[2] + TABLES[place[1]](records), page)


def likelihood(records: dict[str, dict], dataset: str = "mnist") -> str:
    """The likelihoods of models trained on a data set, the best first, and their spread over seeds."""
    return _likelihoods({name: own for name, own in _bits(records).items() if own["dataset"] == dataset}, records)


def best(records: dict[str, dict]) -> str:
    """The first SHOWN rows of `likelihood`."""
    head, lines = 3, likelihood(records).splitlines()
    return "\n".join(lines[: head + SHOWN]) + "\n\n"


def leaderboard(records: dict[str, dict]) -> str:
    """The least time of one core in which a model of full MNIST came below each of LEVELS.

    Only of records that say which machine trained them, for the others may have had any number of cores.
    """
    found = {name: own for name, own in _bits(records).items() if own["dataset"] == "mnist" and "test" in own}
    found = {name: own for name, own in found.items() if all(own["trained"]["machine"])}
    rows = []
    for level in LEVELS:
        below = [name for name, own in found.items() if _score(own)["mean"] <= level]
        best = min(below, key=lambda name: _core_minutes(found[name], found), default=None)
        cells = ["nobody yet", "", "", ""]
        if best:
            own = found[best]
            cells = [f"`{best}`", _nats(_score(own)), f"{_core_minutes(own, found):.0f}", f"`{own['command']}`"]
        rows.append([str(level), *cells])
    return _table("nats | config | reached | minutes of one core | command", rows)


def planar_depth(records: dict[str, dict]) -> str:
    """The likelihoods of the study scripts/planar_depth.py."""
    return _likelihoods({name: own for name, own in records.items() if _of_planar_depth(name)}, records)


def comparison(records: dict[str, dict]) -> str:
    """What `genmnist compare` found; its compare.json is copied here by hand."""
    rows = [
        [
            f"`{name}`",
            _nats(own["test"].get("elbo"), sign=-1),
            _nats(own["test"].get("nll")),
            f"{own['milliseconds_per_image']:.3f}",
            _training(own),
        ]
        for name, own in records["compare"].items()
    ]
    return _table("config | -ELBO | NLL | ms per test image | training", rows)


def gaps(records: dict[str, dict]) -> str:
    """What `genmnist gap --results` found."""
    rows = []
    for name in sorted((name for name in records if name.endswith("_gap")), reverse=True):
        for split in ("train", "test"):
            found = records[name][split]
            levels = [_nats(found[level], sign=-1) for level in ("log_px", "planar", "best", "amortized")]
            own = [_nats(found["gaps"][gap]) for gap in ("approximation", "amortization")]
            rows.append([f"`{name.removesuffix('_gap')}`", split, *levels, *own])
    return _table(
        "config | images | -log p(x) | best with planar maps | best of the family | -ELBO | approximation gap "
        "| amortization gap",
        rows,
    )


def grey_levels(records: dict[str, dict]) -> str:
    """The scores of mean images and grey levels, the lowest Frechet distance first; and what has no scores at all."""
    found, rows = _runs(records), []
    for name, own in found.items():
        weights = {"samples": own["weights"], "samples_grey": own["weights"]} | (
            {} if "test" in own else {"samples_raw": "raw"}
        )
        for key, label in weights.items():
            if own.get(key, {}).get("pixels") in ("mean images", "grey levels", "drawn grey levels"):
                score = own[key]
                parzen = f"{score['parzen']['mean']:.1f} ({score['parzen']['se']:.1f})"
                cells = [f"`{name}`", score["pixels"], label, *_judged(score), parzen, _training(own)]
                rows.append((score["frechet"]["mean"], cells))
    head = f"config | scored | weights | {JUDGED} | Parzen windows | training"
    unscored = [name for name, own in found.items() if not own.keys() & {"samples", "samples_binary"}]
    said = "No sample scores yet, for they were evaluated before there were any"
    return _table(head, [cells for _, cells in sorted(rows)]) + _listed(said, unscored)


def bits(records: dict[str, dict]) -> str:
    """The scores of drawn bits, likewise."""
    found = {name: own for name, own in _bits(records).items() if "test" in own}  # a GAN draws none
    scored = {name: own for name, own in found.items() if "samples_binary" in own}
    rows = [
        [f"`{name}`", own["weights"], *_judged(own["samples_binary"]), _training(own)]
        for name, own in sorted(scored.items(), key=lambda item: item[1]["samples_binary"]["frechet"]["mean"])
    ]
    table = _table(f"config | weights | {JUDGED} | training", rows) if rows else "\n"
    said = "No scores of drawn bits yet, for they were evaluated before there were any"
    return table + _listed(said, [name for name in found if name not in scored])


def reservations(records: dict[str, dict]) -> str:
    """The runs that cannot be repeated, and why."""
    found = {name: reason for name, own in records.items() if "command" in own and (reason := unrepeatable(own))}
    lines = [f"- `{name}` cannot be trained again as it was: {reason}.\n" for name, reason in found.items()]
    said = (
        "The config or the code of some runs has changed since, so that the command in their file trains another run "
        "now:\n\n"
    )
    return f"\n{said}{''.join(lines)}\n" if lines else "\n"


TABLES = {
    "best": best,
    "leaderboard": leaderboard,
    "likelihood": likelihood,
    "fixed binarization": partial(likelihood, dataset="binarized_mnist"),
    "all images": partial(likelihood, dataset="mnist_60k"),
    "planar depth": planar_depth,
    "comparison": comparison,
    "gaps": gaps,
    "grey levels": grey_levels,
    "bits": bits,
    "reservations": reservations,
}
JUDGED = "judges | Frechet distance | precision | recall | rarest class | commonest class | confident"


def unrepeatable(record: dict) -> str:
    """Why the recorded command, at the recorded commit, is not what would train the run again; empty if it is."""
    reasons = [
        f"the code that trained it had changes since the commit {commit[:-1]}"
        for commit in record["trained"]["commit"]
        if commit.endswith("+")
    ]
    _, verb, *arguments = shlex.split(record["command"])
    if verb != "train":  # a mixture is of runs, whose own commands its config has
        return "; ".join(reasons)
    try:
        config = cli.config_of(arguments)
    except UsageError as error:
        return "; ".join([f"its command is refused today ({re.split(r'[;.]', str(error))[0]})", *reasons])
    # A field that went since is not held against it, and one that came has the value that stands for there being none.
    trained = migrate(record["config"], record.get("schema", 1))
    changed = [f"{k} was {v} and is {config[k]} today" for k, v in trained.items() if k in config and config[k] != v]
    return "; ".join([*changed, *reasons])


def _runs(records: dict[str, dict]) -> dict[str, dict]:
    """Those of `evaluate`, without the study of planar maps and without other seeds of a run that is there."""
    found = {name: own for name, own in records.items() if "dataset" in own and not _of_planar_depth(name)}
    return {name: own for name, own in found.items() if not SEED.search(name)}


def _bits(records: dict[str, dict]) -> dict[str, dict]:
    """Those of models of bits: nats of grey levels are on another scale."""
    return {name: own for name, own in _runs(records).items() if "test" not in own or own["binarization"] != "none"}


def _of_planar_depth(name: str) -> bool:
    return name.startswith("planar_k")


def _likelihoods(shown: dict[str, dict], records: dict[str, dict]) -> str:
    rows = []
    for name, own in shown.items():
        if "test" in own:
            elbo, nll = own["test"].get("elbo"), own["test"].get("nll")
            draws = nll.get("num_draws", "exact") if nll else ""  # a bound has no NLL
            draws = f"{draws:,}" if isinstance(draws, int) else draws
            cells = [f"`{name}`", _nats(elbo, sign=-1), _nats(nll), _spread(name, records), draws, _training(own)]
            rows.append((_score(own)["mean"], cells))
    return _table("config | -ELBO | NLL | over seeds | draws | training", [cells for _, cells in sorted(rows)])


def _spread(name: str, records: dict[str, dict]) -> str:
    """The standard deviation of a run's score over it and those of other seeds, and their number."""
    others = [own for other, own in records.items() if SEED.sub("", other) == name]
    scores = [_score(own)["mean"] for own in others]
    return f"{statistics.stdev(scores):.2f} of {len(scores)}" if len(scores) > 1 else ""


def _score(record: dict) -> dict:
    """The NLL of test images, or the bound of a model that knows no more."""
    test = record["test"]
    return test.get("nll") or test["elbo"] | {"mean": -test["elbo"]["mean"]}


def _core_minutes(record: dict, records: dict[str, dict]) -> float:
    """Of training, by all the cores that it had, and of the training whose weights it started from."""
    cores = max(int(machine.split()[0]) for machine in record["trained"]["machine"])
    before = sum(_core_minutes(records[name], records) for name in START.findall(record["command"]))
    return before + cores * record["train_seconds"] / 60


def _nats(score: dict | None, sign: int = 1) -> str:
    return f"{sign * score['mean']:.2f} ({score['se']:.2f})" if score else ""


def _training(record: dict) -> str:
    command, minutes = record.get("command", ""), f"{record['train_seconds'] / 60:.1f} minutes"
    if parts := PARTS.search(command):  # what they are for a mixture, an epoch is not
        return f"{minutes} of {' and '.join(f'`{Path(part).name}`' for part in parts[1].split(','))}"
    before = "".join(f" after `{name}`" for name in START.findall(command))
    return f"{record['epochs']:,} epochs, {minutes}{before}"


def _judged(score: dict) -> list[str]:
    forms = {
        "frechet": ".2f",
        "precision": ".1%",
        "recall": ".1%",
        "rarest_class": ".1%",
        "commonest_class": ".1%",
        "confident_share": ".1%",
    }
    cells = [f"{score[name]['mean']:{form}}" for name, form in forms.items()]
    if len(score["judges"]) > 1:
        spreads = [f" ({score[name]['spread']:{form}})" for name, form in forms.items()]
        cells = [cell + spread for cell, spread in zip(cells, spreads, strict=True)]
    return [str(len(score["judges"])), *cells]


def _listed(text: str, names: Iterable[str]) -> str:
    """The text and the names after it, or nothing where there are none."""
    return f"{text}: {', '.join(f'`{name}`' for name in names)}.\n\n" if names else ""


def _table(head: str, rows: list[list[str]]) -> str:
    width = head.count("|") + 1
    lines = [f"| {head} |", "|" + "---|" * width, *(f"| {' | '.join(cells)} |" for cells in rows)]
    return "\n" + "\n".join(lines) + "\n\n"


def write() -> None:
    """Writes the tables into all pages."""
    for path in pages():
        text = path.read_text()
        if PLACE.search(text):
            path.write_text(filled(text, read()))
            print(f"wrote the tables of {path.relative_to(ROOT)}")


if __name__ == "__main__":
    write()
