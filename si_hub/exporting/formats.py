"""The formats that adapters are exported to: how they begin names, end them, and keep a scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from si_hub.adapter import Layer
from si_hub.architectures.bases import BY_NAME
from si_hub.architectures.bases.contract import Base
from si_hub.architectures.layouts.contract import Layout
from si_hub.architectures.layouts.own import bare_clip, diffusers
from si_hub.converters.folding import fold_core, square_core
from si_hub.converters.naming.names import PREFIXES
from si_hub.errors import ConversionRefused
from si_hub.exporting.magnitude import is_magnitude
from si_hub.exporting.turning import is_rotation, is_scale

#: Leaf → slot of a module that is a linear layer, a convolution or a bare parameter, and of a norm.
_SLOTS = {
    "down.weight": "down",
    "core.weight": "mid",
    "up.weight": "up",
    "weight_delta": "diff",
    "param_delta": "diff",
    "bias_delta": "diff_b",
}
_NORM_SLOTS = {"weight_delta": "w_norm", "bias_delta": "b_norm"}
#: With a Kronecker product.
_KRON_SLOTS = {
    "kron": "lokr_w1", "weight_delta": "lokr_w2", "up.weight": "lokr_w2_a", "down.weight": "lokr_w2_b",
    "bias_delta": "diff_b",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class FileFormat:
    """One format.

    Attributes:
        name, title: for the command and for people.
        suffixes: slot → the end of its tensors' names; what is not named here it cannot carry.
        alpha: where alpha goes: a tensor, into ``up``, or a configuration.
        native: whether modules go by the base project's own names; by diffusers' otherwise.
        denoiser: how names of a denoiser's modules begin; ``{component}`` stands for its name.
        encoders: how the beginnings of text encoders' names begin.
    """

    name: str
    title: str
    suffixes: Mapping[str, str]
    alpha: Literal["tensor", "folded", "configuration"]
    native: bool
    denoiser: str
    encoders: str

    @property
    def is_pefts(self) -> bool:
        """Whether PEFT's layers are what it is for, which all have what one of them has: biases, magnitudes."""
        return self.alpha != "tensor"

    def layouts(self, base: str, component: str, class_name: str = "") -> tuple[Layout, ...]:
        """The namings of a component's modules, best first."""
        known = BY_NAME.get(base)
        if self.alpha == "configuration" and component.startswith("text_encoder"):
            # PEFT looks modules up by name, and transformers 5.6 took `text_model.` off CLIPTextModel's.
            return (bare_clip, diffusers) if class_name == "CLIPTextModel" else (diffusers,)
        if component.startswith("text_encoder") or not self.native or known is None:
            return (diffusers,)
        if self.name == "kohya" and not known.kohya_native:
            return (diffusers,)
        ordered = sorted(known.layouts, key=lambda layout: not layout.whole)
        return (*ordered, diffusers)

    def without_lost_core(self, layer: Layer) -> Layer:
        """A layer as it is, or with its core folded where the format has no place for it, or that is the smaller.

        LyCORIS's is that of a convolution, square (alpha is divided by the rank of ``down`` there), in a pair alone.
        """
        core = layer.tensors.get("core.weight")
        others = layer.tensors.keys() - {"down.weight", "core.weight", "up.weight", "bias_delta"}
        if core is None or others or "mid" not in self.suffixes or len(core.shape) != 4:
            return fold_core(layer)
        if max(core.shape[2:]) == 1 or layer.branches != 1:
            return fold_core(layer)
        if core.shape[0] == core.shape[1]:
            return layer
        squared, folded = square_core(layer), fold_core(layer)
        return squared if _count(squared) < _count(folded) else folded

    def lacks(self, layer: Layer) -> bool:
        """Whether it has no place for a leaf of a layer of a linear module or a convolution."""
        layer = self.without_lost_core(layer)
        if self.kind_of(layer):
            return False
        slots = self.slots_of(layer)
        return any(slots.get(leaf) not in self.suffixes for leaf in layer.tensors)

    def kind_of(self, layer: Layer) -> str | None:
        """The slot of what is no leaf of ours, where the format has a layer's own kind: DoRA, OFT, (IA)³."""
        if self.is_pefts and "gain_in" in layer.tensors:
            return None  # Its magnitudes are of the outputs.
        kinds = {"magnitude": is_magnitude, "oft_blocks": is_rotation, "ia3_weight": is_scale}
        return next((slot for slot, fits in kinds.items() if slot in self.suffixes and fits(layer)), None)

    def slots_of(self, layer: Layer, kind: str = "linear") -> Mapping[str, str]:
        """Slots of a layer's leaves; ``kind`` of its base module."""
        if kind == "norm":
            return _NORM_SLOTS
        slots = _KRON_SLOTS if "kron" in layer.tensors else _SLOTS
        return {**slots, "bias_delta": "up_bias"} if "up_bias" in self.suffixes else slots

    def prefix(self, base: str, component: str) -> str:
        """The beginning of a component's names.

        Raises:
            ConversionRefused: the format has none for it.
        """
        if self.denoiser == self.encoders or "{component}" in self.denoiser:
            return self.denoiser.format(component=component)
        known = BY_NAME.get(base)
        if component.startswith("text_encoder"):
            found = _encoder_prefix(self.encoders, known, component)
        elif component in {"unet", "transformer", "prior"}:
            found = self.denoiser
        else:
            said = {} if known is None else known.prefixes
            own = [text for text, meant in said.items() if meant == component and text.startswith(self.denoiser)]
            found = min(own, default=None)
        if found is None:
            raise ConversionRefused(
                f"{self.title} has no names for it",
                key=component,
                hint="Leave the component out, or split it off first",
            )
        return found


