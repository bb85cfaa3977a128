"""The model card: a part that is generated from the adapter and renewed, within a text that is the user's own."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from si_hub.adapter import Adapter, BaseModel
from si_hub.architectures.bases import BY_NAME
from si_hub.errors import CardError
from si_hub.foreign import make_safe
from si_hub.hub.card import frontmatter
from si_hub.hub.card.licenses import card_keys
from si_hub.hub.card.markdown import escape, fence, table, tables
from si_hub.hub.card.origin import UNSAID, origin_rows
from si_hub.hub.names import is_repo_id
from si_hub.report.layers import count_ranks
from si_hub.report.text import size_text, tally

TEXT_BEGIN = "<!-- si-hub: generated, renewed by every push; write outside of it -->"
TEXT_END = "<!-- si-hub: end -->"
#: A longer card is nobody's reading.
CARD_LIMIT = 2_000_000
TAGS = ("styleinject", "text-to-image")
#: What a card of ours never says: it would be listed, and loaded, as what it is not.
NEVER = frozenset({"lora", "template:sd-lora"})

_TAG = re.compile(r"\w([\w .+-]{0,47}[\w+])?")
_HEADING = re.compile(r"^ {0,3}#[ \t]|^\S.*\n=+[ \t]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Card:
    """A renewed card.

    Attributes:
        text: the whole of README.md.
        notes: what the user may want to know about it, in sentences.
    """

    text: str
    notes: tuple[str, ...]


def decode(raw: bytes, file: str = "README.md") -> str:
    """The text of a card, its line breaks as they are.

    Raises:
        CardError: too long, or not UTF-8.
    """
    if len(raw) > CARD_LIMIT:
        raise CardError("is too long for a card", file=file, expected=f"at most {CARD_LIMIT} bytes", found=len(raw))
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise CardError("is not UTF-8", file=file, found=f"byte {error.start}", hint="Save it as UTF-8.") from error


def is_card(text: str) -> bool:
    """Whether a README.md is a model card: it begins with a front matter, or has a generated part."""
    return text.removeprefix("\ufeff").lstrip().startswith("---") or TEXT_BEGIN in text


def render(existing: str, adapter: Adapter, repo_id: str, samples: Sequence[str] = (), size: int = 0) -> Card:
    """The card of an adapter: ``existing`` with its generated parts renewed, or added where there are none.

    Outside the generated parts every character stays; rendering twice is rendering once.

    Args:
        existing: the card as it is; empty where there is none.
        adapter: what the card is about.
        repo_id: the repository it will be in.
        samples: paths of preview pictures in the repository, in the order of the document's ``preview_prompts``.
        size: bytes of the adapter's file.

    Raises:
        CardError: a front matter that is no YAML table, or generated parts without their end.
    """
    parts = frontmatter.split_card(existing)
    keys = front_matter(adapter, samples)
    merged = frontmatter.merge_keys(parts.block, keys, parts.newline)
    text = _renew(parts.tail, adapter, repo_id, samples, size, parts.newline, _own_base(merged.kept))
    return Card(parts.head + merged.text + text, _notes(merged.kept, keys, adapter))


def front_matter(adapter: Adapter, samples: Sequence[str] = ()) -> dict[str, Any]:
    """The metadata that the Hub reads off a card."""
    about = adapter.about
    base = base_repository(adapter)
    keys: dict[str, Any] = {"base_model": base, "base_model_relation": "adapter"} if base else {}
    keys |= {"library_name": "si-hub", "pipeline_tag": "text-to-image"}
    if about.get("license"):
        keys |= card_keys(about["license"])
    own = [tag for tag in (make_safe(tag, prose=True) for tag in about.get("tags", ())) if _may_be_tag(tag)]
    keys["tags"] = list(dict.fromkeys([*TAGS, *own[:20]]))
    if about.get("trigger_words"):
        keys["instance_prompt"] = make_safe(", ".join(about["trigger_words"]), 300, prose=True)
    if samples:
        prompts = [make_safe(prompt, 600, prose=True) for prompt in about.get("preview_prompts", ())]
        texts = prompts + ["-"] * (len(samples) - len(prompts))
        keys["widget"] = [
            {"text": text, "output": {"url": sample}} for sample, text in zip(samples, texts, strict=False)
        ]
    return keys


def _may_be_tag(tag: str) -> bool:
    """Whether a tag is one word or a few, and none of `NEVER` however it is spelled: other widths, cases, letters."""
    plain = unicodedata.normalize("NFKC", tag).casefold().strip()
    return _TAG.fullmatch(tag) is not None and plain not in NEVER


def base_repository(adapter: Adapter) -> str | None:
    """The repository of the base model: the document's, the usual one of the architecture, or none."""
    told = adapter.base_model.repo_id
    if told and "/" in told and is_repo_id(told):
        return told
    known = BY_NAME.get(adapter.base_model.architecture)
    return next(iter(known.repositories), None) if known else None


