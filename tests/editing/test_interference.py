"""Overlaps of adapters, as NumPy finds them between what their layers stand for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from si_hub.adapter import Adapter, BaseModel, Component, Layer
from si_hub.architectures import Architecture, Model
from si_hub.architectures.model import Module
from si_hub.converters.checking import Own
from si_hub.editing.interference import measure_overlaps
from si_hub.editing.weighting import LayerWeights
from si_hub.storage.tensors import Tensor
from tests.editing.test_adding import IN, OUT, change, numbers

PATHS = ("fc", "conv")
TWO = Architecture("two", {"unet": Model("X", dict.fromkeys(PATHS, Module("linear", (OUT, IN), False)))})


def pair(seed: int) -> Layer:
    dice = np.random.default_rng(seed)
    return Layer({"down.weight": numbers(dice, 2, IN), "up.weight": numbers(dice, OUT, 2)}, 1.0)


def adapter(name: str, **layers: Layer) -> Own:
    return Own(Adapter(BaseModel("two"), {"unet": Component(None, layers)}), TWO, None, Path(name))


def test_overlaps_are_cosines_at_the_weights_of_each_layer() -> None:
    one, two = {"fc": pair(0), "conv": pair(1)}, {"fc": pair(0), "conv": pair(2)}
    weights = [LayerWeights(table={"unet.fc": 2.0, "unet.conv": 0.5}), LayerWeights(-1.0)]
    [found] = measure_overlaps([adapter("a", **one), adapter("b", **two)], weights)
    first = [2.0 * change(one["fc"])[0].ravel(), 0.5 * change(one["conv"])[0].ravel()]
    second = [-1.0 * change(two[path])[0].ravel() for path in PATHS]
    for path, mine, theirs in zip(PATHS, first, second, strict=True):
        expected = mine @ theirs / np.linalg.norm(mine) / np.linalg.norm(theirs)
        assert found.layers[f"unet.{path}"].cosine == pytest.approx(expected, abs=1e-9)
    whole = np.concatenate(first), np.concatenate(second)
    expected = whole[0] @ whole[1] / np.linalg.norm(whole[0]) / np.linalg.norm(whole[1])
    assert found.total.cosine == pytest.approx(expected, abs=1e-9)
    assert next(iter(found.interfering)) == "unet.fc"
    assert found.interfering["unet.fc"] == pytest.approx(-1.0)
    assert any("layers cancel one another: unet.fc -1.00" in line for line in found.as_lines())


def test_every_two_are_looked_at_and_what_one_alone_changes_is_no_overlap() -> None:
    mirrored = replace(pair(0), tensors=pair(0).tensors | {
        "up.weight": Tensor.from_numpy(np.ascontiguousarray(pair(0).tensors["up.weight"].numpy() * 3)),
    })  # fmt: skip
    given = [adapter("a", fc=pair(0)), adapter("b", fc=mirrored), adapter("c", conv=pair(0))]
    found = measure_overlaps(given, [LayerWeights()] * 3)
    assert [one.names for one in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert found[0].interfering == {"unet.fc": pytest.approx(1.0)}
    assert "pull the same way" in found[0].as_lines()[1]
    assert [one.layers for one in found[1:]] == [{}, {}]
    assert found[1].total.cosine == 0.0
