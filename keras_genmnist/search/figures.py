"""What a search found, as figures: its history, what matters, and where the good trials are."""

import matplotlib
import matplotlib.cm
import matplotlib.colors
import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure

from keras_genmnist.figures import Drawing, plain
from keras_genmnist.search.space import Range
from keras_genmnist.search.study import MAXIMISED, Study
from keras_genmnist.search.table import label, rows

COLOURS = "viridis"
WORST = 0.2  # share of the trials that may lie outside of a figure: the first draws are far from all others


def history(study: Study) -> Figure:
    """The value of each trial, and the best so far."""
    figure, axis = _figure(7, 4)
    name, done = study.record.objectives[0], _done(study)
    best = np.maximum.accumulate if name in MAXIMISED else np.minimum.accumulate
    low, high = _limits([row[name] for row in done])
    for state, marker, text in (("complete", "o", "complete"), ("pruned", "x", "pruned, at its best epoch")):
        some = [row for row in done if row["state"] == state]
        if some:
            shown = np.clip([row[name] for row in some], low, high)
            axis.plot([row["trial"] for row in some], shown, marker, color="C0", label=text, alpha=0.7, clip_on=False)
    complete = [row for row in done if row["state"] == "complete"]
    if complete:
        values = best([row[name] for row in complete])
        axis.step([row["trial"] for row in complete], values, where="post", color="C1", label="best so far")
    failed = [row["trial"] for row in rows(study) if row["state"] == "failed"]
    if failed:
        edge = low if name in MAXIMISED else high
        axis.plot(failed, [edge] * len(failed), "|", color="C3", markersize=12, label="failed", clip_on=False)
    axis.set(xlabel="trial", ylabel=f"validation {label(name)}", ylim=(low, high))
    axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axis.legend()
    return _titled(figure, study, "History")


def importance(study: Study) -> Figure:
    """How much each field tells of the first objective."""
    found = dict(sorted(study.importances().items(), key=lambda item: item[1]))
    figure, axis = _figure(7, 1.4 + 0.4 * len(found))
    bars = axis.barh(list(found), list(found.values()), color="C0")
    axis.bar_label(bars, [f"{100 * share:.0f}%" for share in found.values()], padding=3)
    axis.set(xlabel=f"importance for the validation {label(study.record.objectives[0])}, by PED-ANOVA", xlim=(0, 1.1))
    axis.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1))
    number = sum(row["state"] == "complete" for row in rows(study))
    return _titled(figure, study, f"Importance, by {number} complete trials")


def parallel(study: Study) -> Figure:
    """A line for each trial, through its values and what they gave; the good ones on top."""
    name, done = study.record.objectives[0], _done(study)
    low, high = _limits([row[name] for row in done])
    fields = list(study.space)
    figure, axis = _figure(2 + 1.6 * (len(fields) + 1), 4.5)
    colour = matplotlib.colormaps[COLOURS]
    for row in sorted(done, key=lambda row: row[name], reverse=name not in MAXIMISED):
        height = (np.clip(row[name], low, high) - low) / (high - low)
        heights = [_height(study, field, row[field]) for field in fields] + [height]
        good = height if name in MAXIMISED else 1 - height
        axis.plot(heights, color=colour(good), alpha=0.3 + 0.7 * good, linewidth=1 + good)
    for place, field in enumerate([*fields, name]):
        axis.axvline(place, color="black", linewidth=0.8)
        ticks = [(0, f"{low:.4g}"), (1, f"{high:.4g}")] if field == name else _ticks(study, field)
        for height, text in ticks:
            box = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1}
            axis.text(place + 0.03, height, text, fontsize=8, va="center", bbox=box)
    axis.set(xticks=range(len(fields) + 1), xticklabels=[*fields, label(name)], yticks=[], ylim=(-0.05, 1.05))
    axis.set_xlim(-0.1, len(fields) + 0.35)
    for side in ("top", "bottom", "left", "right"):
        axis.spines[side].set_visible(False)
    return _titled(figure, study, "Trials, a line each")


