"""Settings that make no sense are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from si_hub.errors import UsageError
from si_hub.training.settings import Settings, eval_kind


def test_what_is_not_said_has_its_default() -> None:
    assert Settings.of({"rank": None, "steps": 10}) == Settings(steps=10)
    assert set(Settings().said()) == set(Settings.__dataclass_fields__) - {"part", "save_every"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ranks": 4}, "ranks: is no setting"), ({"rank": 0}, "rank: is 1 or more"),
        ({"rank": "8"}, "rank: has another"),
        ({"rank": True}, "rank: has another"), ({"text_encoder": 1}, "text_encoder: has another"),
        ({"router": "magic"}, "router: is none of its choices.*fixed, learned"), ({"rate": 0.0}, "rate: is above 0"),
        ({"transform": "sum"}, "transform: is none of its choices"), ({"layers": "some"}, "layers: is none"),
        ({"dropout": 1.0}, "dropout: is a share"), ({"resolution": 4}, "resolution: is a number of pixels"),
        ({"precision": "fp8"}, "precision: is none"), ({"rate": "fast"}, "rate: has another kind"),
    ],
)  # fmt: skip
def test_a_value_that_makes_no_sense_is_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Settings.of(options)


def test_whole_numbers_are_numbers_too() -> None:
    assert Settings.of({"rate": 1, "average": 0}).rate == 1
    assert eval_kind("float | None") == float | None
