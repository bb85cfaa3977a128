"""Families that no installed peer trains: their closed forms, written again in NumPy and float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from si_hub import converters
from si_hub.architectures import Architecture, Model
from si_hub.architectures.layouts import Part
from si_hub.architectures.model import Module
from si_hub.converters.dense import BaseModule
from si_hub.errors import FormatError, UnsupportedFamily
from tests.converters.tiny import MODULES, as_parameters, convert, merge, stem_of, weights

LINEAR, SQUARE, POINT, CONV, *_ = MODULES
Array = np.ndarray[Any, Any]


def numbers(*shape: int, size: float = 0.3) -> torch.Tensor:
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape) + len(shape)))


def compare(
    tmp_path: Path,
    path: str,
    state: dict[str, torch.Tensor],
    change: Callable[[Array], Array],
    prefix: str = "lora_unet_",
) -> None:
    """Hold the converted weight against ``W + change(W)``, W laid flat and float64; the bias stays as it is."""
    held = weights()
    stem = stem_of(path).replace("lora_unet_", prefix)
    found = convert(tmp_path / "f.safetensors", {f"{stem}.{key}": value for key, value in state.items()}, held)
    weight, bias = merge(found, path, held)
    before = held["unet"][f"{path}.weight"].double().flatten(1).numpy()
    wanted = change(before)
    assert np.abs(wanted).max() > 1e-3
    error = np.linalg.norm(weight.flatten(1).numpy() - before - wanted) / np.linalg.norm(wanted)
    assert error < 1e-6
    if bias is not None:
        torch.testing.assert_close(bias, held["unet"][f"{path}.bias"].double(), rtol=1e-6, atol=1e-6)
    assert not found.report.lost


def rotate(blocks: torch.Tensor, most: float = np.inf) -> Array:
    """(I + Q)(I - Q)⁻¹ of Q = B - Bᵀ, all blocks' Q together no longer than ``most``; as one block diagonal matrix."""
    skew = blocks.double().numpy() - blocks.double().numpy().swapaxes(1, 2)
    skew = skew * min(1.0, most / np.linalg.norm(skew))
    count, size, _ = skew.shape
    whole = np.zeros((count * size, count * size))
    for at, one in enumerate(skew):
        here = slice(at * size, (at + 1) * size)
        whole[here, here] = (np.eye(size) + one) @ np.linalg.inv(np.eye(size) - one)
    return whole


@pytest.mark.parametrize("path", [LINEAR, POINT, CONV])
@pytest.mark.parametrize("alpha", [1e-3, 1.0])
def test_kohyas_oft_holds_all_blocks_together_to_alpha_times_the_outputs(
    path: str, alpha: float, tmp_path: Path
) -> None:
    blocks = numbers(4, 8, 8)
    most = alpha * 32
    change = lambda weight: rotate(blocks, most).T @ weight - weight  # noqa: E731
    state = {"oft_blocks": blocks, "alpha": torch.tensor(alpha)}
    compare(tmp_path, path, state, change, prefix="oft_unet_")


def test_a_kohya_oft_of_alpha_0_does_not_turn(tmp_path: Path) -> None:
    state = {
        "oft_unet_mid_block_linear.oft_blocks": numbers(4, 8, 8),
        "oft_unet_mid_block_linear.alpha": torch.zeros(()),
    }
    held = weights()
    weight, _ = merge(convert(tmp_path / "f.safetensors", state, held), LINEAR, held)
    torch.testing.assert_close(weight.float(), held["unet"][f"{LINEAR}.weight"])


@pytest.mark.parametrize("path", [LINEAR, CONV])
def test_an_old_oft_holds_the_rotations_themselves(path: str, tmp_path: Path) -> None:
    turns = rotate(numbers(4, 8, 8))
    diagonal = torch.stack([torch.from_numpy(turns[at : at + 8, at : at + 8]) for at in range(0, 32, 8)])
    compare(tmp_path, path, {"oft_diag": diagonal.float()}, lambda weight: turns.T @ weight - weight)


