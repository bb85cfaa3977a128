"""The document holds what the way back to the source's names needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from si_hub import converters
from si_hub.adapter import Adapter
from si_hub.architectures import Architecture
from si_hub.architectures.model import unfold
from si_hub.architectures.namings import LAYOUTS
from si_hub.converters.wayback import MOST_PATTERNS

Entries = dict[str, tuple[str, tuple[int, ...]]]


def rebuilt_names(adapter: Adapter, base: Architecture) -> set[str]:
    """Names of the source's tensors, from the adapter's module paths and its document alone."""
    found: set[str] = set()
    for component, (main, *others) in adapter.about["provenance"]["layout"].items():
        special = {path: rule for rule in others for pattern in rule["modules"] for path in unfold(pattern)}
        names = {layout: naming(base.components[component]) for layout, naming in LAYOUTS.items()}
        layers = set(adapter.components[component].layers)
        for layout in names:
            for name, parts in names[layout].items():
                rule = special.get(parts[0].path, main)
                if parts[0].path in layers and rule["layout"] == layout and {part.path for part in parts} <= layers:
                    body = name.replace(".", "_") if rule["prefix"].endswith("_") else name
                    found |= {rule["prefix"] + body + suffix for suffix in rule["suffixes"].values()}
    return found


@pytest.mark.parametrize(
    ("fixture", "trained"),
    [
        ("tiny_sdxl", [("unet", "sgm", "lora_unet_"), ("text_encoder_2", "diffusers", "lora_te2_")]),
        ("tiny_sd", [("unet", "diffusers", "lora_unet_"), ("text_encoder", "diffusers", "lora_te_")]),
        ("tiny_flux", [("transformer", "bfl", "lora_unet_"), ("text_encoder_2", "diffusers", "lora_te3_")]),
    ],
)
def test_a_regular_sources_names_follow_from_the_document(
    fixture: str, trained: list[tuple[str, str, str]], request: pytest.FixtureRequest, tmp_path: Path,
    make_spots: Callable[..., list[Any]], make_lora: Callable[..., Entries], write_zeros: Callable[..., Path],
) -> None:  # fmt: skip
    base = request.getfixturevalue(fixture)
    entries: Entries = {}
    for component, layout, prefix in trained:
        entries |= make_lora(make_spots(base, component, layout, prefix), 2, ("I64", ()))
    adapter = converters.convert_source(write_zeros(tmp_path / "lora.safetensors", entries), base=base).adapter
    assert rebuilt_names(adapter, base) == set(entries)
    provenance = adapter.about["provenance"]
    count = len(entries) // 3
    assert provenance["alpha_layout"] == f"I64 [] in {count} of {count} modules"
    suffixes = {"alpha": ".alpha", "down": ".lora_down.weight", "up": ".lora_up.weight"}
    for component, layout, prefix in trained:
        [rule] = provenance["layout"][component]
        assert rule == {"prefix": prefix, "layout": layout, "suffixes": suffixes, "alpha": "I64 []", "zero": True}


@pytest.mark.parametrize("suffix", [".lora.{}.weight", ".lora_linear_layer.{}.weight", ".lora_{}.style_0.weight"])
def test_the_spelling_of_every_suffix_comes_back(
    suffix: str, tmp_path: Path, tiny_sd: Architecture, write_zeros: Callable[..., Path],
    make_spots: Callable[..., list[Any]], make_lora: Callable[..., Entries],
) -> None:  # fmt: skip
    sides = {"down": "A", "up": "B"} if "style" in suffix else {"down": "down", "up": "up"}
    made = make_lora(make_spots(tiny_sd, "unet", "diffusers", "unet.", flat=False), 2, None)
    entries = {
        name.replace(f".lora_{side}.weight", suffix.format(text)): entry
        for name, entry in made.items()
        for side, text in sides.items()
        if f".lora_{side}." in name
    }
    adapter = converters.convert_source(write_zeros(tmp_path / "lora.safetensors", entries), base=tiny_sd).adapter
    assert rebuilt_names(adapter, tiny_sd) == set(entries)


def test_a_source_half_in_one_naming_and_half_in_another_comes_back_whole(
    tmp_path: Path, tiny_sdxl: Architecture, write_zeros: Callable[..., Path], make_lora: Callable[..., Entries],
    make_spots: Callable[..., list[Any]],
) -> None:  # fmt: skip
    own = make_spots(tiny_sdxl, "unet", "diffusers", "lora_unet_", within=("down_blocks", "mid_block"))
    sgm = make_spots(tiny_sdxl, "unet", "sgm", "diffusion_model.", within=("up_blocks",), flat=False)
    entries = make_lora(own, 1) | make_lora(sgm, 1, ("F16", (1,)))
    del entries[f"{own[1].stem}.alpha"]
    found = converters.convert_source(write_zeros(tmp_path / "lora.safetensors", entries), base=tiny_sdxl)
    assert rebuilt_names(found.adapter, tiny_sdxl) == set(entries)
    rules = found.adapter.about["provenance"]["layout"]["unet"]
    assert sorted(rule.get("alpha", "") for rule in rules) == ["", "F16 [1]", "F32 []"]
    assert "modules" not in rules[0]


def test_modules_that_were_left_out_are_no_part_of_it(
    tmp_path: Path, tiny_sd: Architecture, write_zeros: Callable[..., Path], make_lora: Callable[..., Entries],
    make_spots: Callable[..., list[Any]],
) -> None:  # fmt: skip
    spots = make_spots(tiny_sd, "unet", "diffusers", "lora_unet_", within=("mid_block",))
    entries = make_lora(spots, 1) | {f"{spots[0].stem}.lora_up.weight": ("F16", (99, 1))}
    source = write_zeros(tmp_path / "lora.safetensors", entries)
    about = converters.convert_source(source, base=tiny_sd, allow_partial=True).adapter.about["provenance"]
    assert len(about["layout"]["unet"]) == 1
    assert about["alpha_layout"] == f"F32 [] in {len(spots) - 1} of {len(spots) - 1} modules"


def test_axes_of_another_kind_of_module_are_noted(
    tmp_path: Path, sd15: Architecture, write_zeros: Callable[..., Path], make_lora: Callable[..., Entries],
    make_spots: Callable[..., list[Any]],
) -> None:  # fmt: skip
    spots = make_spots(sd15, "unet", "diffusers", "lora_unet_", within=("mid_block.attentions.0.",))
    entries = make_lora(spots, 4)
    flat = {
        name: (dtype, shape[:2]) if "proj_in" in name and shape else (dtype, shape)
        for name, (dtype, shape) in entries.items()
    }
    found = converters.convert_source(write_zeros(tmp_path / "lora.safetensors", flat))
    main, other = found.adapter.about["provenance"]["layout"]["unet"]
    assert "axes" not in main
    assert (other["axes"], other["modules"]) == ([2, 2], ["mid_block.attentions.0.proj_in"])


def test_what_is_too_irregular_for_the_document_is_counted_not_listed(
    tmp_path: Path, write_zeros: Callable[..., Path], make_lora: Callable[..., Entries], sd15: Architecture,
    make_spots: Callable[..., list[Any]],
) -> None:  # fmt: skip
    spots = make_spots(sd15, "unet", "diffusers", "lora_unet_", within=("",))
    entries: Entries = {}
    for index, spot in enumerate(spots):
        entries |= make_lora([spot], 1, ("F32", (1,) * (index * 7919 % 64)))
    found = converters.convert_source(write_zeros(tmp_path / "lora.safetensors", entries))
    rules = found.adapter.about["provenance"]["layout"]["unet"]
    assert len(spots) > MOST_PATTERNS
    assert rules[1:] == [{"modules": len(spots) - sum(index * 7919 % 64 == 0 for index in range(len(spots)))}]
