"""Optimisers by name; those of other packages where these are installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from si_hub.errors import UsageError
from si_hub.words import label

ParameterGroups = Sequence[dict[str, Any]]


def _adamw(groups: ParameterGroups, decay: float) -> Any:
    import torch

    return torch.optim.AdamW(list(groups), betas=(0.9, 0.99), weight_decay=decay)


def _adamw_8bit(groups: ParameterGroups, decay: float) -> Any:
    return import_module("bitsandbytes").optim.AdamW8bit(list(groups), betas=(0.9, 0.99), weight_decay=decay)


def _schedule_free(groups: ParameterGroups, decay: float) -> Any:
    return import_module("schedulefree").AdamWScheduleFree(list(groups), betas=(0.9, 0.99), weight_decay=decay)


#: Name → what makes it, and the package that it is from.
OPTIMIZERS: dict[str, tuple[Callable[[ParameterGroups, float], Any], str | None]] = {
    "adamw": (_adamw, None),
    "adamw8bit": (_adamw_8bit, "bitsandbytes"),
    "schedulefree": (_schedule_free, "schedulefree"),
}


def check_optimizer(name: str) -> None:
    """
    Raises:
        UsageError: no such optimiser, or its package is not installed.
    """
    if name not in OPTIMIZERS:
        raise UsageError("no such optimiser", key=label("optimizer"), expected=", ".join(OPTIMIZERS), found=name)
    package = OPTIMIZERS[name][1]
    if package is not None and find_spec(package) is None:
        raise UsageError(
            f"needs {package}, which is not installed", key=label("optimizer"), found=name,
            hint=f"Install it: pip install {package}.",
        )  # fmt: skip


def make_optimizer(name: str, groups: ParameterGroups, decay: float = 0.0) -> Any:
    """The optimiser of groups of parameters, each with its ``lr``."""
    return OPTIMIZERS[name][0](groups, decay)
