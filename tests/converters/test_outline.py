"""What a foreign adapter holds: counted in the base's modules where there is one base, in the file's where not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from si_hub.converters import Outline, open_source, outline
from si_hub.errors import BaseMismatch, NotAnAdapter

Arrays = dict[str, Any]
Look = Callable[..., Outline]
QKV, TO_K = (
    "lora_unet_double_blocks_0_img_attn_qkv",
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k",
)


def pair(stem: str, out: int, in_: int, rank: int, alpha: float | None) -> Arrays:
    held: Arrays = {
        f"{stem}.lora_down.weight": np.ones((rank, in_), np.float16),
        f"{stem}.lora_up.weight": np.ones((out, rank), np.float16),
    }
    return held if alpha is None else held | {f"{stem}.alpha": np.array(alpha, np.float32)}


@pytest.fixture
def look(tmp_path: Path, write_arrays: Callable[..., Path]) -> Look:
    def write(arrays: Arrays, base: str | None = None) -> Outline:
        return outline(open_source(write_arrays(tmp_path / "lora.safetensors", arrays)), base)

    return write


def test_a_fused_module_counts_as_the_base_s_modules_that_it_is(look: Look) -> None:
    encoder = pair("lora_te1_text_model_encoder_layers_0_mlp_fc1", 3072, 768, 8, None)
    found = look(pair(QKV, 9216, 3072, 4, 2.0) | encoder, "flux")
    assert found.bases == ("flux",)
    assert found.family == "lora"
    assert found.naming
    transformer, text = found.holdings["transformer"], found.holdings["text_encoder"]
    assert (transformer.modules, dict(transformer.ranks), dict(transformer.alphas)) == (3, {4: 3}, {"2": 3})
    assert (text.modules, dict(text.ranks), dict(text.alphas)) == (1, {8: 1}, {"rank": 1})
    assert dict(transformer.slots) == {"down": 1, "up": 1, "alpha": 1}
    assert found.problem is None
    assert found.dropped == {}


def test_without_one_base_the_file_s_own_modules_are_counted(look: Look) -> None:
    """320 wide self-attention is in both of Stable Diffusion's."""
    found = look(pair(TO_K.replace("attn2", "attn1"), 320, 320, 4, 4.0))
    assert set(found.bases) >= {"sd15", "sd21"}
    assert found.naming is None
    assert {name: holding.modules for name, holding in found.holdings.items()} == {"lora_unet": 1}
    assert "more than one base model fits" in str(found.problem)


def test_what_would_be_left_out_is_named_with_the_reason_and_not_counted(look: Look) -> None:
    strange = pair("lora_unet_no_such_module", 8, 8, 4, None)
    found = look(pair(TO_K, 320, 768, 4, None) | strange | {"whatever": np.ones(3, np.float16)}, "sd15")
    assert set(found.dropped) == {*strange, "whatever"}
    assert found.dropped["whatever"] == "no converter knows what it is"
    assert {name: holding.modules for name, holding in found.holdings.items()} == {"unet": 1}
    assert found.problem is not None


def test_families_come_by_their_frequency(look: Look) -> None:
    held = pair(TO_K, 320, 768, 4, None) | {"lora_unet_conv_in.diff": np.ones((320, 4, 3, 3), np.float16)}
    held |= pair(TO_K.replace("to_k", "to_v"), 320, 768, 4, None)
    assert look(held).family == "lora+full"


def test_a_base_that_nothing_fits_is_the_problem_and_no_error(look: Look) -> None:
    found = look(pair(QKV, 9216, 3072, 4, None), "sd15")
    assert isinstance(found.problem, BaseMismatch)


def test_a_model_is_no_adapter(look: Look) -> None:
    with pytest.raises(NotAnAdapter):
        look({"model.diffusion_model.out.2.weight": np.ones((4, 4), np.float16)})
