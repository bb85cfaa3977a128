"""States: kept and found again, cut, joined, and told another word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from si_hub.distill.running.runner import Runner
from si_hub.distill.running.states import States
from si_hub.distill.running.trajectory import pick, trajectories
from si_hub.distill.work.folder import Work
from si_hub.storage.tensors import Tensor
from tests.miniature import BASE, INK, open_pair

# diffusers' Euler schedulers hand a tensor to numpy in a way that numpy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


RED = "a small red star in the middle, on sand"


def runner_of(base: Path, tuned: Path, **options: Any) -> Runner:
    return Runner(open_pair(tuned, base), options=options)


@pytest.fixture(scope="module")
def ink() -> Runner:
    return runner_of(BASE, INK)


def test_states_come_back_from_what_is_kept(ink: Runner, tmp_path: Path) -> None:
    ink.mix(1.0)
    states = pick(trajectories(ink, [RED], [1], steps=4), 3, 0.5, [4])
    work = Work(tmp_path / "work")
    work.open({})
    tensors, facts = states.as_tensors()
    work.save("states", {name: Tensor.from_torch(value) for name, value in tensors.items()}, facts)
    entry = work.load("states")
    assert entry is not None
    found = States.from_entry(entry)
    assert found.prompts == states.prompts
    assert torch.equal(ink(found), ink(states))
