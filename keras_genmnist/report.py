"""`genmnist report`: one page that says what runs are, what they scored, and shows what they have learned."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
from matplotlib.figure import Figure

from keras_genmnist import config as configs
from keras_genmnist import evaluate, figures, files, likelihood, runs
from keras_genmnist.errors import Fault, UsageError
from keras_genmnist.runs import Run

DPI = 110


class Told(NamedTuple):
    """What the page tells of a run.

    run: the run.
    description: of its config, in a line.
    facts: what was trained, on what and how long, by name.
    tables: of its scores; none of a run that is not evaluated.
    doubts: what its numbers should not be taken for.
    pictures: its figures as data URIs, by name.
    """

    run: Run
    description: str
    facts: dict[str, str]
    tables: list[evaluate.Table]
    doubts: list[str]
    pictures: dict[str, str]


def report(those: Sequence[Run], out: Path) -> None:
    """Writes a self-contained HTML page: no other file, and nothing from a network.

    Args:
      those: trained runs, side by side.
      out: FILE.html.
    Raises:
      UsageError: if two runs have one name, or `out` cannot be written.
      Fault: if the data or the weights of a run are damaged, or no epoch is finished.
    """
    titles = [run.title for run in those]
    if repeated := sorted({title for title in titles if titles.count(title) > 1}):
        raise UsageError(f"two runs are called {repeated[0]}, by the names of their directories: rename one")
    told = [_told(run) for run in those]
    template = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    page = template.from_string((Path(__file__).parent / "report.html").read_text(encoding="utf-8")).render(
        title=", ".join(titles), runs=told, fields=fields(those), captions=CAPTIONS
    )
    files.write(out, page.encode())
    print(f"wrote {out}")


CAPTIONS = {
    "samples": "Draws from the model.",
    "classes": "A row a class; the latents are the same in each row.",
    "interpolation": "Between two draws of the latents, along a line.",
    "layers": "What each layer of latents decides: those above are held fixed.",
    "traversals": "One latent varied at a time, those that tell most of the image first.",
    "reconstructions": "Test images, each above its reconstruction.",
    "training_curves": "How training went.",
    "progress": "Samples of the same seeds, epoch after epoch.",
    "neighbours": "Samples above the training images nearest to them: copies would show.",
    "completion": "Images of which a part is shown, and how the model goes on.",
    "latent_means": "Test images in the plane of latents, by their class.",
    "latent_grid": "What the plane of latents decodes to.",
}


def _told(run: Run) -> Told:
    rows = runs.history(run)
    minutes, last = sum(row["seconds"] for row in rows) / 60, rows[-1]["epoch"]
    came_from = evaluate.provenance(run)["trained"]
    commits = [str(commit) for commit in came_from["commit"]]
    machines = [machine or "not known" for machine in came_from["machine"]]
    model = runs.load_model(run)
    training = f"{last} epoch{'s' * (last != 1)}, {minutes:.1f} minutes"
    facts = {
        "config": run.name,
        "images": f"{run.spec.name}, {' x '.join(map(str, run.spec.image_shape))}, {figures.pixels(run)}",
        "parameters": f"{model.num_parameters:,}",
        "training": "of its parts" if "components" in run.config else training,
        "machine": "; ".join(machines),
        "commit": ", ".join(commits),
        "command": run.command,
    }
    tables, doubts = _scores(run, last)
    pictures = {name: _uri(figure) for name, figure in figures.draw(run, [])}
    return Told(run, _described(run), facts, tables, doubts, pictures)


def _described(run: Run) -> str:
    if "components" in run.config:
        shares = zip(run.config.shares, run.config.components, strict=True)
        return f"{run.name} of " + " and ".join(f"{share:.0%} {one['model']}" for share, one in shares)
    return configs.description(run.name) if run.name in configs.names() else "a model of one's own"


def _scores(run: Run, last: int) -> tuple[list[evaluate.Table], list[str]]:
    """What `evaluate` says of the run, and what its numbers should not be taken for.

    Raises:
      Fault: if the file in which it says so is damaged.
    """
    try:
        record = _record(run, last)
        doubt = likelihood.doubt(record["test"]) if record and "test" in record else None
        return evaluate.tables(record) if record else [], [doubt] if doubt else []
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        again = f"`genmnist evaluate --workdir={run.workdir}`"
        raise Fault(f"{run.metrics_json} is damaged: write it anew by {again}") from error


def _record(run: Run, last: int) -> dict | None:
    """What `evaluate` wrote of the run, unless it went on since."""
    if not run.metrics_json.exists():
        return None
    record = files.parse_json(run.metrics_json.read_text())
    return record if record["epochs"] == last else None


def _uri(figure: Figure) -> str:
    """The figure as a PNG file inside an address."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DPI)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def fields(those: Sequence[Run]) -> dict[str, list[str]]:
    """The values of every field of a config, in each run; "" where a config has it not."""
    names = sorted({field for run in those for field in run.config})
    return {name: [str(run.config.get(name, "")) for run in those] for name in names}
