"""What a stranger's adapter reaches without being asked for."""

from __future__ import annotations

import pytest

from si_hub.architectures.bases import BASES
from si_hub.architectures.reach import out_of_reach


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.name)
def test_every_component_that_a_base_lists_is_reached(base: object) -> None:
    assert out_of_reach(base.name, base.components) == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "component",
    ["vae", "safety_checker", "image_encoder", "controlnet", "unet_", "unetx", "my_text_encoder", "text_encoder_vae"],
)
def test_anything_else_is_out_of_reach_until_it_is_named(component: str) -> None:
    assert out_of_reach("sd15", ["unet", component, "text_encoder_2"]) == [component]
    assert out_of_reach("sd15", [component], allowed=[component]) == []


def test_what_only_another_base_lists_is_out_of_reach() -> None:
    assert out_of_reach("anima", ["text_conditioner"]) == []
    assert out_of_reach("sd15", ["text_conditioner"]) == ["text_conditioner"]
