"""What the base has where a module belongs: parts put together by rows, and clear errors for what is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from si_hub.architectures.layouts import Part
from si_hub.architectures.model import Module
from si_hub.converters.dense import BaseModule, as_double, once
from si_hub.errors import BaseMismatch
from si_hub.storage.tensors import Tensor
from tests.converters.tiny import Held

MODULES = {
    "q": Module("linear", (2, 3), bias=True), "v": Module("linear", (4, 3)), "k": Module("conv", (4, 3, 1, 1)),
    "table": Module("parameter", (5,)),
}  # fmt: skip


def base_of(parts: tuple[Part, ...], **held: torch.Tensor) -> BaseModule:
    parameters = {name.replace("_", "."): Held(value) for name, value in held.items()}
    return BaseModule({"unet": parameters}, "unet", parts, MODULES, Path("lora.safetensors"), "stem")


def test_fused_parts_are_put_where_the_source_has_their_rows() -> None:
    q, v = torch.arange(6.0).reshape(2, 3), 100 + torch.arange(12.0).reshape(4, 3)
    own = base_of((Part("v", ((0, 1), (3, 6))), Part("q", ((1, 3),))), q_weight=q.half(), v_weight=v)
    expected = torch.cat([v[:1], q, v[1:]]).double()
    assert torch.equal(own.weight(), expected)
    assert own.weight().dtype == torch.float64


def test_a_linear_weight_stands_for_a_convolution_of_one_place() -> None:
    own = base_of((Part("k"),), k_weight=torch.ones(4, 3))
    assert own.weight().shape == (4, 3, 1, 1)


def test_a_bare_parameter_is_found_under_its_own_name() -> None:
    assert torch.equal(base_of((Part("table"),), table=torch.arange(5.0)).weight(), torch.arange(5.0).double())


@pytest.mark.parametrize(("held", "found"), [({}, "no such weight"), ({"q_weight": torch.ones(3, 3)}, r"\[3, 3\]")])
def test_what_the_base_lacks_is_named(held: dict[str, torch.Tensor], found: str) -> None:
    with pytest.raises(
        BaseMismatch, match=rf"stem: its numbers need the base model's q.*expected \[2, 3\], found {found}"
    ):
        base_of((Part("q"),), **held).weight()


def test_nobody_writes_into_the_base() -> None:
    weight = torch.ones(2, 3, dtype=torch.float64)
    base_of((Part("q"),), q_weight=weight).weight().zero_()
    assert torch.equal(weight, torch.ones(2, 3, dtype=torch.float64))


def test_values_are_computed_once_where_that_is_asked_for() -> None:
    calls: list[int] = []

    def compute() -> torch.Tensor:
        calls.append(1)
        return torch.ones(1)

    kept = once(compute)
    assert kept() is kept()
    assert calls == [1]


def test_every_dtype_is_widened() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn):
        values = as_double(Tensor.from_torch(torch.tensor([0.5, -2.0]).to(dtype)))
        assert values.tolist() == [0.5, -2.0]
        assert values.dtype == torch.float64
