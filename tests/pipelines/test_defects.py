"""What diffusers' LoRA loading gets wrong today, each with the value that is observed there, and what is right here.

Where a newer diffusers mends one of these, the first half of its test fails and can go; the second half holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import save_file

from si_hub import format as file_format
from si_hub.errors import BaseMismatch, NotFinite, SiHubError
from tests.pipelines.tiny import build

Make = Callable[..., Any]
KEY = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
pytestmark = pytest.mark.filterwarnings(
    "ignore:Already found a `peft_config`",
    "ignore:.*what was fused is taken out",
    "ignore:All adapters are already merged",
    "ignore:The following alpha_pattern keys did not match",
)


def weight_of(pipe: Any) -> torch.Tensor:
    module = pipe.unet.get_submodule(KEY)
    return getattr(module, "base_layer", module).weight.detach().clone()  # type: ignore[no-any-return]


def write(tensors: dict[str, torch.Tensor], file: Path, metadata: dict[str, str] | None = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, file, metadata)
    return file


@pytest.mark.parametrize(
    ("between", "left"), [("fuse again", 0.25), ("set_adapters", 0.7), ("delete", 1.0)]
)  # fmt: skip
def test_1_what_happens_between_fuse_and_unfuse_stays_in_their_base_and_not_in_ours(
    between: str, left: float, sd: Make, lora: Make, adapter: Make, as_lora: Make
) -> None:
    """Left in their base: 0.25, 0.7 and 1.0 of the LoRA's whole change of the weight."""
    theirs, ours = sd(), sd()
    part, before = lora(ours.unet, alpha=None), weight_of(ours)
    tensors = part.layers[KEY].tensors
    change = tensors["up.weight"].torch() @ tensors["down.weight"].torch()

    theirs.load_lora_weights(as_lora(part, "unet"), adapter_name="a")
    ours.load_styleinject_weights(adapter(unet=part), "a")
    if between == "fuse again":
        for _ in range(2):
            theirs.fuse_lora(lora_scale=0.5)
            ours.fuse_styleinject(scale=0.5)
    else:
        theirs.fuse_lora()
        ours.fuse_styleinject()
        if between == "set_adapters":
            theirs.set_adapters("a", 0.3)
            ours.set_styleinject_adapters("a", 0.3)
        else:
            theirs.delete_adapters("a")
            ours.delete_styleinject_adapters("a")
    theirs.unfuse_lora()
    ours.unfuse_styleinject()
    found = weight_of(theirs) - before
    assert float((found * change).sum() / (change * change).sum()) == pytest.approx(left, abs=1e-3)
    assert torch.equal(weight_of(ours), before)


def test_2_an_automatic_name_overwrites_their_adapter_and_not_ours(
    sd: Make, lora: Make, adapter: Make, as_lora: Make
) -> None:
    """Three loads and one deletion leave one adapter, the third under the second's name, where there should be two."""
    theirs, ours = sd(), sd()
    loras = [lora(ours.unet, alpha=None, seed=seed) for seed in range(3)]
    for number, part in enumerate(loras):
        if number == 2:
            theirs.delete_adapters("default_0")
            ours.delete_styleinject_adapters("default_0")
        theirs.load_lora_weights(as_lora(part, "unet"))
        ours.load_styleinject_weights(adapter(unet=part))
    assert theirs.get_list_adapters() == {"unet": ["default_1"]}
    down = theirs.unet.get_submodule(KEY).lora_A["default_1"].weight
    assert torch.equal(down, loras[2].layers[KEY].tensors["down.weight"].torch())
    assert ours.get_list_styleinject_adapters() == {"unet": ["default_1", "default_2"]}


def test_3_alphas_that_differ_become_the_commonest_there_and_stay_here(
    sd: Make, lora: Make, adapter: Make, as_kohya: Make, tmp_path: Path
) -> None:
    """A third of the attention layers is scaled by 0.25 instead of by 1."""
    theirs, ours = sd(), sd()
    part = lora(ours.unet, ("to_q", "to_k", "to_v", "to_out.0"), rank=4)
    for number, layer in enumerate(part.layers.values()):
        layer.alpha = (1.0, 1.0, 4.0)[number % 3]
    file = write(as_kohya(part, "lora_unet"), tmp_path / "a.safetensors")
    theirs.load_lora_weights(file)
    scales = {path: theirs.unet.get_submodule(path).scaling["default_0"] for path in part.layers}
    wrong = [path for path, layer in part.layers.items() if scales[path] != layer.alpha / 4]
    assert {scales[path] for path in wrong} == {0.25}
    assert len(wrong) == len(part.layers) // 3
    ours.load_styleinject_weights(file, "a")
    held = {path: ours.unet.get_submodule(path).styleinject_layer.adapters["a"].alpha for path in part.layers}
    assert held == {path: layer.alpha for path, layer in part.layers.items()}


