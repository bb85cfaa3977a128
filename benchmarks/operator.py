"""What routing costs: mixing the A_i per instance before multiplying, against all n products, against the base alone.

Run ``python benchmarks/operator.py``; it prints a table for the layer shapes of SD 1.5 and Flux, one torch thread on
the CPU (or the GPU where there is one), and whether the cost rule chose the faster way. ``--json`` writes the numbers.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

import si_hub.tuner as tuner
from si_hub.adapter import Component, Layer
from si_hub.storage.tensors import Tensor as Stored
from si_hub.tuner import operator

RANK = 16


@dataclass(frozen=True)
class Shape:
    """One layer and its batch."""

    name: str
    base: Callable[[], nn.Module]
    batch: tuple[int, ...]


SHAPES = (
    Shape("time embedding 320→1280, 2 vectors", lambda: nn.Linear(320, 1280), (2, 320)),
    Shape("cross attention 768→320, 2×77 tokens", lambda: nn.Linear(768, 320), (2, 77, 768)),
    Shape("attention 320→320, 2×4096 tokens", lambda: nn.Linear(320, 320), (2, 4096, 320)),
    Shape("attention 1280→1280, 2×64 tokens", lambda: nn.Linear(1280, 1280), (2, 64, 1280)),
    Shape("attention 1280→1280, 8×64 tokens", lambda: nn.Linear(1280, 1280), (8, 64, 1280)),
    Shape("feed forward 320→2560, 2×1024 tokens", lambda: nn.Linear(320, 2560), (2, 1024, 320)),
    Shape("conv 3×3 320→320, 2×32×32", lambda: nn.Conv2d(320, 320, 3, padding=1), (2, 320, 32, 32)),
    Shape("conv 3×3 1280→1280, 2×8×8", lambda: nn.Conv2d(1280, 1280, 3, padding=1), (2, 1280, 8, 8)),
    Shape("conv 3×3 stride 2 320→320, 2×32×32", lambda: nn.Conv2d(320, 320, 3, 2, 1), (2, 320, 32, 32)),
    Shape("conv 1×1 640→320, 2×32×32", lambda: nn.Conv2d(640, 320, 1), (2, 640, 32, 32)),
)


@dataclass(frozen=True)
class Result:
    """Milliseconds of one forward: the base, the base with each way of routing, and which way the rule takes."""

    shape: str
    branches: int
    base: float
    lora: float
    mixed: float
    products: float
    fixed: float
    rule: str

    @property
    def regret(self) -> float:
        """How much longer the chosen way takes than the faster one."""
        chosen = self.mixed if self.rule == "mixed" else self.products
        return chosen / min(self.mixed, self.products) - 1


def _layer(base: nn.Module, n: int) -> Layer:
    weight = base.get_parameter("weight")
    tensors = {"down.weight": torch.randn(n * RANK, *weight.shape[1:]), "up.weight": torch.randn(weight.shape[0], RANK)}
    if n > 1:
        tensors |= {"router.weight": torch.randn(n, weight.shape[1]), "router.bias": torch.randn(n)}
    return Layer({name: Stored.from_torch(tensor) for name, tensor in tensors.items()})


def _milliseconds(model: nn.Module, x: Tensor, repeats: int) -> float:
    """The fastest of several runs, in CPU time where there is no GPU: other processes do not show in it."""
    best = float("inf")
    clock = time.perf_counter if x.is_cuda else time.process_time
    with torch.inference_mode():
        model(x)
        for _ in range(repeats):
            start = clock()
            model(x)
            if x.is_cuda:
                torch.cuda.synchronize()
            best = min(best, clock() - start)
    return best * 1000


def measure(shape: Shape, n: int, device: torch.device, dtype: torch.dtype, repeats: int) -> Result:
    """All ways for one layer and n branches."""
    model = nn.Sequential(shape.base()).to(device, dtype)
    x = torch.randn(shape.batch, device=device, dtype=dtype)
    times: dict[str, float] = {"base": _milliseconds(model, x, repeats)}
    rule: list[bool] = []

    def load(branches: int) -> None:
        tuner.remove(model)
        names = [f"b{i}" for i in range(branches)] if branches > 1 else []
        tuner.inject(
            model, Component(layers={"0": _layer(model.get_submodule("0"), branches)}), name="style", branches=names
        )

    load(1)
    times["lora"] = _milliseconds(model, x, repeats)
    load(n)
    for way, forced in (("mixed", True), ("products", False)):
        with patch("si_hub.tuner.operator.mixing_pays", return_value=forced):
            times[way] = _milliseconds(model, x, repeats)
    real = operator.mixing_pays

    def remember(*args: Any, **kwargs: Any) -> bool:
        rule.append(real(*args, **kwargs))
        return rule[-1]

    with patch("si_hub.tuner.operator.mixing_pays", side_effect=remember):
        model(x)
    tuner.set_styles(model, {"b0": 1.0})
    times["fixed"] = _milliseconds(model, x, repeats)
    return Result(shape.name, n, **times, rule="mixed" if rule[0] else "products")


def results(device: torch.device, dtype: torch.dtype, repeats: int) -> Iterator[Result]:
    for shape in SHAPES:
        for n in (2, 4, 8):
            yield measure(shape, n, device, dtype, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--json", help="write the numbers to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{'layer':<40} {'n':>2} {'base':>8} {'n = 1':>8} {'mixed':>8} {'products':>8} {'styles':>8}  rule (ms)")
    rows: list[dict[str, Any]] = []
    for r in results(device, getattr(torch, options.dtype), options.repeats):
        rows.append(asdict(r) | {"regret": r.regret})
        times = " ".join(f"{value:8.3f}" for value in (r.base, r.lora, r.mixed, r.products, r.fixed))
        print(f"{r.shape:<40} {r.branches:>2} {times}  {r.rule}, {r.regret:.0%} over the faster")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
