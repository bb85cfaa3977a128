from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from si_hub import architectures, errors, format
from si_hub.adapter import TRANSFORMS, Adapter, BaseModel, Component, Layer
from si_hub.storage.header import SafetensorsFile, read_safetensors
from si_hub.storage.tensors import Span, Tensor

fuzz = settings(
    max_examples=60, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip


def values(adapter: Adapter) -> dict[str, Any]:
    """An adapter with its tensors as dtype, shape and bytes, wherever those bytes are."""
    plain = dataclasses.asdict(dataclasses.replace(adapter, components={}))
    plain["components"] = {
        name: (
            component.class_name,
            {token: (t.dtype, t.shape, t.tobytes()) for token, t in component.embeddings.items()},
            {
                module: (
                    {leaf: (t.dtype, t.shape, t.tobytes()) for leaf, t in layer.tensors.items()},
                    layer.alpha, layer.transform, layer.pool, layer.groups,
                )
                for module, layer in component.layers.items()
            },
        )
        for name, component in adapter.components.items()
    }  # fmt: skip
    return plain


@fuzz
@given(data=st.data())
def test_any_adapter_comes_back_as_it_was_and_is_written_as_it_came(
    data: st.DataObject, adapters: st.SearchStrategy[Adapter], tmp_path: Path
) -> None:
    adapter = data.draw(adapters)
    first = format.write(adapter, tmp_path / "first", overwrite=True)
    again = format.read(tmp_path / "first", verify=True)
    assert values(again) == values(adapter)
    second = format.write(again, tmp_path / "second", overwrite=True)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    assert dataclasses.replace(first, path=second.path) == second
    with safe_open(tmp_path / "first", "pt") as opened:
        assert set(opened.keys()) == set(read_safetensors(tmp_path / "first").tensors)


def test_the_whole_file_is_these_bytes(tmp_path: Path) -> None:
    layers = {
        "a": Layer({"down.weight": Tensor.from_bytes("F16", (1, 2), b"\0\x3c\0\x40"),
                    "up.weight": Tensor.from_bytes("F32", (1, 1), b"\0\0\x80\x3f")}, alpha=0.5),
        "b": Layer({"gain": Tensor.from_bytes("F16", (1,), b"\0\x3c")}),
    }  # fmt: skip
    adapter = Adapter(BaseModel("sdxl"), {"unet": Component("U", layers)}, (), {"title": "é"}, {"zz": "1", "aa": "2"})
    format.write(adapter, tmp_path / "x")
    data = b"\0\0\x80\x3f" + b"\0\x3c\0\x40" + b"\0\x3c"
    digest = hashlib.sha256(data).hexdigest()
    document = (
        r"{\"base_model\":{\"architecture\":\"sdxl\"},\"components\":{\"unet\":{\"alpha\":0.5,\"class_name\":\"U\","
        r"\"pool\":\"mean\",\"transform\":\"add\"}},\"format_version\":\"1.0\",\"tensors_sha256\":\"" + digest
        + r"\",\"title\":\"é\"}"
    )  # fmt: skip
    header = (
        '{"__metadata__":{"styleinject":"' + document + '","format":"pt","aa":"2",'
        '"modelspec.architecture":"stable-diffusion-xl-v1-base/styleinject",'
        '"modelspec.hash_sha256":"0x' + digest + '","modelspec.implementation":"si-hub",'
        '"modelspec.sai_model_spec":"1.0.1","modelspec.title":"é","zz":"1"},'
        '"unet.a.up.weight":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]},'
        '"unet.a.down.weight":{"dtype":"F16","shape":[1,2],"data_offsets":[4,8]},'
        '"unet.b.gain":{"dtype":"F16","shape":[1],"data_offsets":[8,10]}}'
    ).encode()  # fmt: skip
    header += b" " * (-len(header) % 8)
    assert (tmp_path / "x").read_bytes() == len(header).to_bytes(8, "little") + header + data


def test_the_order_in_which_an_adapter_was_built_does_not_matter(tmp_path: Path) -> None:
    def build(backwards: bool) -> Adapter:
        step = -1 if backwards else 1
        pair = {
            "down.weight": Tensor.from_bytes("F32", (1, 1), bytes(4)),
            "up.weight": Tensor.from_bytes("F32", (1, 1), bytes(4)),
        }
        layers = {f"m.{i}": Layer(dict(list(pair.items())[::step]), alpha=float(i % 3)) for i in list(range(9))[::step]}
        components = {"unet": Component(None, layers), "text_encoder": Component(None, dict(layers))}
        about = {"title": "t", "tags": ["a"], "extensions": {"a.b": 1, "c.d": 2}}
        metadata = {"x": "1", "y": "2"}
        return Adapter(
            BaseModel("sd15"), dict(list(components.items())[::step]), (), dict(list(about.items())[::step]),
            dict(list(metadata.items())[::step]),
        )  # fmt: skip

    format.write(build(False), tmp_path / "a")
    format.write(build(True), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_one_ranged_read_of_100_kb_shows_the_whole_document_of_any_file(small: Adapter, tmp_path: Path) -> None:
    small.metadata = {"aaa": "x" * 500_000}
    small.about = {"extensions": {"a.b": '"\\\n' * 5_800}}
    format.write(small, tmp_path / "x")
    head = (tmp_path / "x").read_bytes()[:100_000]
    prefix = b'{"__metadata__":{"styleinject":'
    assert head[8 : 8 + len(prefix)] == prefix
    text, _ = json.JSONDecoder().raw_decode(head[8 + len(prefix) :].decode("utf-8", errors="ignore"))
    assert json.loads(text)["extensions"]["a.b"] == '"\\\n' * 5_800


def test_the_source_is_hashed_meanwhile_and_stands_in_the_provenance(small: Adapter, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"the source")
    small.about = {"provenance": {"source": {"name": "source"}, "exact": True}}
    written = format.write(small, tmp_path / "x", hash_source=tmp_path / "source")
    expected = hashlib.sha256(b"the source").hexdigest()
    assert written.source_sha256 == expected
    assert written.document["provenance"]["source"] == {"name": "source", "sha256": expected}
    assert format.read_document(read_safetensors(tmp_path / "x")) == written.document
    assert small.about == {"provenance": {"source": {"name": "source"}, "exact": True}}, "the adapter stays as it was"


def test_what_is_written_says_what_is_written(small: Adapter, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    written = format.write(small, tmp_path / "x", progress=lambda *now: seen.append(now))
    file = read_safetensors(tmp_path / "x")
    assert (written.path, written.size) == (tmp_path / "x", file.size)
    assert written.tensors_sha256 == hashlib.sha256((tmp_path / "x").read_bytes()[file.data_start :]).hexdigest()
    assert file.metadata["modelspec.hash_sha256"] == "0x" + written.tensors_sha256
    assert seen == [(56, 56)]


def test_an_existing_file_needs_overwrite(small: Adapter, written: SafetensorsFile) -> None:
    before = written.path.read_bytes()
    with pytest.raises(errors.FileAccessError, match="overwrite=True"):
        format.write(small, written.path)
    small.about = {"title": "another"}
    format.write(small, written.path, overwrite=True)
    assert written.path.read_bytes() != before


def test_a_file_can_be_rewritten_in_place_from_its_own_tensors(small: Adapter, written: SafetensorsFile) -> None:
    adapter = format.read(written.path)
    adapter.about = {"title": "a longer header than before, " * 20}
    format.write(adapter, written.path, overwrite=True)
    again = format.read(written.path, verify=True)
    assert again.components["unet"].layers["a.b"].tensors["up.weight"].tobytes() == bytes(32)
    assert again.about == adapter.about


def test_nan_is_refused_with_the_tensors_name_unless_taken_as_it_is(small: Adapter, tmp_path: Path) -> None:
    small.components["unet"].layers["a.b"].tensors["up.weight"] = Tensor.from_bytes("F32", (4, 2), b"\xff" * 32)
    with pytest.raises(errors.NotFinite, match="8 of 8") as caught:
        format.write(small, tmp_path / "x")
    assert caught.value.key == "unet.a.b.up.weight"
    assert list(tmp_path.iterdir()) == []
    format.write(small, tmp_path / "x", check_finite=False)
    with pytest.raises(errors.NotFinite):
        format.read(tmp_path / "x", verify=True)


REFUSED: dict[str, tuple[dict[str, Any], type[errors.SiHubError], str]] = {
    "a misspelt field": ({"triger_words": ["x"]}, errors.DocumentError, "triger_words"),
    "a wrong type": ({"tags": "x"}, errors.DocumentError, "styleinject.tags"),
    "an empty title": ({"title": ""}, errors.DocumentError, "styleinject.title"),
    "exact and an error": ({"provenance": {"exact": True, "error": 0.5}}, errors.DocumentError, "provenance"),
    "exact that is not": ({"provenance": {"exact": False}}, errors.DocumentError, "provenance.exact"),
    "an extension without a namespace": ({"extensions": {"mine": 1}}, errors.DocumentError, "extensions"),
    "a hash of its own": ({"tensors_sha256": "0" * 64}, errors.DocumentError, "tensors_sha256"),
    "branches of its own": ({"branches": ["a"]}, errors.DocumentError, "branches"),
    "nan": ({"training": {"loss": float("nan")}}, errors.DocumentError, "canonical"),
    "an integer no double holds": ({"training": {"steps": 2**60}}, errors.DocumentError, "canonical"),
    "half a surrogate pair": ({"title": "\ud800"}, errors.DocumentError, "canonical"),
    "no json": ({"training": {"when": object()}}, errors.DocumentError, "canonical"),
    "too large": ({"preview_prompts": ["x" * 70_000]}, errors.DocumentTooLarge, "65536"),
    "a higher major version": ({"format_version": "2.0"}, errors.UnsupportedVersion, "2.0"),
    "an unknown requirement": ({"requires": ["magic"]}, errors.UnsupportedVersion, "magic"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_document_that_breaks_a_rule_is_refused_and_nothing_is_written(
    case: str, small: Adapter, tmp_path: Path
) -> None:
    about, error, words = REFUSED[case]
    small.about = about
    with pytest.raises(error) as caught:
        format.write(small, tmp_path / "x")
    assert type(caught.value) is error
    assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_without_components_or_a_component_without_tensors_is_refused(
    small: Adapter, tmp_path: Path
) -> None:
    with pytest.raises(errors.MissingTensor, match="no components"):
        format.write(Adapter(BaseModel("sd15"), {}), tmp_path / "x")
    small.components["vae"] = Component()
    with pytest.raises(errors.MissingTensor, match=r"components\.vae"):
        format.write(small, tmp_path / "x")


@pytest.mark.parametrize(
    ("component", "module"),
    [
        ("unet", "../../etc"), ("unet", "a..b"), ("unet", ""), ("unet", "a.*"), ("unet", "a/b"), ("unet", "a b"),
        ("unet", "a\n"), ("unet", "é"), ("1unet", "a"), ("u.net", "a"), ("", "a"), ("text_encoder", "embedding.a"),
        ("unet", "a" * 600),
    ],
)  # fmt: skip
def test_an_unsafe_or_ambiguous_path_is_refused(component: str, module: str, small: Adapter, tmp_path: Path) -> None:
    small.components = {component: Component(None, {module: small.components["unet"].layers["a.b"]})}
    with pytest.raises(errors.BadTensorName):
        format.write(small, tmp_path / "x")


@pytest.mark.parametrize("setting", [{"alpha": 1.0}, {"transform": "variance"}, {"groups": 2}])
def test_a_setting_that_the_file_could_not_hold_is_refused(
    setting: dict[str, Any], small: Adapter, tmp_path: Path
) -> None:
    gain = {"gain": Tensor.from_bytes("F32", (1,), bytes(4))}
    small.components["unet"].layers["c"] = Layer(gain, **setting)
    with pytest.raises(errors.DocumentError, match="without a low-rank pair"):
        format.write(small, tmp_path / "x")


@pytest.mark.parametrize("alpha", [float("nan"), float("inf")])
def test_an_alpha_that_is_not_finite_is_refused(alpha: float, small: Adapter, tmp_path: Path) -> None:
    small.components["unet"].layers["a.b"].alpha = alpha
    with pytest.raises(errors.DocumentError, match="alpha is not finite"):
        format.write(small, tmp_path / "x")


def test_the_commonest_alpha_is_the_default_and_only_others_take_a_tensor(small: Adapter, tmp_path: Path) -> None:
    pair = small.components["unet"].layers["a.b"].tensors
    layers = {f"m{i}": Layer(pair, alpha=alpha) for i, alpha in enumerate([8.0, 8.0, 8.0, 4.0, 0.1])}
    small.components["unet"].layers = layers
    written = format.write(small, tmp_path / "x")
    assert written.document["components"]["unet"]["alpha"] == 8
    alphas = {name: t for name, t in read_safetensors(tmp_path / "x").tensors.items() if name.endswith("alpha")}
    assert {name: (t.dtype, t.shape, t.item()) for name, t in alphas.items()} == {
        "unet.m3.alpha": ("F32", (), 4.0), "unet.m4.alpha": ("F64", (), 0.1),
    }  # fmt: skip
    layers["m5"] = Layer(pair, alpha=None)
    written = format.write(small, tmp_path / "x", overwrite=True)
    assert written.document["components"]["unet"]["alpha"] is None
    assert [layer.alpha for layer in format.read(tmp_path / "x").components["unet"].layers.values()] == [
        8.0, 8.0, 8.0, 4.0, 0.1, None,
    ]  # fmt: skip


def test_every_module_of_sdxl_may_differ_from_every_other(small: Adapter, tmp_path: Path) -> None:
    pair = small.components["unet"].layers["a.b"].tensors
    chance = random.Random(0)
    small.components = {
        name: Component(
            None,
            {
                path: Layer(pair, float(chance.randrange(1, 9)), chance.choice(TRANSFORMS))  # type: ignore[arg-type]
                for path, module in component.modules.items()
                if module.kind in ("linear", "conv")
            },
        )
        for name, component in architectures.load("sdxl").components.items()
    }
    assert sum(len(component.layers) for component in small.components.values()) > 986
    format.write(small, tmp_path / "x")
    again = format.read(tmp_path / "x")
    assert values(again) == values(small)


def test_tensors_are_spans_of_the_file(written: SafetensorsFile) -> None:
    for tensor in format.read(written.path).components["unet"].layers["a.b"].tensors.values():
        (piece,) = tensor.pieces
        assert isinstance(piece, Span)
        assert piece.path == written.path
