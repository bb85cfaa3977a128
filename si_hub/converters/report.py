"""What became of every tensor of the source: nothing is dropped silently."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from si_hub.converters.checking import Check

Fate = Literal["used", "folded", "dropped"]


@dataclass(frozen=True, slots=True)
class Use:
    """What became of one source tensor: its bytes are used, its value went into others, or it was dropped.

    Attributes:
        fate: which of them.
        reason: why it was dropped.
        harmless: it was dropped, and the adapter acts the same without it.
    """

    fate: Fate
    reason: str = ""
    harmless: bool = False


@dataclass(slots=True)
class Report:
    """Every tensor of the source and what became of it; notes on anything else that was decided.

    Attributes:
        uses: by source tensor name.
        left_out: header metadata that were not carried over, with the reason.
        notes: decisions a reader should know of.
        check: what recomputing every layer found, where that was asked for.
    """

    uses: dict[str, Use] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    check: Check | None = None

    @property
    def dropped(self) -> dict[str, str]:
        """Dropped tensors and why."""
        return {name: use.reason for name, use in self.uses.items() if use.fate == "dropped"}

    @property
    def lost(self) -> list[str]:
        """Dropped tensors without which the adapter is not what it was."""
        return [name for name, use in self.uses.items() if use.fate == "dropped" and not use.harmless]

    def drop(self, reasons: Mapping[str, str], *, harmless: bool = False) -> None:
        """Note tensors that were dropped, and why."""
        self.uses.update((name, Use("dropped", reason, harmless)) for name, reason in reasons.items())

    def count(self) -> dict[str, int]:
        """Number of tensors by fate."""
        counts = Counter(use.fate for use in self.uses.values())
        return {fate: counts[fate] for fate in ("used", "folded", "dropped")}

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON data: counts, and names only where something was left out."""
        return {"tensors": self.count(), "dropped": self.dropped, "metadata_left_out": self.left_out,
                "notes": self.notes, **({"check": self.check.as_dict()} if self.check else {})}  # fmt: skip
