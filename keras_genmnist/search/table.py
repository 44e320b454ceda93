"""The trials of a study as rows, for a table, a file and figures."""

import csv
import io

from optuna.trial import FrozenTrial, TrialState

from keras_genmnist.search.study import MAXIMISED, UNITS, Study

STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
SHOWN = 10  # of the best, and of the failed


def label(objective: str) -> str:
    """The name of an objective with its unit."""
    unit = UNITS.get(objective)
    shown = objective.upper() if objective in ("elbo", "iwae", "nll") else objective
    return f"{shown} ({unit})" if unit else shown


def rows(study: Study) -> list[dict]:
    """The trials by number: what each was, what it gave, and where it is.

    Of a pruned trial, the value is that of its best epoch; of a failed one, there is a reason.
    """
    return [_row(study, trial) for trial in study.trials]


def _row(study: Study, trial: FrozenTrial) -> dict:
    names = study.record.objectives
    values = dict.fromkeys(names)
    if trial.state == TrialState.COMPLETE:
        values = dict(zip(names, trial.values, strict=True))
    elif trial.intermediate_values:
        values[names[0]] = (max if names[0] in MAXIMISED else min)(trial.intermediate_values.values())
    reason = ""
    if trial.state == TrialState.FAIL:
        reason = trial.user_attrs.get("reason", "its worker was lost")
    return {
        "trial": trial.number,
        "state": STATES[trial.state],
        **values,
        **{field: trial.params.get(field) for field in study.space},
        "epochs": trial.user_attrs.get("epochs"),
        "minutes": round(trial.user_attrs["minutes"], 3) if "minutes" in trial.user_attrs else None,
        "run": trial.user_attrs.get("run"),
        "worker": trial.user_attrs.get("worker"),
        "reason": reason,
    }


def table(study: Study) -> str:
    """The best trials, how many there are of each kind, and why some failed."""
    found, name = rows(study), study.record.objectives[0]
    best = sorted(
        (row for row in found if row["state"] == "complete"),
        key=lambda row: row[name],
        reverse=name in MAXIMISED,
    )
    columns = ["trial", *study.record.objectives, "epochs", "minutes", *study.space]
    cells = [[{n: label(n) for n in study.record.objectives}.get(column, column) for column in columns]]
    cells += [[shown(row[column]) for column in columns] for row in best[:SHOWN]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    counts = {state: sum(row["state"] == state for row in found) for state in STATES.values()}
    lines.append(f"{len(found)} trials: " + ", ".join(f"{count} {state}" for state, count in counts.items() if count))
    failed = [row for row in found if row["state"] == "failed"]
    lines += [f"trial {row['trial']} failed: {row['reason']}" for row in failed[:SHOWN]]
    return "\n".join(lines)


def shown(value) -> str:
    """A cell: numbers with four digits or two decimals."""
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) >= 10 else f"{value:.4g}"
    return "" if value is None else str(value)


def as_csv(study: Study) -> bytes:
    """All trials, with a heading."""
    found = rows(study)
    text = io.StringIO()
    writer = csv.DictWriter(text, found[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return text.getvalue().encode()
