"""What a budget buys of a survey's parts: which of them, in what form and how much of each, and the layers they make.

Parts are priced by what their file entries hold, a convolution's pieces also with cores between fewer inputs; spent on
in the order of worth (`budget.spend`), in the form that is worth most (`budget.forms`), and fitted to stand for what
was not chosen as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from si_hub.adapter import Component, Layer
from si_hub.distill.budget.filesize import Price
from si_hub.distill.budget.forms import choose_forms
from si_hub.distill.budget.spend import Group, predicted_error, refit, scores, spend
from si_hub.distill.pair.change import Change, ModuleKey
from si_hub.distill.pair.matching import Pair
from si_hub.distill.running.storing import store
from si_hub.distill.survey.effects import ChangeParts
from si_hub.distill.survey.lowrank import balance
from si_hub.distill.survey.stages import Findings
from si_hub.storage.tensors import Tensor

#: A bare parameter is carried where it takes at most this share of the budget.
_BARE = 0.1


@dataclass(frozen=True, slots=True)
class Choice:
    """Parts that are carried.

    Attributes:
        columns: of the effects.
        coefficients: how much of each.
        predicted: share of the error that is left, to first order.
        components: the adapter's layers.
        groups: the groups that the parts are of.
        always: bare parameters that are carried besides.
        before: where it was fitted to predictions (`si_hub.distill.methods.fitting`), the error that it left before.
    """

    columns: list[int]
    coefficients: torch.Tensor
    predicted: float
    components: dict[str, Component]
    groups: Sequence[Group] = ()
    always: Sequence[Change] = ()
    before: float | None = None


class Chooser:
    """What can be chosen of a pair's survey.

    Args:
        pair: base and tuned model.
        findings: of the survey.

    Attributes:
        changes: by module.
        scores: the error that each part removes.
    """

    def __init__(self, pair: Pair, findings: Findings) -> None:
        self.pair, self.findings = pair, findings
        self.scores = scores(findings.effects)
        self.changes: dict[ModuleKey, Change] = {change.key: change for change in pair.changes}

    def groups(self, dtype: str | None) -> list[Group]:
        """What can be carried, as it is.

        Args:
            dtype: safetensors' name of the file's numbers, for costs in bytes; ``None`` for costs in numbers.
        """
        return [offer[0] for offer in self.offers(dtype)]

    def offers(self, dtype: str | None) -> list[list[Group]]:
        """What can be carried: as it is first, and the pieces of a convolution with cores between fewer inputs."""
        price = Price(dtype)
        by_entry: dict[tuple[ModuleKey, str], list[int]] = {}
        for column, (key, name) in enumerate(self.findings.columns):
            by_entry.setdefault((key, "pieces" if name.isdecimal() else name), []).append(column)
        found = []
        for (key, what), columns in by_entry.items():
            change = self.changes[key]
            name = ".".join(key)
            if what == "pieces":
                plain = Group(tuple(columns), price.rank(*change.matrix), price.pair(name))
                found.append([plain, *self._with_cores(change, plain, price)])
            else:
                both = change.weight if what == "weight" else change.bias
                assert both is not None
                found.append([Group(tuple(columns), price.item * both[0].count + price.entries(name))])
        return found

    def _with_cores(self, change: Change, plain: Group, price: Price) -> list[Group]:
        """The same pieces for every number of directions that makes one cheaper."""
        cores = self.findings.parts[change.key].cores
        if cores is None:
            return []
        taps, (out, width) = math.prod(change.shape[2:]), change.shape[:2]
        groups = (
            Group(
                plain.columns, price.core(out, directions * taps), price.cored(change.name, directions, width),
                tuple(kept.tolist()), directions,
            )
            for directions, kept in cores.kept.items()
        )  # fmt: skip
        return [group for group in groups if group.cost < plain.cost]

    def choose(self, budget: int, dtype: str, *, in_bytes: bool) -> Choice:
        """The choice for a budget in bytes of the file, but for its document, or in numbers.

        Args:
            budget: how much.
            dtype: safetensors' name of what numbers are stored as.
            in_bytes: whether the budget is in bytes.
        """
        unit = dtype if in_bytes else None
        item = Price(unit).item
        always = [
            change for change in self.pair.changes
            if change.kind == "parameter" and change.count * item < _BARE * budget
        ]  # fmt: skip
        left = budget - sum(change.count * item for change in always)
        offers = self.offers(unit)
        # What an entry opens with makes a budget's price jump: now and then no form but their own is the better.
        tried = [(groups, spend(groups, self.scores, left)) for groups in
                 (choose_forms(offers, self.scores, left), [offer[0] for offer in offers])]  # fmt: skip
        groups, columns = max(tried, key=lambda one: float(self.kept(one[0])[one[1]] @ self.scores[one[1]]))
        return self.fit(columns, groups, always, dtype)

    def fit(self, columns: list[int], groups: Sequence[Group], always: Sequence[Change], dtype: str) -> Choice:
        """The parts of these columns in the forms of their groups, as much of each as stands for all of the change."""
        found, effects = self.findings, self._kept_effects(columns, groups)
        coefficients = refit(effects, found.target, range(len(columns)), found.samples)
        return self.make(columns, coefficients, groups, always, dtype)

    def as_it_is(self, choice: Choice, dtype: str) -> Choice:
        """The same parts, all of each."""
        every = torch.ones_like(choice.coefficients)
        return self.make(choice.columns, every, choice.groups, choice.always, dtype)

    def make(
        self,
        columns: list[int],
        coefficients: torch.Tensor,
        groups: Sequence[Group],
        always: Sequence[Change],
        dtype: str,
    ) -> Choice:
        """The parts of these columns in the forms of their groups, so much of each."""
        target, kept = self.findings.target, self.kept(groups)[columns]
        share = predicted_error(self._kept_effects(columns, groups), target, range(len(columns)), coefficients)
        # The rest of a core's effect has nothing to do with its piece's, and adds to the error.
        rest = coefficients.square() * kept * (1.0 - kept) * self.scores[columns]
        share += float(rest.sum() / target.double().square().mean())
        choice = Choice(columns, coefficients, share, {}, groups, always)
        choice.components.update(self.components(choice, dtype))
        return choice

    def _kept_effects(self, columns: Sequence[int], groups: Sequence[Group]) -> torch.Tensor:
        """Effects of these columns; to first order, a core's are the share of its piece's that it keeps."""
        return self.findings.effects[:, list(columns)] * self.kept(groups)[list(columns)].float()

    def kept(self, groups: Sequence[Group]) -> torch.Tensor:
        """Share of the squared effect of every part that the groups' forms keep, ``[parts]``, float64."""
        kept = torch.ones(len(self.findings.columns), dtype=torch.float64)
        for group in groups:
            if group.kept is not None:
                kept[list(group.columns)] = torch.tensor(group.kept, dtype=torch.float64)
        return kept

    def components(self, choice: Choice, dtype: str) -> dict[str, Component]:
        """The layers of a choice, their numbers stored as ``dtype``."""
        directions = {self.findings.columns[group.columns[0]][0]: group.directions for group in choice.groups
                      if group.directions}  # fmt: skip
        taken: dict[ModuleKey, dict[str, float]] = {}
        for column, coefficient in zip(choice.columns, choice.coefficients.tolist(), strict=True):
            key, name = self.findings.columns[column]
            taken.setdefault(key, {})[name] = coefficient
        components: dict[str, Component] = {}
        for change in self.pair.changes:
            key = change.key
            leaves = leaves_of(self.findings.parts[key], taken[key], directions.get(key, 0)) if key in taken else {}
            if change in choice.always and (delta := change.delta()) is not None:
                leaves = {"param_delta": delta}
            if leaves:
                class_name = self.pair.base.architecture.components[change.component].class_name
                component = components.setdefault(change.component, Component(class_name))
                component.layers[change.module] = Layer({n: Tensor.from_torch(leaf) for n, leaf in leaves.items()})
        return store(components, dtype)


