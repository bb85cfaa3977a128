"""Models computed block by block: the same numbers and gradients, with less kept on the way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from si_hub.distill.pair.change import ModuleKey
from si_hub.distill.running.blocks import Workplace, compute_by_blocks, innermost_blocks
from si_hub.distill.running.runner import Runner
from si_hub.distill.running.tracing import trace
from si_hub.tuner.layer import Control
from si_hub.tuner.parameters import ParameterAdapter, ParameterLayer
from tests.distill.running.sampled import states
from tests.miniature import INK, open_pair

Seen = dict[ModuleKey, tuple[Tensor, Tensor]]


@pytest.fixture(scope="module")
def runners() -> list[Runner]:
    return [Runner(open_pair(INK), memory=memory) for memory in ("all", "blocks")]


def _observed(runner: Runner, where: Any, probes: int = 2) -> tuple[Tensor, Seen, int]:
    """The prediction, inputs and summed gradients of every changed module, and bytes that the forward pass kept."""
    found: Seen = {}
    kept = 0

    def observe(key: ModuleKey, module: nn.Module, given: Tensor, gradient: Tensor) -> None:
        before = found.get(key)
        found[key] = (given, gradient if before is None else before[1] + gradient)

    def keep(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    modules = runner.modules(runner.pair.changes)
    with trace(modules, len(where), observe), torch.enable_grad():
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            predicted = runner(where)
        for turn in range(probes):
            predicted.square().sum().backward(retain_graph=turn + 1 < probes)  # type: ignore[no-untyped-call]
    return predicted.detach(), found, kept


def test_gradients_at_every_layer_are_those_of_the_whole_graph(runners: list[Runner]) -> None:
    where = states(runners[0])
    (whole, all_of, much), (same, by_blocks, little) = (_observed(runner, where) for runner in runners)
    assert torch.equal(whole, same)
    assert all_of.keys() == by_blocks.keys()
    for key, (given, gradient) in all_of.items():
        assert torch.equal(given, by_blocks[key][0]), key
        assert torch.allclose(gradient, by_blocks[key][1], rtol=1e-4, atol=1e-6 * float(gradient.abs().max())), key
    assert little < 0.35 * much


def test_blocks_that_nothing_looks_into_stay_out_of_the_graph(runners: list[Runner]) -> None:
    """Of the UNet's last layer alone: no block, and no text encoder, has anything to do with its gradient."""
    where = states(runners[0])
    last = [change for change in runners[0].pair.changes if change.module == "conv_norm_out"]
    found = []
    for runner in runners:
        seen: list[Tensor] = []
        with trace(runner.modules(last), len(where), lambda *call: seen.append(call[3])), torch.enable_grad():  # noqa: B023
            runner(where).square().sum().backward()  # type: ignore[no-untyped-call]
        found.append(seen)
    assert len(found[0]) == len(found[1]) == 1
    assert torch.equal(found[0][0], found[1][0])


def test_blocks_are_what_the_libraries_do_not_split(runners: list[Runner]) -> None:
    pipeline = runners[0].pipeline
    kinds = [
        {type(block).__name__ for block in innermost_blocks(getattr(pipeline, name))}
        for name in ("unet", "text_encoder")
    ]
    assert kinds[0] == {"BasicTransformerBlock", "ResnetBlock2D"}
    assert "CLIPEncoderLayer" in kinds[1]
    assert innermost_blocks(nn.Linear(1, 1)) == []


def test_a_pipeline_that_two_runners_share_is_changed_once(runners: list[Runner]) -> None:
    runner = runners[1]
    forwards = [block.forward for block in innermost_blocks(runner.denoiser)]
    Runner(runner.pair, runner.pipeline, memory="blocks")
    assert [block.forward for block in innermost_blocks(runner.denoiser)] == forwards


@pytest.fixture(scope="module")
def halves() -> list[Runner]:
    """The base held in bfloat16, and in float32 with the same numbers."""
    held, same = (Runner(open_pair(INK), dtype=dtype) for dtype in (torch.bfloat16, torch.float32))
    for name in held.pipeline.components:
        if isinstance(model := getattr(held.pipeline, name), nn.Module):
            getattr(same.pipeline, name).load_state_dict(
                {key: value.float() for key, value in model.state_dict().items()}
            )
    return [held, same]


def test_a_cpu_computes_in_float32_what_is_held_in_half_precision(halves: list[Runner], runners: list[Runner]) -> None:
    where = states(runners[0])
    (held, of_held, _), (same, of_same, _) = (_observed(runner, where) for runner in halves)
    assert halves[0].computed == torch.float32
    assert torch.equal(held, same)
    assert of_held.keys() == of_same.keys()
    for key, (given, gradient) in of_same.items():
        assert torch.equal(of_held[key][0], given), key
        assert torch.allclose(of_held[key][1], gradient, rtol=1e-4, atol=1e-6 * float(gradient.abs().max())), key


