"""A budget of numbers dealt out as ranks, where a survey found that they do most."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

import torch
from torch import Tensor

from si_hub.training.surveying import Pull


def deal_ranks(pulls: Mapping[str, Pull], budget: int, branches: int = 1) -> dict[str, int]:
    """Ranks by module: the next rank always goes where the squared singular value per number it costs is largest.

    The sum of the squares that are taken is what one step of gradient descent gains to first order; dealt in this order
    it is the largest that the budget buys, to within one module's rank.

    Args:
        pulls: what was found, by path.
        budget: numbers that all pairs together may have.
        branches: n; a rank then has n rows of A and one column of B.

    Returns:
        Ranks of 1 and more; modules that get none are left out.
    """
    found: dict[str, int] = {}
    waiting = [(-_worth(pull, 0, branches), path) for path, pull in pulls.items() if len(pull.strengths)]
    heapq.heapify(waiting)
    left = budget
    while waiting:
        _, path = heapq.heappop(waiting)
        pull, cost = pulls[path], _cost(pulls[path], branches)
        if cost > left:
            continue
        left -= cost
        rank = found[path] = found.get(path, 0) + 1
        if rank < len(pull.strengths):
            heapq.heappush(waiting, (-_worth(pull, rank, branches), path))
    return found


def _cost(pull: Pull, branches: int) -> int:
    return pull.numbers + (branches - 1) * pull.reads.shape[1]


def _worth(pull: Pull, place: int, branches: int) -> float:
    return float(pull.strengths[place]) ** 2 / _cost(pull, branches)


def first_reads(pull: Pull, rank: int, branches: int, like: Tensor) -> Tensor:
    """The A_i to begin with: the directions that pull most, each as long as a row of ``like`` is.

    Several branches begin with directions of their own, in turn: the first with the 1st, n + 1st, …; where there are
    too few, the rest stays as it is.

    Args:
        pull: of the module.
        rank, branches: r and n.
        like: the A_i as they are, random, ``[n * r, in, *kernel]``.
    """
    found = like.detach().clone().float().flatten(1)
    length = found.norm(dim=1).mean()
    for branch in range(branches):
        own = pull.reads[branch::branches][:rank]
        found[branch * rank : branch * rank + len(own)] = own.to(found.device) * length
    return found.reshape(like.shape).to(like.dtype)


def even_numbers(pulls: Mapping[str, Pull], rank: int, branches: int = 1) -> int:
    """Numbers of pairs of one rank in all modules."""
    return sum(rank * _cost(pull, branches) for pull in pulls.values())


def share_of(pulls: Mapping[str, Pull], ranks: Mapping[str, int]) -> float:
    """Which share of the squared gradient that was found lies in the directions that have a rank."""
    taken = sum(float(pulls[path].strengths[:rank].square().sum()) for path, rank in ranks.items())
    whole = sum(float(torch.sum(pull.strengths.square())) for pull in pulls.values())
    return taken / whole if whole else 0.0
