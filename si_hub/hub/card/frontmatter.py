"""The YAML block at the head of a model card: our keys between two comments, everybody else's untouched."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from si_hub.errors import CardError
from si_hub.foreign import make_lines_safe

if TYPE_CHECKING:
    import yaml

YAML_BEGIN = "# si-hub: generated, renewed by every push; the same key outside these lines wins"
YAML_END = "# si-hub: end"
#: More than any real card has; the parser is slow and its input may be a stranger's.
YAML_LIMIT = 200_000

#: What the Hub takes for a block (its own expression, as huggingface_hub has it), and an empty one.
_BLOCK = re.compile(r"\A(\ufeff?\s*---(\r\n|\r|\n))((?:[\S\s]*?(?:\r\n|\r|\n))?)(---[ \t]*(?:\r\n|\n|\Z))")
_OPENED = re.compile(r"\A\ufeff?\s*---[ \t]*(\r\n|\r|\n|\Z)")
_LINE = r"(?:\A|(?<=[\r\n]))"
_GENERATED = re.compile(rf"{_LINE}{re.escape(YAML_BEGIN)}(\r\n|\r|\n)[\S\s]*?{_LINE}{re.escape(YAML_END)}(\r\n|\r|\n)")
#: Text that every YAML reader takes for that text without quotes.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*( [A-Za-z0-9_./-]+)*")
#: Keys that are asked for where neither the adapter nor the user names them.
ASKED = ("base_model", "license")
_WORDS = frozenset(("true", "false", "yes", "no", "on", "off", "null", "y", "n"))


@dataclass(frozen=True, slots=True)
class CardParts:
    """A card in three pieces: ``head + block + tail`` is the text; ``block`` is the YAML with its last line break."""

    head: str
    block: str
    tail: str
    newline: str


@dataclass(frozen=True, slots=True)
class Merged:
    """A renewed block.

    Attributes:
        text: the YAML.
        kept: keys that the user has set, of those that are generated otherwise and of `ASKED`: key → the user's text
            or list of texts, ``None`` for anything else.
    """

    text: str
    kept: dict[str, str | list[str] | None]


def split_card(text: str) -> CardParts:
    """Find the block; a card without one gets an empty one.

    Raises:
        CardError: a block that is opened and never closed.
    """
    if found := _BLOCK.match(text):
        return CardParts(found[1], found[3], found[4] + text[found.end() :], line_break(found[2]))
    if _OPENED.match(text):
        raise CardError(
            "begins with --- and has no second ---", file="README.md", key="front matter",
            hint="Close the front matter with a line of three dashes.",
        )  # fmt: skip
    newline, mark = line_break(text), "\ufeff" if text.startswith("\ufeff") else ""
    body = text[len(mark) :]
    return CardParts(f"{mark}---{newline}", "", f"---{newline}{newline if body else ''}{body}", newline)


def line_break(text: str) -> str:
    """The kind of line break that a text has first; of the two that the Hub knows behind a front matter."""
    found = re.search(r"\r?\n", text)
    return found[0] if found else "\n"


def merge_keys(block: str, keys: Mapping[str, Any], newline: str = "\n") -> Merged:
    """``block`` with its generated lines renewed, or added at its end; every other character stays as it is.

    Args:
        block: the YAML of a card.
        keys: what to generate; a key that stands outside the generated lines is the user's, and is left out.
        newline: the kind of line break to write.

    Raises:
        CardError: not YAML, not a table of keys, a key twice, or written so that no lines can be added.
    """
    before, after = _outside(block)
    own = _pairs(before + after)
    text = dump({key: value for key, value in keys.items() if key not in own})
    generated = newline.join([YAML_BEGIN, *text.splitlines(), YAML_END, ""])
    merged = before + (newline if before and not before.endswith(("\n", "\r")) else "") + generated + after
    _check(merged, own, set(keys) - own.keys())
    return Merged(merged, {key: _simple(own[key]) for key in dict.fromkeys([*keys, *ASKED]) if key in own})


def dump(keys: Mapping[str, Any]) -> str:
    """Text, lists and tables as YAML that versions 1.1 and 1.2 read alike: what is not a plain word is quoted."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        plain = _PLAIN.fullmatch(value) and value.lower() not in _WORDS
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if plain else '"')

    Dumper.add_representer(str, text)
    if not keys:
        return ""
    text_of_all = yaml.dump(dict(keys), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=2**31)
    # What is not plain ASCII stands between double quotes, where YAML reads the same escapes as Python.
    return make_lines_safe(text_of_all)


def _outside(block: str) -> tuple[str, str]:
    found = list(_GENERATED.finditer(block))
    if len(found) > 1:
        raise CardError(
            "has the generated lines twice", file="README.md", key="front matter", hint="Delete one of the two blocks."
        )
    return (block[: found[0].start()], block[found[0].end() :]) if found else (block, "")


def _pairs(text: str) -> dict[str, yaml.Node]:
    """Top-level keys of a block → their values."""
    import yaml

    if len(text) > YAML_LIMIT:
        raise CardError(
            "is too long", file="README.md", key="front matter", expected=f"at most {YAML_LIMIT} characters"
        )
    pairs: dict[str, yaml.Node] = {}
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise CardError(
            f"is not YAML: {_reason(error)}", file="README.md", key="front matter",
            hint="Correct it between the two lines of three dashes.",
        ) from error  # fmt: skip
    if node is not None and not isinstance(node, yaml.MappingNode):
        raise CardError("is no table of keys and values", file="README.md", key="front matter")
    for key, value in node.value if node is not None else ():
        name = key.value if isinstance(key, yaml.ScalarNode) else yaml.serialize(key)
        if name in pairs:
            raise CardError("has a key twice", file="README.md", key=f"front matter: {name}")
        pairs[name] = value
    return pairs


def _check(merged: str, own: Mapping[str, yaml.Node], added: set[str]) -> None:
    """The renewed block says the user's keys as before, and ours beside them."""
    try:
        found = _pairs(merged)
    except CardError as error:
        raise _takes_no_keys(error.problem) from error
    if found.keys() != own.keys() | added or any(_text(found[key]) != _text(value) for key, value in own.items()):
        raise _takes_no_keys("that would change its own")


def _takes_no_keys(problem: str) -> CardError:
    return CardError(
        f"takes no further keys: {problem}", file="README.md", key="front matter",
        hint="Write every key at the beginning of a line of its own, such as `license: mit`.",
    )  # fmt: skip


def _text(node: yaml.Node) -> str:
    """A value as YAML, with its aliases as aliases: unfolded they could fill any memory."""
    import yaml

    return yaml.serialize(node)


def _simple(node: yaml.Node) -> str | list[str] | None:
    import yaml

    if isinstance(node, yaml.ScalarNode):
        return str(node.value)
    if isinstance(node, yaml.SequenceNode) and all(isinstance(item, yaml.ScalarNode) for item in node.value):
        return [str(item.value) for item in node.value]
    return None


def _reason(error: Exception) -> str:
    import yaml

    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        # The block stands below a line of dashes.
        return f"{error.problem} in line {error.problem_mark.line + 2}"
    return "nested too deep" if isinstance(error, RecursionError) else str(error)