def leaves_of(parts: ChangeParts, taken: Mapping[str, float], directions: int) -> dict[str, torch.Tensor]:
    """The leaves of one layer: its pieces times their coefficients, and what else was chosen of it.

    Args:
        parts: all of it.
        taken: how much of each, by name.
        directions: between which the pieces have cores; 0 where they are as they are.
    """
    leaves: dict[str, torch.Tensor] = {}
    ranks = [int(name) for name in taken if name.isdecimal()]
    if ranks and parts.down is not None and parts.up is not None:
        up = parts.up[:, ranks] * torch.tensor([taken[str(rank)] for rank in ranks], dtype=torch.float32)
        if directions and parts.cores is not None:
            core = parts.cores.cores[directions][ranks]
            flat, up = balance(core.flatten(1), up)
            leaves["down.weight"] = parts.cores.inputs[:directions]
            leaves["core.weight"] = flat.reshape(core.shape)
        else:
            down, up = balance(parts.down[ranks], up)
            leaves["down.weight"] = down.reshape(-1, *parts.kernel)
        leaves["up.weight"] = up
    if "weight" in taken and parts.weight is not None:
        leaves["weight_delta"] = parts.weight * taken["weight"]
    if "bias" in taken and parts.bias is not None:
        leaves["bias_delta"] = parts.bias * taken["bias"]
    return leaves
