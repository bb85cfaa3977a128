"""What other forms than pairs of one layer would leave of a checkpoint's difference, at equal numbers.

    python -m benchmarks.distill_forms [--styles ink neon] [--numbers 37872 80280 162568]

Every layer's difference ΔW is taken as it is (`weights`) and as the predicted noise feels it (`felt`: ``L_gᵀ ΔW L_c``,
see `si_hub.distill.survey.curvature`, on the states that `calibrated` looks at). All layers share one budget, which is
spent where the next numbers take away the most. Shares of the squared norm that are left:

- `pairs`: the leading singular triplets of each layer, as `si-hub distill` writes them;
- `joint`: one down matrix for the q, k and v that see the same input, where that is better;
- `tucker`: of convolutions a core between fewer inputs and fewer outputs, where that is better;
- `kronecker`: sums of Kronecker products (Van Loan and Pitsianis), the best of all shapes, where that is better; for
  `weights` alone, as what is felt of a product is none.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import torch
from torch import Tensor

from examples.miniature.checkpoints import HERE
from examples.miniature.progress import hush
from si_hub.distill.pair.change import Change
from si_hub.distill.pair.matching import match_all
from si_hub.distill.request import Request
from si_hub.distill.survey.cache import survey_of
from si_hub.distill.survey.curvature import Curvature, limit_of
from si_hub.distill.survey.stages import values_of

BASE = HERE / "base"
STYLES = ("ink", "neon", "mosaic", "pastel", "clay")
#: What LyCORIS's extractions of dims 2, 4 and 8 have.
NUMBERS = (37_872, 80_280, 162_568)
RANKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
#: Layers that see the same input, by the last part of their names.
TOGETHER = ({"to_q", "to_k", "to_v"}, {"q_proj", "k_proj", "v_proj"})


class Felt(NamedTuple):
    """A layer's difference ``[out, width]`` and the roots ``L_c`` and ``L_g`` that it is looked at through.

    Attributes:
        name: of the layer.
        delta: as it is.
        inputs, outputs: ``[width, width]`` and ``[out, out]``.
        kernel: positions of a convolution's kernel, 1 of a linear layer.
    """

    name: str
    delta: Tensor
    inputs: Tensor
    outputs: Tensor
    kernel: int

    @property
    def matrix(self) -> Tensor:
        return self.outputs.T @ self.delta @ self.inputs


#: What a part of the model may be made of: numbers → the squared norm that they take away.
Points = list[tuple[int, float]]


def pairs(matrix: Tensor, each: int | None = None) -> Points:
    """Of every rank; a rank costs as many numbers as ``each`` says, a pair's by default."""
    gains = torch.linalg.svdvals(matrix.double()).square().cumsum(0).tolist()
    return [((k + 1) * (each or sum(matrix.shape)), gain) for k, gain in enumerate(gains)]


def tucker(layer: Felt) -> Points:
    """Of every number of inputs and outputs in `RANKS`; the input directions by alternating, from HOSVD's."""
    out, kernel = layer.delta.shape[0], layer.kernel
    width = layer.delta.shape[1] // kernel
    matrix = layer.matrix.double()
    moment = (layer.inputs @ layer.inputs.T).double().reshape(width, kernel, width, kernel)
    values, vectors = torch.linalg.eigh(moment.diagonal(dim1=1, dim2=3).sum(-1))
    root, inverse = (vectors * values.clamp(min=1e-12) ** power @ vectors.T for power in (0.5, -0.5))
    back = torch.linalg.inv(layer.inputs.double())
    found: Points = []
    for outs, ins in product(RANKS, RANKS):
        if outs > out or ins > width or outs > ins * kernel or ins > outs * kernel:
            continue
        left, best = torch.linalg.svd(matrix, full_matrices=False)[0][:, :outs], 0.0
        for _ in range(3):
            rows = ((left.T @ matrix) @ back).reshape(outs, width, kernel)
            seen = (root @ rows).transpose(0, 1).reshape(width, -1)
            directions = inverse @ torch.linalg.svd(seen, full_matrices=False)[0][:, :ins]
            spread = torch.kron(directions.T.contiguous(), torch.eye(kernel, dtype=torch.float64))
            basis = torch.linalg.qr((spread @ layer.inputs.double()).T).Q
            left, sigma, _ = torch.linalg.svd(matrix @ basis, full_matrices=False)
            left, best = left[:, :outs], max(best, float(sigma[:outs].square().sum()))
        found.append((out * outs + kernel * outs * ins + ins * width, best))
    return found


