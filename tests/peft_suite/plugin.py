"""The pytest plugin that gives PEFT's own tests our configurations in the place of a LoRA's.

It is loaded before the tests are, by `tests.peft_suite`'s command alone: ``peft.LoraConfig`` is `words.stand_in` from
then on, so every row and every body of a test that makes a LoRA makes one of ours. Their files stay as they are.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from fnmatch import fnmatchcase
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import peft
import peft.tuners.lora
import pytest

from si_hub.tuner.layer import StyleInjectLayer
from tests.peft_suite.exceptions import matches, read_exceptions
from tests.peft_suite.words import VARIANTS, is_sayable, stand_in

VARIANT = VARIANTS[os.environ["SI_HUB_PEFT_VARIANT"]]
RESULTS = Path(os.environ["SI_HUB_PEFT_RESULTS"])
CONFIG = stand_in(VARIANT)
EXCEPTIONS = read_exceptions()
REFUSALS = EXCEPTIONS.refusals_of(VARIANT)

peft.LoraConfig = CONFIG
# What tests count as adapted layers.
peft.tuners.lora.LoraLayer = peft.tuners.lora.layer.LoraLayer = StyleInjectLayer


def _stand_in_for_datasets() -> ModuleType:
    """A module in the place of the package ``datasets``, which fetches from the Hub and is imported by all tests."""
    module = ModuleType("datasets")
    module.__spec__ = ModuleSpec("datasets", None)

    def load_dataset(*_args: Any, **_kwargs: Any) -> None:
        raise OSError("data sets of huggingface.co are not at hand")

    module.__dict__.update(load_dataset=load_dataset, Dataset=object)
    return module


if importlib.util.find_spec("datasets") is None:
    sys.modules["datasets"] = _stand_in_for_datasets()

# It lets a model's first use ask the Hub: there is none, and every question is asked again and again.
testing_utils = importlib.import_module("peft_tests.testing_utils")
testing_utils.__dict__["hub_online_once"] = lambda _model_id: nullcontext()


def name_of(item: pytest.Item) -> str:
    """``CLASS::NAME[ROW]``, without the file."""
    return item.nodeid.partition("::")[2]


def _params(item: pytest.Item) -> dict[str, Any]:
    found: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    return found


def _is_ours(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_is_ours, value))
    return value is CONFIG or isinstance(value, CONFIG)


def _is_theirs(value: Any) -> bool:
    kind = value if isinstance(value, type) else type(value)
    return issubclass(kind, peft.PeftConfig) and not _is_ours(value)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _makes_ours(function: Any, cls: type | None, seen: set[Any]) -> bool:
    """Whether a function, or one of its own module that it calls, names the configuration."""
    function = getattr(function, "__func__", function)
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    if not isinstance(function, FunctionType) or function in seen:
        return False
    seen.add(function)
    for code in _codes(function.__code__):
        for name in code.co_names:
            target = getattr(cls, name, None) or function.__globals__.get(name)
            if _is_ours(target):
                return True
            inner = getattr(target, "__module__", None) == function.__module__
            if inner and _makes_ours(target, cls, seen):
                return True
    return False


def concerns_us(item: Any) -> bool:
    """Whether a test has one of our configurations in its row, or makes one; those of other methods do not."""
    values = list(_params(item).values())
    if any(map(_is_ours, values)):
        return True
    if any(map(_is_theirs, values)):
        return False
    fixtures = [fixture.func for found in item._fixtureinfo.name2fixturedefs.values() for fixture in found]
    seen: set[Any] = set()
    return any(_makes_ours(function, item.cls, seen) for function in (item.function, *fixtures))


def _row(item: pytest.Item) -> str | None:
    """What a row is known by that is refused whole: by an option of a LoRA's, or by its name."""
    params, row = _params(item), item.nodeid.partition("[")[2]
    words = params.get("config_kwargs")
    unsayable = isinstance(words, dict) and not is_sayable(words, VARIANT)
    if unsayable or any(fnmatchcase(row, pattern + "]") for pattern in EXCEPTIONS.rows):
        return f"{item.nodeid.partition('::')[0]} {params.get('test_name')} {words} {params.get('model_id')}"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep what concerns us and applies; of a row that is refused whole, one test."""
    kept: list[pytest.Item] = []
    rows: set[str] = set()
    for item in items:
        if not concerns_us(item) or any(matches(pattern, name_of(item)) for pattern in EXCEPTIONS.left_out):
            continue
        row = _row(item)
        if row is not None and row in rows:
            continue
        if row is not None:
            rows.add(row)
        params = _params(item)
        if params.get("tuner_method") == "lora":
            params["tuner_method"] = "styleinject"  # a LoRA's adapters are added up there by a function of its own
        kept.append(item)
    items[:] = kept


def _judge(name: str, error: BaseException | None) -> tuple[str, str]:
    """Outcome and reason: passed, refused, failed."""
    bound = [refusal for refusal in REFUSALS if refusal.names(name)]
    if error is None:
        return ("failed", f"should be refused: {bound[0].because}") if bound else ("passed", "")
    for refusal in bound or [refusal for refusal in REFUSALS if not refusal.tests]:
        if refusal.is_met(error):
            return "refused", refusal.because
    return "failed", f"{type(error).__name__}: {str(error)[:400]}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Judge a test by what it ended with, write it down, and let a refusal count as an expected failure."""
    report = yield
    error = None if call.excinfo is None else call.excinfo.value
    if report.skipped:  # by a test of PEFT's itself, or expected to fail there
        outcome, reason = "skipped", str(error)
    elif report.when == "call" or error is not None:
        outcome, reason = _judge(name_of(item), error)
    else:
        return report
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"test": item.nodeid, "outcome": outcome, "reason": reason}) + "\n")
    if outcome == "refused":
        report.outcome, report.wasxfail = "skipped", reason
    elif outcome == "failed" and report.passed:
        report.outcome, report.longrepr = "failed", reason
    return report
