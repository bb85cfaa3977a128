"""Which of the processes that ``accelerate launch`` started this one is, and who does what."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from si_hub.errors import UsageError
from si_hub.words import label

if TYPE_CHECKING:
    import torch

Job = TypeVar("Job")

#: Where launchers say how many processes there are, and which one this is: torchrun and ``accelerate launch``; Intel
#: MPI and MPICH; Open MPI; MVAPICH. accelerate itself looks there, in this order.
_COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_INDICES = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
#: Devices that are chosen where they are present, by torch's names: of NVIDIA and AMD, Intel, Apple.
ACCELERATORS = frozenset({"cuda", "xpu", "mps"})


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes that work together; one where nothing was launched.

    Attributes:
        index, count: this process among all.
        device: what it computes on.
    """

    index: int
    count: int
    device: torch.device
    _state: Any = None

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.index == 0

    @property
    def solver(self) -> torch.device:
        """Where closed forms are computed: on the device, or on the CPU where that has no float64."""
        import torch

        from si_hub.tuner.kinds import has_float64

        return self.device if has_float64(self.device) else torch.device("cpu")

    def wait(self) -> None:
        """Return when every process has come here."""
        if self._state is not None:
            self._state.wait_for_everyone()

    def share(self, jobs: Sequence[Job], cost: Callable[[Job], float]) -> list[Job]:
        """This process's part of ``jobs``, in their order: the costliest first to whoever has least to do."""
        loads = [0.0] * self.count
        mine: set[int] = set()
        for place in sorted(range(len(jobs)), key=lambda place: (-cost(jobs[place]), place)):
            least = loads.index(min(loads))
            loads[least] += cost(jobs[place])
            if least == self.index:
                mine.add(place)
        return [job for place, job in enumerate(jobs) if place in mine]


def is_launched() -> bool:
    """Whether `accelerate launch` started more than one process."""
    return _environment_number(_COUNTS, 1) > 1


def is_main() -> bool:
    """Whether this process is the one that writes and prints."""
    return _environment_number(_INDICES, 0) == 0 or not is_launched()


def _environment_number(names: Sequence[str], otherwise: int) -> int:
    """The number in the first of these environment variables that there is."""
    return int(next((os.environ[name] for name in names if name in os.environ), otherwise))


def choose_device(said: str | None = None) -> torch.device:
    """The device that was asked for; where none was, this machine's accelerator, or the CPU.

    Raises:
        UsageError: torch knows no such device, or the machine has none.
    """
    import torch

    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    present = found is not None and found.type in ACCELERATORS
    if said is None:
        return torch.device(found.type) if found is not None and present else torch.device("cpu")
    here = f"cpu, {found.type}" if found is not None and present else "cpu"
    try:
        device = torch.device(said)
    except RuntimeError:
        raise UsageError("is no device", key=label("device"), expected=here, found=said) from None
    count = 1 if device.type == "cpu" else torch.accelerator.device_count() if device.type in here.split(", ") else 0
    if (device.index or 0) >= count:
        raise UsageError("this machine has no such device", key=label("device"), expected=here, found=said)
    return device


def processes(device: str | None = None) -> Processes:
    """The processes that work together.

    Args:
        device: what to compute on; launched processes have one each, of this kind.

    Raises:
        UsageError: no such device; launched processes that do not find one another.
    """
    chosen = choose_device(device)
    if not is_launched():
        return Processes(0, 1, chosen)
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    # Without being told, accelerate takes processes without an accelerator for one another's strangers.
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    state = PartialState(cpu=on_cpu or (device is not None and chosen.type == "cpu"))
    if state.num_processes != _environment_number(_COUNTS, 1):
        raise UsageError(
            "accelerate does not bring the launched processes together", expected=_environment_number(_COUNTS, 1),
            found=state.num_processes,
        )  # fmt: skip
    _end_together()
    if device is not None and state.device.type != chosen.type:
        raise UsageError(
            "the launched processes compute on another device", key=label("device"), expected=state.device.type,
            found=device,
        )  # fmt: skip
    return Processes(state.process_index, state.num_processes, state.device, state)


@cache
def _end_together() -> None:
    """Let the processes take leave of one another at their end; one that is gone early can bring others down."""
    import torch

    def take_leave() -> None:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    atexit.register(take_leave)
