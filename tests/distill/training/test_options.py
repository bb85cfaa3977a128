"""What is said about training and written down of it, and accelerate as it was."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from diffusers import UNet2DConditionModel

from si_hub.distill.request import TrainingOptions
from si_hub.distill.training.loop import Course, Recipe
from si_hub.distill.training.options import (
    accelerator_of,
    checkpoint_activations,
    keep_accelerate,
    recipe_of,
    remarks,
    show_of,
    training_document,
)
from si_hub.report.progress import ProgressBar
from si_hub.words import at_command_line, keep_words


@pytest.mark.parametrize("own", [None, "bf16"])
def test_the_precision_of_ones_own_accelerator_is_left_alone(own: str | None) -> None:
    AcceleratorState._reset_state()
    mine = Accelerator(cpu=True, mixed_precision=own) if own else None
    with keep_accelerate():
        assert accelerator_of("fp16", torch.device("cpu")).mixed_precision == "fp16"
    assert AcceleratorState._shared_state.get("_mixed_precision") == own
    assert mine is None or mine.mixed_precision == own
    AcceleratorState._reset_state()


def test_training_on_the_cpu_is_autocast_there_though_ones_own_accelerator_is_elsewhere() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState()
    PartialState._shared_state["device"] = torch.device("cuda")
    with keep_accelerate():
        accelerator = accelerator_of("bf16", torch.device("cpu"))
        with accelerator.autocast():
            assert torch.is_autocast_enabled("cpu")
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert PartialState().device == torch.device("cuda")
    AcceleratorState._reset_state(reset_partial_state=True)


def course(losses: list[float], errors: list[tuple[int, float]], best: int, stopped: str | None = None) -> Course:
    return Course(losses=losses, errors=errors, best=best, stopped=stopped)


def test_what_is_said_of_a_training_is_what_went_wrong_and_nothing_else() -> None:
    assert remarks(course([1.0], [(0, 0.5), (4, 0.4)], 4)) == []
    kept = "no step was better than the start, which is kept: try a lower rate, rate=N"
    assert remarks(course([1.0], [(0, 0.5), (4, 0.6)], 0)) == [kept]
    assert remarks(course([1.0], [(0, 0.5)], 0, "the loss was nan at step 2")) == [
        "training stopped early: the loss was nan at step 2", kept,
    ]  # fmt: skip
    with at_command_line():
        [said] = remarks(course([1.0], [(0, 0.5), (4, 0.6)], 0))
    assert said.endswith("try a lower rate, --set rate=N")


@pytest.mark.parametrize(("count", "every"), [(3, 1), (40, 1), (41, 2), (1000, 25)])
def test_a_document_keeps_at_most_forty_losses_each_the_mean_of_as_many(count: int, every: int) -> None:
    losses = [float(k) for k in range(count)]
    found = training_document(TrainingOptions(), course(losses, [(0, 0.123456)], 0), 0.5, 7)
    assert len(found["losses"]) == -(-count // every)
    assert found["losses"][0] == pytest.approx(sum(losses[:every]) / every, rel=1e-3)
    assert found["losses"][-1] == pytest.approx(losses[-1] - ((count - 1) % every) / 2, rel=1e-3)
    assert found["errors"] == [[0, 0.1235]]
    assert (found["seed"], found["kept_step"], found["started_at"]) == (7, 0, 0.5)
    assert "stopped" not in found


def test_a_document_says_what_changes_the_result_and_no_folder_s_name() -> None:
    options = TrainingOptions(steps=5, images="/home/somebody/pictures", part=2, checkpointing=True)
    found = training_document(options, course([float("nan")], [], 0, "the loss was nan at step 1"), 0.5, 0)
    assert found["images"] is True
    assert found["steps"] == 5
    assert found["losses"] == [None]
    assert found["stopped"] == "the loss was nan at step 1"
    assert not {"part", "every", "save_every", "checkpointing"} & found.keys()
    assert "somebody" not in str(found)


def test_options_without_a_value_of_their_own_are_the_recipe_s() -> None:
    told = recipe_of(TrainingOptions(steps=5, samples=4, part=2, rate=0.1, average=0.5, every=3, save_every=2))
    assert (told.steps, told.batch, told.part, told.rate, told.every, told.save_every) == (5, 4, 2, 0.1, 3, 2)
    plain = recipe_of(TrainingOptions())
    assert plain == Recipe(600, 32, 16, 0.05, save_every=50)


def test_activations_are_computed_twice_only_where_and_while_it_is_wanted() -> None:
    unet = UNet2DConditionModel(
        block_out_channels=(8,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), norm_num_groups=4
    )
    for wanted in (True, False):
        with checkpoint_activations(unet, wanted):
            assert unet.is_gradient_checkpointing is wanted
        assert not unet.is_gradient_checkpointing


def test_a_screen_follows_every_step_and_a_bar_is_told_the_words() -> None:
    assert show_of(None) is None
    seen: list[tuple[int, int]] = []
    show_of(lambda done, total: seen.append((done, total)))(3, 4, "loss 0.5")
    assert seen == [(3, 4)]
    told: dict[str, object] = {}
    bar = ProgressBar(SimpleNamespace(update=lambda _, **values: told.update(values)), None)
    # `distill` hands on what it is given so that it speaks the words of who gave it.
    show_of(keep_words(bar))(3, 4, "loss 0.5")
    assert told == {"text": "3/4 loss 0.5", "completed": 3, "total": 4}


def test_what_is_trained_on_the_cpu_is_not_autocast_for_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate takes Apple's device where there is one, whatever device the leaves are on."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr("accelerate.Accelerator", lambda **words: asked.append(words))
    for device in ("cpu", "mps", "cuda:1"):
        accelerator_of("bf16", torch.device(device))
    assert [words["cpu"] for words in asked] == [True, False, False]
    assert {words["device_placement"] for words in asked} == {False}
