"""Models as they lie on disk: every name of a checkpoint finds its place, and every value is diffusers' own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from examples.miniature.checkpoints import unfold, vae_key
from si_hub import architectures
from si_hub.architectures.layouts import bfl, mmdit, sgm
from si_hub.distill.pair.model import ModelOnDisk
from si_hub.distill.pair.opening import open_model
from si_hub.errors import BaseMismatch, FormatError, MissingFile, NotAModel, NotSafetensors, TruncatedFile
from tests.distill.checkpoints import Shape, model_of, open_clip, original, prefixed, shapes_of, write
from tests.miniature import BASE, KOHYA_LORA, NEON, copy_base


def values(model: ModelOnDisk, component: str) -> dict[str, torch.Tensor]:
    table = model.vae if component == "vae" else model.components[component]
    return {name: weight.torch().float() for name, weight in table.items()}


def expect_live(model: ModelOnDisk, component: str, live: Any) -> None:
    """Every parameter of a live model is there with its value, and nothing else."""
    found = values(model, component)
    wanted = {name: value.float() for name, value in live.state_dict().items() if not name.endswith("position_ids")}
    if component.startswith("text_encoder") and not any(name.startswith("text_model.") for name in wanted):
        wanted = {f"text_model.{name}": value for name, value in wanted.items()}
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    stored = {name: weight.tensor for name, weight in (model.components | {"vae": model.vae})[component].items()}
    whole = {name: tensor.torch().float() for name, tensor in stored.items() if tensor is not None}
    assert all(torch.equal(value, wanted[name]) for name, value in whole.items())


def test_a_folder_is_read_as_its_own_files_say() -> None:
    model = open_model(BASE)
    stored = load_file(BASE / "unet" / "diffusion_pytorch_model.safetensors")
    assert values(model, "unet").keys() == stored.keys()
    assert all(torch.equal(model.components["unet"][name].torch(), stored[name]) for name in stored)
    assert (model.layout, model.prediction_type, model.denoiser) == ("folder", "v_prediction", "unet")
    assert all(name.startswith("text_model.") for name in model.components["text_encoder"])


def test_the_miniatures_checkpoint_has_the_values_of_diffusers_own_loader() -> None:
    model, live = open_model(NEON, base=open_model(BASE)), unfold(NEON)
    for component in ("unet", "text_encoder", "vae"):
        expect_live(model, component, getattr(live, component))
    assert all(weight.tensor for weight in model.components["unet"].values()), "renamed, so the bytes are as stored"
    assert model.ignored == {}
    assert model.prediction_type == "v_prediction"


def sdxl_checkpoint(folder: Path) -> dict[str, torch.Tensor | Shape]:
    """The pipeline of a folder under the names of Stability's code."""
    held = {name: load_file(next((folder / name).glob("*.safetensors"))) for name in
            ("unet", "vae", "text_encoder", "text_encoder_2")}  # fmt: skip
    first = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in held["text_encoder"].items()}
    names = sgm(model_of("UNet2DConditionModel", held["unet"]))
    return {
        **original(names, held["unet"], "model.diffusion_model."),
        **{f"first_stage_model.{vae_key(name, 2)}": value for name, value in held["vae"].items()},
        **prefixed(first, "conditioner.embedders.0.transformer."),
        **open_clip(held["text_encoder_2"], "conditioner.embedders.1.model."),
    }


