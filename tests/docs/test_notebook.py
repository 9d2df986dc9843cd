"""The notebook, run as a reader would, in a folder of its own."""

import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "notebooks" / "first_steps.ipynb"


def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]  # not theirs
    assert not any(cell.get("outputs") for cell in notebook.cells), "committed without outputs"
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    # There and back twice, changed tokens, pictures between two, the curves.
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 5
    text = "".join(output["text"] for output in outputs if output.output_type == "stream")
    assert "tiles of 128 pixels" in text
    decibels = [float(figure) for figure in re.findall(r"([\d.]+) dB", text)]
    assert len(decibels) == 5 + 3 * 4
    assert 15 < min(decibels) < max(decibels) < 45
    rates = re.search(r"FlowMo, tiny (.*)", text)
    assert rates is not None
    assert rates[1].startswith("576 bytes")
