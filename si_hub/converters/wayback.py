"""What the way back to the source's own names needs, as compact as it is regular."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any, NamedTuple

from si_hub.architectures.model import fold
from si_hub.converters.detect.detection import Detection
from si_hub.converters.detect.matching import Match
from si_hub.converters.families.contract import SourceModule
from si_hub.converters.naming.names import Place
from si_hub.converters.numbers import number

#: Patterns of one component. The document has a limit; a source more irregular than this is only counted.
MOST_PATTERNS = 200


class Rule(NamedTuple):
    """How one source module is written.

    Attributes:
        prefix: before its name.
        layout: the naming of the rest, a key of `LAYOUTS`.
        suffixes: (slot, what follows the stem) of each of its tensors.
        alpha: dtype and shape of the alpha tensor, if it has one.
        zero: the alpha tensor holds 0, for the rank.
        value: what the alpha tensor of a module without a rank holds, where it says nothing.
        axes: of down and up, or of a Kronecker product's right factor, where they are not the base weight's: a
            convolution for a linear layer, or the reverse.
    """

    prefix: str
    layout: str
    suffixes: tuple[tuple[str, str], ...]
    alpha: str = ""
    zero: bool = False
    value: str = ""
    axes: tuple[int, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The rule as JSON data; what is empty is left out."""
        values = {**self._asdict(), "suffixes": dict(self.suffixes), "axes": list(self.axes)}
        return {key: value for key, value in values.items() if value or key == "prefix"}


def alpha_layout(found: Detection, match: Match, configured: bool) -> str:
    """Where the source kept its alphas: ``F32 [] in 264 of 264 modules``, ``configuration`` or ``none``."""
    pairs = [
        found.grouped.modules[stem]
        for stem in _converted_places(found, match)
        if found.families[stem].rank_of(found.grouped.modules[stem])
    ]
    kinds = Counter(_alpha_kind(module) for module in pairs if "alpha" in module.tensors)
    if not kinds:
        return "configuration" if configured else "none"
    return f"{', '.join(kind for kind, _ in kinds.most_common())} in {kinds.total()} of {len(pairs)} modules"


def name_naming(match: Match) -> str:
    """``lora_unet_ sgm, lora_te1_ diffusers``: prefixes and layouts, the most frequent first."""
    counts = Counter(f"{place.prefix} {place.layout}".strip() for place in match.places.values())
    return ", ".join(name for name, _ in counts.most_common())


def layout(found: Detection, match: Match) -> dict[str, list[dict[str, Any]]]:
    """Per component the rules that its modules are written by, that of most first.

    Every rule but the first has ``modules``, patterns of the base modules (the first one, of a fused source module)
    that are written so; where that would be too many, one number in their place. A regular source has one rule, or
    one for each kind of module: with the adapter's module paths it gives back every name.
    """
    paths: dict[str, dict[Rule, list[str]]] = defaultdict(lambda: defaultdict(list))
    for stem, place in _converted_places(found, match).items():
        paths[place.component][_rule(found, match, stem)].append(place.parts[0].path)
    return {component: _describe_rules(by_rule) for component, by_rule in paths.items()}


def _describe_rules(by_rule: dict[Rule, list[str]]) -> list[dict[str, Any]]:
    (main, _), *others = sorted(by_rule.items(), key=lambda item: -len(item[1]))
    exceptions = [{**rule.as_dict(), "modules": fold(modules)} for rule, modules in others]
    if sum(len(exception["modules"]) for exception in exceptions) > MOST_PATTERNS:
        return [main.as_dict(), {"modules": sum(len(modules) for _, modules in others)}]
    return [main.as_dict(), *exceptions]


def _converted_places(found: Detection, match: Match) -> dict[str, Place]:
    """Places of the modules that were converted; the others are dropped where a part may be."""
    return {
        stem: place
        for stem, place in match.places.items()
        if stem not in match.misfits and found.families[stem].is_converted
    }


def _rule(found: Detection, match: Match, stem: str) -> Rule:
    place, module = match.places[stem], found.grouped.modules[stem]
    suffixes = tuple(sorted((slot, name[len(stem) :]) for slot, name in module.names.items()))
    ranked = found.families[stem].rank_of(module) is not None
    zero = "alpha" in module.tensors and ranked and module.alpha is None
    idle = "alpha" in module.tensors and not ranked and module.tensors["alpha"].count == 1
    value = repr(number(module.tensors["alpha"])) if idle else ""
    return Rule(place.prefix, place.layout, suffixes, _alpha_kind(module), zero, value, _axes(found, match, stem))


def _alpha_kind(module: SourceModule) -> str:
    alpha = module.tensors.get("alpha")
    return f"{alpha.dtype} {list(alpha.shape)}" if alpha else ""


def _axes(found: Detection, match: Match, stem: str) -> tuple[int, ...]:
    if (axes_of := found.families[stem].axes) is None:
        return ()
    place, axes = match.places[stem], axes_of(found.grouped.modules[stem])
    base = match.architecture.components[place.component].modules[place.parts[0].path]
    return () if set(axes) == {len(base.shape)} else axes
