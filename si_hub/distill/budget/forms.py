"""Which form each layer takes, where it may take several: the one that is worth most at the price that a budget makes.

A form is a group of the same parts with other costs, which keeps a share of what each part does. At a price per unit of
cost a group is worth what its parts remove beyond what they cost, those that remove more than they cost taken
(Lagrange's multiplier); the price is the lowest at which all that is taken stays within the budget.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from si_hub.distill.budget.spend import Group

#: Halvings of the interval that the price lies in.
BISECTIONS = 50


def choose_forms(offers: Sequence[Sequence[Group]], scores: Tensor, budget: int) -> list[Group]:
    """One group of each offer.

    Args:
        offers: of each layer or part, the groups that it may be; all of one offer have the same columns.
        scores: error that each part removes, ``[parts]``.
        budget: total cost, in the unit of the groups.
    """
    groups = [group for offer in offers for group in offer]
    if len(groups) == len(offers) or not groups:
        return groups
    most = max(len(group.columns) for group in groups)
    worth = torch.zeros(len(groups), most, dtype=torch.float64)
    for row, group in enumerate(groups):
        worth[row, : len(group.columns)] = group.worth(scores)
    cost = torch.tensor([float(group.cost) for group in groups], dtype=torch.float64)
    opening = torch.tensor([float(group.opening) for group in groups], dtype=torch.float64)
    counts = torch.tensor([len(offer) for offer in offers])
    owner = torch.repeat_interleave(torch.arange(len(offers)), counts)
    first = torch.cumsum(counts, 0) - counts

    def at(price: float) -> tuple[float, list[int]]:
        """What everything costs at a price, and the group of each offer that is worth most."""
        gain = (worth - price * cost[:, None]).clamp(min=0.0)
        net = torch.nan_to_num(gain.sum(1) - price * opening, nan=-torch.inf)
        best = torch.full((len(offers),), -torch.inf, dtype=torch.float64).scatter_reduce(0, owner, net, "amax")
        # Of equal ones the first.
        place = torch.where(net == best[owner], torch.arange(len(groups)), len(groups))
        chosen = torch.full((len(offers),), len(groups)).scatter_reduce(0, owner, place, "amin")
        spent = (gain > 0).sum(1) * cost + opening
        return float(spent[chosen][best > 0].sum()), chosen.tolist()

    low, high = 0.0, float((worth / cost[:, None]).max())
    found = first.tolist()
    for _ in range(BISECTIONS):
        price = (low + high) / 2
        spent, chosen = at(price)
        if spent > budget:
            low = price
        else:
            high, found = price, chosen
    return [groups[row] for row in found]
