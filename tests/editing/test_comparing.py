"""`si-hub diff`: distances of adapters as NumPy finds them between the matrices that both stand for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings

import si_hub
from si_hub import format
from si_hub.adapter import Adapter, BaseModel, Component, Layer
from si_hub.cli import main
from si_hub.converters.checking import Own
from si_hub.editing.comparing import Distance, measure_apart
from si_hub.errors import BaseMismatch, UsageError
from si_hub.storage.tensors import Tensor
from tests.commands import write_kohya
from tests.editing.test_adding import BASE as WEIGHT
from tests.editing.test_adding import BIAS, LONE, change, layers
from tests.miniature import BASE, KOHYA_LORA, MINIATURE

HELD = {"unet": {"fc.weight": WEIGHT, "fc.bias": BIAS}}
PEERS = MINIATURE / "peers"


class Held:
    """A parameter of a base that lies in memory."""

    def __init__(self, values: object) -> None:
        self.values = values
        self.shape = values.shape  # type: ignore[attr-defined]

    def torch(self) -> object:
        return self.values


def own(layer: Layer) -> Own:
    adapter = Adapter(BaseModel("lone"), {"unet": Component(None, {"fc": layer})})
    weights = {name: {key: Held(values) for key, values in held.items()} for name, held in HELD.items()}
    return Own(adapter, LONE, weights, Path("x"))  # type: ignore[arg-type]


@given(layers(), layers())
@settings(deadline=None, max_examples=150)
def test_layers_of_every_kind_are_as_far_apart_as_their_matrices(one: Layer, two: Layer) -> None:
    found = measure_apart((own(one), own(two))).layers["unet.fc"]
    first, second = (np.concatenate([part.reshape(-1) for part in change(layer)]) for layer in (one, two))
    expected = np.linalg.norm(first - second) / np.linalg.norm(first)
    assert found.difference == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert found.cosine == pytest.approx(
        first @ second / np.linalg.norm(first) / np.linalg.norm(second), rel=1e-6, abs=1e-9
    )


def test_a_layer_that_one_has_not_counts_whole() -> None:
    layer = Layer({"weight_delta": Tensor.from_numpy(np.full((6, 4), 2.0, np.float32))})
    empty = own(layer)
    empty.adapter.components["unet"].layers.clear()
    found = measure_apart((own(layer), empty))
    assert found.total == Distance(24 * 4.0, 0.0, 0.0)
    assert found.only == (["unet.fc"], [])
    assert found.total.difference == 1.0
    assert found.total.as_dict()["cosine"] == 0.0
    assert measure_apart((empty, own(layer))).total.as_dict()["difference"] is None


def test_a_conversion_and_its_source_do_the_same_and_half_of_it_is_half(tmp_path: Path) -> None:
    ours = si_hub.convert(KOHYA_LORA, tmp_path / "ours.safetensors", base=BASE).path
    same = si_hub.diff(KOHYA_LORA, ours, base=BASE)
    assert (same.total.difference, len(same.layers)) == (0.0, 66)
    mixed = si_hub.merge({ours: 0.25, KOHYA_LORA: 0.25}, tmp_path / "half.safetensors", base=BASE).path
    half = si_hub.diff(ours, mixed, base=BASE)
    assert half.total.difference == pytest.approx(0.5, rel=1e-5)
    assert half.total.scale == pytest.approx(0.5, rel=1e-5)
    assert half.total.cosine == pytest.approx(1.0, abs=1e-9)


def test_a_style_is_compared_with_its_own_file(tmp_path: Path) -> None:
    files = [KOHYA_LORA, PEERS / "peft_lora.safetensors"]
    styles = si_hub.merge(files, tmp_path / "styles.safetensors", branches=True, base=BASE).path
    for file in files:
        assert si_hub.diff(styles, file, base=BASE, styles={file.stem: 1.0}).total.difference < 1e-6
    assert si_hub.diff(styles, files[0], base=BASE, styles={"peft_lora": 1.0}).total.difference > 0.5
    with pytest.raises(UsageError, match=r"neon: neither has such a style.*kohya_lora, peft_lora"):
        si_hub.diff(styles, files[0], base=BASE, styles={"neon": 1.0})


def test_the_command_says_what_is_apart() -> None:
    words = ["diff", str(KOHYA_LORA), str(PEERS / "lycoris_dora.safetensors"), "--base", str(BASE)]
    ended = CliRunner().invoke(main, [*words, "--json"])
    assert ended.exit_code == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["cosine"] < 0.9
    assert found["layers"].keys() >= set(found["only_in_second"])
    assert "in the second alone" in CliRunner().invoke(main, words).stdout


def test_adapters_of_two_base_models_are_not_compared(tmp_path: Path) -> None:
    ours = si_hub.convert(write_kohya(tmp_path / "b.safetensors"), tmp_path / "ours.safetensors").path
    other = replace(format.read(ours), base_model=BaseModel("sdxl"))
    format.write(other, tmp_path / "other.safetensors")
    with pytest.raises(BaseMismatch, match=r"is for another base model than the first one.*sd15.*sdxl"):
        si_hub.diff(ours, tmp_path / "other.safetensors")