def test_4_weights_by_block_fail_or_miss_there_and_are_exact_here(
    sd: Make, lora: Make, adapter: Make, as_lora: Make
) -> None:
    """An IndexError on ``conv_in``; without it, resnets of a block without attentions keep 1.0."""
    theirs, ours = sd(), sd()
    part = lora(ours.unet, ("to_q", "conv1", "conv_in"), alpha=None)
    theirs.load_lora_weights(as_lora(part, "unet"), "a")
    with pytest.raises(IndexError):
        theirs.set_adapters("a", {"unet": {"down": 0.5}})
    theirs.unload_lora_weights()
    part.layers.pop("conv_in")
    theirs.load_lora_weights(as_lora(part, "unet"), "a")
    theirs.set_adapters("a", {"unet": {"down": 0.5}})
    first = "down_blocks.0.resnets.0.conv1"
    assert (theirs.unet.get_submodule(first).scaling["a"], theirs.unet.get_submodule(KEY).scaling["a"]) == (1.0, 0.5)
    ours.load_styleinject_weights(adapter(unet=part), "a")
    ours.set_styleinject_adapters("a", {"unet": {"down": 0.5}})
    weights = {path: ours.unet.get_submodule(path).styleinject_layer.adapters["a"].weight for path in part.layers}
    assert weights == {path: 0.5 if path.startswith("down_blocks.") else 1.0 for path in part.layers}


def test_4_a_block_of_a_transformer_takes_the_tenth_along_there_and_not_here(
    lora: Make, adapter: Make, as_lora: Make
) -> None:
    """``transformer_blocks.1`` at 0.5 sets ``transformer_blocks.10`` to 0.5 as well."""
    pipe = build("FluxPipeline").pipe
    config = {**pipe.transformer.config, "num_layers": 11}
    pipe.transformer = diffusers.FluxTransformer2DModel.from_config(config)
    part = lora(pipe.transformer, ("attn.to_q",), alpha=None)
    paths = [f"transformer_blocks.{number}.attn.to_q" for number in (1, 2, 10)]
    pipe.load_lora_weights(as_lora(part, "transformer"), "a")
    pipe.set_adapters("a", {"transformer": {"transformer_blocks.1": 0.5}})
    assert [pipe.transformer.get_submodule(path).scaling["a"] for path in paths] == [0.5, 1.0, 0.5]
    pipe.unload_lora_weights()
    pipe.load_styleinject_weights(adapter(transformer=part), "a")
    pipe.set_styleinject_adapters("a", {"transformer": {"transformer_blocks.1": 0.5}})
    found = [pipe.transformer.get_submodule(path).styleinject_layer.adapters["a"].weight for path in paths]
    assert found == [0.5, 1.0, 1.0]


def test_5_a_call_with_scale_zero_ends_their_weight_and_not_ours(
    sd: Make, lora: Make, adapter: Make, as_lora: Make, noise: Make, latents: Make
) -> None:
    """A weight of 0.5 is 1.0 after the call."""
    theirs, ours = sd(), sd()
    part = lora(ours.unet, alpha=None)
    theirs.load_lora_weights(as_lora(part, "unet"), adapter_name="a")
    theirs.set_adapters("a", 0.5)
    latents(theirs, cross_attention_kwargs={"scale": 0.0})
    assert theirs.unet.get_submodule(KEY).scaling == {"a": 1.0}
    ours.load_styleinject_weights(adapter(unet=part), "a")
    ours.set_styleinject_adapters("a", 0.5)
    half = noise(ours)
    latents(ours, cross_attention_kwargs={"scale": 0.0})
    assert torch.equal(noise(ours), half)


@pytest.mark.parametrize("prefix", ["", "base_model.model."])
def test_6_keys_without_a_component_load_as_nothing_there_and_act_or_are_refused_here(
    prefix: str, sd: Make, lora: Make, adapter: Make, as_lora: Make, noise: Make, error: Make, tmp_path: Path
) -> None:
    """``load_lora_weights`` returns, and no adapter is there."""
    theirs, ours = sd(), sd()
    base, part = noise(ours), lora(ours.unet, alpha=None)
    named = {prefix + key.removeprefix("unet."): value for key, value in as_lora(part, "unet").items()}
    file = write(named, tmp_path / "a.safetensors")
    theirs.load_lora_weights(file)
    assert theirs.get_list_adapters() == {}
    assert torch.equal(noise(theirs), base)
    expected = sd()
    expected.load_styleinject_weights(adapter(unet=part))
    ours.load_styleinject_weights(file)
    assert error(noise(ours), noise(expected)) < 1e-6
    with pytest.raises(SiHubError):
        ours.load_styleinject_weights(write({f"x.{k}": v for k, v in named.items()}, tmp_path / "b.safetensors"))


