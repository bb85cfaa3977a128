"""A checkpoint's names become diffusers': every one finds its place, and every value is diffusers' own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from si_hub import architectures
from si_hub.architectures.layouts import bfl, mmdit, sgm
from si_hub.distill.pair.opening import open_model
from tests.distill.checkpoints import Shape, open_clip, original, prefixed, shapes_of, write
from tests.distill.pair.live import expect_live
from tests.miniature import BASE, NEON
from tests.places import ROOT


def test_what_is_no_part_of_the_pipeline_is_named_with_the_reason(tmp_path: Path) -> None:
    extra: dict[str, torch.Tensor | Shape] = {
        "model_ema.diffusion_modelinput_blocks00weight": (4, 4),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(20)[None],
        "alphas_cumprod": (1000,),
        "something.else": (3,),
    }
    file = write(tmp_path / "tuned.safetensors", {**load_file(NEON), **extra})
    ignored = open_model(file, base=open_model(BASE)).ignored
    assert ignored.keys() == extra.keys()
    assert "running average" in ignored["model_ema.diffusion_modelinput_blocks00weight"]
    assert "noise schedule" in ignored["alphas_cumprod"]
    assert "known" in ignored["something.else"]


FULL_SIZE = {
    "sd15": ({"text_encoder": "cond_stage_model.transformer."}, sgm, "model.diffusion_model."),
    "sd21": ({"text_encoder": "cond_stage_model.model."}, sgm, "model.diffusion_model."),
    "sdxl": (
        {"text_encoder": "conditioner.embedders.0.transformer.", "text_encoder_2": "conditioner.embedders.1.model."},
        sgm, "model.diffusion_model.",
    ),
    "sdxl-refiner": ({"text_encoder_2": "conditioner.embedders.0.model."}, sgm, "model.diffusion_model."),
    "sd3": (
        {"text_encoder": "text_encoders.clip_l.transformer.", "text_encoder_2": "text_encoders.clip_g.transformer.",
         "text_encoder_3": "text_encoders.t5xxl.transformer."}, mmdit, "model.diffusion_model.",
    ),
    "flux": ({"text_encoder_2": "text_encoders.t5xxl.transformer."}, bfl, ""),
}  # fmt: skip


def full_size(name: str) -> dict[str, torch.Tensor | Shape]:
    """The names and shapes of a published architecture's checkpoint."""
    encoders, layout, prefix = FULL_SIZE[name]
    known = architectures.load(name)
    denoiser = "unet" if "unet" in known.components else "transformer"
    shapes: dict[str, torch.Tensor | Shape] = dict(shapes_of(known.components[denoiser]))
    held = original(layout(known.components[denoiser]), shapes, prefix)
    if name == "sd3":
        held[f"{prefix}pos_embed"] = shapes["pos_embed.pos_embed"]
    for component, place in encoders.items():
        encoder: dict[str, torch.Tensor | Shape] = dict(shapes_of(known.components[component]))
        held.update(open_clip(encoder, place) if place.endswith(".model.") else prefixed(encoder, place))
    return held


@pytest.mark.parametrize("name", FULL_SIZE)
def test_a_full_size_checkpoint_is_mapped_whole_without_a_base(name: str, tmp_path: Path) -> None:
    held = full_size(name)
    # The 24th layer of Stable Diffusion 2's encoder is in the file, and no part of the pipeline.
    last = "cond_stage_model.model.transformer.resblocks.23.ln_1.weight" if name == "sd21" else None
    model = open_model(write(tmp_path / "model.safetensors", {**held, **({last: (1024,)} if last else {})}))
    known = architectures.load(name)
    assert model.architecture.name == name
    assert set(model.components) == {model.denoiser, *FULL_SIZE[name][0]}
    for component, found in model.architecture.components.items():
        assert dict(found.modules) == dict(known.components[component].modules)
        shapes = {key: weight.shape for key, weight in model.components[component].items()}
        assert shapes == shapes_of(known.components[component])
    assert list(model.ignored) == ([last] if last else [])