def test_an_sdxl_checkpoint_has_the_values_of_diffusers_own_loader(sdxl_folder: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionXLPipeline

    file = write(tmp_path / "tuned.safetensors", sdxl_checkpoint(sdxl_folder))
    live = StableDiffusionXLPipeline.from_single_file(str(file), config=str(sdxl_folder), local_files_only=True)
    model = open_model(file, base=open_model(sdxl_folder))
    for component in ("unet", "text_encoder", "text_encoder_2", "vae"):
        expect_live(model, component, getattr(live, component))


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


def test_a_sharded_folder_and_an_fp16_variant_are_read(tmp_path: Path) -> None:
    folder = copy_base(tmp_path / "base")
    whole = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    halves = [dict(list(whole.items())[start::2]) for start in (0, 1)]
    files = [f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for half, file in zip(halves, files, strict=True):
        save_file(half, folder / "unet" / file)
    index = {name: file for half, file in zip(halves, files, strict=True) for name in half}
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "text_encoder" / "model.safetensors").rename(folder / "text_encoder" / "model.fp16.safetensors")
    model = open_model(folder)
    assert {name: weight.shape for name, weight in model.components["unet"].items()} == {
        name: tuple(value.shape) for name, value in whole.items()
    }
    assert model.components["text_encoder"].keys() == open_model(BASE).components["text_encoder"].keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_other_dtypes_are_kept_as_stored(dtype: torch.dtype, tmp_path: Path) -> None:
    stored = {name: value.to(dtype) for name, value in load_file(NEON).items()}
    model = open_model(write(tmp_path / "tuned.safetensors", stored), base=open_model(BASE))
    weight = model.components["unet"]["conv_in.weight"].torch()
    assert weight.dtype == dtype
    assert torch.equal(weight.float(), stored["model.diffusion_model.input_blocks.0.0.weight"].float())


def test_a_scaled_float8_weight_is_its_product(tmp_path: Path) -> None:
    name = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q"
    stored = {**load_file(NEON), f"{name}.scale_weight": torch.tensor(0.5)}
    stored[f"{name}.weight"] = stored[f"{name}.weight"].to(torch.float8_e4m3fn)
    model = open_model(write(tmp_path / "tuned.safetensors", stored), base=open_model(BASE))
    found = model.components["unet"]["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"].torch()
    assert torch.equal(found, stored[f"{name}.weight"].float() * 0.5)
    assert model.ignored == {}


def test_a_pickle_of_tensors_is_read_and_one_of_code_is_refused(tmp_path: Path) -> None:
    file, base = tmp_path / "tuned.ckpt", open_model(BASE)
    torch.save({"state_dict": load_file(NEON), "global_step": 7}, file)
    expect_live(open_model(file, base=base), "unet", unfold(NEON).unet)
    torch.save({"state_dict": {"weight": torch.zeros(2), "run": Path}}, file)
    with pytest.raises(FormatError, match="no PyTorch file of tensors alone"):
        open_model(file, base=base)
    file.rename(tmp_path / "tuned.safetensors")
    with pytest.raises(NotSafetensors, match="zip archive"):
        open_model(tmp_path / "tuned.safetensors", base=base)


def test_a_lora_a_controlnet_and_an_empty_file_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(NotAModel, match=r"adapter such as a LoRA.*si_hub\.convert\(.kohya_lora\.safetensors.\)"):
        open_model(KOHYA_LORA, base=open_model(BASE))
    with pytest.raises(NotAModel, match="is a ControlNet"):
        open_model(write(tmp_path / "net.safetensors", {"control_model.input_blocks.0.0.weight": (8, 4, 3, 3)}))
    with pytest.raises(NotAModel, match="no tensors"):
        open_model(write(tmp_path / "empty.safetensors", {}))


def test_a_truncated_file_says_so(tmp_path: Path) -> None:
    short = tmp_path / "short.safetensors"
    short.write_bytes(NEON.read_bytes()[:-1000])
    with pytest.raises(TruncatedFile):
        open_model(short, base=open_model(BASE))


def test_a_model_that_only_its_folder_could_explain_is_refused_without_one() -> None:
    with pytest.raises(BaseMismatch, match="Name a diffusers folder"):
        open_model(NEON)


def test_a_repository_that_is_not_cached_says_how_to_fetch_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingFile, match="hf download somebody/model"):
        open_model("somebody/model")


@pytest.mark.parametrize("path", ["../model.safetensors", "./model", "-base/model", "models/model--v2"])
def test_a_path_that_is_no_repository_s_name_is_a_missing_file(path: str) -> None:
    with pytest.raises(MissingFile, match="no such file or folder"):
        open_model(path)


def test_a_cached_repository_is_opened_without_a_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://localhost:9")
    commit = "0123456789abcdef0123456789abcdef01234567"
    copy_base(tmp_path / "models--somebody--model" / "snapshots" / commit)
    (tmp_path / "models--somebody--model" / "refs").mkdir()
    (tmp_path / "models--somebody--model" / "refs" / "main").write_text(commit)
    for name in ("somebody/model", f"somebody/model@{commit}"):
        model = open_model(name)
        assert (model.repo_id, model.revision, model.layout) == ("somebody/model", commit, "folder")
        assert model.components["unet"].keys() == open_model(BASE).components["unet"].keys()
