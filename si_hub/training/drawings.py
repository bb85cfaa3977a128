"""Pictures that the pipeline draws of a few prompts while it is trained, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from si_hub.storage.files import atomic_file
from si_hub.training.adapting import Pupil
from si_hub.training.encoding import text_lengths
from si_hub.training.loop import Course

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

#: Steps of sampling.
_STEPS = 20
#: Added to a training's seed for the pictures' noise, which nothing is trained on.
_SEEDS = 90_000
#: What is drawn before the first step.
UNTRAINED = "base"


@dataclass(frozen=True, slots=True)
class Drawings:
    """The same prompts from equal noise, again and again; kept in a folder, so that a resumed training has them all.

    Attributes:
        pupil: the adapter.
        folder: where pictures are kept.
        prompts: what is drawn, with the branch that draws it.
        side: of the pictures.
        seed: of the training.
    """

    pupil: Pupil
    folder: Path
    prompts: Sequence[tuple[str, str | None]]
    side: int
    seed: int

    def seed_for(self, place: int) -> int:
        """Seed of a prompt's noise."""
        return _SEEDS + self.seed + place

    @torch.no_grad()
    def draw(self, title: str) -> None:
        """Draw every prompt that is not there under this title yet."""
        pipeline = self.pupil.pipeline
        for place, (prompt, branch) in enumerate(self.prompts):
            file = self._file(title, place)
            if file.exists():
                continue
            if self.pupil.branches:
                self.pupil.choose(branch)
            generator = torch.Generator().manual_seed(self.seed_for(place))
            picture = pipeline(
                prompt=prompt, height=self.side, width=self.side, num_inference_steps=_STEPS, generator=generator,
                **text_lengths(pipeline),
            ).images[0]  # fmt: skip
            with atomic_file(file, overwrite=True) as out:
                picture.save(out, format="PNG")
        if self.pupil.branches:
            self.pupil.choose(None)

    def pictures(self, title: str) -> list[Picture]:
        """What was drawn under a title, one a prompt."""
        from PIL import Image

        found = []
        for place in range(len(self.prompts)):
            with Image.open(self._file(title, place)) as picture:
                found.append(picture.convert("RGB"))
        return found

    def titles(self, steps: int) -> list[str]:
        """The titles under which everything was drawn, in order."""
        titles = [UNTRAINED, *(step_title(step) for step in range(1, steps + 1))]
        last = len(self.prompts) - 1
        return [title for title in titles if self.prompts and self._file(title, last).exists()]

    def _file(self, title: str, place: int) -> Path:
        return self.folder / f"drawn {title} {place}.png"


def kept_title(course: Course) -> str:
    """What pictures of the adapter are called as it was kept."""
    return step_title(course.best) if course.best else UNTRAINED


def step_title(step: int) -> str:
    """What pictures of a step are called."""
    return f"step {step}"


def previews_of(prompts: Sequence[str], branches: Sequence[str], *, routed: bool) -> list[tuple[str, str | None]]:
    """Each prompt with the branch that draws it; with learned routers the branch is named in the prompt instead.

    Args:
        prompts: what to draw.
        branches: names of them, may be empty.
        routed: whether routers find the branch.
    """
    if not branches:
        return [(prompt, None) for prompt in prompts]
    pairs = [(prompt, branches[place % len(branches)]) for place, prompt in enumerate(prompts)]
    return [(f"{prompt}, {branch}", None) if routed else (prompt, branch) for prompt, branch in pairs]
