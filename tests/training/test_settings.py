"""What is wanted of a training: known names, values that make sense, and nothing of this machine in the document."""

from __future__ import annotations

from typing import Any

import pytest

from si_hub.errors import UsageError
from si_hub.training.settings import TrainSettings


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"ranked": 4}, "ranked: no such setting"),
        ({"ranks": "odd"}, "ranks: unknown value"),
        ({"surveyed": 0}, "surveyed: is a whole number, 1 or more"),
        ({"method": "oft"}, "method: unknown value"),
        ({"rank": 0}, "rank: is a whole number, 1 or more"),
        ({"steps": 2.5}, "steps: is a whole number"),
        ({"rate": 0}, "rate: is a number above 0"),
        ({"rate": "fast"}, "rate: is a number above 0"),
        ({"average": 1}, "average: is a share"),
        ({"dropout": -0.1}, "dropout: is a share"),
        ({"noise_offset": -1}, "noise_offset: is a number 0 or above"),
        ({"resolution": 4}, "resolution: is a whole number, 8 or more"),
        ({"trackers": "mlflow"}, "no such tracker"),
        ({"optimizer": "sgd"}, "no such optimiser"),
        ({"method": "lora", "transform": "adain"}, "the method lora has no such thing"),
        ({"precision": "fp8"}, "precision: unknown value"),
        ({"spread": "late"}, "spread: unknown value"),
        ({"layers": "some"}, "layers: unknown value"),
        ({"layers": "all", "targets": "to_q"}, "layers: says the same as targets"),
        ({"rank": float("nan")}, "rank: is a whole number"),
        ({"measured": float("inf")}, "measured: is a whole number"),
        ({"rank": True}, "rank: is a whole number"),
        ({"seed": "x"}, "seed: is a whole number, 0 or more"),
        ({"seed": 2**70}, "seed: is a whole number"),
        ({"buckets": "no"}, "buckets: is true or false"),
        ({"checkpointing": 1}, "checkpointing: is true or false"),
        ({"trigger": 5}, "trigger: is a word"),
        ({"trigger": " "}, "trigger: is a word"),
        ({"targets": 5}, "targets: is names"),
        ({"targets": [1]}, "targets: is names"),
        ({"targets": ""}, "targets: names nothing"),
    ],
)
def test_what_makes_no_sense_is_told(told: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        TrainSettings.of(told)


def test_whole_numbers_are_whole_however_they_are_written() -> None:
    found = TrainSettings.of({"steps": 1e2, "rank": 4.0})
    assert (found.steps, type(found.steps), type(found.rank)) == (100, int, int)


def test_names_come_as_a_list_or_in_one_text() -> None:
    assert TrainSettings.of({"targets": "to_q, to_v"}).target_modules == ["to_q", "to_v"]
    assert TrainSettings.of({"targets": ["to_q,to_v", "to_k"]}).target_modules == ["to_q", "to_v", "to_k"]
    assert "to_out.0" in TrainSettings.of({"targets": None}).target_modules


def test_a_document_says_what_changes_the_result_and_nothing_else() -> None:
    found = TrainSettings.of({"device": "cpu", "part": 2, "rank": 3, "targets": "to_q"}).document()
    assert (found["rank"], found["targets"], found["seed"]) == (3, ["to_q"], 0)
    assert not {"device", "part", "save_every", "checkpointing", "trackers", "rate"} & found.keys()


def test_a_recipe_measures_four_times_and_takes_rates_as_they_are() -> None:
    recipe = TrainSettings.of({"steps": 100, "batch": 6, "average": 0}).recipe(0.25)
    assert (recipe.rate, recipe.relative, recipe.batch) == (0.25, False, 6)
    assert [step for step in range(1, 101) if recipe.measures_after(step)] == [25, 50, 75, 100]
    assert recipe.average_at(90) == 0