def test_6_nan_draws_nan_there_and_is_refused_here(
    sd: Make, lora: Make, as_lora: Make, noise: Make, tmp_path: Path
) -> None:
    """``load_lora_weights`` returns, and every number that the UNet predicts is NaN."""
    theirs, ours = sd(), sd()
    tensors, base = as_lora(lora(ours.unet, alpha=None), "unet"), noise(ours)
    tensors[f"unet.{KEY}.lora_B.weight"][0, 0] = float("nan")
    file = write(tensors, tmp_path / "a.safetensors")
    theirs.load_lora_weights(file)
    assert noise(theirs).isnan().all()
    with pytest.raises(NotFinite, match="to_q"):
        ours.load_styleinject_weights(file)
    assert torch.equal(noise(ours), base)


def test_7_a_field_that_is_not_known_is_a_bare_type_error_there_and_no_obstacle_here(
    sd: Make, lora: Make, as_lora: Make, tmp_path: Path
) -> None:
    """``TypeError: `LoraConfig` class could not be instantiated.``: neither the field nor the file is named."""
    theirs, ours = sd(), sd()
    fields = {"unet.r": 2, "unet.lora_alpha": 2, "unet.target_modules": ["to_q", "to_v"], "unet.mood": "calm"}
    said = {"lora_adapter_metadata": json.dumps(fields)}
    file = write(as_lora(lora(ours.unet, alpha=None), "unet"), tmp_path / "a.safetensors", said)
    with pytest.raises(TypeError) as raised:
        theirs.load_lora_weights(file)
    assert "mood" not in str(raised.value)
    assert len(ours.load_styleinject_weights(file).matched) == 24


def test_8_one_failure_ends_all_adding_there_and_nothing_here(sd: Make, lora: Make, adapter: Make, noise: Make) -> None:
    """After a configuration that fits nothing, one that fits fails: ``has no attribute 'peft_config'``."""
    theirs, ours = sd(), sd()
    with pytest.raises(ValueError, match="not found"):
        theirs.unet.add_adapter(LoraConfig(r=2, target_modules=["nothing"]), adapter_name="a")
    with pytest.raises(AttributeError, match="peft_config"):
        theirs.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]), adapter_name="b")
    good, bad = lora(ours.unet), lora(ours.text_encoder, ("q_proj",))
    with pytest.raises(BaseMismatch):
        ours.load_styleinject_weights(adapter(unet=bad), "a")
    base = noise(ours)
    assert ours.get_list_styleinject_adapters() == {}
    ours.load_styleinject_weights(adapter(unet=good), "b")
    assert not torch.equal(noise(ours), base)


def test_9_a_cached_repository_needs_its_file_s_name_there_and_not_here(
    sd: Make, lora: Make, adapter: Make, as_lora: Make, tmp_path: Path
) -> None:
    """``ValueError: When using the offline mode, you must specify a `weight_name`.``, though one file is there."""
    theirs, ours = sd(), sd()
    commit, part = "0123456789abcdef" * 2 + "01234567", lora(ours.unet, alpha=None)
    repository = tmp_path / "cache" / "models--user--style"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    write(as_lora(part, "unet"), repository / "snapshots" / commit / "ink.safetensors")
    with pytest.raises(ValueError, match="you must specify a `weight_name`"):
        theirs.load_lora_weights("user/style", cache_dir=tmp_path / "cache", local_files_only=True)
    report = ours.load_styleinject_weights("user/style", cache_dir=tmp_path / "cache", local_files_only=True)
    assert len(report.matched) == len(part.layers)


def test_9_the_first_of_several_files_is_taken_there_whatever_it_is_and_asked_for_here(
    sd: Make, lora: Make, adapter: Make, tmp_path: Path
) -> None:
    """Of a folder's files theirs takes the first by name, here one that is empty: ``OSError: Unable to load``."""
    theirs, ours = sd(), sd()
    (tmp_path / "a.safetensors").write_bytes(b"")
    file_format.write(adapter(unet=lora(ours.unet)), tmp_path / "ink.safetensors")
    with pytest.raises(OSError, match="Unable to load weights"):
        theirs.load_lora_weights(tmp_path)
    assert len(ours.load_styleinject_weights(tmp_path).matched) == 24
