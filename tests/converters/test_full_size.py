"""Full-size key sets: every module resolved, every tensor accounted for."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import pytest

from si_hub import architectures, converters
from si_hub.adapter import Adapter
from si_hub.architectures import Architecture
from si_hub.converters import FAMILIES, Conversion
from si_hub.converters.families.contract import never
from si_hub.errors import ConversionRefused, UnsupportedFamily
from tests.keylists.folding import read_list
from tests.keylists.make import FOLDER as KEYLISTS
from tests.keylists.make import LISTS

Entries = dict[str, tuple[str, tuple[int, ...]]]

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
    "kohya-sd15-conv": (
        "sd15",
        [("unet", "diffusers", "lora_unet_", True, CONV), ("text_encoder", "diffusers", "lora_te_", True, LAYERS)],
        {"unet": 278, "text_encoder": 72},
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
    "kohya-sdxl-conv": (
        "sdxl",
        [("unet", "sgm", "lora_unet_", True, CONV), ("text_encoder", "diffusers", "lora_te1_", True, LAYERS),
         ("text_encoder_2", "diffusers", "lora_te2_", True, LAYERS)],
        {"unet": 788, "text_encoder": 72, "text_encoder_2": 192},
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
    # ``in_dims`` of sd-scripts: what brings picture, text, time and guidance in besides.
    "kohya-flux-in-dims": (
        "flux",
        [("transformer", "bfl", "lora_unet_", True, (*FLUX, "embed")),
         ("text_encoder", "diffusers", "lora_te1_", True, LAYERS)],
        {"transformer": 502, "text_encoder": 72},
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
            o1, i1 = kron.shape if (kron := layer.tensors.get("kron")) else (1, 1)
            right = (module.shape[0] // o1, module.shape[1] // i1, *module.shape[2:]) if kron else module.shape
            if layer.rank:
                assert layer.tensors["up.weight"].shape == (right[0], layer.rank)
                core = layer.tensors.get("core.weight")
                if core is None:
                    assert layer.tensors["down.weight"].shape == (layer.rank, *right[1:])
                else:
                    inner = core.shape[1]
                    assert core.shape == (layer.rank, inner, *right[2:])
                    assert layer.tensors["down.weight"].shape == (inner, right[1], *[1] * len(right[2:]))
            if delta := layer.tensors.get("weight_delta"):
                assert delta.shape == right
            for leaf, axis in (("gain", 0), ("gain_in", 1)):
                if gain := layer.tensors.get(leaf):
                    assert gain.shape == (module.shape[axis],)
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


_DTYPES = {"float32": "F32", "int64": "I64"}


@dataclass
class Sized:
    """A parameter of a base model that nobody reads."""

    shape: tuple[int, ...]

    def torch(self) -> Any:
        raise AssertionError("a conversion reads the base when it is written")


def sizes_of(base: Architecture) -> dict[str, dict[str, Sized]]:
    """The parameters of a base model without their values."""
    held: dict[str, dict[str, Sized]] = {name: {} for name in base.components}
    for name, model in base.components.items():
        for path, module in model.modules.items():
            held[name][f"{path}.weight"] = Sized(module.shape)
            held[name][f"{path}.bias"] = Sized(module.shape[:1])
    return held


#: Lists whose exact form is many times their size: a dense difference, or a pair of the product of two ranks.
LARGE = {
    "lycoris_boft_sd15", "peft_boft_sd15", "lycoris_lokr_dora_sdxl",
    "lycoris_glora_sd15", "lycoris_loha_tucker_sd15",
}  # fmt: skip


@pytest.mark.parametrize("listed", LISTS)
def test_what_a_peer_wrote_is_found_whole_and_converted(
    listed: str, tmp_path: Path, write_zeros: Callable[..., Path]
) -> None:
    """The lists of `tests.keylists`: the peer itself says how many modules it adapted."""
    about, tensors = read_list(KEYLISTS / f"{listed}.json")
    entries = {name: (_DTYPES[dtype], shape) for name, (dtype, shape) in tensors.items()}
    file = write_zeros(tmp_path / "peer.safetensors", entries)
    source = converters.open_source(file)
    if (kind := listed.split("_")[1].upper()) in {"OFT", "BOFT"} and listed.startswith("peft"):
        source = replace(source, configs={"": {"peft_type": kind}})
    shown = converters.outline(source)
    # What multiplies keys and values alone fits two bases whose keys and values are of one size.
    assert shown.bases == (("sd15", "sd21") if listed == "peft_ia3_sd15" else (about["base"],))
    assert shown.family == about["families"]
    assert sum(holding.modules for holding in shown.holdings.values()) == about["modules"]
    base, families = architectures.load(about["base"]), about["families"].split("+")
    # PEFT turns the inputs of its linear layers here, whatever their weights.
    own = [family for family in FAMILIES if family.name in families and family.name != "oft-peft"]
    needing = [family for family in own if family.needs_base is not never]
    if needing:
        with pytest.raises(UnsupportedFamily, match=f"{re.escape(needing[0].title)}.*own weights, which are needed"):
            converters.convert_source(source, base=base)
    if families == ["ia3-lycoris"]:
        return  # Whether it scales inputs or outputs is a number of the file, and these are zeros.
    options: dict[str, Any] = {"base": base, "weights": sizes_of(base)}
    if listed in LARGE:
        with pytest.raises(ConversionRefused, match=r"its exact form has .* times its numbers.*allow_large"):
            converters.convert_source(source, **options)
    found = converters.convert_source(source, **options, allow_large=listed in LARGE)
    assert found.base.name == about["base"]
    assert sum(len(component.layers) for component in found.adapter.components.values()) == about["modules"]
    assert_fits_base(found.adapter)
    assert_accounted(found)
    if families != ["lora"]:
        return
    ups = sum(prod(shape) for name, (_, shape) in tensors.items() if re.search(r"\.lora\w*?[._](up|B)\.", name))
    kept = [
        layer.tensors["up.weight"].count
        for component in found.adapter.components.values()
        for layer in component.layers.values()
        if layer.rank
    ]
    assert sum(kept) == ups
