"""What the way back to the source's own names needs, as compact as it is regular."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from si_hub.architectures.layouts import Part
from si_hub.converters.detection import Detection
from si_hub.converters.modules import SourceModule

#: The document has a limit; a source more irregular than this is described by the number of its exceptions.
LIMIT = 64


def alpha_layout(found: Detection, configured: bool) -> str:
    """Where the source kept its alphas: ``F32 [] in 264 of 264 modules``, ``configuration`` or ``none``."""
    pairs = _pairs(found)
    alphas = [module.tensors["alpha"] for module in pairs.values() if "alpha" in module.tensors]
    if not alphas:
        return "configuration" if configured else "none"
    kinds = Counter(f"{alpha.dtype} {list(alpha.shape)}" for alpha in alphas)
    return f"{', '.join(kind for kind, _ in kinds.most_common())} in {len(alphas)} of {len(pairs)} modules"


def layout(found: Detection) -> dict[str, Any]:
    """Per component the prefix, layout and spelling of most modules; modules that differ from it, by their stem.

    A regular source has no exceptions: its names follow from the adapter's module paths by this rule.
    """
    rules: dict[str, Counter[tuple[str, str, str]]] = defaultdict(Counter)
    for stem, place in found.match.places.items():
        rules[place.component][place.prefix, place.layout, found.grouped.modules[stem].spelling] += 1
    rule = {component: counts.most_common(1)[0][0] for component, counts in rules.items()}
    irregular = {
        stem: f"{place.component}.{place.parts[0].path}"
        for stem, place in found.match.places.items()
        if (place.prefix, place.layout, found.grouped.modules[stem].spelling) != rule[place.component]
    }
    pairs = _pairs(found)
    described: dict[str, Any] = {
        "names": {
            component: dict(zip(("prefix", "layout", "spelling"), values, strict=True))
            for component, values in rule.items()
        }
    }
    lists = {
        "alpha_absent": [stem for stem, module in pairs.items() if "alpha" not in module.tensors],
        "alpha_zero": [stem for stem, module in pairs.items() if "alpha" in module.tensors and module.alpha is None],
        "reshaped": [stem for stem, module in pairs.items() if _reshaped(found, stem, module)],
    }
    if 0 < len(lists["alpha_absent"]) == len(pairs):
        del lists["alpha_absent"]
    described |= {name: stems if len(stems) <= LIMIT else len(stems) for name, stems in lists.items() if stems}
    if irregular:
        described["irregular"] = irregular if len(irregular) <= LIMIT else len(irregular)
    return described


def _pairs(found: Detection) -> dict[str, SourceModule]:
    return {
        stem: module
        for stem, module in found.grouped.modules.items()
        if "down" in module.tensors and stem in found.match.places
    }


def _reshaped(found: Detection, stem: str, module: SourceModule) -> bool:
    """Whether the source wrote a 1x1 convolution as linear, or the reverse."""
    place = found.match.places[stem]
    part: Part = place.parts[0]
    base = found.match.architecture.components[place.component].modules[part.path]
    return len(module.tensors["down"].shape) != len(base.shape)
