"""Group offloading of diffusers, in memory and to a disk, with adapters that come before it and after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.hooks import apply_group_offloading
from torch import nn

from si_hub.adapter import Component, Layer
from si_hub.errors import MissingFile
from si_hub.storage.tensors import Tensor
from tests.systems import posix_alone

Make = Callable[..., Any]
CPU = torch.device("cpu")
TEXT = ("q_proj", "fc1")
LEVELS = pytest.mark.parametrize("level", ["leaf_level", "block_level"])
#: What is on the disk is mapped, and where a system replaces nothing that is mapped, changing it is a clear error.
DISK = pytest.mark.parametrize("disk", [False, pytest.param(True, marks=posix_alone)], ids=["memory", "disk"])


def offload(pipe: Any, level: str, folder: Path | None) -> None:
    """Group offloading of every model, each with a folder of its own: diffusers names files by the groups alone."""
    for name, model in pipe.components.items():
        if isinstance(model, nn.Module):
            options = {"num_blocks_per_group": 1} if level == "block_level" else {}
            path = {} if folder is None else {"offload_to_disk_path": str(folder / name)}
            apply_group_offloading(model, CPU, CPU, offload_type=level, **options, **path)


def of_every_kind(unet: nn.Module, pairs: Component) -> Component:
    """Pairs, and beside them each other leaf on a layer of another class."""
    draw = torch.Generator().manual_seed(5)

    def noise(*shape: int) -> Tensor:
        return Tensor.from_torch(0.2 * torch.randn(*shape, generator=draw))

    layers = dict(pairs.layers)
    block = "down_blocks.1.attentions.0.transformer_blocks.0"
    layers["conv_in"] = Layer({"weight_delta": noise(16, 4, 3, 3), "bias_delta": noise(16)})
    layers[f"{block}.norm1"] = Layer({"gain": noise(32), "bias_delta": noise(32)})
    layers[f"{block}.ff.net.2"] = Layer({"gain_in": noise(128), "gain": noise(32)})
    layers["conv_norm_out"] = Layer({"gain": noise(16)})
    return replace(pairs, layers=layers)


@pytest.fixture
def case(sd: Make, lora: Make, adapter: Make, latents: Make) -> Any:
    """(a pipeline, two adapters for it, the pictures without and with each)."""
    pipe = sd()
    first = adapter(
        unet=of_every_kind(pipe.unet, lora(pipe.unet, ("to_q", "conv1"))),
        text_encoder=lora(pipe.text_encoder, TEXT, prefix="text_model."),
    )
    second = adapter(
        unet=lora(pipe.unet, ("to_q", "to_out.0"), rank=3, seed=7, branches=2, size=1.0),
        text_encoder=lora(pipe.text_encoder, TEXT, seed=8, size=1.0, prefix="text_model."),
    )
    pictures = [latents(pipe)]
    for made in (first, second):
        pipe.load_styleinject_weights(made, "a")
        pictures.append(latents(pipe))
        pipe.unload_styleinject_weights()
    assert not any(torch.equal(pictures[a], pictures[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    return pipe, first, second, pictures


@DISK
@LEVELS
@pytest.mark.parametrize("loaded_first", [True, False], ids=["load, offload", "offload, load"])
def test_pictures_are_those_of_models_that_stay_in_memory(
    level: str, disk: bool, loaded_first: bool, case: Any, latents: Make, error: Make, tmp_path: Path
) -> None:
    pipe, first, second, (base, one, two) = case
    if loaded_first:
        pipe.load_styleinject_weights(first, "a")
        offload(pipe, level, tmp_path if disk else None)
    else:
        offload(pipe, level, tmp_path if disk else None)
        assert torch.equal(latents(pipe), base)
        pipe.load_styleinject_weights(first, "a")
    assert torch.equal(latents(pipe), one)
    pipe.set_styleinject_adapters("a", 0.0)
    assert torch.equal(latents(pipe), base)
    pipe.set_styleinject_adapters("a", 1.0)
    assert torch.equal(latents(pipe), one)
    pipe.unload_styleinject_weights()
    assert torch.equal(latents(pipe), base)
    # Branches are mixed before or after their product; exact is the sum alone.
    pipe.load_styleinject_weights(second, "a")  # under the first one's name, and so under its files' names
    assert error(latents(pipe), two) < 1e-5
    pipe.load_styleinject_weights(first, "b")
    assert torch.equal(latents(pipe), one)
    pipe.delete_styleinject_adapters("b")
    pipe.set_styleinject_adapters("a")
    assert error(latents(pipe), two) < 1e-5
    pipe.unload_styleinject_weights()
    assert torch.equal(latents(pipe), base)


@posix_alone
@LEVELS
def test_fusing_hotswapping_and_saving_work_with_what_a_disk_holds(
    level: str, sd: Make, lora: Make, adapter: Make, latents: Make, tmp_path: Path
) -> None:
    pipe = sd()
    one, two = (adapter(unet=lora(pipe.unet, ("to_q", "conv1"), seed=seed, size=1.0)) for seed in (1, 2))
    base = latents(pipe)
    shown = []
    for made in (one, two):
        pipe.load_styleinject_weights(made, "a")
        pipe.fuse_styleinject()
        shown.append(latents(pipe))
        pipe.unfuse_styleinject()
        shown.append(latents(pipe))
        pipe.unload_styleinject_weights()
    offload(pipe, level, tmp_path)
    pipe.load_styleinject_weights(one, "a")
    pipe.fuse_styleinject()
    assert torch.equal(latents(pipe), shown[0])
    pipe.unfuse_styleinject()
    assert torch.equal(latents(pipe), shown[1])
    pipe.load_styleinject_weights(two, "a", hotswap=True)
    assert torch.equal(latents(pipe), shown[3])
    written = pipe.save_styleinject_weights(tmp_path / "saved")
    pipe.unload_styleinject_weights()
    assert torch.equal(latents(pipe), base)
    pipe.load_styleinject_weights(written.path, "again")
    assert torch.equal(latents(pipe), shown[3])


@posix_alone
def test_files_of_the_base_are_not_written_again(case: Any, tmp_path: Path) -> None:
    pipe, first, _, _ = case
    offload(pipe, "leaf_level", tmp_path)
    before = {path: path.stat().st_ino for path in tmp_path.rglob("*.safetensors")}
    pipe.load_styleinject_weights(first, "a")
    added = set(tmp_path.rglob("*.safetensors")) - before.keys()
    assert added
    pipe.unload_styleinject_weights()
    after = {path: path.stat().st_ino for path in tmp_path.rglob("*.safetensors")}
    assert after.keys() == before.keys()
    changed = [path for path in before if after[path] != before[path]]
    assert len(changed) < len(before) / 2


@posix_alone
def test_a_folder_that_is_gone_is_told_of_and_nothing_changes(case: Any, tmp_path: Path) -> None:
    pipe, first, _, _ = case
    offload(pipe, "leaf_level", tmp_path)
    for path in tmp_path.rglob("*.safetensors"):
        path.rename(path.with_suffix(".away"))
    with pytest.raises(MissingFile):
        pipe.load_styleinject_weights(first, "a")
    assert not pipe.get_list_styleinject_adapters()
    for path in tmp_path.rglob("*.away"):
        path.rename(path.with_suffix(".safetensors"))
    pipe.load_styleinject_weights(first, "a")
    assert pipe.get_list_styleinject_adapters()
