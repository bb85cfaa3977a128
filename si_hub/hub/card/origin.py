"""What a card says of where an adapter comes from: what its reader asks, not what the way back needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from si_hub.report.text import size_text

#: What of the document's ``training`` is for machines, and too long for a card.
UNSAID = frozenset({"losses", "versions"})


def origin_rows(provenance: Mapping[str, Any]) -> list[tuple[str, object]]:
    """The document's ``provenance`` as rows of a table: what was said and by whom; nothing of names and layouts.

    Args:
        provenance: as it stands in a document that may be a stranger's; what has another type is left out.
    """
    rows: list[tuple[str, object]] = []
    several = provenance.get("sources")
    sources = several if isinstance(several, list) else [provenance.get("source")]
    for source in sources:
        if isinstance(source, Mapping):
            rows.append(("made from", _name_source(source)))
            rows += [("its SHA-256", source["sha256"])] if isinstance(source.get("sha256"), str) else []
    rows += [("kind", provenance["family"])] if isinstance(provenance.get("family"), str) else []
    rows += [("made by", provenance["tool"])] if isinstance(provenance.get("tool"), str) else []
    if provenance.get("exact") is True:
        rows.append(("exact", "yes, every number"))
    if isinstance(provenance.get("error"), int | float):
        rows.append(("relative error", provenance["error"]))
    if isinstance(provenance.get("left_out"), int):
        rows.append(("left out", f"{provenance['left_out']} tensors of the source"))
    check = provenance.get("check")
    if isinstance(check, Mapping) and isinstance(check.get("largest_error"), int | float):
        said = f"{check.get('modules')} layers, largest relative error {check['largest_error']:.2g}"
        rows.append(("recomputed in float64", said))
    return rows


def _name_source(source: Mapping[str, Any]) -> str:
    """``name, 213.3 kB, of user/model at 0123abcd``: what is known of it."""
    size, repository, revision = source.get("size"), source.get("repo_id"), source.get("revision")
    words = [str(source.get("name", "a file"))]
    words += [size_text(size)] if isinstance(size, int) else []
    words += [f"of {repository}" + (f" at {revision}" if revision else "")] if repository else []
    return ", ".join(words)
