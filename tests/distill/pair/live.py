"""A model on disk against a live one."""

from __future__ import annotations

from typing import Any

import torch

from si_hub.distill.pair.model import ModelOnDisk


def values(model: ModelOnDisk, component: str) -> dict[str, torch.Tensor]:
    table = model.vae if component == "vae" else model.components[component]
    return {name: weight.torch().float() for name, weight in table.items()}


def expect_live(model: ModelOnDisk, component: str, live: Any) -> None:
    """Every parameter of a live model is there with its value, and nothing else."""
    found = values(model, component)
    wanted = {name: value.float() for name, value in live.state_dict().items() if not name.endswith("position_ids")}
    if component.startswith("text_encoder") and not any(name.startswith("text_model.") for name in wanted):
        wanted = {f"text_model.{name}": value for name, value in wanted.items()}
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    stored = {name: weight.tensor for name, weight in (model.components | {"vae": model.vae})[component].items()}
    whole = {name: tensor.torch().float() for name, tensor in stored.items() if tensor is not None}
    assert all(torch.equal(value, wanted[name]) for name, value in whole.items())
