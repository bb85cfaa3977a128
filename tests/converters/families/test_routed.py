"""Files of several experts: exact where no router's choice matters, refused with the reason where it does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from si_hub.errors import LayerShapeError, UnsupportedFamily
from tests.converters.tiny import MODULES, convert, convert_saved, merge, stem_of, weights

LINEAR = next(iter(MODULES))
RANK, EXPERTS = 3, 4


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make(ups: list[torch.Tensor], **others: torch.Tensor) -> dict[str, torch.Tensor]:
    state = {"lora_down.weight": numbers(RANK, 16, seed=9), "alpha": torch.tensor(2.0)}
    state |= {f"lora_ups.{at}.weight": up for at, up in enumerate(ups)}
    state |= {name.replace("_", "."): value for name, value in others.items()}
    return {f"{stem_of(LINEAR)}.{name}": value for name, value in state.items()}


DIFFERENT = [numbers(32, RANK, seed=at) for at in range(EXPERTS)]
SAME = [DIFFERENT[0].clone() for _ in range(EXPERTS)]
ROUTER = {"router_weight": numbers(EXPERTS, RANK), "router_bias": numbers(EXPERTS)}
STILL = {"router_weight": torch.zeros(EXPERTS, RANK), "router_bias": numbers(EXPERTS)}


def softmax(values: torch.Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    powers = np.exp(values.double().numpy())
    return powers / powers.sum()  # type: ignore[no-any-return]


@pytest.mark.parametrize(("state", "gates"), [
    (make(SAME, **ROUTER), np.array([1.0, 0, 0, 0])),
    (make(SAME), np.array([0.0, 1, 0, 0])),
    (make(DIFFERENT[:1]), np.array([1.0])),
    (make(DIFFERENT, **STILL), softmax(STILL["router_bias"])),
    (make(DIFFERENT, router_weight=STILL["router_weight"]), np.full(EXPERTS, 0.25)),
], ids=["equal ups", "equal ups, no router", "one expert", "a router that stands still", "without a bias"])  # fmt: skip
def test_what_does_not_depend_on_a_choice_is_a_pair(
    state: dict[str, torch.Tensor], gates: np.ndarray[tuple[int, ...], np.dtype[np.float64]], tmp_path: Path
) -> None:
    found = convert(tmp_path / "f.safetensors", state, None, check=True)
    layer = found.adapter.components["unet"].layers[LINEAR]
    assert set(layer.tensors) == {"down.weight", "up.weight"}
    held = weights()
    weight, _ = merge(found, LINEAR, held)
    ups = [value.double().numpy() for name, value in state.items() if ".lora_ups." in name]
    down = state[f"{stem_of(LINEAR)}.lora_down.weight"].double().numpy()
    expected = 2 / RANK * sum(gate * up for gate, up in zip(gates, ups, strict=True)) @ down
    change = weight.numpy() - held["unet"][f"{LINEAR}.weight"].double().numpy()
    assert np.linalg.norm(change - expected) < 1e-6 * np.linalg.norm(expected)
    assert not found.report.lost
    assert set(found.report.uses) == set(state)


@pytest.mark.parametrize(("state", "error", "match"), [
    (make(DIFFERENT, **ROUTER), UnsupportedFamily, "its experts differ, and a router chooses among"),
    (make(DIFFERENT), UnsupportedFamily, "the file says of no router of this layer"),
    (make(SAME, inv_scale=torch.ones(16)), UnsupportedFamily, "scales the layer's inputs before"),
    (make([*DIFFERENT[:2], numbers(32, 2)]), LayerShapeError, "not of one shape"),
    (make(SAME, router_weight=torch.zeros(3, RANK)), LayerShapeError, "two factors do not multiply"),
])  # fmt: skip
def test_what_a_router_decides_is_refused_with_the_reason(
    state: dict[str, torch.Tensor], error: type[Exception], match: str, tmp_path: Path
) -> None:
    state = {name.replace(".inv.scale", ".inv_scale"): value for name, value in state.items()}
    with pytest.raises(error, match=match):
        convert(tmp_path / "f.safetensors", state, None)


@pytest.mark.parametrize("said", ["ss_ortho_centered_gate", "ss_specialize_experts_by_sigma_buckets"])
def test_gates_that_are_more_than_a_softmax_are_refused(said: str, tmp_path: Path) -> None:
    file = tmp_path / "f.safetensors"
    save_file(make(SAME, **ROUTER), file, {said: "true"})
    with pytest.raises(UnsupportedFamily, match=f"gates are no plain softmax.*found {said}"):
        convert_saved(file, None)
    save_file(make(SAME, **ROUTER), file, {said: "false"})
    assert convert_saved(file, None).family == "routed-lora"
