"""What every method of distilling is asked for and gives back."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Protocol

from si_hub.distill.pair.matching import Pair
from si_hub.distill.request import Request
from si_hub.distill.result import Outcome
from si_hub.errors import UsageError
from si_hub.work.folder import Work

#: Method → module with `Method` as ``run``, in the order of what they cost.
METHODS: dict[str, str] = {
    "svd": "si_hub.distill.methods.svd",
    "calibrated": "si_hub.distill.methods.calibrated",
    "trained": "si_hub.distill.methods.trained",
}


class Method(Protocol):
    """The contract: each method's module has a function ``run`` like this."""

    def __call__(self, pairs: Sequence[Pair], request: Request, work: Work) -> Outcome:
        """Make the adapter.

        Called on every process that was launched; all of them return the same.

        Args:
            pairs: the base with each of the tuned models.
            request: what is wanted, checked.
            work: where unfinished parts are kept; open already.

        Raises:
            UsageError: what the method cannot do.
            CannotRun: a base that cannot be run, where the method needs that.
        """


def check_method(name: str) -> None:
    """Raise UsageError where there is no such method; nothing is imported."""
    if name not in METHODS:
        raise UsageError("no such method", key=name, expected=", ".join(METHODS))


def method_of(name: str) -> Method:
    """The function that runs a method.

    Raises:
        UsageError: no such method.
    """
    check_method(name)
    run: Method = import_module(METHODS[name]).run
    return run
