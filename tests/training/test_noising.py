"""What is predicted at each time, by diffusers' own schedulers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from si_hub.training.noising import kind_of_target, min_snr_weights, noisy_of, target_of

LATENTS = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
NOISE = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(1))
TIMES = torch.tensor([5, 300, 900])


def scheduler(prediction: str) -> Any:
    return DDPMScheduler(prediction_type=prediction, beta_schedule="scaled_linear")


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_noise_and_targets_are_the_schedulers_own(prediction: str) -> None:
    made = scheduler(prediction)
    assert kind_of_target(made) == prediction
    torch.testing.assert_close(noisy_of(made, LATENTS, NOISE, TIMES.float()), made.add_noise(LATENTS, NOISE, TIMES))
    found = target_of(made, LATENTS, NOISE, TIMES.float())
    expected = {"epsilon": NOISE, "sample": LATENTS}.get(prediction, made.get_velocity(LATENTS, NOISE, TIMES))
    torch.testing.assert_close(found, expected)


def test_a_flow_is_from_the_picture_to_the_noise() -> None:
    made = FlowMatchEulerDiscreteScheduler()
    assert kind_of_target(made) == "flow"
    times = torch.tensor([0.0, 250.0, 1000.0])
    noisy = noisy_of(made, LATENTS, NOISE, times)
    share = (times / 1000).view(-1, 1, 1, 1)
    torch.testing.assert_close(noisy, LATENTS + share * target_of(made, LATENTS, NOISE, times))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_min_snr_is_its_papers_formula(prediction: str) -> None:
    made = scheduler(prediction)
    alpha = made.alphas_cumprod[TIMES].double()
    snr = alpha / (1 - alpha)
    held = torch.minimum(snr, torch.tensor(5.0, dtype=torch.float64))
    expected = {"epsilon": held / snr, "v_prediction": held / (snr + 1), "sample": held}[prediction]
    torch.testing.assert_close(min_snr_weights(made, TIMES, 5.0).double(), expected, rtol=1e-4, atol=1e-6)
    assert min_snr_weights(made, TIMES, 0.0).tolist() == [1, 1, 1]
    assert min_snr_weights(FlowMatchEulerDiscreteScheduler(), TIMES, 5.0).tolist() == [1, 1, 1]
