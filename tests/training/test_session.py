"""What a training says of itself, and that nothing is drawn that nobody asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from si_hub.training.loop import Course
from si_hub.training.order import read_order
from si_hub.training.session import Session, remarks_of
from si_hub.work.processes import Processes
from tests.miniature import BASE


def session_of(ink: Path, folder: Path, **told: Any) -> Session:
    order = read_order(
        BASE, ink, folder / "a.safetensors", styles=(), caption=None, validation=None, prompts=["a red circle"],
        report=(), work=None, force=False, progress=None,
        about={}, dtype="fp32",
        settings={"steps": 4, "batch": 2, "rank": 1, "targets": "to_q", "measured": 2, "surveyed": 16, "device": "cpu"}
        | told,
    )  # fmt: skip
    order.work.open(order.plan())
    return Session(order, Processes(0, 1, torch.device("cpu")))


@pytest.mark.parametrize(("every", "titles"), [(0, []), (2, ["base", "step 2", "step 4"]), (3, ["base", "step 3"])])
def test_prompts_are_drawn_as_often_as_was_asked(every: int, titles: list[str], ink: Path, tmp_path: Path) -> None:
    session = session_of(ink, tmp_path, every=every)
    course = session.train()
    assert session.drawings.titles(4) == titles
    assert (tmp_path / "a-drawn.png").exists() == bool(every)
    session.draw_last(course)
    assert session.drawings.titles(4)[0] == "base"
    assert session.drawings.titles(4)[-1] == f"step {max(course.best, *(3,) if every == 3 else (0,))}"


def test_trackers_are_told_the_loss(ink: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import Accelerator

    told: list[tuple[int, float]] = []
    begun: list[dict[str, Any]] = []
    monkeypatch.setattr("si_hub.training.order.find_spec", lambda _: True)
    monkeypatch.setattr(Accelerator, "init_trackers", lambda self, name, config: begun.append(config))
    monkeypatch.setattr(Accelerator, "log", lambda self, values, step: told.append((step, values["loss"])))
    monkeypatch.setattr("accelerate.accelerator.filter_trackers", lambda *_, **__: ["tensorboard"])
    course = session_of(ink, tmp_path, trackers="tensorboard").train()
    assert told == list(enumerate(course.losses, start=1))
    assert begun[0]["steps"] == 4
    assert all(isinstance(value, int | float | str) for value in begun[0].values())


def test_encoders_work_in_full_precision_and_go_back(ink: Path, tmp_path: Path) -> None:
    session = session_of(ink, tmp_path, precision="bf16")
    assert session.pipeline.vae.dtype == session.pipeline.unet.dtype == torch.bfloat16
    assert session.encoded.latents("picture 0").dtype == torch.float32
    assert all(leaf.dtype == torch.float32 for leaf in session.pupil.leaves.values())


def test_a_survey_is_made_once_and_all_go_by_it(ink: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {"surveyed": 8, "targets": "to_q,to_k"}
    first = session_of(ink, tmp_path, **told).pupil
    monkeypatch.setattr("si_hub.training.session.survey", None)  # What another device would find might differ.
    again = session_of(ink, tmp_path, **told).pupil
    assert {name: leaf.shape for name, leaf in again.leaves.items()} == {
        name: leaf.shape for name, leaf in first.leaves.items()
    }
    assert all(torch.equal(leaf, first.leaves[name]) for name, leaf in again.leaves.items())


def test_sides_are_what_the_model_can_halve(ink: Path, tmp_path: Path) -> None:
    session = session_of(ink, tmp_path, resolution=30)
    assert (session.resolution, session.drawings.side) == (24, 24)
    assert session.notes[0] == "sides are multiples of 8 here: trained at 24, not at 30"
    assert not [note for note in session_of(ink, tmp_path, resolution=24).notes if "multiples" in note]


def test_what_is_said_of_a_training_is_what_went_wrong() -> None:
    assert remarks_of(Course([1.0], [(0, 1.0), (4, 0.5)], 4), 0) == []
    stopped, kept, parts = remarks_of(Course([1.0], [(0, 1.0)], 0, "the loss was nan at step 2"), 3)
    assert stopped == "training stopped early: the loss was nan at step 2"
    assert kept == "no step was better than the start, which is kept: try a lower rate, rate=N"
    assert parts == "went on from 3 finished parts of an interrupted run"
