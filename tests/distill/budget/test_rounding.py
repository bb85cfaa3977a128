"""Fewer bytes wherever they cost little enough: measured, and never where a number does not fit."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from si_hub.adapter import Component, Layer
from si_hub.distill.budget.rounding import LADDER, costs_little, overflow
from si_hub.distill.running.storing import store
from si_hub.storage.tensors import Tensor


def components(value: float) -> dict[str, Component]:
    leaves = {
        "down.weight": torch.full((2, 3), value), "up.weight": torch.ones(4, 2), "router.bias": torch.full((2,), 0.1),
    }  # fmt: skip
    return {"unet": Component("UNet", {"a.b": Layer({n: Tensor.from_torch(v) for n, v in leaves.items()})})}


@pytest.mark.parametrize(("stored", "enough"), [(0.1, True), (0.1009, True), (0.102, False), (float("nan"), False)])
@pytest.mark.parametrize("dtype", LADDER[:-1])
def test_what_rounding_adds_may_be_a_hundredth(dtype: str, stored: float, enough: bool) -> None:
    given = components(0.1)

    def error(found: Mapping[str, Component]) -> float:
        return 0.1 if found is given else stored

    assert costs_little(given, dtype, error) is enough
    assert costs_little(given, LADDER[-1], error)


def test_a_number_that_float16_does_not_hold_is_never_stored_in_it() -> None:
    assert overflow(store(components(65_504.0), "F16")) is None
    assert overflow(store(components(70_000.0), "F16")) == "unet.a.b.down.weight"
    assert not costs_little(components(70_000.0), "F16", lambda _: 0.0)
    assert costs_little(components(70_000.0), "I8", lambda _: 0.0)
