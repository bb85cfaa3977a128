"""Community checkpoints: one merged file under original Stable Diffusion key names, and the way back to a folder.

Folding renames diffusers' keys; unfolding is diffusers' own ``from_single_file``, told by the base's folder what to
build. ``python -m examples.miniature.checkpoints FILE FOLDER`` unfolds one.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

HERE = Path(__file__).parent
BASE = HERE / "base"

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def rename_resnet(leaf: str) -> str:
    module, _, parameter = leaf.rpartition(".")
    return f"{RESNET[module]}.{parameter}"


def unet_key(key: str, layers: int, attentive: frozenset[int]) -> str:
    """Original Stable Diffusion's name of a U-Net parameter.

    Args:
        key: diffusers' name.
        layers: ``layers_per_block``.
        attentive: the up blocks that have attention; their upsampler comes third in its group, else second.

    Raises:
        KeyError: a parameter that original Stable Diffusion has no name for.
    """
    if match := BLOCK.fullmatch(key):
        side, block, kind, layer, leaf = match[1], int(match[2]), match[3], int(match[4]), match[5]
        if kind == "downsamplers":
            return f"input_blocks.{(block + 1) * (layers + 1)}.0.op.{leaf.removeprefix('conv.')}"
        if kind == "upsamplers":
            return f"output_blocks.{block * (layers + 1) + layers}.{2 if block in attentive else 1}.{leaf}"
        group = f"input_blocks.{block * (layers + 1) + layer + 1}"
        if side == "up":
            group = f"output_blocks.{block * (layers + 1) + layer}"
        return f"{group}.0.{rename_resnet(leaf)}" if kind == "resnets" else f"{group}.1.{leaf}"
    if match := MIDDLE.fullmatch(key):
        kind, index, leaf = match[1], int(match[2]), match[3]
        return f"middle_block.{2 * index}.{rename_resnet(leaf)}" if kind == "resnets" else f"middle_block.1.{leaf}"
    module, _, parameter = key.rpartition(".")
    return f"{UNET_ENDS[module]}.{parameter}"


def vae_key(key: str, blocks: int) -> str:
    """Original Stable Diffusion's name of an autoencoder parameter; ``blocks`` is the number of down blocks."""
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    key = re.sub(r"encoder\.down_blocks\.(\d+)", r"encoder.down.\1", key)
    key = re.sub(r"decoder\.up_blocks\.(\d+)", lambda found: f"decoder.up.{blocks - 1 - int(found[1])}", key)
    key = re.sub(r"mid_block\.resnets\.(\d+)", lambda found: f"mid.block_{int(found[1]) + 1}", key)
    if "mid_block.attentions.0." in key:
        place, leaf = key.split("mid_block.attentions.0.")
        module, _, parameter = leaf.rpartition(".")
        return f"{place}mid.attn_1.{VAE_ATTENTION[module]}.{parameter}"
    return key.replace("resnets", "block").replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")


# OpenCLIP's names within a block of a text encoder; queries, keys and values are one matrix there.
OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
OPEN_CLIP_ENDS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}


