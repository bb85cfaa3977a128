"""The methods of every pipeline: what they take, and what they leave as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from si_hub.errors import UsageError

Make = Callable[..., Any]


TEXT = ("q_proj", "fc1")


def test_the_newest_adapter_is_the_only_active_one_in_every_component(
    sd: Make, lora: Make, adapter: Make, noise: Make, words: Make
) -> None:
    pipe = sd()
    plain = words(pipe)
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet), text_encoder=lora(pipe.text_encoder, TEXT)), "old")
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet, seed=1)), "new")
    assert pipe.get_active_styleinject_adapters() == ["new"]
    assert pipe.get_list_styleinject_adapters() == {"unet": ["old", "new"], "text_encoder": ["old"]}
    assert torch.equal(words(pipe), plain)
    both = noise(pipe)
    pipe.delete_styleinject_adapters("old")
    assert torch.equal(noise(pipe), both)


def test_loading_switches_adapters_on_again(sd: Make, lora: Make, adapter: Make, noise: Make) -> None:
    pipe = sd()
    base = noise(pipe)
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet)), "a")
    shown = noise(pipe)
    pipe.disable_styleinject()
    assert torch.equal(noise(pipe), base)
    assert pipe.get_active_styleinject_adapters() == ["a"]
    pipe.enable_styleinject()
    assert torch.equal(noise(pipe), shown)
    pipe.disable_styleinject()
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet)), "b")
    assert torch.equal(noise(pipe), shown)


def test_the_weight_may_be_given_when_loading(sd: Make, lora: Make, adapter: Make, noise: Make) -> None:
    pipe = sd()
    made = adapter(unet=lora(pipe.unet))
    pipe.load_styleinject_weights(made, "a")
    pipe.set_styleinject_adapters("a", {"unet": {"down": 0.25}})
    expected = noise(pipe)
    pipe.load_styleinject_weights(made, "b", weight={"unet": {"down": 0.25}})
    assert torch.equal(noise(pipe), expected)


def test_a_bad_weight_leaves_the_pipeline_as_it_was(
    sd: Make, lora: Make, adapter: Make, state: Make, same: Make
) -> None:
    pipe = sd()
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet)), "a")
    before = state(pipe)
    with pytest.raises(UsageError, match="down_bloks"):
        pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet, seed=1)), "b", weight={"unet": {"down_bloks": 1}})
    assert same(state(pipe), before)
    assert pipe.get_active_styleinject_adapters() == ["a"]


def test_an_unknown_keyword_is_a_type_error(sd: Make) -> None:
    with pytest.raises(TypeError, match="adaptr_name"):
        sd().load_styleinject_weights("user/style", adaptr_name="a")


def test_deleting_an_unknown_name_deletes_nothing(sd: Make, lora: Make, adapter: Make) -> None:
    pipe = sd()
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet)), "ink")
    with pytest.raises(UsageError, match=r"neon.*expected one of ink"):
        pipe.delete_styleinject_adapters(["ink", "neon"])
    assert pipe.get_list_styleinject_adapters() == {"unet": ["ink"]}
