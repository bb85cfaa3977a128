"""The grammar: what a sentence says is what is read back, and picture order is not sentence order."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.miniature.scenes import (
    BACKGROUNDS,
    COLOURS,
    FACTS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    STYLES,
    Scene,
    Thing,
    parse,
    scenes,
    words,
)
from tests.places import ROOT

things = st.builds(Thing, st.sampled_from(SIZES), st.sampled_from(COLOURS), st.sampled_from(SHAPES))
alone = st.builds(Scene, st.tuples(things), st.sampled_from(list(PLACES)), st.sampled_from(BACKGROUNDS))
pairs = st.builds(Scene, st.tuples(things, things), st.sampled_from(list(RELATIONS)), st.sampled_from(BACKGROUNDS))
RED_STAR, BLUE_SQUARE = Thing("small", "red", "star"), Thing("large", "blue", "square")


@given(alone | pairs, st.none() | st.sampled_from(STYLES))
def test_a_sentence_is_read_back_as_the_scene_it_was_made_of(scene: Scene, style: str | None) -> None:
    assert parse(scene.prompt(style)) == (scene, style)


@given(alone | pairs, st.sampled_from(STYLES))
def test_a_sentence_is_made_of_the_vocabulary_alone(scene: Scene, style: str) -> None:
    assert set(scene.prompt(style).replace(",", " ,").split()) <= set(words())


def test_the_sentence_of_the_issue_is_a_sentence_of_the_grammar() -> None:
    scene, style = parse("a small red star left of a large blue square, on sand, neon style")
    assert scene == Scene((RED_STAR, BLUE_SQUARE), "left of", "sand")
    assert style == "neon"


@pytest.mark.parametrize(
    ("relation", "first"), [("left of", "star"), ("right of", "square"), ("above", "star"), ("below", "square")]
)
def test_the_first_thing_is_the_left_or_upper_one_whatever_the_sentence_names_first(relation: str, first: str) -> None:
    assert Scene((RED_STAR, BLUE_SQUARE), relation, "sky").facts()["first_shape"] == first


def test_a_lone_thing_has_five_facts_and_a_pair_eight() -> None:
    assert len(Scene((RED_STAR,), "at the top", "night").facts()) == 5
    assert len(Scene((RED_STAR, BLUE_SQUARE), "above", "night").facts()) == 8 == len(FACTS)


@pytest.mark.parametrize(
    "sentence",
    [
        "",
        "a red star, on sand",
        "a small red star, on sand",
        "a small red star left of, on sand",
        "a small red star at the top, on mars",
        "a small red star at the top, on sand, baroque style",
        "a small red star at the top on sand",
    ],
)
def test_another_sentence_is_refused_and_quoted(sentence: str) -> None:
    with pytest.raises(ValueError, match="grammar") as refusal:
        parse(sentence)
    assert repr(sentence) in str(refusal.value)


def test_no_scene_is_both_held_out_and_for_training() -> None:
    training = {scene.prompt() for scene in islice(scenes(1), 2000)}
    unseen = {scene.prompt() for scene in islice(scenes(1, held_out=True), 500)}
    assert training.isdisjoint(unseen)
    assert len(unseen) > 300


def test_the_same_seed_draws_the_same_scenes() -> None:
    assert list(islice(scenes(7), 50)) == list(islice(scenes(7), 50)) != list(islice(scenes(8), 50))


def test_the_prompts_to_distill_with_are_those_of_scenes_that_are_not_held_out() -> None:
    lines = (ROOT / "examples/miniature/prompts.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [scene.prompt() for scene in islice(scenes(7_000), len(lines))]
    assert not any(parse(line)[0].is_held_out() for line in lines)
