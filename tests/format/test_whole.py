"""Pairs of whole numbers: floats for everybody, whole numbers in the file, and every rule about them an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from si_hub import format
from si_hub.adapter import Adapter, BaseModel, Component, Layer
from si_hub.errors import DocumentError, LayerShapeError, LeafDtypeError, MissingTensor, SiHubError
from si_hub.format.whole import is_whole, whole_pair
from si_hub.storage.header import read_safetensors
from si_hub.storage.tensors import Tensor

WHOLE = numpy.array([[1, -2, 127], [0, 0, 0], [-127, 3, 4], [5, 6, -7]], "|i1")
SCALE = numpy.array([0.5, 1.0, 0.25, 0.1], "<f4")
UP = numpy.array([[1, -1], [2, 127]], "|i1")


def adapter() -> Adapter:
    leaves = {
        "down.weight": Tensor.scaled(Tensor.from_numpy(WHOLE), Tensor.from_numpy(SCALE)),
        "up.weight": Tensor.scaled(Tensor.from_numpy(UP)),
        "router.bias": Tensor.from_numpy(numpy.zeros(2, "<f4")),
    }
    return Adapter(BaseModel("sd15"), {"unet": Component(None, {"a.b": Layer(leaves)})})


def test_a_file_has_whole_numbers_and_says_that_it_needs_them(tmp_path: Path) -> None:
    format.write(adapter(), tmp_path / "x")
    file = read_safetensors(tmp_path / "x")
    held = {name.removeprefix("unet.a.b."): tensor.dtype for name, tensor in file.tensors.items()}
    assert held == {"down.weight": "I8", "down.scale": "F32", "up.weight": "I8", "router.bias": "F32"}
    assert format.read_document(file)["requires"] == ["int8"]


def test_what_is_read_are_the_floats_that_they_stand_for(tmp_path: Path) -> None:
    format.write(adapter(), tmp_path / "x")
    layer = format.read(tmp_path / "x", verify=True).components["unet"].layers["a.b"]
    assert (layer.rank, layer.branches) == (2, 2)
    assert layer.tensors.keys() == {"down.weight", "up.weight", "router.bias"}
    expected = numpy.array([[float(w) * float(s) for w in row] for row, s in zip(WHOLE, SCALE, strict=True)], "<f4")
    assert numpy.array_equal(layer.tensors["down.weight"].numpy(), expected)
    assert torch.equal(layer.tensors["up.weight"].torch(), torch.from_numpy(UP).float())
    assert format.read(tmp_path / "x") == format.validate(tmp_path / "x")


def test_what_changes_the_numbers_makes_plain_floats_of_them(tmp_path: Path) -> None:
    held = adapter()
    layer = held.components["unet"].layers["a.b"]
    down = layer.tensors["down.weight"]
    layer.tensors |= {"down.weight": down.rows(0, 2), "bias_delta": down.rows(0, 1).reshape(3).rows(0, 2)}
    del layer.tensors["router.bias"]
    assert not is_whole(layer.tensors)
    format.write(held, tmp_path / "x")
    file = read_safetensors(tmp_path / "x")
    assert {tensor.dtype for tensor in file.tensors.values()} == {"F32"}
    assert "requires" not in format.read_document(file)
    assert file.tensors["unet.a.b.bias_delta"].numpy().tolist() == [0.5, -1.0]


def test_the_nearest_whole_numbers() -> None:
    down, up = torch.tensor([[1.0, -0.5, 0.26], [0.0, 0.0, 0.0]]), torch.tensor([[2.0, 3.0], [-1.0, 0.0]])
    first, second = whole_pair(down, up)
    assert first.unscaled is not None
    assert second.unscaled is not None
    assert first.unscaled.whole.numpy().tolist() == [[127, -64, 33], [0, 0, 0]]
    assert second.unscaled.whole.numpy().tolist() == [[127, 127], [-64, 0]]
    product = second.torch() @ first.torch()
    assert torch.allclose(product, up @ down, atol=2 * 2.0 / 254)


def put(name: str, value: Any) -> Any:
    """A change of a file's tensors: another one, or none."""

    def change(tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        if name == "requires":
            document.pop("requires")
        elif value is None:
            del tensors[f"unet.a.b.{name}"]
        else:
            tensors[f"unet.a.b.{name}"] = Tensor.from_numpy(value)

    return change


BROKEN: dict[str, tuple[Any, type[SiHubError]]] = {
    "no down": (put("down.weight", None), MissingTensor),
    "no up": (put("up.weight", None), MissingTensor),
    "no scale": (put("down.scale", None), LeafDtypeError),
    "a float's scale": (put("down.weight", WHOLE.astype("<f4")), LeafDtypeError),
    "a float up": (put("up.weight", UP.astype("<f4")), LeafDtypeError),
    "unsigned numbers": (put("up.weight", UP.astype("|u1")), LeafDtypeError),
    "a scale of half precision": (put("down.scale", SCALE.astype("<f2")), LeafDtypeError),
    "a scale too few": (put("down.scale", SCALE[:3]), LayerShapeError),
    "a scale with two axes": (put("down.scale", SCALE[:, None]), LayerShapeError),
    "nothing required": (put("requires", None), DocumentError),
    "whole numbers elsewhere": (put("router.bias", numpy.zeros(2, "|i1")), LeafDtypeError),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_breaks_a_rule_is_refused(case: str, tmp_path: Path) -> None:
    from si_hub.storage.write import write_safetensors

    change, error = BROKEN[case]
    format.write(adapter(), tmp_path / "good")
    file = read_safetensors(tmp_path / "good")
    tensors, document = dict(file.tensors), json.loads(file.metadata["styleinject"])
    change(tensors, document)
    metadata = {"format": "pt", "styleinject": json.dumps(document)}
    write_safetensors(tmp_path / "bad", tensors, lambda _: metadata, lead=("styleinject", "format"))
    with pytest.raises(error) as caught:
        format.read(tmp_path / "bad")
    assert type(caught.value) is error


def test_a_scale_is_no_leaf_of_a_layer_in_memory(tmp_path: Path) -> None:
    held = adapter()
    held.components["unet"].layers["a.b"].tensors["down.scale"] = Tensor.from_numpy(SCALE)
    with pytest.raises(SiHubError, match=r"down\.scale"):
        format.write(held, tmp_path / "x")
