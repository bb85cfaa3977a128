"""Where an export goes, and what may be in its way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from si_hub.errors import FileAccessError
from si_hub.exporting.files import ExportFile, check_outputs, place_output, write_files
from si_hub.storage.tensors import Tensor


@pytest.mark.parametrize(
    ("source", "output", "folder", "expected"),
    [
        ("a/x.styleinject.safetensors", None, False, "a/x.kohya.safetensors"),
        ("a/x.safetensors", None, False, "a/x.kohya.safetensors"),
        ("a/x.pt", None, False, "a/x.kohya.safetensors"),
        ("a/x.v1", None, False, "a/x.v1.kohya.safetensors"),
        ("a/x.safetensors", None, True, "a/x.kohya"),
        ("a/x.safetensors", "new.safetensors", False, "new.safetensors"),
        ("a/x.safetensors", "new/", False, "new/x.kohya.safetensors"),
        ("a/x.safetensors", "new/", True, "new/x.kohya"),
        ("a/x.safetensors", "new", True, "new"),
    ],
)
def test_it_lies_beside_the_source_unless_said_otherwise(
    source: str, output: str | None, folder: bool, expected: str
) -> None:
    assert place_output(Path(source), output, "kohya", folder=folder) == Path(expected)


def test_a_folder_that_is_there_takes_a_file(tmp_path: Path) -> None:
    assert place_output(Path("x.safetensors"), tmp_path, "comfy") == tmp_path / "x.comfy.safetensors"


def test_a_configuration_lies_beside_its_tensors(tmp_path: Path) -> None:
    tensors = {"a": Tensor.from_bytes("F16", (2,), bytes(4)), "b": Tensor.from_bytes("F32", (1,), bytes(4))}
    file = ExportFile(tmp_path / "deep" / "folder", tensors, metadata={"format": "pt"}, config={"r": 2})
    told: list[tuple[int, int]] = []
    size = write_files([file], False, lambda done, total: told.append((done, total)))
    assert told[-1] == (8, 8)
    assert size == file.weights.stat().st_size
    assert set(load_file(file.weights)) == {"a", "b"}
    assert json.loads((file.path / "adapter_config.json").read_text("utf-8")) == {"r": 2}
    with pytest.raises(FileAccessError, match="already exists"):
        check_outputs(tmp_path / "other", [file], False)
    check_outputs(tmp_path / "other", [file], True)
    with pytest.raises(FileAccessError, match="is the source itself"):
        check_outputs(file.weights, [file], True)
