"""What a training starts from acts as the base does, on the layers that people train."""

from __future__ import annotations

import pytest

from si_hub import architectures
from si_hub.architectures import Architecture, Model
from si_hub.architectures.model import Module
from si_hub.errors import BaseMismatch
from si_hub.training.settings import Settings
from si_hub.training.start import chosen_layers, start_components


@pytest.mark.parametrize(
    ("base", "kind", "count"),
    [
        ("sd15", "attention", 128), ("sd15", "linear", 160), ("sdxl", "attention", 560),
        ("flux", "attention", 19 * 8 + 38 * 3),
    ],
)  # fmt: skip
def test_kinds_of_layers(base: str, kind: str, count: int) -> None:
    """128 and 560: what diffusers' scripts adapt of SD 1.5 and SDXL; Flux has eight projections or three a block."""
    components = architectures.load(base).components
    found = chosen_layers(next(iter(components.values())), kind)
    assert len(found) == count
    assert not any("norm" in path or "emb" in path for path in found)


def test_all_has_the_convolutions_of_the_blocks() -> None:
    found = chosen_layers(architectures.load("sd15").components["unet"], "all")
    assert "down_blocks.0.resnets.0.conv1" in found
    assert "conv_in" not in found


@pytest.mark.parametrize(("branches", "router", "named"), [(1, "learned", False), (3, "learned", False),
                                                           (3, "fixed", False), (2, "learned", True)])  # fmt: skip
def test_pairs_change_nothing_and_branches_are_routed(branches: int, router: str, named: bool) -> None:
    settings = Settings(rank=4, branches=branches, router=router)
    components = start_components(architectures.load("sd15"), "unet", settings, 1, named=named)
    layer = components["unet"].layers["down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"]
    assert layer.tensors["down.weight"].shape == (4 * branches, 768)
    assert not layer.tensors["up.weight"].numpy().any()
    assert abs(layer.tensors["down.weight"].numpy()).max() <= 768**-0.5
    assert ("router.bias" in layer.tensors) == (branches > 1)
    assert ("router.weight" in layer.tensors) == (branches > 1 and router == "learned" and not named)


def test_a_model_without_such_layers_is_named() -> None:
    lone = Architecture("lone", {"unet": Model("X", {"conv_in": Module("conv", (4, 4, 3, 3))})})
    with pytest.raises(BaseMismatch, match="has no layers of that kind"):
        start_components(lone, "unet", Settings(), 0, named=False)
