"""What a layout is: another project's names for the modules of a model.

A layout maps a source module's dotted name to the base modules it holds. Fused modules hold several, each with its
rows of the output; everything is derived from the model's own module list, so that small and trimmed models work too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from si_hub.architectures.model import Model

Rows = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Part:
    """One base module inside a source module.

    Attributes:
        path: the base module.
        rows: ranges of the source's output rows that, joined in order, are the base module's; ``None`` for all.
    """

    path: str
    rows: Rows | None = None


Names = dict[str, tuple[Part, ...]]


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """One naming of modules; called with a model, it gives the names.

    Attributes:
        name: stable: converted files record it.
        give: the names of a model's modules; those that it does not know are left out.
        classes: how the class names of the models begin that it is for; all by default.
        whole: whether checkpoints are written in it, and not adapters alone.
        local: whether a name depends on nothing but the modules that it is for: those of a part of a model are then
            among those of all of it.
    """

    name: str
    give: Callable[[Model], Names]
    classes: tuple[str, ...] = ("",)
    whole: bool = False
    local: bool = False

    def __call__(self, model: Model) -> Names:
        """The names of a model's modules; none where the layout is not for its class."""
        return self.give(model) if model.class_name.startswith(self.classes) else {}
