"""Sliders as a panel, and what they say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from si_hub.app.controls import Panel, read_scene
from si_hub.app.studio import Branches, Mix, Scene
from si_hub.errors import UsageError


@pytest.fixture
def studio() -> Any:
    branches = {"two": Branches({"ink": 0.75, "neon": 0.25}, True), "learned": Branches({"a": 0.5, "b": 0.5}, False)}
    return SimpleNamespace(names=["two", "plain", "learned"], branches=branches)


def test_every_adapter_has_a_weight_and_every_named_style_a_slider(studio: Any) -> None:
    panel = Panel.of(studio)
    assert [(one.kind, one.adapter, one.label, one.start) for one in panel.controls] == [
        ("weight", "two", "weight of two", 1.0), ("by_hand", "two", "mix its styles by hand", True),
        ("style", "two", "ink", 0.75), ("style", "two", "neon", 0.25),
        ("weight", "plain", "weight of plain", 1.0),
        ("weight", "learned", "weight of learned", 1.0), ("by_hand", "learned", "mix its styles by hand", False),
        ("style", "learned", "a", 0.5), ("style", "learned", "b", 0.5),
    ]  # fmt: skip


def test_a_learned_router_chooses_until_its_styles_are_mixed_by_hand(studio: Any) -> None:
    panel = Panel.of(studio)
    values = [0.9, True, 0.7, 0, -1, 1, False, 0.5, 0.5]
    assert panel.read_mix(values) == Mix(
        {"two": 0.9, "plain": -1.0, "learned": 1.0}, {"two": {"ink": 0.7, "neon": 0.0}}
    )  # fmt: skip
    values[6] = True
    assert panel.read_mix(values).styles["learned"] == {"a": 0.5, "b": 0.5}


def test_a_scene_is_read_and_what_is_none_is_told() -> None:
    assert read_scene(["a fox", 7, 20, 3.5]) == Scene("a fox", 7, 20, 3.5)
    assert read_scene([None, 0.0, 1, 0]) == Scene("", 0, 1, 0.0)
    for values, said in (
        (["", None, 20, 3], "seed: is no number .found nothing"),
        (["", -1, 20, 3], "seed: is no seed"),
        (["", 0, 0, 3], "steps: is no number of steps .expected 1 to 200, found 0"),
        (["", 0, 20, float("nan")], "guidance: is no number"),
        (["", 0, "many", 3], "steps: is no number"),
    ):
        with pytest.raises(UsageError, match=said):
            read_scene(values)