@pytest.mark.parametrize(("path", "rank"), [(LINEAR, 3), (SQUARE, 3), (POINT, 4), (LINEAR, 12)])
def test_old_glora_files_have_the_factors_roles_transposed(path: str, rank: int, tmp_path: Path) -> None:
    out, width = MODULES[path].shape[:2]
    tail = MODULES[path].shape[2:]
    a1, a2 = numbers(rank, width, *tail), numbers(width, rank, *tail)
    b1, b2 = numbers(rank, width, *tail), numbers(out, rank, *tail)
    flat = [one.double().flatten(1).numpy() for one in (a1, a2, b1, b2)]
    state = {"a1.weight": a1, "a2.weight": a2, "b1.weight": b1, "b2.weight": b2, "alpha": torch.tensor(2.0)}
    scale = 2 / rank
    compare(tmp_path, path, state, lambda weight: scale * (weight @ flat[1] @ flat[0] + flat[3] @ flat[2]))


@pytest.mark.parametrize("path", [LINEAR, CONV])
def test_a_weight_that_is_set_replaces_the_bases(path: str, tmp_path: Path) -> None:
    new = numbers(*MODULES[path].shape, size=1.0)
    compare(tmp_path, path, {"set_weight": new}, lambda weight: new.double().flatten(1).numpy() - weight)


WIDE = Architecture("wide", {"unet": Model("UNet2DConditionModel", {"mid_block.wide": Module("linear", (40000, 2))})})


@pytest.mark.parametrize("beside", ["", "a pair"])
def test_coordinates_beyond_16_bits_with_a_sign_are_read_as_without_one(beside: str, tmp_path: Path) -> None:
    rows, columns = torch.tensor([5, 32768, 39999, 5]), torch.tensor([1, 0, 1, 1])
    values = torch.tensor([1.0, 2.0, 3.0, 4.0])
    state = {
        "bias_indices": torch.stack([rows, columns]).to(torch.int16), "bias_values": values.half(),
        "bias_size": torch.tensor([40000, 2]).to(torch.int32),
    }  # fmt: skip
    expected = np.zeros((40000, 2))
    np.add.at(expected, (rows.numpy(), columns.numpy()), values.numpy())
    if beside:
        down, up = numbers(1, 2), numbers(40000, 1)
        state |= {"lora_down.weight": down, "lora_up.weight": up}
        expected += up.double().numpy() @ down.double().numpy()
    file = tmp_path / "f.safetensors"

    save_file({f"lora_unet_mid_block_wide.{key}": value for key, value in state.items()}, file)
    found = converters.convert_source(file, base=WIDE, allow_large=True)
    layer = found.adapter.components["unet"].layers["mid_block.wide"]
    change = found.origins.reached(("unet", "mid_block.wide"), layer).weight
    assert change is not None
    np.testing.assert_allclose(change().numpy(), expected, rtol=1e-6, atol=1e-6)


def test_coordinates_outside_of_the_layer_are_an_error(tmp_path: Path) -> None:
    state = {
        "bias_indices": torch.tensor([[32], [0]]).to(torch.int16), "bias_values": torch.ones(1),
        "bias_size": torch.tensor([32, 16]).to(torch.int32),
    }  # fmt: skip
    with pytest.raises(
        FormatError, match=r"coordinates outside of the layer.*expected below \[32, 16\], found \[32, 0\]"
    ):
        compare(tmp_path, LINEAR, state, lambda weight: weight)


GROUPED = Architecture(
    "grouped", {"unet": Model("UNet2DConditionModel", {"mid_block.grouped": Module("conv", (12, 4, 3, 3), bias=True)})}
)


