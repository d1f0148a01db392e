"""Every notebook runs from top to bottom, and the pictures it is kept with are there."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
PICTURES = {"image/png", "image/svg+xml"}
SECONDS = 180


def pictures(notebook: nbformat.NotebookNode) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum(bool(PICTURES & output.get("data", {}).keys()) for output in outputs)


def test_there_are_five():
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05"]


@pytest.mark.notebook
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_draws_what_it_is_kept_with(path):
    kept = nbformat.read(path, 4)
    assert pictures(kept) > 0
    place = {"metadata": {"path": path.parent}}
    fresh = NotebookClient(nbformat.read(path, 4), timeout=SECONDS, resources=place).execute()
    assert pictures(fresh) == pictures(kept)
