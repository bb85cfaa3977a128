"""Base and tuned model side by side: which modules differ, and whether the two belong together at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from si_hub.architectures.model import Kind
from si_hub.distill.glance import identical, same_bytes
from si_hub.distill.models import Model
from si_hub.distill.weights import Weight, same, widened
from si_hub.errors import NotFinite
from si_hub.storage.sources import Comparison

if TYPE_CHECKING:
    import torch

#: A parameter of base and tuned model.
Sides = tuple[Weight, Weight]


@dataclass(frozen=True, slots=True)
class Change:
    """A module whose parameters differ.

    Attributes:
        component, module: where; ``module`` is the frozen path.
        kind: of the module, as in the architecture's table; a ``parameter`` is a bare one.
        shape: of the weight, ``[out, in, *kernel]``.
        weight, bias: the base's and the tuned model's; ``None`` where the module has none or they are equal.
    """

    component: str
    module: str
    kind: Kind
    shape: tuple[int, ...]
    weight: Sides | None
    bias: Sides | None

    def delta(self) -> torch.Tensor | None:
        """Tuned weight minus the base's, float32, shape ``shape``; ``None`` where they are equal."""
        return _difference(self.weight)

    def bias_delta(self) -> torch.Tensor | None:
        """Tuned bias minus the base's, float32; ``None`` where they are equal or there is none."""
        return _difference(self.bias)

    @property
    def count(self) -> int:
        """Numbers in the weight and bias that differ."""
        return sum(sides[0].count for sides in (self.weight, self.bias) if sides)


def _equal(sides: Sides, comparison: Comparison) -> bool:
    return same_bytes(*sides, comparison) or same(sides[0].torch(), sides[1].torch())


def _difference(sides: Sides | None) -> torch.Tensor | None:
    if sides is None:
        return None
    base, tuned = sides
    wide = widened(tuned)
    # A float32 weight is the file's own memory, a widened one is ours.
    # torch widens these on the way, without a second copy.
    less = base.torch() if base.dtype in {"F32", "F16", "BF16"} else widened(base)
    return wide - less if tuned.dtype == "F32" else wide.sub_(less)


def not_finite(name: str) -> NotFinite:
    """The error for a pair whose difference is no number."""
    return NotFinite(
        "the base or the tuned model has NaN or infinity in this module", key=name,
        hint="Training or a download damaged one of them; take another copy.",
    )  # fmt: skip


@dataclass(slots=True)
class Pair:
    """A base, a model tuned from it, and what differs.

    Attributes:
        changes: modules whose weight or bias differs, in the order of the components.
        unchanged: ``component.module`` of every other one.
        notes: what the user should know: a differing autoencoder, tensors left out, what was assumed.
    """

    base: Model
    tuned: Model
    changes: list[Change]
    unchanged: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def match(base: Model, tuned: Model, *, trust_order: bool = False) -> Pair:
    """Put two models together, module by module.

    What can be wrong is found from headers and a few samples first; only then is every number compared that the
    samples show no difference for.

    Args:
        base, tuned: the models.
        trust_order: whether signs that the two were swapped are ignored.

    Raises:
        WrongPair: another architecture, prediction type or ancestor, identical, or swapped.
    """
    from si_hub.distill.checks import check_headers, check_paths, check_samples, notes

    check_paths(base.path, tuned.path, trust_order=trust_order)
    check_headers(base, tuned, trust_order=trust_order)
    differing = check_samples(base, tuned)
    changes: list[Change] = []
    unchanged: list[str] = []
    with Comparison() as comparison:
        for change in shared(base, tuned):
            kept = _differing(change, differing, comparison)
            if kept is None:
                unchanged.append(f"{change.component}.{change.module}")
            else:
                changes.append(kept)
    if not changes:
        raise identical(tuned.path)
    return Pair(base, tuned, changes, unchanged, notes(base, tuned, changes))


def shared(base: Model, tuned: Model) -> Iterator[Change]:
    """Every module that both models have, with both sides' parameters, equal ones included."""
    for component, model in tuned.architecture.components.items():
        held, new = base.components[component], tuned.components[component]
        for path, module in model.modules.items():
            name = path if module.kind == "parameter" else f"{path}.weight"
            if name not in held:
                continue
            bias = (held[f"{path}.bias"], new[f"{path}.bias"]) if module.bias else None
            yield Change(component, path, module.kind, module.shape, (held[name], new[name]), bias)


def _differing(change: Change, sampled: set[tuple[str, str]], comparison: Comparison) -> Change | None:
    """The change without what is equal; ``None`` if all is."""
    assert change.weight is not None
    equal = (change.component, change.module) not in sampled and _equal(change.weight, comparison)
    bias = change.bias if change.bias and not _equal(change.bias, comparison) else None
    if equal and bias is None:
        return None
    return Change(change.component, change.module, change.kind, change.shape, None if equal else change.weight, bias)
