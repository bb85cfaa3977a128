"""What is said of a file is true: which base model it is for, what of it was converted, and what keeps it from that."""

from __future__ import annotations

import numpy as np
import pytest

from si_hub import format as file_format
from si_hub.conversion import convert
from si_hub.errors import AmbiguousFamily, BaseMismatch, UnsupportedFamily, UsageError
from si_hub.inspection import inspect
from tests.converters.adapters import (
    FLUX_DOUBLE,
    FLUX_SINGLE,
    SDXL,
    Arrays,
    Write,
    document_says_exact,
    look,
    numbers,
    pair,
    refuse,
)

# Each is a small part of an adapter of another model, whose modules Flux.1 or Stable Diffusion 3 have as well.
OF_OTHERS: dict[str, Arrays] = {
    "chroma": pair(FLUX_DOUBLE, 3072, 3072) | pair(FLUX_SINGLE, 3072, 15360),
    "auraflow": pair("transformer.single_transformer_blocks.0.attn.to_q", 3072, 3072, peft=True),
    "flux2-klein-4b": pair("diffusion_model.double_blocks.0.img_attn.qkv", 9216, 3072, peft=True),
    "qwen-image": (
        pair("transformer_blocks.0.attn.to_k", 3072, 3072) | pair("transformer_blocks.1.attn.to_q", 3072, 3072)
    ),
    "sd35-medium": pair("transformer.transformer_blocks.0.attn.to_q", 1536, 1536, peft=True),
    "hunyuan-video": pair("diffusion_model.double_blocks.0.img_attn.proj", 3072, 3072),
}  # fmt: skip


@pytest.mark.parametrize("base", OF_OTHERS)
def test_a_part_that_several_models_have_is_ambiguous_until_something_says_which(base: str, write: Write) -> None:
    error = refuse(write(OF_OTHERS[base]), AmbiguousFamily, "more than one base model fits")
    assert base in str(error.found).split(", ")
    assert "base" in str(error.hint)
    assert look(write(OF_OTHERS[base])).base is None
    assert base in look(write(OF_OTHERS[base])).candidates
    result = convert(write(OF_OTHERS[base]), base=base)
    assert result.base == base
    assert document_says_exact(result)


@pytest.mark.parametrize(
    ("base", "metadata"),
    [
        ("chroma", {"ss_base_model_version": "chroma", "modelspec.architecture": "chroma/lora"}),
        ("chroma", {"modelspec.architecture": "Chroma1/lora"}),
        ("auraflow", {"baseModel": "Pony V7"}),
        ("flux2-klein-4b", {"modelspec.architecture": "Flux.2-klein-4b/lora"}),
        ("qwen-image", {"ss_base_model_version": "qwen_image"}),
        ("sd35-medium", {"modelspec.architecture": "stable-diffusion-3.5-medium/lora"}),
        ("hunyuan-video", {"modelspec.architecture": "hunyuan-video/lora"}),
    ],
)
def test_metadata_say_which(base: str, metadata: dict[str, str], write: Write) -> None:
    result = convert(write(OF_OTHERS[base], metadata))
    assert result.base == base
    assert document_says_exact(result)


@pytest.mark.parametrize("base", OF_OTHERS)
def test_metadata_that_name_another_model_or_an_unknown_one_are_an_error(base: str, write: Write) -> None:
    for key, text in (("ss_base_model_version", "sdxl_base_v1-0"), ("modelspec.architecture", "new-model-7/lora")):
        error = refuse(write(OF_OTHERS[base], {key: text}), BaseMismatch, "its metadata name another base model")
        assert text in str(error.found)
        assert base in str(error.expected)


def test_depth_tells_a_video_model_from_flux(write: Write) -> None:
    deep = OF_OTHERS["hunyuan-video"] | pair("diffusion_model.double_blocks.19.img_attn.proj", 3072, 3072)
    assert convert(write(deep)).base == "hunyuan-video"


def test_leaving_out_is_not_advised_where_much_does_not_fit(write: Write) -> None:
    held = {
        name: value for block in range(12) for name, value in pair(f"diffusion_model.blocks.{block}.q", 8, 8).items()
    }
    held |= pair("diffusion_model.double_blocks.0.img_attn.proj", 3072, 3072)
    for options, said in (({}, "flux, the nearest base model"), ({"base": "flux"}, "flux")):
        error = refuse(write(held), BaseMismatch, rf"12 of 13 modules are not in {said} \(", **options)
        assert "partial" not in str(error)
    # Who says it himself gets the part, which is never called the whole.
    result = convert(write(held), base="flux", allow_partial=True)
    assert not document_says_exact(result)
    assert len(result.report.lost) == 24


