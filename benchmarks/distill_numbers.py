"""What the bytes of a calibrated adapter are best spent on: fp16, int8, or four bits beside eight.

    python -m benchmarks.distill_numbers [--styles ink] [--sizes 112kB 196kB 360kB] [--quick]

For each size, the error on held-out prompts of adapters whose ranks are chosen and refitted for these bytes. `fp16` and
`int8` are what `si-hub distill --dtype` writes. `4 and 8 bits` is not in the format: every rank has four bits or eight,
whichever removes more of the error for its bytes, its rounding counted, two numbers of four bits in a byte, and there
are no cores. `--quick` looks at fewer states, which leaves larger errors to all of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from examples.miniature.checkpoints import HERE
from examples.miniature.progress import hush
from si_hub.distill.budget.filesize import DOCUMENT
from si_hub.distill.budget.spend import refit
from si_hub.distill.methods.calibrated import Calibration
from si_hub.distill.pair.matching import match_all
from si_hub.distill.request import Request
from si_hub.report.text import size_bytes, size_text

QUICK = {"trajectories": 24, "states": 4, "sampling_steps": 8, "pieces": 48, "held_out": 16}
BITS = (4, 8)


def calibration_of(style: str, dtype: str, cache: Path, options: dict[str, Any]) -> Calibration:
    """A style's survey, which is kept in ``cache``."""
    tuned = HERE / f"checkpoints/{style}.safetensors"
    request = Request.of(
        "calibrated", [tuned], size=10**5, dtype=dtype, prompts=HERE / "prompts.txt",
        options={"guidance": 3.0, "cache": cache, **options},
    )  # fmt: skip
    return Calibration(match_all(HERE / "base", [tuned])[0], request)


def rounded(values: torch.Tensor, bits: int) -> torch.Tensor:
    """A row of numbers at the nearest of so many bits, symmetric, by its largest."""
    top = 2 ** (bits - 1) - 1
    scale = values.abs().max().clamp(min=1e-30) / top
    found: torch.Tensor = (values / scale).round() * scale
    return found


def mixed_error(made: Calibration, size: int) -> float:
    """The error of ranks of four bits and of eight, in about ``size`` bytes, entries counted as int8's are."""
    offers: list[tuple[float, float, int, int]] = []
    for group in made.chooser.groups(made.dtype):
        ordered = sorted(group.columns, key=lambda column: -float(made.scores[column]))
        for place, column in enumerate(ordered):
            offers += _offers(made, column, group.cost, group.opening if place == 0 else 0)
    left, bits = float(size - DOCUMENT), dict[int, int]()
    for _, cost, column, wide in sorted(offers, key=lambda offer: -offer[0]):
        if cost > left:
            break
        left -= cost
        bits[column] = wide
    columns = sorted(bits)
    found = made.findings
    before = {
        key: (p.down.clone(), p.up.clone()) for key, p in found.parts.items() if p.down is not None and p.up is not None
    }
    for column in columns:
        key, name = found.columns[column]
        part = found.parts[key]
        if name.isdecimal() and part.down is not None and part.up is not None:
            rank = int(name)
            part.down[rank] = rounded(part.down[rank], bits[column])
            part.up[:, rank] = rounded(part.up[:, rank], bits[column])
    factors = refit(found.effects, found.target, columns, found.samples)
    components = made.chooser.make(columns, factors, [], [], "F32").components
    for key, (down, up) in before.items():
        part = found.parts[key]
        assert part.down is not None
        assert part.up is not None
        part.down.copy_(down)
        part.up.copy_(up)
    return made.measure.of(components).error


def _offers(made: Calibration, column: int, cost: int, opening: int) -> list[tuple[float, float, int, int]]:
    """(error removed per byte, bytes, column, bits) of a part in four bits, and of the other four; never rising."""
    key, name = made.findings.columns[column]
    part, gain = made.findings.parts[key], float(made.scores[column])
    if gain <= 0.0:
        return []
    if not name.isdecimal() or part.down is None or part.up is None:
        return [(gain / (cost + opening), cost + opening, column, 8)]
    rank, kept = int(name), list[float]()
    for bits in BITS:
        lost = sum(
            float((rounded(row, bits) - row).square().sum() / row.square().sum())
            for row in (part.down[rank], part.up[:, rank])
        )
        kept.append(gain * max(0.0, 1.0 - lost))
    # Four bits have a scale of two bytes, eight of four.
    narrow, wide = cost / 2 + opening, float(cost + opening)
    if kept[0] / narrow <= (kept[1] - kept[0]) / (wide - narrow):
        return [(kept[1] / wide, wide, column, 8)]
    return [
        (kept[0] / narrow, narrow, column, 4),
        ((kept[1] - kept[0]) / (wide - narrow), wide - narrow, column, 8),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--styles", nargs="+", default=["ink"])
    parser.add_argument("--sizes", nargs="+", type=size_bytes, default=[112_000, 196_000, 360_000])
    parser.add_argument("--cache", type=Path, default=Path("build/distill_numbers"), help="folder of the surveys")
    parser.add_argument("--quick", action="store_true", help="a short survey")
    told = parser.parse_args()
    torch.set_num_threads(1)
    hush()
    print("| style | bytes | fp16 | int8 | of fp16's | 4 and 8 bits | of fp16's |\n|---|---|---|---|---|---|---|")
    for style in told.styles:
        half, whole = (calibration_of(style, d, told.cache, QUICK if told.quick else {}) for d in ("fp16", "int8"))
        for size in told.sizes:
            errors = [one.fidelity_of(one.within(size)).error for one in (half, whole)] + [mixed_error(whole, size)]
            cells = [f"{errors[0]:.4f}"]
            for error in errors[1:]:
                cells += [f"{error:.4f}", f"{error / errors[0]:.2f}"]
            print(f"| {style} | {size_text(size)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
