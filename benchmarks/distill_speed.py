"""How long, and in how much memory, `si-hub distill --method svd` takes at full size, against LyCORIS's own extraction.

    python -m benchmarks.distill_speed [--sizes sd15 sdxl] [--rank 32] [--peer-minutes 10] [--folder DIR] [--json]

The pair is written to disk first: a random float16 base of the architecture's every shape, and the same plus a
low-rank difference with noise, convolutions, biases, norms and text encoders included. Ours is the whole command in a
process of its own, from start to written file; its peak is what the system counts, mapped pages included.

LyCORIS takes hours at these sizes, so its `extract_linear` and `extract_conv` get a sample: one layer of each shape,
those first that take the largest part of its time, until ``--peer-minutes`` are spent; convolutions of over 12,000
columns are left out, since its square factors would need gigabytes. The difference is handed over in memory, reading it
is free. Printed are both on these layers alone, and our whole command against LyCORIS's time for all layers of these
shapes, where the shapes that it did not get to count nothing. ``residual`` is the worst of one layer of every shape:
what our file leaves of the difference over what the optimal truncation leaves, by the eigenvalues of its Gram matrix in
float64. Seconds are those of the clock; on a machine with other work, processor seconds say more, and stand beside.
What exceeds `BARS` is named at the end, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lycoris.utils import extract_conv, extract_linear

from si_hub import architectures
from si_hub import format as file_format
from si_hub.architectures.model import Model
from si_hub.distill.pair.change import Change
from si_hub.distill.pair.matching import match
from si_hub.distill.pair.opening import open_model
from si_hub.distill.survey.lowrank import truncate
from si_hub.storage.tensors import Tensor
from si_hub.storage.write import header_bytes

#: Of the difference: directions of its low-rank part, its size and the noise's, relative to the weight's.
DIRECTIONS, STRENGTH, NOISE = 64, 0.05, 0.01
#: What may not be exceeded: our residual, our share of LyCORIS's time on the sampled layers, our peak in MB.
BARS = (1.005, 0.1, 2500.0)
#: Columns of the widest matrix that LyCORIS gets.
WIDEST = 12_000
FILES = {"unet": "diffusion_pytorch_model.safetensors"}


#: Of the clock, and of the processor.
Seconds = tuple[float, float]


@dataclass(frozen=True)
class Result:
    """One size.

    Attributes:
        numbers: in the model, in millions.
        seconds: of our whole command, and of the processor.
        peak_mb: largest resident memory of our process.
        file_mb: size of the adapter.
        sampled: layers that LyCORIS got, and how many it has to do in all.
        ours, theirs: seconds on the sampled layers, and of the processor.
        whole: LyCORIS's time for all layers of the sampled shapes, likewise.
        residual: worst ratio to the optimal truncation.
    """

    size: str
    numbers: float
    seconds: tuple[float, float]
    peak_mb: float
    file_mb: float
    sampled: tuple[int, int]
    ours: tuple[float, float]
    theirs: tuple[float, float]
    whole: tuple[float, float]
    residual: float


def shapes_of(model: Model) -> dict[str, tuple[int, ...]]:
    """Every parameter of a model with its shape."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path, module in model.modules.items():
        shapes[path if module.kind == "parameter" else f"{path}.weight"] = module.shape
        if module.bias:
            shapes[f"{path}.bias"] = module.shape[:1]
    return dict(sorted(shapes.items()))


