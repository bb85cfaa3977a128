from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pytest

from si_hub import format
from si_hub.adapter import Layer
from si_hub.storage.header import read_safetensors
from si_hub.storage.tensors import Tensor
from tests.places import ROOT

SCRIPT = ROOT / "examples" / "read_styleinject.py"
FILES = sorted((Path(__file__).parent / "1.0").glob("*.safetensors"))
golden = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)

Array = numpy.ndarray[Any, numpy.dtype[numpy.float64]]


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("read_styleinject", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def numbers(tensor: Tensor) -> Array:
    import torch

    array: Array = tensor.torch().to(torch.float64).numpy()
    return array


def expected_change(layer: Layer, styles: Array) -> Array:
    """The weight change entry by entry, from the formula of docs/FORMAT.md, without any trick of shapes."""
    tensors = {leaf: numbers(tensor) for leaf, tensor in layer.tensors.items()}
    change = tensors.get("weight_delta", numpy.zeros(()))
    if layer.rank:
        down, up, rank, groups = tensors["down.weight"], tensors["up.weight"], layer.rank, layer.groups
        if "core.weight" in tensors:
            core, inner = tensors["core.weight"], down
            down = numpy.zeros((core.shape[0], inner.shape[1], *core.shape[2:]))
            for row in range(core.shape[0]):
                for q in range(core.shape[1]):
                    for column in range(inner.shape[1]):
                        down[row, column] += core[row, q] * inner[q, column].item()
        product = numpy.zeros((up.shape[0], *down.shape[1:]))
        for row in range(up.shape[0]):
            group = row // (up.shape[0] // groups)
            for k in range(rank // groups):
                for branch, share in enumerate(styles):
                    product[row] += up[row, k] * share * down[branch * rank + group * (rank // groups) + k]
        alpha = rank if layer.alpha is None else layer.alpha
        change = change + alpha / rank * product
    if "kron" in tensors:
        kron = tensors["kron"]
        kernel = change.shape[2:]
        flat = change.reshape(*change.shape[:2], -1)
        change = numpy.stack([numpy.kron(kron, flat[:, :, k]) for k in range(flat.shape[2])], axis=-1)
        change = change.reshape(*change.shape[:2], *kernel)
    return change


def test_the_example_is_one_page_and_needs_numpy_alone() -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    imports = {line.split()[1] for line in text.splitlines() if line.startswith(("import ", "from "))}
    assert imports <= {"numpy", "json", "sys", "typing"}


@golden
def test_the_example_reads_what_the_package_reads(path: Path, example: ModuleType) -> None:
    document, layers = example.read(str(path))
    assert document == format.read_document(read_safetensors(path))
    expected: dict[tuple[str, str], dict[str, Array]] = {}
    for name, component in format.read(path).components.items():
        for module, layer in component.layers.items():
            expected[name, module] = {leaf: numbers(tensor) for leaf, tensor in layer.tensors.items()}
        for token, tensor in component.embeddings.items():
            expected[name, f"embedding.{token}"] = {"embedding": numbers(tensor)}
    assert layers.keys() == expected.keys()
    for key, leaves in expected.items():
        assert layers[key].keys() - {"alpha"} == leaves.keys()
        for leaf, array in leaves.items():
            numpy.testing.assert_array_equal(layers[key][leaf], array)


@golden
def test_the_example_merges_as_the_formula_says(path: Path, example: ModuleType) -> None:
    document, layers = example.read(str(path))
    for name, component in format.read(path).components.items():
        for module, layer in component.layers.items():
            if not layer.rank and "weight_delta" not in layer.tensors:
                continue
            n = max(layer.branches, 1)
            for styles in (None, [0.7, -0.2, 0.5][:n]):
                found = example.weight_change(document, (name, module), layers[name, module], styles)
                shares = numpy.full(n, 1 / n) if styles is None else numpy.array(styles)
                numpy.testing.assert_allclose(found, expected_change(layer, shares), rtol=1e-12, atol=1e-15)


@golden
def test_the_example_runs_as_a_script_in_an_empty_folder(path: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", str(SCRIPT), str(path)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert '"format_version": "1.0"' in done.stdout
    for component in format.read(path).components:
        assert component in done.stdout


def test_the_example_refuses_what_it_does_not_know(tmp_path: Path, example: ModuleType) -> None:
    content = FILES[0].read_bytes()
    for old, new, words in (
        (b'\\"format_version\\":\\"1.0\\"', b'\\"format_version\\":\\"2.0\\"', "newer reader"),
        (b'norm.bias_delta"', b'norm.bias_delto"', "unknown leaf"),
    ):
        assert old in content
        (tmp_path / "x").write_bytes(content.replace(old, new))
        with pytest.raises(ValueError, match=words):
            example.read(str(tmp_path / "x"))
