"""What a layer does by the format, in numbers written down here, and how an error is measured."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from si_hub.adapter import Layer
from si_hub.architectures.layouts import Part
from si_hub.architectures.model import Module
from si_hub.converters.checking import Check, cut_difference, differ_by_layer, measure_error
from si_hub.converters.dense import BaseModule, Difference
from si_hub.converters.families.contract import Target
from si_hub.storage.tensors import Tensor
from tests.converters.tiny import Held

W, B = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([10.0, 20.0])
TARGET = Target("linear", (2, 2), bias=True)
OWN = BaseModule(
    {"unet": {"m.weight": Held(W), "m.bias": Held(B)}},
    "unet",
    (Part("m"),),
    {"m": Module("linear", (2, 2), bias=True)},
    Path("f"),
    "m",
)


def change(alpha: float | None = None, **leaves: list[object]) -> tuple[object, object]:
    tensors = {name.replace("_weight", ".weight") if name.startswith(("up", "down")) else name:
               Tensor.from_torch(torch.tensor(value)) for name, value in leaves.items()}  # fmt: skip
    found = differ_by_layer(Layer(tensors, alpha), TARGET, OWN)
    return found.weight and found.weight().tolist(), found.bias and found.bias().tolist()


@pytest.mark.parametrize(
    ("leaves", "weight", "bias"),
    [
        # alpha / rank is 3 here.
        ({"up_weight": [[1.0], [2.0]], "down_weight": [[5.0, 7.0]]}, [[15, 21], [30, 42]], None),
        ({"weight_delta": [[1.0, 0.0], [0.0, 2.0]], "bias_delta": [3.0, 4.0]}, [[1, 0], [0, 2]], [3, 4]),
        ({"gain": [2.0, 1.5]}, [[1, 2], [1.5, 2]], [10, 10]),
        ({"gain": [2.0, 1.5], "bias_delta": [-10.0, -10.0]}, [[1, 2], [1.5, 2]], [0, 0]),
        ({"gain_in": [2.0, 0.0]}, [[1, -2], [3, -4]], None),
        ({"kron": [[2.0], [3.0]], "weight_delta": [[1.0, 5.0]]}, [[2, 10], [3, 15]], None),
        ({"kron": [[2.0, 4.0]], "up_weight": [[1.0], [2.0]], "down_weight": [[5.0]]}, [[30, 60], [60, 120]], None),
    ],
)
def test_a_layer_does_what_the_format_says(leaves: dict[str, list[object]], weight: object, bias: object) -> None:
    assert change(3.0, **leaves) == (weight, bias)


def of(weight: list[float] | None, bias: list[float] | None = None) -> Difference:
    return Difference(
        *(None if one is None else (lambda one=one: torch.tensor(one).double()) for one in (weight, bias))
    )


@pytest.mark.parametrize(
    ("found", "expected", "error"),
    [
        (of([3.0, 4.0]), of([3.0, 4.0]), 0.0),
        (of([3.0, 5.0]), of([3.0, 4.0]), 0.2),
        (of([3.0, 4.0], [1.0]), of([3.0, 4.0]), 0.2),
        (of(None), of([3.0, 4.0]), 1.0),
        (of([1.0]), of([0.0]), math.inf),
        (of([0.0]), of(None), 0.0),
    ],
)
def test_an_error_is_relative_to_what_the_source_changes(found: Difference, expected: Difference, error: float) -> None:
    assert measure_error(found, expected) == pytest.approx(error)


def test_the_largest_error_is_kept_with_its_module_and_no_number_is_the_largest() -> None:
    check = Check()
    check.add("a", of([1.0]), of([1.0]))
    check.add("b", of([1.5]), of([1.0]))
    check.add("c", of([1.1]), of([1.0]))
    assert (check.modules, check.largest_error, check.module) == (3, 0.5, "b")
    check.add("d", of([math.nan]), of([1.0]))
    assert math.isnan(check.largest_error)
    assert check.module == "d"


def test_a_part_is_its_rows_in_order() -> None:
    cut = cut_difference(of([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]), ((2, 4), (0, 1)))
    assert cut.weight is not None
    assert cut.bias is not None
    assert (cut.weight().tolist(), cut.bias().tolist()) == ([3, 4, 1], [7, 8, 5])
