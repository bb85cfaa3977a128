"""What trainers write of their pictures, and everything else that may stand in its place."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from si_hub.converters.pictures import MOST_TAGS, Preview, describe_training

FREQUENCY = {"10_ink": {"ink": 20, " sketch ": 5, "cat": 5}, "1_reg": {"ink": 1, "dog": 2}}


def test_tags_of_all_folders_are_counted_together_the_most_frequent_first() -> None:
    found = describe_training({"ss_tag_frequency": json.dumps(FREQUENCY)})
    assert list(found.tags.items()) == [("ink", 21), ("cat", 5), ("sketch", 5), ("dog", 2)]
    assert found.tag_count == 4


def test_no_more_tags_are_shown_than_a_table_holds() -> None:
    table = {"10_x": {f"tag {number:03d}": 100 - number for number in range(90)}}
    found = describe_training({"ss_tag_frequency": json.dumps(table)})
    assert list(found.tags) == [f"tag {number:03d}" for number in range(MOST_TAGS)]
    assert found.tag_count == 90


def test_tags_of_data_sets_count_as_well() -> None:
    sets = [{"tag_frequency": {"a": {"ink": 3}}}, {"tag_frequency": {"b": {"ink": 4}}}, "nothing"]
    assert describe_training({"ss_datasets": json.dumps(sets)}).tags == {"ink": 7}


def test_folders_triggers_and_previews_are_read() -> None:
    picture = base64.b64encode(b"\xff\xd8" + b"x" * 298).decode()
    found = describe_training({
        "ss_dataset_dirs": json.dumps({"10_ink": {"n_repeats": 10, "img_count": 16}, "bad": {"n_repeats": "x"}}),
        "modelspec.trigger_phrase": "inkstyle, drawn in ink",
        "modelspec.thumbnail": f"data:image/jpeg;base64,{picture}",
        "ssmd_cover_images": json.dumps([picture]),
    })  # fmt: skip
    assert found.folders == {"10_ink": (10, 16)}
    assert found.triggers == ("inkstyle", "drawn in ink")
    first, second = found.previews
    assert (first, second) == (Preview("modelspec.thumbnail", "image/jpeg", 300), Preview("ssmd_cover_images", "", 300))
    assert found.as_dict()["folders"] == {"10_ink": {"repeats": 10, "pictures": 16}}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "3", '{"a": 3}', '{"a": {"b": "c"}}', '{"a": {"b": true}}', "[" * 9999]
)
@pytest.mark.parametrize("key", ["ss_tag_frequency", "ss_datasets", "ss_dataset_dirs", "ssmd_cover_images"])
def test_what_says_nothing_is_passed_over(key: str, text: str) -> None:
    assert describe_training({key: text}).as_dict() == {}


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = (
    "ss_tag_frequency",
    "ss_datasets",
    "ss_dataset_dirs",
    "ssmd_cover_images",
    "trainedWords",
    "modelspec.thumbnail",
)


@given(st.dictionaries(st.sampled_from(KEYS), JSON.map(json.dumps) | st.text(max_size=20)))
def test_whatever_stands_there_is_read_or_passed_over(metadata: dict[str, str]) -> None:
    found = describe_training(metadata)
    assert all(isinstance(count, int) for count in found.tags.values())
    json.dumps(found.as_dict())
