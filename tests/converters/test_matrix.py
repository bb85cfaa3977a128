"""The matrix: every family, on small models of every naming, with and without text encoders, with every kind of alpha.

Each cell is a file of LyCORIS's own modules with random numbers, some of them on fused projections, and its oracle is
LyCORIS's own forward. `tests/converters/families/test_peft.py` has PEFT's cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from si_hub import converters
from si_hub.architectures import Architecture
from si_hub.architectures.layouts import Part
from si_hub.architectures.namings import LAYOUTS
from si_hub.converters.checking import differ_by_layer
from si_hub.converters.dense import BaseModule
from si_hub.converters.families.contract import Target
from tests.converters.families.test_lycoris import KINDS
from tests.converters.tiny import as_parameters

#: base and naming → its fixture, the denoiser's component, layout, prefix, whether names are flat; text encoders.
NAMINGS: dict[str, tuple[str, str, str, str, bool, dict[str, str]]] = {
    "sd, kohya": ("tiny_sd", "unet", "diffusers", "lora_unet_", True, {"text_encoder": "lora_te_"}),
    "sdxl, sgm": ("tiny_sdxl", "unet", "sgm", "lora_unet_", True,
                  {"text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}),
    "sdxl, diffusers": ("tiny_sdxl", "unet", "diffusers", "unet.", False, {"text_encoder": "text_encoder."}),
    "flux, bfl": ("tiny_flux", "transformer", "bfl", "lora_unet_", True, {"text_encoder": "lora_te1_"}),
    "flux, comfy": ("tiny_flux", "transformer", "bfl", "diffusion_model.", False, {}),
    "flux, diffusers": ("tiny_flux", "transformer", "diffusers", "transformer.", False,
                        {"text_encoder": "text_encoder.", "text_encoder_2": "text_encoder_2."}),
}  # fmt: skip
#: Families whose alpha is a scale, and may be written in any way; a rank-stabilised one has the root of the rank in it.
_UNSCALED = {"lokr full", "locon rs"}
SCALED = [name for name, (_, options, _) in KINDS.items() if "alpha" in options and name not in _UNSCALED]
ALPHAS = ("float32", "int64", "one of float16", "none")


class Cell(NamedTuple):
    """One file."""

    family: str
    naming: str
    text: bool
    alpha: str


#: Norms have one naming and no alpha: `tests/converters/families/test_lycoris.py` has them.
FAMILIES = [name for name in KINDS if name != "norm"]


def cells() -> Iterator[Cell]:
    for family in FAMILIES:
        for naming, (*_, encoders) in NAMINGS.items():
            if KINDS[family][2] == ("mid_block.conv",) and naming.startswith("flux"):
                continue  # Cores are for convolutions, of which Flux has none.
            for text in (False, True) if encoders else (False,):
                for alpha in ALPHAS if family in SCALED else ALPHAS[:1]:
                    yield Cell(family, naming, text, alpha)


CELLS = list(cells())
#: A walk over all of them with a step that shares no factor with the axes, so that every value of each axis is there.
SAMPLE = CELLS[::31]


class Spot(NamedTuple):
    """A module of the file: its name, the component, the parts that it is."""

    stem: str
    component: str
    parts: tuple[Part, ...]


def choose_spots(base: Architecture, cell: Cell) -> list[Spot]:
    """Of each component, where it has them: a fused module, a convolution with a kernel and without, a linear layer."""
    _, denoiser, layout, prefix, flat, encoders = NAMINGS[cell.naming]
    texts = encoders if cell.text else {}
    named = {denoiser: (layout, prefix)} | {name: ("diffusers", start) for name, start in texts.items()}
    found: list[Spot] = []
    for component, (naming, start) in named.items():
        modules, kinds = base.components[component].modules, dict[tuple[bool, str, int], Spot]()
        for name, parts in LAYOUTS[naming](base.components[component]).items():
            module = modules[parts[0].path]
            if module.kind in {"linear", "conv"} and module.shape[1] > 4 and module.shape[0] > 4:
                stem = start + (name.replace(".", "_") if flat else name)
                kinds.setdefault((len(parts) > 1, module.kind, module.shape[-1]), Spot(stem, component, parts))
        found += list(kinds.values())[:5]
    return found


def stack(base: Architecture, spot: Spot, held: dict[str, dict[str, torch.Tensor]], leaf: str) -> torch.Tensor:
    """The base's parameters of all parts, where the source has their rows."""
    tensors = [held[spot.component][f"{part.path}.{leaf}"] for part in spot.parts]
    if spot.parts[0].rows is None:
        return tensors[0]
    whole = torch.empty(sum(map(len, tensors)), *tensors[0].shape[1:])
    for part, tensor in zip(spot.parts, tensors, strict=True):
        at = 0
        for start, stop in part.rows or ():
            whole[start:stop] = tensor[at : at + stop - start]
            at += stop - start
    return whole


def draw_weights(base: Architecture) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return {
        name: {
            f"{path}.{leaf}": torch.randn(shape, generator=generator)
            for path, module in model.modules.items() if module.kind in {"linear", "conv"}
            for leaf, shape in (("weight", module.shape), *([("bias", module.shape[:1])] if module.bias else []))
        }
        for name, model in base.components.items()
    }  # fmt: skip


