"""Every method keeps the contract: one function, called alike."""

from __future__ import annotations

import inspect

import pytest

from si_hub.distill import METHODS
from si_hub.distill.methods import calibrated, svd, trained
from si_hub.distill.methods.registry import Method, method_of
from si_hub.errors import UsageError

#: The type checker holds them against the contract.
RUNS: dict[str, Method] = {"svd": svd.run, "calibrated": calibrated.run, "trained": trained.run}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_run_as_the_contract_says(name: str) -> None:
    run = method_of(name)
    assert run is RUNS[name]
    assert list(inspect.signature(run).parameters) == list(inspect.signature(Method.__call__).parameters)[1:]


def test_no_other_method_is_known() -> None:
    with pytest.raises(UsageError, match="magic: no such method"):
        method_of("magic")
