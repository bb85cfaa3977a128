"""The base models that are shipped, by name."""

from __future__ import annotations

import pytest

from si_hub.architectures.bases import BASES
from si_hub.architectures.shipped import load, load_model, names
from si_hub.errors import UsageError


def test_a_name_gives_the_same_object_every_time() -> None:
    assert all(load(name) is load(name) for name in names())


def test_bases_share_the_models_they_share() -> None:
    assert load("sd15").components["text_encoder"] is load_model(
        next(base for base in BASES if base.name == "sd15").components["text_encoder"].table
    )
    assert load("sdxl").components["text_encoder"] is load("flux").components["text_encoder"]


@pytest.mark.parametrize(("typed", "nearest"), [("sdxxl", "sdxl"), ("sd-15", "sd15"), ("flux.1", "flux")])
def test_a_mistyped_name_is_answered_by_all_names_and_the_nearest(typed: str, nearest: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(typed)
    assert "sd15, sd21, sdxl" in str(caught.value.expected)
    assert f"Nearest is {nearest}" in (caught.value.hint or "")


def test_a_name_like_no_other_is_told_what_else_a_base_can_be() -> None:
    with pytest.raises(UsageError, match=r"no base model is called 'qqqq'.*folder"):
        load("qqqq")