@pytest.mark.parametrize(
    ("name", "layout", "bare"),
    [("sd3", mmdit, "norm_out.linear.bias"), ("flux", bfl, "single_transformer_blocks.0.proj_mlp.bias")],
)
def test_fused_and_swapped_tensors_come_apart_as_diffusers_does_it(
    name: str, layout: Any, bare: str, tmp_path: Path
) -> None:
    # Real numbers in every bias, sparse zeros in the weights: full size without the room.
    known = architectures.load(name).components["transformer"]
    draw = torch.Generator().manual_seed(0)
    tensors = {
        key: torch.randn(shape, generator=draw).half() if len(shape) == 1 else shape
        for key, shape in shapes_of(known).items()
    }
    held = original(layout(known), tensors)
    if name == "sd3":
        held["pos_embed"] = tensors["pos_embed.pos_embed"]
    model = open_model(write(tmp_path / "model.safetensors", held))
    assert model.components["transformer"].keys() == tensors.keys()
    for key, value in tensors.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(model.components["transformer"][key].torch(), value), key
    assert bare in tensors


def test_a_family_that_only_diffusers_knows_is_mapped_by_its_own_converter(tmp_path: Path) -> None:
    from diffusers import LTXVideoTransformer3DModel

    torch.manual_seed(0)
    live = LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16,
        num_layers=1, caption_channels=12,
    )  # fmt: skip
    live.save_pretrained(tmp_path / "transformer")
    # The inverse of four renamings, as Lightricks' code names them.
    original_names = {"proj_in": "patchify_proj", "time_embed": "adaln_single", "norm_q": "q_norm", "norm_k": "k_norm"}
    held = {}
    for name, value in live.state_dict().items():
        for new, old in original_names.items():
            name = name.replace(new, old)
        held[f"model.diffusion_model.{name}"] = value
    file = write(tmp_path / "ltx.safetensors", held)
    expect_live(open_model(file, base=open_model(tmp_path / "transformer")), "transformer", live)
    alone = open_model(file)
    assert alone.architecture.name == "LTXVideoTransformer3DModel"
    expect_live(alone, "transformer", live)


def test_an_embedding_under_two_names_is_read_once(tmp_path: Path) -> None:
    held = full_size("sd3")
    twin = "text_encoders.t5xxl.transformer.encoder.embed_tokens.weight"
    removed = {name: value for name, value in held.items() if name != twin}
    assert len(removed) == len(held) - 1
    model = open_model(write(tmp_path / "model.safetensors", removed))
    assert "shared" in model.architecture.components["text_encoder_3"].modules
    assert "encoder.embed_tokens" not in model.architecture.components["text_encoder_3"].modules


def test_a_scaled_float8_weight_is_its_product(tmp_path: Path) -> None:
    name = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q"
    stored = {**load_file(NEON), f"{name}.scale_weight": torch.tensor(0.5)}
    stored[f"{name}.weight"] = stored[f"{name}.weight"].to(torch.float8_e4m3fn)
    model = open_model(write(tmp_path / "tuned.safetensors", stored), base=open_model(BASE))
    found = model.components["unet"]["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"].torch()
    assert torch.equal(found, stored[f"{name}.weight"].float() * 0.5)
    assert model.ignored == {}


def test_the_order_of_a_file_under_diffusers_own_names_is_the_same_in_every_process() -> None:
    # What a survey keeps is numbered by it, and another process goes on from there.
    code = (
        "from tests.miniature import MINIATURE, checkpoint, open_pair\n"
        "print([change.name for change in open_pair(checkpoint('dit_ink'), MINIATURE / 'dit').changes])"
    )
    told = [
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, cwd=ROOT, check=True,
            capture_output=True, text=True,
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert told[0] == told[1]
    assert "transformer_blocks.0.attn.to_q" in told[0]
