"""Models computed block by block: the same numbers and gradients, with less kept on the way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from si_hub.distill.pair.change import ModuleKey
from si_hub.distill.running.blocks import innermost_blocks
from si_hub.distill.running.runner import Runner
from si_hub.distill.running.tracing import trace
from tests.distill.running.sampled import states
from tests.miniature import INK, open_pair

Seen = dict[ModuleKey, tuple[Tensor, Tensor]]


@pytest.fixture(scope="module")
def runners() -> list[Runner]:
    return [Runner(open_pair(INK), blockwise=blockwise) for blockwise in (False, True)]


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
    Runner(runner.pair, runner.pipeline, blockwise=True)
    assert [block.forward for block in innermost_blocks(runner.denoiser)] == forwards
