"""The training loop: taken up where it stopped, it ends where it would have ended."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from examples.miniature import training
from examples.miniature.training import Batch, Recipe, train

RECIPE = Recipe("line", steps=40, batch=16, rate=0.05, seed=3, warmup=5, average=0.9)


class Line(nn.Module):
    """Least squares: the loss is least at weight (1, -2) and bias 0.5."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = (self.layer(x)[:, 0] - (x[:, 0] - 2 * x[:, 1] + 0.5)).square().mean()
        return loss


def batch_of(generator: torch.Generator, count: int) -> Batch:
    return {"x": torch.randn(count, 2, generator=generator)}


def trained(work: Path) -> dict[str, torch.Tensor]:
    model = Line()
    train(RECIPE, model, batch_of, work)
    return model.state_dict()


def test_it_finds_the_least_squares_solution(tmp_path: Path) -> None:
    model = Line()
    train(Recipe("line", steps=400, batch=32, rate=0.05, seed=3, average=0.95), model, batch_of, tmp_path)
    assert model.layer.weight[0].tolist() == pytest.approx([1.0, -2.0], abs=0.01)
    assert model.layer.bias.item() == pytest.approx(0.5, abs=0.01)


def test_a_run_stopped_at_any_step_and_taken_up_again_ends_in_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(tmp_path / "whole")
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)
    calls = 0

    def stopping(generator: torch.Generator, count: int) -> Batch:
        nonlocal calls
        calls += 1
        if calls == 17:
            raise KeyboardInterrupt
        return batch_of(generator, count)

    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, Line(), stopping, tmp_path / "stopped")
    resumed = trained(tmp_path / "stopped")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_frozen_parameters_stay_as_they_are(tmp_path: Path) -> None:
    model = Line()
    model.layer.bias.requires_grad_(False)
    train(RECIPE, model, batch_of, tmp_path)
    assert model.layer.bias.item() == 0.0
    assert model.layer.weight.abs().sum() > 0


def test_the_learning_rate_rises_then_falls_to_zero() -> None:
    rates = [RECIPE.rate_at(step) for step in range(RECIPE.steps + 1)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) <= RECIPE.rate
    assert rates[-1] == pytest.approx(0.0)
    assert rates[5:] == sorted(rates[5:], reverse=True)
