"""Base and tuned model side by side: which modules differ, and whether the two belong together at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from si_hub.distill.pair.change import BaseAndTuned, Change, modules_of_both
from si_hub.distill.pair.checkpoint import check_singles
from si_hub.distill.pair.kinship import identical, same_bytes
from si_hub.distill.pair.model import ModelOnDisk
from si_hub.distill.pair.opening import check_there, open_base, open_model
from si_hub.distill.pair.refusals import check_headers, check_paths, check_samples, notes
from si_hub.distill.pair.weights import same_numbers
from si_hub.storage.sources import Comparison


def _equal(sides: BaseAndTuned, comparison: Comparison) -> bool:
    return same_bytes(*sides, comparison) or same_numbers(sides[0].torch(), sides[1].torch())


@dataclass(slots=True)
class Pair:
    """A base, a model tuned from it, and what differs.

    Attributes:
        changes: modules whose weight or bias differs, in the order of the components.
        unchanged: ``component.module`` of every other one.
        notes: what the user should know: a differing autoencoder, tensors left out, what was assumed.
    """

    base: ModelOnDisk
    tuned: ModelOnDisk
    changes: list[Change]
    unchanged: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def match(base: ModelOnDisk, tuned: ModelOnDisk, *, trust_order: bool = False) -> Pair:
    """Put two models together, module by module.

    What can be wrong is found from headers and a few samples first; only then is every number compared that the
    samples show no difference for.

    Args:
        base, tuned: the models.
        trust_order: whether signs that the two were swapped are ignored.

    Raises:
        WrongPair: another architecture, prediction type or ancestor, identical, or swapped.
    """
    check_paths(base.path, tuned.path, trust_order=trust_order)
    check_headers(base, tuned, trust_order=trust_order)
    differing = check_samples(base, tuned)
    changes: list[Change] = []
    unchanged: list[str] = []
    with Comparison() as comparison:
        for change in modules_of_both(base, tuned):
            kept = _drop_equal(change, differing, comparison)
            if kept is None:
                unchanged.append(change.name)
            else:
                changes.append(kept)
    if not changes:
        raise identical(tuned.path)
    return Pair(base, tuned, changes, unchanged, notes(base, tuned, changes))


def _drop_equal(change: Change, sampled: set[tuple[str, str]], comparison: Comparison) -> Change | None:
    """The change without what is equal; ``None`` if all is."""
    assert change.weight is not None
    equal = change.key not in sampled and _equal(change.weight, comparison)
    bias = change.bias if change.bias and not _equal(change.bias, comparison) else None
    if equal and bias is None:
        return None
    return Change(change.component, change.module, change.kind, change.shape, None if equal else change.weight, bias)


def match_all(
    base: str | Path, tuned: Sequence[str | Path], *, trust_order: bool = False, config: str | Path | None = None
) -> list[Pair]:
    """The base with each of the tuned models; a wrong pair is found before anything is done for the next.

    Args:
        base, tuned: paths, or repositories in the local cache.
        trust_order: as `match` has it.
        config: as `si_hub.distill.pair.opening.open_base` has it.
    """
    for path in (base, *tuned):
        check_there(path)
    for one in tuned:
        check_paths(base, one, trust_order=trust_order)
    if Path(base).is_file():
        check_singles(Path(base), [path for path in map(Path, tuned) if path.is_file()])
    start = open_base(base, tuned, config)
    return [match(start, open_model(one, base=start), trust_order=trust_order) for one in tuned]
