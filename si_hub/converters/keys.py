"""What the parts of a tensor's name mean: container, prefix, module, suffix. Naming only; families are apart."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from si_hub.architectures import Architecture, Model
from si_hub.architectures.layouts import LAYOUTS, Part


class Suffix(NamedTuple):
    """What a suffix says: the slot of the module that the tensor fills, and whose spelling it is."""

    slot: str
    spelling: str


def _spell(spelling: str, **suffixes: str) -> dict[str, Suffix]:
    return {text: Suffix(slot, spelling) for slot, texts in suffixes.items() for text in texts.split()}


#: Every known suffix. A name is cut at the longest one that fits.
SUFFIXES: Mapping[str, Suffix] = MappingProxyType(
    _spell("kohya", down=".lora_down.weight", up=".lora_up.weight", mid=".lora_mid.weight", alpha=".alpha",
           magnitude=".dora_scale")
    | _spell("peft", down=".lora_A.weight .lora_A", up=".lora_B.weight .lora_B", up_bias=".lora_B.bias",
             magnitude=".lora_magnitude_vector .lora_magnitude_vector.weight",
             embedding_down=".lora_embedding_A", embedding_up=".lora_embedding_B")
    | _spell("diffusers", down=".lora.down.weight .lora_linear_layer.down.weight",
             up=".lora.up.weight .lora_linear_layer.up.weight")
    | _spell("attention-processor", down="_lora.down.weight", up="_lora.up.weight")
    | _spell("xlabs", down=".down.weight", up=".up.weight")
    | _spell("ai-toolkit", magnitude=".magnitude")
    | _spell("lycoris", hada_w1_a=".hada_w1_a", hada_w1_b=".hada_w1_b", hada_w2_a=".hada_w2_a",
             hada_w2_b=".hada_w2_b", hada_t1=".hada_t1", hada_t2=".hada_t2")
    | _spell("lycoris", lokr_w1=".lokr_w1", lokr_w1_a=".lokr_w1_a", lokr_w1_b=".lokr_w1_b", lokr_w2=".lokr_w2",
             lokr_w2_a=".lokr_w2_a", lokr_w2_b=".lokr_w2_b", lokr_t2=".lokr_t2")
    | _spell("lycoris", a1=".a1.weight", a2=".a2.weight", b1=".b1.weight", b2=".b2.weight", bm=".bm.weight",
             ia3_weight=".weight", on_input=".on_input", oft_blocks=".oft_blocks", oft_diag=".oft_diag",
             rescale=".rescale", diff=".diff", diff_b=".diff_b", w_norm=".w_norm", b_norm=".b_norm",
             sparse_indices=".bias_indices", sparse_values=".bias_values", sparse_size=".bias_size")
    | _spell("peft", ia3=".ia3_l", oft_r=".oft_R .oft_R.weight", boft_r=".boft_R", boft_s=".boft_s")
    | _spell("comfy", set_weight=".set_weight", reshape=".reshape_weight")
    | _spell("bfl", set_weight=".scale")
)  # fmt: skip

#: PEFT's in-memory names carry the adapter's name inside: ``lora_A.default.weight``.
_INFIX = re.compile(
    r"(\.(?:lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|hada_w[12]_[ab]|hada_t[12]|lokr_w[12](?:_[ab])?"
    r"|lokr_t2|oft_R|boft_[Rs]|ia3_l))\.([^.]+)((?:\.weight|\.bias)?)"
)
#: kohya's OFT of Flux numbers the blocks of a fused layer.
_NUMBERED = re.compile(r"\.oft_blocks\.([0-3])")
_CONTAINER = "base_model.model."
#: No suffix has more dots, PEFT's with an adapter's name inside included.
_DOTS = 3
#: Suffixes that do not begin at a dot.
_INNER = tuple(text for text in SUFFIXES if not text.startswith("."))


class Key(NamedTuple):
    """A tensor's name taken apart."""

    stem: str
    slot: str
    spelling: str
    adapter: str


@lru_cache(maxsize=1 << 14)
def split(name: str) -> Key | None:
    """Take a tensor's name apart; ``None`` where no known suffix ends it."""
    for at in _cuts(name):
        rest = name[at:]
        if suffix := SUFFIXES.get(rest):
            return Key(name[:at], *suffix, "")
        if (infix := _INFIX.fullmatch(rest)) and (suffix := SUFFIXES.get(infix[1] + infix[3])):
            return Key(name[:at], *suffix, infix[2])
        if numbered := _NUMBERED.fullmatch(rest):
            return Key(name[:at], f"oft_blocks_{numbered[1]}", "kohya", "")
    return None


