"""Which of PEFT's tests are run, and what is known to be refused: ``exceptions.yaml`` in Python's words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from tests.peft_suite.words import Variant

FILE = Path(__file__).with_name("exceptions.yaml")


@dataclass(frozen=True)
class Refusal:
    """How tests are bound to end that ask for what is refused.

    Attributes:
        because: the reason, a sentence for whoever reads the outcome.
        raises: names of the errors' types.
        says: a regular expression that the error's text has.
        tests: patterns of the tests' names (``CLASS::NAME[ROW]`` or less), which have to end so, each of them; none:
            any test that ends so is refused.
        of: which kinds of adapters end so: ``all``, those with ``branches``, with ``routers`` that look at the input,
            those that ``merge`` or do ``not merge``.
    """

    because: str
    raises: tuple[str, ...]
    says: str
    tests: tuple[str, ...] = ()
    of: str = "all"

    def names(self, test: str) -> bool:
        """Whether the test is one that has to end so."""
        return any(matches(pattern, test) for pattern in self.tests)

    def is_met(self, error: BaseException) -> bool:
        """Whether an error is the one that is meant."""
        kinds = {cls.__name__ for cls in type(error).__mro__}
        return bool(kinds.intersection(self.raises)) and re.search(self.says, str(error), re.DOTALL) is not None


@dataclass(frozen=True)
class Exceptions:
    """The whole file: files that are run, what is left out (pattern → reason), rows that are refused, refusals."""

    files: tuple[str, ...]
    left_out: dict[str, str]
    rows: tuple[str, ...]
    refusals: tuple[Refusal, ...]

    def refusals_of(self, variant: Variant) -> list[Refusal]:
        """Those that hold for one kind of adapter."""
        kinds = {
            "all": True,
            "branches": variant.branches > 1,
            "routers": variant.branches > 1 and variant.router == "learned",
            "merge": variant.merges,
            "not merge": not variant.merges,
        }
        return [refusal for refusal in self.refusals if kinds[refusal.of]]


def matches(pattern: str, test: str) -> bool:
    """Whether a pattern is a test's name, with or without its class and its parameters."""
    plain = test.partition("[")[0]
    names = {test, plain, plain.rpartition("::")[2], test.rpartition("::")[2]}
    if "::" in plain:
        names.add(plain.partition("::")[0])
    return any(fnmatchcase(name, pattern.replace("[", "[[]")) for name in names)


def read_exceptions() -> Exceptions:
    """The file as it lies beside this module."""
    data: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    refusals = (
        Refusal(
            entry["because"], tuple(entry["raises"]), entry["says"], tuple(entry.get("tests", ())),
            entry.get("of", "all"),
        )
        for entry in data["refused"]
    )  # fmt: skip
    return Exceptions(tuple(data["files"]), data["left_out"], tuple(data["rows"]), tuple(refusals))
