"""Every family of adapter files that si-hub knows, in the order they are tried, as data.

A family is recognised module by module, by the slots its tensors fill (`SUFFIXES`): one file may mix several.
Files that are no adapter at all are recognised before anything else (`si_hub.architectures.recognise`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from si_hub.architectures.recognise import FileKind, recognise_kind
from si_hub.architectures.titles import title_model
from si_hub.converters.families import (
    adalora,
    boft_peft,
    dora,
    embedding_lora,
    full,
    glora,
    ia3_lycoris,
    ia3_peft,
    ln_tuning,
    locon_tucker,
    loha,
    lokr,
    lora,
    lora_bias,
    norm,
    oft,
    oft_peft,
    reshaped,
    routed,
    set_weight,
    sparse,
    styleinject_peft,
    trainable_tokens,
)
from si_hub.converters.families.contract import Family
from si_hub.converters.families.peft_kinds import FAMILIES_OF_PEFT
from si_hub.converters.naming.suffixes import Suffixes

_MODULES = (
    lora, lora_bias, full, norm, locon_tucker, sparse, dora, loha, lokr, glora, ia3_lycoris, ia3_peft, oft, oft_peft,
    boft_peft, embedding_lora, reshaped, set_weight, adalora, ln_tuning, trainable_tokens,
    routed, styleinject_peft,
)  # fmt: skip

FAMILIES: tuple[Family, ...] = (*(module.FAMILY for module in _MODULES), *FAMILIES_OF_PEFT)

SUFFIXES = Suffixes(family.suffixes for family in FAMILIES)


def classify(slots: Collection[str]) -> Family | None:
    """The family that claims a module with these slots."""
    return next((family for family in FAMILIES if family.when.objection(slots) is None), None)


def nearest(slots: Collection[str]) -> tuple[Family, str]:
    """The family that shares most slots with an unclaimed module, and its objection."""

    def count_shared(family: Family) -> int:
        return len((family.when.has_all | family.when.has_any) & set(slots))

    family = max(FAMILIES, key=count_shared)
    return family, family.when.objection(slots) or "claims it"


#: Slots whose suffix a whole model has as well.
PLAIN = {"ia3_weight", "set_weight"}


def plain_names(names: Iterable[str]) -> list[str]:
    """Names that do not end as an adapter's do, so that they may be a whole model's."""
    return [name for name in names if (key := SUFFIXES.split(name)) is None or key.slot in PLAIN]


def rejection(names: Iterable[str]) -> tuple[FileKind, str] | None:
    """The kind of file these tensor names are, if no converter is for it, and the first name that says so."""
    names = list(names)
    plain = plain_names(names)
    # A model's own names may end as some adapter's do: `mlp.down.weight`.
    if 2 * len(plain) > len(names) and title_model(names):
        plain = names
    return recognise_kind(names, plain)