def kronecker(layer: Felt) -> Points:
    """Of every way to write a matrix as blocks, and every number of terms."""
    rows, columns = layer.delta.shape
    found: Points = []
    for high, wide in product(_divisors(rows), _divisors(columns)):
        if (high, wide) in ((1, 1), (rows, columns)):
            continue
        blocks = layer.delta.reshape(high, rows // high, wide, columns // wide).transpose(1, 2)
        found += pairs(blocks.reshape(high * wide, -1))
    return found


def _divisors(number: int) -> list[int]:
    return [one for one in range(1, number + 1) if number % one == 0]


def hull(points: Points) -> Points:
    """The steps (numbers, gain) of the upper convex hull, each worth less by number than the one before."""
    steps: list[tuple[int, float]] = []
    last = (0, 0.0)
    for cost, gain in sorted(points):
        step = cost - last[0], gain - last[1]
        while steps and step[0] + steps[-1][0] > 0 and step[1] * steps[-1][0] >= steps[-1][1] * step[0]:
            before = steps.pop()
            step = step[0] + before[0], step[1] + before[1]
        if step[1] > 0:
            steps.append(step)
            last = cost, gain
    return steps


def left_at(parts: Sequence[Points], whole: float, numbers: Sequence[int]) -> list[float]:
    """The share that is left with so many numbers in all, the steps taken in the order of their worth."""
    steps = sorted((step for part in parts for step in hull(part)), key=lambda step: -step[1] / step[0])
    found = []
    for limit in numbers:
        spent, gained = 0, 0.0
        for cost, gain in steps:
            if spent + cost <= limit:
                spent, gained = spent + cost, gained + gain
        found.append(1 - gained / whole)
    return found


def together(layers: Sequence[Felt]) -> Iterator[list[Felt]]:
    """The layers by what they see: q, k and v of one attention with inputs of one width, the others alone."""
    groups: dict[tuple[str, int], list[Felt]] = defaultdict(list)
    for layer in layers:
        stem, _, last = layer.name.rpartition(".")
        shared = any(last in names for names in TOGETHER)
        # In cross-attention q sees the picture, k and v the text.
        crossed = ".attn2." in f"{layer.name}." and last == "to_q"
        groups[(stem if shared and not crossed else layer.name), layer.delta.shape[1]].append(layer)
    yield from groups.values()


def merged(parts: Sequence[Points]) -> Points:
    """Several parts that are spent on in the order of worth, as one."""
    total, points = (0, 0.0), []
    for step in sorted((step for part in parts for step in hull(part)), key=lambda step: -step[1] / step[0]):
        total = total[0] + step[0], total[1] + step[1]
        points.append(total)
    return points


def compare(layers: Sequence[Felt], numbers: Sequence[int], *, kron: bool) -> dict[str, list[float]]:
    """What each form leaves at each number of numbers."""
    whole = sum(float(layer.matrix.double().square().sum()) for layer in layers)
    own = {layer.name: pairs(layer.matrix) for layer in layers}
    shared = []
    for group in together(layers):
        points = merged([own[layer.name] for layer in group])
        if len(group) > 1:
            stacked = torch.cat([layer.matrix for layer in group])
            points = points + pairs(stacked)
        shared.append(points)
    found = {"pairs": left_at(list(own.values()), whole, numbers), "joint": left_at(shared, whole, numbers)}
    cores = {layer.name: own[layer.name] + (tucker(layer) if layer.kernel > 1 else []) for layer in layers}
    found["tucker"] = left_at(list(cores.values()), whole, numbers)
    if kron:
        blocks = [own[layer.name] + kronecker(layer) for layer in layers]
        found["kronecker"] = left_at(blocks, whole, numbers)
    return found


def layers_of(style: str, cache: Path) -> tuple[list[Felt], list[Felt]]:
    """A checkpoint's layers as they are, and as they are felt."""
    tuned = HERE / "checkpoints" / f"{style}.safetensors"
    request = Request.of("calibrated", [tuned], rank=4, dtype="fp16", options={"cache": cache})
    survey, _ = survey_of(match_all(BASE, [tuned])[0], request)
    changes: Sequence[Change] = survey.low_rank_changes()
    curvature = Curvature(changes, limit_of(changes), torch.device("cpu"))
    curvature.add_up([values_of(survey.curvature())])
    plain, felt = [], []
    for change in changes:
        delta = change.delta()
        assert delta is not None
        matrix, kernel = delta.flatten(1), math.prod(change.shape[2:])
        rows, columns = matrix.shape
        inputs, outputs = (moment.root().times(torch.eye(size)) for moment, size in
                           zip(curvature.moments[change.key], (columns, rows), strict=True))  # fmt: skip
        plain.append(Felt(change.name, matrix, torch.eye(columns), torch.eye(rows), kernel))
        felt.append(Felt(change.name, matrix, inputs, outputs, kernel))
    return plain, felt


def table(found: Mapping[tuple[str, str], Sequence[Sequence[float]]], numbers: Sequence[int]) -> Iterator[str]:
    """A line for each metric and form: the mean over the styles, and in brackets its share of the pairs'."""
    yield "| | form | " + " | ".join(f"{number:,}" for number in numbers) + " |"
    yield "|---" * (2 + len(numbers)) + "|"
    for (metric, form), by_style in found.items():
        means = [mean(column) for column in zip(*by_style, strict=True)]
        base = [mean(column) for column in zip(*found[metric, "pairs"], strict=True)]
        cells = (f"{one:.4f} ({one / two:.2f})" for one, two in zip(means, base, strict=True))
        yield f"| {metric} | `{form}` | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--styles", nargs="+", default=STYLES, choices=STYLES)
    parser.add_argument("--numbers", nargs="+", type=int, default=NUMBERS, help="numbers of the whole adapter")
    parser.add_argument("--cache", type=Path, default=Path("build/distill_forms"), help="folder of the surveys")
    options = parser.parse_args()
    hush()
    torch.set_num_threads(1)
    found: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    for style in options.styles:
        for metric, layers in zip(("weights", "felt"), layers_of(style, options.cache), strict=True):
            for form, shares in compare(layers, options.numbers, kron=metric == "weights").items():
                found[metric, form].append(shares)
                print(style, metric, form, *(f"{share:.4f}" for share in shares), flush=True)
    print("", *table(found, options.numbers), sep="\n")


if __name__ == "__main__":
    main()
