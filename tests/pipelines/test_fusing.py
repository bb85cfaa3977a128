"""Fusing: exact, in all components or in none."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from si_hub.errors import ConversionRefused, UsageError

Make = Callable[..., Any]
TEXT = ("q_proj", "fc1")


def test_fused_weights_give_what_the_acting_adapter_gives(
    sd: Make, lora: Make, adapter: Make, noise: Make, words: Make, merged: Make, error: Make
) -> None:
    pipe = sd()
    part = lora(pipe.unet, ("to_q", "conv1"))
    other = copy.copy(pipe)
    other.unet = merged(pipe.unet, part, 0.35)
    expected, plain = noise(other), words(pipe)
    pipe.load_styleinject_weights(adapter(unet=part, text_encoder=lora(pipe.text_encoder, TEXT)), "a", weight=0.7)
    pipe.fuse_styleinject(components=["unet"], scale=0.5)
    assert pipe.num_fused_styleinject == 1
    assert pipe.fused_styleinject == ["a"]
    assert error(noise(pipe), expected) < 1e-5
    assert not torch.equal(words(pipe), plain)
    pipe.unfuse_styleinject()
    assert pipe.num_fused_styleinject == 0


def test_only_the_named_adapters_are_fused_and_the_others_still_act(
    sd: Make, lora: Make, adapter: Make, noise: Make, error: Make
) -> None:
    pipe = sd()
    for seed, name in enumerate(("ink", "neon")):
        pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet, seed=seed)), name)
    pipe.set_styleinject_adapters(["ink", "neon"], [0.5, 0.25])
    both = noise(pipe)
    pipe.fuse_styleinject(adapter_names=["neon"], safe_fusing=True)
    assert pipe.fused_styleinject == ["neon"]
    assert error(noise(pipe), both) < 1e-5


def test_a_component_that_refuses_leaves_the_others_unfused(
    sd: Make, lora: Make, adapter: Make, noise: Make, state: Make, same: Make
) -> None:
    pipe = sd()
    unet = lora(pipe.unet)
    next(reversed(unet.layers.values())).transform = "variance"
    pipe.load_styleinject_weights(adapter(text_encoder=lora(pipe.text_encoder, TEXT), unet=unet))
    before, shown = state(pipe), noise(pipe)
    with pytest.raises(ConversionRefused, match=r"found variance.*unfused"):
        pipe.fuse_styleinject()
    assert same(state(pipe), before)
    assert torch.equal(noise(pipe), shown)
    assert pipe.num_fused_styleinject == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"components": ["transformer"]}, r"transformer: the pipeline has no such component.*unet"),
        ({"adapter_names": ["oil"]}, "oil: no such StyleInject adapter"),
    ],
)
def test_unknown_components_and_names_are_errors(
    options: dict[str, Any], words: str, sd: Make, lora: Make, adapter: Make
) -> None:
    pipe = sd()
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet)))
    with pytest.raises(UsageError, match=words):
        pipe.fuse_styleinject(**options)


def test_fusing_a_fused_adapter_by_name_is_an_error_and_changes_nothing(
    sd: Make, lora: Make, adapter: Make, state: Make, same: Make
) -> None:
    pipe = sd()
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet)), "a")
    pipe.fuse_styleinject(scale=0.5)
    before = state(pipe)
    with pytest.raises(UsageError, match=r"a: nothing of this adapter is left to fuse.*unfuse_styleinject"):
        pipe.fuse_styleinject(adapter_names="a", scale=0.9)
    assert same(state(pipe), before)


def test_a_fixed_router_is_fused_with_its_styles_and_a_learned_one_after_set_styles(
    sd: Make, lora: Make, adapter: Make, noise: Make, error: Make
) -> None:
    pipe = sd()
    pipe.load_styleinject_weights(adapter(("ink", "neon"), unet=lora(pipe.unet, branches=2)))
    pipe.set_styles({"ink": 0.7, "neon": 0.3})
    mixed = noise(pipe)
    pipe.fuse_styleinject()
    assert error(noise(pipe), mixed) < 1e-5
    with pytest.raises(UsageError, match="Unfuse it first"):
        pipe.set_styles({"ink": 1.0})


def test_baked_weights_are_what_acting_gave_and_are_saved(
    sd: Make, lora: Make, adapter: Make, noise: Make, tmp_path: Path
) -> None:
    """The recipe of many: load, fuse, let go, load the next, ... save."""
    pipe = sd()
    first, second = lora(pipe.unet), lora(pipe.unet, ("to_k", "conv1"), seed=1)
    pipe.load_styleinject_weights(adapter(unet=first), "a")
    pipe.load_styleinject_weights(adapter(unet=second), "b")
    pipe.set_styleinject_adapters(["a", "b"], [0.5, 0.8])
    expected, keys = noise(pipe), list(sd().unet.state_dict())
    pipe.unload_styleinject_weights()
    pipe.load_styleinject_weights(adapter(unet=first), "a")
    pipe.fuse_styleinject(scale=0.5)
    pipe.bake_styleinject()
    pipe.load_styleinject_weights(adapter(unet=second), "b")
    pipe.bake_styleinject(scale=0.8)
    assert pipe.get_list_styleinject_adapters() == {}
    assert list(pipe.unet.state_dict()) == keys
    torch.testing.assert_close(noise(pipe), expected, rtol=1e-4, atol=1e-4)
    pipe.unload_styleinject_weights()
    pipe.unet.save_pretrained(tmp_path)
    other = copy.copy(pipe)
    other.unet = type(pipe.unet).from_pretrained(tmp_path)
    assert torch.equal(noise(other), noise(pipe))


def test_what_cannot_be_baked_changes_nothing(sd: Make, lora: Make, adapter: Make, state: Make, same: Make) -> None:
    pipe = sd()
    for name in ("a", "b"):
        pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet)), name)
    pipe.fuse_styleinject(adapter_names="a")
    before = state(pipe)
    with pytest.raises(UsageError, match="another adapter is fused into the same module"):
        pipe.bake_styleinject(adapter_names="b")
    assert same(state(pipe), before)
    assert pipe.fused_styleinject == ["a"]
    with pytest.raises(UsageError, match="no such StyleInject adapter"):
        pipe.bake_styleinject(adapter_names="c")


def test_unloading_what_is_fused_warns_and_says_how_to_keep_it(sd: Make, lora: Make, adapter: Make) -> None:
    pipe = sd()
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet)), "a")
    pipe.fuse_styleinject()
    with pytest.warns(UserWarning, match=r"^a: what was fused is taken out.*bake_styleinject\(\)"):
        pipe.unload_styleinject_weights()
