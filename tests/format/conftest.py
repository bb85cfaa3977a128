"""Adapters to test with: one of every kind of layer at random, and files with a header of one's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from si_hub import format
from si_hub.adapter import TRANSFORMS, Adapter, BaseModel, Component, Layer
from si_hub.storage.header import SafetensorsFile, read_safetensors
from si_hub.storage.paths import names_a_place
from si_hub.storage.tensors import Tensor

DTYPES = ("F64", "F32", "F16", "BF16")
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
SEGMENTS = st.sampled_from(["a", "b", "0", "1", "12", "to_q", "up", "down", "gain", "attn1", "embedding", "router"])
MODULES = st.lists(SEGMENTS, min_size=1, max_size=4).map(".".join)
TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)
SIZE = st.integers(1, 3)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@st.composite
def tensors(draw: st.DrawFn, *shape: int) -> Tensor:
    dtype = draw(st.sampled_from(DTYPES))
    count = 1
    for size in shape:
        count *= size
    # A first byte below 0x20 in every number keeps all of them finite.
    numbers = draw(st.binary(min_size=count, max_size=count))
    return Tensor.from_bytes(dtype, shape, b"".join(bytes(WIDTHS[dtype] - 1) + bytes([b & 0x1F]) for b in numbers))


@st.composite
def layers(draw: st.DrawFn, n: int) -> Layer:
    """Any layer the format has; ``n`` branches where it has a low-rank pair."""
    kind = draw(st.sampled_from(["pair", "pair", "core", "kron", "delta", "gain", "turn", "parameter"]))
    out, width, rank = draw(SIZE), draw(SIZE), draw(SIZE)
    kernel = draw(st.sampled_from([(), (1, 1), (3, 3), (2,)]))
    if kind == "parameter":
        return Layer({"param_delta": draw(tensors(*draw(st.lists(SIZE, max_size=3))))})
    if kind == "gain":
        return Layer({"gain": draw(tensors(out)), "gain_in": draw(tensors(width))})
    if kind == "turn":
        blocks, size = draw(SIZE), draw(SIZE)
        return Layer({"turn": draw(tensors(blocks, size, size)), "turn_in": draw(tensors(size, blocks, blocks))})
    if kind == "delta":
        delta = draw(tensors(out, width, *kernel))
        return Layer({"weight_delta": delta} | ({"bias_delta": draw(tensors(out))} if not kernel else {}))
    alpha = draw(st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([1.0, 2.0, 0.1]))
    transform = draw(st.sampled_from(TRANSFORMS))
    if kind == "kron" and n == 1:
        factor = draw(tensors(draw(SIZE), draw(SIZE)))
        if draw(st.booleans()):
            return Layer({"kron": factor, "weight_delta": draw(tensors(out, width, *kernel))})
        pair = {"down.weight": draw(tensors(rank, width, *kernel)), "up.weight": draw(tensors(out, rank))}
        return Layer({"kron": factor, **pair}, alpha, transform)  # type: ignore[arg-type]
    groups = 1 if kind == "core" else draw(st.sampled_from([1, 1, 2, 12]))
    leaves = {
        "down.weight": draw(tensors(n * rank * groups, width, *kernel)), "up.weight": draw(tensors(out * groups, rank)),
    }  # fmt: skip
    if kind == "core":
        inner = draw(SIZE)
        leaves["down.weight"] = draw(tensors(inner, width, *draw(st.sampled_from([(), (1, 1)]))))
        leaves["core.weight"] = draw(tensors(n * rank, inner, *kernel))
    if n > 1:
        leaves["router.bias"] = draw(tensors(n))
        if draw(st.booleans()):
            leaves["router.weight"] = draw(tensors(n, width))
    if draw(st.booleans()):
        leaves["gain"] = draw(tensors(out * groups))
        leaves["bias_delta"] = draw(tensors(out * groups))
    return Layer(leaves, alpha, transform, groups=groups)  # type: ignore[arg-type]


@st.composite
def adapters_strategy(draw: st.DrawFn) -> Adapter:
    named = draw(st.booleans())
    n = draw(st.integers(1, 3))
    components = {}
    for name in draw(st.sets(st.sampled_from(["unet", "text_encoder", "text_encoder_2", "transformer"]), min_size=1)):
        text = "text_encoder" in name
        paths = MODULES.filter(lambda path: path.split(".")[0] != "embedding") if text else MODULES
        found = {
            path: draw(layers(n if named else draw(st.integers(1, 3))))
            for path in draw(st.sets(paths, max_size=5, min_size=0 if text else 1))
        }
        tokens = st.dictionaries(TEXT.filter(str.isprintable), tensors(2, 3), max_size=2, min_size=0 if found else 1)
        components[name] = Component(draw(st.none() | TEXT), found, draw(tokens) if text else {})
    about = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "title": TEXT, "author": TEXT, "license": TEXT, "tags": st.lists(TEXT, max_size=2),
                "trigger_words": st.lists(TEXT, max_size=2), "preview_prompts": st.lists(TEXT, max_size=2),
                "training": st.dictionaries(TEXT, JSON, max_size=2),
                "fidelity": st.dictionaries(TEXT, JSON, max_size=2),
                "extensions": st.dictionaries(st.sampled_from(["org.a", "x/y"]), JSON),
                "provenance": st.sampled_from([{"exact": True}, {"error": 0.5, "family": "lora"}]),
            },
        )
    )  # fmt: skip
    # What names something names no place of a machine: `tests/format/test_places.py`.
    placeless = TEXT.filter(lambda text: "/" not in text and not names_a_place(text))
    base = BaseModel(draw(placeless), draw(st.none() | placeless), draw(st.none() | TEXT), draw(st.none() | TEXT))
    foreign = st.dictionaries(TEXT.map("ss_".__add__), st.text(st.characters(codec="utf-8"), max_size=5), max_size=2)
    return Adapter(base, components, ("ink", "neon", "oil")[:n] if named else (), about, draw(foreign))


@pytest.fixture(scope="session")
def adapters() -> st.SearchStrategy[Adapter]:
    """Any valid adapter, small."""
    return adapters_strategy()


@pytest.fixture
def small() -> Adapter:
    """One linear layer of rank 2, alpha 1."""
    pair = {
        "down.weight": Tensor.from_bytes("F32", (2, 3), bytes(24)),
        "up.weight": Tensor.from_bytes("F32", (4, 2), bytes(32)),
    }
    return Adapter(BaseModel("sd15"), {"unet": Component("UNet2DConditionModel", {"a.b": Layer(pair, alpha=1.0)})})


@pytest.fixture
def written(small: Adapter, tmp_path: Path) -> SafetensorsFile:
    """``small`` as a file."""
    format.write(small, tmp_path / "small.safetensors")
    return read_safetensors(tmp_path / "small.safetensors")


Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def edited(written: SafetensorsFile, tmp_path: Path) -> Callable[[Edit], Path]:
    """``edited(change)``: the small file with its document changed, by a writer that checks nothing."""

    def make(change: Edit) -> Path:
        document = json.loads(written.metadata["styleinject"])
        change(document)
        raw = written.path.read_bytes()
        header = json.loads(raw[8 : written.data_start])
        header["__metadata__"]["styleinject"] = json.dumps(document)
        text = json.dumps(header).encode()
        path = tmp_path / "edited.safetensors"
        path.write_bytes(len(text).to_bytes(8, "little") + text + raw[written.data_start :])
        return path

    return make