def adapt(
    cell: Cell, spot: Spot, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[nn.Module, dict[str, Any]] | None:
    """The stacked module with LyCORIS's at work in it, and what that saves; none where LyCORIS cannot adapt it."""
    cls, options, paths = KINDS[cell.family]
    convolution, kernel = weight.ndim > 2, weight.shape[-1] > 1 and weight.ndim > 2
    if paths == ("mid_block.conv",) and not kernel:
        return None
    out, width = weight.shape[:2]
    layer: Any = nn.Conv2d(width, out, weight.shape[-1], bias=bias is not None) if convolution else (
        nn.Linear(width, out, bias=bias is not None)
    )  # fmt: skip
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    if cell.alpha == "none":
        options = {**options, "alpha": options["lora_dim"]}
    try:
        module = cls(spot.stem, layer, 1.0, **options)
    except ValueError:
        return None
    module.apply_to()
    generator = torch.Generator().manual_seed(len(spot.stem))
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            near = "dora" in key or "rescale" in key or cell.family == "full"
            parameter.copy_(parameter * (1 + 0.2 * noise) if near else 0.3 * noise)
    saved = {key: value.detach() for key, value in (module.custom_state_dict() or module.state_dict()).items()}
    return layer, saved


def write_alpha(value: torch.Tensor, kind: str) -> torch.Tensor | None:
    """An alpha as some trainer writes it."""
    forms: dict[str, Callable[[], torch.Tensor | None]] = {
        "float32": lambda: value.float(), "int64": lambda: value.to(torch.int64),
        "one of float16": lambda: value.half().reshape(1), "none": lambda: None,
    }  # fmt: skip
    return forms[kind]()


def check_cell(cell: Cell, base: Architecture, file: Path) -> None:
    held = draw_weights(base)
    layers: dict[Spot, tuple[nn.Module, torch.Tensor]] = {}
    state: dict[str, torch.Tensor] = {}
    for spot in choose_spots(base, cell):
        weight = stack(base, spot, held, "weight")
        has_bias = base.components[spot.component].modules[spot.parts[0].path].bias
        if (made := adapt(cell, spot, weight, stack(base, spot, held, "bias") if has_bias else None)) is None:
            continue
        layer, saved = made
        layers[spot] = layer, weight
        for key, value in saved.items():
            tensor = write_alpha(value, cell.alpha) if key == "alpha" and cell.family in SCALED else value
            if tensor is not None:
                state[f"{spot.stem}.{key}"] = tensor.contiguous()
    assert layers, "LyCORIS has no such module of this model"
    save_file(state, file)
    found = converters.convert_source(file, base=base, weights=as_parameters(held), allow_large=True)
    assert not found.report.dropped
    assert set(found.report.uses) == set(state)
    for spot, (layer, weight) in layers.items():
        check_spot(found, base, spot, held, layer, weight)


def check_spot(
    found: converters.Conversion, base: Architecture, spot: Spot, held: dict[str, dict[str, torch.Tensor]],
    layer: nn.Module, weight: torch.Tensor,
) -> None:  # fmt: skip
    """Outputs of LyCORIS's module, and of the base's parts with the converted layers in them, row by row."""
    modules = base.components[spot.component].modules
    sizes = (3, weight.shape[1]) if weight.ndim == 2 else (2, weight.shape[1], 5, 5)
    inputs = torch.randn(sizes, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = layer(inputs).double()
    for part in spot.parts:
        module = modules[part.path]
        own = BaseModule(as_parameters(held), spot.component, (Part(part.path),), modules, Path("adapter"), part.path)
        target = Target(module.kind, module.shape, module.bias)
        change = differ_by_layer(found.adapter.components[spot.component].layers[part.path], target, own)
        merged = own.weight() + (change.weight() if change.weight else 0)
        bias = own.bias() + (change.bias() if change.bias else 0) if module.bias else None
        act: Any = nn.functional.linear if weight.ndim == 2 else nn.functional.conv2d
        ours = act(inputs.double(), merged, bias)
        rows = slice(None) if part.rows is None else torch.cat([torch.arange(*span) for span in part.rows])
        expected = theirs[:, rows]
        assert (ours - expected).norm() <= 1e-5 * expected.norm(), f"{spot.stem}: {part.path}"


@pytest.mark.parametrize("cell", SAMPLE, ids=["; ".join(map(str, cell)) for cell in SAMPLE])
def test_a_cell_acts_as_its_trainer_has_it(cell: Cell, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    check_cell(cell, request.getfixturevalue(NAMINGS[cell.naming][0]), tmp_path / "peer.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_cell_acts_as_its_trainer_has_it(family: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    checked = 0
    for number, cell in enumerate(one for one in CELLS if one.family == family):
        check_cell(cell, request.getfixturevalue(NAMINGS[cell.naming][0]), tmp_path / f"{number}.safetensors")
        checked += 1
    assert checked > 4
