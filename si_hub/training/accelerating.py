"""accelerate and the progress bar around a training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import unwrap
from typing import TYPE_CHECKING, Any, Protocol

from si_hub.report.progress import Progress, ProgressBar
from si_hub.work.processes import is_launched

if TYPE_CHECKING:
    import torch


@contextmanager
def keep_accelerate() -> Iterator[None]:
    """Afterwards accelerate is as it was: all Accelerators of a process, its user's too, share device and precision."""
    from accelerate.state import AcceleratorState, PartialState

    states = (AcceleratorState, PartialState)
    before = [dict(state._shared_state) for state in states]
    try:
        yield
    finally:
        for state, kept in zip(states, before, strict=True):
            state._reset_state()
            state._shared_state.update(kept)


def accelerator_of(precision: str, device: torch.device, **more: Any) -> Any:
    """accelerate's ``Accelerator`` for a precision and kind of device, whatever an earlier one in this process had.

    It must not choose a device by itself: what is trained is on ours, and its autocast would be another's. What more is
    said goes to accelerate.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    # Launched processes have met on this device already, and are not to meet again.
    AcceleratorState._reset_state(reset_partial_state=not is_launched())
    return Accelerator(mixed_precision=precision, cpu=device.type == "cpu", device_placement=False, **more)


class Choosing(Protocol):
    """What is trained, where one of its branches may act alone."""

    @property
    def chosen(self) -> str | None:
        """The branch that does."""

    def choose(self, branch: str | None) -> None:
        """Let another one."""


@contextmanager
def checkpoint_activations(denoiser: Any, wanted: bool, learner: Choosing | None = None) -> Iterator[None]:
    """Gradient checkpointing, if it is wanted, while the block runs.

    Args:
        denoiser: a diffusers model.
        wanted: whether.
        learner: what the way back computes again, it computes with the branch of it that acted on the way there.
    """
    if wanted:
        denoiser.enable_gradient_checkpointing(None if learner is None else _choosing_again(learner))
    try:
        yield
    finally:
        if wanted:
            denoiser.disable_gradient_checkpointing()


def _choosing_again(learner: Choosing) -> Callable[..., Any]:
    """A block's call of which nothing is kept but what it is given."""
    from torch.utils.checkpoint import checkpoint

    def call(block: Any, *given: Any) -> Any:
        branch = learner.chosen

        def compute(*again: Any) -> Any:
            if learner.chosen != branch:
                learner.choose(branch)
            return block(*again)

        return checkpoint(compute, *given, use_reentrant=False)

    return call


def show_of(progress: Progress | None) -> Any:
    """What follows the training on the screen."""
    if progress is None:
        return None

    def show(done: int, total: int, text: str) -> None:
        assert progress is not None
        if isinstance(bar := unwrap(progress), ProgressBar):
            bar.say(f"{done}/{total} {text}")
        progress(done, total)

    return show
