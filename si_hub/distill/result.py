"""What a method makes, and what becomes of it: an adapter, and what is said of the written file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from si_hub.adapter import Adapter, BaseModel, Component
from si_hub.distill.pair.matching import Pair
from si_hub.distill.pair.model import ModelOnDisk
from si_hub.foreign import join_safely
from si_hub.report.text import reasons, size_text, tally
from si_hub.words import call, label

#: An adapter that leaves this much of the base's error has done next to nothing.
HARDLY = 0.95
#: Up to which error an adapter is what, in words; pictures of the miniature look like that.
_VERDICTS = (
    (0.02, "hardly to be told from it"), (0.1, "close to it"), (0.3, "like it, with other details"),
    (0.6, "halfway between base and it"), (HARDLY, "nearer to the base than to it"),
)  # fmt: skip


@dataclass(slots=True)
class Outcome:
    """What a method made.

    Attributes:
        components: the adapter's layers.
        error: relative error, what the method measures best: of the weight difference, or of the predicted noise.
        carried: share of each component's squared weight difference that the adapter holds.
        left_out: ``component.module`` → why it is not carried.
        fidelity, training: fields of the adapter's document.
        notes: what the user should know.
        branches: names of the layers' branches, where they have several.
        sizes: what half and twice the bytes would leave, (bytes, error), where the size was chosen here.
    """

    components: dict[str, Component]
    error: float
    carried: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    fidelity: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    branches: tuple[str, ...] = ()
    sizes: list[tuple[int, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Distilled:
    """A written distillation.

    Attributes:
        base, tuned: the models.
        path: the file written; ``size`` its bytes.
        method: how it was made; ``reason`` why this one, where it was not asked for.
        architecture: of the base.
        modules: number of layers by component.
        ranks: number of layers by rank; 0 are layers without a low-rank pair.
        error: the relative error that the document states.
        carried: share of the squared weight difference by component.
        left_out: what is not carried, and why.
        fidelity: as in the document.
        sha256, identity: of the written data section, of the adapter.
        notes: what the user should know.
        warnings: why the adapter may not be worth having.
        sizes: what half and twice the bytes would leave, (bytes, error), where the size was chosen.
    """

    base: Path
    tuned: tuple[Path, ...]
    path: Path
    size: int
    method: str
    reason: str
    architecture: str
    modules: dict[str, int]
    ranks: dict[int, int]
    error: float
    carried: dict[str, float]
    left_out: dict[str, str]
    fidelity: dict[str, Any]
    sha256: str
    identity: str
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    sizes: tuple[tuple[int, float], ...] = ()

    @property
    def verdict(self) -> str:
        """What the adapter is worth, in a sentence."""
        it = "the tuned model" if len(self.tuned) == 1 else "the tuned models"
        size = size_text(self.size)
        if "error" not in self.fidelity:
            return f"{size}: not run; {1 - self.error:.0%} of the weights' difference to {it} are in it"
        words = next((words for most, words in _VERDICTS if self.error <= most), "no better than the base")
        words = words.replace("to it", f"to {it}").replace("from it", f"from {it}").replace("like it", f"like {it}")
        return f"{size}: {words.replace('and it', f'and {it}')}; {self.error:.1%} of the base's error are left"

    @property
    def load(self) -> str:
        """The line of Python that loads the adapter into a pipeline of the base."""
        return f"pipe.load_styleinject_weights({self.path.as_posix()!r})"

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON data."""
        return {
            "verdict": self.verdict, "load": self.load,
            "base": str(self.base), "tuned": [str(path) for path in self.tuned], "path": str(self.path),
            "size": self.size, "method": self.method, "reason": self.reason, "architecture": self.architecture,
            "modules": self.modules, "ranks": {str(rank): count for rank, count in self.ranks.items()},
            "error": self.error, "carried": self.carried, "left_out": self.left_out, "fidelity": self.fidelity,
            "tensors_sha256": self.sha256, "identity": self.identity, "notes": list(self.notes),
            "warnings": list(self.warnings),
            "sizes": [{"size": size, "error": error} for size, error in self.sizes],
        }  # fmt: skip

    def headline(self) -> str:
        """Size and error in a line, and what the next sizes would leave where this one was chosen."""
        others = ", ".join(f"{size_text(size)} about {error:.4f}" for size, error in self.sizes)
        of = "the base's error" if "error" in self.fidelity else "the weights' difference"
        return f"{size_text(self.size)} leaves {self.error:.4f} of {of}" + (f"; {others}" if others else "")

    def as_text(self) -> str:
        """The result as lines for people."""
        modules = ", ".join(f"{name} {count}" for name, count in self.modules.items())
        carried = ", ".join(f"{name} {share:.1%}" for name, share in self.carried.items())
        of = (
            "of the base's, of predicted noise on held-out prompts"
            if "error" in self.fidelity
            else "of the weights' difference"
        )
        return join_safely(
            [
                self.headline(),
                str(self.path),
                f"  from     {', '.join(map(str, self.tuned))}, tuned from {self.base} ({self.architecture})",
                f"  method   {self.method}{f': {self.reason}' if self.reason else ''}",
                f"  modules  {sum(self.modules.values())} ({modules})",
                f"  rank     {tally(self.ranks) if len(self.ranks) < 6 else f'{min(self.ranks)} to {max(self.ranks)}'}",
                f"  size     {size_text(self.size)}",
                f"  error    {self.error:.4f} {of}",
                f"  carried  {carried}",
                f"  sha256   {self.sha256} (tensors)",
                f"  identity {self.identity}",
                *(f"  left out: {line}" for line in reasons(self.left_out)),
                *(f"  note     {note}" for note in self.notes),
                f"  verdict  {self.verdict}",
                f"  load     {self.load}",
            ]
        )


