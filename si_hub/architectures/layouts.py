"""The same modules under other projects' names: SGM (the original Stable Diffusion), BFL (Flux), MMDiT (SD3).

A layout maps a source module's dotted name to the base modules it holds. Fused modules hold several, each with its
rows of the output; everything is derived from the model's own module list, so that small and trimmed models work too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from si_hub.architectures.model import Model

Rows = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Part:
    """One base module inside a source module.

    Attributes:
        path: the base module.
        rows: ranges of the source's output rows that, joined in order, are the base module's; ``None`` for all.
    """

    path: str
    rows: Rows | None = None


Names = dict[str, tuple[Part, ...]]

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_SGM_TOP = {
    "conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
_BLOCK = re.compile(
    r"(?:(down|up)_blocks\.([0-9]{1,4})|mid_block)\.(resnets|attentions|downsamplers|upsamplers)\.([0-9]{1,4})\.(.+)"
)
_MID = "mid"


class Block(NamedTuple):
    """A resnet, attention or resampler of a diffusers UNet."""

    side: str
    number: int
    kind: str
    position: int


def sgm(model: Model) -> Names:
    """Names of CompVis and Stability's UNets: blocks numbered through, one per resnet or resampler."""
    if "conv_in" not in model.modules:
        return {}
    blocks = {path: found for path in model.modules if (found := _block(path))}
    place = _sgm_places({block for block, _ in blocks.values()})
    names: Names = {_SGM_TOP[path]: (Part(path),) for path in model.modules if path in _SGM_TOP}
    for path, (block, rest) in blocks.items():
        if block in place:
            inner = {"resnets": _RESNET.get(rest, rest), "downsamplers": "op"}.get(block.kind, rest)
            names[f"{place[block]}.{inner}"] = (Part(path),)
    return names


def _block(path: str) -> tuple[Block, str] | None:
    """The block that a module lies in, and the rest of its path."""
    match = _BLOCK.fullmatch(path)
    if match is None:
        return None
    side, number, kind, index, rest = match.groups()
    return Block(side or _MID, int(number or 0), kind, int(index)), rest


def _sgm_places(blocks: set[Block]) -> dict[Block, str]:
    """The SGM name of every resnet, attention and resampler."""
    place: dict[Block, str] = {}
    for side, prefix, at in (("down", "input_blocks", 1), ("up", "output_blocks", 0)):
        for number in sorted({block.number for block in blocks if block.side == side}):
            for index in _resnets(blocks, side, number):
                place[Block(side, number, "resnets", index)] = f"{prefix}.{at}.0"
                place[Block(side, number, "attentions", index)] = f"{prefix}.{at}.1"
                at += 1
            if (down := Block(side, number, "downsamplers", 0)) in blocks:
                place[down] = f"{prefix}.{at}.0"
                at += 1
            # An upsampler follows the last attention of its block, or the last resnet where there is none.
            attended = any(block[:3] == (side, number, "attentions") for block in blocks)
            place[Block(side, number, "upsamplers", 0)] = f"{prefix}.{at - 1}.{2 if attended else 1}"
    for index in _resnets(blocks, _MID, 0):
        place[Block(_MID, 0, "resnets", index)] = f"middle_block.{2 * index}"
        place[Block(_MID, 0, "attentions", index)] = f"middle_block.{2 * index + 1}"
    return place


def _resnets(blocks: set[Block], side: str, number: int) -> list[int]:
    """Numbers of the resnets of one block, in order."""
    return sorted(block.position for block in blocks if block[:3] == (side, number, "resnets"))


