"""What a file is when it is no adapter for the base model's layers: told by the names of its tensors.

Which base model a whole model is, is told by its shapes: `si_hub.architectures.checkpoint`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from si_hub.architectures.titles import LEAF, title_model
from si_hub.words import call

#: Names under which a pickle is opened, tensors only, because the user named that very file.
PICKLES = (".bin", ".ckpt", ".pt", ".pth")


@dataclass(frozen=True, slots=True)
class FileKind:
    """A kind of file that is no adapter for the base model's layers.

    Attributes:
        name: what it is, with its article.
        pattern: a regular expression that any one of its tensor names matches from the start.
        hint: what to do instead, written when it is asked for.
        share: the part of all names that must match; where it is 0, one name is enough, whatever its end.
        is_model: whether it is a whole model, or a component of one, that can be tuned as such.
    """

    name: str
    pattern: re.Pattern[str]
    hint: Callable[[], str] = str
    share: float = 0.0
    is_model: bool = False


def _kind(name: str, pattern: str, hint: str = "", share: float = 0.0) -> FileKind:
    return FileKind(name, re.compile(pattern), lambda: hint, share)


def _model(name: str, pattern: str, share: float, hint: Callable[[], str] = str) -> FileKind:
    return FileKind(name, re.compile(pattern), hint, share, is_model=True)


_FULL_MODEL = "a full model"


def _distill_it() -> str:
    return f"{call('distill', 'BASE', 'TUNED')} makes an adapter of a tuned checkpoint."


#: In the order in which they are tried.
FILE_KINDS: tuple[FileKind, ...] = (
    _kind("a ControlNet-LLLite", r"lllite_"),
    _kind("a LoRA of Stable Cascade in its own trainer's numbered layout", r"weights\.[0-9]+\.lora_(?:down|up)$",
          "Its layers have numbers, not names; save it anew with a trainer that names them."),
    _kind("a quantised LoRA of nunchaku", r".*\.(?:qweight|wscales|smooth_orig|wtscale)$|.*\.lora_(?:down|up)$",
          "Convert the LoRA it was made from."),
    _kind("an IP-Adapter", r"(?:image_proj|ip_adapter)\."),
    _kind("a LoRA in cloneofsimo's numbered layout", r"(?:unet|text_encoder)(?::[0-9]+)+:(?:up|down)$",
          "Its layers have numbers, not names; save it anew with a trainer that names them."),
    _kind("a hypernetwork", r"(?:320|640|768|1024|1280|2048)\.\d\.linear"),
    _kind("a ControlNet", r"control_model\.|controlnet_|input_hint_block|zero_convs\."),
    _kind("a T2I-Adapter", r"adapter\.(?:body|conv_in)\."),
    _kind("a textual inversion alone", r"(?:emb_params|string_to_param\.[^.]+|clip_[lg])$|<[^<>.]+>$",
          "Load it with load_textual_inversion.", 0.5),
    _kind("a motion module", r".*motion_modules\."),
    _model("a full checkpoint", r"model\.diffusion_model\..+\.(?:weight|bias)$|first_stage_model\.|cond_stage_model\.",
           0.5, _distill_it),
    _model("a VAE", r"(?:encoder|decoder)\.(?:down|up|mid|conv_|norm_out|mid_block|down_blocks|up_blocks)"
           r"|(?:post_)?quant_conv\.", 0.5),
    _kind("an upscaler", r"(?:params_ema|params)\.|model\.\d+\.(?:weight|bias|sub\.)|conv_first\.|body\.\d+\.rdb"
          r"|RRDB_trunk\.", "", 0.3),
    _model("a text encoder", r"(?:text_model|encoder\.block|shared|transformer\.resblocks|(?:model\.)?language_model"
           r"|(?:model\.)?layers\.[0-9]+\.(?:self_attn|mlp)\.[a-z]+_proj)\b.*\.?weight$", 0.3, _distill_it),
    _model(_FULL_MODEL, r"(?:down_blocks|up_blocks|mid_block|input_blocks|transformer_blocks|double_blocks"
           r"|single_blocks|joint_blocks|single_transformer_blocks)\..*\.(?:weight|bias|scale)$", 0.5, _distill_it),
)  # fmt: skip

_SOME_MODEL = _model("a model, or a part of one", "", 0, _distill_it)
#: The part of all names that must be a known model's, or of a whole model of any kind.
_NEARLY_ALL = 0.9

#: Whether any kind for which one name is enough matches: one look at a name instead of one for each.
_TELLING = re.compile("|".join(kind.pattern.pattern for kind in FILE_KINDS if not kind.share))


def recognise_kind(names: Collection[str], plain: Sequence[str]) -> tuple[FileKind, str] | None:
    """The kind of file these tensor names are, and the first name that says so; ``None`` if it may be an adapter.

    Args:
        names: all of them.
        plain: those without an adapter's suffix; the others never speak for a whole model, whatever they begin with.
    """
    telling = [name for name in names if _TELLING.match(name)]
    for kind in FILE_KINDS:
        hits = [name for name in (plain if kind.share else telling) if kind.pattern.match(name)]
        if hits and len(hits) >= kind.share * len(names):
            return _by_its_title(kind, plain), hits[0]
    if not plain or len(plain) < _NEARLY_ALL * len(names):
        return None
    if title_model(plain):
        return _by_its_title(_SOME_MODEL, plain), plain[0]
    hits = [name for name in plain if LEAF.search(name)]
    return (_SOME_MODEL, hits[0]) if len(hits) >= _NEARLY_ALL * len(names) else None


def _by_its_title(kind: FileKind, names: Sequence[str]) -> FileKind:
    """A whole model under the name it is known by."""
    title = title_model(names) if kind.name in {_FULL_MODEL, _SOME_MODEL.name} else None
    return replace(kind, name=f"a whole model ({title})") if title else kind


def may_be_pickle(path: Path) -> bool:
    """Whether a file that is no safetensors is to be tried as a pickle: it is named like one, and not empty."""
    return path.suffix in PICKLES and path.stat().st_size > 0
