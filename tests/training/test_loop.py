"""The loop that trains an adapter: exact resume, any number of processes, and never worse than its start."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from si_hub.errors import FileAccessError, FormatError, UsageError
from si_hub.training.loop import Course, Gradient, Recipe, root_mean_square, run_loop, swap_values, unit_of
from tests.systems import posix_alone


class Killed(Exception):
    """Stands for a process that goes away."""


class Regression:
    """Least squares: finds a matrix from products with it."""

    def __init__(self, *, wrong_error: bool = False, dies_at: int | None = None) -> None:
        generator = torch.Generator().manual_seed(0)
        self.wanted = torch.randn(6, 4, generator=generator)
        self.leaves = {
            "weight": nn.Parameter(self.wanted + 0.5 * torch.randn(6, 4, generator=generator)),
            "bias": nn.Parameter(torch.full((6,), 0.1)),
        }
        self.wrong_error = wrong_error
        self.dies_at = dies_at

    def draw(self, step: int, count: int) -> Tensor:
        if step == self.dies_at:
            raise Killed
        return torch.randn(count, 4, generator=torch.Generator().manual_seed(step))

    def loss(self, part: Tensor) -> Tensor:
        found = nn.functional.linear(part, self.leaves["weight"], self.leaves["bias"])
        return (found - part @ self.wanted.T).square().mean()

    def error(self) -> float:
        distance = float((self.leaves["weight"].detach() - self.wanted).square().sum())
        return 1.0 / distance if self.wrong_error else distance


RECIPE = Recipe(steps=40, batch=8, part=4, save_every=7, every=10)


def run(task: Regression, recipe: Recipe = RECIPE, **options: Any) -> Course:
    return run_loop(task, recipe, Accelerator(cpu=True), **options)


def test_training_finds_what_it_is_told_and_says_how_it_went() -> None:
    task, shown = Regression(), []
    course = run(task, show=lambda *told: shown.append(told))
    assert course.error < 0.2 * course.errors[0][1]
    assert course.error == pytest.approx(task.error())
    assert [step for step, _ in course.errors] == [0, 10, 20, 30, 40]
    assert len(course.losses) == len(shown) == 40
    assert shown[-1][:2] == (40, 40)
    assert f"best {course.error:.4f}" in shown[-1][2]


def test_what_gets_worse_by_training_stays_what_it_was() -> None:
    task = Regression(wrong_error=True)
    before = {name: leaf.detach().clone() for name, leaf in task.leaves.items()}
    course = run(task)
    assert course.best == 0
    assert all(torch.equal(leaf, before[name]) for name, leaf in task.leaves.items())


def test_a_loss_that_is_no_number_ends_training_with_the_best_so_far() -> None:
    task = Regression()
    draw = task.draw
    task.draw = lambda step, count: draw(step, count) * (math.nan if step == 25 else 1.0)  # type: ignore[method-assign]
    course = run(task)
    assert course.stopped == "the loss was nan at step 26"
    assert course.best == 20
    assert course.error == pytest.approx(task.error())


@pytest.mark.parametrize("dies_at", [3, 7, 25, 39])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path, dies_at: int) -> None:
    whole = Regression()
    undisturbed = run(whole)
    file = tmp_path / "run.state"
    with pytest.raises(Killed):
        run(Regression(dies_at=dies_at), checkpoint=file)
    assert file.exists() == (dies_at >= RECIPE.save_every)
    resumed = Regression()
    course = run(resumed, checkpoint=file)
    assert course == undisturbed
    assert all(torch.equal(leaf, whole.leaves[name]) for name, leaf in resumed.leaves.items())


@pytest.mark.parametrize("nan_at", [None, 25])
def test_a_run_that_is_over_is_not_trained_again(tmp_path: Path, nan_at: int | None) -> None:
    """Who is killed between training and writing the adapter has trained for good."""
    task, file = Regression(), tmp_path / "run.state"
    draw = task.draw
    task.draw = lambda step, count: draw(step, count) * (math.nan if step == nan_at else 1.0)  # type: ignore[method-assign]
    course = run(task, checkpoint=file)
    again = Regression(dies_at=nan_at or RECIPE.steps - 1)
    assert run(again, checkpoint=file).errors == course.errors
    assert all(torch.equal(leaf, task.leaves[name]) for name, leaf in again.leaves.items())


class Bomb:
    """Runs something when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("exploded", "w")


