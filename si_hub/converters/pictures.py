"""What header metadata say of the pictures an adapter was trained on: tags, captions, folders, a preview."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from si_hub.converters.metadata import describe

#: Tags that are shown.
MOST_TAGS = 20
#: Bytes of one metadata text that are parsed at most; a trainer's table of tags has a tenth of that.
_LIMIT = 8 << 20
#: Header keys that hold a preview, as a ``data:`` address or a list of such.
_PREVIEWS = ("modelspec.thumbnail", "model_spec.thumbnail", "ssmd_cover_images")


@dataclass(frozen=True, slots=True)
class Preview:
    """A picture in the header.

    Attributes:
        key: the header's key.
        kind: such as ``image/jpeg``; empty where it does not say.
        size: bytes of the picture, about: it is stored as base64.
    """

    key: str
    kind: str
    size: int


@dataclass(frozen=True, slots=True)
class Training:
    """What is known of the pictures.

    Attributes:
        triggers: words by which it is called.
        tags: how often each tag was in captions, the most frequent first, ``MOST_TAGS`` at most.
        tag_count: how many tags there are.
        folders: pictures by folder: (repeats, pictures).
        previews: in the header.
    """

    triggers: tuple[str, ...] = ()
    tags: dict[str, int] = field(default_factory=dict)
    tag_count: int = 0
    folders: dict[str, tuple[int, int]] = field(default_factory=dict)
    previews: tuple[Preview, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As JSON data; what is empty is left out."""
        values = {
            "trigger_words": list(self.triggers), "tags": self.tags, "tag_count": self.tag_count,
            "folders": {name: {"repeats": many, "pictures": count} for name, (many, count) in self.folders.items()},
            "previews": [{"key": one.key, "kind": one.kind, "size": one.size} for one in self.previews],
        }  # fmt: skip
        return {key: value for key, value in values.items() if value}


def describe_training(metadata: Mapping[str, str]) -> Training:
    """What metadata say of the pictures; what they hold in another form is passed over, as it says nothing."""
    counts = _count_tags(metadata)
    most = sorted(counts.most_common(MOST_TAGS), key=lambda item: (-item[1], item[0]))
    triggers = tuple(describe(metadata).get("trigger_words", ()))
    return Training(triggers, dict(most), len(counts), _folders(metadata), tuple(_previews(metadata)))


def _parse(text: str | None) -> Any:
    """JSON in a metadata text; ``None`` where there is none."""
    if text is None or len(text) > _LIMIT:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _count_tags(metadata: Mapping[str, str]) -> Counter[str]:
    """kohya's ``ss_tag_frequency``, folder → tag → count, or those of its ``ss_datasets``."""
    tables = [_parse(metadata.get("ss_tag_frequency"))]
    datasets = _parse(metadata.get("ss_datasets"))
    tables += (
        [one.get("tag_frequency") for one in datasets if isinstance(one, dict)] if isinstance(datasets, list) else []
    )
    counts: Counter[str] = Counter()
    for table in tables:
        for tags in table.values() if isinstance(table, dict) else ():
            for tag, count in tags.items() if isinstance(tags, dict) else ():
                if isinstance(count, int) and not isinstance(count, bool) and tag.strip():
                    counts[tag.strip()] += count
    return counts


def _folders(metadata: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """kohya's ``ss_dataset_dirs``: folder → repeats and number of pictures."""
    table = _parse(metadata.get("ss_dataset_dirs"))
    found: dict[str, tuple[int, int]] = {}
    for name, facts in table.items() if isinstance(table, dict) else ():
        repeats, count = (facts.get(key) if isinstance(facts, dict) else None for key in ("n_repeats", "img_count"))
        if isinstance(repeats, int) and isinstance(count, int) and repeats >= 0 and count >= 0:
            found[name] = (repeats, count)
    return found


def _previews(metadata: Mapping[str, str]) -> Iterator[Preview]:
    for key in _PREVIEWS:
        text = metadata.get(key, "")
        held = _parse(text) if key == "ssmd_cover_images" else [text]
        for one in held if isinstance(held, list) else ():
            if isinstance(one, str) and one:
                head, _, data = one.rpartition(",")
                kind = head.removeprefix("data:").partition(";")[0] if head.startswith("data:") else ""
                yield Preview(key, kind, len(data) * 3 // 4)