def test_leaving_out_is_advised_where_nearly_all_fits(write: Write) -> None:
    held = {
        name: value
        for block in range(19)
        for name, value in pair(f"lora_unet_double_blocks_{block}_img_mod_lin", 18432, 3072, rank=1).items()
    }
    held |= pair("lora_unet_stranger", 8, 8)
    error = refuse(write(held), BaseMismatch, "1 of 20 modules are not in flux", base="flux")
    assert "partial" in str(error.hint)
    assert not document_says_exact(convert(write(held), base="flux", allow_partial=True))


@pytest.mark.parametrize(("says", "base"), [("False", "sd15"), ("True", "sd21")])
def test_kohyas_flag_tells_the_first_stable_diffusion_from_the_second(says: str, base: str, write: Write) -> None:
    held = pair("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", 320, 320)
    metadata = {"ss_v2": says, "ss_network_module": "networks.lora"}
    assert look(write(held, metadata)).base == base
    assert convert(write(held, metadata)).base == base


def test_a_family_that_is_not_converted_as_it_is_is_known_with_its_base(write: Write) -> None:
    stem = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_out_0"
    held = {f"{stem}.oft_blocks": numbers(16, 40, 40)}
    metadata = {"ss_base_model_version": "sdxl_base_v1-0"}
    found = look(write(held, metadata))
    assert (found.kind, found.family, found.base) == ("adapter", "oft", "sdxl")
    refuse(write(held, metadata), UnsupportedFamily, "is OFT or BOFT.*which are needed.*--base|base=FOLDER")


def test_after_a_base_was_named_the_hint_says_what_of_it_does_not_fit(write: Write) -> None:
    error = refuse(write(pair("lora_unet_proj_out_", 64, 3072)), BaseMismatch, "none of its", base="sdxl")
    assert "sdxl" in str(error)
    assert "lora_unet_proj_out_" in str(error.key)
    assert "Name its base" not in str(error.hint)


@pytest.mark.parametrize(("alphas", "counted"), [((1.0, 0.0), 0), ((4.0, 1.0), 0), ((0.0, 0.0), 1)])
def test_a_note_counts_what_was_converted(alphas: tuple[float, float], counted: int, write: Write) -> None:
    """The second of the two modules is in no base model."""
    held = pair(FLUX_DOUBLE, 3072, 3072, alpha=alphas[0]) | pair("lora_unet_time_in", 3072, 256, alpha=alphas[1])
    result = convert(write(held), base="flux", allow_partial=True)
    notes = [note for note in result.report.notes if "alpha" in note]
    assert notes == ([f"alpha is 0 in {counted} modules, which kohya's trainer reads as the rank"] if counted else [])


def test_an_alpha_beside_a_difference_is_no_alpha_of_a_lora(write: Write) -> None:
    held = {
        "lora_unet_conv_in.diff": numbers(320, 4, 3, 3), "lora_unet_conv_in.alpha": np.array(0, np.float32),
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.diff": numbers(320, 768),
    }  # fmt: skip
    result = convert(write(held))
    assert result.base == "sd15"
    assert result.report.notes == []
    assert document_says_exact(result)


def attend(blocks: int, kinds: str, prefix: str = "transformer.transformer_blocks") -> Arrays:
    """LoRAs of layers of 3072 in the first so many blocks."""
    held: Arrays = {}
    for block in range(blocks):
        for kind in kinds.split():
            held |= pair(f"{prefix}.{block}.attn.{kind}", 3072, 3072, peft=True, rank=1)
    return held


@pytest.mark.parametrize(
    ("blocks", "base", "no_deeper"),
    [(8, "flux", "fibo"), (20, "qwen-image", "hunyuan-video"), (19, "hunyuan-video", "flux")],
)
def test_the_first_blocks_of_a_deep_model_are_not_taken_for_all_of_a_shallow_one(
    blocks: int, base: str, no_deeper: str, write: Write
) -> None:
    error = refuse(write(attend(blocks, "to_q to_k to_v to_out.0")), AmbiguousFamily, "more than one base model fits")
    assert {base, no_deeper} <= set(str(error.found).split(", "))


def test_all_blocks_of_two_lists_tell_flux_from_a_deeper_model(write: Write) -> None:
    held = attend(19, "to_q add_q_proj")
    held |= attend(38, "to_q", "transformer.single_transformer_blocks")
    error = refuse(write(held), AmbiguousFamily, "more than one base model fits")
    # Chroma is just as deep.
    assert error.found == "flux, chroma"


def test_a_bias_beside_a_pair_of_rank_0_stays(write: Write) -> None:
    stem = SDXL.format(1, 0, 1, "out_0")
    empty = {f"{stem}.lora_down.weight": numbers(0, 640), f"{stem}.lora_up.weight": numbers(640, 0)}
    result = convert(write(empty | {f"{stem}.diff_b": numbers(640)}), base="sdxl")
    assert document_says_exact(result)
    [layer] = file_format.read(result.path).components["unet"].layers.values()
    np.testing.assert_array_equal(layer.tensors["bias_delta"].numpy(), numbers(640))
    assert set(result.report.dropped) == set(empty)


