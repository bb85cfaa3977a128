"""README's figures on a real model: adapters beside the base, named styles mixed step by step.

    python examples/gallery.py ADAPTER... [--base FOLDER|REPO] [--prompts FILE] [--out gallery]

ADAPTERS are files or repositories of StyleInject or any other family. Without --base it is the first Stable Diffusion
(XL, then 1.5) of the local cache; where none is, this says so and ends. Nothing is fetched.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
if str(HERE.parent) not in sys.path:
    sys.path.insert(0, str(HERE.parent))

from examples.figures import Row, draw_figure  # noqa: E402
from si_hub.app.studio import Mix, Scene, Studio  # noqa: E402
from si_hub.errors import MissingFile, SiHubError  # noqa: E402
from si_hub.training.base import base_folder  # noqa: E402

BASES = (
    "stabilityai/stable-diffusion-xl-base-1.0", "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-v1-5",
)  # fmt: skip
PROMPTS = (
    "a lighthouse on a cliff above the sea", "a fox in a snowy forest", "a red bicycle leaning on a brick wall",
    "an old man reading in a library",
)  # fmt: skip
SLIDER = (0.0, 0.25, 0.5, 0.75, 1.0)
SIDE = 320


def find_base() -> str | None:
    """The first of `BASES` in the local cache."""
    for base in BASES:
        try:
            base_folder(base)
        except MissingFile:
            continue
        return base
    return None


def compare(studio: Studio, scenes: list[Scene]) -> list[Row]:
    """A row for each prompt: the base, each adapter alone, and all together where there are several."""
    mixes = {
        name: Mix({name: 1.0}, {k: v for k, v in studio.start.styles.items() if k == name}) for name in studio.names
    }
    if len(mixes) > 1:
        mixes["all"] = studio.start
    return [
        Row(f"seed {scene.seed}", [
            ("base", studio.draw_base(scene)), *((name, studio.draw(scene, mix)) for name, mix in mixes.items()),
        ])
        for scene in scenes
    ]  # fmt: skip


def slide(studio: Studio, scenes: list[Scene]) -> list[Row]:
    """For each adapter of named styles, its first two mixed from one to the other."""
    rows = []
    for name, branches in studio.branches.items():
        first, second, *_ = [*branches.start, *branches.start]
        for scene in scenes:
            pictures = [
                (f"{1 - place:.0%} / {place:.0%}",
                 studio.draw(scene, Mix({name: 1.0}, {name: {first: 1 - place, second: place}})))
                for place in SLIDER
            ]  # fmt: skip
            rows.append(Row(f"{first} / {second}\nof {name}", pictures))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapters", nargs="+", help="files or repositories")
    parser.add_argument("--base", help="folder, or repository of the local cache")
    parser.add_argument("--prompts", type=Path, help="a file of prompts, one a line")
    parser.add_argument("--count", type=int, default=4, help="prompts that are drawn")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance", type=float, default=6.0)
    parser.add_argument("--device", help="cpu, cuda ...; by default the machine's best")
    parser.add_argument("--out", type=Path, default=Path("gallery"), help="folder for the figures")
    options = parser.parse_args()
    base = options.base or find_base()
    if base is None:
        print(f"skipped: the local cache has none of {', '.join(BASES)}")
        print(f"fetch one (hf download {BASES[0]}), or name a folder with --base")
        return
    try:
        studio = Studio(options.adapters, base, options.device)
        said = options.prompts.read_text(encoding="utf-8").splitlines() if options.prompts else list(PROMPTS)
        prompts = [line.strip() for line in said if line.strip()][: options.count]
        scenes = [Scene(prompt, seed, options.steps, options.guidance) for seed, prompt in enumerate(prompts)]
        options.out.mkdir(parents=True, exist_ok=True)
        caption = f"{studio.title}, {options.steps} steps; " + "; ".join(prompts)
        for name, rows in (("compare", compare(studio, scenes)), ("styles", slide(studio, scenes))):
            if rows:
                draw_figure(rows, caption, SIDE).save(options.out / f"{name}.png")
                print(options.out / f"{name}.png")
    except (SiHubError, OSError) as error:
        sys.exit(f"gallery.py: {error}")


if __name__ == "__main__":
    main()
