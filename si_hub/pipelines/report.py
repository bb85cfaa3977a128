"""What a load did: which layers of the adapter found their module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from si_hub.foreign import join_safely, make_safe

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class ComponentReport:
    """One component's part of a load.

    Attributes:
        matched: layers that act on their module now, and embeddings that have their token.
        missing: layers whose module the component does not have.
        unexpected: entries the component has no use for, with the reason: a module of another shape, an embedding
            where there is no tokenizer.
    """

    matched: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()

    def __add__(self, other: ComponentReport) -> ComponentReport:
        return ComponentReport(
            self.matched + other.matched, self.missing + other.missing, self.unexpected + other.unexpected
        )


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a load did, by component; ``print(report)`` shows it, ``bool(report)`` is always true.

    Attributes:
        adapter_name: the name it goes by from here on.
        source: where it came from.
        base: architecture and, where known, repository that the adapter is made for.
        components: by the pipeline's attribute name.
        notes: how it came about, where that is worth knowing: that it was converted in memory.
    """

    adapter_name: str
    source: str
    base: str
    components: Mapping[str, ComponentReport]
    notes: tuple[str, ...] = ()

    @property
    def matched(self) -> tuple[str, ...]:
        """``component.layer`` of every match."""
        return self._gather("matched")

    @property
    def missing(self) -> tuple[str, ...]:
        """``component.layer`` of everything whose module the pipeline does not have."""
        return self._gather("missing")

    @property
    def unexpected(self) -> tuple[str, ...]:
        """``component.layer`` and reason of everything that did not fit."""
        return self._gather("unexpected")

    def _gather(self, field: str) -> tuple[str, ...]:
        return tuple(f"{name}.{key}" for name, part in self.components.items() for key in getattr(part, field))

    def __str__(self) -> str:
        source = make_safe(self.source, 400, keep_end=True)
        lines = [f"{make_safe(self.adapter_name)}: {len(self.matched)} layers of {source} (for {make_safe(self.base)})"]
        lines += [f"  note: {note}" for note in self.notes]
        for name, part in self.components.items():
            counts = {label: len(getattr(part, label)) for label in ("matched", "missing", "unexpected")}
            lines.append(f"  {make_safe(name)}: {', '.join(f'{count} {label}' for label, count in counts.items())}")
            for label, keys in (("missing", part.missing), ("unexpected", part.unexpected)):
                lines += [f"    {label}: {make_safe(key, 300, keep_end=True)}" for key in keys[:_SHOWN]]
                lines += [f"    … and {len(keys) - _SHOWN} more"] if len(keys) > _SHOWN else []
        return join_safely(lines)