def test_a_pair_of_a_grouped_convolution_is_one_pair_a_group(tmp_path: Path) -> None:
    """PEFT's shapes: down reads all inputs of its group's share of the rank, up has rank / groups columns."""
    groups, rank = 3, 6
    base = torch.nn.Conv2d(12, 12, 3, padding=1, groups=groups)
    down, up = numbers(rank, 12, 3, 3), numbers(12, rank // groups, 1, 1)
    state = {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(3.0)}

    file = tmp_path / "f.safetensors"
    save_file({f"lora_unet_mid_block_grouped.{key}": value for key, value in state.items()}, file)
    found = converters.convert_source(file, base=GROUPED)
    layer = found.adapter.components["unet"].layers["mid_block.grouped"]
    assert layer.groups == groups
    change = found.origins.reached(("unet", "mid_block.grouped"), layer).weight
    assert change is not None
    inputs = torch.randn(2, 12, 5, 5, generator=torch.Generator().manual_seed(3)).double()
    # The pair as two convolutions, the second of as many groups as the base.
    hidden = torch.nn.functional.conv2d(inputs, down.double(), padding=1)
    expected = torch.nn.functional.conv2d(hidden, up.double(), groups=groups) * (3.0 / rank)
    found_outputs = torch.nn.functional.conv2d(inputs, change(), padding=base.padding)
    torch.testing.assert_close(found_outputs, expected, rtol=1e-6, atol=1e-9)


def _flux(tiny_flux: Architecture) -> tuple[dict[str, dict[str, torch.Tensor]], BaseModule]:
    """Numbers for a Flux of a few layers, and its fused keys, queries and values."""
    modules = tiny_flux.components["transformer"].modules
    held = {f"{path}.weight": numbers(*module.shape, size=1.0) + 0.01 * at
            for at, (path, module) in enumerate(modules.items()) if len(module.shape) == 2}  # fmt: skip
    parts = tuple(
        Part(f"transformer_blocks.0.attn.to_{name}", ((8 * at, 8 * at + 8),)) for at, name in enumerate("qkv")
    )
    own = BaseModule(as_parameters({"transformer": held}), "transformer", parts, modules, Path("f"), "qkv")
    return {"transformer": held}, own


def test_numbered_blocks_of_a_fused_layer_each_turn_their_part(tmp_path: Path, tiny_flux: Architecture) -> None:
    held, own = _flux(tiny_flux)
    blocks = [numbers(2, 4, 4), 2 * numbers(2, 4, 4), 3 * numbers(2, 4, 4)]
    alpha = 0.05
    stem = "oft_unet_double_blocks_0_img_attn_qkv"
    state = {f"{stem}.oft_blocks.{at}": one for at, one in enumerate(blocks)} | {f"{stem}.alpha": torch.tensor(alpha)}

    file = tmp_path / "f.safetensors"
    save_file(state, file)
    found = converters.convert_source(file, base=tiny_flux, weights=as_parameters(held), allow_large=True)
    layers = found.adapter.components["transformer"].layers
    whole = own.weight().numpy()
    assert len(layers) == 3
    for at, name in enumerate("qkv"):
        path = f"transformer_blocks.0.attn.to_{name}"
        change = found.origins.reached(("transformer", path), layers[path]).weight
        assert change is not None
        weight = whole[8 * at : 8 * at + 8]
        # Each part is held to alpha times its own outputs.
        expected = rotate(blocks[at], alpha * 8).T @ weight - weight
        np.testing.assert_allclose(change().numpy(), expected, rtol=1e-5, atol=1e-7)


def test_blocks_of_an_oft_stay_blocks_and_need_the_base_for_its_bias_alone(tmp_path: Path) -> None:
    blocks = numbers(4, 4, 4)
    state = {f"{stem_of(SQUARE)}.oft_blocks": blocks}
    held = weights()
    found = convert(tmp_path / "square.safetensors", state, None, allow_large=False)
    layer = found.adapter.components["unet"].layers[SQUARE]
    assert {leaf: tensor.shape for leaf, tensor in layer.tensors.items()} == {"turn": (4, 4, 4)}
    turned = rotate(blocks).T @ held["unet"][f"{SQUARE}.weight"].double().numpy()
    np.testing.assert_allclose(merge(found, SQUARE, held)[0].numpy(), turned, rtol=1e-5, atol=1e-6)
    biased = {f"{stem_of(LINEAR)}.oft_blocks": numbers(8, 4, 4)}
    with pytest.raises(UnsupportedFamily, match=r"is OFT.*own weights"):
        convert(tmp_path / "linear.safetensors", biased, None)
    layers = convert(tmp_path / "linear.safetensors", biased, held).adapter.components["unet"].layers
    assert set(layers[LINEAR].tensors) == {"turn", "bias_delta"}


@pytest.mark.parametrize(("stages", "size", "leaf"), [(2, 2, "turn"), (3, 2, "turn"), (4, 2, "weight_delta")])
def test_a_butterfly_of_few_stages_is_larger_blocks(stages: int, size: int, leaf: str, tmp_path: Path) -> None:
    """Of many it is one block, as large as the weight or larger."""
    blocks = numbers(stages, 16 // size, size, size)
    held = weights()
    found = convert(tmp_path / "f.safetensors", {f"{stem_of(SQUARE)}.oft_blocks": blocks}, held)
    assert set(found.adapter.components["unet"].layers[SQUARE].tensors) == {leaf}
    weight = held["unet"][f"{SQUARE}.weight"].double().numpy()
    for stage, one in enumerate(blocks):
        # Stage i turns rows that lie 2^i apart: rows k and k + 2^i of every group of 2^(i + 1).
        order = np.arange(16).reshape(-1, 2, 2**stage).swapaxes(1, 2).ravel()
        weight[order] = rotate(one) @ weight[order]
    np.testing.assert_allclose(merge(found, SQUARE, held)[0].numpy(), weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("sizes", "leaf"), [((2, 2, 4), "turn"), ((2, 2, 8), "weight_delta")])
def test_numbered_blocks_of_several_sizes_share_the_largest(
    sizes: tuple[int, ...], leaf: str, tmp_path: Path, tiny_flux: Architecture
) -> None:
    held, own = _flux(tiny_flux)
    blocks = [numbers(8 // size, size, size) for size in sizes]
    stem = "oft_unet_double_blocks_0_img_attn_qkv"
    save_file({f"{stem}.oft_blocks.{at}": one for at, one in enumerate(blocks)}, tmp_path / "f.safetensors")
    found = converters.convert_source(
        tmp_path / "f.safetensors", base=tiny_flux, weights=as_parameters(held), allow_large=True
    )
    layers = found.adapter.components["transformer"].layers
    for at, name in enumerate("qkv"):
        path = f"transformer_blocks.0.attn.to_{name}"
        assert leaf in layers[path].tensors
        change = found.origins.reached(("transformer", path), layers[path]).weight
        assert change is not None
        weight = own.weight().numpy()[8 * at : 8 * at + 8]
        np.testing.assert_allclose(change().numpy(), rotate(blocks[at]).T @ weight - weight, rtol=1e-5, atol=1e-7)


def test_a_block_that_lies_across_two_parts_of_a_fused_layer_is_whole(tmp_path: Path, tiny_flux: Architecture) -> None:
    held, own = _flux(tiny_flux)
    blocks = numbers(2, 12, 12)
    save_file({"lora_unet_double_blocks_0_img_attn_qkv.oft_blocks": blocks}, tmp_path / "f.safetensors")
    found = converters.convert_source(
        tmp_path / "f.safetensors", base=tiny_flux, weights=as_parameters(held), allow_large=True
    )
    whole = rotate(blocks).T @ own.weight().numpy() - own.weight().numpy()
    for at, name in enumerate("qkv"):
        layer = found.adapter.components["transformer"].layers[f"transformer_blocks.0.attn.to_{name}"]
        np.testing.assert_allclose(
            layer.tensors["weight_delta"].numpy(), whole[8 * at : 8 * at + 8], rtol=1e-5, atol=1e-6
        )
