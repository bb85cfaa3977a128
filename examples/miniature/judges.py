"""The judges: one small network that answers, of any picture, every question of `FACTS` and which style it is.

*Alignment* is the share of a prompt's facts that a picture shows, *style score* the share of pictures whose style is
recognised as the wanted one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from .data import ABSENT, all_styles, answers, labels
from .scenes import FACTS, STYLES, Scene
from .training import Batch, Recipe, pick, train

QUESTIONS: dict[str, tuple[str, ...]] = {**FACTS, "style": STYLES}
RECIPE = Recipe("judges", steps=2400, batch=96, rate=2e-3, seed=11, average=0.99, decay=0.01)


class Judges(nn.Module):
    """A convolutional network with one linear head per question.

    ``forward`` takes pictures ``[batch, 3, 32, 32]`` in -1 … 1 and gives the logits ``[batch, answers]`` of each
    question of `QUESTIONS`.
    """

    def __init__(self) -> None:
        super().__init__()

        def stage(inside: int, outside: int, stride: int) -> list[nn.Module]:
            return [
                nn.Conv2d(inside, outside, 3, stride=stride, padding=1),
                nn.GroupNorm(8, outside),
                nn.SiLU(),
            ]

        self.body = nn.Sequential(
            *stage(3, 32, 2),
            *stage(32, 48, 1),
            *stage(48, 64, 2),
            *stage(64, 64, 1),
            *stage(64, 64, 2),
            nn.Flatten(),
            nn.Linear(64 * 16, 256),
            nn.SiLU(),
        )
        self.heads = nn.ModuleDict({name: nn.Linear(256, len(options)) for name, options in QUESTIONS.items()})

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.body(pictures)
        return {name: head(features) for name, head in self.heads.items()}


class Schooling(nn.Module):
    """The training loss of judges: cross entropy of every question a scene has an answer to."""

    def __init__(self, judges: Judges) -> None:
        super().__init__()
        self.judges = judges

    def forward(self, pictures: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        losses = [
            F.cross_entropy(logits, labels[:, column], ignore_index=ABSENT)
            for column, logits in enumerate(self.judges(pictures).values())
        ]
        return torch.stack(losses).sum()


def train_judges(work: Path) -> Judges:
    """Judges of rendered pictures in all styles, blurred and noised a little, as drawn ones may be."""
    torch.manual_seed(RECIPE.seed)
    sets = all_styles(work)
    pictures, truth = torch.cat([s.floats() for s in sets]), torch.cat([labels(s) for s in sets])

    def batch_of(generator: torch.Generator, count: int) -> Batch:
        rows = pick(generator, count, len(pictures))
        chosen = pictures[rows]
        soft = F.avg_pool2d(F.pad(chosen, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        share = torch.rand(count, 1, 1, 1, generator=generator) * 0.5
        noise = torch.randn(chosen.shape, generator=generator) * 0.08 * torch.rand(count, 1, 1, 1, generator=generator)
        return {"pictures": torch.lerp(chosen, soft, share) + noise, "labels": truth[rows]}

    judges = Judges()
    train(RECIPE, Schooling(judges), batch_of, work)
    return judges


def load_judges(file: Path) -> Judges:
    """The shipped judges, in float32."""
    judges = Judges()
    judges.load_state_dict({name: value.float() for name, value in load_file(file).items()})
    return judges.eval()


@dataclass(frozen=True)
class Verdict:
    """What the judges say of a set of pictures drawn for prompts.

    Args:
        alignment: share of all facts of the prompts that the pictures show.
        facts: the same for each question of `FACTS`.
        styles: share of the pictures taken for each style.
    """

    alignment: float
    facts: dict[str, float]
    styles: dict[str, float]

    def style_score(self, style: str) -> float:
        return self.styles[style]


@torch.no_grad()
def judge(judges: Judges, pictures: torch.Tensor, wanted: Sequence[Scene]) -> Verdict:
    """Compares pictures ``[count, 3, 32, 32]`` in -1 … 1 with the scenes that they should show, in this order."""
    seen = {name: logits.argmax(1) for name, logits in judges(pictures).items()}
    truth = torch.tensor([answers(scene) for scene in wanted])
    asked = truth != ABSENT
    right = torch.stack([seen[name] for name in FACTS], dim=1).eq(truth) & asked
    share = right.sum(0) / asked.sum(0).clamp(min=1)
    return Verdict(
        alignment=float(right.sum() / asked.sum()),
        facts=dict(zip(FACTS, share.tolist(), strict=True)),
        styles={style: float((seen["style"] == index).float().mean()) for index, style in enumerate(STYLES)},
    )


def chance(wanted: Sequence[Scene]) -> float:
    """The alignment expected of pictures that show other scenes of the same grammar, drawn independently.

    The mean over all ordered pairs of different scenes of the share of facts of the one that the other shows too;
    a fact the other scene has no answer to counts as half right at best, so it is left out of the count.
    """
    truth = torch.tensor([answers(scene) for scene in wanted])
    same = (truth[:, None] == truth[None]) & (truth[:, None] != ABSENT)
    both = (truth[:, None] != ABSENT) & (truth[None] != ABSENT)
    off_diagonal = ~torch.eye(len(wanted), dtype=torch.bool)
    return float(same[off_diagonal].sum() / both[off_diagonal].sum())
