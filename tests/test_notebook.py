"""The notebooks run from their own folder and from the root, leave nothing behind, and are kept without outputs."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def files():
    """Everything in the checkout but what Python and its tools keep for themselves."""
    own = {".git", ".venv", "__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
    found = set()
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in own]
        found |= {os.path.join(folder, name) for name in names}
    return found


def test_there_is_a_notebook():
    assert [path.name for path in NOTEBOOKS] == ["from_folder_to_prediction.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_outputs_are_kept(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert code_cells(notebook)
    kept = [cell.source for cell in code_cells(notebook) if cell.outputs or cell.execution_count is not None]
    assert kept == [], "clear the outputs before you save: 'Restart and clear outputs of all cells'"
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("start", [pytest.param("", marks=pytest.mark.slow), "notebooks"])
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_leaves_nothing_in_the_tree(path, start, tmp_path, monkeypatch):
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "TMPDIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before, notebook = files(), nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(ROOT / start)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    assert files() == before
    assert not list((tmp_path / "TMPDIR").glob("tmp*"))  # how `tempfile` names folders

    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    pictures = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    printed = "".join(output.text for output in outputs if output.get("name") == "stdout")
    assert len(pictures) == 2 and "context: nearest words" in printed
    predicted = [line.split() for line in printed.splitlines() if line.startswith(("star ", "house ", "fish "))]
    assert len(predicted) == 3 and all(len(line) == 7 for line in predicted)  # a class, then three with probabilities
