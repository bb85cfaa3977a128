"""Every family of adapter files that si-hub knows, in the order they are tried, as data.

A family is recognised module by module, by the slots its tensors fill (`si_hub.converters.keys.SUFFIXES`): one file
may mix several. Files that are no adapter at all are recognised by their names, before anything else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from si_hub.converters.deltas import lower_deltas
from si_hub.converters.keys import split
from si_hub.converters.lora import lower_lora
from si_hub.converters.modules import Lowered, SourceModule, Target

Lower = Callable[[SourceModule, Target], Lowered]


@dataclass(frozen=True, slots=True)
class Slots:
    """A condition on the slots of one module.

    Attributes:
        has_all: each of them is there.
        has_any: at least one of them is, where any is named.
        may: nothing outside these, ``has_all`` and ``has_any`` is there.
    """

    has_all: frozenset[str] = frozenset()
    has_any: frozenset[str] = frozenset()
    may: frozenset[str] = frozenset()

    def objection(self, slots: Collection[str]) -> str | None:
        """Why a module with these slots is not of the family; ``None`` if it is."""
        held = set(slots)
        if missing := self.has_all - held:
            return f"lacks {', '.join(sorted(missing))}"
        if self.has_any and not self.has_any & held:
            return f"lacks any of {', '.join(sorted(self.has_any))}"
        if extra := held - self.has_all - self.has_any - self.may:
            return f"has {', '.join(sorted(extra))} besides"
        return None


def _slots(has_all: str = "", has_any: str = "", may: str = "") -> Slots:
    return Slots(frozenset(has_all.split()), frozenset(has_any.split()), frozenset(may.split()))


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of adapter.

    Attributes:
        name: stable, for scripts.
        title: for people.
        when: the slots a module of it has.
        lower: gives the format's leaves; ``None`` where the family is known and not converted.
        reason: why not.
    """

    name: str
    title: str
    when: Slots
    lower: Lower | None = None
    reason: str = ""


_NOT_YET = "this version converts LoRA, LoCon, full and norm differences"
_NEEDS_BASE = "it is a function of the base model's own weights, which this version does not read"
_DELTAS = "diff diff_b w_norm b_norm"
_LOKR = "lokr_w1 lokr_w1_a lokr_w1_b lokr_w2 lokr_w2_a lokr_w2_b lokr_t2"
_HADA = "hada_w1_a hada_w1_b hada_w2_a hada_w2_b"
_OFT = "oft_blocks oft_blocks_0 oft_blocks_1 oft_blocks_2 oft_blocks_3 oft_diag"
_SPARSE = "sparse_indices sparse_values sparse_size"

FAMILIES: tuple[Family, ...] = (
    Family("lora", "LoRA or LoCon", _slots("down up", may="alpha diff_b"), lower_lora),
    Family("lora-bias", "LoRA with a bias", _slots("down up up_bias", may="alpha"), lower_lora),
    Family("full", "full difference", _slots(has_any="diff diff_b", may="alpha"), lower_deltas),
    Family("norm", "norm difference", _slots(has_any="w_norm b_norm"), lower_deltas),
    Family("locon-tucker", "LoCon with a Tucker core", _slots("down mid up", may="alpha diff_b"), reason=_NOT_YET),
    Family("sparse", "LoCon with a sparse residual", _slots(_SPARSE, may="down mid up alpha diff diff_b"),
           reason=_NOT_YET),
    Family("dora", "DoRA", _slots("magnitude", may=f"down up mid alpha {_HADA} hada_t1 hada_t2 {_LOKR} {_DELTAS}"),
           reason=_NEEDS_BASE),
    Family("loha", "LoHa", _slots(_HADA, may="hada_t1 hada_t2 alpha diff_b"), reason=_NOT_YET),
    Family("lokr", "LoKr", _slots(has_any=_LOKR, may="alpha diff_b"), reason=_NOT_YET),
    Family("glora", "GLoRA", _slots("a1 a2 b1 b2", may="alpha bm"), reason=_NEEDS_BASE),
    Family("ia3-lycoris", "(IA)³ of LyCORIS", _slots("ia3_weight on_input"), reason=_NOT_YET),
    Family("ia3-peft", "(IA)³ of PEFT", _slots("ia3"), reason=_NOT_YET),
    Family("oft", "OFT or BOFT of LyCORIS or kohya", _slots(has_any=_OFT, may="rescale alpha"), reason=_NEEDS_BASE),
    Family("oft-peft", "OFT of PEFT", _slots("oft_r"), reason=_NEEDS_BASE),
    Family("boft-peft", "BOFT of PEFT", _slots("boft_r", may="boft_s"), reason=_NEEDS_BASE),
    Family("embedding-lora", "LoRA of an embedding", _slots("embedding_down embedding_up", may="alpha"),
           reason=_NOT_YET),
    Family("set", "control LoRA that replaces weights",
           _slots(has_any="set_weight reshape", may="down up alpha diff_b"), reason=_NEEDS_BASE),
)  # fmt: skip


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
    plain = [name for name in names if (key := split(name)) is None or key.slot in _PLAIN]
    for reject in REJECTS:
        hits = [name for name in (plain if reject.share else telling) if reject.pattern.match(name)]
        if hits and len(hits) >= reject.share * len(names):
            return reject, hits[0]
    return None