def other_things(file: Path) -> None:
    torch.save({"leaves": {}}, file)


def code(file: Path) -> None:
    torch.save({"leaves": Bomb()}, file)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut off": lambda file: file.write_bytes(file.read_bytes()[:-100]),
    "empty": lambda file: file.write_bytes(b""),
    "garbage": lambda file: file.write_bytes(b"\x80garbage" * 99),
    "something else": other_things,
    "code": code,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_one_error_and_nothing_in_it_is_run(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "run.state"
    run(Regression(), checkpoint=file)
    DAMAGES[damage](file)
    with pytest.raises(FormatError, match=r"run\.state: is .*no checkpoint\. Delete it to start afresh"):
        run(Regression(), checkpoint=file)
    assert not (tmp_path / "exploded").exists()


@posix_alone
def test_without_room_for_a_checkpoint_the_last_one_stays(tmp_path: Path) -> None:
    """The limit on a file's size stands for a full disk: both are told by the call that writes."""
    import resource

    file = tmp_path / "run.state"
    with pytest.raises(Killed):
        run(Regression(dies_at=20), checkpoint=file)
    before, limits = file.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(FileAccessError, match=r"run\.state: cannot be written: File too large"):
            run(Regression(), checkpoint=file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["run.state"]


def test_the_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.state"
    with pytest.raises(Killed):
        run(Regression(dies_at=20), checkpoint=file)
    other = Regression()
    other.leaves["more"] = nn.Parameter(torch.ones(2))
    with pytest.raises(UsageError, match="the checkpoint of another training"):
        run(other, checkpoint=file)


def test_gradients_of_parts_add_up_to_the_gradient_of_the_batch() -> None:
    task = Regression()
    leaves = list(task.leaves.values())
    batch = task.draw(0, 8)
    wanted = torch.autograd.grad(task.loss(batch), leaves)
    gradient = Gradient(leaves)
    for part in torch.split(batch, 2):
        task.loss(part).backward()  # type: ignore[no-untyped-call]
        gradient.take()
    gradient.put(Accelerator(cpu=True), parts=4)
    for leaf, expected in zip(leaves, wanted, strict=True):
        assert leaf.grad is not None
        torch.testing.assert_close(leaf.grad, expected)
    assert not gradient.total.any()


def test_a_step_is_measured_by_the_size_its_leaf_starts_with() -> None:
    assert root_mean_square(torch.tensor([3.0, -3.0])) == pytest.approx(3.0)
    assert root_mean_square(torch.zeros(4)) == 0.01
    recipe = Recipe(steps=1, batch=2, rate=0.1, average=0.0, every=1)
    task = Regression()
    before = {name: leaf.detach().clone() for name, leaf in task.leaves.items()}
    errors = iter([1.0, 0.0])
    task.error = lambda: next(errors)  # type: ignore[method-assign]
    run(task, recipe)
    for name, leaf in task.leaves.items():
        # Adam's first step has one size in every direction, whatever the gradient's.
        step = (leaf.detach() - before[name]).abs().max()
        assert float(step) == pytest.approx(0.1 * float(before[name].square().mean().sqrt()), rel=1e-3)


def test_the_rate_rises_falls_and_ends_at_zero() -> None:
    recipe = Recipe(steps=100)
    rates = [recipe.rate_at(step) for step in range(100)]
    assert max(rates) <= 1.0
    assert rates[0] < rates[4]
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert recipe.rate_at(100) == pytest.approx(0.0)


def test_values_are_swapped_in_and_out_again_even_where_something_fails() -> None:
    leaf = nn.Parameter(torch.ones(2))
    leaves, values = {"a": leaf}, {"a": torch.zeros(2)}
    with pytest.raises(Killed), swap_values(leaves, values):
        raise Killed(leaf.sum())
    assert leaf.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("batch", "processes", "expected"), [(32, 1, (2, 16)), (32, 2, (1, 16)), (24, 2, (1, 12)), (20, 1, (2, 10))]
)
def test_a_batch_is_shared_in_equal_parts(batch: int, processes: int, expected: tuple[int, int]) -> None:
    assert Recipe(steps=1, batch=batch).parts(processes) == expected


def test_a_batch_that_processes_cannot_share_is_refused() -> None:
    with pytest.raises(UsageError, match=r"batch: .* \(expected a multiple of 3, found 32\)"):
        Recipe(steps=1).parts(3)


SCRIPT = """
import sys, torch
from accelerate import Accelerator
from tests.training.test_loop import RECIPE, Regression
from si_hub.training.loop import run_loop
task, accelerator = Regression(), Accelerator(cpu=True)
course = run_loop(task, RECIPE, accelerator)
if accelerator.is_main_process:
    leaves = {name: leaf.detach() for name, leaf in task.leaves.items()}
    torch.save({"leaves": leaves, "processes": accelerator.num_processes, "losses": course.losses}, sys.argv[1])
accelerator.end_training()
"""


def test_two_processes_train_the_same_as_one(tmp_path: Path, two_processes: Callable[..., str]) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    two_processes(str(script), str(tmp_path / "two.pt"))
    two = torch.load(tmp_path / "two.pt", weights_only=True)
    assert two["processes"] == 2
    one = Regression()
    course = run(one)
    assert course.losses == pytest.approx(two["losses"], rel=1e-6)
    for name, leaf in one.leaves.items():
        torch.testing.assert_close(leaf.detach(), two["leaves"][name], rtol=0, atol=1e-6)


def test_rates_are_the_same_for_all_leaves_where_they_are_not_relative() -> None:
    leaf = torch.nn.Parameter(torch.full((4,), 3.0))
    assert unit_of(leaf, Recipe(steps=1)) == pytest.approx(3.0)
    assert unit_of(leaf, Recipe(steps=1, relative=False)) == 1.0


def test_whoever_looks_sees_the_average_and_changes_nothing() -> None:
    seen: dict[int, torch.Tensor] = {}
    task, plain = Regression(), Regression()

    def look(_: Course, step: int) -> None:
        seen[step] = next(iter(task.leaves.values())).detach().clone()

    course = run(task, look=look)
    assert sorted(seen) == list(range(RECIPE.steps + 1))
    assert run(plain).losses == course.losses
    for name, leaf in plain.leaves.items():
        assert torch.equal(leaf, task.leaves[name])
    assert torch.equal(seen[course.best], next(iter(task.leaves.values())))


class Averaging(torch.optim.SGD):
    """An optimiser that trains at one place and averages at another, as schedule-free ones do."""

    def __init__(self, groups: Any, decay: float) -> None:
        super().__init__(groups, lr=0.1)
        self.training = False

    def train(self) -> None:
        self._move(1.0)
        self.training = True

    def eval(self) -> None:
        self._move(-1.0)
        self.training = False

    def _move(self, by: float) -> None:
        for group in self.param_groups:
            for leaf in group["params"]:
                leaf.data += by

    def step(self, closure: Any = None) -> Any:
        assert self.training
        return super().step(closure)


def test_a_schedule_free_optimiser_is_measured_and_kept_where_it_averages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("si_hub.training.loop.make_optimizer", lambda _, groups, decay: Averaging(groups, decay))
    recipe = Recipe(steps=4, batch=4, part=4, optimizer="schedulefree", relative=False, rate=0.0)
    assert [recipe.rate_at(step) for step in range(4)] == [1.0] * 4
    task = Regression()
    before = {name: leaf.detach().clone() for name, leaf in task.leaves.items()}
    course = run(task, recipe)
    assert len(course.losses) == 4
    for name, leaf in task.leaves.items():  # Nothing was learned at a rate of 0: the average is the start.
        torch.testing.assert_close(leaf.detach(), before[name])
