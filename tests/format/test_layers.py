from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from si_hub import errors
from si_hub.adapter import LEAVES, Layer
from si_hub.format.layers import check_embedding, check_layer, gather, join_name, split_name
from si_hub.storage.tensors import Tensor

Shapes = dict[str, tuple[int, ...]]


def zeros(*shape: int, dtype: str = "F32") -> Tensor:
    width = {"F32": 4, "F16": 2, "I64": 8, "BOOL": 1, "U8": 1, "F8_E8M0": 1}[dtype]
    return Tensor.from_bytes(dtype, shape, bytes(math.prod(shape) * width))


def layer(shapes: Shapes, **settings: Any) -> Layer:
    return Layer({leaf: zeros(*shape) for leaf, shape in shapes.items()}, **settings)


PAIR: Shapes = {"down.weight": (2, 3), "up.weight": (4, 2)}
CONV: Shapes = {"down.weight": (2, 3, 3, 3), "up.weight": (4, 2)}
ROUTED: Shapes = {"down.weight": (6, 3), "up.weight": (4, 2), "router.weight": (3, 3), "router.bias": (3,)}
CORED: Shapes = {"down.weight": (5, 3, 1, 1), "core.weight": (2, 5, 3, 3), "up.weight": (4, 2)}
FIXED: Shapes = {"down.weight": (6, 3), "up.weight": (4, 2), "router.bias": (3,)}


@pytest.mark.parametrize(
    "shapes",
    [
        PAIR, CONV, ROUTED, FIXED,
        {**PAIR, "gain": (4,), "gain_in": (3,), "weight_delta": (4, 3), "bias_delta": (4,)},
        {**CONV, "weight_delta": (4, 3, 3, 3), "gain": (4,)},
        {"down.weight": (2, 3, 1, 1), "up.weight": (4, 2), "weight_delta": (4, 3)},
        {**PAIR, "weight_delta": (4, 3, 1, 1)},
        {**PAIR, "kron": (5, 7), "gain": (20,), "gain_in": (21,), "bias_delta": (20,)},
        {"weight_delta": (4, 3), "kron": (2, 2), "bias_delta": (8,)},
        CORED, {**CORED, "down.weight": (5, 3), "gain": (4,), "gain_in": (3,), "weight_delta": (4, 3, 3, 3)},
        {**CORED, "core.weight": (6, 5, 3, 3), "router.weight": (3, 3), "router.bias": (3,)},
        {"down.weight": (1, 3), "core.weight": (2, 1), "up.weight": (4, 2), "weight_delta": (4, 3, 1, 1)},
        {"weight_delta": (7,), "bias_delta": (7,)},
        {"weight_delta": (3, 5, 4, 4), "bias_delta": (5,)},
        {"down.weight": (2, 3, 3), "up.weight": (4, 2)},
        {"down.weight": (2, 3, 3, 3, 3), "up.weight": (4, 2)},
        {"gain": (4,)}, {"gain_in": (4,)}, {"bias_delta": (4,)}, {"param_delta": (2, 3, 4)}, {"param_delta": ()},
    ],
    ids=str,
)  # fmt: skip
def test_every_layer_that_the_format_has_is_accepted(shapes: Shapes) -> None:
    check_layer(layer(shapes), "unet.m")


