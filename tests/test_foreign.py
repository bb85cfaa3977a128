"""Foreign text: one line, seen characters, bounded; JSON that means the same."""

from __future__ import annotations

import json
import tracemalloc
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from si_hub.foreign import join_safely, json_text, make_lines_safe, make_safe

#: Character → how it is shown: what moves cursors, ends lines, turns the reading direction, has no width, is nothing.
SHOWN = {
    "\x1b": r"\x1b", "\x00": r"\x00", "\x7f": r"\x7f", "\x9b": r"\x9b", "\x85": r"\x85", "\n": r"\n", "\r": r"\r",
    "\t": r"\t", "\u2028": r"\u2028", "\u2029": r"\u2029", "\u202e": r"\u202e", "\u2066": r"\u2066",
    "\u200e": r"\u200e", "\u061c": r"\u061c", "\u200b": r"\u200b", "\u200d": r"\u200d", "\u2060": r"\u2060",
    "\ufeff": r"\ufeff", "\u00ad": r"\xad", "\u3164": r"\u3164", "\u034f": r"\u034f", "\u2800": r"\u2800",
    "\U000e0041": r"\U000e0041", "\U000e0100": r"\U000e0100", "\udcff": r"\udcff", "\ue000": r"\ue000",
    "\u00a0": r"\xa0",
}  # fmt: skip


@pytest.mark.parametrize("character", SHOWN, ids=lambda c: f"U+{ord(c):04X}")
def test_what_steers_or_hides_is_written_out(character: str) -> None:
    assert make_safe(f"a{character}b") == f"a{SHOWN[character]}b"
    assert make_lines_safe(f"a{character}b") == (f"a{SHOWN[character]}b" if character != "\n" else "a\nb")


@pytest.mark.parametrize("text", ["plain", "赤い円", "naïve", "e\u0301", "‘’–…", "❤\ufe0f", "שלום", "a \\ b", ""])
def test_what_people_write_is_left_as_it_is(text: str) -> None:
    assert make_safe(text) == text
    assert json_text(text) == json.dumps(text, ensure_ascii=False)


@given(st.text(st.characters(), max_size=40), st.integers(12, 60), st.booleans(), st.booleans())
def test_every_text_is_one_line_of_seen_characters_within_its_limit(
    text: str, limit: int, keep_end: bool, prose: bool
) -> None:
    found = make_safe(text * 3, limit, keep_end=keep_end, prose=prose)
    assert found.isprintable()
    assert len(found) <= limit
    assert not {unicodedata.category(c)[0] for c in found} & {"C"}
    assert len(found.splitlines()) <= 1


@given(st.recursive(st.text(max_size=9), lambda x: st.dictionaries(st.text(), x, max_size=3)))
def test_json_means_what_it_meant_and_shows_nothing_unseen(data: object) -> None:
    for indent in (None, 2):
        text = json_text(data, indent)
        assert json.loads(text) == data
        assert text.replace("\n", "").isprintable()


def test_json_escapes_what_a_terminal_obeys_beyond_ascii() -> None:
    assert json_text("\x9b31m\u202eend\x7f\U000e0041") == r'"\u009b31m\u202eend\u007f\udb40\udc41"'


def test_a_long_text_is_cut_where_it_says_so() -> None:
    assert make_safe("x" * 200) == "x" * 99 + "…"
    assert make_safe(f"{'x' * 300}.weight", 50, keep_end=True) == f"{'x' * 23} … {'x' * 16}.weight"
    assert make_safe("\x1b" * 200, 50, keep_end=True).startswith(r"\x1b")


def test_prose_has_single_spaces_and_no_ends() -> None:
    assert make_safe("  a red\n\tring\u2028\xa0here ", prose=True) == "a red ring here"


def test_accents_do_not_climb_over_other_lines() -> None:
    assert make_safe("z" + "\u0301" * 4) == "z" + "\u0301" * 4
    assert make_safe("z" + "\u0301" * 6, 100) == "z" + "\u0301" * 4 + r"\u0301\u0301"


def test_a_line_break_in_a_line_makes_no_second_one() -> None:
    assert join_safely(["a\nb", "c"]) == "a\\nb\nc"


@pytest.mark.parametrize("letter", ["\x1b", "字"])
def test_of_a_hundred_megabytes_only_what_is_shown_is_looked_at(letter: str) -> None:
    text = letter * 10**8
    tracemalloc.start()
    try:
        assert len(make_safe(text)) == 100
        assert len(make_safe(text, keep_end=True)) <= 100
        assert len(make_safe(text, prose=True)) == 100
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
