"""Where scales come from: alphas of every dtype and shape, configurations with patterns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from si_hub.converters.families.contract import SourceModule
from si_hub.converters.families.scales import config_alpha, read_alpha
from si_hub.converters.naming.names import read_stem
from si_hub.errors import FormatError, LayerShapeError, NotFinite, UnsupportedFamily
from si_hub.storage.tensors import Tensor


def module_with(alpha: Tensor | None = None) -> SourceModule:
    found = SourceModule("lora_unet_x", Path("lora.safetensors"), read_stem("lora_unet_x"))
    found.names |= {"down": "lora_unet_x.lora_down.weight", "alpha": "lora_unet_x.alpha"}
    if alpha is not None:
        found.tensors["alpha"] = alpha
    return found


@pytest.mark.parametrize(
    ("alpha", "value"),
    [
        (Tensor.from_numpy(np.array(4, np.int64)), 4.0),
        (Tensor.from_numpy(np.array([1.5], np.float16)), 1.5),
        (Tensor.from_numpy(np.array([[0.25]], np.float64)), 0.25),
        (Tensor.from_bytes("BF16", (), b"\x00\x40"), 2.0),
        (Tensor.from_numpy(np.array(-1.0, np.float32)), -1.0),
        (Tensor.from_bytes("F8_E4M3", (), b"\x50"), 8.0),
    ],
)
def test_an_alpha_of_any_dtype_and_one_element_is_read(alpha: Tensor, value: float) -> None:
    assert read_alpha(module_with(alpha)) == value


def test_an_alpha_of_zero_is_the_rank() -> None:
    assert read_alpha(module_with(Tensor.from_numpy(np.array(0, np.float16)))) is None


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_an_infinite_alpha_is_refused_by_its_name(value: float) -> None:
    with pytest.raises(NotFinite, match=r"lora\.safetensors: lora_unet_x\.alpha: an alpha must be finite"):
        read_alpha(module_with(Tensor.from_numpy(np.array(value, np.float16))))


@pytest.mark.parametrize("alpha", [Tensor.from_numpy(np.ones(2)), Tensor.from_bytes("F8_E8M0", (), b"\x7f")])
def test_an_alpha_that_is_no_number_is_refused(alpha: Tensor) -> None:
    with pytest.raises(FormatError, match=r"lora_unet_x\.alpha"):
        read_alpha(module_with(alpha))


@pytest.mark.parametrize(
    ("config", "path", "alpha"),
    [
        ({"r": 4, "lora_alpha": 2}, "a.to_q", 2.0),
        ({"r": 4}, "a.to_q", 4.0),
        ({"r": 8, "lora_alpha": 2, "rank_pattern": {"to_q": 4}}, "a.to_q", 2.0),
        ({"r": 4, "lora_alpha": 2, "alpha_pattern": {"a.to_q": 7}}, "b.a.to_q", 7.0),
        ({"r": 4, "lora_alpha": 2, "alpha_pattern": {"a.to_q": 7}}, "ba.to_q", 2.0),
        ({"r": 4, "lora_alpha": 2, "alpha_pattern": {r"[ab]\d+.to_q": 7}}, "x.a12.to_q", 7.0),
        ({"r": 4, "lora_alpha": 2, "alpha_pattern": {"(a+)+.to_q": 7}}, "x.aa.to_q", 7.0),
        ({"r": 4, "lora_alpha": 3, "use_rslora": True}, "a.to_q", 6.0),
        ({"r": 9, "lora_alpha": 3, "use_rslora": True, "rank_pattern": {"to_q": 4}}, "a.to_q", 6.0),
    ],
)
def test_a_configuration_gives_alpha_so_that_alpha_over_rank_is_its_scale(
    config: dict[str, Any], path: str, alpha: float
) -> None:
    assert config_alpha(module_with(), path, 4, config) == alpha


def test_another_rank_than_the_configurations_is_an_error() -> None:
    with pytest.raises(LayerShapeError, match=r"lora_down\.weight: its rank differs.*expected r = 8, found 4"):
        config_alpha(module_with(), "a", 4, {"r": 8, "lora_alpha": 8})


@pytest.mark.parametrize(
    "config",
    [{"use_dora": True}, {"init_lora_weights": "pissa_niter_4"}, {"layer_replication": [[0, 4]]}, {"use_qalora": True}],
)
def test_what_a_plain_lora_cannot_express_is_refused_by_its_setting(config: dict[str, Any]) -> None:
    setting = next(iter(config))
    with pytest.raises(UnsupportedFamily, match=rf"its configuration sets {setting}"):
        config_alpha(module_with(), "a", 4, {"r": 4, "lora_alpha": 4, **config})
    plain = {"use_dora": False, "init_lora_weights": "gaussian", "layer_replication": None, "use_qalora": None}
    assert config_alpha(module_with(), "a", 4, {"r": 4, "lora_alpha": 4, **plain}) == 4


@pytest.mark.parametrize("value", [None, "8", True, float("inf"), [1]])
def test_a_configuration_without_a_number_is_a_typed_error(value: object) -> None:
    with pytest.raises(FormatError, match="no usable number"):
        config_alpha(module_with(), "a", 4, {"r": 4, "lora_alpha": value})
