"""Header metadata of the source: what becomes part of the document, what is kept, what is left out and why."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from si_hub.architectures.bases import BASES, find_named
from si_hub.converters.source import METADATA_CONFIG
from si_hub.storage.paths import find_home, is_path, last_name

#: Metadata stay within the first ranged read of a file together with the document.
KEY_LIMIT = 1024
TOTAL_LIMIT = 8192

#: document field → metadata keys it is taken from, best first.
_TEXTS = {
    "title": ("modelspec.title", "model_spec.title", "ss_output_name"),
    "author": ("modelspec.author", "model_spec.author"),
    "license": ("modelspec.license", "model_spec.license"),
}
_LISTS = {
    "trigger_words": (
        "modelspec.trigger_phrase", "model_spec.trigger_phrase", "modelspec.usage_hint_trigger", "trained_words",
        "TrainedWords", "trainedWords",
    ),
    "tags": ("modelspec.tags", "model_spec.tags"),
}  # fmt: skip
#: They say something of the old file that is not true of the new one.
_STALE = {
    "modelspec.hash_sha256": "hash of the source file",
    "modelspec.architecture": "derived anew", "modelspec.sai_model_spec": "derived anew",
    "modelspec.implementation": "derived anew", "sshs_model_hash": "hash of the source file",
    "sshs_legacy_hash": "hash of the source file", "styleinject": "reserved", METADATA_CONFIG: "moved into the layers",
}  # fmt: skip
_MOVED = "moved into the document"
#: Keys of a model's or file's name, of which the last part of a path says what it is to say.
_FILE_KEYS = re.compile(r"(?:name|path|file|model|checkpoint|title|merged_from)$", re.IGNORECASE)
#: Keys of what people write, which may begin with any character.
_PROSE_KEYS = re.compile(
    r"prompt|caption|comment|description|trigger|trained_?words|usage_hint|(?<![a-z])tags?(?![a-z])", re.IGNORECASE
)
_PREDICTION = "modelspec.prediction_type"
_PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction", "sample": "sample"}


def describe(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Title, author, license, trigger words and tags, where the metadata have them and they are not too large."""
    return {name: value for name, (_, value) in _take_fields(metadata).items()}


def _take_fields(metadata: Mapping[str, str]) -> dict[str, tuple[str, Any]]:
    """Document field → (the metadata key it is taken from, its value)."""
    found: dict[str, tuple[str, Any]] = {}
    for table, limit, read in ((_TEXTS, KEY_LIMIT, str.strip), (_LISTS, TOTAL_LIMIT, _words)):
        for name, keys in table.items():
            for key in keys:
                text = metadata.get(key, "")
                if name in found or len(text.encode()) > limit:
                    continue
                if value := read(cut_place(key, text) or ""):
                    found[name] = key, value
    return found


def cut_place(key: str, text: str) -> str | None:
    """A metadata text without the machine it was written on: a model's path is its file name.

    None where all of it is a place, such as an output folder, or something in it is.
    """
    if not _PROSE_KEYS.search(key):
        if is_path(text):
            return (_FILE_KEYS.search(key) and last_name(text)) or None
        if any(map(is_path, _inner_texts(text))):
            return None
    return None if find_home(key) or find_home(text) else text


def _inner_texts(text: str) -> list[str]:
    """Every text of a JSON table or list, keys included; none where it is something else."""
    try:
        pending = [json.loads(text)] if text.lstrip()[:1] in ("{", "[") else []
    except (ValueError, RecursionError):
        return []
    found: list[str] = []
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, dict):
            pending += [*value, *value.values()]
        elif isinstance(value, list):
            pending += value
    return found


def _words(text: str) -> list[str]:
    """A JSON list or a comma-separated text as its distinct words, in order."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    parts = value if isinstance(value, list) else text.split(",")
    return list(dict.fromkeys(word for part in parts if isinstance(part, str) and (word := part.strip())))


def keep(metadata: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """(metadata to preserve, reason by key for those left out): small ones first, so a large one costs no other.

    A path of some machine is left out; of a model's path its file name stays.
    """
    # Only modelspec.* come back, from the document; a trainer's own keys stay as well.
    moved = {key: _MOVED for key, _ in _take_fields(metadata).values() if key.startswith("modelspec.")}
    if metadata.get(_PREDICTION) in _PREDICTIONS:
        moved[_PREDICTION] = _MOVED
    gone = _STALE | moved
    kept: dict[str, str] = {}
    left_out: dict[str, str] = {}
    room = TOTAL_LIMIT
    for key, value in sorted(metadata.items(), key=lambda item: (len(item[1]), item[0])):
        if key == "format":
            continue
        size = len(key.encode()) + len(value.encode())
        if key in gone:
            left_out[key] = gone[key]
        elif size > KEY_LIMIT:
            left_out[key] = f"{size} bytes, too large for an adapter's header"
        elif (kept_text := cut_place(key, value)) is None:
            left_out[key] = "names a place of one machine"
        elif size > room:
            left_out[key] = f"no room beside {TOTAL_LIMIT} bytes of smaller ones"
        else:
            kept[key] = kept_text
            room -= size
    return kept, left_out


def prediction_type(metadata: Mapping[str, str]) -> str | None:
    """``epsilon`` or ``v_prediction``, where the metadata say so."""
    if metadata.get("ss_base_model_version", "").endswith("_v"):
        return "v_prediction"
    return _PREDICTIONS.get(metadata.get(_PREDICTION, ""))


@dataclass(frozen=True, slots=True)
class Named:
    """What metadata say of the base model.

    Attributes:
        bases: names of the base models that they name, all of them equally well; empty where they name none.
        texts: metadata key → text that names a base model, of these or an unknown one.
        excluded: names of base models that it is not.
    """

    bases: frozenset[str] = frozenset()
    texts: Mapping[str, str] = field(default_factory=dict)
    excluded: frozenset[str] = frozenset()

    def allows(self, name: str) -> bool:
        """Whether nothing of it contradicts a base model."""
        return name not in self.excluded and (name in self.bases or not self.texts)

    def quote(self) -> str:
        """Where and how they say it."""
        texts = self.texts or ({"ss_v2": "False"} if self.excluded else {})
        return ", ".join(f"{key} = {text}" for key, text in texts.items())


#: Metadata that name the base model by architecture: an unknown name there is of a model that is not known here.
_NAMING = ("ss_base_model_version", "modelspec.architecture", "model_spec.architecture")
#: What trainers write there who do not know.
_PLACEHOLDERS = {"None", "null", "unknown", "Unknown"}
#: Metadata that name it in the words of people, who may call it anything.
_CALLING = ("baseModel", "base_model")


def named_bases(metadata: Mapping[str, str]) -> Named:
    """The base models that the metadata name, and those that they exclude (kohya's ``ss_v2``).

    Where two of them name different ones, none is left, and no base model agrees.
    """
    bases: frozenset[str] | None = None
    texts: dict[str, str] = {}
    for key in (*_NAMING, *_CALLING):
        text = metadata.get(key, "").strip()
        text = "" if text in _PLACEHOLDERS else text
        found = frozenset(base.name for base in find_named(text))
        if text and (found or key in _NAMING):
            texts[key] = text
            bases = found if bases is None else bases & found
    second = frozenset(base.name for base in BASES if base.is_v2)
    says_v2 = metadata.get("ss_v2", "").strip('" ').lower()
    if says_v2 in ("true", "1"):
        texts["ss_v2"] = "True"
        bases = second if bases is None else bases & second
    excluded = second if says_v2 in ("false", "0") else frozenset[str]()
    return Named(bases or frozenset(), texts, excluded)
