"""Executes notebooks: `python scripts/notebooks.py notebooks/homework.py` writes notebooks/homework.ipynb.

The text is that of the .py file, which is the one to edit; the .ipynb beside it holds what its cells show.
"""

import base64
import io
import re
import sys
import tempfile
from pathlib import Path

import jupytext
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

WIDGET = "application/vnd.jupyter.widget-view+json"
# What TensorFlow's C++ code says of the machine that it is on.
LOG = re.compile(
    r"(WARNING: All log messages before absl|[IWE]\d{4} \d\d:\d\d:\d+|To enable the following instructions:).*"
)
COLOURS = 64  # of a picture: digits need no more, and take a third of the room
SECONDS = 3600  # after which a cell is taken to hang


def execute(path: Path) -> NotebookNode:
    """The notebook of a .py file with what its cells show, executed in an empty folder.

    Raises:
      nbclient.exceptions.CellExecutionError: if a cell raises.
    """
    notebook = jupytext.read(path)
    with tempfile.TemporaryDirectory() as folder:
        # Progress bars are widgets, which are gone when the kernel is: nothing is kept of them.
        settings = {"timeout": SECONDS, "store_widget_state": False, "coalesce_streams": True}
        NotebookClient(notebook, kernel_name="python3", **settings).execute(cwd=folder)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran
        if cell.cell_type == "code":
            cell.outputs = [output for output in map(_cleaned, cell.outputs) if output]
    return notebook


def _cleaned(output: NotebookNode) -> NotebookNode | None:
    """What is kept of an output, or None for nothing."""
    if output.output_type == "stream":
        lines = [line for line in output.text.splitlines(keepends=True) if line.strip() and not LOG.match(line)]
        output.text = "".join(lines)
        return output if lines else None
    if WIDGET in output.get("data", {}):
        return None
    if "image/png" in output.get("data", {}):
        picture = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))).convert("RGB")
        content = io.BytesIO()
        picture.quantize(COLOURS).save(content, format="png", optimize=True)
        output.data["image/png"] = base64.b64encode(content.getvalue()).decode()
    return output


def write(path: Path) -> None:
    """Executes a .py file and writes the .ipynb beside it."""
    notebook = execute(path)
    for number, cell in enumerate(notebook.cells):
        cell.id = str(number)  # a random one would be another every time
    jupytext.write(notebook, path.with_suffix(".ipynb"))
    print(f"wrote {path.with_suffix('.ipynb')}, {path.with_suffix('.ipynb').stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write(Path(name))
