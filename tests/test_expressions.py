"""Expressions matched without going back: what Python's `re` says of them, in a time that has a bound."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from si_hub.errors import FormatError
from si_hub.expressions import (
    EXPRESSIONS_LIMIT,
    LENGTH_LIMIT,
    NAMES_LIMIT,
    STEPS_LIMIT,
    Expression,
    UnreadableExpression,
    read_patterns,
)

ATOMS = st.sampled_from(["a", "b", "1", "_", ".", r"\.", r"\d", r"\w", r"\S", "[ab]", "[^a.]", "[0-9_]", "[]b]"])
REPEATS = st.sampled_from(["", "", "", "*", "+", "?", "*?", "{2}", "{1,2}", "{,2}", "{0}", "{2,}"])


def join_parts(parts: list[str]) -> str:
    return "".join(parts)


def repeat(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    groups = st.builds("({}){}".format, inner, REPEATS) | st.builds("(?:{}){}".format, inner, REPEATS)
    choices = st.builds("({}|{})".format, inner, inner)
    return st.lists(groups | choices | st.builds("{}{}".format, ATOMS, REPEATS), max_size=4).map(join_parts)


PIECES = st.lists(st.builds("{}{}".format, ATOMS, REPEATS), max_size=4).map(join_parts)
#: Short ones: with long ones it is `re` that this test would wait for.
PATTERNS = st.recursive(PIECES, repeat, max_leaves=4).filter(lambda pattern: len(pattern) < 50)
TEXTS = st.text("ab1_.x", max_size=9)


@settings(max_examples=400)
@given(PATTERNS, TEXTS)
@example(".*" * 5 + "b", "a" * 9)
@example("(a*)*", "aa")
@example("a|b", "b.a")
def test_the_same_paths_match_as_peft_finds_with_re(pattern: str, path: str) -> None:
    """What PEFT looks a module up with, and what it takes target_modules for."""
    expression = Expression(pattern)
    assert expression.matches_end(path) == (re.match(rf"(.*\.)?({pattern})$", path) is not None)
    assert expression.matches(path) == (re.fullmatch(pattern, path) is not None)


@pytest.mark.parametrize(
    ("pattern", "path", "found"),
    [
        (r"^down\.\d+\.to_q", "down.3.to_q", True),
        (r"^down\.\d+\.to_q", "x.down.3.to_q", False),
        (r"down\.\d+\.to_q$", "x.down.3.to_q", True),
        (r".*\.(to_k|to_q)", "x.down.3.to_q", True),
        (r"[[.]x", "[x", None),
        (r"é[à-ü]", "x.éé", True),
        (r"\$", "x.$", True),
    ],
)
def test_anchors_classes_and_letters_of_any_script(pattern: str, path: str, found: bool | None) -> None:
    if found is None:
        with pytest.raises(UnreadableExpression):
            Expression(pattern)
    else:
        assert Expression(pattern).matches_end(path) is found


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("(?=a)", "(?="), ("(?!a).*", "(?!"), ("(?P<n>a)", "(?P"), ("(?i)a", "(?i"), (r"(a)\1", r"\1"), (r"a\b", r"\b"),
        (r"a\Z", r"\Z"), ("a**", "repeated"), ("a*+", "repeated"), ("*a", "before"), ("(a", "without its )"),
        ("a)", "without its ("), ("[b-a]", "class"), ("[a", "class"), ("a{3,1}", "count"), ("a{", "counts nothing"),
        ("^a|b", "beside |"), ("a^b", "inside"), ("a\\", "\\"), ("a" * (LENGTH_LIMIT + 1), "characters"),
        ("(a{99}){99}", "written out"), ("(((){999}){999}){999}", "repetitions of repetitions"),
        ("(" * 30 + ")" * 30, "groups"), ("[a--b]", "class"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_by_name(pattern: str, says: str) -> None:
    with pytest.raises(UnreadableExpression) as caught:
        Expression(pattern)
    assert says in str(caught.value)
    with pytest.raises(FormatError, match="alpha_pattern: an expression that is not understood"):
        read_patterns({f".*{pattern}": 1}, "alpha_pattern")


def test_the_first_pattern_of_a_table_counts_be_it_a_name_or_an_expression() -> None:
    table = read_patterns({"x.to_q": 1, r"b\d+\.to_q": 2, "to_q": 3, r"a\.b": 4, "a.b": 5}, "rank_pattern")
    assert [table.find(path, 0) for path in ("x.to_q", "b7.to_q", "c.to_q", "to_q", "a.b", "aXb", "q")] == [
        1, 2, 3, 3, 4, 0, 0,
    ]  # fmt: skip


def test_twelve_times_anything_is_found_missing_in_steps_of_the_text_s_length() -> None:
    expression = Expression(".*" * 12 + "Z")
    assert not expression.matches_end("ab." * 300)
    assert expression.matches_end("ab." * 300 + "Z")
    assert expression.steps < 2 * 901 + 100


def test_a_table_that_takes_too_long_is_refused_after_as_many_steps() -> None:
    """With every ``a``, one more place of each expression stays open for two hundred characters."""
    table = read_patterns({f"(Z|{i}|Z.*a.{{200}})y": None for i in range(EXPRESSIONS_LIMIT)}, "alpha_pattern")
    paths = [f"{'ab.' * 200}{number}y" for number in range(10_000)]
    with pytest.raises(FormatError, match="alpha_pattern: its expressions take longer"):
        any(table.find(path, None) for path in paths)
    # A lookup more than the limit, at most: of the last expression, in all of a path.
    assert STEPS_LIMIT < table.steps < 1.1 * STEPS_LIMIT


def test_thousands_of_names_are_looked_up_and_not_gone_through() -> None:
    table = read_patterns({f"layers.{i}.to_q": i for i in range(NAMES_LIMIT)}, "alpha_pattern")
    assert not table.expressions
    assert all(table.find(f"model.layers.{i}.to_q", None) == i for i in range(4000))
    assert table.steps == 0


def test_more_patterns_than_any_configuration_has_are_refused() -> None:
    with pytest.raises(FormatError, match="more patterns than any real"):
        read_patterns({str(i): i for i in range(NAMES_LIMIT + 1)}, "alpha_pattern")
    with pytest.raises(FormatError, match="more expressions than any real"):
        read_patterns({f"{i}.*": i for i in range(EXPRESSIONS_LIMIT + 1)}, "alpha_pattern")
