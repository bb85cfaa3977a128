"""Optimisers by name: those that are installed, and a clear word where one is not."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from si_hub.errors import UsageError
from si_hub.training.optimizers import check_optimizer, make_optimizer


def test_an_optimiser_of_a_package_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("si_hub.training.optimizers.find_spec", lambda _: None)
    check_optimizer("adamw")
    with pytest.raises(UsageError, match=r"needs bitsandbytes.*pip install bitsandbytes"):
        check_optimizer("adamw8bit")
    with pytest.raises(UsageError, match="no such optimiser"):
        check_optimizer("sgd")


@pytest.mark.parametrize(
    ("name", "package", "path"),
    [("adamw8bit", "bitsandbytes", "optim.AdamW8bit"), ("schedulefree", "schedulefree", "AdamWScheduleFree")],
)
def test_others_are_made_by_their_packages(name: str, package: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    module: Any = ModuleType(package)
    *outer, inner = path.split(".")
    place = module
    for part in outer:
        setattr(place, part, SimpleNamespace())
        place = getattr(place, part)
    setattr(place, inner, lambda groups, **options: asked.append((groups, options)))
    monkeypatch.setitem(sys.modules, package, module)
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.5}]
    make_optimizer(name, groups, 0.1)
    assert asked == [(groups, {"betas": (0.9, 0.99), "weight_decay": 0.1})]


def test_adamw_is_torch_s() -> None:
    made = make_optimizer("adamw", [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.5}], 0.1)
    assert isinstance(made, torch.optim.AdamW)
    assert made.param_groups[0]["lr"] == 0.5
    assert made.param_groups[0]["weight_decay"] == 0.1
