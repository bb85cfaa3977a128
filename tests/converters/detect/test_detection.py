"""Refusals: one typed error each, that names the file, the tensor, and the way out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from si_hub import architectures, converters
from si_hub.architectures import Architecture
from si_hub.converters.families.registry import SUFFIXES
from si_hub.converters.naming.names import PREFIXES
from si_hub.errors import (
    AmbiguousFamily,
    BaseMismatch,
    LayerShapeError,
    SiHubError,
    UnknownFamily,
    UnsupportedFamily,
)

Entries = dict[str, tuple[str, tuple[int, ...]]]
WriteZeros = Callable[..., Path]
DOWN, UP = ".lora_down.weight", ".lora_up.weight"
ATTN = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0"


def pair(stem: str, out: int, in_: int, rank: int = 4) -> Entries:
    return {stem + DOWN: ("F16", (rank, in_)), stem + UP: ("F16", (out, rank))}


def refuse(path: Path, error: type[SiHubError], match: str, **options: Any) -> SiHubError:
    """Converting ``path`` raises ``error``, whose line names the file."""
    with pytest.raises(error, match=match) as caught:
        converters.convert_source(path, **options)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


def test_attention_to_text_tells_sd15_from_sd21(tmp_path: Path, write_zeros: WriteZeros) -> None:
    for width, base in ((768, "sd15"), (1024, "sd21")):
        file = write_zeros(tmp_path / f"{base}.safetensors", pair(f"{ATTN}_attn2_to_k", 320, width))
        assert converters.convert_source(file).base.name == base


def test_what_fits_two_bases_asks_for_one_or_for_metadata(tmp_path: Path, write_zeros: WriteZeros) -> None:
    entries = pair(f"{ATTN}_attn1_to_k", 320, 320)
    file = write_zeros(tmp_path / "lora.safetensors", entries)
    refuse(file, AmbiguousFamily, r"more than one base model fits.*sd15, sd21.*base=")
    assert converters.convert_source(file, base="sd21").base.name == "sd21"
    file = write_zeros(tmp_path / "hint.safetensors", entries, {"ss_base_model_version": "sd_v2_v"})
    found = converters.convert_source(file)
    assert found.base.name == "sd21"
    assert found.adapter.base_model.prediction_type == "v_prediction"


def test_depth_tells_sdxl_where_widths_do_not(tmp_path: Path, write_zeros: WriteZeros) -> None:
    stem = "lora_unet_down_blocks_2_attentions_0_transformer_blocks_9_attn1_to_k"
    assert (
        converters.convert_source(write_zeros(tmp_path / "a.safetensors", pair(stem, 1280, 1280))).base.name == "sdxl"
    )


def test_what_sdxl_shares_with_models_cut_from_it_is_ambiguous_unless_it_is_all_of_one(
    tmp_path: Path, write_zeros: WriteZeros
) -> None:
    stem = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    few = write_zeros(tmp_path / "a.safetensors", pair(stem, 640, 2048))
    refuse(few, AmbiguousFamily, r"more than one base model fits.*sdxl, ssd-1b, segmind-vega")
    for name in ("sdxl", "ssd-1b", "segmind-vega"):
        modules = architectures.load(name).components["unet"].modules
        entries: Entries = {}
        for path in (path for path in modules if path.endswith("attn2.to_k")):
            entries |= pair(f"lora_unet_{path.replace('.', '_')}", *modules[path].shape)
        assert converters.convert_source(write_zeros(tmp_path / f"{name}.safetensors", entries)).base.name == name


@pytest.mark.parametrize(("axes", "base"), [((1, 1), "sd15"), ((), "sd21")])
def test_a_pointwise_convolution_tells_sd15_from_sd21_where_widths_do_not(
    axes: tuple[int, ...], base: str, tmp_path: Path, write_zeros: WriteZeros
) -> None:
    """A slider without cross attention: every size is the same in both, but proj_in is a convolution in one."""
    entries = pair(f"{ATTN}_attn1_to_q", 320, 320) | {
        "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": ("F16", (4, 320, *axes)),
        "lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight": ("F16", (320, 4, *axes)),
    }
    file = write_zeros(tmp_path / "a.safetensors", entries)
    assert converters.convert_source(file).base.name == base
    named = write_zeros(tmp_path / "b.safetensors", entries, {"ss_base_model_version": "sd_v2"})
    assert converters.convert_source(named).base.name == "sd21"
    refuse(write_zeros(file, pair(f"{ATTN}_attn1_to_q", 320, 320)), AmbiguousFamily, "found sd15, sd21")


def test_shapes_of_no_shipped_base_are_held_against_the_nearest(tmp_path: Path, write_zeros: WriteZeros) -> None:
    entries = pair("lora_unet_mid_block_attentions_0_proj_in", 32, 32) | pair("lora_te_text_model_x", 4, 4)
    refuse(
        write_zeros(tmp_path / "a.safetensors", entries), BaseMismatch,
        r"proj_in\.lora_up\.weight: none of its modules fits any shipped base model; nearest is sd15: the output size "
        r"differs.*\(expected 1280, found 32\)\. Name its base model with base=",
    )  # fmt: skip


def test_two_spellings_of_one_tensor_are_an_error_that_names_both(tmp_path: Path, write_zeros: WriteZeros) -> None:
    entries = pair(f"{ATTN}_attn2_to_k", 320, 768) | {f"{ATTN}_attn2_to_k.lora_A.weight": ("F16", (8, 768))}
    match = "lora_A.*mean the same and differ.*lora_down"
    refuse(write_zeros(tmp_path / "a.safetensors", entries), AmbiguousFamily, match)
    entries[f"{ATTN}_attn2_to_k.lora_A.weight"] = ("F32", (4, 768))
    found = converters.convert_source(write_zeros(tmp_path / "b.safetensors", entries))
    assert set(found.report.uses) == set(entries)
    assert not found.report.dropped


def test_several_peft_adapters_in_one_file_are_an_error(tmp_path: Path, write_zeros: WriteZeros) -> None:
    entries: Entries = {f"unet.conv_in.lora_{side}.{name}.weight": ("F16", (4, 4)) for name in "xy" for side in "AB"}
    refuse(write_zeros(tmp_path / "a.safetensors", entries), AmbiguousFamily, "several PEFT adapters.*found x, y")


@pytest.mark.parametrize(
    ("entries", "error", "match"),
    [
        ({f"{ATTN}_attn2_to_k{DOWN}": ("F16", (4, 768)), f"{ATTN}_attn2_to_k{UP}": ("F16", (320, 5))},
         LayerShapeError, r"lora_up\.weight: up and down have different ranks.*4 columns.*\[320, 5\]"),
        ({f"lora_unet_conv_in{DOWN}": ("F16", (4, 4, 3, 3)), f"lora_unet_conv_in{UP}": ("F16", (320, 2, 1, 1))},
         LayerShapeError, r"lora_up\.weight: up and down have different ranks.*4 columns"),
        ({f"{ATTN}_attn2_to_k{DOWN}": ("F16", (768,)), f"{ATTN}_attn2_to_k{UP}": ("F16", (320, 1))},
         LayerShapeError, r"lora_down\.weight: a LoRA down matrix needs two axes"),
        ({f"{ATTN}_attn2_to_k{DOWN}": ("F16", (4, 768)), f"{ATTN}_attn2_to_k{UP}": ("F16", (320, 4, 3, 3))},
         LayerShapeError, r"lora_up\.weight: the up matrix has a kernel"),
        (pair(f"{ATTN}_attn2_to_k", 321, 768), BaseMismatch, r"lora_up\.weight.*output size differs.*320, found 321"),
        (pair(f"{ATTN}_attn2_to_k", 320, 769), BaseMismatch, r"lora_down\.weight.*input size differs.*768, found 769"),
        (pair("lora_unet_conv_in", 320, 4), BaseMismatch, r"lora_down\.weight.*kernel size differs"),
        ({"lora_unet_conv_in.diff": ("F16", (320, 4, 1, 1))}, BaseMismatch, r"weight size differs.*\[320, 4, 3, 3\]"),
        ({f"{ATTN}_attn2_to_k.diff_b": ("F16", (320,))}, BaseMismatch, "has no bias to change"),
        ({"lora_unet_conv_in.diff_b": ("F16", (4,))}, BaseMismatch, r"bias size differs.*expected 320"),
        ({"lora_unet_conv_in.diff_b": ("F16", (321,))}, BaseMismatch, r"bias size differs.*expected 320"),
        (pair("lora_unet_nothing_like_it", 4, 4), BaseMismatch,
         r"lora_unet_nothing_like_it: none of its 1 modules is in sd15\. It is for another base model"),
        ({"conv.rezero": ("F16", (1,))}, UnknownFamily, r"1 of 1 tensors are of no known family.*found conv\.rezero"),
        ({f"{ATTN}_attn2_to_k{DOWN}": ("F16", (4, 768))}, UnknownFamily, "nearest is LoRA.*a module lacks up"),
        ({f"{ATTN}_attn2_to_k.reshape_weight": ("I64", (2,)), **pair(f"{ATTN}_attn2_to_k", 320, 999)},
         UnsupportedFamily, r"attn2_to_k: is control LoRA that makes layers wider \(1 of 1 modules\)"),
        ({}, UnknownFamily, "holds no tensors"),
        ({"bundle_emb.x.string_to_param.*": ("F16", (1, 768))}, UnsupportedFamily, "textual inversion alone"),
        ({"model.diffusion_model.out.2.weight": ("F16", (4,))}, UnsupportedFamily, "a full checkpoint.*distill"),
        ({f"{ATTN}_attn2_to_k.hada_{half}": ("F16", (4, 4)) for half in ("w1_a", "w1_b", "w2_a", "w2_b")},
         BaseMismatch, rf"{ATTN}_attn2_to_k.hada_w1_a: none of its modules fits sd15"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_clear_error(
    entries: Entries, error: type[SiHubError], match: str, tmp_path: Path, write_zeros: WriteZeros
) -> None:
    refuse(write_zeros(tmp_path / "lora.safetensors", entries), error, match, base="sd15")


def test_part_of_a_file_is_converted_only_when_asked(tmp_path: Path, write_zeros: WriteZeros) -> None:
    entries = {
        **pair(f"{ATTN}_attn2_to_k", 320, 768), **pair(f"{ATTN}_attn2_to_v", 320, 999), **pair("lora_unet_other", 4, 4),
        "left.over": ("F16", (1,)), f"{ATTN}_attn2_to_out_0.oft_blocks": ("F16", (8, 40, 40)),
    }  # fmt: skip
    file = write_zeros(tmp_path / "lora.safetensors", entries)
    refuse(file, UnknownFamily, "left.over: 1 of 8 tensors are of no known family")
    refuse(file, BaseMismatch, r"1 of 4 modules are not in sd15, the nearest.*Name its base model", allow_partial=True)
    found = converters.convert_source(file, base="sd15", allow_partial=True)
    assert set(found.report.uses) == set(entries)
    assert "exact" not in found.adapter.about["provenance"]
    assert found.adapter.about["provenance"]["left_out"] == len(found.report.dropped)
    assert set(found.report.dropped) == {name for name in entries if "attn2_to_k" not in name}
    reasons = " / ".join(sorted(set(found.report.dropped.values())))
    assert "no such module" in reasons
    assert "input size differs" in reasons
    assert "no converter knows" in reasons
    assert "OFT or BOFT" in reasons
    del entries["left.over"], entries[f"{ATTN}_attn2_to_out_0.oft_blocks"]
    refuse(write_zeros(file, entries), BaseMismatch, "1 of 3 modules are not in sd15", base="sd15")
    entries = {name: entry for name, entry in entries.items() if "other" not in name}
    refuse(write_zeros(file, entries), BaseMismatch, "1 of 2 modules do not fit sd15.*input size differs", base="sd15")
    only_wrong = {name: entry for name, entry in entries.items() if "to_v" in name}
    refuse(write_zeros(file, only_wrong), BaseMismatch, "none of its", base="sd15", allow_partial=True)


def test_a_bare_text_encoder_lora_goes_to_the_encoder_whose_sizes_fit(
    tmp_path: Path, tiny_sdxl: Architecture, write_zeros: WriteZeros
) -> None:
    stem = "base_model.model.text_model.encoder.layers.1.self_attn.q_proj"
    for width, component in ((24, "text_encoder"), (32, "text_encoder_2")):
        entries: Entries = {
            f"{stem}.lora_A.weight": ("F32", (2, width)), f"{stem}.lora_B.weight": ("F32", (width, 2)),
        }  # fmt: skip
        file = write_zeros(tmp_path / f"{width}.safetensors", entries)
        assert set(converters.convert_source(file, base=tiny_sdxl).adapter.components) == {component}


stem_parts = st.sampled_from(
    [*(prefix.text for prefix in PREFIXES), "base_model.model.", "down_blocks_0", "conv_in", "mid_block.", "text_model",
     "", "_", ".", "down_blocks_0_attentions_0_proj_in", "bundle_emb.x", "double_blocks_0_img_attn_qkv"]
)  # fmt: skip
names = st.one_of(
    st.builds("{}{}{}".format, stem_parts, stem_parts, st.sampled_from(sorted(SUFFIXES))),
    st.builds("{}{}".format, stem_parts, st.text(max_size=12)),
)
shapes = st.lists(st.sampled_from([0, 1, 2, 3, 4, 24, 320, 768]), max_size=4).map(tuple)
garbage = st.dictionaries(names, st.tuples(st.sampled_from(["F16", "F32", "I64", "F8_E4M3", "U8"]), shapes), max_size=8)


@given(
    entries=garbage, partial=st.booleans(),
    metadata=st.dictionaries(st.sampled_from(["modelspec.tags", "lora_adapter_metadata"]), st.text(max_size=9)),
)  # fmt: skip
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_header_is_converted_whole_or_a_typed_error(
    entries: Entries, partial: bool, metadata: dict[str, str], tmp_path_factory: pytest.TempPathFactory,
    write_zeros: WriteZeros,
) -> None:  # fmt: skip
    file = write_zeros(tmp_path_factory.getbasetemp() / "garbage.safetensors", entries, metadata)
    try:
        found = converters.convert_source(file, allow_partial=partial)
    except SiHubError as error:
        named = str(file) in str(error)
    else:
        named = set(found.report.uses) == set(entries)
    assert named
