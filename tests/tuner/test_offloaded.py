"""Bare parameters under offloading: their deltas are added to what the call will find, not to what is there before."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from diffusers import PixArtTransformer2DModel
from torch import Tensor

from si_hub import tuner
from si_hub.adapter import Component, Layer
from si_hub.storage.tensors import Tensor as Stored
from si_hub.tuner.offloaded import find_parameter, find_stored

CPU = torch.device("cpu")
TABLES = ("scale_shift_table", "transformer_blocks.0.scale_shift_table", "transformer_blocks.1.scale_shift_table")


@pytest.fixture
def model() -> Any:
    """A transformer whose blocks, and itself, read bare tables."""
    return PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=4, out_channels=4, num_layers=2, sample_size=4,
        cross_attention_dim=8, caption_channels=8, norm_num_groups=1, use_additional_conditions=False,
    ).eval()  # fmt: skip


@pytest.fixture
def deltas(model: Any) -> Component:
    sizes = {path: model.get_parameter(path).shape for path in TABLES}
    return Component(
        layers={path: Layer({"param_delta": Stored.from_torch(torch.randn(size))}) for path, size in sizes.items()}
    )


@torch.no_grad()
def run(model: Any) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    x, words = torch.randn(1, 4, 4, 4, generator=draw), torch.randn(1, 3, 8, generator=draw)
    found: Tensor = model(x, words, torch.tensor([5]), added_cond_kwargs={"resolution": None, "aspect_ratio": None})[0]
    return found


def shown(model: Any, deltas: Component) -> Tensor:
    """What the deltas give, in a copy of the model that has them in its tables."""
    twin = copy.deepcopy(model)
    for path, layer in deltas.layers.items():
        twin.get_parameter(path).data += layer.tensors["param_delta"].torch()
    return run(twin)


@pytest.mark.parametrize("disk", [False, True])
@pytest.mark.parametrize("kind", ["leaf_level", "block_level"])
def test_a_group_s_tables_get_their_deltas(
    kind: str, disk: bool, model: Any, deltas: Component, tmp_path: Path
) -> None:
    expected, base = shown(model, deltas), run(model)
    assert not torch.allclose(expected, base, atol=1e-3)
    tuner.inject(model, deltas, name="a")
    blocks = {"num_blocks_per_group": 1} if kind == "block_level" else {}
    folder = {"offload_to_disk_path": str(tmp_path)} if disk else {}
    model.enable_group_offload(CPU, CPU, offload_type=kind, **blocks, **folder)
    for _ in range(2):
        assert torch.equal(run(model), expected)
    tuner.set_active(model, {})
    assert torch.equal(run(model), base)


def test_what_is_on_a_disk_is_empty_in_memory_and_found_all_the_same(model: Any, tmp_path: Path) -> None:
    block: Any = model.transformer_blocks[0]
    parameter: Tensor = block.get_parameter("scale_shift_table")
    table = parameter.detach().clone()
    assert find_parameter(block, "scale_shift_table") is parameter
    assert find_stored(block, parameter) is None
    assert find_parameter(block, "nothing") is None
    model.enable_group_offload(CPU, CPU, offload_type="leaf_level", offload_to_disk_path=str(tmp_path))
    parameter.data.fill_(torch.nan)
    found = find_parameter(block, "scale_shift_table")
    assert found is not None
    assert torch.equal(found, table)


def test_tables_that_accelerate_keeps_elsewhere_get_their_deltas(model: Any, deltas: Component) -> None:
    expected = shown(model, deltas)
    tuner.inject(model, deltas, name="a")
    cpu_offload(model, CPU)
    assert model.scale_shift_table.device.type == "meta"
    assert torch.equal(run(model), expected)


def test_what_no_hook_will_bring_stays_on_the_meta_device(model: Any) -> None:
    model._parameters["scale_shift_table"] = torch.nn.Parameter(torch.ones(2, 8, device="meta"))
    found = find_parameter(model, "scale_shift_table")
    assert found is not None
    assert found.device.type == "meta"
