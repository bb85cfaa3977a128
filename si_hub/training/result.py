"""What a training gave, for people and for scripts, and what its file says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from si_hub.foreign import join_safely
from si_hub.report.text import size_text
from si_hub.training.loop import Course, round_losses
from si_hub.training.settings import TrainSettings


@dataclass(frozen=True, slots=True)
class Trained:
    """A training that is done.

    Attributes:
        path, size: the file.
        base: what was trained on.
        architecture: its name.
        method, rank, rate, steps: how.
        pictures: by style, or under no name.
        resolution: side of a square picture.
        modules, numbers: what is adapted, and how many numbers that are.
        kept: the step whose moving average was kept.
        error: of the prediction, divided by the base's.
        unseen: whether that was measured on pictures that nothing learned from.
        loss: mean of the last steps.
        identity: of the adapter; empty for a LoRA.
        notes: what the user should know.
        report: files that were written besides.
    """

    path: Path
    size: int
    base: Path
    architecture: str
    method: str
    rank: int
    rate: float
    steps: int
    pictures: dict[str, int]
    resolution: int
    modules: int
    numbers: int
    kept: int
    error: float
    unseen: bool
    loss: float
    identity: str
    notes: tuple[str, ...] = ()
    report: tuple[Path, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON data."""
        found = asdict(self)
        return {
            **found, "path": str(self.path), "base": str(self.base), "notes": list(self.notes),
            "report": list(map(str, self.report)),
        }  # fmt: skip

    def as_text(self) -> str:
        """The result as lines for people."""
        on = "on unseen pictures" if self.unseen else "on its own pictures, with other noise"
        return join_safely(
            [
                str(self.path),
                f"  base     {self.base} ({self.architecture})",
                f"  pictures {count_text(self.pictures)}, at {self.resolution}",
                f"  method   {self.method}, rank {self.rank}, {self.modules} modules, {self.numbers:,} numbers",
                f"  steps    {self.steps}, rate {self.rate:g}, kept that of step {self.kept}",
                f"  loss     {self.loss:.4f}",
                f"  error    {self.error:.4f} of the base's, {on}",
                f"  size     {size_text(self.size)}",
                *([f"  identity {self.identity}"] if self.identity else []),
                *(f"  report   {file}" for file in self.report),
                *(f"  note     {note}" for note in self.notes),
            ]
        )


@dataclass(frozen=True, slots=True)
class PlannedTraining:
    """A training that would be.

    Attributes:
        path: the file that would be written.
        base: what would be trained on.
        pictures: by style, or under no name.
        settings: everything that was said or chosen.
    """

    path: Path
    base: Path
    pictures: dict[str, int]
    settings: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON data."""
        return {**asdict(self), "path": str(self.path), "base": str(self.base)}

    def as_text(self) -> str:
        """The plan as lines for people."""
        said = [f"  {name:<14} {value}" for name, value in self.settings.items()]
        return join_safely(
            [f"would train {self.path}", f"  {'base':<14} {self.base}",
             f"  {'pictures':<14} {count_text(self.pictures)}", *said]
        )  # fmt: skip


def count_text(pictures: Mapping[str, int]) -> str:
    """How many pictures, by style where there are several: ``32 (ink 16, neon 16)``."""
    named = ", ".join(f"{name} {count}" for name, count in pictures.items() if name)
    return f"{sum(pictures.values())}{f' ({named})' if named else ''}"


def last_loss(course: Course) -> float:
    """Mean loss of the last twentieth of the steps."""
    few = course.losses[-max(1, len(course.losses) // 20) :]
    return sum(few) / max(1, len(few))


def trained_document(
    settings: TrainSettings, course: Course, pictures: Mapping[str, int], more: Mapping[str, Any]
) -> dict[str, Any]:
    """The ``training`` field of the adapter's document: the same for the same training, and never a path.

    Args:
        settings: how.
        course: how it went.
        pictures: how many, by style.
        more: what else is known: base, learning rate, resolution.
    """
    losses, errors = round_losses(course)
    styles = {name: count for name, count in pictures.items() if name}
    found = {
        **settings.document(),
        **more,
        "pictures": sum(pictures.values()),
        **({"styles": styles} if styles else {}),
        "errors": errors,
        "losses": losses,
        "kept_step": course.best,
        "versions": versions(("torch", "diffusers", "peft", "accelerate", "transformers")),
    }
    return found if course.stopped is None else {**found, "stopped": course.stopped}


def versions(packages: Sequence[str]) -> dict[str, str]:
    """The versions of what a result depends on."""
    from si_hub import __version__

    return {"si-hub": __version__, **{name: version(name) for name in packages}}
