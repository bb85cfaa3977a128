"""A converted file goes back to what it was, name by name and bit by bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import si_hub
from si_hub import format
from si_hub.adapter import Adapter, BaseModel, Component, Layer
from si_hub.errors import ConversionRefused
from si_hub.storage.tensors import Tensor

Arrays = dict[str, Any]
BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
TEXT = "text_model.encoder.layers.0.self_attn.k_proj"
#: Modules of SD 1.5: component, path, shape of the weight.
MODULES = [
    ("unet", f"{BLOCK}.attn1.to_q", (320, 320)), ("unet", f"{BLOCK}.attn2.to_k", (320, 768)),
    ("unet", "down_blocks.0.attentions.0.proj_in", (320, 320, 1, 1)), ("unet", "conv_in", (320, 4, 3, 3)),
    ("text_encoder", TEXT, (768, 768)),
]  # fmt: skip
DOWN, UP = (
    {"kohya": ".lora_down.weight", "peft": ".lora_A.weight"},
    {"kohya": ".lora_up.weight", "peft": ".lora_B.weight"},
)
FLAT = {"unet": "lora_unet_", "text_encoder": "lora_te_"}


def draw(*shape: int, dtype: Any = np.float16) -> Any:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def pairs(spelling: str, alpha: Any = None, *, flat_kernels: bool = False, native: bool = False) -> Arrays:
    """Pairs for all modules in a naming; ``native`` for ComfyUI's names."""
    held: Arrays = {}
    for at, (component, path, shape) in enumerate(MODULES):
        out, into, *kernel = shape
        stem = FLAT[component] + path.replace(".", "_") if spelling == "kohya" else f"{component}.{path}"
        if native:
            if component != "unet" or "conv_in" in path:
                continue
            inner = path.removeprefix("down_blocks.0.attentions.0.")
            stem = f"diffusion_model.input_blocks.1.1.{inner}"
        ones = [1 for _ in kernel]
        if flat_kernels and set(kernel) == {1}:
            kernel, ones = [], []  # a linear layer's axes for a 1x1 convolution
        rank = 2 + at % 2
        held[stem + DOWN["peft" if spelling == "peft" else "kohya"]] = draw(rank, into, *kernel)
        held[stem + UP["peft" if spelling == "peft" else "kohya"]] = draw(out, rank, *ones)
        if alpha is not None:
            held[f"{stem}.alpha"] = alpha
    return held


