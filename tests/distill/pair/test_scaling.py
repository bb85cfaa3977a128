"""Float8 weights with a scale beside them: the product, in every spelling; other forms are named and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from si_hub.distill import open_model
from si_hub.distill.pair.scaling import METADATA
from si_hub.errors import ConversionRefused, FormatError
from tests.miniature import BASE, INK, open_pair

STEM = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q"
PATH = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"
MAX = 448.0
INT8 = torch.zeros(48, 48, dtype=torch.int8)

Tensors = dict[str, torch.Tensor]


def mark(**said: Any) -> torch.Tensor:
    """A layer's ``comfy_quant``."""
    return torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)


def write_scaled(
    file: Path, more: Tensors | None = None, *, rows: bool = False, old: bool = False, marked: bool = True
) -> Path:
    """The ink checkpoint with its attentions in float8, as ComfyUI's converter writes it: scale = most / 448."""
    scale_name, input_name = ("scale_weight", "scale_input") if old else ("weight_scale", "input_scale")
    held = {}
    for name, value in load_file(INK).items():
        if not name.startswith("model.diffusion_model.") or ".attn" not in name or not name.endswith(".weight"):
            held[name] = value
            continue
        wide = value.float()
        most = wide.abs().amax(1, keepdim=True) if rows else wide.abs().max()
        scale = most / MAX
        stem = name.removesuffix("weight")
        held |= {
            name: (wide / scale).to(torch.float8_e4m3fn),
            f"{stem}{scale_name}": scale.reshape(-1) if rows else scale,
        }
        held[f"{stem}{input_name}"] = torch.tensor(1.0)
        if marked and not old:
            held[f"{stem}comfy_quant"] = mark(format="float8_e4m3fn", full_precision_matrix_mult=True)
    if old:
        held["model.diffusion_model.scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    save_file(held | (more or {}), file)
    return file


@pytest.mark.parametrize(
    ("rows", "old", "marked"),
    [(False, False, True), (True, False, True), (False, True, False), (False, False, False)],
    ids=["present", "a scale a row", "former", "bare"],
)
def test_a_scaled_checkpoint_is_its_products(rows: bool, old: bool, marked: bool, tmp_path: Path) -> None:
    file = write_scaled(tmp_path / "scaled.safetensors", rows=rows, old=old, marked=marked)
    model = open_model(file, base=open_model(BASE))
    raw, plain = load_file(file), open_model(INK, base=open_model(BASE))
    scale = raw[f"{STEM}.{'scale_weight' if old else 'weight_scale'}"]
    found = model.components["unet"][PATH].torch()
    assert torch.equal(found, raw[f"{STEM}.weight"].float() * scale.reshape(-1, 1))
    for name, weight in plain.components["unet"].items():
        close = model.components["unet"][name].torch().float()
        # Half a step of E4M3, which has three bits behind the leading one, or of its smallest number times the scale.
        assert torch.allclose(
            close, weight.torch().float(), rtol=1 / 16, atol=float(weight.torch().abs().max()) / 2**17
        )
    assert set(model.ignored.values()) <= {"a setting for computing in float8"}


def test_it_is_known_as_tuned_from_its_base(tmp_path: Path) -> None:
    pair = open_pair(write_scaled(tmp_path / "scaled.safetensors"))
    assert {change.component for change in pair.changes} >= {"unet"}


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ({f"{STEM}.comfy_quant": mark(format="nvfp4")}, "nvfp4 in F8_E4M3"),
        ({f"{STEM}.comfy_quant": mark(format="float8_e5m2")}, "float8_e5m2 in F8_E4M3"),
        ({f"{STEM}.comfy_quant": mark(format="float8_e4m3fn", convrot=True)}, "float8_e4m3fn with convrot"),
        ({f"{STEM}.comfy_quant": mark(group_size=64)}, "None with group_size"),
        ({f"{STEM}.comfy_quant": mark(format="int8_tensorwise"), f"{STEM}.weight": INT8},
         "int8_tensorwise in I8"),
        ({f"{STEM}.weight": INT8}, "float8_e4m3fn in I8"),
        ({f"{STEM}.weight_scale": torch.ones(3, 4)}, r"scales \[3, 4\]"),
        ({f"{STEM}.weight_scale_2": torch.tensor(1.0)}, "nvfp4"),
    ],
)  # fmt: skip
def test_another_form_is_refused_by_its_name(more: Tensors, found: str, tmp_path: Path) -> None:
    file = write_scaled(tmp_path / "scaled.safetensors", more)
    with pytest.raises(ConversionRefused, match=rf"to_q\.weight\S*: is quantised in a form .*{found}"):
        open_model(file, base=open_model(BASE))


def test_a_mark_that_says_nothing_is_named(tmp_path: Path) -> None:
    for said in (torch.tensor([1, 2], dtype=torch.uint8), torch.zeros(9), torch.zeros(10**5, dtype=torch.uint8)):
        file = write_scaled(tmp_path / "scaled.safetensors", {f"{STEM}.comfy_quant": said})
        with pytest.raises(FormatError, match="comfy_quant"):
            open_model(file, base=open_model(BASE))


def test_the_header_s_word_counts_for_layers_without_a_mark(tmp_path: Path) -> None:
    held = load_file(write_scaled(tmp_path / "scaled.safetensors", marked=False))
    for form, ok in (("float8_e4m3fn", True), ("mxfp8", False)):
        said = json.dumps({"format_version": "1.0", "layers": {STEM: {"format": form}}})
        save_file(held, tmp_path / "said.safetensors", metadata={METADATA: said})
        if ok:
            assert open_model(tmp_path / "said.safetensors", base=open_model(BASE)).components["unet"]
        else:
            with pytest.raises(ConversionRefused, match="mxfp8"):
                open_model(tmp_path / "said.safetensors", base=open_model(BASE))
