"""What the judges say of the world: ``python -m examples.miniature.report [--world FOLDER] [--json FILE]``.

Bars are those of the project: a base that draws what it is told, checkpoints that keep doing so in their style, peers'
files that move the style score.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from rich.console import Console
from rich.table import Table

from .checkpoints import HERE, unfold
from .data import to_floats
from .drawing import draw_prompts, unseen_scenes
from .judges import Judges, Verdict, chance, judge, load_judges
from .measures import BUCKETS, Paired, measure_pair
from .peers import LOADERS, STYLE
from .progress import hush, track
from .render import pixels, render
from .scenes import FACTS, STYLES, Scene
from .styles import ALL, TAUGHT

PER_STYLE_OF_ALL = 60
PER_PAIRED = 50
FAMILIES = ("sdxl", "dit")


@dataclass(frozen=True)
class Row:
    """One line of the report.

    Args:
        name: what was judged.
        verdict: what the judges said.
        style: the style it is judged for, if any.
        alignment: least alignment it must have.
        score: least style score.
    """

    name: str
    verdict: Verdict
    style: str | None = None
    alignment: float | None = None
    score: float | None = None

    def style_score(self) -> float | None:
        return None if self.style is None else self.verdict.styles[self.style]

    def holds(self) -> bool:
        """Whether the bars are met; a line without bars holds."""
        aligned = self.alignment is None or self.verdict.alignment >= self.alignment
        styled = self.score is None or (self.style_score() or 0.0) >= self.score
        return aligned and styled


def render_scenes(wanted: Sequence[Scene], style: str = "plain") -> torch.Tensor:
    """What the renderer makes of scenes, ``[scenes, 3, 32, 32]`` in -1 … 1."""
    drawn = [torch.from_numpy(pixels(render(scene, style, seed))) for seed, scene in enumerate(wanted)]
    return to_floats(torch.stack(drawn))


def shuffle(pictures: torch.Tensor) -> torch.Tensor:
    """The pictures in an order in which none stays in its place."""
    order = list(range(len(pictures)))
    random.Random(0).shuffle(order)
    places = torch.tensor(order)
    found = torch.empty_like(pictures)
    found[places] = pictures[places.roll(1)]
    return found


def base_rows(world: Path, judges: Judges, wanted: Sequence[Scene]) -> list[Row]:
    """The judges on rendered pictures, the base, and the base's pictures under other prompts."""
    pictures = draw_prompts(load(world), [scene.prompt() for scene in wanted])
    return [
        Row("rendered", judge(judges, render_scenes(wanted), wanted), "plain", alignment=0.98),
        Row("base", judge(judges, pictures, wanted), "plain", alignment=0.85),
        Row(f"base, prompts shuffled (chance {chance(wanted):.3f})", judge(judges, shuffle(pictures), wanted)),
    ]


def family_rows(world: Path, judges: Judges, wanted: Sequence[Scene]) -> list[Row]:
    """The bases of other families."""
    rows = []
    for name in track([name for name in FAMILIES if (world / name).exists()], "families"):
        pictures = draw_prompts(DiffusionPipeline.from_pretrained(world / name), [scene.prompt() for scene in wanted])
        rows.append(Row(name, judge(judges, pictures, wanted), "plain", alignment=0.85))
    return rows


def load(world: Path) -> Any:
    return StableDiffusionPipeline.from_pretrained(world / "base", safety_checker=None)


def checkpoint_rows(world: Path, judges: Judges, wanted: Sequence[Scene]) -> list[Row]:
    """Every checkpoint of one style, and the one of all styles under every style's word."""
    rows = []
    found = [name for name in TAUGHT if (world / f"checkpoints/{name}.safetensors").exists()]
    for name in track(found, "checkpoints"):
        pipe = unfold(world / f"checkpoints/{name}.safetensors", world / "base")
        pictures = draw_prompts(pipe, [scene.prompt() for scene in wanted])
        rows.append(Row(name, judge(judges, pictures, wanted), name, alignment=0.8, score=0.9))
    file = world / f"checkpoints/{ALL}.safetensors"
    if file.exists():
        pipe = unfold(file, world / "base")
        some = wanted[:PER_STYLE_OF_ALL]
        for style in track(STYLES, ALL):
            pictures = draw_prompts(pipe, [scene.prompt(style) for scene in some])
            rows.append(Row(f"{ALL}, {style!r}", judge(judges, pictures, some), style, alignment=0.8, score=0.9))
    return rows


