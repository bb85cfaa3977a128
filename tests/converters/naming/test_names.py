"""Prefixes of names, and what is left of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from si_hub.converters.naming.names import PREFIXES, Reading, read_stem


@pytest.mark.parametrize(
    ("stem", "reading"),
    [
        ("lora_unet_mid_block", Reading("lora_unet_", "mid_block", ("unet", "transformer", "prior"), True)),
        ("lora_unet__blocks_0", Reading("lora_unet__", "blocks_0", ("unet", "transformer", "prior"), True)),
        ("lora_te3_encoder", Reading("lora_te3_", "encoder", ("text_encoder_3", "text_encoder_2"), True)),
        ("text_encoder_2.text_model", Reading("text_encoder_2.", "text_model", ("text_encoder_2",), False)),
        ("unet.base_model.model.conv_in", Reading("unet.base_model.model.", "conv_in", ("unet",), False)),
        ("base_model.model.unet.conv_in", Reading("base_model.model.unet.", "conv_in", ("unet",), False)),
        ("base_model.model.conv_in", Reading("base_model.model.", "conv_in", (), False)),
        ("conv_in", Reading("", "conv_in", (), False)),
        ("", Reading("", "", (), False)),
    ],
)
def test_the_longest_prefix_says_the_component(stem: str, reading: Reading) -> None:
    assert read_stem(stem) == reading


@given(st.text(max_size=40))
def test_reading_never_loses_a_character(stem: str) -> None:
    reading = read_stem(stem)
    assert reading.prefix + reading.body == stem


def test_prefixes_are_distinct() -> None:
    assert len({prefix.text for prefix in PREFIXES}) == len(PREFIXES)
