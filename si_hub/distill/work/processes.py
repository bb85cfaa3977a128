"""Which of the processes that ``accelerate launch`` started this one is, and who does what."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from si_hub.errors import UsageError

if TYPE_CHECKING:
    import torch

Job = TypeVar("Job")

#: Where launchers say how many processes there are, and which one this is: torchrun and ``accelerate launch``; Intel
#: MPI and MPICH; Open MPI; MVAPICH. accelerate itself looks there, in this order.
_COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_INDICES = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")


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


def processes() -> Processes:
    """The processes that work together."""
    import torch

    if not is_launched():
        return Processes(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    # Without being told, accelerate takes processes without an accelerator for one another's strangers.
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())
    if state.num_processes != _environment_number(_COUNTS, 1):
        raise UsageError(
            "accelerate does not bring the launched processes together", expected=_environment_number(_COUNTS, 1),
            found=state.num_processes,
        )  # fmt: skip
    return Processes(state.process_index, state.num_processes, state.device, state)
