"""Lessons follow from the step alone; errors and losses are the closed forms of what the denoiser says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from si_hub.distill import open_model
from si_hub.distill.pair.matching import Pair
from si_hub.distill.running.student import Student
from si_hub.training.dataset import read_examples
from si_hub.training.settings import Settings
from si_hub.training.start import start_components
from si_hub.training.task import KeptText, PictureTask
from tests.miniature import BASE


@pytest.fixture
def task(ink: Path) -> Iterator[PictureTask]:
    model = open_model(BASE)
    settings = Settings(rank=2, batch=4, part=4, dropout=0.5)
    runner = KeptText(Pair(model, model, []))
    student = Student(runner, start_components(model.architecture, "unet", settings, 0, named=False))
    yield PictureTask.prepare(runner, student, settings, read_examples([ink]), [], ())
    student.leave()


def test_a_step_is_the_same_every_time_and_another_one_another(task: PictureTask) -> None:
    first, again, other = task.draw(3, 6), task.draw(3, 6), task.draw(4, 6)
    assert torch.equal(first.target, again.target)
    assert first.states.prompts == again.states.prompts
    assert not torch.equal(first.target, other.target)
    assert None in {*first.states.prompts, *other.states.prompts, *task.draw(5, 6).states.prompts}
    assert len(first[:2]) == 2


def test_the_start_is_the_base(task: PictureTask) -> None:
    assert task.error() == 1.0
    up = next(leaf for name, leaf in task.leaves.items() if name.endswith("up.weight"))
    with torch.no_grad():
        up.add_(0.5)
    assert task.error() != 1.0


def test_the_loss_is_the_error_of_the_velocity(task: PictureTask) -> None:
    """The miniature predicts v: its own U-Net, called by hand."""
    shown = task.draw(0, 3)
    pipe = task.student.runner.pipeline
    text = task.student.runner.encode(shown.states.prompts)["encoder_hidden_states"]
    with torch.no_grad():
        said = pipe.unet(shown.states.inputs["sample"], shown.states.inputs["timestep"], text).sample
    torch.testing.assert_close(task.loss(shown), (said - shown.target).square().mean())


def test_texts_are_encoded_once(task: PictureTask, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = task.student.runner
    before = runner.encode(["a red circle", None])
    monkeypatch.setattr(runner.pipeline, "encode_prompt", None)
    after = runner.encode([None, "a red circle"])
    torch.testing.assert_close(after["encoder_hidden_states"], before["encoder_hidden_states"].flip(0))