def _own_base(kept: Mapping[str, object]) -> str | None:
    """The base model that the user's own front matter names, where it is one repository."""
    named = kept.get("base_model")
    return named if isinstance(named, str) and "/" in named and is_repo_id(named) else None


def load_lines(repo_id: str, base: str | None, revision: str | None = None) -> list[str]:
    """The lines that load the adapter; where no repository has its base model, they ask for its folder."""
    at = f", revision={json.dumps(revision)}" if revision else ""
    asked = json.dumps(base) if base else 'input("Folder of the base model: ")'
    return [
        "import si_hub; from diffusers import DiffusionPipeline; si_hub.enable()",
        f"pipe = DiffusionPipeline.from_pretrained({asked})",
        f"pipe.load_styleinject_weights({json.dumps(repo_id)}{at})",
    ]


def sections(
    adapter: Adapter, repo_id: str, samples: Sequence[str], size: int, title: bool, base: str | None = None
) -> list[str]:
    """The generated part in Markdown, piece by piece.

    Args:
        adapter, repo_id, samples, size: see `render`.
        title: whether it is to begin with a title.
        base: the repository of its base model, where the user names another than the adapter does.
    """
    about, base = adapter.about, base or base_repository(adapter)
    name = escape(about.get("title") or repo_id.rpartition("/")[2])
    target = f"[{escape(base)}](https://huggingface.co/{base})" if base else _describe(adapter.base_model)
    author = f", by {escape(about['author'])}" if about.get("author") else ""
    found = [f"# {name}"] if title else []
    found += ["<Gallery />"] if samples else []
    found.append(
        f"A [StyleInject](https://arxiv.org/abs/2401.13942) adapter for {target}{author}: {_summary(adapter, size)}."
    )
    if about.get("trigger_words"):
        found.append(f"Write {' or '.join(map(escape, about['trigger_words'][:20]))} in the prompt.")
    found += ["## How to load it", fence("sh", ["pip install si-hub"])]
    found.append(fence("python", [*load_lines(repo_id, base), *_styles(adapter)]))
    if about.get("fidelity"):
        found += ["## How close it comes", tables(about["fidelity"])]
    if training := {name: value for name, value in about.get("training", {}).items() if name not in UNSAID}:
        found += ["## How it was trained", tables(training)]
    if rows := origin_rows(about.get("provenance", {})):
        found += ["## Where it comes from", table(("", ""), rows)]
    layers = [_component_row(name, component.layers) for name, component in adapter.components.items()]
    found += ["## What is in it", table(("component", "layers", "rank", "transform"), layers)]
    return found


def _describe(base: BaseModel) -> str:
    """A base model that no repository is known of: one that si-hub knows by its name, or a pipeline's class."""
    known = BY_NAME.get(base.architecture)
    return escape(known.title) if known else f"a model of its own, {escape(base.architecture)}"


