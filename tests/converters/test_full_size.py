"""Full-size key sets: every module resolved, every tensor accounted for."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import pytest

from si_hub import architectures, converters
from si_hub.adapter import Adapter
from si_hub.converters import Conversion

Entries = dict[str, tuple[str, tuple[int, ...]]]
KEYLISTS = Path(__file__).parents[3] / "shared" / "keylists"

ATTENTION = (".attentions.",)
CONV = (".attentions.", ".resnets.", "samplers.")
LAYERS = (".encoder.layers.",)
T5 = (".SelfAttention.", ".DenseReluDense.")
FLUX = ("transformer_blocks.",)

#: base → what is trained: component, layout, prefix, flat, modules; expected modules by component.
CASES: dict[str, tuple[str, list[tuple[str, str, str, bool, tuple[str, ...]]], dict[str, int]]] = {
    "kohya-sd15": (
        "sd15",
        [("unet", "diffusers", "lora_unet_", True, ATTENTION), ("text_encoder", "diffusers", "lora_te_", True, LAYERS)],
        {"unet": 192, "text_encoder": 72},
    ),
    "lcm-sd15": ("sd15", [("unet", "diffusers", "lora_unet_", True, CONV)], {"unet": 278}),
    "comfy-sd15": ("sd15", [("unet", "sgm", "diffusion_model.", False, ATTENTION)], {"unet": 192}),
    "attention-processor-sd15": ("sd15", [("unet", "attention-processor", "unet.", False, ATTENTION)], {"unet": 128}),
    "kohya-sd21": (
        "sd21",
        [("unet", "diffusers", "lora_unet_", True, ATTENTION), ("text_encoder", "diffusers", "lora_te_", True, LAYERS)],
        {"unet": 192, "text_encoder": 138},
    ),
    "kohya-sdxl-sgm": (
        "sdxl",
        [("unet", "sgm", "lora_unet_", True, ATTENTION), ("text_encoder", "diffusers", "lora_te1_", True, LAYERS),
         ("text_encoder_2", "diffusers", "lora_te2_", True, LAYERS)],
        {"unet": 722, "text_encoder": 72, "text_encoder_2": 192},
    ),
    "kohya-sdxl-diffusers": (
        "sdxl",
        [("unet", "diffusers", "lora_unet_", True, ATTENTION), ("text_encoder", "diffusers", "lora_te1_", True, LAYERS),
         ("text_encoder_2", "diffusers", "lora_te2_", True, LAYERS)],
        {"unet": 722, "text_encoder": 72, "text_encoder_2": 192},
    ),
    "locon-sdxl-sgm": ("sdxl", [("unet", "sgm", "lora_unet_", True, CONV)], {"unet": 788}),
    "locon-sdxl-diffusers": ("sdxl", [("unet", "diffusers", "lora_unet_", True, CONV)], {"unet": 788}),
    "simpletuner-sdxl": ("sdxl", [("unet", "diffusers", "lycoris_", True, ATTENTION)], {"unet": 722}),
    "peft-sdxl": ("sdxl", [("unet", "diffusers", "base_model.model.", False, ATTENTION)], {"unet": 722}),
    "diffusers-sdxl": (
        "sdxl",
        [("unet", "diffusers", "unet.", False, ATTENTION),
         ("text_encoder", "transformers-5", "text_encoder.", False, ("encoder.layers.",)),
         ("text_encoder_2", "diffusers", "text_encoder_2.", False, LAYERS)],
        {"unet": 722, "text_encoder": 72, "text_encoder_2": 192},
    ),
    "kohya-sdxl-refiner": ("sdxl-refiner", [("unet", "sgm", "lora_unet_", True, ATTENTION)], {"unet": 462}),
    "kohya-flux": (
        "flux",
        [("transformer", "bfl", "lora_unet_", True, FLUX), ("text_encoder", "diffusers", "lora_te1_", True, LAYERS),
         ("text_encoder_2", "diffusers", "lora_te3_", True, T5)],
        {"transformer": 494, "text_encoder": 72, "text_encoder_2": 168},
    ),
    "onetrainer-flux": (
        "flux",
        [("transformer", "diffusers", "lora_transformer_", True, FLUX),
         ("text_encoder_2", "diffusers", "lora_te2_", True, T5)],
        {"transformer": 494, "text_encoder_2": 168},
    ),
    "comfy-flux": ("flux", [("transformer", "bfl", "diffusion_model.", False, ("",))], {"transformer": 504}),
    "kohya-sd3": (
        "sd3",
        [("transformer", "mmdit", "lora_unet_", True, FLUX), ("text_encoder", "diffusers", "lora_te1_", True, LAYERS),
         ("text_encoder_2", "diffusers", "lora_te2_", True, LAYERS),
         ("text_encoder_3", "diffusers", "lora_te3_", True, T5)],
        {"transformer": 333, "text_encoder": 72, "text_encoder_2": 192, "text_encoder_3": 168},
    ),
}  # fmt: skip


def assert_fits_base(adapter: Adapter) -> None:
    """Every layer's shapes are those of the base module it is for."""
    base = architectures.load(adapter.base_model.architecture)
    for name, component in adapter.components.items():
        for path, layer in component.layers.items():
            module = base.components[name].modules[path]
            if layer.rank:
                assert layer.tensors["up.weight"].shape == (module.shape[0], layer.rank)
                assert layer.tensors["down.weight"].shape == (layer.rank, *module.shape[1:])
            if delta := layer.tensors.get("weight_delta"):
                assert delta.shape == module.shape
            if bias := layer.tensors.get("bias_delta"):
                assert bias.shape == module.shape[:1]


