"""States of sampling: those of the pipeline's own walk, and which of them are picked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from examples.miniature.checkpoints import unfold
from si_hub.distill.running.runner import Runner
from si_hub.distill.running.states import States
from si_hub.distill.running.trajectory import pick, trajectories
from tests.miniature import BASE, INK, open_pair

# diffusers' Euler schedulers hand a tensor to numpy in a way that numpy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


RED = "a small red star in the middle, on sand"


def runner_of(base: Path, tuned: Path, **options: Any) -> Runner:
    return Runner(open_pair(tuned, base), options=options)


@pytest.fixture(scope="module")
def ink() -> Runner:
    return runner_of(BASE, INK)


def test_a_trajectory_is_the_one_that_the_tuned_pipeline_walks(ink: Runner) -> None:
    seen: list[torch.Tensor] = []

    def keep(pipe: Any, step: int, time: int, values: dict[str, Any]) -> dict[str, Any]:
        seen.append(values["latents"].clone())
        return {}

    tuned = unfold(INK)
    tuned.set_progress_bar_config(disable=True)
    tuned(RED, num_inference_steps=4, generator=torch.Generator().manual_seed(7), output_type="latent",
          callback_on_step_end=keep)  # fmt: skip
    ink.mix(1.0)
    steps = trajectories(ink, ["a large blue ring at the top, on sky", RED], [3, 7], steps=4)
    for step, latents in zip(steps[1:], seen, strict=False):
        assert torch.allclose(step.inputs["sample"][1], latents[0], atol=1e-4)


def test_picked_states_are_spread_over_the_steps_and_some_have_no_prompt(ink: Runner) -> None:
    ink.mix(1.0)
    steps = trajectories(ink, [RED, RED], [1, 2], steps=6)
    chosen = pick(steps, 3, 0.5, [1, 2])
    places = chosen.place.reshape(2, 3)
    assert all(one[0] > 0.65 and 0.32 < one[1] < 0.67 and one[2] < 0.34 for one in places.tolist())
    assert set(pick(steps, 6, 0.5, [1, 2]).prompts) == {RED, None}
    again = pick(steps, 3, 0.5, [1, 2])
    assert again.prompts == chosen.prompts
    assert torch.equal(again.inputs["sample"], chosen.inputs["sample"])


def test_every_step_comes_up_as_often_and_null_prompts_as_often_as_said() -> None:
    count, length = 500, 20
    steps = [
        States(
            {"sample": torch.zeros(count, 1)}, {}, (RED,) * count, torch.full((count,), float(place)),
            torch.ones(count),
        )
        for place in range(length)
    ]  # fmt: skip
    found = pick(steps, 4, 0.15, range(count))
    times = torch.bincount(found.place.long(), minlength=length) / len(found)
    # Three standard deviations of so many draws.
    assert torch.allclose(times, torch.full((length,), 1 / length), atol=3 * (0.05 / len(found)) ** 0.5)
    nulls = sum(prompt is None for prompt in found.prompts) / len(found)
    assert nulls == pytest.approx(0.15, abs=3 * (0.15 * 0.85 / len(found)) ** 0.5)