def test_what_is_no_blocks_has_all_digits_and_blocks_stay_half(halves: list[Runner]) -> None:
    held = halves[0].denoiser
    inside = {id(one) for block in innermost_blocks(held) for one in block.parameters()}
    assert {one.dtype for one in held.parameters() if id(one) in inside} == {torch.bfloat16}
    assert {one.dtype for one in held.parameters() if id(one) not in inside} == {torch.float32}
    exact = Runner(open_pair(INK)).denoiser
    changed = {change.module for change in halves[0].pair.changes if change.component == "unet"}
    assert "conv_in" in changed
    assert torch.equal(held.get_parameter("conv_in.weight"), exact.get_parameter("conv_in.weight"))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.extra, self.table = nn.Linear(3, 3), nn.PReLU(3), nn.Parameter(torch.rand(3))

    def forward(self, given: Tensor) -> Tensor:
        output: Tensor = self.extra(self.layer(given)) + self.table
        return output


class Blocks(nn.Module):
    _no_split_modules = ("Block",)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.blocks = nn.Linear(3, 3), nn.Sequential(Block(), Block())

    def forward(self, given: Tensor) -> Tensor:
        output: Tensor = self.blocks(self.first(given))
        return output


def test_what_nobody_looks_at_and_nothing_trains_keeps_nothing() -> None:
    """A text encoder that was not tuned, with gradients on: nothing of it is computed again."""
    model = Blocks().requires_grad_(False)
    expected = model(torch.ones(2, 3))
    compute_by_blocks([model], Workplace(torch.device("cpu")))
    with torch.enable_grad():
        found = model(torch.ones(2, 3))
    assert torch.equal(found, expected)
    assert not found.requires_grad
    last: Any = model.blocks[1]
    with trace({("", "last"): last.layer}, 2, lambda *call: None), torch.enable_grad():
        assert model(torch.ones(2, 3)).requires_grad


def test_what_is_trained_at_home_gets_its_gradient_from_elsewhere() -> None:
    """Elsewhere is another dtype here, as it is another device on an accelerator; all else stays where it is."""
    torch.manual_seed(0)
    model, expected = Blocks(), Blocks().double()
    expected.load_state_dict(model.state_dict())
    for one in (model, expected):
        one.requires_grad_(False)
        one.get_parameter("blocks.1.extra.weight").requires_grad_(True)
    compute_by_blocks([model], Workplace(torch.device("cpu"), torch.float64))
    given = torch.rand(2, 3, dtype=torch.float64)
    for one in (model, expected):
        one(given).square().sum().backward()
    assert torch.equal(model(given), expected(given))
    moved = {name for name, one in model.named_parameters() if one.dtype == torch.float64}
    assert moved == {"first.weight", "first.bias", "blocks.0.table", "blocks.1.table"}
    gradients = [one.get_parameter("blocks.1.extra.weight").grad for one in (model, expected)]
    assert gradients[0] is not None
    assert gradients[1] is not None
    assert torch.allclose(gradients[0].double(), gradients[1], rtol=1e-6)
    assert [one.grad is None for one in model.parameters()].count(False) == 1


def test_a_block_with_a_models_first_parameter_is_none() -> None:
    """Libraries tell a model's dtype and device by it, and call with what is of these."""
    assert innermost_blocks(Blocks().blocks[0]) == []
    model = Blocks()
    del model.first
    assert innermost_blocks(model) == [model.blocks[1]]


def test_an_adapter_of_a_blocks_own_parameter_acts_and_learns_as_in_the_whole_graph() -> None:
    """It shadows the parameter in calls of the block, which computing it again is not."""
    torch.manual_seed(0)
    state, given, found = Blocks().state_dict(), torch.rand(2, 3), []
    for by_blocks in (False, True):
        model = Blocks().requires_grad_(False)
        model.load_state_dict({name: value.bfloat16().float() for name, value in state.items()})
        if by_blocks:
            compute_by_blocks([model.bfloat16()], Workplace(torch.device("cpu"), torch.float32))
        layer = ParameterLayer.of("table")(Control())
        layer["a"] = ParameterAdapter("blocks.0", torch.full((3,), 0.3))
        layer.active = ("a",)
        layer.attach(model.blocks[0])
        delta = layer["a"].param_delta.weight.requires_grad_()
        start = given.clone().requires_grad_()
        output = model(start)
        output.square().sum().backward()
        found.append((output.detach(), start.grad, delta.grad))
    for one, other in zip(*found, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)
