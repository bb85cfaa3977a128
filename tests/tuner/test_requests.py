"""Plans, batches and selections, apart from any pipeline."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from si_hub.errors import UsageError
from si_hub.tuner.layer import Control
from si_hub.tuner.operator import select
from si_hub.tuner.requests import ModelRun, Role, RowPlan, Watch, ask, asked_now, batch_of, current_call, stop_asking

A, B = Role("a", 0.5), Role("b", {"x": 2.0})


def test_rows_that_are_all_the_same_are_one_for_any_batch() -> None:
    plan = RowPlan([(A, B)] * 3)
    assert len(plan.rows) == 1
    assert plan.for_batch(7) is plan
    assert plan.names == {"a", "b"}


def test_a_batch_repeats_the_rows_or_shares_its_instances_among_them() -> None:
    plan = RowPlan([(A,), (A,), (B,), (B,)])
    assert plan.for_batch(4) is plan.for_batch(12) is plan
    assert plan.for_batch(2).rows == ((A,), (B,))
    assert plan.for_batch(2) is plan.for_batch(2)
    for batch in (1, 3, 0):
        with pytest.raises(UsageError):
            plan.for_batch(batch)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_shares_are_the_weights_and_branches_of_every_instance_of_the_batch(dtype: torch.dtype) -> None:
    like = torch.zeros(4, 3, dtype=dtype)
    first, second = Role("a", {"x": 0.1}, (0.0, 1.0, 0.5)), Role("a", 0.7, (2.0, 0.0, 0.0))
    call = ModelRun(Control(), RowPlan([(first,), (second,)]), 4)
    [share] = call.shares("a", "x", 3, like)
    assert share.index is None
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert torch.equal(torch.as_tensor(share.weight), torch.tensor([0.1, 0.7, 0.1, 0.7], dtype=wide))
    assert share.styles is not None
    expected = torch.tensor([[0.0, 1.0, 0.5], [2.0, 0.0, 0.0]] * 2, dtype=wide)
    assert torch.equal(share.styles.whole(), expected)
    [share] = call.shares("a", "y", 1, like)  # a layer of one shared branch
    assert share.styles is None
    assert list(call.shares("b", "x", 3, like)) == []
    rows = RowPlan([(first,), (), (second, B), (Role("b", 0.0),)])
    [share] = ModelRun(Control(), rows, 8).shares("a", "x", 3, torch.cat([like, like]))
    assert share.index is not None
    assert share.index.tolist() == [0, 2, 4, 6]
    [share] = ModelRun(Control(), rows, 8).shares("b", "x", 0, torch.cat([like, like]))
    assert torch.as_tensor(share.weight).tolist() == [2.0, 0.0, 2.0, 0.0]


def test_a_router_and_styles_of_one_adapter_are_two_shares() -> None:
    call = ModelRun(Control(), RowPlan([(Role("a"),), (Role("a", 1.0, (1.0, 0.0)),)]), 2)
    found = {share.styles is None: share.index for share in call.shares("a", "x", 2, torch.zeros(2, 1))}
    assert {routed: index.tolist() for routed, index in found.items() if index is not None} == {True: [0], False: [1]}


def test_a_selection_of_a_thousand_branches_holds_those_that_are_wanted() -> None:
    rows = [[0.0] * 1000 for _ in range(8)]
    for number, row in enumerate(rows):
        row[37 * number] = 1.0 + number
    down = torch.randn(2000, 5, dtype=torch.float64)
    chosen = select(rows, down)
    assert chosen.s.shape == (8, 8)
    assert chosen.of(down).shape == (16, 5)
    assert torch.equal(chosen.of(down)[2:4], down[74:76])
    assert torch.equal(chosen.whole(), torch.tensor(rows, dtype=torch.float64))
    nothing = select([[0.0, 0.0]], down)
    assert nothing.s.tolist() == [0.0]


class Model(nn.Module):
    def __init__(self, seen: list[Any], owner: Control) -> None:
        super().__init__()
        self.seen, self.owner = seen, owner

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        call = current_call(self.owner)
        self.seen.append(None if call is None else call.batch)
        if hidden_states.shape[0] == 5:
            raise ValueError("on purpose")
        return hidden_states


def test_a_run_is_known_inside_of_the_model_alone_and_forgotten_after_errors() -> None:
    owner, seen = Control(), list[Any]()
    model = Model(seen, owner)
    Watch(owner).attach(model)
    Watch(owner).attach(model)
    assert len(model._forward_hooks) == 1
    model(torch.zeros(3, 1))
    asked = ask([(owner, RowPlan([(A,)]))])
    model(hidden_states=torch.zeros(3, 1))
    with pytest.raises(ValueError, match="on purpose"):
        model(torch.zeros(5, 1))
    call = current_call(owner)
    assert call is not None
    assert call.batch is None
    late = Control()
    inside = current_call(late)
    assert inside is not None
    assert inside.plan.names == set()
    stop_asking(asked)
    assert current_call(owner) is None
    assert current_call(late) is None
    assert asked_now() is None
    assert seen == [None, 3, 5]
    twin = copy.deepcopy(model)
    hook: Any = next(iter(twin._forward_pre_hooks.values()))
    assert hook.__self__.owner is twin.owner is not owner
    Watch.detach(model)
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert not model._forward_pre_hooks_with_kwargs


@pytest.mark.parametrize(
    ("args", "kwargs", "batch"),
    [
        ((torch.zeros(4, 2),), {}, 4),
        ((), {"timestep": torch.zeros(1), "hidden_states": torch.zeros(2, 2)}, 2),
        ((), {"input_ids": torch.zeros(3, 2)}, 3),
        (([torch.zeros(1), torch.zeros(1)],), {}, 2),
        ((), {"something": torch.zeros(3, 2)}, None),
        ((torch.zeros(()),), {}, None),
    ],
)
def test_the_batch_is_the_first_axis_of_a_model_s_input(args: Any, kwargs: Any, batch: int | None) -> None:
    assert batch_of(args, kwargs) == batch
