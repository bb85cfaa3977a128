"""Ranks leveled, so that any adapter can follow any other."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from si_hub import format as file_format
from si_hub.errors import UsageError

Make = Callable[..., Any]


TEXT = ("q_proj", "fc1")


def places(pipe: Any) -> dict[str, int]:
    found = {}
    for name in ("unet", "text_encoder"):
        for key, value in getattr(pipe, name).named_parameters():
            found[f"{name}.{key}"] = value.data_ptr()
    return found


def test_padded_adapters_of_any_rank_swap_and_are_exact(
    sd: Make, lora: Make, adapter: Make, noise: Make, merged: Make, error: Make, tmp_path: Path
) -> None:
    pipe = sd()
    parts = [lora(pipe.unet, ("to_q", "conv1"), rank=rank, alpha=rank + 0.5, seed=rank) for rank in (2, 5, 3)]
    other = copy.copy(pipe)
    expected = []
    for part in parts:
        other.unet = merged(pipe.unet, part)
        expected.append(noise(other))
    pipe.enable_styleinject_hotswap(target_rank=5)
    pipe.load_styleinject_weights(adapter(unet=parts[0]), "a")
    before = places(pipe)
    assert error(noise(pipe), expected[0]) < 1e-5
    for part, output in zip(parts[1:], expected[1:], strict=True):
        made = adapter(unet=part)
        pipe.load_styleinject_weights(made, "a", hotswap=True)
        assert places(pipe) == before
        assert error(noise(pipe), output) < 1e-5
        written = pipe.save_styleinject_weights(tmp_path, overwrite=True)
        assert written.path.read_bytes() == file_format.write(made, tmp_path / "b", overwrite=True).path.read_bytes()
    with pytest.raises(UsageError, match=r"cannot be padded.*expected at most 5, no groups, found rank 6"):
        pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet, rank=6)), "a", hotswap=True)


def test_padding_keeps_every_branch_apart(sd: Make, lora: Make, adapter: Make, noise: Make, error: Make) -> None:
    plain, padded = sd(), sd()
    made = adapter(("ink", "neon"), unet=lora(plain.unet, ("to_q", "conv1"), branches=2, rank=3, alpha=2.0))
    padded.enable_styleinject_hotswap(target_rank=4)
    for pipe in (plain, padded):
        pipe.load_styleinject_weights(made)
        pipe.set_styles({"ink": 0.8, "neon": 0.1})
    assert error(noise(padded), noise(plain)) < 1e-6


def test_hotswapping_is_enabled_before_the_first_adapter(sd: Make, lora: Make, adapter: Make) -> None:
    pipe = sd()
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet)), "a")
    with pytest.raises(UsageError, match=r"loaded already \(found a\)"):
        pipe.enable_styleinject_hotswap()
    with pytest.raises(UsageError, match="a rank is at least 1"):
        pipe.enable_styleinject_hotswap(target_rank=0)


@pytest.mark.parametrize("branches", [1, 2])
def test_an_adapter_of_other_targets_follows_where_they_are_announced(
    branches: int, sd: Make, lora: Make, adapter: Make, noise: Make, words: Make, error: Make
) -> None:
    pipe = sd()
    ends = [("to_q",), ("to_v", "conv1")]
    made = [
        adapter(
            ("ink", "neon")[: 2 * (branches - 1)],
            unet=lora(pipe.unet, ends[k], rank=k + 1, seed=k, branches=branches),
            text_encoder=lora(pipe.text_encoder, (TEXT[k],), rank=k + 1, seed=k, branches=branches),
        )
        for k in range(2)
    ]  # fmt: skip
    expected = []
    for one in made:
        pipe.load_styleinject_weights(one, "a")
        expected.append((noise(pipe), words(pipe)))
        pipe.unload_styleinject_weights()
    base = noise(pipe)
    pipe.enable_styleinject_hotswap(target_rank=3, targets=["to_q", "to_v", "conv1", *TEXT])
    report = pipe.load_styleinject_weights(made[0], "a")
    assert len(report.matched) == sum(len(part.layers) for part in made[0].components.values())
    before = places(pipe)
    for number in (0, 1, 0):
        report = pipe.load_styleinject_weights(made[number], "a", hotswap=True)
        assert len(report.matched) == sum(len(part.layers) for part in made[number].components.values())
        assert places(pipe) == before
        assert error(noise(pipe), expected[number][0]) < 1e-5
        assert error(words(pipe), expected[number][1]) < 1e-5
    pipe.unload_styleinject_weights()
    assert torch.equal(noise(pipe), base)


def test_a_target_that_no_model_has_is_an_error(sd: Make) -> None:
    with pytest.raises(UsageError, match=r"targets: no linear layer or convolution.*found to_x"):
        sd().enable_styleinject_hotswap(4, ["to_q", "to_x"])
