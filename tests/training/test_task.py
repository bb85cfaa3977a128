"""The task: batches that follow from a step's number alone, and an error that is the scheduler's objective."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from si_hub.training.adapting import Pupil
from si_hub.training.base import load_base
from si_hub.training.encoded import EncodedPictures
from si_hub.training.gallery import captioned_pictures
from si_hub.training.noising import Objective
from si_hub.training.settings import TrainSettings
from si_hub.training.task import Lesson, PictureTask, Samples
from si_hub.work.folder import Work
from si_hub.work.processes import Processes
from tests.miniature import BASE


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return load_base(BASE, torch.float32)


@pytest.fixture(scope="module")
def encoded(pipeline: Any, ink: Path, tmp_path_factory: pytest.TempPathFactory) -> EncodedPictures:
    work = Work(tmp_path_factory.mktemp("work") / "w")
    work.open({})
    found = EncodedPictures(pipeline, work, Processes(0, 1, torch.device("cpu")))
    found.add_pictures("picture", captioned_pictures(ink), 32, buckets=True)
    found.add_texts([None, "a large red circle at the left, on sand", "ink"])
    return found


@pytest.fixture(scope="module")
def pupil(pipeline: Any) -> Pupil:
    return Pupil(pipeline, ["unet"], TrainSettings.of({"rank": 1, "targets": "to_q"}), ["one", "two"])


def task_of(pupil: Pupil, encoded: EncodedPictures, **told: Any) -> PictureTask:
    said = "a large red circle at the left, on sand"
    lessons = [Lesson(f"picture {k}", said, "one" if k < 2 else "two") for k in range(4)]
    own = [Lesson("picture 0", "ink")] if told.pop("own", False) else []
    return PictureTask(
        pupil, encoded, lessons, own, lessons, Objective.of(encoded.pipeline.scheduler),
        TrainSettings.of({"router": "fixed", "measured": 4, **told}), Accelerator(cpu=True), torch.device("cpu"),
    )  # fmt: skip


def test_every_picture_comes_once_before_any_comes_twice(pupil: Pupil, encoded: EncodedPictures) -> None:
    task = task_of(pupil, encoded)
    rows = [row.lesson.latents for step in range(4) for row in task.draw(step, 3).rows]
    assert [Counter(rows[start : start + 4]) for start in (0, 4, 8)] == [Counter(f"picture {k}" for k in range(4))] * 3
    assert rows[:4] != rows[4:8] or rows[4:8] != rows[8:]


def test_a_batch_follows_from_its_number(pupil: Pupil, encoded: EncodedPictures) -> None:
    one, two, other = (task_of(pupil, encoded).draw(step, 4) for step in (7, 7, 8))
    assert all(torch.equal(a.noise, b.noise) and a.time == b.time for a, b in zip(one.rows, two.rows, strict=True))
    assert not any(torch.equal(a.noise, b.noise) for a, b in zip(one.rows, other.rows, strict=True))


def test_captions_are_hidden_as_often_as_said(pupil: Pupil, encoded: EncodedPictures) -> None:
    rows = task_of(pupil, encoded, dropout=0.25).draw(0, 400).rows
    assert sum(row.prompt is None for row in rows) == pytest.approx(100, abs=30)
    assert all(row.prompt is not None for row in task_of(pupil, encoded, dropout=0).draw(0, 40).rows)


def test_the_loss_is_the_mean_of_its_samples_each_by_its_branch(pupil: Pupil, encoded: EncodedPictures) -> None:
    for leaf in pupil.leaves.values():
        leaf.data = torch.full_like(leaf.data, 0.05)
    task = task_of(pupil, encoded)
    batch = task.draw(0, 4)
    with torch.no_grad():
        whole = float(task.loss(batch))
        alone = [float(task.loss(batch[k : k + 1])) for k in range(4)]
    assert whole == pytest.approx(sum(alone) / 4, rel=1e-5)
    unet, scheduler, row = encoded.pipeline.unet, encoded.pipeline.scheduler, batch.rows[0]
    latents, time = encoded.latents(row.lesson.latents)[None], torch.tensor([int(row.time)])
    pupil.choose(row.lesson.branch)
    with torch.no_grad():
        noisy = scheduler.add_noise(latents, row.noise[None], time)
        found = unet(noisy, time, encoded.text([row.prompt])["encoder_hidden_states"]).sample
    wanted = scheduler.get_velocity(latents, row.noise[None], time)
    assert alone[0] == pytest.approx(float((found - wanted).square().mean()), rel=1e-5)


def test_pictures_of_the_base_count_beside_the_others(pupil: Pupil, encoded: EncodedPictures) -> None:
    task = task_of(pupil, encoded, own=True, preserve_weight=0.5)
    batch = task.draw(0, 2)
    assert len(batch.own) == 2
    with torch.no_grad():
        both, learned = float(task.loss(batch)), float(task.loss(Samples(batch.rows)))
        kept = float(task_of(pupil, encoded).loss(Samples(batch.own)))
    assert both == pytest.approx(learned + kept, rel=1e-5)


def test_the_error_is_one_at_the_base_and_the_router_learns_only_where_it_is_asked(
    pupil: Pupil, encoded: EncodedPictures
) -> None:
    task = task_of(pupil, encoded)
    for leaf in pupil.leaves.values():
        leaf.data.zero_()
    assert task.error() == pytest.approx(1.0, rel=1e-6)
    assert not any("router" in name for name in task.leaves)
    assert task_of(pupil, encoded, router="learned").leaves.keys() == pupil.leaves.keys()


def test_noise_that_is_equal_all_over_a_picture_is_added(pupil: Pupil, encoded: EncodedPictures) -> None:
    [plain] = task_of(pupil, encoded).draw(0, 1).rows
    [offset] = task_of(pupil, encoded, noise_offset=0.5).draw(0, 1).rows
    change = offset.noise - plain.noise
    torch.testing.assert_close(change, change[:, :1, :1].expand_as(change), rtol=0, atol=1e-5)
    assert float(change.abs().max()) > 0.01
