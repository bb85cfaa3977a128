"""Against diffusers: the same numbers where it is right, and the nine defects that are not ours."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from si_hub import format as file_format
from si_hub.adapter import Adapter, Component
from si_hub.errors import BaseMismatch, NotFinite
from si_hub.storage.tensors import Tensor

Make = Callable[..., Any]
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "ff.net.0.proj", "ff.net.2")
CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv", "conv_in")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def test_a_diffusers_lora_gives_what_load_lora_weights_gives(
    sd: Make, lora: Make, adapter: Make, as_lora: Make, noise: Make, words: Make, error: Make
) -> None:
    theirs, ours = sd(), sd()
    unet = lora(ours.unet, ATTENTION + CONVOLUTIONS, rank=3, alpha=None)
    text = lora(ours.text_encoder, TEXT, alpha=None, seed=1)
    base = noise(ours)
    theirs.load_lora_weights(as_lora(unet, "unet") | as_lora(text, "text_encoder"))
    report = ours.load_styleinject_weights(adapter(unet=unet, text_encoder=text))
    assert len(report.matched) == len(unet.layers) + len(text.layers)
    assert error(noise(theirs), base) > 0.05
    assert error(noise(ours), noise(theirs)) < 1e-5
    assert error(words(ours), words(theirs)) < 1e-5


def test_a_kohya_lora_of_one_alpha_gives_what_load_lora_weights_gives(
    sd: Make, lora: Make, adapter: Make, as_kohya: Make, noise: Make, words: Make, error: Make
) -> None:
    theirs, ours = sd(), sd()
    unet = lora(ours.unet, ("to_q", "to_k", "to_v", "to_out.0"), rank=4, alpha=2.0)
    text = lora(ours.text_encoder, TEXT, alpha=2.0, rank=4, seed=1, prefix="text_model.")
    theirs.load_lora_weights(as_kohya(unet, "lora_unet") | as_kohya(text, "lora_te"))
    ours.load_styleinject_weights(adapter(unet=unet, text_encoder=text))
    assert error(noise(ours), noise(theirs)) < 1e-5
    assert error(words(ours), words(theirs)) < 1e-5


def test_on_sdxl_with_two_text_encoders_it_gives_what_load_lora_weights_gives(
    sdxl: Make, lora: Make, adapter: Make, as_lora: Make, noise: Make, words: Make, latents: Make, error: Make
) -> None:
    theirs, ours = sdxl(), sdxl()
    unet = lora(ours.unet, ATTENTION + CONVOLUTIONS, rank=3, alpha=None)
    parts = {name: lora(getattr(ours, name), TEXT, alpha=None, seed=1) for name in ("text_encoder", "text_encoder_2")}
    state = as_lora(unet, "unet")
    for name, part in parts.items():
        state |= as_lora(part, name)
    theirs.load_lora_weights(state)
    ours.load_styleinject_weights(adapter(unet=unet, **parts))
    assert error(noise(ours), noise(theirs)) < 1e-5
    for name in parts:
        assert error(words(ours, name), words(theirs, name)) < 1e-5
    assert error(latents(ours), latents(theirs)) < 1e-4


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_two_adapters_with_weights_give_what_set_adapters_gives(
    sd: Make, lora: Make, adapter: Make, as_lora: Make, noise: Make, error: Make
) -> None:
    theirs, ours = sd(), sd()
    for seed, name in ((0, "ink"), (1, "neon")):
        part = lora(ours.unet, ATTENTION, alpha=None, seed=seed)
        theirs.load_lora_weights(as_lora(part, "unet"), adapter_name=name)
        ours.load_styleinject_weights(adapter(unet=part), adapter_name=name)
    theirs.set_adapters(["ink", "neon"], [0.7, -0.4])
    ours.set_styleinject_adapters(["ink", "neon"], [0.7, -0.4])
    assert error(noise(ours), noise(theirs)) < 1e-5


def test_beside_a_lora_on_the_same_layers_both_act_and_neither_s_functions_touch_the_other(
    sd: Make, lora: Make, adapter: Make, as_lora: Make, noise: Make, merged: Make, error: Make
) -> None:
    pipe = sd()
    base = noise(pipe)
    one, two = lora(pipe.unet, ATTENTION, alpha=None), lora(pipe.unet, ATTENTION, alpha=None, seed=1)
    both = copy.copy(pipe)
    both.unet = merged(merged(pipe.unet, one), two)
    expected = noise(both)
    pipe.load_lora_weights(as_lora(one, "unet"), adapter_name="theirs")
    pipe.load_styleinject_weights(adapter(unet=two), adapter_name="ours")
    assert error(noise(pipe), expected) < 1e-5
    pipe.set_adapters("theirs", 0.0)
    only_ours = noise(pipe)
    assert pipe.get_list_adapters() == {"unet": ["theirs"]}
    pipe.set_adapters("theirs", 1.0)
    pipe.disable_lora()
    assert torch.equal(noise(pipe), only_ours)
    pipe.enable_lora()
    pipe.delete_adapters("theirs")
    assert torch.equal(noise(pipe), only_ours)
    pipe.unload_lora_weights()
    assert torch.equal(noise(pipe), only_ours)
    assert pipe.get_active_styleinject_adapters() == ["ours"]
    pipe.unload_styleinject_weights()
    assert torch.equal(noise(pipe), base)


def test_a_lora_loaded_later_survives_our_unload(
    sd: Make, lora: Make, adapter: Make, as_lora: Make, noise: Make
) -> None:
    pipe = sd()
    one, two = lora(pipe.unet, ATTENTION, alpha=None), lora(pipe.unet, ATTENTION, alpha=None, seed=1)
    pipe.load_lora_weights(as_lora(one, "unet"))
    alone = noise(pipe)
    pipe.unload_lora_weights()
    pipe.load_styleinject_weights(adapter(unet=two))
    pipe.load_lora_weights(as_lora(one, "unet"))
    pipe.unload_styleinject_weights()
    assert torch.equal(noise(pipe), alone)


# The nine defects of diffusers 0.42.1.


@pytest.mark.parametrize("between", ["fuse again", "set_adapters", "delete", "load another"])
@pytest.mark.filterwarnings("ignore:default_0. what was fused is taken out")
def test_1_unfusing_restores_the_base_bit_for_bit_whatever_happened_in_between(
    between: str, sd: Make, lora: Make, adapter: Make, noise: Make, state: Make, same: Make
) -> None:
    pipe = sd()
    base, before = noise(pipe), state(pipe)
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet), text_encoder=lora(pipe.text_encoder, TEXT)))
    pipe.fuse_styleinject(scale=0.5)
    key = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    assert not torch.equal(pipe.unet.get_submodule(key).weight, before[f"unet.{key}.weight"])
    if between == "fuse again":
        fused = noise(pipe)
        pipe.fuse_styleinject(scale=0.5)
        assert torch.equal(noise(pipe), fused)
    elif between == "set_adapters":
        pipe.set_styleinject_adapters("default_0", 0.3)
    elif between == "delete":
        pipe.delete_styleinject_adapters("default_0")
        assert torch.equal(noise(pipe), base)
    else:
        pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet, seed=3)))
    pipe.unfuse_styleinject()
    pipe.unload_styleinject_weights()
    assert same(state(pipe), before)
    assert torch.equal(noise(pipe), base)


def test_2_automatic_names_never_collide(sd: Make, lora: Make, adapter: Make, noise: Make) -> None:
    pipe = sd()
    reports = [pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet, seed=seed))) for seed in (0, 1)]
    assert [report.adapter_name for report in reports] == ["default_0", "default_1"]
    second = noise(pipe)
    pipe.delete_styleinject_adapters("default_0")
    third = pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet, seed=2)))
    assert third.adapter_name not in ("default_0", "default_1")
    pipe.set_styleinject_adapters("default_1")
    assert torch.equal(noise(pipe), second)


def test_3_every_module_keeps_its_own_alpha(
    sd: Make, lora: Make, adapter: Make, noise: Make, merged: Make, error: Make, tmp_path: Path
) -> None:
    pipe = sd()
    part = lora(pipe.unet, ATTENTION + CONVOLUTIONS, rank=4)
    for number, layer in enumerate(part.layers.values()):
        layer.alpha = float(number % 3 + 1)
    other = copy.copy(pipe)
    other.unet = merged(pipe.unet, part)
    expected = noise(other)
    file = file_format.write(adapter(unet=part), tmp_path / "alphas.safetensors")
    pipe.load_styleinject_weights(file.path)
    assert error(noise(pipe), expected) < 1e-5


@pytest.mark.parametrize(
    ("weights", "of_module"),
    [
        ({"down": 0.5}, lambda path: 0.5 if path.startswith("down_blocks.") else 1.0),
        ({"conv_in": 0.25, "time_embedding": 0.0}, lambda path: {"c": 0.25, "t": 0.0}.get(path[0], 1.0)),
        (
            {"up": {"block_0": [0.1, 0.2, 0.3]}, "mid": 2.0},
            lambda path: {
                "up_blocks.0.attentions.0": 0.1, "up_blocks.0.attentions.1": 0.2, "up_blocks.0.attentions.2": 0.3,
                "up_blocks.0.resnets.0": 0.1, "up_blocks.0.resnets.1": 0.2, "up_blocks.0.resnets.2": 0.3,
                "up_blocks.0.upsamplers.0": 0.3,
            }.get(".".join(path.split(".")[:4]), 2.0 if path.startswith("mid") else 1.0),
        ),
    ],
    ids=["down", "conv_in and time_embedding", "up by layer and mid"],
)  # fmt: skip
def test_4_weights_by_block_are_exact_on_every_target(
    weights: dict[str, Any], of_module: Callable[[str], float], sd: Make, lora: Make, adapter: Make, noise: Make,
    merged: Make, error: Make,
) -> None:  # fmt: skip
    pipe = sd()
    part = lora(pipe.unet, (*ATTENTION, *CONVOLUTIONS, "linear_1", "linear_2", "upsamplers.0.conv"))
    assert {"conv_in", "time_embedding.linear_1"} <= part.layers.keys()
    other = copy.copy(pipe)
    other.unet = merged(pipe.unet, part, of_module)
    expected = noise(other)
    pipe.load_styleinject_weights(adapter(unet=part), "a")
    pipe.set_styleinject_adapters("a", {"unet": weights})
    assert error(noise(pipe), expected) < 1e-5


def test_5_a_call_with_scale_zero_is_the_base_and_leaves_the_weights_alone(
    sd: Make, lora: Make, adapter: Make, noise: Make, latents: Make
) -> None:
    pipe = sd()
    base, base_latents = noise(pipe), latents(pipe)
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet), text_encoder=lora(pipe.text_encoder, TEXT)), "a")
    pipe.set_styleinject_adapters("a", 0.5)
    half, half_latents = noise(pipe), latents(pipe)
    assert torch.equal(noise(pipe, cross_attention_kwargs={"scale": 0.0}), base)
    assert torch.equal(noise(pipe), half)
    assert torch.equal(latents(pipe, cross_attention_kwargs={"scale": 0.0}), base_latents)
    assert torch.equal(latents(pipe), half_latents)


def test_6_keys_that_match_nothing_are_an_error_and_nan_is_refused(
    sd: Make, lora: Make, adapter: Make, state: Make, same: Make, tmp_path: Path
) -> None:
    pipe = sd()
    before = state(pipe)
    part = lora(pipe.unet)
    foreign = Component("UNet2DConditionModel", {f"base_model.model.{k}": v for k, v in part.layers.items()})
    for strict in (True, False):
        with pytest.raises(BaseMismatch, match=r"none of its layers fit.*expected sd15"):
            pipe.load_styleinject_weights(adapter(unet=foreign), strict=strict)
    first = next(iter(part.layers.values()))
    up = first.tensors["up.weight"].torch().clone()
    up[3, 1] = float("nan")
    first.tensors["up.weight"] = Tensor.from_torch(up)
    file = file_format.write(adapter(unet=part), tmp_path / "nan.safetensors", check_finite=False)
    for source in (file.path, adapter(unet=part)):
        with pytest.raises(NotFinite, match=r"to_q\.up\.weight.*found 1 of "):
            pipe.load_styleinject_weights(source)
    assert same(state(pipe), before)
    assert pipe.get_list_styleinject_adapters() == {}


def test_7_an_unknown_field_of_the_document_is_kept_with_a_warning(
    sd: Make, lora: Make, adapter: Make, tmp_path: Path
) -> None:
    pipe = sd()
    tensors, metadata = _with_field(adapter(unet=lora(pipe.unet)), tmp_path)
    with pytest.warns(UserWarning, match="mood"):
        report = pipe.load_styleinject_weights(tensors, metadata=metadata)
    assert len(report.matched) == 24


def _with_field(made: Adapter, folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    from diffusers import StableDiffusionPipeline

    path = file_format.write(made, folder / "plain.safetensors").path
    state = StableDiffusionPipeline.styleinject_state_dict(path)
    document = state.metadata["styleinject"]
    return dict(state), {**state.metadata, "styleinject": document[:-1] + ',"mood":"calm"}'}


def test_8_a_failed_load_leaves_no_trace_and_the_next_one_works(
    sd: Make, lora: Make, adapter: Make, noise: Make, state: Make, same: Make
) -> None:
    pipe = sd()
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet)), "first")
    pipe.set_styleinject_adapters("first", 0.5)
    before, shown = state(pipe), noise(pipe)
    good, bad = lora(pipe.unet, seed=1), lora(pipe.text_encoder, TEXT)
    wrong = lora(sd().unet, ("conv1",))
    bad.layers |= {f"encoder.layers.7.{path}": layer for path, layer in wrong.layers.items()}
    with pytest.raises(BaseMismatch, match=r"text_encoder\.encoder\.layers\.7"):
        pipe.load_styleinject_weights(adapter(unet=good, text_encoder=bad), "second")
    assert same(state(pipe), before)
    assert torch.equal(noise(pipe), shown)
    assert pipe.get_list_styleinject_adapters() == {"unet": ["first"]}
    assert pipe.get_active_styleinject_adapters() == ["first"]
    assert "styleinject_door" not in dict(pipe.text_encoder.named_children())
    pipe.load_styleinject_weights(adapter(unet=good), "second")
    assert pipe.get_active_styleinject_adapters() == ["second"]


def test_9_a_directory_and_a_cached_repository_need_no_weight_name(
    sd: Make, lora: Make, adapter: Make, noise: Make, tmp_path: Path
) -> None:
    pipe = sd()
    made = adapter(unet=lora(pipe.unet))
    (tmp_path / "folder").mkdir()
    file_format.write(made, tmp_path / "folder" / "ink-style.safetensors")
    pipe.load_styleinject_weights(tmp_path / "folder")
    shown = noise(pipe)
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "cache" / "models--user--style"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    (repository / "snapshots" / commit).mkdir(parents=True)
    file_format.write(made, repository / "snapshots" / commit / "ink-style.safetensors")
    report = pipe.load_styleinject_weights("user/style", cache_dir=tmp_path / "cache", local_files_only=True)
    assert commit in report.source
    assert torch.equal(noise(pipe), shown)


@pytest.mark.slow
def test_on_a_unet_of_sd15_size_it_gives_what_load_lora_weights_gives(
    sd: Make, lora: Make, adapter: Make, as_lora: Make, noise: Make, error: Make
) -> None:
    pipe = sd()
    pipe.unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8).eval()
    assert sum(p.numel() for p in pipe.unet.parameters()) > 850e6
    part = lora(pipe.unet, ATTENTION + CONVOLUTIONS, rank=4, alpha=None)
    base = noise(pipe)
    pipe.load_lora_weights(as_lora(part, "unet"))
    theirs = noise(pipe)
    pipe.unload_lora_weights()
    pipe.load_styleinject_weights(adapter(unet=part))
    assert error(theirs, base) > 1e-3
    assert error(noise(pipe), theirs) < 1e-5
    pipe.unload_styleinject_weights()
    assert torch.equal(noise(pipe), base)
