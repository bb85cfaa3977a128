"""SGM: the names of CompVis and Stability's UNets, blocks numbered through, one per resnet or resampler."""

from __future__ import annotations

import re
from typing import NamedTuple

from si_hub.architectures.layouts.contract import Layout, Names, Part
from si_hub.architectures.model import Model

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


def _give(model: Model) -> Names:
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


#: Names of CompVis and Stability's UNets.
sgm = Layout("sgm", _give, whole=True)
