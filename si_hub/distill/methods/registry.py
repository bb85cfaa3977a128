"""What every method of distilling is asked for and gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module

from si_hub.distill.pair.matching import Pair
from si_hub.distill.request import Request
from si_hub.distill.result import Outcome
from si_hub.errors import UsageError

#: Method → module with ``run(pairs, request) -> Outcome``, in the order of what they cost.
METHODS: dict[str, str] = {
    "svd": "si_hub.distill.methods.svd",
    "calibrated": "si_hub.distill.methods.calibrated",
    "trained": "si_hub.distill.methods.trained",
}


Run = Callable[[Sequence[Pair], Request], Outcome]


def check_method(name: str) -> None:
    """Raise UsageError where there is no such method; nothing is imported."""
    if name not in METHODS:
        raise UsageError("no such method", key=name, expected=", ".join(METHODS))


def method(name: str) -> Run:
    """The function that runs a method.

    Raises:
        UsageError: no such method.
    """
    check_method(name)
    run: Run = import_module(METHODS[name]).run
    return run