SHAPE, MISSING = errors.LayerShapeError, errors.MissingTensor
BROKEN: dict[str, tuple[Shapes, type[errors.SiHubError], str]] = {
    "nothing": ({}, MISSING, "unet.m"),
    "up alone": ({"up.weight": (4, 2)}, MISSING, "unet.m.down.weight"),
    "down alone": ({"down.weight": (2, 3)}, MISSING, "unet.m.up.weight"),
    "rank mismatch": ({**PAIR, "down.weight": (3, 3)}, SHAPE, "unet.m.down.weight"),
    "rank zero": ({"down.weight": (0, 3), "up.weight": (4, 0)}, SHAPE, "unet.m.down.weight"),
    "up of three axes": ({**PAIR, "up.weight": (4, 2, 1)}, SHAPE, "unet.m.up.weight"),
    "up as a convolution": ({**CONV, "up.weight": (4, 2, 1, 1)}, SHAPE, "unet.m.up.weight"),
    "down is a vector": ({**PAIR, "down.weight": (2,)}, SHAPE, "unet.m.down.weight"),
    "down of six axes": ({**PAIR, "down.weight": (2, 3, 1, 1, 1, 1)}, SHAPE, "unet.m.down.weight"),
    "branches without a router": ({**PAIR, "down.weight": (6, 3)}, MISSING, "unet.m.router.bias"),
    "router without bias": ({**FIXED, "router.weight": (3, 3), "router.bias": ()}, SHAPE, "unet.m.router.bias"),
    "router weight alone": (
        {"down.weight": (6, 3), "up.weight": (4, 2), "router.weight": (3, 3)}, MISSING, "unet.m.router.bias",
    ),
    "router for one branch": ({**PAIR, "router.bias": (1,)}, SHAPE, "unet.m.router.bias"),
    "router weight for one branch": ({**PAIR, "router.weight": (1, 3)}, SHAPE, "unet.m.router.weight"),
    "router without a pair": ({"gain": (4,), "router.bias": (2,)}, SHAPE, "unet.m.router.bias"),
    "router of another n": ({**ROUTED, "router.bias": (2,)}, SHAPE, "unet.m.router.bias"),
    "router weight of another n": ({**ROUTED, "router.weight": (2, 3)}, SHAPE, "unet.m.router.weight"),
    "router of another width": ({**ROUTED, "router.weight": (3, 4)}, SHAPE, "unet.m.router.weight"),
    "router as a convolution": ({**ROUTED, "router.weight": (3, 3, 1, 1)}, SHAPE, "unet.m.router.weight"),
    "gain of another width": ({**PAIR, "gain": (3,)}, SHAPE, "unet.m.gain"),
    "gain as a column": ({**PAIR, "gain": (4, 1)}, SHAPE, "unet.m.gain"),
    "gain_in of another width": ({**PAIR, "gain_in": (4,)}, SHAPE, "unet.m.gain_in"),
    "bias of another width": ({**PAIR, "bias_delta": (5,)}, SHAPE, "unet.m.bias_delta"),
    "bias and gain differ": ({"gain": (4,), "bias_delta": (5,)}, SHAPE, "unet.m.bias_delta"),
    "norm of two widths": ({"weight_delta": (4,), "bias_delta": (5,)}, SHAPE, "unet.m.weight_delta"),
    "dense of another output": ({**PAIR, "weight_delta": (5, 3)}, SHAPE, "unet.m.weight_delta"),
    "dense of another input": ({**PAIR, "weight_delta": (4, 4)}, SHAPE, "unet.m.weight_delta"),
    "dense of another kernel": ({**CONV, "weight_delta": (4, 3, 5, 5)}, SHAPE, "unet.m.weight_delta"),
    "dense scalar": ({"weight_delta": ()}, SHAPE, "unet.m.weight_delta"),
    "kron alone": ({"kron": (2, 2)}, MISSING, "unet.m.kron"),
    "kron with two right factors": ({**PAIR, "weight_delta": (4, 3), "kron": (2, 2)}, MISSING, "unet.m.kron"),
    "kron of four axes": ({**PAIR, "kron": (2, 2, 1, 1)}, SHAPE, "unet.m.kron"),
    "kron with branches": ({**FIXED, "kron": (2, 2)}, SHAPE, "unet.m.kron"),
    "kron and gain": ({**PAIR, "kron": (2, 2), "gain": (4,)}, SHAPE, "unet.m.gain"),
    "core alone": ({"core.weight": (2, 5)}, MISSING, "unet.m.down.weight"),
    "core without down": ({"core.weight": (2, 5), "up.weight": (4, 2)}, MISSING, "unet.m.down.weight"),
    "core of another rank": ({**CORED, "core.weight": (3, 5, 3, 3)}, SHAPE, "unet.m.core.weight"),
    "core of another inner rank": ({**CORED, "core.weight": (2, 4, 3, 3)}, SHAPE, "unet.m.core.weight"),
    "core is a vector": ({**CORED, "core.weight": (2,)}, SHAPE, "unet.m.core.weight"),
    "core of six axes": ({**CORED, "core.weight": (2, 5, 1, 1, 1, 1)}, SHAPE, "unet.m.core.weight"),
    "down with a kernel before a core": ({**CORED, "down.weight": (5, 3, 3, 3)}, SHAPE, "unet.m.down.weight"),
    "core with kron": ({**CORED, "kron": (2, 2)}, SHAPE, "unet.m.kron"),
    "branches of cores without a router": ({**CORED, "core.weight": (4, 5, 3, 3)}, MISSING, "unet.m.router.bias"),
    "dense of another kernel than the core": ({**CORED, "weight_delta": (4, 3)}, SHAPE, "unet.m.weight_delta"),
    "core and gain_in": ({**CORED, "gain_in": (5,)}, SHAPE, "unet.m.gain_in"),
    "a parameter with a module's leaf": ({"param_delta": (2,), "gain": (2,)}, SHAPE, "unet.m"),
    "an unknown leaf": ({"lora_down.weight": (2, 2)}, errors.UnknownLeaf, "unet.m.lora_down.weight"),
    "alpha as a tensor of a layer": ({**PAIR, "alpha": ()}, errors.UnknownLeaf, "unet.m.alpha"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_layer_that_breaks_a_rule_names_its_tensor(case: str) -> None:
    shapes, error, key = BROKEN[case]
    with pytest.raises(error) as caught:
        check_layer(layer(shapes), "unet.m")
    assert type(caught.value) is error
    assert caught.value.key == key


def test_a_grouped_convolution_counts_its_rank_over_the_groups() -> None:
    grouped: Shapes = {"down.weight": (8, 6, 3, 3), "up.weight": (4, 4), "weight_delta": (4, 3, 3, 3), "gain_in": (6,)}
    check_layer(layer(grouped, groups=2), "unet.m")
    assert layer(grouped, groups=2).rank == 8
    with pytest.raises(errors.LayerShapeError, match="gain_in"):
        check_layer(layer({**grouped, "gain_in": (3,)}, groups=2), "unet.m")
    for wrong, rows, key in ((3, 12, "up"), (3, 8, "down"), (16, 8, "down"), (0, 8, "up"), (-1, 8, "up")):
        with pytest.raises(errors.LayerShapeError) as caught:
            check_layer(layer({"down.weight": (rows, 3), "up.weight": (4, 4)}, groups=wrong), "unet.m")
        assert caught.value.key == f"unet.m.{key}.weight"
    with pytest.raises(errors.LayerShapeError, match="a core sees all inputs at once"):
        check_layer(layer({**CORED, "up.weight": (4, 1)}, groups=2), "unet.m")
    with pytest.raises(errors.LayerShapeError, match="one group"):
        check_layer(layer({"down.weight": (4, 3), "up.weight": (4, 2), "kron": (2, 2)}, groups=2), "unet.m")


@pytest.mark.parametrize("dtype", ["I64", "U8", "BOOL", "F8_E8M0"])
def test_only_floating_point_tensors_are_leaves(dtype: str) -> None:
    with pytest.raises(errors.LeafDtypeError, match=dtype) as caught:
        check_layer(Layer({"gain": zeros(4, dtype=dtype)}), "unet.m")
    assert caught.value.key == "unet.m.gain"
    with pytest.raises(errors.LeafDtypeError, match=dtype):
        check_embedding(zeros(2, 3, dtype=dtype), "text_encoder.embedding.x")


@pytest.mark.parametrize("shape", [(3,), (1, 2, 3), (0, 3), (2, 0), ()])
def test_an_embedding_is_a_matrix(shape: tuple[int, ...]) -> None:
    check_embedding(zeros(2, 3), "text_encoder.embedding.x")
    with pytest.raises(errors.LayerShapeError, match=r"text_encoder\.embedding\.x"):
        check_embedding(zeros(*shape), "text_encoder.embedding.x")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("unet.a.b.down.weight", ("unet", "a.b", "down.weight")),
        ("unet.down.down.weight", ("unet", "down", "down.weight")),
        ("unet.gain.gain", ("unet", "gain", "gain")),
        ("unet.a.0.to_out.0.router.bias", ("unet", "a.0.to_out.0", "router.bias")),
        ("dit.blocks.0.scale_shift_table.param_delta", ("dit", "blocks.0.scale_shift_table", "param_delta")),
        ("text_encoder.embedding.<cat.v2>", ("text_encoder", "<cat.v2>", "embedding")),
        ("text_encoder_2.embedding.down.weight", ("text_encoder_2", "down.weight", "embedding")),
        ("unet.embedding.x.gain", ("unet", "embedding.x", "gain")),
        ("text_encoder.embeddings.x.gain", ("text_encoder", "embeddings.x", "gain")),
    ],
)  # fmt: skip
def test_a_name_is_component_path_and_leaf(name: str, parts: tuple[str, str, str]) -> None:
    assert split_name(name) == parts
    assert join_name(*parts) == name


