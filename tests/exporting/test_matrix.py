"""The converters' matrix, the other way: LyCORIS's modules → StyleInject → every format, and back to what they were.

The oracle of a format is LyCORIS's forward, as the converters read the written file; of the original its own bytes.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from lycoris.modules import get_module, make_module
from safetensors.torch import load_file, save_file
from torch import nn

from si_hub import converters, format
from si_hub.adapter import Adapter
from si_hub.architectures import Architecture
from si_hub.editing.steadying import steady
from si_hub.errors import ConversionRefused
from si_hub.exporting.assembling import ExportJob, spell_files
from si_hub.exporting.files import write_files
from si_hub.exporting.formats import FILE_FORMATS
from si_hub.exporting.original import spell_back
from si_hub.exporting.pairs import expand_product
from tests.converters.families.test_lycoris import KINDS
from tests.converters.test_matrix import (
    CELLS,
    NAMINGS,
    SCALED,
    Cell,
    Spot,
    adapt,
    check_spot,
    choose_spots,
    draw_weights,
    stack,
    write_alpha,
)
from tests.converters.tiny import as_parameters

#: Families whose bytes the format keeps: they go back to every one of them.
KEPT = {"locon", "locon rs", "locon tucker", "full"}
#: Families that stay what they are in kohya's format, and a tensor that says so.
STAYING = {
    "locon": "lora_up.weight", "locon tucker": "lora_mid.weight", "lokr": "lokr_w1", "lokr full": "lokr_w1",
    "lokr both": "lokr_w1",
    "dora": "dora_scale", "dora on inputs": "dora_scale", "ia3": "on_input", "ia3 on inputs": "on_input",
    "diag-oft": "oft_blocks", "diag-oft rescaled": "rescale", "full": "diff",
}  # fmt: skip
#: Those that diffusers and PEFT, which have pairs, can say exactly.
PAIRED = {"locon", "locon rs", "locon tucker", "loha tucker", "dora", "dora tucker"}

Layers = dict[Spot, tuple[nn.Module, torch.Tensor]]


def build(cell: Cell, base: Architecture, file: Path) -> tuple[dict[str, Any], Layers]:
    """A cell's file, written: the base's weights, LyCORIS's modules at work on them."""
    held = draw_weights(base)
    layers: Layers = {}
    state: dict[str, torch.Tensor] = {}
    for spot in choose_spots(base, cell):
        weight = stack(base, spot, held, "weight")
        has_bias = base.components[spot.component].modules[spot.parts[0].path].bias
        made = adapt(cell, spot, weight, stack(base, spot, held, "bias") if has_bias else None)
        if made is None:
            continue
        layers[spot] = made[0], weight
        for key, value in made[1].items():
            tensor = write_alpha(value, cell.alpha) if key == "alpha" and cell.family in SCALED else value
            if tensor is not None:
                state[f"{spot.stem}.{key}"] = tensor.contiguous()
    save_file(state, file)
    return held, layers


def check_way_back(cell: Cell, adapter: Adapter, base: Architecture, file: Path) -> bool:
    """Whether every byte of the source comes back; what does not is refused."""
    try:
        found = {name: one for held in spell_back(adapter, base).values() for name, one in held.tensors.items()}
    except ConversionRefused:
        assert cell.family not in KEPT
        return False
    expected = load_file(file)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].shape == tuple(tensor.shape), name
        assert found[name].tobytes() == tensor.numpy().tobytes(), name
    return True


#: What LyCORIS's own loader does not load of its own files: scales, and rotations as large as a layer.
UNLOADED = {"ia3", "ia3 on inputs", "boft", "boft rescaled"}