def assert_accounted(found: Conversion) -> None:
    """Every tensor of the source is used or folded, and every byte of the low-rank pairs is there."""
    assert set(found.report.uses) == set(found.source.tensors)
    assert not found.report.dropped


@pytest.mark.parametrize("case", CASES)
def test_a_full_size_file_resolves_whole(
    case: str,
    tmp_path: Path,
    make_spots: Callable[..., Any],
    make_lora: Callable[..., Entries],
    write_zeros: Callable[..., Path],
) -> None:
    name, trained, expected = CASES[case]
    base = architectures.load(name)
    entries: Entries = {}
    for component, layout, prefix, flat, within in trained:
        entries |= make_lora(make_spots(base, component, layout, prefix, flat=flat, within=within), 2)
    found = converters.convert_source(write_zeros(tmp_path / "lora.safetensors", entries))
    assert found.base.name == name
    assert {part: len(component.layers) for part, component in found.adapter.components.items()} == expected
    assert {layer.rank for part in found.adapter.components.values() for layer in part.layers.values()} == {2}
    assert_fits_base(found.adapter)
    assert_accounted(found)


def test_the_issues_counts_of_source_modules_are_reached(
    tmp_path: Path, make_spots: Callable[..., Any], make_lora: Callable[..., Entries]
) -> None:
    counts = {}
    for case in ("kohya-sd15", "kohya-sdxl-sgm"):
        name, trained, _ = CASES[case]
        chosen = [
            spot
            for component, layout, prefix, flat, within in trained
            for spot in make_spots(architectures.load(name), component, layout, prefix, flat=flat, within=within)
        ]
        counts[case] = len(chosen)
    assert counts == {"kohya-sd15": 264, "kohya-sdxl-sgm": 986}


#: Lists of adapters that are LoRA, or differences, of a shipped base.
CONVERTED = {
    "emit_diffusers_peft_sd15_raw_lora_AB": ("sd15", 128),
    "emit_diffusers_peft_sdxl": ("sdxl", 736),
    "emit_diffusers_peft_sdxl__tf5": ("sdxl", 736),
    "emit_kohya_dylora_sd15": ("sd15", 264),
    "emit_kohya_flux_all_in_dims": ("flux", 574),
    "emit_kohya_flux_clip_t5": ("flux", 734),
    "emit_kohya_lora_fa_sd15": ("sd15", 264),
    "emit_kohya_lora_sd15_conv": ("sd15", 350),
    "emit_kohya_lora_sd21": ("sd21", 366),
    "emit_kohya_lora_sdxl_conv": ("sdxl", 1052),
    "emit_kohya_sd3_medium_clipl_clipg_t5": ("sd3", 765),
    "emit_lcm_lora_sd15": ("sd15", 278),
    "emit_lcm_lora_sdxl": ("sdxl", 788),
    "emit_lycoris_dylora_sd15": ("sd15", 354),
    "emit_lycoris_full_norm_sd15": ("sd15", 462),
    "emit_lycoris_locon_scalar_rs_sd15": ("sd15", 354),
    "emit_lycoris_locon_sd15": ("sd15", 354),
    "emit_peft_native_lora_sd15_unet": ("sd15", 278),
    "invokeai_flux_lora_kohya": ("flux", 494),
    "kohya_lora_sd15_te__shinkai_makoto_offset": ("sd15", 264),
}
_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int16": "I16", None: "F16"}


@pytest.mark.skipif(not KEYLISTS.is_dir(), reason="no key lists next to the checkout")
@pytest.mark.parametrize("listed", CONVERTED)
def test_a_listed_file_of_a_real_trainer_resolves_whole(
    listed: str, tmp_path: Path, write_zeros: Callable[..., Path]
) -> None:
    tensors = json.loads((KEYLISTS / f"{listed}.json").read_text())["tensors"]
    entries = {name: (_DTYPES[dtype], tuple(shape)) for name, (dtype, shape) in tensors.items()}
    found = converters.convert_source(write_zeros(tmp_path / "lora.safetensors", entries))
    base, layers = CONVERTED[listed]
    assert found.base.name == base
    assert sum(len(component.layers) for component in found.adapter.components.values()) == layers
    assert_fits_base(found.adapter)
    assert_accounted(found)
    ups = sum(prod(shape) for name, (_, shape) in tensors.items() if ".lora_up" in name or ".lora_B" in name)
    kept = [
        layer.tensors["up.weight"].count
        for component in found.adapter.components.values()
        for layer in component.layers.values()
        if layer.rank
    ]
    assert not ups or sum(kept) == ups
