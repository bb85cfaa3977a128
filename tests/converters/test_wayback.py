"""The document holds what the way back to the source's names needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from si_hub import converters
from si_hub.adapter import Adapter
from si_hub.architectures import Architecture
from si_hub.architectures.layouts import LAYOUTS

Entries = dict[str, tuple[str, tuple[int, ...]]]
_SUFFIXES = {"kohya": (".lora_down.weight", ".lora_up.weight"), "peft": (".lora_A.weight", ".lora_B.weight")}


def rebuilt_names(adapter: Adapter, base: Architecture) -> set[str]:
    """Names of the source's pairs, from the adapter's module paths and its document alone."""
    found: set[str] = set()
    for component, rule in adapter.about["provenance"]["layout"]["names"].items():
        flat = rule["prefix"].endswith("_")
        for name, parts in LAYOUTS[rule["layout"]](base.components[component]).items():
            if parts[0].path in adapter.components[component].layers:
                stem = rule["prefix"] + (name.replace(".", "_") if flat else name)
                found |= {stem + suffix for suffix in _SUFFIXES[rule["spelling"]]}
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
    adapter = converters.convert(write_zeros(tmp_path / "lora.safetensors", entries), base=base).adapter
    assert rebuilt_names(adapter, base) == {name for name in entries if not name.endswith(".alpha")}
    provenance = adapter.about["provenance"]
    count = len(entries) // 3
    assert provenance["alpha_layout"] == f"I64 [] in {count} of {count} modules"
    assert set(provenance["layout"]) <= {"names", "alpha_zero"}


def test_irregular_names_and_alphas_are_listed(
    tmp_path: Path, tiny_sdxl: Architecture, write_zeros: Callable[..., Path], make_lora: Callable[..., Entries],
    make_spots: Callable[..., list[Any]],
) -> None:  # fmt: skip
    spots = make_spots(tiny_sdxl, "unet", "diffusers", "lora_unet_", within=("mid_block",))
    entries = make_lora(spots, 1)
    odd, quiet = spots[0].stem, spots[1].stem
    sgm_name = next(
        name for name, parts in LAYOUTS["sgm"](tiny_sdxl.components["unet"]).items() if parts[0].path == spots[0].name
    )
    renamed = {name.replace(odd, f"diffusion_model.{sgm_name}"): entry for name, entry in entries.items()}
    del renamed[f"{quiet}.alpha"]
    found = converters.convert(write_zeros(tmp_path / "lora.safetensors", renamed), base=tiny_sdxl)
    layout = found.adapter.about["provenance"]["layout"]
    assert layout["names"] == {"unet": {"prefix": "lora_unet_", "layout": "diffusers", "spelling": "kohya"}}
    assert layout["irregular"] == {f"diffusion_model.{sgm_name}": f"unet.{spots[0].name}"}
    assert layout["alpha_absent"] == [quiet]


def test_a_wholly_irregular_source_is_counted_not_listed(
    tmp_path: Path, write_zeros: Callable[..., Path], make_lora: Callable[..., Entries], sd15: Architecture,
    make_spots: Callable[..., list[Any]],
) -> None:  # fmt: skip
    spots = make_spots(sd15, "unet", "diffusers", "lora_unet_", within=(".attentions.",))
    entries = make_lora(spots, 1)
    for spot in spots[:100]:
        del entries[f"{spot.stem}.alpha"]
    found = converters.convert(write_zeros(tmp_path / "lora.safetensors", entries))
    assert found.adapter.about["provenance"]["layout"]["alpha_absent"] == 100