@pytest.mark.parametrize(
    "name",
    [
        "", "unet", "unet.", ".a.gain", "unet.gain", "unet.down.weight", "unet..gain", "unet.a..gain", "un et.a.gain",
        "unet.../../etc.gain", "unet.a/b.gain", "unet.a\0.gain", "unet.ä.gain", "unet.*.gain", "9.a.gain",
        "text_encoder.embedding.", "text_encoder.embedding.a\nb", "u" * 65 + ".a.gain", "unet." + "a" * 600 + ".gain",
    ],
)  # fmt: skip
def test_an_unsafe_name_is_refused(name: str) -> None:
    with pytest.raises(errors.BadTensorName):
        split_name(name)


@pytest.mark.parametrize(
    "name", ["unet.a.weight", "unet.a.down", "unet.a.lora_down.weight", "unet.a.Gain", "unet.a.bias"]
)
def test_an_unknown_leaf_is_refused(name: str) -> None:
    with pytest.raises(errors.UnknownLeaf, match=r"down\.weight, up\.weight"):
        split_name(name)


SEGMENTS = st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True)


@given(component=st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True),
       path=st.lists(SEGMENTS, min_size=1, max_size=5), leaf=st.sampled_from(sorted(LEAVES)))  # fmt: skip
def test_splitting_is_the_inverse_of_joining(component: str, path: list[str], leaf: str) -> None:
    module = ".".join(path)
    if not component.startswith("text_encoder"):
        assert split_name(join_name(component, module, leaf)) == (component, module, leaf)


@given(st.text(max_size=30))
def test_any_text_is_a_name_or_a_typed_error(name: str) -> None:
    try:
        parts = split_name(name)
    except (errors.BadTensorName, errors.UnknownLeaf):
        return
    assert join_name(*parts) == name


def test_gathering_puts_every_tensor_in_its_place() -> None:
    one = zeros(1)
    found = gather({"unet.a.gain": one, "unet.a.gain_in": one, "unet.b.gain": one, "text_encoder.embedding.t": one})
    assert found["unet"].layers == {"a": {"gain": one, "gain_in": one}, "b": {"gain": one}}
    assert found["text_encoder"].embeddings == {"t": one}
