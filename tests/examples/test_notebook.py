"""The notebook, as it stands, on a tiny model."""

from pathlib import Path

import pytest

from tests.conftest import REPO
from tests.tools.demo import make_model_file

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")

NOTEBOOK = REPO / "projects" / "KNet" / "examples" / "kernels.ipynb"


def run(folder: Path):
    """The notebook with its outputs; an error in a cell is one of the test."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": folder}}
    ).execute()
    return notebook


@pytest.mark.parametrize("form", ["published", "points"])
def test_every_cell_runs(tiny_options, tmp_path, monkeypatch, form):
    if form == "points":
        tiny_options.update(
            {
                "MODEL.KNET.KERNEL_HEAD.NAME": "PointKernelHead",
                "MODEL.KNET.KERNEL_UPDATE.RESIDUAL": True,
            }
        )
    weights = make_model_file(tiny_options, tmp_path / "model.pth", seed=2)
    monkeypatch.setenv("KNET_WEIGHTS", weights)
    monkeypatch.setenv("PYTHONPATH", str(REPO / "projects" / "KNet"))
    notebook = run(tmp_path)
    pictures = sum(
        "image/png" in output.get("data", {})
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    assert pictures == 6  # the picture, the result, two stages, attention, all stages


def test_it_is_kept_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.cell_type == "markdown" or not (cell.outputs or cell.execution_count)
