"""Execute the examples into the notebooks of the site: `nox -s examples -- 01 02`.

A cell that fails stops it, and the notebook that was there stays. The code of a notebook is
that of its script; a test holds them together.
"""

import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

from kdcore._files import replacing
from kdcore.training import provenance

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
NOTEBOOKS = ROOT / "docs" / "tutorial"
LONGEST = 40  # lines of one output
# A figure is kept in two forms. Its label says what there is to see, for those who do not.
SETUP = """
import base64, html, io, os, sys
sys.path.insert(0, "examples")  # where they find their settings
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import matplotlib
from matplotlib.figure import Figure
from kdcore.evaluation import figures

def _both(figure):
    def image(scheme):
        figures.recolor(figure, scheme)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110, transparent=True)
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    if not figure.get_label():
        raise ValueError("A figure of an example needs figure.set_label(...): what it shows.")
    dark, light = image("dark"), image("light")
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">'
    alt = html.escape(str(figure.get_label()), quote=True)
    return f'<picture class="kd-figure">{source}<img alt="{alt}" src="{light}"></picture>'

get_ipython().run_line_magic("matplotlib", "inline")
get_ipython().display_formatter.formatters["text/html"].for_type(Figure, _both)
get_ipython().display_formatter.formatters["image/png"].pop(Figure, None)
"""


def main(chosen: list[str]) -> int:
    scripts = [p for p in sorted(EXAMPLES.glob("0*.py")) if not chosen or p.name[:2] in chosen]
    if len(scripts) < len(chosen):
        raise SystemExit(f"{chosen}: the examples are 00 to 08.")
    NOTEBOOKS.mkdir(parents=True, exist_ok=True)
    for script in scripts:
        start = time.monotonic()
        notebook = execute(notebook_of(script))
        seconds = time.monotonic() - start
        notebook.metadata["kdcore"] = {
            **provenance(),
            "script": script.name,
            "seed": 0,
            "tier": os.environ.get("KDCORE_TIER", "quick"),
            "seconds": round(seconds),
            "date": datetime.now(UTC).date().isoformat(),
        }
        with replacing(NOTEBOOKS / f"{script.stem}.ipynb") as temporary:
            temporary.write_text(nbformat.writes(notebook) + "\n", "utf-8")
        print(f"{script.name}: {seconds:.0f} s", flush=True)
    return 0


def notebook_of(script: Path) -> nbformat.NotebookNode:
    """The script's cells, not executed."""
    notebook = jupytext.read(script, fmt="py:percent")
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        cell.metadata = nbformat.from_dict({})
    return notebook


def execute(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    setup = nbformat.v4.new_code_cell(SETUP)
    notebook.cells.insert(0, setup)
    client = NotebookClient(
        notebook, timeout=None, coalesce_streams=True, resources={"metadata": {"path": str(ROOT)}}
    )
    client.execute()
    notebook.cells.remove(setup)
    for number, cell in enumerate(c for c in notebook.cells if c.cell_type == "code"):
        cell.execution_count = number + 1
        cell.metadata.pop("execution", None)
        cell.outputs = [tidy(o) for o in cell.outputs if o.get("name") != "stderr"]
    return notebook


def tidy(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without the middle of a long text, and without the machine's paths."""
    if output.output_type == "stream":
        lines = output.text.replace(f"{ROOT}/", "").splitlines()
        if len(lines) > LONGEST:
            half = LONGEST // 2
            lines = [*lines[:half], f"… {len(lines) - LONGEST} lines …", *lines[-half:]]
        output.text = "\n".join(lines) + "\n"
    if output.get("execution_count"):
        output.execution_count = None
    return output


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
