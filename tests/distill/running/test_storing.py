"""Layers stored as float16, and as whole numbers whose products are near those of the floats."""

from __future__ import annotations

import torch

from si_hub.adapter import Component, Layer
from si_hub.distill.running.storing import store
from si_hub.format.whole import is_whole
from si_hub.storage.tensors import Tensor


def components() -> dict[str, Component]:
    torch.manual_seed(0)
    leaves = {
        "down.weight": torch.randn(4, 3, 3, 3), "up.weight": torch.randn(5, 2) / 100, "router.bias": torch.ones(2) / 3,
        "bias_delta": torch.randn(5),
    }  # fmt: skip
    return {"unet": Component("UNet", {"a.b": Layer({n: Tensor.from_torch(v) for n, v in leaves.items()})})}


def test_all_numbers_but_the_routers_are_rounded() -> None:
    given = components()["unet"].layers["a.b"]
    layer = store(components(), "F16")["unet"].layers["a.b"]
    assert {leaf: tensor.dtype for leaf, tensor in layer.tensors.items()} == {
        "down.weight": "F16", "up.weight": "F16", "bias_delta": "F16", "router.bias": "F32",
    }  # fmt: skip
    assert torch.equal(layer.tensors["up.weight"].torch(), given.tensors["up.weight"].torch().half())


def test_a_pair_of_whole_numbers_stands_for_nearly_the_same_product() -> None:
    """Each factor is at most half a step of its row's largest number off, so its relative error is below 1 / 254."""
    given = components()["unet"].layers["a.b"]
    layer = store(components(), "I8")["unet"].layers["a.b"]
    assert is_whole(layer.tensors)
    assert layer.tensors["bias_delta"].dtype == "F16"
    for branch in (slice(0, 2), slice(2, 4)):
        up, down = (layer.tensors[leaf].torch().double() for leaf in ("up.weight", "down.weight"))
        exact_up, exact = (given.tensors[leaf].torch().double() for leaf in ("up.weight", "down.weight"))
        product = torch.einsum("or,r...->o...", up, down[branch])
        wanted = torch.einsum("or,r...->o...", exact_up, exact[branch])
        largest = exact_up.abs().amax(0) * exact[branch].abs().flatten(1).amax(1)
        assert float((product - wanted).abs().max()) <= float((largest * (2 / 254 + 1 / 254**2)).sum())
        assert float((product - wanted).norm() / wanted.norm()) < 0.01
