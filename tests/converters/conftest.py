"""Adapter files of every size, and small base models of each architecture's own classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from si_hub import architectures
from si_hub.architectures import Architecture, Model
from si_hub.architectures.generate import shapes_on_meta
from si_hub.architectures.model import modules_from_shapes
from si_hub.architectures.namings import LAYOUTS
from tests import sparse
from tests.sparse import Entry, Shape

WriteZeros = Callable[..., Path]
WriteArrays = Callable[..., Path]


@pytest.fixture(scope="session")
def write_zeros() -> WriteZeros:
    """``write(path, {name: (dtype, shape)}, metadata)``: zeros that take no room on the disk."""

    return sparse.write_zeros


@pytest.fixture(scope="session")
def write_arrays() -> WriteArrays:
    """``write(path, {name: array}, metadata)``, by the safetensors library."""
    from safetensors.numpy import save_file

    def write(path: Path, arrays: Mapping[str, Any], metadata: dict[str, str] | None = None) -> Path:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path, metadata)
        return path

    return write


@dataclass(frozen=True)
class Spot:
    """A source module of an adapter file: its name there, its whole weight's shape, component and layout name."""

    stem: str
    shape: Shape
    component: str
    name: str


def spots(model: Model, component: str, layout: str, prefix: str, *, flat: bool = True) -> Iterator[Spot]:
    """Every module of a component under a layout's names, all the layout's names or the model's own."""
    for name, parts in LAYOUTS[layout](model).items():
        shape = model.modules[parts[0].path].shape
        rows = sum(model.modules[part.path].shape[0] for part in parts)
        yield Spot(prefix + (name.replace(".", "_") if flat else name), (rows, *shape[1:]), component, name)


def lora_entries(chosen: list[Spot], rank: int, alpha: Entry | None = ("F32", ())) -> dict[str, Entry]:
    """kohya's three tensors for every spot."""
    entries: dict[str, Entry] = {}
    for spot in chosen:
        ones = tuple(1 for _ in spot.shape[2:])
        entries[f"{spot.stem}.lora_down.weight"] = ("F16", (rank, *spot.shape[1:]))
        entries[f"{spot.stem}.lora_up.weight"] = ("F16", (spot.shape[0], rank, *ones))
        if alpha:
            entries[f"{spot.stem}.alpha"] = alpha
    return entries


@pytest.fixture(scope="session")
def make_spots() -> Callable[..., list[Spot]]:
    """``make_spots(architecture, component, layout, prefix, flat=True, within=...)``: modules whose base path has it.

    ``within`` are parts of the base module's path, any of which is enough; norms and embeddings are left out.
    """

    def make(
        architecture: Architecture, component: str, layout: str, prefix: str, *, within: tuple[str, ...] = ("",),
        flat: bool = True,
    ) -> list[Spot]:  # fmt: skip
        model = architecture.components[component]
        names = LAYOUTS[layout](model)
        wanted = [
            any(part in parts[0].path for part in within) and model.modules[parts[0].path].kind in ("linear", "conv")
            for parts in names.values()
        ]
        found = list(spots(model, component, layout, prefix, flat=flat))
        return [spot for spot, keep in zip(found, wanted, strict=True) if keep]

    return make


@pytest.fixture(scope="session")
def make_lora() -> Callable[..., dict[str, Entry]]:
    return lora_entries


_TINY_UNET = {
    "sample_size": 8, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 4, "cross_attention_dim": 24,
}  # fmt: skip
_TINY_CLIP = {
    "vocab_size": 40, "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "projection_dim": 24,
}  # fmt: skip
_TINY_T5 = {
    "vocab_size": 40, "d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 1, "num_heads": 2,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip
_TINY_FLUX = {
    "in_channels": 4, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 4, "num_attention_heads": 2,
    "joint_attention_dim": 16, "pooled_projection_dim": 24, "guidance_embeds": True, "axes_dims_rope": (2, 2, 2),
}  # fmt: skip


def _model(library: str, class_name: str, config: dict[str, Any]) -> Model:
    return Model(class_name, modules_from_shapes(shapes_on_meta(library, class_name, config)))


@pytest.fixture(scope="session")
def tiny_sd() -> Architecture:
    """A UNet with 1x1 convolutions for proj_in and proj_out, and a CLIP text encoder."""
    return Architecture("tiny-sd", {
        "unet": _model("diffusers", "UNet2DConditionModel", _TINY_UNET),
        "text_encoder": _model("transformers", "CLIPTextModel", _TINY_CLIP),
    })  # fmt: skip


@pytest.fixture(scope="session")
def tiny_sdxl() -> Architecture:
    """A UNet with linear proj_in and proj_out and two transformer layers a block, and two CLIP text encoders."""
    config = {**_TINY_UNET, "use_linear_projection": True, "transformer_layers_per_block": 2}
    return Architecture("tiny-sdxl", {
        "unet": _model("diffusers", "UNet2DConditionModel", config),
        "text_encoder": _model("transformers", "CLIPTextModel", _TINY_CLIP),
        "text_encoder_2": _model("transformers", "CLIPTextModelWithProjection", {**_TINY_CLIP, "hidden_size": 32}),
    })  # fmt: skip


@pytest.fixture(scope="session")
def tiny_flux() -> Architecture:
    """A Flux transformer of two double and two single blocks, CLIP and T5."""
    return Architecture("tiny-flux", {
        "transformer": _model("diffusers", "FluxTransformer2DModel", _TINY_FLUX),
        "text_encoder": _model("transformers", "CLIPTextModel", _TINY_CLIP),
        "text_encoder_2": _model("transformers", "T5EncoderModel", _TINY_T5),
    })  # fmt: skip


@pytest.fixture(scope="session")
def sd15() -> Architecture:
    return architectures.load("sd15")


@pytest.fixture
def write(tmp_path: Path, write_arrays: WriteArrays) -> Callable[..., Path]:
    """``write(arrays, metadata)``: an adapter's file, the only one of its folder."""

    def write_adapter(arrays: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> Path:
        return write_arrays(tmp_path / "lora.safetensors", arrays, dict(metadata or {}) or None)

    return write_adapter