#: Source → base modules in the order of the source's output rows. ``{}`` is a block's number. ``~`` marks a final
#: modulation: diffusers stores (scale, shift), the original (shift, scale), so the halves of its rows are swapped.
_ATTENTION = ("attn.to_q", "attn.to_k", "attn.to_v")
_ADDED = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
_BFL: dict[str, str | list[str]] = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "double_blocks.{}.img_mod.lin": "transformer_blocks.{}.norm1.linear",
    "double_blocks.{}.txt_mod.lin": "transformer_blocks.{}.norm1_context.linear",
    "double_blocks.{}.img_attn.qkv": [f"transformer_blocks.{{}}.{name}" for name in _ATTENTION],
    "double_blocks.{}.txt_attn.qkv": [f"transformer_blocks.{{}}.{name}" for name in _ADDED],
    "double_blocks.{}.img_attn.proj": "transformer_blocks.{}.attn.to_out.0",
    "double_blocks.{}.txt_attn.proj": "transformer_blocks.{}.attn.to_add_out",
    "double_blocks.{}.img_attn.norm.query_norm": "transformer_blocks.{}.attn.norm_q",
    "double_blocks.{}.img_attn.norm.key_norm": "transformer_blocks.{}.attn.norm_k",
    "double_blocks.{}.txt_attn.norm.query_norm": "transformer_blocks.{}.attn.norm_added_q",
    "double_blocks.{}.txt_attn.norm.key_norm": "transformer_blocks.{}.attn.norm_added_k",
    "double_blocks.{}.img_mlp.0": "transformer_blocks.{}.ff.net.0.proj",
    "double_blocks.{}.img_mlp.2": "transformer_blocks.{}.ff.net.2",
    "double_blocks.{}.txt_mlp.0": "transformer_blocks.{}.ff_context.net.0.proj",
    "double_blocks.{}.txt_mlp.2": "transformer_blocks.{}.ff_context.net.2",
    "single_blocks.{}.linear1": [f"single_transformer_blocks.{{}}.{name}" for name in (*_ATTENTION, "proj_mlp")],
    "single_blocks.{}.linear2": "single_transformer_blocks.{}.proj_out",
    "single_blocks.{}.modulation.lin": "single_transformer_blocks.{}.norm.linear",
    "single_blocks.{}.norm.query_norm": "single_transformer_blocks.{}.attn.norm_q",
    "single_blocks.{}.norm.key_norm": "single_transformer_blocks.{}.attn.norm_k",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "~norm_out.linear",
}
_MMDIT: dict[str, str | list[str]] = {
    "x_embedder.proj": "pos_embed.proj",
    "context_embedder": "context_embedder",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "joint_blocks.{}.x_block.adaLN_modulation.1": "transformer_blocks.{}.norm1.linear",
    # Only the last block's is a final modulation, of two parts instead of six.
    "joint_blocks.{}.context_block.adaLN_modulation.1": "~transformer_blocks.{}.norm1_context.linear",
    "joint_blocks.{}.x_block.attn.qkv": [f"transformer_blocks.{{}}.{name}" for name in _ATTENTION],
    "joint_blocks.{}.x_block.attn2.qkv": [f"transformer_blocks.{{}}.attn2.to_{name}" for name in "qkv"],
    "joint_blocks.{}.context_block.attn.qkv": [f"transformer_blocks.{{}}.{name}" for name in _ADDED],
    "joint_blocks.{}.x_block.attn.proj": "transformer_blocks.{}.attn.to_out.0",
    "joint_blocks.{}.x_block.attn2.proj": "transformer_blocks.{}.attn2.to_out.0",
    "joint_blocks.{}.context_block.attn.proj": "transformer_blocks.{}.attn.to_add_out",
    "joint_blocks.{}.x_block.attn.ln_q": "transformer_blocks.{}.attn.norm_q",
    "joint_blocks.{}.x_block.attn.ln_k": "transformer_blocks.{}.attn.norm_k",
    "joint_blocks.{}.context_block.attn.ln_q": "transformer_blocks.{}.attn.norm_added_q",
    "joint_blocks.{}.context_block.attn.ln_k": "transformer_blocks.{}.attn.norm_added_k",
    "joint_blocks.{}.x_block.mlp.fc1": "transformer_blocks.{}.ff.net.0.proj",
    "joint_blocks.{}.x_block.mlp.fc2": "transformer_blocks.{}.ff.net.2",
    "joint_blocks.{}.context_block.mlp.fc1": "transformer_blocks.{}.ff_context.net.0.proj",
    "joint_blocks.{}.context_block.mlp.fc2": "transformer_blocks.{}.ff_context.net.2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "~norm_out.linear",
}


