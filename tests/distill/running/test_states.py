"""States: kept and found again, cut, joined, and told another word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from si_hub.distill.running.runner import Runner
from si_hub.distill.running.states import States
from si_hub.distill.running.trajectory import pick, trajectories
from si_hub.storage.tensors import Tensor
from si_hub.work.folder import Work
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


def numbered(count: int, first: int = 0) -> States:
    """States whose every number says which they are; every third has the null prompt."""
    rows = torch.arange(first, first + count).float()
    prompts = tuple(None if row % 3 == 0 else f"prompt {row:g}" for row in rows.tolist())
    return States({"sample": rows[:, None].expand(-1, 2)}, {"shared": torch.ones(1)}, prompts, rows / 100, rows + 0.5)


def test_states_are_cut_with_everything_that_belongs_to_them() -> None:
    states = numbered(7)
    assert len(states) == 7
    for cut in (states[2:5], states[[2, 3, 4]]):
        assert cut.prompts == ("prompt 2", None, "prompt 4")
        assert cut.inputs["sample"][:, 0].tolist() == [2.0, 3.0, 4.0]
        assert cut.scale.tolist() == [2.5, 3.5, 4.5]
        assert cut.shared is states.shared


def test_batches_are_all_states_in_order_the_last_as_long_as_it_is() -> None:
    batches = numbered(7).batches(3)
    assert [len(batch) for batch in batches] == [3, 3, 1]
    again = States.join(batches)
    assert again.prompts == numbered(7).prompts
    assert torch.equal(again.place, numbered(7).place)


def test_joined_states_are_those_of_each_in_turn() -> None:
    joined = States.join([numbered(2), numbered(3, 10)])
    assert joined.inputs["sample"][:, 0].tolist() == [0.0, 1.0, 10.0, 11.0, 12.0]
    assert joined.prompts == (None, "prompt 1", "prompt 10", "prompt 11", None)


def test_a_word_follows_every_prompt_and_takes_the_null_prompt_s_place() -> None:
    assert numbered(3).with_word("ink").prompts == ("ink", "prompt 1, ink", "prompt 2, ink")
