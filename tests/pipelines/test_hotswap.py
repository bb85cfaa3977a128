"""Hotswapping: new numbers in the old places."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from si_hub import format as file_format
from si_hub.adapter import Component
from si_hub.errors import BaseMismatch, NotFinite, UsageError
from si_hub.pipelines import hotswap
from si_hub.storage.tensors import Tensor

Make = Callable[..., Any]
TEXT = ("q_proj", "fc1")


def places(pipe: Any) -> dict[str, int]:
    found = {}
    for name in ("unet", "text_encoder"):
        for key, value in getattr(pipe, name).named_parameters():
            found[f"{name}.{key}"] = value.data_ptr()
    return found


def test_a_swap_gives_the_other_adapter_in_the_same_memory(
    sd: Make, lora: Make, adapter: Make, noise: Make, words: Make, tmp_path: Path
) -> None:
    pipe = sd()
    old, new = (
        adapter(
            unet=lora(pipe.unet, seed=seed),
            text_encoder=lora(pipe.text_encoder, TEXT, seed=seed, alpha=seed + 1.0, prefix="text_model."),
        )
        for seed in (0, 1)
    )
    pipe.load_styleinject_weights(new, "expected", weight=0.5)
    expected = noise(pipe), words(pipe)
    pipe.unload_styleinject_weights()
    pipe.load_styleinject_weights(old, "a", weight=0.5)
    before = places(pipe)
    report = pipe.load_styleinject_weights(new, "a", hotswap=True)
    assert len(report.matched) == 28
    assert places(pipe) == before
    assert torch.equal(noise(pipe), expected[0])
    assert torch.equal(words(pipe), expected[1])
    written = pipe.save_styleinject_weights(tmp_path / "swapped")
    assert written.path.read_bytes() == file_format.write(new, tmp_path / "new.safetensors").path.read_bytes()


def test_layers_that_only_the_old_adapter_has_fall_silent(sd: Make, lora: Make, adapter: Make, noise: Make) -> None:
    pipe = sd()
    small = lora(pipe.unet, ("to_q",), seed=1)
    large = lora(pipe.unet, ("to_q", "to_v"))
    for layer in large.layers.values():
        layer.tensors["gain"] = Tensor.from_torch(torch.full(layer.tensors["up.weight"].shape[:1], 1.5))
    for path, layer in small.layers.items():
        layer.tensors["gain"] = Tensor.from_torch(torch.ones(layer.tensors["up.weight"].shape[:1]))
        assert path in large.layers
    pipe.load_styleinject_weights(adapter(unet=small), "small")
    expected = noise(pipe)
    pipe.unload_styleinject_weights()
    pipe.load_styleinject_weights(adapter(unet=large, text_encoder=lora(pipe.text_encoder, TEXT)), "a")
    pipe.load_styleinject_weights(adapter(unet=small), "a", hotswap=True)
    assert torch.allclose(noise(pipe), expected, atol=1e-6)


@pytest.mark.parametrize("what", ["another rank", "another layer", "another transform", "another tensor"])
def test_layers_that_differ_in_shape_are_an_error_that_names_both_and_changes_nothing(
    what: str, sd: Make, lora: Make, adapter: Make, noise: Make
) -> None:
    pipe = sd()
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet)), "a")
    shown, before = noise(pipe), places(pipe)
    new = lora(pipe.unet, seed=1)
    layer = next(reversed(new.layers.values()))
    if what == "another rank":
        new = lora(pipe.unet, rank=3)
        words = r"differ in shape.*expected down\.weight \[2, 32\].*found down\.weight \[3, 32\].*target_rank"
    elif what == "another layer":
        new = lora(pipe.unet, ("to_q", "to_k"))
        words = r"to_k: the loaded adapter has no such layer"
    elif what == "another transform":
        layer.transform = "variance"
        words = r"expected transform add, found transform variance"
    else:
        layer.tensors["bias_delta"] = Tensor.from_torch(torch.zeros(layer.tensors["up.weight"].shape[0]))
        words = r"expected bias_delta\.weight None"
    with pytest.raises(UsageError, match=words):
        pipe.load_styleinject_weights(adapter(unet=new), "a", hotswap=True)
    assert torch.equal(noise(pipe), shown)
    assert places(pipe) == before


def test_what_cannot_be_swapped_is_an_error(sd: Make, lora: Make, adapter: Make, noise: Make) -> None:
    pipe = sd()
    good = adapter(unet=lora(pipe.unet))
    for name in ("a", None):
        with pytest.raises(UsageError, match=r"hotswap replaces a loaded adapter.*none is loaded"):
            pipe.load_styleinject_weights(good, name, hotswap=True)
    pipe.load_styleinject_weights(good, "a")
    shown = noise(pipe)
    bad = lora(pipe.unet, seed=1)
    path, first = next(iter(bad.layers.items()))
    first.tensors["up.weight"] = Tensor.from_torch(torch.full(first.tensors["up.weight"].shape, torch.inf))
    with pytest.raises(NotFinite):
        pipe.load_styleinject_weights(adapter(unet=bad), "a", hotswap=True)
    fine = good.components["unet"].layers
    strange = Component(None, {f"nowhere.{path}": layer for path, layer in fine.items()} | {path: fine[path]})
    with pytest.raises(BaseMismatch):
        pipe.load_styleinject_weights(adapter(unet=strange, transformer=strange), "a", hotswap=True)
    inversion = Component(None, embeddings={"<x>": Tensor.from_torch(torch.ones(1, 24))})
    with pytest.raises(UsageError, match="cannot change textual inversions"):
        pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet), text_encoder=inversion), "a", hotswap=True)
    pipe.fuse_styleinject()
    with pytest.raises(UsageError, match="the adapter is fused"):
        pipe.load_styleinject_weights(good, "a", hotswap=True)
    pipe.unfuse_styleinject()
    assert torch.equal(noise(pipe), shown)


def test_branches_take_their_new_names_and_styles_of_old_names_end(
    sd: Make, lora: Make, adapter: Make, noise: Make
) -> None:
    pipe = sd()
    old, new = (lora(pipe.unet, branches=2, seed=seed) for seed in (0, 1))
    pipe.load_styleinject_weights(adapter(("oil", "chalk"), unet=new), "expected")
    routed = noise(pipe)
    pipe.set_styles({"oil": 1.0})
    oil = noise(pipe)
    pipe.unload_styleinject_weights()
    pipe.load_styleinject_weights(adapter(("ink", "neon"), unet=old), "a")
    pipe.set_styles({"ink": 0.5})
    pipe.load_styleinject_weights(adapter(("oil", "chalk"), unet=new), "a", hotswap=True)
    assert torch.equal(noise(pipe), routed)
    pipe.set_styles({"oil": 1.0})
    assert torch.equal(noise(pipe), oil)
    pipe.load_styleinject_weights(adapter(("oil", "chalk"), unet=new), "a", hotswap=True)
    assert torch.equal(noise(pipe), oil)
    with pytest.raises(UsageError, match="ink"):
        pipe.set_styles({"ink": 1.0})


def test_a_weight_has_no_meaning_with_hotswap(sd: Make, lora: Make, adapter: Make) -> None:
    pipe = sd()
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet)), "a")
    with pytest.raises(UsageError, match="hotswap keeps the weights"):
        pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet)), "a", hotswap=True, weight=0.5)


def test_a_swap_that_fails_half_way_leaves_the_old_numbers(
    sd: Make, lora: Make, adapter: Make, noise: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = sd()
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet, alpha=1.0)), "a")
    before, count = noise(pipe), iter(range(5))
    overwrite = hotswap._overwrite

    def fail(old: Any, new: Any) -> None:
        overwrite(old, new)
        if next(count) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(hotswap, "_overwrite", fail)
    with pytest.raises(KeyboardInterrupt):
        pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet, seed=5, alpha=2.0)), "a", hotswap=True)
    assert torch.equal(noise(pipe), before)
