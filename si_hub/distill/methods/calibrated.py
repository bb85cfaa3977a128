"""``--method calibrated``: what the predicted noise feels of the difference, under one budget for all layers.

The survey says what each part does (`survey.stages`), the budget which parts are worth their size (`budget.spend`), a
few passes over states of the survey fit these to what the tuned model predicts (`methods.fitting`), and running base,
tuned model and adapter says what is left (`running.fidelity`). Everything up to the budget is cached.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property

from si_hub.distill.budget.filesize import DOCUMENT, ENTRY, SOURCE_HASH, adapter_bytes
from si_hub.distill.budget.knee import FIDELITY, SHARE, choose_size
from si_hub.distill.budget.rounding import LADDER, costs_little
from si_hub.distill.budget.spend import Group, fidelity_too_high, smallest
from si_hub.distill.methods import fitting
from si_hub.distill.methods.choosing import Choice, Chooser
from si_hub.distill.methods.tries import SMALLER, tries_of
from si_hub.distill.pair.change import ModuleKey
from si_hub.distill.pair.matching import Pair
from si_hub.distill.request import Request
from si_hub.distill.result import Outcome, distilled_adapter
from si_hub.distill.running import fidelity
from si_hub.distill.running.storing import FULL
from si_hub.distill.survey.cache import survey_of
from si_hub.distill.survey.plan import Tries
from si_hub.distill.survey.stages import Findings
from si_hub.errors import UsageError
from si_hub.report.text import size_text
from si_hub.words import label, setting
from si_hub.work.folder import Work

#: Where fitting an adapter left less error than is allowed: of what it gained, the share that is counted on with a
#: smaller one; how much more of the error that must be, for another to be worth a try; the most that one may leave
#: before it is fitted.
CAREFUL, NEARLY, LOOSEST = 0.95, 1.05, 0.5
#: An error, as a share of what is allowed, that is none.
TINY = 1e-3
#: Points of a curve.
HALVES = 8
_REASONS = {
    "parameter": "a bare parameter that is too large for this size",
    "unreached": "a module that adapters cannot reach",
    "silent": "it has no effect on the predicted noise",
    "dear": "it removes too little of the error for its size",
}


def run(pairs: Sequence[Pair], request: Request, work: Work) -> Outcome:
    """The adapter within the budget; several tuned models become the branches of one.

    Raises:
        UsageError: a size that holds nothing, a fidelity out of reach.
        CannotRun: the base's pipeline cannot be run.
    """
    if len(pairs) > 1:
        from si_hub.distill.methods import several

        return several.make_branches(pairs, request, work)
    calibration = Calibration(_one(pairs), request)
    return calibration.outcome(calibration.fitted())


def curve_points(pairs: Sequence[Pair], request: Request, sizes: Sequence[int] = ()) -> list[tuple[int, float, float]]:
    """For each size in bytes: the file's bytes, the predicted error and the measured one, no file twice.

    Args:
        pairs: one pair.
        request: its size is one of the sizes.
        sizes: the others; by default everything, and halves of it.
    """
    count = (len(sizes) or HALVES) + (request.size is not None)
    calibration = Calibration(_one(pairs), request, Tries(count * (1 + request.survey.fits), count))
    wanted = [*(sizes or calibration.halves()), *([request.size] if request.size else [])]
    made = (calibration.fit(calibration.within(size)) for size in wanted)
    found = {calibration.size(one): (one.predicted, calibration.fidelity_of(one).error) for one in made}
    return [(size, *errors) for size, errors in found.items()]


def _one(pairs: Sequence[Pair]) -> Pair:
    if len(pairs) != 1:
        raise UsageError(
            "the method calibrated takes one tuned model", found=len(pairs), hint=f"Leave {label('method')} out."
        )
    return pairs[0]


class Calibration:
    """A pair with its survey, ready for any budget.

    Args:
        pair: base and tuned model.
        request: what is wanted.
        tries: adapters that will be made; by default what `fitted` makes.

    Attributes:
        dtype: safetensors' name of what numbers are stored as; where nobody said, `wanted` decides.
        sizes: what half and twice the bytes would leave, (bytes, error), where nobody said how many.

    Raises:
        UsageError: prompts that bring nothing out.
        CannotRun: the base's pipeline cannot be run.
        NotFinite: one of the two models has NaN or infinity.
    """

    def __init__(self, pair: Pair, request: Request, tries: Tries | None = None) -> None:
        self.pair, self.request = pair, request
        self.dtype = request.dtype or LADDER[0]
        self.sizes: list[tuple[int, float]] = []
        self.survey, self.source = survey_of(pair, request, tries=tries or tries_of(request))
        self.runner, self.crew = self.survey.runner, self.survey.crew
        self.prompts, self.held_out = self.survey.prompts, self.survey.held_out
        self.findings: Findings = self.survey.findings()
        self.chooser = Chooser(pair, self.findings)
        self.scores, self.changes = self.chooser.scores, self.chooser.changes
        if not self.findings.target.any():
            raise fidelity.unfelt(pair.tuned.path)
        self._last: deque[tuple[Choice, fidelity.Fidelity]] = deque(maxlen=3)

    @cached_property
    def measure(self) -> fidelity.Measure:
        """What measures adapters, on trajectories of held-out prompts and seeds."""
        return self.survey.measure()

    def fidelity_of(self, choice: Choice) -> fidelity.Fidelity:
        """The error that an adapter leaves; those asked about last are measured once."""
        for known, found in self._last:
            if known is choice:
                return found
        self._last.append((choice, self.measure.of(choice.components)))
        return self._last[-1][1]

    def wanted(self, slack: float = 1.0) -> Choice:
        """The best adapter within the budget, or of a size that is chosen; in float16 where that costs little enough.

        Args:
            slack: how many times the error that is asked for may be left, since what comes after will lessen it.

        Raises:
            UsageError: nothing fits, or not even everything is as close as wanted.
        """
        return self._within_budget(slack) if self.request.dtype else self._in_fewest_bytes(slack)

    def fitted(self) -> Choice:
        """The wanted adapter, fitted to what the tuned model predicts; where it came closer than asked, a smaller one.

        Raises:
            UsageError: as `wanted`.
        """
        choice, allowed = self._fitted_as_wanted(), self._allowed()
        if choice.before is not None and allowed is not None and choice.before <= allowed:
            choice = self._in_less(choice, allowed)
        if not self.request.budgeted:
            self.sizes = self._neighbours(choice)
        return choice

    def _fitted_as_wanted(self) -> Choice:
        """The wanted adapter, fitted; where only fitting everything comes as close as wanted, that."""
        try:
            return self.fit(self.wanted())
        except UsageError:
            if self.request.fidelity is None:
                raise
        choice = self.fit(self._choose(self._everything(), in_bytes=True))
        if (least := self.fidelity_of(choice).error) > 1.0 - self.request.fidelity:
            raise fidelity_too_high(least, self.request.fidelity)
        return choice

    def _everything(self) -> int:
        """The budget in bytes that buys everything."""
        return sum(group.opening + group.cost * len(group.columns) for group in self._groups())

    def _in_less(self, choice: Choice, allowed: float) -> Choice:
        """The smallest that was found of those that leave no more than allowed when they are fitted.

        Args:
            choice: one that leaves less, and left no more before it was fitted.
            allowed: error.
        """
        enough, too_much = 1.0, math.inf
        for _ in range(SMALLER):
            gained = allowed / max(self.fidelity_of(choice).error, TINY * allowed)
            slack = min(CAREFUL * enough * gained, math.sqrt(enough * too_much), LOOSEST / allowed)
            if slack < NEARLY * enough:
                break
            dtype = self.dtype
            other = self.fit(self.wanted(slack))
            if self.fidelity_of(other).error <= allowed and self.size(other) <= self.size(choice):
                choice, enough = other, slack
            else:
                too_much, self.dtype = slack, dtype
        return choice

    def fit(self, choice: Choice) -> Choice:
        """The choice as `si_hub.distill.methods.fitting` has it, if that measures better; ``before`` says so."""
        before = self.fidelity_of(choice).error
        components = fitting.fit_to_predictions(self.survey, self.findings, choice, self.dtype)
        fitted = replace(choice, components=components, before=before)
        return fitted if components is not choice.components and self.fidelity_of(fitted).error < before else choice

    def _allowed(self) -> float | None:
        """The error that may be left, where the size is to be the smallest for that."""
        if self.request.fidelity is not None:
            return 1.0 - self.request.fidelity
        return None if self.request.budgeted else 1.0 - FIDELITY

    def _in_fewest_bytes(self, slack: float) -> Choice:
        """The best within the budget, in the first of `LADDER` that costs little enough."""
        for self.dtype in LADDER[:-1]:
            with suppress(UsageError):
                choice = self._within_budget(slack)
                if self._costs_little(choice):
                    return choice
        self.dtype = FULL
        return self._within_budget(slack)

    def _costs_little(self, choice: Choice) -> bool:
        """Whether being stored as they are is next to nothing of the error that some parts leave."""
        plain = self.chooser.components(choice, FULL)
        return costs_little(plain, self.dtype, lambda components: self.measure.of(components).error)

    def _within_budget(self, slack: float) -> Choice:
        if self.request.fidelity is not None:
            return self.for_fidelity(1.0 - slack * (1.0 - self.request.fidelity))
        if self.request.size is not None:
            return self.within(self.request.size)
        if self.request.rank is not None:
            return self.for_rank(self.request.rank)
        limit = max(int(SHARE * self.pair.tuned.nbytes), self.halves()[-1])
        fidelity = 1.0 - slack * (1.0 - FIDELITY)
        return choose_size(limit, self.within, lambda choice: self.fidelity_of(choice).error, fidelity)

    def _neighbours(self, choice: Choice) -> list[tuple[int, float]]:
        """Bytes and error of adapters of half of a choice's size and twice it, where there are such.

        Where the choice was fitted, these would be too, and would gain as much as it did, about.
        """
        size, error, found = self.size(choice), self.fidelity_of(choice).error, []
        gained = 1.0 if choice.before is None else error / choice.before
        for wanted in (size // 2, 2 * size):
            with suppress(UsageError):
                other = self.within(wanted)
                found.append((self.size(other), gained * self.fidelity_of(other).error))
        return [one for one in found if one[0] != size]

    def for_rank(self, rank: int) -> Choice:
        """The best adapter of as many numbers as a uniform rank has."""
        layered = [change for key, change in self.changes.items() if self._pieces(key)]
        numbers = 0
        for change in layered:
            out, width = change.matrix
            numbers += min(rank, out, width) * (out + width)
        return self._sound(self._choose(numbers, in_bytes=False))

    def within(self, size: int) -> Choice:
        """The best adapter whose file has at most ``size`` bytes.

        Raises:
            UsageError: nothing fits.
        """
        room = size - DOCUMENT
        while room > 0:
            choice = self._choose(room, in_bytes=True)
            over = self.size(choice) - size if choice.components else 0
            if choice.components and over <= 0:
                return self._sound(choice)
            room -= max(over, ENTRY)
            if not choice.components:
                break
        forms = (group for offer in self.chooser.offers(self.dtype) for group in offer)
        least = min((group.cost + group.opening for group in forms), default=0) + DOCUMENT
        raise UsageError("no part of the difference is that small", key=label("size"),
                         expected=f"about {size_text(least)} or more", found=size_text(size))  # fmt: skip

    def halves(self) -> list[int]:
        """Bytes of everything that can be carried, of half of it, and so on, `HALVES` in all that hold something."""
        groups = self._groups()
        whole = DOCUMENT + self._everything()
        least = DOCUMENT + 2 * max((group.opening + group.cost for group in groups), default=0)
        sizes = [whole >> k for k in range(HALVES)]
        return [size for size in sizes if size >= least] or sizes[:1]

    def for_fidelity(self, fidelity: float) -> Choice:
        """The smallest adapter found that leaves no more error than that, by measuring.

        Raises:
            UsageError: not even everything does.
        """

        def make(budget: int) -> Choice:
            return self._choose(budget, in_bytes=True)

        return smallest(self._everything(), make, lambda choice: self.fidelity_of(choice).error, fidelity)

    def _groups(self) -> list[Group]:
        """What can be carried as it is, with its cost in bytes of the file."""
        return self.chooser.groups(self.dtype)

    def _choose(self, budget: int, *, in_bytes: bool) -> Choice:
        return self.chooser.choose(budget, self.dtype, in_bytes=in_bytes)

    def _sound(self, choice: Choice) -> Choice:
        """The choice; where it is worse than the base, its parts as they are, if that is better.

        From few states, few parts can be fitted to stand for what they do not.
        """
        if (error := self.fidelity_of(choice).error) <= 1.0:
            return choice
        plain = self.chooser.as_it_is(choice, self.dtype)
        return plain if self.fidelity_of(plain).error < error else choice

    def _pieces(self, key: ModuleKey) -> bool:
        return key in self.findings.parts and self.findings.parts[key].down is not None

    def size(self, choice: Choice) -> int:
        """Bytes of the file that an adapter makes, about a hundred too many rather than one too few."""
        stand_in = self._outcome(
            replace(choice, before=0.12345678),
            fidelity.Fidelity(0.12345678, (0.12345678,) * fidelity.BUCKETS, 1_000_000, (0.12345678,) * 2),
        )
        return adapter_bytes(distilled_adapter([self.pair], stand_in, self.request.about)) + SOURCE_HASH

    def outcome(self, choice: Choice) -> Outcome:
        """The adapter with its measurement."""
        found = self._outcome(choice, self.fidelity_of(choice))
        found.sizes = self.sizes
        self.crew.wait()
        return found

    def _outcome(self, choice: Choice, found: fidelity.Fidelity) -> Outcome:
        left_out = self._left_out(choice)
        facts = {
            "predicted": float(f"{choice.predicted:.4g}"),
            **({} if choice.before is None else {"before_fit": float(f"{choice.before:.4g}")}),
            "prompts": len(set(self.held_out)),
            "prompts_from": self.source,
            "seed": self.survey.settings.seed,
            "carried": {name: float(f"{share:.4g}") for name, share in self._carried_shares(choice).items()},
            "left_out": dict(sorted(Counter(left_out.values()).items())),
        }
        steps = int(self.runner.pipeline.scheduler.config.num_train_timesteps)
        return Outcome(
            choice.components, found.error, self._carried_shares(choice), left_out,
            fidelity.document_field(found, steps, **facts), notes=self._notes(choice),
        )  # fmt: skip

    def _notes(self, choice: Choice) -> list[str]:
        """Whether there was room for more than was looked at."""
        if len(choice.columns) < int((self.scores > 0).sum()):
            return []
        ends = {
            (key, str(len(parts.down) - 1)) for key, parts in self.findings.parts.items()
            if parts.down is not None and len(parts.down) < min(self.changes[key].matrix)
        }  # fmt: skip
        cut = any(end in ends and float(score) for end, score in zip(self.findings.columns, self.scores, strict=True))
        looked = self.survey.settings.pieces
        more = setting("pieces", "N")
        return [f"carries all that was looked at, rank {looked} at most: {more} looks at more"] if cut else []

    def _carried_shares(self, choice: Choice) -> dict[str, float]:
        """Of each component, the share of its parts' squared effects that is in the adapter."""
        taken, kept = set(choice.columns), self.chooser.kept(choice.groups).tolist()
        whole: Counter[str] = Counter()
        held: Counter[str] = Counter()
        for column, (key, _) in enumerate(self.findings.columns):
            whole[key[0]] += float(self.scores[column])  # type: ignore[assignment]
            held[key[0]] += float(self.scores[column]) * kept[column] * (column in taken)
        return {name: held[name] / whole[name] for name in whole if whole[name]}

    def _left_out(self, choice: Choice) -> dict[str, str]:
        """Every changed module of which nothing is carried, and why."""
        felt: Counter[ModuleKey] = Counter()
        for column, (key, _) in enumerate(self.findings.columns):
            felt[key] += float(self.scores[column])  # type: ignore[assignment]
        reasons = {}
        for change in self.pair.changes:
            component = choice.components.get(change.component)
            if component is not None and change.module in component.layers:
                continue
            key = change.key
            kind = "unreached" if key not in self.findings.parts else "dear" if felt[key] else "silent"
            kind = "parameter" if change.kind == "parameter" else kind
            reasons[change.name] = _REASONS[kind]
        return reasons
