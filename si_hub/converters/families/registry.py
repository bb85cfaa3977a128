"""Every family of adapter files that si-hub knows, in the order they are tried, as data.

A family is recognised module by module, by the slots its tensors fill (`SUFFIXES`): one file
may mix several. Files that are no adapter at all are recognised by their names, before anything else.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from si_hub.converters.families import (
    boft_peft,
    dora,
    embedding_lora,
    full,
    glora,
    ia3_lycoris,
    ia3_peft,
    locon_tucker,
    loha,
    lokr,
    lora,
    lora_bias,
    norm,
    oft,
    oft_peft,
    set_weight,
    sparse,
)
from si_hub.converters.families.contract import Family
from si_hub.converters.naming.suffixes import Suffixes

_MODULES = (
    lora, lora_bias, full, norm, locon_tucker, sparse, dora, loha, lokr, glora, ia3_lycoris, ia3_peft, oft, oft_peft,
    boft_peft, embedding_lora, set_weight,
)  # fmt: skip

FAMILIES: tuple[Family, ...] = tuple(module.FAMILY for module in _MODULES)

SUFFIXES = Suffixes(family.suffixes for family in FAMILIES)


def classify(slots: Collection[str]) -> Family | None:
    """The family that claims a module with these slots."""
    return next((family for family in FAMILIES if family.when.objection(slots) is None), None)


def nearest(slots: Collection[str]) -> tuple[Family, str]:
    """The family that shares most slots with an unclaimed module, and its objection."""

    def shared(family: Family) -> int:
        return len((family.when.has_all | family.when.has_any) & set(slots))

    family = max(FAMILIES, key=shared)
    return family, family.when.objection(slots) or "claims it"


@dataclass(frozen=True, slots=True)
class Reject:
    """A kind of file that is no adapter for the base model's layers.

    Attributes:
        name: what it is, with its article.
        pattern: a regular expression that any one of its tensor names matches from the start.
        hint: what to do instead.
        share: the part of all names that must match.
    """

    name: str
    pattern: re.Pattern[str]
    hint: str = ""
    share: float = field(default=0.0)


def _reject(name: str, pattern: str, hint: str = "", share: float = 0.0) -> Reject:
    return Reject(name, re.compile(pattern), hint, share)


_DISTILL = "`si-hub distill` makes an adapter of a tuned checkpoint."

#: Slots whose suffix a whole model has as well.
_PLAIN = {"ia3_weight", "set_weight"}

REJECTS: tuple[Reject, ...] = (
    _reject("a ControlNet-LLLite", r"lllite_"),
    _reject("a quantised LoRA of nunchaku", r".*\.(?:qweight|wscales|smooth_orig|wtscale)$|.*\.lora_(?:down|up)$",
            "Convert the LoRA it was made from."),
    _reject("an IP-Adapter", r"(?:image_proj|ip_adapter)\."),
    _reject("a LoRA in cloneofsimo's numbered layout", r"(?:unet|text_encoder)(?::[0-9]+)+:(?:up|down)$",
            "Its layers have numbers, not names; save it anew with a trainer that names them."),
    _reject("a hypernetwork", r"(?:320|640|768|1024|1280|2048)\.\d\.linear"),
    _reject("a ControlNet", r"control_model\.|controlnet_|input_hint_block|zero_convs\."),
    _reject("a T2I-Adapter", r"adapter\.(?:body|conv_in)\."),
    _reject("a textual inversion alone", r"(?:emb_params|string_to_param\.[^.]+|clip_[lg])$|<[^<>.]+>$",
            "Load it with load_textual_inversion.", 0.5),
    _reject("a motion module", r".*motion_modules\."),
    _reject("a full checkpoint", r"model\.diffusion_model\..+\.(?:weight|bias)$|first_stage_model\.|cond_stage_model\.",
            _DISTILL, 0.5),
    _reject("a VAE", r"(?:encoder|decoder)\.(?:down|up|mid|conv_|norm_out|mid_block|down_blocks|up_blocks)"
            r"|(?:post_)?quant_conv\.", "", 0.5),
    _reject("an upscaler", r"(?:params_ema|params)\.|model\.\d+\.(?:weight|bias|sub\.)|conv_first\.|body\.\d+\.rdb"
            r"|RRDB_trunk\.", "", 0.3),
    _reject("a text encoder", r"(?:text_model|encoder\.block|shared|transformer\.resblocks)\b.*\.?weight$",
            _DISTILL, 0.3),
    _reject("a full model", r"(?:down_blocks|up_blocks|mid_block|input_blocks|transformer_blocks|double_blocks"
            r"|single_blocks|joint_blocks|single_transformer_blocks)\..*\.(?:weight|bias|scale)$", _DISTILL, 0.5),
)  # fmt: skip


#: Whether any reject for which one name is enough matches: one look at a name instead of one for each.
_TELLING = re.compile("|".join(reject.pattern.pattern for reject in REJECTS if not reject.share))


def rejection(names: Iterable[str]) -> tuple[Reject, str] | None:
    """The kind of file these tensor names are, if no converter is for it, and the first name that says so.

    Names with an adapter's suffix never speak for a whole model, whatever they begin with.
    """
    names = list(names)
    telling = [name for name in names if _TELLING.match(name)]
    plain = [name for name in names if (key := SUFFIXES.split(name)) is None or key.slot in _PLAIN]
    for reject in REJECTS:
        hits = [name for name in (plain if reject.share else telling) if reject.pattern.match(name)]
        if hits and len(hits) >= reject.share * len(names):
            return reject, hits[0]
    return None