#: The trainer's attention processors: 1 is the image's side, 2 the text's; single blocks train linear1's q, k and v.
_XLABS: dict[str, str | list[str]] = {
    "double_blocks.{}.processor.qkv_lora1": _BFL["double_blocks.{}.img_attn.qkv"],
    "double_blocks.{}.processor.qkv_lora2": _BFL["double_blocks.{}.txt_attn.qkv"],
    "double_blocks.{}.processor.proj_lora1": _BFL["double_blocks.{}.img_attn.proj"],
    "double_blocks.{}.processor.proj_lora2": _BFL["double_blocks.{}.txt_attn.proj"],
    "single_blocks.{}.processor.qkv": [f"single_transformer_blocks.{{}}.{name}" for name in _ATTENTION],
    "single_blocks.{}.processor.proj": _BFL["single_blocks.{}.linear2"],
}


def bfl(model: Model) -> Names:
    """Names of Black Forest Labs' Flux code."""
    return _from_table(model, _BFL) if model.class_name.startswith("Flux") else {}


def xlabs(model: Model) -> Names:
    """Names of XLabs' Flux trainer."""
    return _from_table(model, _XLABS) if model.class_name.startswith("Flux") else {}


def mmdit(model: Model) -> Names:
    """Names of Stability's Stable Diffusion 3 code."""
    return _from_table(model, _MMDIT) if model.class_name.startswith("SD3") else {}


def _from_table(model: Model, table: Mapping[str, str | list[str]]) -> Names:
    blocks = sorted({match[1] for path in model.modules if (match := re.match(r"\w+blocks\.([0-9]{1,4})\.", path))})
    found: Names = {}
    for source, targets in table.items():
        wanted = [targets] if isinstance(targets, str) else targets
        for number in blocks if "{}" in source else [""]:
            paths = [target.replace("{}", number) for target in wanted]
            shapes = [model.modules[path.lstrip("~")].shape for path in paths if path.lstrip("~") in model.modules]
            # What was one matrix has one input: parts with different ones are of another model.
            if len(shapes) == len(paths) and all(shapes) and len({shape[1:] for shape in shapes}) == 1:
                found[source.replace("{}", number)] = tuple(_parts(model, paths))
    return found


def _parts(model: Model, paths: list[str]) -> Iterator[Part]:
    at = 0
    for path in paths:
        shape = model.modules[path.lstrip("~")].shape
        if path.startswith("~"):
            half = shape[0] // 2
            swapped = len(shape) > 1 and shape[0] == 2 * shape[1]
            yield Part(path[1:], ((half, shape[0]), (0, half)) if swapped else None)
        else:
            yield Part(path, ((at, at + shape[0]),) if len(paths) > 1 else None)
            at += shape[0]


def diffusers(model: Model) -> Names:
    """The model's own names."""
    return {path: (Part(path),) for path in model.modules}


def without_list_index(model: Model) -> Names:
    """``to_out.0`` written as ``to_out``, as the old attention processors did."""
    return {path[: -len(".0")]: (Part(path),) for path in model.modules if path.endswith(".to_out.0")}


def attention_processor(model: Model) -> Names:
    """``attn1.processor.to_q`` of diffusers before PEFT; ``to_out`` there is ``to_out.0``."""
    pattern = re.compile(r"(.*\battn\d?)\.((?:to_(?:[qkv]|out|add_out)|add_[qkv]_proj))(?:\.0)?")
    matches = ((path, pattern.fullmatch(path)) for path in model.modules)
    return {f"{match[1]}.processor.{match[2]}": (Part(path),) for path, match in matches if match}


def bare_clip(model: Model) -> Names:
    """CLIP text encoders without ``text_model.``, as transformers 5.6 and later name them."""
    prefix = "text_model."
    return {path[len(prefix) :]: (Part(path),) for path in model.modules if path.startswith(prefix)}


def clip_processor(model: Model) -> Names:
    """``self_attn.to_q`` for CLIP's ``q_proj``, of diffusers before PEFT."""
    pattern = re.compile(r"(.*\.self_attn)\.(q|k|v|out)_proj")
    matches = ((path, pattern.fullmatch(path)) for path in model.modules)
    return {f"{match[1]}.to_{match[2]}": (Part(path),) for path, match in matches if match}


#: Every layout by name; where two give a name a meaning, the first wins.
LAYOUTS: dict[str, Callable[[Model], Names]] = {
    "diffusers": diffusers,
    "sgm": sgm,
    "bfl": bfl,
    "mmdit": mmdit,
    "transformers-5": bare_clip,
    "diffusers-to_out": without_list_index,
    "attention-processor": attention_processor,
    "clip-processor": clip_processor,
    "xlabs": xlabs,
}
