"""The notebook, top to bottom, by nbclient: every cell runs, with its pictures. `make app-test` has a kernel."""

from __future__ import annotations

import base64
import io
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.places import ROOT

pytestmark = pytest.mark.skipif(
    find_spec("nbclient") is None or find_spec("ipykernel") is None, reason="Jupyter is not here: `make app-test`"
)
TOUR = ROOT / "examples" / "tour.ipynb"
#: Seconds of one cell, on a machine that does other things too.
PATIENCE = 600


def test_the_notebook_loads_mixes_distills_trains_and_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("TMPDIR", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    notebook = nbformat.read(TOUR, as_version=4)
    nbformat.validate(notebook)
    NotebookClient(
        notebook, timeout=PATIENCE, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    ).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [output for cell in cells for output in cell.outputs if output.output_type == "error"] == []
    told = "".join(
        output.text for cell in cells for output in cell.outputs if output.get("name") == "stdout"
    )  # fmt: skip
    for words in (
        "kohya_lora 66 layers",
        "converted in memory, exactly: dora",
        "bytes -> ",
        "$ si-hub push",
        "user/mine@",
    ):
        assert words in told
    assert str(ROOT) not in told
    assert os.fspath(tmp_path) not in told
    shown = [
        np.array(Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))))
        for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})
    ]  # fmt: skip
    assert len(shown) == 4
    assert all(picture.std() > 20 for picture in shown)
