"""The ends of names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from si_hub.converters.families.registry import SUFFIXES
from si_hub.converters.naming.suffixes import Key, Suffixes, spell

split = SUFFIXES.split

stems = st.lists(
    st.sampled_from(["lora_unet_mid_block", "unet", "attn1", "to_q", "0", "processor", "alpha", "diff", "weight"]),
    min_size=1, max_size=6,
).map(".".join)  # fmt: skip


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_known_suffix_is_cut_off(suffix: str) -> None:
    assert split(f"lora_unet_mid_block{suffix}") == Key("lora_unet_mid_block", *SUFFIXES[suffix][:2], "")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a.to_q.lora_A.default.weight", Key("a.to_q", "down", "peft", "default")),
        ("a.to_q.lora_B.default_0.weight", Key("a.to_q", "up", "peft", "default_0")),
        ("a.to_q.lora_B.style.bias", Key("a.to_q", "up_bias", "peft", "style")),
        ("a.to_q.ia3_l.default", Key("a.to_q", "ia3", "peft", "default")),
        ("a.to_q.lora_magnitude_vector.default.weight", Key("a.to_q", "magnitude", "peft", "default")),
        ("a.to_q.lora.down.weight", Key("a.to_q", "down", "diffusers", "")),
        ("a.attn1.processor.to_q_lora.down.weight", Key("a.attn1.processor.to_q", "down", "attention-processor", "")),
        ("double_blocks.0.processor.qkv_lora1.up.weight",
         Key("double_blocks.0.processor.qkv_lora1", "up", "xlabs", "")),
        ("oft_unet_single_blocks_0_linear1.oft_blocks.3",
         Key("oft_unet_single_blocks_0_linear1", "oft_blocks_3", "kohya", "")),
        ("a.b.weight", Key("a.b", "ia3_weight", "lycoris", "")),
    ],
)  # fmt: skip
def test_the_longest_known_suffix_decides(name: str, key: Key) -> None:
    assert split(name) == key


@pytest.mark.parametrize("name", ["", "weight", "a.b.c", "a.lora_A.x.y.bias", "a.running_mean", "lora_down"])
def test_a_name_without_a_known_suffix_is_not_taken_apart(name: str) -> None:
    assert split(name) is None


@given(stems, st.sampled_from(sorted(SUFFIXES)))
def test_stem_and_rest_always_make_the_name_again(stem: str, suffix: str) -> None:
    key = split(stem + suffix)
    assert key is not None
    assert (stem + suffix).startswith(key.stem)
    assert SUFFIXES[(stem + suffix)[len(key.stem) :]].slot == key.slot


def test_two_meanings_of_one_suffix_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"\.alpha"):
        Suffixes([spell("kohya", alpha=".alpha"), spell("kohya", down=".alpha")])
