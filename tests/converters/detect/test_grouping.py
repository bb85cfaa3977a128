"""Names put together by module and family: what is said the same twice, what is refused, and what is no adapter."""

from __future__ import annotations

import pytest

from si_hub.conversion import convert
from si_hub.errors import AmbiguousFamily, NotAnAdapter, UnsupportedFamily
from tests.converters.adapters import (
    SDXL,
    Write,
    document_says_exact,
    numbers,
    pair,
    refuse,
)


def test_the_numbered_lora_of_stable_cascade_is_called_that(write: Write) -> None:
    held = {"weights.0.lora_down": numbers(4, 2048), "weights.0.lora_up": numbers(2048, 4)}
    refuse(write(held), NotAnAdapter, "is a LoRA of Stable Cascade")


@pytest.mark.parametrize(
    ("held", "name"),
    [
        (["blocks.0.self_attn.q.weight", "blocks.0.self_attn.q.bias", "blocks.0.modulation"], r"a whole model \(Wan\)"),
        (["stages.0.mixer.weight", "stages.0.mixer.comfy_quant", "stages.0.norm.scale"], "a model, or a part of one"),
        (["encoder.down.0.block.0.conv1.weight", "decoder.conv_in.weight"], "a VAE"),
        (["model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.up_proj.weight"], "a text encoder"),
    ],
)
def test_a_model_is_called_a_model_and_no_adapter_is_near_it(held: list[str], name: str, write: Write) -> None:
    error = refuse(write({key: numbers(4, 4) for key in held}), NotAnAdapter, f"is {name}")
    assert "nearest" not in str(error)


def test_two_names_of_one_module_are_one_where_they_say_the_same(write: Write) -> None:
    diffusers = pair("transformer.transformer_blocks.0.attn.to_q", 3072, 3072)
    kohya = {f"lora_transformer_{name[12:].replace('.', '_', 3)}": value for name, value in diffusers.items()}
    assert kohya.keys() == pair("lora_transformer_transformer_blocks_0_attn_to_q", 1, 1).keys()
    result = convert(write(diffusers | kohya), base="flux")
    assert result.modules == {"transformer": 1}
    assert document_says_exact(result)
    other = {name: value + 1 for name, value in kohya.items()}
    refuse_both = write(diffusers | other)
    result.path.unlink()
    error = refuse(refuse_both, AmbiguousFamily, "differ", base="flux")
    assert "to_q" in str(error.key)


def test_a_dora_is_never_converted_without_its_magnitudes(write: Write) -> None:
    first, second = SDXL.format(1, 0, 1, "q"), SDXL.format(2, 9, 2, "k")
    dotted = first.replace("_to_q", ".to_q")
    held = pair(first, 640, 640) | {f"{dotted}.lora_magnitude_vector": numbers(640)} | pair(second, 1280, 2048)
    refuse(write(held), UnsupportedFamily, "is DoRA .1 of 2 modules")
    result = convert(write(held), allow_partial=True)
    assert not document_says_exact(result)
    assert result.modules == {"unet": 1}
    assert {name for name in held if name.startswith((first, dotted))} == set(result.report.lost)


def test_each_family_that_needs_the_base_is_counted(write: Write) -> None:
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_{}"
    held = {f"{stem.format(name)}.lokr_w1": numbers(8, 8) for name in "qk"}
    held |= {f"{stem.format(name)}.lokr_w2": numbers(40, 40) for name in "qk"}
    held[f"{stem.format('q')}.dora_scale"] = numbers(320, 1)
    held[f"{stem.format('out_0')}.oft_blocks"] = numbers(8, 40, 40)
    problem = refuse(write(held), UnsupportedFamily, "is OFT", base="sd15").problem
    families, reason = problem.rsplit(": ", 1)
    assert families == "is OFT or BOFT of LyCORIS or kohya (1 of 3 modules), DoRA (1 of 3 modules)"
    assert "base model's own weights" in reason
