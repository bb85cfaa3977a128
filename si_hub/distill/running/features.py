"""What the blocks of a denoiser make of their input, compared with the tuned model's: a loss for every layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from si_hub.distill.pair.matching import Pair
from si_hub.distill.running.runner import Runner
from si_hub.distill.running.states import States


class Features:
    """The tuned model's blocks beside the student's; this holds a second model, where the student's is held.

    Args:
        pair: base and tuned model.
        like: the student's runner, whose device and options the tuned model's gets.
        weight: of the features' error in the loss.
    """

    def __init__(self, pair: Pair, like: Runner, weight: float) -> None:
        self.tuned = Runner(pair, device=like.device, dtype=like.dtype, options=like.options, memory=like.memory)
        self.tuned.mix(1.0)
        self.weight = weight

    def compare(self, runner: Runner, states: States) -> tuple[Tensor, Tensor]:
        """The student's prediction, and the weighted mean over all blocks of ``‖own − tuned‖² / ‖tuned‖²``."""
        with record(runner.denoiser) as own:
            predicted = runner(states)
        with torch.no_grad(), record(self.tuned.denoiser) as tuned:
            self.tuned(states)
        errors = [
            (a.float() - b.float()).square().mean() / b.float().square().mean() for a, b in zip(own, tuned, strict=True)
        ]
        return predicted, self.weight * torch.stack(errors).mean()


def blocks(denoiser: nn.Module) -> list[nn.Module]:
    """The members of a denoiser's own lists of blocks, and what stands between them."""
    found: list[nn.Module] = []
    for name, child in denoiser.named_children():
        if isinstance(child, nn.ModuleList):
            found += list(child)
        elif name == "mid_block":
            found.append(child)
    return found


@contextmanager
def record(denoiser: nn.Module) -> Iterator[list[Tensor]]:
    """The output of each of the `blocks` in the order of the calls, the first where there are several."""
    found: list[Tensor] = []

    def keep(module: nn.Module, given: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)

    with ExitStack() as hooks:
        for block in blocks(denoiser):
            remove: Callable[[], None] = block.register_forward_hook(keep).remove
            hooks.callback(remove)
        yield found