def lokr(flat: bool) -> Arrays:
    held: Arrays = {}
    for _, path, (out, into, *kernel) in MODULES[:3]:
        stem = FLAT["unet"] + path.replace(".", "_")
        held[f"{stem}.lokr_w1"] = draw(4, 4)
        held[f"{stem}.alpha"] = np.array(2.0, np.float32)
        if flat:
            held[f"{stem}.lokr_w2_a"], held[f"{stem}.lokr_w2_b"] = draw(out // 4, 2), draw(2, into // 4)
        else:
            held[f"{stem}.lokr_w2"] = draw(out // 4, into // 4, *kernel)
    return held


def differences() -> Arrays:
    stem = FLAT["unet"] + MODULES[0][1].replace(".", "_")
    norm = FLAT["unet"] + f"{BLOCK}.norm1".replace(".", "_")
    return {
        f"{stem}.diff": draw(320, 320), "lora_unet_conv_in.diff": draw(320, 4, 3, 3),
        "lora_unet_conv_in.diff_b": draw(320), f"{norm}.w_norm": draw(320),
        f"{norm}.b_norm": draw(320, dtype=np.float32),
    }  # fmt: skip


def tucker() -> Arrays:
    """LoCon's cores, square and not."""
    stem, ones = "lora_unet_conv_in", [1, 1]
    other = "lora_unet_down_blocks_0_resnets_0_conv1"
    return {
        f"{stem}.lora_down.weight": draw(3, 4, *ones),
        f"{stem}.lora_mid.weight": draw(2, 3, 3, 3),
        f"{stem}.lora_up.weight": draw(320, 2, *ones),
        f"{stem}.alpha": np.array(1.0, np.float32),
        f"{other}.lora_down.weight": draw(2, 320, *ones),
        f"{other}.lora_mid.weight": draw(2, 2, 3, 3),
        f"{other}.lora_up.weight": draw(320, 2, *ones),
        f"{other}.alpha": np.array(1.0, np.float32),
    }


SOURCES: dict[str, Arrays] = {
    "kohya": pairs("kohya", np.array(1.5, np.float32)),
    "kohya, integer alphas": pairs("kohya", np.array(4, np.int64)),
    "kohya, alphas of one element": pairs("kohya", np.array([0.5], np.float16)),
    "kohya, alphas of 0": pairs("kohya", np.array(0, np.float32)),
    "kohya, without alphas": pairs("kohya"),
    "kohya, linear axes": pairs("kohya", np.array(2.0, np.float32), flat_kernels=True),
    "diffusers": pairs("peft"),
    "comfy": pairs("comfy", np.array(3.0, np.float32), native=True),
    "lokr of pairs": lokr(flat=True),
    "lokr, whole, whose alpha says nothing": lokr(flat=False),
    "differences": differences(),
    "tucker": tucker(),
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_byte_comes_back(name: str, tmp_path: Path) -> None:
    arrays, source = SOURCES[name], tmp_path / "source.safetensors"
    save_file(arrays, source, {"ss_training_comment": "mine"})
    si_hub.convert(source, tmp_path / "ours.safetensors", base="sd15")
    found = si_hub.export(tmp_path / "ours.safetensors", tmp_path / "back.safetensors", to="original")
    assert found.to == "original"
    back = load_file(tmp_path / "back.safetensors")
    assert back.keys() == arrays.keys()
    for key, array in arrays.items():
        assert (back[key].dtype, back[key].shape) == (array.dtype, array.shape), key
        assert back[key].tobytes() == array.tobytes(), key


def test_a_square_core_stays_one_where_lycoris_has_its_like_and_is_folded_elsewhere(tmp_path: Path) -> None:
    save_file(tucker(), tmp_path / "source.safetensors")
    si_hub.convert(tmp_path / "source.safetensors", tmp_path / "ours.safetensors", base="sd15", check=True)
    layers = format.read(tmp_path / "ours.safetensors").components["unet"].layers
    assert {path: layer.tensors["core.weight"].shape for path, layer in layers.items()} == {
        "conv_in": (2, 3, 3, 3), "down_blocks.0.resnets.0.conv1": (2, 2, 3, 3),
    }  # fmt: skip
    for to in ("kohya", "comfy"):
        si_hub.export(tmp_path / "ours.safetensors", tmp_path / f"{to}.safetensors", to=to, check=True)
    back, mid = load_file(tmp_path / "kohya.safetensors"), ".lora_mid.weight"
    assert [name for name in back if name.endswith(mid)] == [f"lora_unet_down_blocks_0_resnets_0_conv1{mid}"]
    for key, array in tucker().items():
        if "resnets" in key:
            assert (back[key].shape, back[key].tobytes()) == (array.shape, array.tobytes()), key
    assert back["lora_unet_conv_in.lora_down.weight"].shape == (2, 4, 3, 3)
    si_hub.export(tmp_path / "ours.safetensors", tmp_path / "peft.safetensors", to="diffusers", check=True)
    assert not any("mid" in name for name in load_file(tmp_path / "peft.safetensors"))


@pytest.mark.parametrize(("rank", "taken"), [(3, 5), (5, 3)])
def test_a_core_that_is_not_square_is_made_so_where_that_is_smaller(rank: int, taken: int, tmp_path: Path) -> None:
    path = "down_blocks.0.resnets.0.conv1"
    leaves = {"down.weight": draw(taken, 320), "core.weight": draw(rank, taken, 3, 3), "up.weight": draw(320, rank)}
    layer = Layer({leaf: Tensor.from_numpy(array) for leaf, array in leaves.items()}, alpha=2.0)
    format.write(Adapter(BaseModel("sd15"), {"unet": Component(None, {path: layer})}), tmp_path / "ours.safetensors")
    si_hub.export(tmp_path / "ours.safetensors", tmp_path / "kohya.safetensors", to="kohya", check=True)
    back, stem = load_file(tmp_path / "kohya.safetensors"), f"lora_unet_{path.replace('.', '_')}"
    down, mid, up, alpha = (
        back[f"{stem}.{name}"].astype(np.float64)
        for name in ("lora_down.weight", "lora_mid.weight", "lora_up.weight", "alpha")
    )
    assert mid.shape == (5, 5, 3, 3)
    assert str(back[f"{stem}.lora_mid.weight"].dtype) == "float16"
    made = alpha / 5 * np.einsum("or,rqhw,qi->oihw", up.reshape(320, 5), mid, down.reshape(5, 320))
    wanted = (
        2.0
        / rank
        * np.einsum(
            "or,rqhw,qi->oihw", *(leaves[f"{name}.weight"].astype(np.float64) for name in ("up", "core", "down"))
        )
    )
    np.testing.assert_allclose(made, wanted, rtol=1e-6, atol=1e-9)


def test_two_namings_in_one_file_each_come_back(tmp_path: Path) -> None:
    arrays = pairs("kohya", np.array(1.0, np.float32))
    first = next(iter(arrays)).split(".")[0]
    moved = {key.replace(first, f"unet.{MODULES[0][1]}"): value for key, value in arrays.items()}
    save_file(moved, tmp_path / "mixed.safetensors")
    si_hub.convert(tmp_path / "mixed.safetensors", base="sd15")
    si_hub.export(tmp_path / "mixed.styleinject.safetensors", to="original")
    back = load_file(tmp_path / "mixed.original.safetensors")
    assert {key: value.tobytes() for key, value in back.items()} == {k: v.tobytes() for k, v in moved.items()}


def test_what_was_computed_does_not_come_back(tmp_path: Path) -> None:
    stem = "lora_unet_conv_in"
    loha = {f"{stem}.hada_w{half}_{side}": draw(*shape) for half in "12"
            for side, shape in (("a", (320, 2)), ("b", (2, 36)))}  # fmt: skip
    save_file(loha, tmp_path / "loha.safetensors")
    si_hub.convert(tmp_path / "loha.safetensors", base="sd15")
    with pytest.raises(ConversionRefused, match=r"conv_in: its hada_w1_a became something else when it was converted"):
        si_hub.export(tmp_path / "loha.styleinject.safetensors", to="original")
    assert not (tmp_path / "loha.original.safetensors").exists()


def test_what_was_not_converted_has_no_original(tmp_path: Path) -> None:
    save_file(pairs("kohya"), tmp_path / "a.safetensors")
    si_hub.convert(tmp_path / "a.safetensors", base="sd15")
    adapter = format.read(tmp_path / "a.styleinject.safetensors")
    adapter.about.pop("provenance")
    format.write(adapter, tmp_path / "trained.safetensors")
    with pytest.raises(ConversionRefused, match="was not converted from another format"):
        si_hub.export(tmp_path / "trained.safetensors", to="original")
