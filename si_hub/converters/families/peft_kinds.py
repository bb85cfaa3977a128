"""PEFT's other kinds of adapter, as a table: those whose merge is a change of one module's weight or bias."""

from __future__ import annotations

import math
from dataclasses import dataclass

from si_hub.converters.dense import BaseModule, Difference
from si_hub.converters.families.by_peft import differ_by_peft
from si_hub.converters.families.contract import (
    Differ,
    Family,
    Fits,
    Slots,
    SourceModule,
    Target,
    always,
    never,
)
from si_hub.converters.families.shapes import Size, check_matrix
from si_hub.converters.naming.suffixes import Suffix
from si_hub.errors import UnsupportedFamily


@dataclass(frozen=True, slots=True)
class _Kind:
    """One of PEFT's kinds.

    Attributes:
        name: PEFT's.
        title: for people.
        suffixes: of the tensors that each module has.
        may: of those that some have.
        shared: names of tensors that all modules share.
        rows, columns: a suffix and the axes of its tensor whose product is the module's output or input size.
        changes: ``weight``, ``bias`` or ``both``.
        needs_base: the change is a function of the base's own weight.
        drawn: suffixes of the tensors that PEFT draws by chance where they are not saved.
        by_chance: settings with which the change is drawn by chance, or follows from other layers.
        sizes: settings that are sizes and nothing else: a name, a suffix and the axis of its tensor, which says it,
            whatever patterns there are.
    """

    name: str
    title: str
    suffixes: str
    may: str = ""
    shared: str = ""
    rows: tuple[str, tuple[int, ...]] | None = None
    columns: tuple[str, tuple[int, ...]] | None = None
    changes: str = "weight"
    needs_base: bool = False
    drawn: str = ""
    by_chance: str = ""
    sizes: tuple[tuple[str, str, int], ...] = ()


_KINDS = (
    _Kind("HRA", "HRA", ".hra_u", columns=(".hra_u", (0,)), needs_base=True),
    _Kind("HIRA", "HiRA", "", ".hira_A .hira_B .hira_embedding_A .hira_embedding_B",
          rows=(".hira_B", (0,)), columns=(".hira_A", (1, 2, 3)), needs_base=True,
          sizes=(("r", ".hira_A", 0), ("r", ".hira_embedding_A", 0))),
    _Kind("FOURIERFT", "FourierFT", ".fourierft_spectrum"),
    _Kind("WAVEFT", "WaveFT", ".waveft_spectrum", by_chance="proportional_parameters"),
    _Kind("C3A", "C3A", ".c3a_kernel", rows=(".c3a_kernel", (0, 2)), columns=(".c3a_kernel", (1, 2))),
    _Kind("GRALORA", "GraLoRA", ".gralora_A .gralora_B", ".gralora_A_general.weight .gralora_B_general.weight",
          rows=(".gralora_B", (0, 2)), columns=(".gralora_A", (0, 1))),
    _Kind("DELORA", "DeLoRA", ".delora_A .delora_B .delora_lambda .delora_w_norm",
          rows=(".delora_B", (0,)), columns=(".delora_A", (1,))),
    _Kind("MISS", "MiSS", ".miss_block", needs_base=True),
    _Kind("SHIRA", "SHiRA", ".shira_weight .shira_indices"),
    _Kind("RANDLORA", "RandLora", ".randlora_lambda .randlora_gamma", drawn=".randlora_A .randlora_B"),
    _Kind("VERA", "VeRA", ".vera_lambda_b .vera_lambda_d", shared="base_model.vera_A base_model.vera_B",
          rows=(".vera_lambda_b", (0,))),
    _Kind("PVERA", "PVeRA", ".pvera_lambda_b .pvera_lambda_d", shared="base_model.pvera_A base_model.pvera_B",
          rows=(".pvera_lambda_b", (0,)), by_chance="sample_at_inference"),
    _Kind("VBLORA", "VB-LoRA", "",
          " ".join(f".vblora_logits_{side}{end}" for side in "AB" for end in ("", "_topk_indices", "_topk_weights")),
          shared="base_model.vblora_vector_bank"),
    _Kind("GLORA", "GLoRA of PEFT", "",
          " ".join(f".glora_{path}.{end}" for path in "ABCDE" for end in ("Xd", "Xu", "X", "zeros")),
          changes="both", needs_base=True),
    _Kind("ROAD", "RoAd", ".road_theta .road_alpha", changes="both", needs_base=True),
    _Kind("BEFT", "BEFT", ".beft_bias", rows=(".beft_bias", (1,)), changes="bias"),
    _Kind("DEFT", "DEFT", ".deft_P .deft_R", rows=(".deft_P", (0,)), columns=(".deft_R", (1,)), needs_base=True),
    _Kind("PEANUT", "PEANuT", ".peanut_A.weight .peanut_B.weight", needs_base=True),
    _Kind("SUPERTUNING", "SuperTuning", ".supertuning_values .supertuning_indices",
          ".supertuning_lora_A.weight .supertuning_lora_B.weight", needs_base=True),
    _Kind("OSF", "OSF", ".osf_svd_params.U_low .osf_svd_params.S_low .osf_svd_params.V_low",
          rows=(".osf_svd_params.U_low", (0,)), columns=(".osf_svd_params.V_low", (1,)), needs_base=True),
)  # fmt: skip