def write_pair(folder: Path, name: str, seed: int = 0) -> tuple[Path, Path]:
    """Base and tuned model of a shipped architecture as folders, one tensor in memory at a time."""
    architecture = architectures.load(name)
    draw = torch.Generator().manual_seed(seed)
    sides = folder / "base", folder / "tuned"
    index: dict[str, Any] = {"_class_name": "DiffusionPipeline"}
    for component, model in architecture.components.items():
        library = "transformers" if component.startswith("text_encoder") else "diffusers"
        index[component] = [library, model.class_name]
        shapes = shapes_of(model)
        files = [side / component / FILES.get(component, "model.safetensors") for side in sides]
        for file in files:
            file.parent.mkdir(parents=True)
            (file.parent / "config.json").write_text(json.dumps({"_class_name": model.class_name}), encoding="utf-8")
        with files[0].open("wb") as base, files[1].open("wb") as tuned:
            for stream in (base, tuned):
                stream.write(_header(shapes))
            for shape in shapes.values():
                for stream, values in zip((base, tuned), _weights(shape, draw), strict=True):
                    values.contiguous().numpy().tofile(stream)
    for side in sides:
        (side / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return sides


def _header(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """The header of float16 tensors that follow in this order, their bytes not yet known."""

    class Promised:
        length = 0

    def described(shape: tuple[int, ...]) -> Tensor:
        promise: Any = Promised()
        promise.length = 2 * math.prod(shape)
        return Tensor("F16", shape, (promise,))

    return header_bytes({name: described(shape) for name, shape in shapes.items()}, {"format": "pt"})


def _weights(shape: tuple[int, ...], draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A random weight, and the same with a low-rank difference and noise added."""
    base = torch.randn(shape, generator=draw)
    if len(shape) < 2:
        return base.half(), (base + NOISE * torch.randn(shape, generator=draw)).half()
    rows, columns = shape[0], math.prod(shape[1:])
    size = columns**-0.5
    base = (base * size).half()
    rank = min(DIRECTIONS, rows, columns)
    strength = torch.arange(1, rank + 1.0) ** -0.5
    strength *= STRENGTH * size / float(strength.norm())
    left, right = (torch.randn(length, rank, generator=draw) for length in (rows, columns))
    tuned = torch.addmm(base.float().reshape(rows, columns), left * strength, right.T)
    tuned += NOISE * size * torch.randn(rows, columns, generator=draw)
    return base, tuned.half().reshape(shape)


def command(base: Path, tuned: Path, output: Path, rank: int) -> tuple[Seconds, float]:
    """Run `si-hub distill` as people do; returns its seconds and its peak of resident memory in MB."""
    arguments = ["distill", str(base), str(tuned), "-o", str(output), "--method", "svd", "--rank", str(rank), "--json"]
    quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    begin = time.perf_counter()
    child = os.posix_spawn(
        sys.executable, [sys.executable, "-m", "si_hub.cli", *arguments], dict(os.environ), file_actions=quiet
    )
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - begin
    if status:
        raise SystemExit(f"si-hub distill failed: {os.waitstatus_to_exitcode(status)}")
    return (seconds, usage.ru_utime + usage.ru_stime), usage.ru_maxrss / 1000


def costliest(changes: list[Change]) -> list[tuple[Change, int]]:
    """A linear layer or convolution of each shape and how many there are, those first whose full SVDs cost most."""
    low_rank = [change for change in changes if change.kind in {"linear", "conv"}]
    counts = Counter(change.shape for change in low_rank)
    firsts = {change.shape: change for change in reversed(low_rank)}

    def cost(shape: tuple[int, ...]) -> float:
        short, long = sorted((shape[0], math.prod(shape[1:])))
        return counts[shape] * float(long) ** 2 * short

    return [(firsts[shape], counts[shape]) for shape in sorted(counts, key=cost, reverse=True)]


def timed(call: Callable[[], object]) -> Seconds:
    begin, work = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - begin, time.process_time() - work


def add(one: Seconds, other: Seconds, times: int = 1) -> Seconds:
    return one[0] + times * other[0], one[1] + times * other[1]


def ours(change: Change, rank: int) -> None:
    """Our part of one layer, reading included."""
    delta = change.delta()
    assert delta is not None
    truncate(delta, rank, generator=torch.Generator().manual_seed(0))


def residual(delta: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> float:
    """What is left of a difference, over what the optimal truncation of the same rank leaves."""
    matrix = delta.flatten(1)
    gram = matrix @ matrix.T if matrix.shape[0] < matrix.shape[1] else matrix.T @ matrix
    sigma2 = torch.linalg.eigvalsh(gram.double())
    left = float((matrix - up @ down.flatten(1)).double().square().sum())
    return math.sqrt(left / float(sigma2[: -up.shape[1]].clamp(min=0).sum()))


def measure(name: str, rank: int, minutes: float, folder: Path) -> Result:
    base, tuned = write_pair(folder, name)
    output = folder / "adapter.safetensors"
    seconds, peak = command(base, tuned, output, rank)
    opened = open_model(base)
    changes = match(opened, open_model(tuned, base=opened)).changes
    layers = {part: component.layers for part, component in file_format.read(output).components.items()}
    mine = theirs = whole = (0.0, 0.0)
    covered, worst = 0, 0.0
    for change, count in costliest(changes):
        leaves = layers[change.component][change.module].tensors
        if "up.weight" not in leaves:
            continue
        delta = change.delta()
        assert delta is not None
        worst = max(worst, residual(delta, leaves["up.weight"].torch(), leaves["down.weight"].torch()))
        if theirs[0] < 60 * minutes and delta[0].numel() <= WIDEST:
            took = timed(partial(extract_linear if delta.ndim == 2 else extract_conv, delta, "fixed", rank))
            mine = add(mine, timed(partial(ours, change, rank)))
            theirs, whole, covered = add(theirs, took), add(whole, took, count), covered + count
            print(f"  {name} {list(change.shape)} x{count}: {took[0]:.1f} s", file=sys.stderr, flush=True)
    total = sum(change.kind in {"linear", "conv"} for change in changes)
    numbers = sum(change.count for change in changes) / 1e6
    return Result(
        name, numbers, seconds, peak, output.stat().st_size / 1e6, (covered, total), mine, theirs, whole, worst
    )


def missed(result: Result) -> list[str]:
    """The bars that a size does not clear."""
    share = result.ours[1] / result.theirs[1] if result.theirs[1] else 0.0
    names = "residual", "share of LyCORIS's time", "peak in MB"
    found = zip(names, (result.residual, share, result.peak_mb), BARS, strict=True)
    return [f"{result.size}: {what} is {value:.4g}, not {bar:g} or less" for what, value, bar in found if value > bar]


def line(result: Result) -> str:
    def against(theirs: Seconds, ours: Seconds) -> str:
        return " and ".join(f"1/{a / b:.0f}" for a, b in zip(theirs, ours, strict=True))

    done, total = result.sampled
    return "\n".join(
        [
            f"{result.size}: {result.numbers:.0f} million numbers, adapter {result.file_mb:.0f} MB, residual "
            f"{result.residual:.4f} of the optimum",
            f"  our command {result.seconds[0]:.0f} s ({result.seconds[1]:.0f} s of the processor), peak "
            f"{result.peak_mb:.0f} MB",
            f"  sampled layers: LyCORIS {result.theirs[0]:.0f} s ({result.theirs[1]:.0f} s), "
            f"ours {result.ours[0]:.1f} s ({result.ours[1]:.1f} s): {against(result.theirs, result.ours)}",
            f"  our command against LyCORIS's {result.whole[0]:.0f} s ({result.whole[1]:.0f} s) for {done} of {total} "
            f"layers: {against(result.whole, result.seconds)}",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed and memory of si-hub distill --method svd.")
    parser.add_argument("--sizes", nargs="+", default=["sd15", "sdxl"], choices=architectures.names())
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--peer-minutes", type=float, default=10, help="time that LyCORIS gets for each size")
    parser.add_argument("--folder", type=Path, help="where the models are written (SDXL: 14 GB), removed afterwards")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = []
    for name in options.sizes:
        folder = Path(tempfile.mkdtemp(prefix="distill-speed-", dir=options.folder))
        try:
            results.append(measure(name, options.rank, options.peer_minutes, folder))
        finally:
            shutil.rmtree(folder)
        if not options.json:
            print(line(results[-1]))
    if options.json:
        print(json.dumps([asdict(result) for result in results], indent=2))
    if failed := [text for result in results for text in missed(result)]:
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    main()