def open_clip(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A CLIPTextModelWithProjection's weights under OpenCLIP's names, as SDXL's second text encoder has them."""
    found = {"text_projection": tensors["text_projection.weight"].T}
    for key, value in tensors.items():
        name = key.removeprefix("text_model.")
        match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if name in OPEN_CLIP_ENDS:
            found[OPEN_CLIP_ENDS[name]] = value
        elif match and match[2] in OPEN_CLIP:
            found[f"transformer.resblocks.{match[1]}.{OPEN_CLIP[match[2]]}.{match[3]}"] = value
        elif match and match[2] == "self_attn.q_proj":
            three = [tensors[key.replace("q_proj", f"{side}_proj")] for side in "qkv"]
            found[f"transformer.resblocks.{match[1]}.attn.in_proj_{match[3]}"] = torch.cat(three)
    return found


def from_open_clip(tensors: Mapping[str, torch.Tensor], names: Iterable[str]) -> dict[str, torch.Tensor]:
    """`open_clip` undone: the weights of these names of a CLIPTextModelWithProjection."""
    found = {}
    for key in names:
        name = key.removeprefix("text_model.")
        match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        block = f"transformer.resblocks.{match[1]}" if match else ""
        if name == "text_projection.weight":
            found[key] = tensors["text_projection"].T.contiguous()
        elif name in OPEN_CLIP_ENDS:
            found[key] = tensors[OPEN_CLIP_ENDS[name]]
        elif match and match[2] in OPEN_CLIP:
            found[key] = tensors[f"{block}.{OPEN_CLIP[match[2]]}.{match[3]}"]
        elif match:
            three = tensors[f"{block}.attn.in_proj_{match[3]}"].chunk(3)
            found[key] = three["qkv".index(match[2].removeprefix("self_attn.")[0])].contiguous()
    return found


def unet_tensors(unet: Any) -> dict[str, torch.Tensor]:
    """A U-Net's weights under original Stable Diffusion's names."""
    config = unet.config
    attentive = frozenset(k for k, kind in enumerate(config.up_block_types) if "CrossAttn" in kind)
    return {
        f"model.diffusion_model.{unet_key(key, config.layers_per_block, attentive)}": value
        for key, value in unet.state_dict().items()
    }


def rename_to_original(pipe: Any) -> dict[str, torch.Tensor]:
    """All weights of a StableDiffusionPipeline under original Stable Diffusion's names."""
    tensors = unet_tensors(pipe.unet)
    for key, value in pipe.vae.state_dict().items():
        name = vae_key(key, len(pipe.vae.config.down_block_types))
        convolution = ".mid.attn_1." in name and ".norm." not in name and value.ndim == 2
        tensors[f"first_stage_model.{name}"] = value[:, :, None, None] if convolution else value
    for key, value in pipe.text_encoder.state_dict().items():
        tensors[f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}"] = value
    return tensors


def rename_xl(pipe: Any) -> dict[str, torch.Tensor]:
    """U-Net and text encoders of a StableDiffusionXLPipeline under the original names; the autoencoder stays out."""
    tensors = unet_tensors(pipe.unet)
    for key, value in pipe.text_encoder.state_dict().items():
        tensors[f"conditioner.embedders.0.transformer.text_model.{key.removeprefix('text_model.')}"] = value
    for key, value in open_clip(pipe.text_encoder_2.state_dict()).items():
        tensors[f"conditioner.embedders.1.model.{key}"] = value
    return tensors


def fold(pipe: Any, file: Path, title: str) -> None:
    """Writes a pipeline as one fp16 checkpoint file."""
    write_checkpoint(rename_to_original(pipe), file, title, "stable-diffusion-v1", prediction_type="v")


def fold_xl(pipe: Any, file: Path, title: str) -> None:
    """Writes a StableDiffusionXLPipeline without its autoencoder as one fp16 checkpoint file."""
    write_checkpoint(rename_xl(pipe), file, title, "stable-diffusion-xl-v1-base", prediction_type="v")


def fold_transformer(pipe: Any, file: Path, title: str) -> None:
    """Writes a pipeline's transformer as one fp16 file, under diffusers' own names."""
    write_checkpoint(pipe.transformer.state_dict(), file, title, "flux-1-dev")


def write_checkpoint(
    tensors: Mapping[str, torch.Tensor], file: Path, title: str, architecture: str, **more: str
) -> None:
    """Writes tensors as one fp16 file with the metadata that checkpoints have."""
    halves = {name: value.detach().half().contiguous() for name, value in tensors.items()}
    metadata = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": architecture,
        "modelspec.title": title,
        **{f"modelspec.{name}": value for name, value in more.items()},
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(sorted(halves.items())), file, metadata=metadata)


def unfold(file: Path, base: Path = BASE) -> StableDiffusionPipeline:
    """The pipeline of a checkpoint file, in float32, its shapes and vocabulary read from the base's folder."""
    return StableDiffusionPipeline.from_single_file(
        str(file), config=str(base), torch_dtype=torch.float32, local_files_only=True, safety_checker=None
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Unfold a single-file checkpoint into a diffusers folder.")
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base", type=Path, default=BASE, help="diffusers folder of the base model")
    arguments = parser.parse_args()
    unfold(arguments.file, arguments.base).save_pretrained(arguments.folder)


if __name__ == "__main__":
    main()
