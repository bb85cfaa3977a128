"""What an adapter distilled from a miniature's checkpoint leaves of the way from base to checkpoint, by every method.

    python -m benchmarks.distill_quality [--styles ink neon] [--dims 2 4 8] [--methods lycoris calibrated] [--json FILE]

One table. `lycoris` is LyCORIS's own extraction of that dim, convolutions and text encoder included, `lycoris-plain`
the same with convolutions in two factors, `kohya` what kohya's extractor does. `svd`, `calibrated` and `trained` are
si-hub's: `svd` of that rank with biases and norms, the others in files of at most the size of LyCORIS's (`--against`
says whose), `calibrated/3` and `trained/3` in a third of it, `calibrated/int8` in numbers of one byte where the others
are fp16. `default` is what si-hub makes of a style without a size and a dtype, once for all dims. Errors are squared,
on held-out prompts and states of seeds that no method has seen, divided by the base's: 0 is the teacher, 1 the base.
`sdxl_ink` and `dit_ink` are the checkpoints of the miniature's other bases. What misses `BARS` is named at the end, and
the exit code is 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from diffusers import DiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

import si_hub
from benchmarks.extractors import EXTRACTORS, put_in
from examples.miniature.checkpoints import HERE, from_open_clip, unfold
from examples.miniature.drawing import draw_prompts, unseen_scenes
from examples.miniature.judges import Judges, judge, load_judges
from examples.miniature.measures import BUCKETS, Noised, add_noise, distance_left, errors_left
from examples.miniature.progress import hush
from examples.miniature.render import SIDE
from examples.miniature.report import load, render_scenes
from examples.miniature.scenes import STYLES, Scene, scenes
from examples.miniature.styles import ALL, TAUGHT

OURS = ("svd", "calibrated", "trained", "calibrated/3", "calibrated/int8", "trained/3")
DEFAULT = "default"
METHODS = ("base", "teacher", DEFAULT, *EXTRACTORS, *OURS)
DIMS = (2, 4, 8)
#: Method → dim → the most that may be left of LyCORIS's error; or else a third of the size leaves no more than all.
BARS = {"calibrated": {2: 0.45, 4: 0.3, 8: 0.3}, "trained": dict.fromkeys(DIMS, 0.1)}
#: Checkpoint of another base → its style, and the base's folder.
FAMILIES = {"sdxl_ink": ("ink", "sdxl"), "dit_ink": ("ink", "dit")}
CHECKPOINTS = (*TAUGHT, ALL, *FAMILIES)
#: Where SDXL's second text encoder is in a single file.
SECOND = "conditioner.embedders.1.model."
REPEATS = 4
TAUGHT_SEED = 7_000


@dataclass(frozen=True)
class Row:
    """One line of the table; errors are divided by the base's.

    Args:
        style, dim, method: of what; base and teacher have dim 0.
        noise, by_bucket: squared error of the predicted noise over all timesteps, and by fifths of them.
        distance: squared distance of pictures from equal noise.
        alignment, style_score: what the judges say of the pictures.
        parameters, size: numbers in the adapter, without alphas; bytes of its file.
        seconds: to make it.
        left: its noise error divided by that of the peer it was to beat, at the same dim.
    """

    style: str
    dim: int
    method: str
    noise: float
    by_bucket: tuple[float, ...]
    distance: float
    alignment: float
    style_score: float
    parameters: int = 0
    size: int = 0
    seconds: float = 0.0
    left: float | None = None


@dataclass(frozen=True)
class Asked:
    """Held-out scenes and the prompts that ask for them; of all styles, each in its turn."""

    style: str
    count: int

    @cached_property
    def words(self) -> list[str]:
        """The style that each picture is to have."""
        return [STYLES[1 + k % len(TAUGHT)] if self.style == ALL else self.style for k in range(self.count)]

    @cached_property
    def wanted(self) -> list[Scene]:
        return unseen_scenes(self.count)

    @cached_property
    def prompts(self) -> list[str]:
        """A checkpoint of one style draws it whatever the prompt says; the one of all is told."""
        told = self.words if self.style == ALL else [None] * self.count
        return [scene.prompt(word) for scene, word in zip(self.wanted, told, strict=True)]

    def taught(self, count: int = 256) -> list[str]:
        """Prompts of no held-out scene, as somebody who distills this checkpoint would give them."""
        found = islice(scenes(TAUGHT_SEED), count)
        return [s.prompt(STYLES[1 + k % len(TAUGHT)] if self.style == ALL else None) for k, s in enumerate(found)]

    def states(self, base: Any) -> list[Noised]:
        """Noised pictures of the style, `REPEATS` times in other orders and of other seeds."""
        pictures = torch.cat([render_scenes([s], w) for s, w in zip(self.wanted, self.words, strict=True)])
        with torch.no_grad():
            latents = base.vae.encode(pictures).latent_dist.mean * base.vae.config.scaling_factor
        found = []
        for seed in range(REPEATS):
            order = torch.randperm(self.count, generator=torch.Generator().manual_seed(seed))
            prompts = [self.prompts[k] for k in order]
            found.append(add_noise(base.scheduler, latents[order], prompts, seed=1000 + seed))
        return found

    def style_score(self, judges: Judges, pictures: torch.Tensor) -> float:
        """Share of the pictures that the judges take for the style they are to have."""
        with torch.no_grad():
            seen = judges(pictures)["style"].argmax(1)
        return float(seen.eq(torch.tensor([STYLES.index(word) for word in self.words])).float().mean())


class Yardstick:
    """Base and teacher of one style: what they predict and draw is made once, and kept in the work folder.

    Args:
        name: a checkpoint of the miniature.
        count: held-out prompts.
        work: folder for what is kept.
    """

    def __init__(self, name: str, count: int, work: Path) -> None:
        style, folder = FAMILIES.get(name, (name, "base"))
        self.name, self.folder = name, HERE / folder
        self.asked = Asked(style, count)
        self.checkpoint = HERE / f"checkpoints/{name}.safetensors"
        self.base = load_world(self.folder)
        self.teacher = load_teacher(self.checkpoint, self.folder)
        self.judges = load_judges(HERE / "judges.safetensors")
        self.states = self.asked.states(self.base)
        content = hashlib.sha256(self.checkpoint.read_bytes())
        for file in sorted(self.folder.rglob("*.safetensors")):
            content.update(file.read_bytes())
        kept = work / f"outputs-{name}-{count}x{REPEATS}-{content.hexdigest()[:16]}.safetensors"
        if not kept.exists():
            found = {"base": self.outputs(self.base), "teacher": self.outputs(self.teacher)}
            save_file({f"{who}.{what}": value for who, o in found.items() for what, value in o.items()}, kept)
        self.known = load_file(kept)
        self.prompts = work / f"prompts-{name}.txt"
        self.prompts.write_text("\n".join(self.asked.taught()) + "\n", encoding="utf-8")

    def outputs(self, pipe: Any, word: str | None = None) -> dict[str, torch.Tensor]:
        """A pipeline's predicted noise in all states, and its pictures of all prompts; a word goes after each."""

        def told(prompts: Iterable[str]) -> list[str]:
            return [prompt if word is None else f"{prompt}, {word}" for prompt in prompts]

        states = [replace(one, prompts=told(one.prompts)) for one in self.states]
        noise = torch.cat([one.predict_by(pipe) for one in states])
        return {"noise": noise, "pictures": draw_prompts(pipe, told(self.asked.prompts), negative=word).contiguous()}

    def row(self, dim: int, method: str, outputs: dict[str, torch.Tensor]) -> Row:
        """A line of the table for a student's outputs."""
        timesteps = torch.cat([states.timesteps for states in self.states])
        teacher, base = ({what: self.known[f"{who}.{what}"] for what in outputs} for who in ("teacher", "base"))
        by_bucket, noise = errors_left(timesteps, outputs["noise"], teacher["noise"], base["noise"])
        pictures = outputs["pictures"]
        verdict = judge(self.judges, pictures, self.asked.wanted)
        return Row(
            self.name, dim, method, noise, by_bucket,
            distance_left(pictures, teacher["pictures"], base["pictures"]),
            verdict.alignment, self.asked.style_score(self.judges, pictures),
        )  # fmt: skip

    def known_row(self, who: str) -> Row:
        """The line of base or teacher."""
        return self.row(0, who, {what: self.known[f"{who}.{what}"] for what in ("noise", "pictures")})

    def extracted(self, method: str, dim: int, file: Path) -> Row:
        """The line of a peer's extraction, which is written to ``file``."""
        begin = time.perf_counter()
        tensors = EXTRACTORS[method](self.base, self.teacher, dim)
        save_file(tensors, file)
        seconds = time.perf_counter() - begin
        pipe = load_world(self.folder)
        put_in(pipe, tensors)
        return weighed(replace(self.row(dim, method, self.outputs(pipe)), seconds=seconds), file)

    def distilled(self, method: str, dim: int, file: Path, size: int, options: dict[str, Any]) -> Row:
        """The line of si-hub's adapter, which is written to ``file``: `svd` of rank ``dim``, others of ``size``.

        What `DEFAULT` makes has no size that was asked for.
        """
        from si_hub.distill import distill

        name, _, part = method.partition("/")
        budget: dict[str, Any] = {"size": size // (int(part) if part.isdecimal() else 1), "prompts": self.prompts}
        if name == "svd":
            budget = {"rank": dim}
        elif name == DEFAULT:
            name, budget = "calibrated", {"prompts": self.prompts}
        if method != DEFAULT:
            budget["dtype"] = part if part and not part.isdecimal() else "fp16"
        if name != "svd":
            budget |= OWN_OPTIONS.get(type(self.base).__name__, {})
        begin = time.perf_counter()
        distill(self.folder, self.checkpoint, output=file, method=name, force=True, **budget, **options)
        seconds = time.perf_counter() - begin
        pipe = load_world(self.folder)
        pipe.load_styleinject_weights(file)
        return weighed(replace(self.row(dim, method, self.outputs(pipe)), seconds=seconds), file)


#: What a pipeline must be told beyond its own defaults, so that it draws as small as the miniature's pictures are.
OWN_OPTIONS: dict[str, dict[str, Any]] = {"FluxPipeline": {"resolution": SIDE}}


def load_world(folder: Path) -> Any:
    """The pipeline of one of the miniature's bases."""
    return load(HERE) if folder == HERE / "base" else DiffusionPipeline.from_pretrained(folder)


def load_teacher(checkpoint: Path, folder: Path) -> Any:
    """The pipeline of a checkpoint, by nothing of ours: what its file does not have is the base's."""
    if folder == HERE / "base":
        return unfold(checkpoint)
    pipe = load_world(folder)
    if not hasattr(pipe, "unet"):
        pipe.transformer.load_state_dict(load_file(checkpoint))
        return pipe
    # diffusers leaves the second text encoder as it was born, without a word: its names are none of transformers 5.
    own = {key.removeprefix(SECOND): value.float() for key, value in load_file(checkpoint).items()}
    pipe.text_encoder_2.load_state_dict(from_open_clip(own, pipe.text_encoder_2.state_dict()))
    return StableDiffusionXLPipeline.from_single_file(
        str(checkpoint), config=str(folder), torch_dtype=torch.float32, local_files_only=True, vae=pipe.vae,
        text_encoder_2=pipe.text_encoder_2, add_watermarker=False,
    )  # fmt: skip


def weighed(row: Row, file: Path) -> Row:
    """The line with the parameters and bytes of its file."""
    numbers = {name: tensor for name, tensor in load_file(file).items() if not name.endswith("alpha")}
    return replace(row, parameters=sum(t.numel() for t in numbers.values()), size=file.stat().st_size)


def rows_of(style: str, options: argparse.Namespace) -> Iterator[Row]:
    """The lines of one style, in the order of the methods asked for."""
    work: Path = options.work
    yardstick = Yardstick(style, options.count, work)
    for who in ("base", "teacher"):
        if who in options.methods:
            yield yardstick.known_row(who)
    if DEFAULT in options.methods:
        yield yardstick.distilled(DEFAULT, 0, work / f"{style}-{DEFAULT}.safetensors", 0, {})
    for dim in options.dims:
        bar = yardstick.extracted(options.against, dim, work / f"{style}-{dim}-{options.against}.safetensors")
        for method in options.methods:
            file = work / f"{style}-{dim}-{method.replace('/', '-')}.safetensors"
            if method == options.against:
                yield replace(bar, left=1.0)
            elif method in EXTRACTORS:
                found = yardstick.extracted(method, dim, file)
                yield replace(found, left=found.noise / bar.noise)
            elif method in OURS:
                found = yardstick.distilled(method, dim, file, bar.size, trained_options(method, options))
                yield replace(found, left=found.noise / bar.noise)


def missed(rows: Iterable[Row]) -> list[str]:
    """The bars that methods do not clear, at their own size or at a third of it."""
    left = {(row.style, row.dim, row.method): row.left for row in rows if row.left is not None}
    return [
        f"{style}, dim {dim}: {method} leaves {found:.3f} of LyCORIS's error, not {bar:g} or less"
        for (style, dim, method), found in left.items()
        if (bar := BARS.get(method, {}).get(dim)) is not None
        and found > bar
        and left.get((style, dim, f"{method}/3"), math.inf) > 1.0
    ]


def trained_options(method: str, options: argparse.Namespace) -> dict[str, Any]:
    return {"steps": options.steps} if method.startswith("trained") and options.steps else {}


HEADINGS = (
    "style", "dim", "method", "noise error", *(f"t {k * 1000 // BUCKETS}…" for k in range(BUCKETS)), "pictures",
    "alignment", "style score", "parameters", "bytes", "seconds", "of {against}'s error",
)  # fmt: skip


def cells(row: Row) -> list[str]:
    made = row.size > 0
    return [
        row.style, str(row.dim) if row.dim else "", row.method,
        *(f"{value:.4f}" for value in (row.noise, *row.by_bucket, row.distance)),
        f"{row.alignment:.3f}", f"{row.style_score:.3f}",
        *((f"{row.parameters:,}", f"{row.size:,}", f"{row.seconds:.1f}") if made else ("", "", "")),
        "" if row.left is None else f"{row.left:.3f}",
    ]  # fmt: skip


def line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


SUMMARY = (
    "method", "dim", "noise error", "pictures", "alignment", "style score", "parameters", "bytes",
    "of the peer's error: median", "worst",
)  # fmt: skip


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """Each method over the styles: means, and what it leaves of the peer's error at the same dim."""
    yield line(SUMMARY)
    yield line(["---"] * len(SUMMARY))
    for method, dim in dict.fromkeys((row.method, row.dim) for row in sorted(rows, key=place)):
        found = [row for row in rows if (row.method, row.dim) == (method, dim)]
        left = [row.left for row in found if row.left is not None]
        means = (mean(row.noise for row in found), mean(row.distance for row in found))
        judged = (mean(row.alignment for row in found), mean(row.style_score for row in found))
        sizes = (mean(row.parameters for row in found), mean(row.size for row in found))
        yield line(
            [
                method, str(dim) if dim else "",
                *(f"{value:.4f}" for value in means), *(f"{value:.3f}" for value in judged),
                *(f"{value:,.0f}" if value else "" for value in sizes),
                f"{median(left):.3f}" if left else "", f"{max(left):.3f}" if left else "",
            ]
        )  # fmt: skip


def place(row: Row) -> tuple[int, int]:
    """By dim, then in the order of the methods."""
    return row.dim, METHODS.index(row.method)


def told(files: Sequence[Path]) -> list[Row]:
    """The lines that earlier runs wrote, those of a later file in place of an earlier one's."""
    found = {}
    for file in files:
        for entry in json.loads(file.read_text(encoding="utf-8")):
            row = Row(**{**entry, "by_bucket": tuple(entry["by_bucket"])})
            found[row.style, row.dim, row.method] = row
    return sorted(found.values(), key=lambda row: (CHECKPOINTS.index(row.style), place(row)))


def shown(rows: Iterable[Row], against: str) -> list[Row]:
    """The lines, each printed as soon as it is there, then the summary."""
    print(line([heading.format(against=against) for heading in HEADINGS]), line(["---"] * len(HEADINGS)), sep="\n")
    found = []
    for row in rows:
        found.append(row)
        print(line(cells(row)), flush=True)
    print("", *summary(found), sep="\n")
    return found


def written(rows: Iterable[Row], file: Path) -> Iterator[Row]:
    """The lines, all so far in the file before each goes on: a run that is stopped has them."""
    found: list[Row] = []
    for row in rows:
        found.append(row)
        file.write_text(json.dumps([asdict(one) for one in found], indent=2) + "\n", encoding="utf-8")
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--styles", nargs="+", choices=CHECKPOINTS, default=(*TAUGHT, ALL))
    parser.add_argument("--dims", nargs="+", type=int, default=DIMS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS[:-1])
    parser.add_argument("--against", choices=tuple(EXTRACTORS), default="lycoris", help="whose size and error count")
    parser.add_argument("--count", type=int, default=50, help="held-out prompts")
    parser.add_argument("--steps", type=int, help="training steps  [default: the library's]")
    parser.add_argument("--work", type=Path, default=Path("build/distill_quality"), help="folder for files")
    parser.add_argument("--json", type=Path, help="write the lines to this file, too")
    parser.add_argument("--from", dest="told", nargs="+", type=Path, help="measure nothing, show these files' lines")
    options = parser.parse_args()
    if options.told:
        wanted = [
            row
            for row in told(options.told)
            if row.style in options.styles and row.method in options.methods and row.dim in (0, *options.dims)
        ]
        judged(shown(wanted, options.against), options.against)
        return
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    hush()
    si_hub.enable()
    rows = (row for style in options.styles for row in rows_of(style, options))
    judged(shown(written(rows, options.json) if options.json else rows, options.against), options.against)


def judged(rows: Sequence[Row], against: str) -> None:
    """Exit with what misses its bar; the bars are LyCORIS's."""
    if against == "lycoris" and (failed := missed(rows)):
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    main()
