"""Strangers' texts in Markdown, read back by another library's parser."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from si_hub.foreign import make_safe
from si_hub.hub.card.markdown import ROWS, escape, flat, table, tables

PARSER = MarkdownIt("commonmark").enable("table")
MARKUP = st.text("ab \\`*_{}[]()<>#+-.!|&;~=$@:/'\"\n\t1wW\u202e\x1b\x85é🎨", max_size=30)
HOSTILE = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "![](https://evil.example/track.png)",
    "[free](javascript:alert(1))", "<!-- si-hub: end -->", "a | b \\| c", "`code`` ` x", "**bold** _it_ ~~gone~~",
    "&lt;b&gt; &#60;i&#62; &amp;", "\\", "ends in a backslash\\", "$x^2$ and \\(y\\)",
    "https://evil.example www.evil.example",
    "# heading #", "```\nfence", "a\n---\nb", "|---|", "\u2028line", "<https://evil.example>", "[ref]: x", "x" * 1000,
]  # fmt: skip


def inline(source: str) -> list[Token]:
    return [child for token in PARSER.parse(source) for child in token.children or ()]


def shown(tokens: list[Token]) -> str:
    """What a reader sees; markup of any kind fails."""
    assert {token.type for token in tokens} <= {"text", "text_special"}, tokens
    return "".join(token.content for token in tokens)


def expected(text: str, limit: int = 300) -> str:
    return make_safe(text, limit, prose=True)


@given(MARKUP)
def test_an_escaped_text_is_shown_as_it_is_within_a_line(text: str) -> None:
    assert shown(inline(f"By {escape(text)}.")) == f"By {expected(text)}."


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_become_no_markup(text: str) -> None:
    assert shown(inline(f"# {escape(text)} end")) == f"{expected(text)} end"


@given(st.lists(st.tuples(MARKUP, MARKUP), min_size=1, max_size=3))
def test_cells_of_a_table_are_shown_as_they_are(rows: list[tuple[str, str]]) -> None:
    tokens = PARSER.parse(table(("name", "value"), rows))
    cells = [token for before, token in pairwise(tokens) if before.type == "td_open"]
    assert [shown(cell.children or []) for cell in cells] == [expected(cell) for row in rows for cell in row]


def test_a_bare_address_is_no_link_for_parsers_that_make_some() -> None:
    assert "://" not in escape("https://evil.example")
    assert "www." not in escape("www.evil.example")


def test_long_tables_say_how_much_is_missing() -> None:
    text = table(("a", "b"), [(str(number), "x") for number in range(ROWS + 7)])
    assert text.count("\n") == ROWS + 2
    assert "7 more" in text


def test_free_data_become_one_table_of_values_and_one_for_each_list_of_records() -> None:
    text = tables(
        {"error": 0.12345678, "by": {"unet": 3, "ok": True}, "buckets": [{"from": 0, "to": 9}, {"from": 10, "to": 19}]}
    )
    assert "| error | 0.1235 |" in text
    assert "| by › unet | 3 |" in text
    assert "| by › ok | yes |" in text
    assert "| 10 | 19 |" in text
    assert len([token for token in PARSER.parse(text) if token.type == "table_open"]) == 2


def test_deep_data_are_cut_off_and_not_followed() -> None:
    data: dict[str, object] = {}
    inner = data
    for _ in range(500):
        inner["a"] = inner = {}
    assert len(list(flat(data))) == 1
    assert tables(data)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | MARKUP,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(MARKUP, inner, max_size=3),
        max_leaves=12,
    ).map(lambda value: {"x": value})
)
def test_any_json_becomes_tables_without_markup(data: dict[str, object]) -> None:
    for token in inline(tables(data)):
        assert token.type in ("text", "text_special", "softbreak")
