"""The YAML of a card: ours renewed, the user's left alone, read back by PyYAML."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from si_hub.errors import CardError
from si_hub.hub.card.frontmatter import YAML_BEGIN, YAML_END, dump, merge_keys, split_card

#: The expression of huggingface_hub and the Hub.
HUB = re.compile(r"^(\s*---(?:\r\n|\r|\n))([\S\s]*?)((?:\r\n|\r|\n)---[ \t]*(\r\n|\n|$))")
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
JSON = st.recursive(
    TEXT, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=5
)
KEYS = {
    "license": "mit",
    "tags": ["styleinject", "text-to-image"],
    "widget": [{"text": "a: b", "output": {"url": "x.png"}}],
}
#: Front matters as people write them, none with a key of KEYS.
OWN = [
    "", "\n", "# only a comment\n", "language: en\n", "language:\n- en\n- de\n# comment at the end\n",
    "datasets: [a, b]\nextra: {x: 1, y: [2]}\n", "text: |\n  lines\n  of text\n\n", "text: >+\n  kept\n\n\n",
    "a: &x [1, 2]\nb: *x\n", "plain: over\n  two lines\n", "'quoted key': \"# si-hub: end\"\n", "k: v   # comment\n\n",
    "emoji: 🎨\nünï: ja\n", "---a: 1\n", "date: 2024-01-01\nbig: 0x1F\n",
]  # fmt: skip

#: Texts that some reader of YAML takes for something else.
STRANGE = [
    "yes", "No", "on", "null", "~", "1e3", "0o14", "012", "1_000", "12:30:45", ".inf", "=", "", " x", "x ", "a: b",
    "a #b", "- a", "2024-01-01", "0x1F", "<<", "true", "nan", "!x", "&x", "*x", "%x", "@x", "`x", "{x", "[x", "1.5",
]  # fmt: skip


def outside(text: str) -> str:
    return re.sub(rf"{re.escape(YAML_BEGIN)}(\r\n|\r|\n)[\S\s]*?{re.escape(YAML_END)}(\r\n|\r|\n)", "", text)


@given(st.dictionaries(st.sampled_from(["a", "license", "tags"]), JSON, max_size=3))
def test_what_is_dumped_is_read_back_the_same(keys: dict[str, Any]) -> None:
    assert (yaml.safe_load(dump(keys)) or {}) == keys


@pytest.mark.parametrize("text", STRANGE)
def test_what_some_yaml_reader_takes_for_something_else_is_quoted(text: str) -> None:
    assert re.fullmatch(r'a: "[^\n]*"\n|a: nan\n', dump({"a": text}))
    assert yaml.safe_load(dump({"a": text})) == {"a": text}


@pytest.mark.parametrize("own", OWN)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_users_yaml_stays_byte_for_byte_and_means_the_same(own: str, newline: str) -> None:
    own = own.replace("\n", newline)
    merged = merge_keys(own, KEYS, newline)
    assert outside(merged.text) == own
    assert yaml.safe_load(merged.text) == (yaml.safe_load(own) or {}) | KEYS
    again = merge_keys(merged.text, KEYS, newline)
    assert again.text == merged.text
    assert newline == "\r\n" or "\r" not in merged.text


@pytest.mark.parametrize("own", OWN)
def test_renewing_replaces_what_was_generated_before(own: str) -> None:
    before = merge_keys(own, {"license": "other", "license_name": "x", "base_model": "a/b"}).text
    assert merge_keys(before, KEYS).text == merge_keys(own, KEYS).text


def test_the_generated_lines_stay_where_the_user_moved_them() -> None:
    text = merge_keys("a: 1\n", KEYS).text
    moved = text.removeprefix("a: 1\n") + "a: 1\n"
    assert merge_keys(moved, KEYS).text == moved
    assert outside(merge_keys(moved, {"license": "apache-2.0"}).text) == "a: 1\n"


def test_a_key_of_the_user_wins_and_is_told() -> None:
    merged = merge_keys("license: apache-2.0\ntags: [mine]\n", KEYS)
    assert yaml.safe_load(merged.text) == KEYS | {"license": "apache-2.0", "tags": ["mine"]}
    assert merged.kept == {"license": "apache-2.0", "tags": ["mine"]}


@pytest.mark.parametrize(
    "block",
    [
        "a: [1\n", "a: 1\na: 2\n", "- a\n- b\n", "just text\n", "a: b: c\n", "\ta: 1\n", "a: 1\n---\nb: 2\n",
        "a: \x00\n",
        "{license: mit}\n", "  a: 1\n  b: 2\n", "a: *nobody\n", "a: " + "[" * 5000 + "\n", "a: " + "x" * 300_000 + "\n",
        "'open\n",
    ],
)  # fmt: skip
def test_yaml_that_cannot_be_renewed_is_a_clear_error(block: str) -> None:
    with pytest.raises(CardError, match=r"README\.md: front matter"):
        merge_keys(block, KEYS)


def test_aliases_that_unfold_to_more_than_any_memory_are_compared_folded() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x]"] + [
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]" for i in range(1, 40)
    ]
    block = "\n".join(lines) + "\n"
    assert outside(merge_keys(block, KEYS).text) == block


def test_an_error_says_the_line_of_the_file() -> None:
    with pytest.raises(CardError, match="line 3"):
        merge_keys("a: 1\nb: c: d\n", KEYS)


CARDS = [
    "", "text\n", "---\n---\n", "---\na: 1\n---\ntext", "---\r\na: 1\r\n---\r\ntext\r\n", "\n\n---\na: 1\n---\n",
    "\ufeff---\na: 1\n---\nx", "\ufefftext", "---\na: 1\n---", "---\na: 1\n---  \t\nb", "# t\n\n---\nrule\n",
]  # fmt: skip


@pytest.mark.parametrize("card", CARDS)
def test_a_card_is_split_without_losing_a_character(card: str) -> None:
    parts = split_card(card)
    if card.lstrip("\ufeff\n").startswith("---"):
        assert parts.head + parts.block + parts.tail == card
    else:
        assert (parts.head + parts.block + parts.tail).endswith(card.lstrip("\ufeff"))


@pytest.mark.parametrize("card", CARDS)
def test_the_hub_finds_the_same_block_in_what_comes_out(card: str) -> None:
    parts = split_card(card)
    text = parts.head + merge_keys(parts.block, KEYS, parts.newline).text + parts.tail
    found = HUB.match(text.lstrip("\ufeff"))
    assert found
    assert KEYS.items() <= yaml.safe_load(found[2]).items()
    assert split_card(text).block == merge_keys(parts.block, KEYS, parts.newline).text


@pytest.mark.parametrize("card", ["---\na: 1\n", "---", "---\nlicense: mit\n\n# Title\n"])
def test_a_block_without_its_end_is_an_error(card: str) -> None:
    with pytest.raises(CardError, match="no second ---"):
        split_card(card)


def test_two_generated_blocks_are_an_error() -> None:
    block = merge_keys("", KEYS).text
    with pytest.raises(CardError, match="twice"):
        merge_keys(block + block, KEYS)