def peer_rows(world: Path, judges: Judges, wanted: Sequence[Scene]) -> list[Row]:
    """Every peer's file, loaded by its own library, and the base under the same style."""
    prompts = [scene.prompt() for scene in wanted]
    rows = [Row("base", judge(judges, draw_prompts(load(world), prompts), wanted), STYLE)]
    found = [name for name in LOADERS if (world / f"peers/{name}.safetensors").exists()]
    for name in track(found, "peers"):
        pipe = load(world)
        LOADERS[name](pipe, world / f"peers/{name}.safetensors")
        rows.append(Row(name, judge(judges, draw_prompts(pipe, prompts), wanted), STYLE))
    return rows


def paired_rows(world: Path, wanted: Sequence[Scene]) -> dict[str, Paired]:
    """Every peer's file against the checkpoint of its style as the teacher, on rendered pictures of that style."""
    file = world / f"checkpoints/{STYLE}.safetensors"
    found = [name for name in LOADERS if (world / f"peers/{name}.safetensors").exists() and file.exists()]
    base, some = load(world), wanted[:PER_PAIRED]
    with torch.no_grad():
        latents = base.vae.encode(render_scenes(some, STYLE)).latent_dist.mean * base.vae.config.scaling_factor
    measured = {}
    for name in track(found, "paired measures"):
        student = load(world)
        LOADERS[name](student, world / f"peers/{name}.safetensors")
        measured[name] = measure_pair(student, unfold(file, world / "base"), base, latents, [s.prompt() for s in some])
    return measured


def paired_table(measured: dict[str, Paired]) -> Table:
    """Paired measures for people, the least noisy timesteps first."""
    buckets = [f"{k * 1000 // BUCKETS}…" for k in range(BUCKETS)]
    shown = Table("", "noise", *buckets, "pictures", title=f"left of the base's distance from the {STYLE} checkpoint")
    for name, found in measured.items():
        shown.add_row(name, *(f"{value:.3f}" for value in (found.noise, *found.by_bucket, found.distance)))
    return shown


def table(title: str, rows: Sequence[Row]) -> Table:
    """Rows for people: alignment and style score with their bars, then every fact."""
    shown = Table(
        "", "alignment", "bar", "style", "score", "bar", *(fact.replace("_", " ") for fact in FACTS), title=title
    )
    for row in rows:
        score = row.style_score()
        shown.add_row(
            row.name,
            f"{row.verdict.alignment:.3f}",
            "" if row.alignment is None else f"{row.alignment}",
            row.style or "",
            "" if score is None else f"{score:.3f}",
            "" if row.score is None else f"{row.score}",
            *(f"{value:.2f}" for value in row.verdict.facts.values()),
            style=None if row.holds() else "bold red",
        )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, default=HERE, help="folder of a built world")
    parser.add_argument("--count", type=int, default=200, help="held-out prompts")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    arguments = parser.parse_args()
    world: Path = arguments.world
    hush()
    torch.set_num_threads(1)
    judges, wanted = load_judges(world / "judges.safetensors"), unseen_scenes(arguments.count)
    parts = {
        "base": base_rows(world, judges, wanted),
        "families": family_rows(world, judges, wanted),
        "checkpoints": checkpoint_rows(world, judges, wanted),
        "peers": peer_rows(world, judges, wanted),
    }
    console = Console(width=None if sys.stdout.isatty() else 200)
    for title, rows in parts.items():
        if rows:
            console.print(table(title, rows))
    measured = paired_rows(world, wanted)
    if measured:
        console.print(paired_table(measured))
    if arguments.json:
        figures: dict[str, Any] = {
            title: [asdict(row) | {"holds": row.holds()} for row in rows] for title, rows in parts.items()
        }
        figures["paired"] = {name: asdict(found) for name, found in measured.items()}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    missed = [row.name for rows in parts.values() for row in rows if not row.holds()]
    if missed:
        sys.exit(f"bars not met: {', '.join(missed)}")


if __name__ == "__main__":
    main()