def _summary(adapter: Adapter, size: int) -> str:
    layers = [layer for component in adapter.components.values() for layer in component.layers.values()]
    ranks = count_ranks(layer for layer in layers if layer.rank)
    branches = max((layer.branches for layer in layers), default=0)
    names = f" ({', '.join(map(escape, adapter.branches[:20]))})" if adapter.branches else ""
    words = [f"{len(layers)} layers"]
    words += [f"rank {tally(dict(list(ranks.items())[:6]))}"] if ranks else []
    words += [f"{branches} branches{names}"] if branches > 1 else []
    return ", ".join([*words, *([size_text(size)] if size else [])])


def _component_row(name: str, layers: Mapping[str, Any]) -> tuple[str, int, str, str]:
    ranks = count_ranks(layer for layer in layers.values() if layer.rank)
    transforms = sorted({layer.transform for layer in layers.values() if layer.rank})
    return name, len(layers), tally(dict(list(ranks.items())[:6])) if ranks else "–", ", ".join(transforms) or "–"


def _styles(adapter: Adapter) -> list[str]:
    """The line that mixes named branches, where there are several and their names can be shown as they are."""
    names = adapter.branches
    if len(names) < 2 or any(make_safe(name) != name or "<!--" in name for name in names):
        return []
    mix = dict.fromkeys(names, 0.0) | {names[0]: 0.7, names[1]: 0.3}
    return [f"pipe.set_styles({json.dumps(mix, ensure_ascii=False)})"] if len(names) <= 8 else []


def _renew(
    tail: str, adapter: Adapter, repo_id: str, samples: Sequence[str], size: int, newline: str, base: str | None
) -> str:
    """What stands behind the front matter, with the generated part in its place, or at the end."""
    begins, ends = tail.count(TEXT_BEGIN), tail.count(TEXT_END)
    start, stop = tail.find(TEXT_BEGIN), tail.find(TEXT_END)
    if begins == ends == 0:
        trailing = re.search(r"[\r\n]*\Z", tail)
        breaks = len(re.findall(r"\r\n|\r|\n", trailing[0] if trailing else ""))
        before, after = tail + newline * (2 - min(breaks, 2)), newline
    elif begins == ends == 1 and start < stop:
        before, after = tail[:start], tail[stop + len(TEXT_END) :]
    else:
        raise CardError(
            "the marks of the generated part are not one pair", file="README.md",
            expected=f"{TEXT_BEGIN} ... {TEXT_END}",
            found=f"{begins} begins, {ends} ends", hint="Delete the stray mark, or all of them for a new part.",
        )  # fmt: skip
    pieces = sections(adapter, repo_id, samples, size, not _HEADING.search(before + after), base)
    return before + "\n\n".join([TEXT_BEGIN, *pieces, TEXT_END]).replace("\n", newline) + after


def _notes(kept: Mapping[str, object], keys: Mapping[str, Any], adapter: Adapter) -> tuple[str, ...]:
    notes = [
        f"README.md sets {key} itself; the adapter's would be {make_safe(keys[key])}"
        for key, value in kept.items()
        if key in keys and value != keys[key] and key not in ("tags", "widget")
    ]
    tags = kept.get("tags", TAGS)
    if not isinstance(tags, list | tuple) or not set(TAGS) <= set(tags):
        notes.append(f"README.md sets tags itself; with {' and '.join(TAGS)} among them the adapter would be found")
    if not adapter.about.get("license") and "license" not in kept:
        notes.append("no license: write one into README.md's front matter")
    base = base_repository(adapter)
    if "base_model" not in kept and base is None:
        notes.append("no base_model: the adapter names no repository; write one into README.md's front matter")
    elif "base_model" not in kept and base != adapter.base_model.repo_id:
        notes.append(f"base_model is {base}, the usual {adapter.base_model.architecture}: the adapter names none")
    return tuple(notes)