def check_by_lycoris(
    file: Path, base: Architecture, held: dict[str, dict[str, torch.Tensor]], layers: Layers, cell: Cell
) -> int:
    """LyCORIS's own loader makes of the written file what its module was, layer by layer; how many it was given."""
    state, loaded = load_file(file), 0
    for spot, (trained, weight) in layers.items():
        kind, params = get_module(state, spot.stem)
        if spot.component.startswith("text_encoder"):
            continue  # Of an unknown base model it has the general number in its name.
        assert kind is not None, spot.stem
        has_bias = base.components[spot.component].modules[spot.parts[0].path].bias
        bias = stack(base, spot, held, "bias") if has_bias else torch.zeros(len(weight))
        fresh: Any = nn.Linear(*weight.shape[::-1]) if weight.ndim == 2 else (
            nn.Conv2d(weight.shape[1], len(weight), weight.shape[-1])
        )  # fmt: skip
        inputs = torch.randn(
            (3, weight.shape[1]) if weight.ndim == 2 else (2, weight.shape[1], 5, 5),
            generator=torch.Generator().manual_seed(2),
        )
        with torch.no_grad():
            fresh.weight.copy_(weight)
            fresh.bias.copy_(bias)
            plain = fresh(inputs)
            make_module(kind, params, spot.stem, fresh).apply_to()
            expected, found = trained(inputs).double(), fresh(inputs).double()
        assert (expected - plain).norm() > 1e-3 * expected.norm(), "nothing is changed"
        assert (found - expected).norm() <= 1e-5 * expected.norm(), f"{cell}: {spot.stem}"
        loaded += 1
    return loaded


def check_trip(cell: Cell, base: Architecture, folder: Path) -> Counter[str]:
    """A cell to StyleInject and on to every format; how often each could say it."""
    held, layers = build(cell, base, folder / "peer.safetensors")
    assert layers, "LyCORIS has no such module of this model"
    weights = as_parameters(held)
    read = converters.convert_source(folder / "peer.safetensors", base=base, weights=weights, allow_large=True)
    format.write(read.adapter, folder / "ours.safetensors", overwrite=True)
    said = Counter(
        original=check_way_back(cell, format.read(folder / "ours.safetensors"), base, folder / "peer.safetensors")
    )
    for name, target in FILE_FORMATS.items():
        adapter = steady(format.read(folder / "ours.safetensors"))
        if "lokr_w1" not in target.suffixes:
            for component in adapter.components.values():
                component.layers = {path: expand_product(layer) for path, layer in component.layers.items()}
        try:
            files, _ = spell_files(
                ExportJob(adapter, base, weights, target, folder / "peer.safetensors"), folder / f"{name}.safetensors"
            )
        except ConversionRefused:
            assert cell.family not in (STAYING if name == "kohya" else PAIRED)
            continue
        write_files(files, True, None)
        place = files[0].path.parent if len(files) > 1 else files[0].path
        again = converters.convert_source(place, base=base, weights=weights, allow_large=True)
        for spot, (layer, weight) in layers.items():
            check_spot(again, base, spot, held, layer, weight)
        if (
            name == "kohya"
            and cell.naming == "sd, kohya"
            and (
                # Magnitudes of inputs it does not load either.
                cell.family not in UNLOADED and "on inputs" not in cell.family
            )
        ):
            assert check_by_lycoris(files[0].path, base, held, layers, cell)
        if name == "kohya" and cell.family in STAYING:
            assert any(key.endswith(f".{STAYING[cell.family]}") for key in load_file(files[0].path))
        said[name] += 1
    return said


#: One cell of every family that some format has, of changing namings and alphas.
SAMPLE = [
    [cell for cell in CELLS if cell.family == family][at * 5 % 7]
    for at, family in enumerate(KINDS) if family in STAYING.keys() | PAIRED
]  # fmt: skip


@pytest.mark.parametrize("cell", SAMPLE, ids=["; ".join(map(str, cell)) for cell in SAMPLE])
def test_what_lycoris_does_every_format_does(cell: Cell, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    assert check_trip(cell, request.getfixturevalue(NAMINGS[cell.naming][0]), tmp_path)["kohya"]


@pytest.mark.slow
@pytest.mark.parametrize("family", dict.fromkeys(cell.family for cell in CELLS))
def test_every_cell_does_what_lycoris_does(family: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    said: Counter[str] = Counter()
    cells = [one for one in CELLS if one.family == family]
    for number, cell in enumerate(cells):
        folder = tmp_path / str(number)
        folder.mkdir()
        said += check_trip(cell, request.getfixturevalue(NAMINGS[cell.naming][0]), folder)
    assert family in KINDS
    if family in KEPT:
        assert said["original"] == len(cells)
    if family in STAYING:
        assert said["kohya"] == len(cells)
    if family in PAIRED:
        assert said["diffusers"] == said["peft"] == len(cells)