def test_two_inversions_of_one_token_are_one_where_they_are_equal(write: Write) -> None:
    held = pair(SDXL.format(2, 9, 2, "k"), 1280, 2048)
    held |= {"bundle_emb.tok.clip_l": numbers(1, 768), "bundle_emb.tok.string_to_param.*": numbers(1, 768)}
    result = convert(write(held))
    assert document_says_exact(result)
    result.path.unlink()
    held["bundle_emb.tok.clip_l"] = held["bundle_emb.tok.clip_l"] + 1
    error = refuse(write(held), AmbiguousFamily, "two textual inversions of the file are for one token")
    assert error.found == "tok"


def test_inspect_names_no_base_that_most_of_a_file_contradicts(write: Write) -> None:
    held = pair("diffusion_model.layers.0.attention.qkv", 11520, 3840, peft=True)
    for block in range(30):
        held |= pair(f"diffusion_model.blob.{block}.foo", 8, 8, peft=True)
    found = look(write(held))
    assert (found.family, found.base, found.candidates) == ("lora", None, ())
    assert "the nearest base model" in str(found.problem["problem"])


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"base_model": "runwayml/stable-diffusion-v1-5"}, "sdxl, by names and shapes"),
        ({"base_model": "black-forest-labs/FLUX.1-dev"}, "sdxl, by names and shapes"),
        ({"ss_v2": "true"}, "sdxl, by names and shapes"),
        ({"ss_v2": '"True"'}, "sdxl, by names and shapes"),
    ],
)
def test_metadata_contradict_however_they_are_written(metadata: dict[str, str], said: str, write: Write) -> None:
    error = refuse(write(pair(SDXL.format(2, 9, 2, "k"), 1280, 2048), metadata), BaseMismatch, "its metadata name")
    assert error.expected == said


@pytest.mark.parametrize("text", ["None", "unknown", ""])
def test_a_placeholder_names_no_base(text: str, write: Write) -> None:
    held = pair(SDXL.format(2, 9, 2, "k"), 1280, 2048)
    assert convert(write(held, {"ss_base_model_version": text})).base == "sdxl"


def test_a_module_under_two_names_is_counted_once(write: Write) -> None:
    sgm = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    twice = pair(sgm, 640, 640, alpha=0) | pair(SDXL.format(1, 0, 1, "q"), 640, 640, alpha=0)
    result = convert(write(twice | pair(SDXL.format(2, 9, 2, "k"), 1280, 2048, alpha=0)), base="sdxl")
    assert result.report.notes == ["alpha is 0 in 2 modules, which kohya's trainer reads as the rank"]
    fates = [use.fate for use in result.report.uses.values()]
    assert (fates.count("used"), fates.count("folded")) == (4, 5)


def test_one_number_is_the_same_in_any_shape_and_with_either_sign_of_zero(write: Write) -> None:
    stem = SDXL.format(2, 9, 2, "k")
    held = pair(stem, 1280, 2048, alpha=4)
    held[f"{stem}.lora_up.weight"][0, 0] = 0.0
    dotted = {name.replace("_to_k.", ".to_k."): value for name, value in held.items()}
    dotted = {name: np.array([4], np.float32) if name.endswith("alpha") else value for name, value in dotted.items()}
    up = dotted[f"{stem.replace('_to_k', '.to_k')}.lora_up.weight"].copy()
    up[0, 0] = -0.0
    dotted[f"{stem.replace('_to_k', '.to_k')}.lora_up.weight"] = up
    assert document_says_exact(convert(write(held | dotted)))


@pytest.mark.parametrize(
    "broken", [{"alpha": np.array(np.nan, np.float32)}, {"alpha": np.ones(2, np.float32)}, {"alpha": np.ones(0, "f4")}]
)
def test_a_known_adapter_whose_scale_cannot_be_read_is_known_all_the_same(broken: Arrays, write: Write) -> None:
    stem = SDXL.format(2, 9, 2, "k")
    held = pair(stem, 1280, 2048) | {f"{stem}.{slot}": value for slot, value in broken.items()}
    found = look(write(held))
    assert (found.kind, found.family, found.base) == ("adapter", "lora", "sdxl")
    assert found.problem["key"] == f"{stem}.alpha"


def test_a_wrong_base_is_the_callers_mistake_and_not_the_files(write: Write) -> None:
    file = write(pair(SDXL.format(2, 9, 2, "k"), 1280, 2048))
    for base in ("sdxxl", "x" * 5000):
        with pytest.raises(UsageError, match="no base model is called"):
            inspect(file, base=base)
        refuse(file, UsageError, "no base model is called", base=base)
    for wrong in (5, b"sdxl", ["sdxl"]):
        refuse(file, UsageError, "is no base model", base=wrong)