def slices(study: Study) -> Figure:
    """What each value of each field gave."""
    name, done, fields = study.record.objectives[0], _done(study), list(study.space)
    low, high = _limits([row[name] for row in done])
    colours = matplotlib.colors.Normalize(0, max(1, done[-1]["trial"]))
    columns = min(3, len(fields))
    lines = -(-len(fields) // columns)
    figure = Drawing(figsize=(1.2 + 3 * columns, 0.6 + 3 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axis, field in zip(axes.flat, fields, strict=False):
        over = study.space[field]
        for state, marker in (("complete", "o"), ("pruned", "x")):
            some = [row for row in done if row["state"] == state]
            places = [row[field] if isinstance(over, Range) else over.values.index(row[field]) for row in some]
            heights, numbers = np.clip([row[name] for row in some], low, high), [row["trial"] for row in some]
            axis.scatter(places, heights, c=numbers, norm=colours, cmap=COLOURS, s=25, marker=marker)
        if isinstance(over, Range) and over.log:
            axis.set_xscale("log")
            ticks = np.geomspace(over.low, over.high, 4)
            form = ".0f" if isinstance(over.low, int) else ".2g"
            axis.set_xticks(ticks, [format(tick, form) for tick in ticks])
            axis.minorticks_off()
        elif isinstance(over, Range):
            axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4, integer=isinstance(over.low, int)))
        else:
            axis.set_xticks(range(len(over.values)), list(map(str, over.values)))
            axis.set_xlim(-0.5, len(over.values) - 0.5)
        axis.set(xlabel=field)
        axis.grid(alpha=0.3)
    margin = 0.03 * (high - low)
    axes[0, 0].set_ylim(low - margin, high + margin)
    for axis in axes[:, 0]:
        axis.set_ylabel(f"validation {label(name)}")
    for axis in axes.flat[len(fields) :]:
        axis.set_axis_off()
    bar = matplotlib.cm.ScalarMappable(colours, COLOURS)
    figure.colorbar(bar, ax=axes, label="trial", ticks=matplotlib.ticker.MaxNLocator(integer=True))
    return _titled(figure, study, "Slices, pruned trials crossed")


def pareto(study: Study) -> Figure:
    """The first two objectives of all trials, and the front: no trial is better in one and no worse in the others."""
    one, other = study.record.objectives[:2]
    figure, axis = _figure(7, 4.5)
    front = {trial.number for trial in study.best}
    complete = [row for row in rows(study) if row["state"] == "complete"]
    for some, colour, text in (
        ([row for row in complete if row["trial"] not in front], "C0", "other trials"),
        ([row for row in complete if row["trial"] in front], "C1", "Pareto front"),
    ):
        axis.plot([row[other] for row in some], [row[one] for row in some], "o", color=colour, label=text)
    for row in complete:
        if row["trial"] in front:
            axis.annotate(row["trial"], (row[other], row[one]), xytext=(4, 4), textcoords="offset points", fontsize=8)
    low, high = _limits([row[one] for row in complete])
    margin = 0.05 * (high - low)
    axis.set(xlabel=label(other), ylabel=f"validation {label(one)}", ylim=(low - margin, high + margin))
    axis.legend()
    return _titled(figure, study, "Two objectives")


FIGURES = {
    "history": history,
    "importance": importance,
    "parallel_coordinates": parallel,
    "slice": slices,
    "pareto": pareto,
}


def names(study: Study) -> list[str]:
    """The figures that a study has: "pareto" is one of several objectives."""
    return [name for name in FIGURES if name != "pareto" or len(study.record.objectives) > 1]


def _done(study: Study) -> list[dict]:
    """The trials that have a value."""
    name = study.record.objectives[0]
    return [row for row in rows(study) if row["state"] in ("complete", "pruned") and row[name] is not None]


def _limits(values: list[float]) -> tuple[float, float]:
    """From the lowest value to the highest, without those that are far from all others; these are drawn at the edge."""
    values = np.sort(values)
    inner = values[int(WORST * len(values) / 2) : len(values) - int(WORST * len(values) / 2)]
    spread = (inner[-1] - inner[0]) or abs(inner[0]) or 1.0
    return max(values[0], inner[0] - spread) - 0.05 * spread, min(values[-1], inner[-1] + spread) + 0.05 * spread


def _height(study: Study, field: str, value) -> float:
    """Where a value is on its axis, from 0 to 1."""
    over = study.space[field]
    if not isinstance(over, Range):
        return over.values.index(value) / (len(over.values) - 1)
    place = np.log if over.log else float
    return float((place(value) - place(over.low)) / (place(over.high) - place(over.low)))


def _ticks(study: Study, field: str) -> list[tuple[float, str]]:
    over = study.space[field]
    return [
        (_height(study, field, value), f"{value:.3g}" if isinstance(value, float) else str(value))
        for value in over.ends
    ]


def _figure(width: float, height: float):
    figure = Drawing(figsize=(width, height), layout="constrained")
    axis = figure.subplots()
    axis.grid(alpha=0.3)
    return figure, axis


def _titled(figure: Figure, study: Study, text: str) -> Figure:
    record = study.record
    name = study.name if study.name == record.model else f"{study.name} ({record.model})"
    epochs = f"{record.epochs} epoch{'s' * (record.epochs != 1)}"
    figure.suptitle(plain(f"{text}: {name} on {record.config['dataset']}, trials of {epochs}"), fontsize=11)
    return figure