def distilled_adapter(pairs: list[Pair], outcome: Outcome, said: Mapping[str, Any] | None = None) -> Adapter:
    """An outcome as an adapter, with where it comes from.

    Args:
        pairs: base and tuned models.
        outcome: what a method made.
        said: what the document says besides: title, license, trigger words.
    """
    from si_hub import __version__

    base, tuned = pairs[0].base, [pair.tuned for pair in pairs]
    kind = base.architecture
    prediction = base.prediction_type or next((m.prediction_type for m in tuned if m.prediction_type), None)
    provenance: dict[str, Any] = {"family": "distilled", "tool": f"si-hub {__version__}", "error": outcome.error}
    if len(tuned) == 1:
        provenance["source"] = _source(tuned[0])
    else:
        provenance["sources"] = [_source(model) for model in tuned]
    about = {**(said or {}), "provenance": provenance, "fidelity": outcome.fidelity, "training": outcome.training}
    return Adapter(
        BaseModel(kind.name, base.repo_id, base.revision, prediction or kind.prediction_type),
        outcome.components,
        outcome.branches,
        about={key: value for key, value in about.items() if value},
    )


def _source(model: ModelOnDisk) -> dict[str, Any]:
    found = {"name": model.name, "repo_id": model.repo_id, "revision": model.revision,
             "size": model.path.stat().st_size if model.layout == "file" else None}  # fmt: skip
    return {key: value for key, value in found.items() if value is not None}


def doubts(fidelity: Mapping[str, Any]) -> list[str]:
    """Warnings about an adapter that measurements show to be no better than the base, as a whole or in a branch.

    Args:
        fidelity: of its document; without an error in it nothing was measured, and nothing is said.
    """
    branches: Mapping[str, float] = fidelity.get("branches", {})
    found = {"the adapter": fidelity.get("error", 0.0), **{f"the branch {name}": e for name, e in branches.items()}}
    way_out = f"take a larger {label('size')} or {label('rank')}"
    if not branches:
        way_out += f"; {call('curve', 'BASE', 'TUNED')} shows what each size leaves"
    return [
        f"{what} is {'worse than' if error > 1.0 else 'hardly better than'} the base, of whose error it leaves "
        f"{error:.4f}: {way_out}"
        for what, error in found.items()
        if error >= HARDLY
    ]