def _cuts(name: str) -> list[int]:
    """Where a suffix can begin, the longest first: at one of the last dots, or inside the word before them."""
    cuts: list[int] = []
    at = len(name)
    while len(cuts) < _DOTS and (at := name.rfind(".", 0, at)) >= 0:
        cuts.append(at)
    if name.endswith(_INNER):
        cuts.append(name.rindex("_lora."))
    return sorted(cuts)


@dataclass(frozen=True, slots=True)
class Prefix:
    """The start of a module's name: which components it can mean, first choice first, and how names are written.

    Attributes:
        text: the prefix itself.
        components: pipeline attribute names.
        flat: dots of the module's path are written as underscores.
    """

    text: str
    components: tuple[str, ...]
    flat: bool


_DENOISER = ("unet", "transformer", "prior")
_COMFY = ("text_encoders.", "")
_T5 = ("text_encoder_3", "text_encoder_2")

#: Longest first; a name without any of them belongs to the component that all such names fit.
PREFIXES: tuple[Prefix, ...] = tuple(
    sorted(
        (
            *(Prefix(f"{kind}_unet_", _DENOISER, True) for kind in ("lora", "oft")),
            Prefix("lora_unet__", _DENOISER, True),
            Prefix("lora_transformer_", _DENOISER, True),
            Prefix("lora_prior_unet_", ("prior",), True),
            Prefix("lycoris_", _DENOISER, True),
            *(Prefix(f"{kind}_te_", ("text_encoder",), True) for kind in ("lora", "oft")),
            *(Prefix(f"{kind}_te1_", ("text_encoder",), True) for kind in ("lora", "oft")),
            # OneTrainer calls Flux's T5 te2, kohya te3.
            *(Prefix(f"{kind}_te2_", ("text_encoder_2",), True) for kind in ("lora", "oft")),
            *(Prefix(f"{kind}_te3_", _T5, True) for kind in ("lora", "oft")),
            *(Prefix(f"{name}.", (name,), False) for name in ("unet", "transformer", "prior")),
            *(Prefix(f"{name}.", (name,), False) for name in ("text_encoder", "text_encoder_2", "text_encoder_3")),
            Prefix("diffusion_model.", _DENOISER, False),
            Prefix("model.diffusion_model.", _DENOISER, False),
            Prefix("cond_stage_model.transformer.", ("text_encoder",), False),
            Prefix("conditioner.embedders.0.transformer.", ("text_encoder",), False),
            *(Prefix(f"{start}clip_l.transformer.", ("text_encoder",), False) for start in _COMFY),
            *(Prefix(f"{start}clip_g.transformer.", ("text_encoder_2",), False) for start in _COMFY),
            *(Prefix(f"{start}t5xxl.transformer.", _T5, False) for start in _COMFY),
        ),
        key=lambda prefix: -len(prefix.text),
    )
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a source module belongs: the component, its parts there, and how the source wrote it.

    Attributes:
        component: pipeline attribute name.
        parts: the base modules, several for a fused one.
        prefix: as the source has it, the container included.
        body: the rest of the source's module name.
        layout: the naming that knew it, a key of `LAYOUTS`.
    """

    component: str
    parts: tuple[Part, ...]
    prefix: str
    body: str
    layout: str


class Reading(NamedTuple):
    """A source module's name without its prefix.

    Attributes:
        prefix: as the source has it, the container included.
        body: the rest.
        components: that the prefix can mean; none for a bare name.
        flat: dots are written as underscores.
    """

    prefix: str
    body: str
    components: tuple[str, ...]
    flat: bool


_BY_TEXT = {prefix.text: prefix for prefix in PREFIXES}
_START = re.compile(f"({re.escape(_CONTAINER)})?({'|'.join(map(re.escape, _BY_TEXT))})?({re.escape(_CONTAINER)})?")


def read_stem(stem: str) -> Reading:
    """Cut the longest known prefix off a source module's name, and PEFT's container with it."""
    match = _START.match(stem)
    assert match is not None
    prefix = _BY_TEXT.get(match[2] or "", Prefix("", (), False))
    return Reading(stem[: match.end()], stem[match.end() :], prefix.components, prefix.flat)


@lru_cache(maxsize=256)
def _index(model: Model, layout: str, flat: bool) -> dict[str, tuple[Part, ...]]:
    """The names a layout gives a model's modules, and what they stand for."""
    names = LAYOUTS[layout](model)
    return {name.replace(".", "_"): parts for name, parts in names.items()} if flat else names


def locate(reading: Reading, architecture: Architecture, bare: tuple[str, ...]) -> Place | None:
    """Look a source module's name up in the base's own module lists.

    Args:
        bare: components to try for a name without a prefix.
    """
    for component in reading.components or bare:
        model = architecture.components.get(component)
        for layout in LAYOUTS if model else ():
            assert model is not None
            parts = _index(model, layout, reading.flat).get(reading.body)
            if parts is not None:
                return Place(component, parts, reading.prefix, reading.body, layout)
    return None