#: Kinds that are no change of a weight, or not one that the file says: name, title, suffixes, shared names, reason.
_REFUSED = (
    ("lily", "Lily", ".lily_A.weight .lily_B.weight .lily_router.weight", "",
     "it chooses among its factors by the layer's inputs, which no change of a weight does"),
    ("frod", "FRoD", ".frod_lambda_l .frod_lambda_s_values", "base_model.frod_V",
     "its bases are shared by layers that the file does not name"),
    ("unilora", "Uni-LoRA", "", "base_model.unilora_theta_d",
     "which of its numbers a layer has is drawn by chance over all layers that were trained"),
    ("tinylora", "TinyLoRA", ".tinylora_A .tinylora_B .tinylora_P", "base_model.tinylora_v",
     "which of its vectors a layer has follows from the order of all layers that were trained"),
    ("adamss", "AdaMSS", ".adamss_A .adamss_B", "", "its subspaces are clusters of the base's weight, found by chance"),
    ("psoft", "PSOFT", ".psoft_R.weight .psoft_R.vector_a .psoft_R.vector_b", "",
     "its axes are singular vectors of the base's weight, which are not saved"),
)  # fmt: skip


def name_slot(suffix: str) -> str:
    """The slot of one of PEFT's tensors."""
    return suffix.removeprefix("base_model").removesuffix(".weight").strip(".").replace(".", "_").lower()


def _measure(module: SourceModule, said: tuple[str, tuple[int, ...]] | None) -> Size | None:
    """The size that some axes of a tensor say, where there is that tensor."""
    tensor = module.tensors.get(name_slot(said[0])) if said else None
    if said is None or tensor is None:
        return None
    sizes = [tensor.shape[axis] for axis in said[1] if axis < len(tensor.shape)]
    return name_slot(said[0]), math.prod(sizes)


def _fits(kind: _Kind) -> Fits:
    def check(module: SourceModule, target: Target) -> None:
        check_matrix(module, target, _measure(module, kind.rows), _measure(module, kind.columns))

    return check


def _differ(kind: _Kind) -> Differ:
    names: dict[str, tuple[str, ...]] = {
        name_slot(text): (text,) for text in f"{kind.suffixes} {kind.may} {kind.shared}".split()
    }
    for text in kind.drawn.split():
        # Each layer has them, and PEFT saves them beside the layers too.
        names[name_slot(text)] = (text, f"base_model{text}")

    def differ(module: SourceModule, target: Target, own: BaseModule | None) -> Difference:
        _check_chance(kind, module)
        sizes = {
            name: tensor.shape[axis]
            for name, suffix, axis in kind.sizes
            if (tensor := module.tensors.get(name_slot(suffix))) is not None
        }
        shared = frozenset(f"{kind.shared} {kind.drawn}".split())
        base = own if kind.needs_base else None
        return differ_by_peft(module, target, base, kind.name, names, changes=kind.changes, shared=shared, sizes=sizes)

    return differ


def _check_chance(kind: _Kind, module: SourceModule) -> None:
    """Raise UnsupportedFamily where the file alone does not say what a module does."""
    missing = [slot for slot in _slots(f"{kind.drawn} {kind.shared}").split() if slot not in module.tensors]
    settings = module.config or {}
    if missing or any(settings.get(name) for name in kind.by_chance.split()):
        raise UnsupportedFamily(
            f"is {kind.title} with numbers that are drawn by chance and not saved", file=module.file, key=module.stem,
            expected=f"{', '.join(missing)} in the file" if missing else "nothing that is drawn, or of other layers",
            found=", ".join(sorted(module.tensors)), hint="Train it with save_projection, and save it anew."
            if missing else None,
        )  # fmt: skip


def _spell(texts: str, shared: str, *, named: bool) -> dict[str, Suffix]:
    held = {name_slot(text): text for text in texts.split()}
    held |= {name_slot(text): text.removeprefix("base_model") for text in shared.split()}
    return {text: Suffix(slot, "peft", named) for slot, text in held.items()}


def _slots(texts: str) -> str:
    return " ".join(map(name_slot, texts.split()))


def _family(kind: _Kind) -> Family:
    may = _slots(f"{kind.may} {kind.drawn} {kind.shared}")
    return Family(
        f"{kind.name.lower()}-peft", kind.title,
        Slots.of(_slots(kind.suffixes), may=may) if kind.suffixes else Slots.of(has_any=may),
        _fits(kind), _differ(kind),
        _spell(f"{kind.suffixes} {kind.may} {kind.drawn}", kind.shared, named=True),
        needs_base=always if kind.needs_base else never,
    )  # fmt: skip


FAMILIES_OF_PEFT = (
    *map(_family, _KINDS),
    *(
        Family(
            f"{name}-peft", title, Slots.of(has_any=_slots(f"{suffixes} {shared}")), lambda module, target: None,
            suffixes=_spell(suffixes, shared, named=False), reason=reason,
        )
        for name, title, suffixes, shared, reason in _REFUSED
    ),
)  # fmt: skip

#: Slots of tensors that all modules share, and those of a module that has its share.
SHARED_SLOTS = {
    slot: frozenset(_slots(f"{kind.suffixes} {kind.may}").split())
    for kind in _KINDS
    for slot in _slots(f"{kind.drawn} {kind.shared}").split()
}
