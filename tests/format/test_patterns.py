from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from si_hub import errors
from si_hub.format.patterns import cover, matches_pattern, resolve_patterns

SEGMENT = st.sampled_from(["a", "b", "0", "1", "to_q"])
PATH = st.lists(SEGMENT, min_size=1, max_size=5).map(".".join)
PATTERN = (
    st.lists(SEGMENT | st.sampled_from(["*", "**"]), min_size=1, max_size=5)
    .filter(lambda segments: segments.count("**") < 2)
    .map(".".join)
)


def matches_by_definition(pattern: list[str], path: list[str]) -> bool:
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(matches_by_definition(pattern[1:], path[i:]) for i in range(len(path) + 1))
    return bool(path) and pattern[0] in ("*", path[0]) and matches_by_definition(pattern[1:], path[1:])


@settings(max_examples=300)
@given(pattern=PATTERN, path=PATH)
def test_matching_is_what_the_definition_says(pattern: str, path: str) -> None:
    assert matches_pattern(pattern, path) == matches_by_definition(pattern.split("."), path.split("."))


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("a.b", "a.b", True), ("a.b", "a.b.c", False), ("a.b", "b", False),
        ("a.*", "a.b", True), ("a.*", "a", False), ("a.*", "a.b.c", False),
        ("a.**", "a", True), ("a.**", "a.b.c", True), ("a.**", "ab", False),
        ("**.b", "b", True), ("**.b", "a.a.b", True), ("**.b", "b.a", False),
        ("**", "a.b", True), ("a.*.**", "a", False), ("a.*.**", "a.b", True),
        ("a.**.b", "a.b", True), ("a.**.b", "a.x.y.b", True),
        ("a_*", "a_b", False), ("a", "A", False),
    ],
)  # fmt: skip
def test_the_language_word_by_word(pattern: str, path: str, expected: bool) -> None:
    assert matches_pattern(pattern, path) is expected


def test_a_pattern_of_two_hundred_segments_is_matched_without_backtracking() -> None:
    assert not matches_pattern(".".join(["*"] * 99 + ["**"] + ["*"] * 99 + ["b"]), ".".join(["a"] * 5000))


def test_two_double_stars_are_an_error() -> None:
    with pytest.raises(errors.DocumentError, match="more than one"):
        matches_pattern("**.a.**", "a")


def test_more_work_than_any_real_adapter_makes_is_refused_before_it_begins() -> None:
    with pytest.raises(errors.DocumentError, match="too many patterns"):
        list(resolve_patterns({"x": (f"a.{i}" for i in range(11_000))}, (f"b.{i}" for i in range(1_000))))


def test_resolving_yields_every_match_with_its_pattern() -> None:
    found = list(resolve_patterns({"x": ["a.*"], "y": ["**.b", "c"]}, ["a.b", "c"]))
    assert found == [("a.b", "x", "a.*"), ("a.b", "y", "**.b"), ("c", "y", "c")]


@settings(max_examples=200)
@given(paths=st.sets(PATH, min_size=1, max_size=12), data=st.data())
def test_a_cover_matches_what_it_shall_and_nothing_else(paths: set[str], data: st.DataObject) -> None:
    wanted = data.draw(st.sets(st.sampled_from(sorted(paths))))
    patterns = cover(wanted, paths - wanted)
    assert {path for path in paths if any(matches_pattern(pattern, path) for pattern in patterns)} == wanted
    assert patterns == sorted(set(patterns))
    shuffled = data.draw(st.permutations(sorted(wanted)))
    assert cover(shuffled, sorted(paths - wanted, reverse=True)) == patterns


#: What the attention projections of Stable Diffusion XL's UNet are called.
SDXL = [
    f"{block}.attentions.{attention}.transformer_blocks.{depth}.{name}"
    for block, attentions, depths in (
        ("down_blocks.1", 2, 2), ("down_blocks.2", 2, 10), ("mid_block", 1, 10), ("up_blocks.0", 3, 10),
        ("up_blocks.1", 3, 2),
    )
    for attention in range(attentions)
    for depth in range(depths)
    for name in (
        "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_k", "attn2.to_v",
        "attn2.to_out.0", "ff.net.0.proj", "ff.net.2",
    )
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (".attn2.", ["**.attn2.*", "**.attn2.to_out.*"]),
        ("to_k", ["**.to_k"]),
        ("mid_block", ["mid_block.**"]),
        ("up_blocks.0", ["up_blocks.0.**"]),
        ("transformer_blocks.9.ff.net.2", None),
    ],
)
def test_regular_choices_take_a_handful_of_patterns(rule: str, expected: list[str] | None) -> None:
    wanted = {path for path in SDXL if rule in path}
    patterns = cover(wanted, set(SDXL) - wanted)
    assert len(patterns) <= 6
    assert {path for path in SDXL if any(matches_pattern(pattern, path) for pattern in patterns)} == wanted
    if expected is not None and "attn2" not in rule:
        assert patterns == expected


@pytest.mark.parametrize("values", [2, 4])
def test_even_a_random_choice_among_all_modules_stays_within_the_document(values: int) -> None:
    chance = random.Random(values)
    given_to = {path: chance.randrange(values) for path in SDXL}
    covers = [
        cover([p for p in SDXL if given_to[p] == value], [p for p in SDXL if given_to[p] != value])
        for value in range(1, values)
    ]
    assert len(json.dumps(json.dumps(covers))) < 60_000


def test_many_patterns_at_once_match_what_each_matches_by_definition() -> None:
    dice = random.Random(1)
    segments = ["a", "b", "0", "1"]
    paths = sorted({".".join(dice.choices(segments, k=dice.randrange(1, 6))) for _ in range(200)})
    patterns: set[str] = set()
    while len(patterns) < 800:
        parts = dice.choices([*segments, "*", "*"], k=dice.randrange(1, 6))
        if dice.random() < 0.5:
            parts.insert(dice.randrange(len(parts) + 1), "**")
        patterns.add(".".join(parts))
    found = {(path, pattern) for path, _, pattern in resolve_patterns({"x": sorted(patterns)}, paths)}
    held = {(p, q) for p in paths for q in patterns if matches_by_definition(q.split("."), p.split("."))}
    assert found == held
    assert len(found) > 1000
