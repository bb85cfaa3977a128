"""cloneofsimo's files, whose tensors have numbers instead of names: ``unet:0:up``, ``text_encoder:3:down``.

The numbers count the linear layers below modules of some classes, in the order in which the model was built; the header
says which classes. That order is known of Stable Diffusion 1 and 2, for which the trainer was written: down blocks, up
blocks, the middle block. In a block of layers the feed-forward came before the cross-attention until diffusers 0.15;
which of both it was, the shapes say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from si_hub.converters.naming.suffixes import Key
from si_hub.errors import UnsupportedFamily
from si_hub.storage.header import parse_json
from si_hub.storage.tensors import Tensor

_NUMBERED = re.compile(r"(unet|text_encoder):([0-9]{1,4}):(up|down)")
_BLOCKS = (
    *(f"down_blocks.{block}.attentions.{layer}" for block in range(3) for layer in range(2)),
    *(f"up_blocks.{block}.attentions.{layer}" for block in range(1, 4) for layer in range(3)),
    "mid_block.attentions.0",
)
_ATTENTION, _GATE = ("to_q", "to_k", "to_v", "to_out.0"), "ff.net.0.proj"
#: Class → the linear layers below it, in a text encoder's layer.
_TEXT = {
    "CLIPAttention": tuple(f"self_attn.{name}_proj" for name in ("k", "v", "q", "out")),
    "CLIPMLP": ("mlp.fc1", "mlp.fc2"),
}
_ATTENTIONS, _GATES = {"Attention", "CrossAttention"}, {"GEGLU"}


def read_numbered(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], file: Path) -> dict[str, Key]:
    """The numbered names of a file taken apart, where its header says what was counted; none where it does not.

    Raises:
        UnsupportedFamily: classes whose layers' order is not known, or another number of layers than they have.
        FormatError: a list of classes that is no JSON.
    """
    found = {name: match for name in tensors if (match := _NUMBERED.fullmatch(name))}
    keys: dict[str, Key] = {}
    for component in {match[1]: None for match in found.values()}:
        if component not in metadata:
            return {}
        numbers = {(int(match[2]), match[3]): name for name, match in found.items() if match[1] == component}
        rows = {number: tensors[name].shape[0] for (number, side), name in numbers.items()
                if side == "up" and tensors[name].shape}  # fmt: skip
        stems = _walk(component, _read_classes(metadata, component, file), rows, file)
        expected = {(number, side) for number in range(len(stems)) for side in ("up", "down")}
        if numbers.keys() != expected:
            raise UnsupportedFamily(
                f"numbers its layers of {component}, and these are not all that Stable Diffusion has", file=file,
                key=component, expected=f"{len(stems)} pairs", found=f"{len(numbers)} tensors",
            )  # fmt: skip
        for (number, side), name in numbers.items():
            keys[name] = Key(f"{component}.{stems[number]}", side, "cloneofsimo", "")
    return keys


def _read_classes(metadata: Mapping[str, str], component: str, file: Path) -> set[str]:
    classes = parse_json(metadata[component].encode(), file=file, what="the list of classes", key=component)
    known = _ATTENTIONS | _GATES if component == "unet" else _TEXT.keys()
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise UnsupportedFamily(
            f"numbers its layers of {component} without saying of which classes", file=file, key=component
        )
    if unknown := set(classes) - known:
        raise UnsupportedFamily(
            f"numbers the layers of {component} below classes whose order is not known", file=file, key=component,
            expected=", ".join(sorted(known)), found=", ".join(sorted(unknown)),
        )  # fmt: skip
    return set(classes)


def _walk(component: str, classes: set[str], rows: Mapping[int, int], file: Path) -> list[str]:
    """The layers of a component in the order of their numbers.

    Args:
        rows: outputs of each layer, which tell the two orders apart.
    """
    if component == "text_encoder":
        below = [name for one, names in _TEXT.items() if one in classes for name in names]
        layers = -(-len(rows) // len(below))
        return [f"text_model.encoder.layers.{layer}.{name}" for layer in range(layers) for name in below]
    attentions = [[f"{attn}.{name}" for name in _ATTENTION] if _ATTENTIONS & classes else []
                  for attn in ("attn1", "attn2")]  # fmt: skip
    gate = [_GATE] if _GATES & classes else []
    before = bool(gate) and rows.get(len(attentions[0]), 0) > rows.get(0, 0)
    below = [*attentions[0], *gate, *attentions[1]] if before else [*attentions[0], *attentions[1], *gate]
    return [f"{block}.transformer_blocks.0.{name}" for block in _BLOCKS for name in below]
