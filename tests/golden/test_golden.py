from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from si_hub import format
from si_hub.adapter import LEAVES, TRANSFORMS
from si_hub.storage.header import read_safetensors

HERE = Path(__file__).parent
FILES = sorted((HERE / "1.0").glob("*.safetensors"))
golden = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def test_there_are_golden_files() -> None:
    assert len(FILES) == 10


@golden
def test_reading_and_writing_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    written = format.write(format.read(path, verify=True), tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    file = read_safetensors(path)
    assert written.identity == format.identity(format.read_document(file), file)


@golden
def test_a_golden_file_is_valid(path: Path) -> None:
    assert format.validate(path) == format.read(path)


@golden
def test_the_safetensors_library_loads_a_golden_file(path: Path) -> None:
    with safe_open(path, "pt") as opened:
        assert set(opened.keys()) == set(read_safetensors(path).tensors)
        assert json.loads(opened.metadata()["styleinject"])["format_version"] == "1.0"
        assert opened.metadata()["format"] == "pt"


@pytest.mark.parametrize("seed", ["0", "1", "4294967295"])
def test_another_process_makes_the_same_bytes_whatever_its_hash_seed(seed: str, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, str(HERE / "make.py"), str(tmp_path)], check=True, env={**os.environ, "PYTHONHASHSEED": seed}
    )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {p.name: p.read_bytes() for p in FILES}


def test_together_the_golden_files_hold_every_leaf_and_setting() -> None:
    adapters = [format.read(path) for path in FILES]
    names = {name for path in FILES for name in read_safetensors(path).tensors}
    assert {leaf for leaf in LEAVES if any(name.endswith("." + leaf) for name in names)} == set(LEAVES)
    components = [component for adapter in adapters for component in adapter.components.values()]
    layers = [layer for component in components for layer in component.layers.values()]
    assert {layer.transform for layer in layers} == set(TRANSFORMS)
    assert {layer.branches for layer in layers} == {0, 1, 3}
    assert {layer.groups for layer in layers} == {1, 2, 4}
    assert any(component.embeddings for component in components)
    assert any(adapter.branches for adapter in adapters)
    dtypes = {tensor.dtype for path in FILES for tensor in read_safetensors(path).tensors.values()}
    assert dtypes == {"F64", "F32", "F16", "BF16", "I8"}