def _count(layer: Layer) -> int:
    """How many numbers its leaves have."""
    return sum(tensor.count for tensor in layer.tensors.values())


def _encoder_prefix(start: str, known: Base | None, component: str) -> str | None:
    """How names of a text encoder begin: as the base model says, or by the general rule."""
    said = {} if known is None else known.prefixes
    own = [text for text, meant in said.items() if meant == component]
    general = [
        prefix.text
        for prefix in PREFIXES
        if prefix.components[:1] == (component,) and said.get(prefix.text, component) == component
    ]
    # Of several text encoders the first has a number too.
    unusual = "te1_" if known is not None and "text_encoder_2" not in known.components else "te_"
    fitting = [text for text in (*own, *general) if text.startswith(start)]
    return min(fitting, key=lambda text: (text not in own, text.endswith(unusual)), default=None)


_KOHYA = {
    "down": ".lora_down.weight", "mid": ".lora_mid.weight", "up": ".lora_up.weight", "alpha": ".alpha",
    "diff": ".diff", "diff_b": ".diff_b",
    "w_norm": ".w_norm", "b_norm": ".b_norm", "lokr_w1": ".lokr_w1", "lokr_w2": ".lokr_w2",
    "lokr_w2_a": ".lokr_w2_a", "lokr_w2_b": ".lokr_w2_b", "magnitude": ".dora_scale", "oft_blocks": ".oft_blocks",
    "rescale": ".rescale",
}  # fmt: skip
#: ComfyUI reads no scales of (IA)³.
_LYCORIS = {**_KOHYA, "ia3_weight": ".weight", "on_input": ".on_input"}
_PEFT = {
    "down": ".lora_A.weight", "up": ".lora_B.weight", "up_bias": ".lora_B.bias",
    "magnitude": ".lora_magnitude_vector",
}  # fmt: skip

KOHYA = FileFormat("kohya", "kohya's and LyCORIS's format", _LYCORIS, "tensor", True, "lora_unet_", "lora_te")
COMFY = FileFormat("comfy", "ComfyUI's format", _KOHYA, "tensor", True, "diffusion_model.", "text_encoders.")
DIFFUSERS = FileFormat("diffusers", "diffusers' format", _PEFT, "folded", False, "{component}.", "")
PEFT = FileFormat("peft", "PEFT's format", _PEFT, "configuration", False, "base_model.model.", "base_model.model.")

FILE_FORMATS: dict[str, FileFormat] = {target.name: target for target in (KOHYA, DIFFUSERS, PEFT, COMFY)}
