"""One training under way: the pipeline, the adapter in it, encoded pictures, the loop, and who looks at it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from si_hub.storage.tensors import Tensor as Stored
from si_hub.training.accelerating import accelerator_of, checkpoint_activations, show_of
from si_hub.training.adapting import Pupil, surveyed_modules
from si_hub.training.base import load_base
from si_hub.training.calls import denoiser_name
from si_hub.training.contact import write_contact_sheet
from si_hub.training.drawings import UNTRAINED, Drawings, kept_title, previews_of, step_title
from si_hub.training.encoded import EncodedPictures, size_step, usual_resolution, with_trigger
from si_hub.training.gallery import Captioned
from si_hub.training.loop import Course, run_loop
from si_hub.training.noising import Objective
from si_hub.training.order import TrainOrder
from si_hub.training.quiet import load_quietly
from si_hub.training.surveying import Pull, as_tensors, from_tensors, survey
from si_hub.training.task import Lesson, PictureTask, Untrained
from si_hub.words import option
from si_hub.work.processes import Processes

#: What a survey found is kept under.
_SURVEY = "survey"
_DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Session:
    """A training of an order.

    Args:
        order: what is wanted.
        crew: the processes that share it.

    Attributes:
        pipeline: the base's, with the adapter in it.
        pupil: the adapter.
        resolution, rate: as said or chosen.
        drawings: what is drawn while it is trained.
        notes: what the user should know of the pictures.
    """

    def __init__(self, order: TrainOrder, crew: Processes) -> None:
        self.order, self.crew = order, crew
        settings = order.settings
        self.pipeline = load_base(order.folder, _DTYPES[settings.precision])
        denoiser = denoiser_name(self.pipeline)
        self.objective = Objective.of(self.pipeline.scheduler)
        self.notes: list[str] = []
        self.resolution = self._resolution()
        self.pipeline.to(crew.device)
        self.encoded = EncodedPictures(self.pipeline, order.work, crew)
        with _in_full(self.pipeline.vae, _DTYPES[settings.precision]):
            self._encode()
        components = [denoiser]
        if settings.text_encoder:
            components += [
                name for name in ("text_encoder", "text_encoder_2")
                if type(getattr(self.pipeline, name, None)).__name__.startswith("CLIPText")
            ]  # fmt: skip
        self.pupil = Pupil(self.pipeline, components, settings, order.branches, self._survey(denoiser))
        self.pipeline.to(crew.device)
        self.rate = self.pupil.rate()
        routed = settings.router == "learned"
        prompts = [with_trigger(prompt, settings.trigger) for prompt in order.prompts]
        self.drawings = Drawings(
            self.pupil, order.work.folder, previews_of(prompts, order.branches, routed=routed), self.resolution,
            settings.seed,
        )  # fmt: skip

    def _resolution(self) -> int:
        """What was said, or is usual; a multiple of what the model's latents are halved by."""
        said, step = self.order.settings.resolution, size_step(self.pipeline)
        wanted = said or usual_resolution(self.pipeline, self.order.pictures)
        found = max(step, wanted // step * step)
        if said not in (None, found):
            self.notes.append(f"sides are multiples of {step} here: trained at {found}, not at {said}")
        return found

    def _encode(self) -> None:
        """Latents and text states of everything that is learned from or measured with."""
        order, settings = self.order, self.order.settings
        self.lessons = self._lessons("picture", order.pictures)
        self.unseen = self._lessons("unseen", order.validation) if order.validation else self.lessons
        self.own: list[Lesson] = []
        if settings.preserve:
            told = [one.caption or "" for one in order.pictures]
            prompts = [told[place % len(told)] for place in range(settings.preserve)]
            names = self.encoded.add_own(prompts, self.resolution, settings.seed)
            self.own = [Lesson(name, prompt) for name, prompt in zip(names, prompts, strict=True)]
        captions = {one.prompt for one in (*self.lessons, *self.own)}
        if cut := self.encoded.cut_off(captions):
            self.notes.append(f"{cut} of {len(captions)} captions are longer than the text encoder reads, and cut off")
        if not settings.text_encoder:
            self.encoded.add_texts([None, *(one.prompt for one in (*self.lessons, *self.unseen, *self.own))])

    def _lessons(self, kind: str, pictures: Iterable[Captioned]) -> list[Lesson]:
        settings, shown = self.order.settings, list(pictures)
        names = self.encoded.add_pictures(kind, shown, self.resolution, buckets=settings.buckets)
        routed, found = settings.router == "learned", []
        for name, one in zip(names, shown, strict=True):
            prompt = with_trigger(one.caption or "", settings.trigger)
            if one.branch is not None and routed:
                prompt = f"{prompt}, {one.branch}"
            found.append(Lesson(name, prompt, None if routed else one.branch))
        return found

    def _survey(self, denoiser: str) -> dict[str, Pull] | None:
        """Where the pictures pull at the denoiser, if ranks are to be fitted.

        What the first process found is kept, and what all of them go by, however often they are killed: another
        device, or another number of threads, would round otherwise, and might deal a rank elsewhere.
        """
        work = self.order.work
        if not self.order.settings.fitted:
            return None
        found = None if work.load(_SURVEY) else self._pulls(denoiser)
        if self.crew.main and found is not None:
            tensors, numbers = as_tensors(found)
            kept = {name: Stored.from_torch(value.contiguous()) for name, value in tensors.items()}
            work.save(_SURVEY, kept, {"numbers": numbers})
        self.crew.wait()
        entry = work.load(_SURVEY)
        assert entry is not None
        tensors = {name: value.torch() for name, value in entry.tensors.items()}
        return from_tensors(tensors, entry.facts["numbers"])

    def _pulls(self, denoiser: str) -> dict[str, Pull]:
        settings, device = self.order.settings, self.crew.device
        model = getattr(self.pipeline, denoiser)
        accelerator = accelerator_of(settings.precision, device)
        task = PictureTask(
            Untrained(), self.encoded, self.lessons, [], self.unseen, self.objective, settings, accelerator, device
        )
        steps = -(-settings.surveyed // settings.part)

        def losses() -> Iterator[Callable[[], torch.Tensor]]:
            for step in range(steps):
                # Noise of its own, which no step of the training sees.
                part = task.draw(settings.steps + step, settings.part)

                def compute(part: Any = part) -> torch.Tensor:
                    with accelerator.autocast():
                        return task.loss(part)

                yield compute

        directions = 2 * settings.rank * self.order.branch_count
        with checkpoint_activations(model, settings.checkpointing):
            return survey(
                surveyed_modules(model, settings), losses(), directions, seed=settings.seed,
                lifted=settings.precision == "fp16",
            )  # fmt: skip

    def train(self) -> Course:
        """Train, or go on; the adapter holds what was kept afterwards."""
        order, settings = self.order, self.order.settings
        trackers = list(settings.trackers)
        accelerator = accelerator_of(
            settings.precision, self.crew.device, log_with=trackers or None, project_dir=str(order.output.parent)
        )
        if trackers:
            accelerator.init_trackers(f"{order.output.stem}-logs", config=_plain(settings.document()))
        task = PictureTask(
            self.pupil, self.encoded, self.lessons, self.own, self.unseen, self.objective, settings, accelerator,
            self.crew.device,
        )  # fmt: skip

        def look(course: Course, step: int) -> None:
            if trackers and step:
                accelerator.log({"loss": course.losses[-1], "error": course.errors[-1][1]}, step=step)
            if settings.every and step % settings.every == 0:
                self._draw(step_title(step) if step else UNTRAINED)

        denoiser = getattr(self.pipeline, denoiser_name(self.pipeline))
        with checkpoint_activations(denoiser, settings.checkpointing, self.pupil):
            course = run_loop(
                task, settings.recipe(self.rate), accelerator, checkpoint=order.work.folder / "training.pt",
                show=show_of(order.progress), look=look,
            )  # fmt: skip
        if trackers:
            accelerator.end_training()
        if self.pupil.branches:
            self.pupil.choose(None)
        return course

    def _draw(self, title: str) -> None:
        if not self.crew.main:
            return
        with self.pupil.away() if title == UNTRAINED else nullcontext():
            self.drawings.draw(title)
        if self.order.sheet is not None:
            write_contact_sheet(self.drawings, self.order.settings.steps, self.order.sheet)

    def draw_last(self, course: Course) -> None:
        """What the base and the adapter as it was kept draw, where that has not been drawn."""
        self._draw(UNTRAINED)
        self._draw(kept_title(course))


def remarks_of(course: Course, kept: int) -> list[str]:
    """What the user should know of a training.

    Args:
        course: how it went.
        kept: parts of an interrupted run that it went on from.
    """
    found = [f"training stopped early: {course.stopped}"] if course.stopped else []
    if not course.best:
        found.append(f"no step was better than the start, which is kept: try a lower rate, {option('rate', 'N')}")
    if kept:
        found.append(f"went on from {kept} finished parts of an interrupted run")
    return found


@contextmanager
def _in_full(vae: Any, dtype: torch.dtype) -> Iterator[None]:
    """An autoencoder in float32 while the block runs: it runs once, and overflows in fp16."""
    if dtype == torch.float32:
        yield
        return
    with load_quietly():
        vae.to(torch.float32)
        try:
            yield
        finally:
            vae.to(dtype)


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as trackers take them."""
    return {name: value if isinstance(value, int | float | str) else str(value) for name, value in settings.items()}
