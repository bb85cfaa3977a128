"""What is said about training and written down of it."""

from __future__ import annotations

import pytest

from si_hub.distill.request import TrainingOptions
from si_hub.distill.training.options import recipe_of, remarks, training_document
from si_hub.training.loop import Course, Recipe
from si_hub.words import at_command_line


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
    found = training_document(TrainingOptions(), "no", course(losses, [(0, 0.123456)], 0), 0.5, 7)
    assert len(found["losses"]) == -(-count // every)
    assert found["losses"][0] == pytest.approx(sum(losses[:every]) / every, rel=1e-3)
    assert found["losses"][-1] == pytest.approx(losses[-1] - ((count - 1) % every) / 2, rel=1e-3)
    assert found["errors"] == [[0, 0.1235]]
    assert (found["seed"], found["kept_step"], found["started_at"]) == (7, 0, 0.5)
    assert "stopped" not in found


def test_a_document_says_what_changes_the_result_and_no_folder_s_name() -> None:
    options = TrainingOptions(steps=5, images="/home/somebody/pictures", part=2, checkpointing=True)
    found = training_document(options, "no", course([float("nan")], [], 0, "the loss was nan at step 1"), 0.5, 0)
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
