"""What a pipeline does with its adapters now, as one file: weights and styles as they are set, exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from si_hub import format as file_format
from si_hub.adapter import Adapter
from si_hub.basemodel import find_base
from si_hub.editing.command import sum_adapters
from si_hub.editing.steadying import steady
from si_hub.editing.weighting import read_weights
from si_hub.errors import UsageError
from si_hub.format import Written


@dataclass(frozen=True, slots=True)
class MixPart:
    """One adapter of a mix.

    Attributes:
        name: what messages call it.
        adapter: it.
        weight: a factor on all that it does.
        styles: weights by branch name, used as given; ``None`` leaves the choice to its own routers.
    """

    name: str
    adapter: Adapter
    weight: float = 1.0
    styles: Mapping[str, float] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the mix does to it nothing at all."""
        return self.weight == 1 and self.styles is None


def write_mix(parts: Sequence[MixPart], output: Path, base: str | Path, *, overwrite: bool = False) -> Written:
    """Write the sum of some adapters; one alone, at weight 1 and with its own routers, stays what it is.

    Args:
        parts: adapters of one base model; those of weight 0 are left out.
        output: the file.
        base: the folder or checkpoint of the base model, whose weights gains and rotations act on.
        overwrite: replace an existing file.

    Raises:
        UsageError: no part has a weight, or a style is none of its adapter's.
        ConversionRefused: a router that chooses by the input, or an injection that depends on the features.
        SiHubError: as `si_hub.merge`.
    """
    acting = [part for part in parts if part.weight]
    if not acting:
        raise UsageError("every adapter has weight 0, so there is nothing to save")
    if len(acting) == 1 and acting[0].is_whole:
        return file_format.write(acting[0].adapter, output, overwrite=overwrite)
    architecture, weights = find_base(base)
    if architecture is None:
        raise UsageError("no base model is named", key=str(base))
    terms = [(path := Path(part.name), read_weights(part.weight, path)) for part in acting]
    steadied = [steady(part.adapter, part.styles) for part in acting]
    words = dict.fromkeys(word for part in acting for word in part.adapter.about.get("trigger_words", ()))
    about = {"trigger_words": list(words)} if words else {}
    mixed = replace(sum_adapters(terms, steadied, architecture, weights), about=about)
    return file_format.write(mixed, output, overwrite=overwrite)
