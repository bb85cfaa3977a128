"""The pool of lessons: a window that follows from the step alone, whoever makes the walks, however often killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from si_hub.distill.running.states import States
from si_hub.distill.training.lessons import WINDOW, LessonPool, Lessons, turn
from si_hub.storage.tensors import Tensor
from si_hub.work.folder import Work, WorkEntry
from si_hub.work.processes import Processes

EACH = 12


def walk(number: int) -> Lessons:
    """Lessons whose latents say where they are from."""
    latents = number + torch.arange(EACH).view(-1, 1, 1, 1) / 100
    prompts = tuple(None if row == 0 else f"walk {number}, {row}" for row in range(EACH))
    place = torch.arange(EACH) / EACH
    states = States({"sample": latents.float()}, {"shared": torch.ones(2)}, prompts, place, torch.ones(EACH))
    return Lessons(states, 10 * latents.float())


class Made:
    """Makes walks and remembers which, and whether the tuned model was there to make them."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.teaching = False

    def __call__(self, number: int) -> Lessons:
        assert self.teaching
        self.numbers.append(number)
        return walk(number)

    @contextmanager
    def taught(self) -> Iterator[None]:
        self.teaching = True
        yield
        self.teaching = False


def pool(folder: Path, made: Made, crew: Processes | None = None, steps: int = 2) -> LessonPool:
    work = Work(folder)
    work.open({"test": True})
    return LessonPool(made, made.taught, work, crew or Processes(0, 1, torch.device("cpu")), steps)


def walks_of(lessons: Lessons) -> set[int]:
    return {int(value) for value in lessons.states.inputs["sample"].flatten().tolist()}


def test_the_window_moves_on_by_a_walk_a_turn(tmp_path: Path) -> None:
    made = Made()
    drawn = pool(tmp_path, made, steps=3)
    for step in range(12):
        first = step // 3
        assert walks_of(drawn.draw(step, 64, seed=0)) <= set(range(first, first + WINDOW))
    assert sorted(made.numbers) == sorted(set(made.numbers)), "no walk is made twice"


def test_what_a_step_draws_follows_from_its_number_alone(tmp_path: Path) -> None:
    one, other = pool(tmp_path / "one", Made()), pool(tmp_path / "other", Made())
    along = [one.draw(step, 8, seed=5).target for step in range(11)]
    assert torch.equal(other.draw(10, 8, seed=5).target, along[10])
    assert not torch.equal(other.draw(10, 8, seed=6).target, along[10])


def test_a_draw_covers_the_noise_schedule_and_keeps_what_belongs_together(tmp_path: Path) -> None:
    lessons = pool(tmp_path, Made()).draw(0, EACH, seed=0)
    assert len(lessons) == EACH
    for k, place in enumerate(lessons.states.place.tolist()):
        assert abs(place - k / EACH) < 2 / EACH
    for row in range(EACH):
        number = float(lessons.states.inputs["sample"][row])
        assert float(lessons.target[row]) == pytest.approx(10 * number)
        prompt = lessons.states.prompts[row]
        assert prompt is None or prompt.startswith(f"walk {int(number)},")


def test_a_killed_run_finds_the_walks_of_its_window_and_makes_the_rest_again(tmp_path: Path) -> None:
    first = Made()
    before = pool(tmp_path, first)
    wanted = [before.draw(step, 8, seed=0).target for step in range(7)]
    again = Made()
    after = pool(tmp_path, again)
    assert torch.equal(after.draw(6, 8, seed=0).target, wanted[6])
    assert again.numbers == []
    assert torch.equal(after.draw(4, 8, seed=0).target, wanted[4])


def test_walks_that_are_over_leave_no_file(tmp_path: Path) -> None:
    drawn = pool(tmp_path, Made(), steps=1)
    for step in range(20):
        drawn.draw(step, 4, seed=0)
    assert len(list(tmp_path.glob("*.safetensors"))) <= 2 * WINDOW


def test_processes_make_each_walk_once_between_them(tmp_path: Path) -> None:
    made = [Made(), Made()]
    crews = [Processes(k, 2, torch.device("cpu")) for k in range(2)]
    second = pool(tmp_path, made[1], crews[1])
    # Nobody waits here: the second process's share is there when the first one looks for it.
    with pytest.raises(AssertionError):
        second.draw(0, 8, seed=0)
    first = pool(tmp_path, made[0], crews[0]).draw(0, 8, seed=0)
    assert sorted(made[0].numbers + made[1].numbers) == list(range(WINDOW))
    assert made[0].numbers
    assert made[1].numbers
    assert torch.equal(pool(tmp_path / "alone", Made()).draw(0, 8, seed=0).target, first.target)


def test_lessons_are_cut_joined_and_kept_as_they_are() -> None:
    whole = Lessons.join([walk(0)[:5], walk(0)[[5, 6, 7]], walk(0)[8:]])
    tensors, facts = whole.states.as_tensors()
    entry = WorkEntry(
        {name: Tensor.from_torch(value) for name, value in {**tensors, "target": whole.target}.items()}, facts
    )
    kept = Lessons.from_entry(entry)
    for found in (whole, kept):
        assert torch.equal(found.target, walk(0).target)
        assert torch.equal(found.states.inputs["sample"], walk(0).states.inputs["sample"])
        assert found.states.prompts == walk(0).states.prompts


@pytest.mark.parametrize(("count", "batch", "expected"), [(8, 32, 10), (8, 4, 84), (1, 4000, 1)])
def test_a_walk_lasts_until_it_was_learned_from_twice(count: int, batch: int, expected: int) -> None:
    assert turn(count, batch) == expected
