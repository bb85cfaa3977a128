"""Up matrices fitted to the tuned model's predictions: their gradients, what is gained, what is kept and resumed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from si_hub.distill import distill
from si_hub.distill.methods import fitting
from si_hub.distill.methods.calibrated import Calibration
from si_hub.distill.methods.choosing import Choice
from si_hub.distill.pair.matching import match_all
from si_hub.distill.request import Request
from si_hub.distill.running.storing import FULL
from si_hub.distill.running.student import Student
from si_hub.distill.survey.plan import LESSONS, lesson_rows
from si_hub.errors import UsageError
from si_hub.format import read
from si_hub.storage.header import read_safetensors
from tests.distill import ways
from tests.distill.methods.surveys import SHORT
from tests.miniature import BASE, INK, PROMPTS


@pytest.fixture(scope="module")
def choice(calibration: Calibration) -> Choice:
    found = calibration.within(100_000)
    directions = {group.directions for group in found.groups if set(group.columns) & set(found.columns)}
    assert len(directions) > 1, "pairs and cores are in it"
    return found


@pytest.fixture(scope="module")
def lessons(calibration: Calibration) -> fitting.TunedPredictions:
    """With what the tuned model predicts, asked while nothing else is in the pipeline."""
    found = fitting.TunedPredictions(calibration.survey, 1)
    assert sum(map(len, found.targets)) == SHORT["trajectories"] * SHORT["states"]
    return found


@pytest.fixture
def student(calibration: Calibration, choice: Choice, lessons: fitting.TunedPredictions) -> Iterator[Student]:
    made = Student(calibration.runner, choice.components)
    yield made
    made.leave()


def test_every_pair_moves_in_every_direction_from_where_it_was(
    student: Student, calibration: Calibration, choice: Choice
) -> None:
    moves = list(fitting._moves(student, calibration.findings, choice))
    ups = [name for name in student.leaves if name.endswith("up.weight")]
    assert len(moves) == len(ups) > 10
    for move in moves:
        assert move.leaf.shape[:2] == move.start.shape == (len(move.leaf), move.shape[1])
        move.put(torch.zeros(move.shape, dtype=torch.float64))
        assert torch.equal(move.leaf.detach().flatten(1), move.start)
        draw = torch.randn(move.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        move.put(draw)
        moved = move.leaf.detach().flatten(1).double() - move.start.double()
        assert torch.linalg.matrix_rank(moved) == min(move.shape)
        move.put(torch.zeros(move.shape, dtype=torch.float64))


def test_a_rank_whose_up_is_its_pieces_has_the_length_of_its_down(calibration: Calibration, choice: Choice) -> None:
    """Down's rows in the norm of the inputs, by the survey's own lengths of the pieces that they are multiples of."""
    parts = calibration.findings.parts
    student = Student(calibration.runner, choice.components)
    try:
        moves = {id(move.leaf): move for move in fitting._moves(student, calibration.findings, choice)}
        looked = 0
        for component, held in choice.components.items():
            for path, layer in held.layers.items():
                pair = parts[(component, path)]
                if "core.weight" in layer.tensors or pair.down is None or pair.seen is None:
                    continue
                leaf = student.leaf_of(component, path, "up.weight")
                rows = layer.tensors["down.weight"].torch().flatten(1).double()
                move = moves[id(leaf)]
                ranks = [
                    int(name) for key, name in (calibration.findings.columns[c] for c in choice.columns)
                    if key == (component, path) and name.isdecimal()
                ]  # fmt: skip
                grown = rows.norm(dim=1) / pair.down.double()[ranks].norm(dim=1)
                wanted = pair.seen.double()[ranks] * grown
                # Columns of ups of length 1 in the norm of the gradients, and the others by the row of down.
                assert pair.felt is not None
                lengths = 1 / (move.units * pair.felt.double()[:, None])
                for row in lengths.tolist():
                    assert row == pytest.approx(wanted.tolist(), rel=2e-3)
                looked += 1
        assert looked > 10
    finally:
        student.leave()


def test_the_gradient_is_the_slope_of_the_error(
    student: Student, calibration: Calibration, choice: Choice, lessons: fitting.TunedPredictions
) -> None:
    for leaf in student.leaves.values():
        leaf.requires_grad_(False)
    moves = list(fitting._moves(student, calibration.findings, choice))
    for move in moves:
        move.leaf.requires_grad_(True)
    search = fitting._Search(lessons, moves, "slope", 1)
    calibration.runner.mix(0.0)

    def error(moved: Tensor, name: str) -> tuple[float, Tensor]:
        search.put(moved)
        return lessons.miss(moves, name, 0)

    here, slope = error(search.best, "here")
    along = slope / slope.norm()
    # As far as the error changes by a fiftieth.
    step = 0.02 * here / float(slope.norm())
    ends = [error(sign * step * along, f"there {sign}")[0] for sign in (1, -1)]
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float(slope.norm()), rel=1e-3)
    # By hand: the mean square over all states of what the pipeline with the adapter predicts beside the tuned model.
    search.put(search.best)
    states = calibration.survey.states()
    scale = (0.7 * states.scale.square() + 0.3).sqrt()
    with torch.no_grad():
        ours = calibration.runner(states, scale)
        with student.away(calibration.runner):
            theirs = calibration.runner(states, scale)
    assert here == pytest.approx(float((ours - theirs).double().square().mean()), rel=1e-4)


@pytest.mark.parametrize(("loud", "there_is"), [(1e5, True), (1e8, True), (1e13, False)])
def test_gradients_that_half_precision_cannot_hold_are_taken_in_a_coarser_unit(
    loud: float, there_is: bool, student: Student, calibration: Calibration, choice: Choice,
    lessons: fitting.TunedPredictions,
) -> None:  # fmt: skip
    for leaf in student.leaves.values():
        leaf.requires_grad_(False)
    moves = list(fitting._moves(student, calibration.findings, choice))
    for move in moves:
        move.leaf.requires_grad_(True)
    calibration.runner.mix(0.0)
    error, slope = lessons.miss(moves, "whole", 0)
    overflowed: list[bool] = []

    def through_half(gradient: Tensor) -> Tensor:
        """As where a layer of float16 adds up gradients that are so loud."""
        half = (loud * gradient).half()
        overflowed.append(not bool(half.isfinite().all()))
        return half.float() / loud

    hook = moves[0].leaf.register_hook(through_half)  # type: ignore[no-untyped-call]
    try:
        again, found = lessons.miss(moves, f"half {loud}", 0)
    finally:
        hook.remove()
    assert any(overflowed)
    assert again == error
    assert bool(found.isfinite().all()) is there_is
    if there_is:
        assert not overflowed[-1]
        assert float((found - slope).norm()) < 2e-3 * float(slope.norm())


def test_the_error_that_is_left_is_less_and_both_are_told(tmp_path: Path, cache: Path) -> None:
    options: dict[str, Any] = {**SHORT, "cache": cache, "prompts": PROMPTS, "size": 100_000, "dtype": "fp16"}
    plain = distill(BASE, INK, output=tmp_path / "plain.safetensors", passes=0, **options)
    found = distill(BASE, INK, output=tmp_path / "fitted.safetensors", **options)
    assert found.error < 0.85 * plain.error
    assert found.fidelity["before_fit"] == pytest.approx(plain.error, rel=1e-3)
    assert "before_fit" not in plain.fidelity
    assert found.size <= 100_000
    ours, theirs = (read(one.path).components for one in (found, plain))
    for name, part in ours.items():
        assert list(part.layers) == list(theirs[name].layers)
        for path, layer in part.layers.items():
            for leaf, tensor in layer.tensors.items():
                same = torch.equal(tensor.torch(), theirs[name].layers[path].tensors[leaf].torch())
                assert same or leaf == "up.weight", "nothing else moves"


def test_what_was_fitted_is_kept_and_asks_nothing_again(
    calibration: Calibration, choice: Choice, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = calibration.fit(choice)
    assert first.before == calibration.fidelity_of(choice).error
    assert calibration.fidelity_of(first).error < first.before
    calls: list[int] = []
    monkeypatch.setattr(fitting.TunedPredictions, "miss", lambda *_: calls.append(1))
    again = fitting.fit_to_predictions(calibration.survey, calibration.findings, choice, "F16")
    assert not calls
    for name, part in again.items():
        for path, layer in part.layers.items():
            for leaf, tensor in layer.tensors.items():
                assert torch.equal(tensor.torch(), first.components[name].layers[path].tensors[leaf].torch())


def test_another_number_of_passes_is_another_fit(tmp_path: Path, cache: Path) -> None:
    errors = [
        distill(
            BASE, INK, output=tmp_path / f"{passes}.safetensors", passes=passes, size=80_000, dtype="fp16",
            prompts=PROMPTS, cache=cache, **SHORT,
        ).error
        for passes in (1, 3, 6)
    ]  # fmt: skip
    assert errors[0] > errors[1] > errors[2]


def test_other_choices_have_other_names(calibration: Calibration, choice: Choice) -> None:
    fewer = replace(choice, columns=choice.columns[:-1], coefficients=choice.coefficients[:-1])
    other = replace(choice, coefficients=1.01 * choice.coefficients)
    plain = replace(choice, groups=[replace(group, directions=0) for group in choice.groups])
    bare = replace(choice, always=[next(iter(calibration.changes.values()))])
    names = [fitting._name(one, "F16") for one in (choice, fewer, other, plain, bare)]
    assert len({*names, fitting._name(choice, FULL)}) == 6
    assert fitting._name(replace(choice), "F16") == names[0]


def test_a_fit_that_measures_worse_is_not_taken(
    calibration: Calibration, choice: Choice, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = choice.components["unet"]
    first = {"unet": replace(part, layers=dict(list(part.layers.items())[:1]))}
    monkeypatch.setattr(fitting, "fit_to_predictions", lambda *_: first)
    assert calibration.fit(choice) is choice


@pytest.mark.parametrize("way", [pytest.param(way, marks=[] if way in ways.ONE_WAY else pytest.mark.slow)
                                 for way in ways.WAYS])  # fmt: skip
@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_models_are_fitted_however_they_are_held_and_stored(way: str, dtype: str, tmp_path: Path) -> None:
    base, tuned = ways.pair_of(way, tmp_path)
    options = {name: value for name, value in ways.WAYS[way][2].items() if name != "config"}
    config = ways.WAYS[way][2].get("config")
    [pair] = match_all(base, [tuned], config=config)
    request = Request.of(
        "calibrated", [tuned], size=100_000, dtype=dtype, prompts=PROMPTS,
        options={**SHORT, "cache": tmp_path / "cache", **options},
    )  # fmt: skip
    calibration = Calibration(pair, request)
    found = calibration.fitted()
    assert found.before is not None
    assert calibration.fidelity_of(found).error < 0.9 * found.before
    names = {read_safetensors(file).metadata["name"] for file in calibration.survey.work.folder.glob("*.safetensors")}
    assert [name for name in names if name.startswith("fitted ")]
    assert not [name for name in names if name.startswith("fit ")], "passes are thrown away"


@pytest.mark.parametrize(("trajectories", "states"), [(64, 8), (128, 8), (256, 8), (128, 16), (100, 7), (50, 21)])
def test_of_many_states_those_of_every_part_of_the_sampling_and_of_every_trajectory(
    trajectories: int, states: int
) -> None:
    rows = lesson_rows(trajectories, states)
    assert rows == sorted(set(rows))
    assert 0.98 * LESSONS < len(rows) < 2 * LESSONS
    assert {row % states for row in rows} == set(range(states))
    assert {row // states for row in rows} == set(range(trajectories))


def test_few_states_are_all_fitted_to() -> None:
    assert lesson_rows(8, 3) == list(range(24))
    assert lesson_rows(1, 1) == [0]


def test_passes_may_be_none_but_not_fewer() -> None:
    assert Request.of("calibrated", [INK], options={"passes": 0}).survey.passes == 0
    for wrong in (-1, 1.5, True, "many"):
        with pytest.raises(UsageError, match="passes"):
            Request.of("calibrated", [INK], options={"passes": wrong})
    with pytest.raises(UsageError, match="no such option"):
        Request.of("calibrated", [INK, BASE], options={"passes": 3})
    assert Request.of("calibrated", [INK, BASE]).survey.passes == 0
