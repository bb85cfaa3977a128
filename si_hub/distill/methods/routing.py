"""Routers in closed form: which branch is meant, by what a layer sees.

The rows of pooled inputs that a layer gets under each branch are taken for Gaussian clouds around a mean of their own,
of one covariance: then ``softmax(R x + r0)`` with ``R_k = Σ⁻¹ (μ_k − μ)`` and ``r0_k = −½ (μ_k − μ)ᵀ Σ⁻¹ (μ_k + μ)`` is
the probability of a branch given a row (linear discriminant analysis: Rao 1948). A layer that cannot tell them apart
gets the even mix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from si_hub.distill.methods.branches import Branch
from si_hub.distill.running.student import Student
from si_hub.tuner import operator
from si_hub.tuner.door import find_door
from si_hub.tuner.kinds import kind_of

#: States of each branch that are looked at.
STATES = 64
#: Times that all routers are fitted to what the others make of the states.
ROUNDS = 4
#: What is added to the covariance's diagonal, in units of its mean, to choose from.
SHRINKAGE = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
#: Of −log of the probability: what a larger shrinkage may lose. Where branches are far apart all are right, and the
#: largest of them relies least on what was never seen.
EQUAL = 0.02
#: Of the mean square of what a layer sees: a variance below this is rounding.
ROUNDING = 1e-8


def posterior(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The router of a layer.

    The shrinkage is the largest under which each half of the rows finds the other's branches as probable as under any;
    where even that is no more than chance, so is the router.

    Args:
        rows: of each branch, ``[rows, in]``.

    Returns:
        ``R [branches, in]`` and ``r0 [branches]``, float64.
    """
    halves = [[one[k * len(one) // 2 : (k + 1) * len(one) // 2] for one in rows] for k in range(2)]
    losses = torch.zeros(len(SHRINKAGE), dtype=torch.float64)
    for half, other in ((0, 1), (1, 0)):
        for place, (weight, bias) in enumerate(_discriminants(halves[half])):
            losses[place] += sum(_surprise(one, k, weight, bias) for k, one in enumerate(halves[other])) / 2 / len(rows)
    best = int((losses <= losses.min() + EQUAL).nonzero().max())
    weight, bias = _discriminants(rows)[best]
    known = bool(losses[best] < torch.tensor(len(rows)).double().log())
    return (weight, bias) if known else (torch.zeros_like(weight), torch.zeros_like(bias))


def _discriminants(rows: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """R and r0 for each of `SHRINKAGE`."""
    means = torch.stack([one.double().mean(0) for one in rows])
    centre = means.mean(0)
    within = torch.cat([one.double() - mean for one, mean in zip(rows, means, strict=True)])
    _, lengths, axes = torch.linalg.svd(within, full_matrices=False)
    variances = lengths.square() / len(within)
    size = torch.cat(list(rows)).double().square().mean()
    ridge = torch.maximum(variances.sum() / within.shape[1], ROUNDING * size).clamp(min=1e-30)
    apart = means - centre
    along = apart @ axes.T
    found = []
    for share in SHRINKAGE:
        rest = share * ridge
        weight = (along * (1.0 / (variances + rest) - 1.0 / rest)) @ axes + apart / rest
        found.append((weight, -0.5 * (weight * (means + centre)).sum(1)))
    return found


def _surprise(rows: Tensor, branch: int, weight: Tensor, bias: Tensor) -> float:
    """Mean of −log of the branch's probability, given these rows."""
    return float(-torch.log_softmax(rows.double() @ weight.T + bias, 1)[:, branch].mean())


def fit_routers(student: Student, branches: Sequence[Branch]) -> None:
    """Give every layer its router, by states of each branch's tuned model that are told the branch's name.

    A layer sees what the layers before it make of their own routers' choice, so all are fitted `ROUNDS` times to what
    they see then, from the even mix on: what the first can tell reaches the others.

    Args:
        student: an adapter whose layers have learned routers, all of them zero.
        branches: its branches.
    """
    student.choose(None)
    told = []
    for branch in branches:
        states = branch.survey.states()
        some = states[range(0, len(states), max(1, len(states) // STATES))].with_word(branch.name)
        told.append((branch.survey.runner, some.batches(branch.survey.batch)))
    for _ in range(ROUNDS):
        seen: dict[str, list[Tensor]] = {}
        for runner, batches in told:
            with _watch(student) as found, torch.no_grad():
                for part in batches:
                    runner(part)
            for name, rows in found.items():
                seen.setdefault(name, []).append(torch.cat(rows))
        for name, each in seen.items():
            weight, bias = posterior(each)
            student.leaves[f"{name}.router.weight"].data.copy_(weight.float())
            student.leaves[f"{name}.router.bias"].data.copy_(bias.float())


@contextmanager
def _watch(student: Student) -> Iterator[Mapping[str, list[Tensor]]]:
    """The pooled inputs, on the CPU, of every layer with a router, by ``component.module``, while the block runs."""
    found: dict[str, list[Tensor]] = {}

    def hook_of(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = args[0] if args else next(iter(kwargs.values()))
            axes = operator.inner_axes(given.ndim, kind_of(module, name).channels_last)
            found.setdefault(name, []).append(operator.pool(given, axes).cpu())

        return hook

    with ExitStack() as hooks:
        for component, model in student.models.items():
            door = find_door(model)
            assert door is not None
            for path, site in door.sites.items():
                if f"{component}.{path}.router.weight" in student.leaves:
                    handle = site.base.register_forward_pre_hook(hook_of(f"{component}.{path}"), with_kwargs=True)
                    hooks.callback(handle.remove)
        yield found
