"""Fused modules: each part does what its rows of the whole do, whatever is beneath."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from si_hub import converters
from si_hub.architectures import Architecture
from tests.converters.tiny import as_parameters

Array = np.ndarray[Any, Any]
State = Mapping[str, torch.Tensor]

#: kohya's name of a fused module → its parts and their rows, of a Flux whose layers are 8 wide.
QKV = "lora_unet_double_blocks_0_img_attn_qkv"
LINEAR1 = "lora_unet_single_blocks_1_linear1"
PARTS = {
    QKV: [(f"transformer_blocks.0.attn.to_{name}", 8) for name in "qkv"],
    LINEAR1: [*((f"single_transformer_blocks.1.attn.to_{name}", 8) for name in "qkv"),
              ("single_transformer_blocks.1.proj_mlp", 32)],
}  # fmt: skip
ROWS = {stem: sum(rows for _, rows in parts) for stem, parts in PARTS.items()}


def numbers(*shape: int, size: float = 0.5) -> torch.Tensor:
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape) + 7 * shape[0]))


def make_weights(architecture: Architecture) -> dict[str, dict[str, torch.Tensor]]:
    modules = architecture.components["transformer"].modules
    return {"transformer": {
        f"{path}.{leaf}": numbers(*shape, size=1.0) + 0.01 * at
        for at, (path, module) in enumerate(modules.items()) if module.kind == "linear"
        for leaf, shape in (("weight", module.shape), *([("bias", module.shape[:1])] if module.bias else []))
    }}  # fmt: skip


def lokr(left: tuple[int, int], right: tuple[int, int], rank: int = 0, left_rank: int = 0) -> dict[str, torch.Tensor]:
    """Factors of these sizes, each whole where its rank is 0."""
    held: dict[str, torch.Tensor] = {"alpha": torch.tensor(3.0)}
    for name, (rows, columns), inner in (("lokr_w1", left, left_rank), ("lokr_w2", right, rank)):
        if inner:
            held |= {f"{name}_a": numbers(rows, inner), f"{name}_b": numbers(inner, columns)}
        else:
            held[name] = numbers(rows, columns)
    return held


def as_arrays(state: State) -> dict[str, Array]:
    return {name: value.double().numpy() for name, value in state.items()}


def multiply_lokr(state: State) -> Array:
    held = as_arrays(state)
    left = held["lokr_w1"] if "lokr_w1" in held else held["lokr_w1_a"] @ held["lokr_w1_b"]
    right = held["lokr_w2"] if "lokr_w2" in held else held["lokr_w2_a"] @ held["lokr_w2_b"]
    rank = next((len(held[name]) for name in ("lokr_w2_b", "lokr_w1_b") if name in held), None)
    product: Array = np.kron(left, right) * (3.0 / rank if rank else 1.0)
    return product


def multiply_loha(state: State) -> Array:
    held = as_arrays(state)
    products = [held[f"hada_w{half}_a"] @ held[f"hada_w{half}_b"] for half in (1, 2)]
    product: Array = products[0] * products[1] * (3.0 / len(held["hada_w1_b"]))
    return product


def multiply_tucker(state: State) -> Array:
    held = as_arrays(state)
    up, mid, down = (held[f"lora_{name}.weight"][:, :, 0, 0] for name in ("up", "mid", "down"))
    product: Array = up @ mid @ down * (3.0 / up.shape[1])
    return product


def decompose(state: State, change: Array, weight: Array) -> Array:
    """The change that a magnitude over ``weight + change`` makes."""
    magnitude = state["dora_scale"].double().numpy()
    whole = weight + change
    axis = 1 if magnitude.shape[1] == 1 else 0
    changed: Array = magnitude * whole / np.linalg.norm(whole, axis=axis, keepdims=True)
    return changed - weight


def loha(rows: int, rank: int = 2) -> dict[str, torch.Tensor]:
    held = {f"hada_w{half}_{side}": numbers(*shape) for half in (1, 2)
            for side, shape in (("a", (rows, rank + half)), ("b", (rank + half, 8)))}  # fmt: skip
    return held | {"alpha": torch.tensor(3.0)}


def tucker(rows: int) -> dict[str, torch.Tensor]:
    return {
        "lora_up.weight": numbers(rows, 3, 1, 1), "lora_mid.weight": numbers(3, 3, 1, 1),
        "lora_down.weight": numbers(3, 8, 1, 1), "alpha": torch.tensor(3.0),
    }  # fmt: skip


#: What it is: the fused module, its tensors, what they multiply to, and whether parts keep Kronecker factors.
CASES: dict[str, tuple[str, dict[str, torch.Tensor], Any, bool]] = {
    "lokr, blocks of 4": (QKV, lokr((6, 2), (4, 4)), multiply_lokr, True),
    "lokr, blocks of 8": (QKV, lokr((3, 4), (8, 2)), multiply_lokr, True),
    "lokr, blocks of 8, a pair": (QKV, lokr((3, 2), (8, 4), rank=2), multiply_lokr, True),
    "lokr, both pairs": (QKV, lokr((6, 2), (4, 4), rank=1, left_rank=1), multiply_lokr, True),
    "lokr, left a pair": (QKV, lokr((6, 2), (4, 4), left_rank=1), multiply_lokr, True),
    "lokr, blocks of 3": (QKV, lokr((8, 2), (3, 4)), multiply_lokr, False),
    "lokr, blocks of 3, a pair": (QKV, lokr((8, 2), (3, 4), rank=1), multiply_lokr, False),
    "lokr, blocks of 12": (QKV, lokr((2, 2), (12, 4), rank=1, left_rank=1), multiply_lokr, False),
    "lokr, one block": (QKV, lokr((1, 1), (24, 8), rank=2), multiply_lokr, False),
    "lokr, four parts": (LINEAR1, lokr((7, 2), (8, 4)), multiply_lokr, True),
    "lokr, four parts that are no blocks": (LINEAR1, lokr((4, 2), (14, 4)), multiply_lokr, False),
    "loha": (QKV, loha(24), multiply_loha, False),
    "loha of rank 1": (LINEAR1, loha(56, 0), multiply_loha, False),
    "tucker": (QKV, tucker(24), multiply_tucker, False),
    "tucker, four parts": (LINEAR1, tucker(56), multiply_tucker, False),
}


def hold_parts(
    tmp_path: Path, architecture: Architecture, stem: str, state: State, wanted: Array, held: Any
) -> converters.Conversion:
    """Hold each part of the converted adapter against its rows of ``wanted``."""
    file = tmp_path / "f.safetensors"
    save_file({f"{stem}.{name}": value for name, value in state.items()}, file)
    parameters = as_parameters(held)
    found = converters.convert_source(file, base=architecture, weights=parameters, allow_large=True, check=True)
    layers = found.adapter.components["transformer"].layers
    assert list(layers) == [path for path, _ in PARTS[stem]]
    at = 0
    for path, rows in PARTS[stem]:
        change = found.origins.reached(("transformer", path), layers[path])
        assert change.weight is not None
        expected = wanted[at : at + rows]
        at += rows
        error = np.linalg.norm(change.weight().numpy() - expected) / np.linalg.norm(expected)
        assert error < 1e-6, path
        if change.bias is not None:
            assert float(change.bias().abs().max()) < 1e-5, path
    assert found.report.check is not None
    assert found.report.check.largest_error < 1e-6
    assert not found.report.lost
    return found


@pytest.mark.parametrize("name", CASES)
def test_parts_do_what_their_rows_of_the_whole_do(name: str, tmp_path: Path, tiny_flux: Architecture) -> None:
    stem, state, multiply, keeps = CASES[name]
    found = hold_parts(tmp_path, tiny_flux, stem, state, multiply(state), make_weights(tiny_flux))
    layers = found.adapter.components["transformer"].layers.values()
    assert all(("kron" in layer.tensors) == keeps for layer in layers)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", CASES)
def test_parts_under_a_magnitude_do_too(name: str, axis: int, tmp_path: Path, tiny_flux: Architecture) -> None:
    stem, state, multiply, _ = CASES[name]
    held = make_weights(tiny_flux)
    weight = np.concatenate([held["transformer"][f"{path}.weight"].double().numpy() for path, _ in PARTS[stem]])
    sizes = (ROWS[stem], 1) if axis == 0 else (1, 8)
    state = {**state, "dora_scale": 1 + numbers(*sizes).abs()}
    wanted = decompose(state, multiply(state), weight)
    hold_parts(tmp_path, tiny_flux, stem, state, wanted, held)
