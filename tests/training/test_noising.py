"""What a denoiser is asked and should answer, held against diffusers' own schedulers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from si_hub.errors import CannotRun
from si_hub.training.noising import Objective, add_noise


@pytest.mark.parametrize("time", [0, 400, 999])
def test_pictures_are_noised_as_the_scheduler_does_it(pipeline: Any, time: int) -> None:
    scheduler = pipeline.scheduler
    latents, noise = torch.randn(2, 8, 8, 8), torch.randn(2, 8, 8, 8)
    wanted = scheduler.add_noise(latents, noise, torch.tensor([time, time]))
    found = add_noise(scheduler, latents, noise, torch.tensor([float(time)] * 2))
    torch.testing.assert_close(found, wanted)


def test_pictures_of_flow_matching_models_are_noised_along_a_line() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler()
    latents, noise = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2)
    time = scheduler.timesteps[300:301]
    torch.testing.assert_close(add_noise(scheduler, latents, noise, time), scheduler.scale_noise(latents, time, noise))


@pytest.mark.parametrize("time", [0, 400, 999])
def test_a_velocity_is_that_of_the_scheduler(pipeline: Any, time: int) -> None:
    latents, noise, times = torch.randn(2, 8, 8, 8), torch.randn(2, 8, 8, 8), torch.tensor([time, time])
    objective = Objective.of(pipeline.scheduler)
    assert objective.predicts == "v_prediction"
    torch.testing.assert_close(
        objective.answer(latents, noise, times), pipeline.scheduler.get_velocity(latents, noise, times)
    )


def test_noise_and_flow_are_chosen_by_the_scheduler() -> None:
    from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

    latents, noise, times = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2), torch.tensor([500.0])
    assert torch.equal(Objective.of(DDPMScheduler()).answer(latents, noise, times), noise)
    flow = Objective.of(FlowMatchEulerDiscreteScheduler(shift=3.0))
    torch.testing.assert_close(flow.answer(latents, noise, times), noise - latents)
    assert (flow.predicts, flow.shift) == ("flow", 3.0)


def test_a_scheduler_of_another_kind_is_refused() -> None:
    from diffusers import KarrasVeScheduler, VQDiffusionScheduler

    for scheduler in (KarrasVeScheduler(), VQDiffusionScheduler(num_vec_classes=3)):
        with pytest.raises(CannotRun):
            Objective.of(scheduler)


@pytest.mark.parametrize("spread", ["uniform", "middle"])
def test_times_lie_all_over_the_schedule_and_as_a_flow_is_shifted(pipeline: Any, spread: str) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    def draw(scheduler: Any) -> torch.Tensor:
        return Objective.of(scheduler).times(1000, torch.Generator().manual_seed(0), spread)

    plain, found = draw(FlowMatchEulerDiscreteScheduler(shift=1.0)), draw(pipeline.scheduler)
    assert float(plain.median()) == pytest.approx(500, abs=3)
    assert float(plain.quantile(0.1)) == pytest.approx(100 if spread == "uniform" else 217, abs=3)
    assert torch.equal(found, found.long().float())
    assert float(found.min()) >= 0
    assert float(found.max()) <= 999
    # Shifted as diffusers has it: sigma = shift s / (1 + (shift - 1) s), 0.5 becomes 0.75.
    assert float(draw(FlowMatchEulerDiscreteScheduler(shift=3.0)).median()) == pytest.approx(750, abs=3)


def test_weights_are_those_of_min_snr(pipeline: Any) -> None:
    from diffusers.training_utils import compute_snr

    times = torch.tensor([1, 300, 700, 999])
    snr = compute_snr(pipeline.scheduler, times)
    wanted = torch.minimum(snr, torch.tensor(5.0)) / (snr + 1)
    found = Objective.of(pipeline.scheduler).weight(times.float(), 5.0)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)
    assert torch.equal(Objective.of(pipeline.scheduler).weight(times.float(), None), torch.ones(4))
