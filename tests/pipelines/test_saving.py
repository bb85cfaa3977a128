"""Saving: the same bytes where nothing changed, the new numbers where something did."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from si_hub import format as file_format
from si_hub.adapter import Component, Layer
from si_hub.errors import FileAccessError, UsageError
from si_hub.storage.tensors import Tensor

Make = Callable[..., Any]
TEXT = ("q_proj", "fc1")


@pytest.fixture
def rich(sd: Make, lora: Make, adapter: Make) -> Any:
    """An adapter with every kind of thing that must come back: dtypes, alphas, styles, kernels, notes, embeddings."""
    pipe = sd()
    unet = lora(pipe.unet, ("to_q", "conv1", "proj_in"), branches=2, dtype=torch.float16)
    for number, layer in enumerate(unet.layers.values()):
        layer.alpha = [None, 2.0, 0.7][number % 3]
        layer.transform = "variance" if number % 4 == 0 else "add"
        if number % 2:
            layer.tensors["gain"] = Tensor.from_torch(torch.linspace(0.9, 1.1, layer.tensors["up.weight"].shape[0]))
    text = lora(pipe.text_encoder, TEXT, prefix="text_model.", dtype=torch.bfloat16, branches=2)
    text.embeddings["<ink>"] = Tensor.from_torch(torch.randn(2, 24))
    made = adapter(("ink", "neon"), unet=unet, text_encoder=text)
    made.about |= {"tags": ["a", "b"], "trigger_words": ["<ink>"]}
    made.metadata["ss_output_name"] = "kept"
    return made


def test_what_was_loaded_is_saved_in_the_same_bytes(sd: Make, rich: Any, tmp_path: Path) -> None:
    first = file_format.write(rich, tmp_path / "styleinject.safetensors")
    for number, source in enumerate((first.path, rich)):
        pipe = sd()
        pipe.load_styleinject_weights(source, "a", weight=0.3)
        pipe.set_styles({"ink": 0.5})
        written = pipe.save_styleinject_weights(tmp_path / f"again{number}", "a")
        assert written.path.read_bytes() == first.path.read_bytes()


def test_the_file_it_came_from_may_be_replaced_or_gone(sd: Make, lora: Make, adapter: Make, tmp_path: Path) -> None:
    pipe = sd()
    part = lora(pipe.unet, dtype=torch.float16)
    first = file_format.write(adapter(unet=part), tmp_path / "styleinject.safetensors")
    content = first.path.read_bytes()
    pipe.load_styleinject_weights(tmp_path)
    written = pipe.save_styleinject_weights(tmp_path, overwrite=True)
    assert written.path.read_bytes() == content
    first.path.unlink()
    gone = pipe.save_styleinject_weights(tmp_path / "gone")
    for path, layer in file_format.read(gone.path).components["unet"].layers.items():
        for leaf, tensor in layer.tensors.items():
            expected = part.layers[path].tensors[leaf].torch().float()
            assert torch.equal(tensor.torch().float(), expected)


def test_trained_numbers_are_saved_and_the_others_keep_their_bytes(
    sd: Make, lora: Make, adapter: Make, tmp_path: Path
) -> None:
    pipe = sd()
    part = lora(pipe.unet, dtype=torch.float16)
    pipe.load_styleinject_weights(adapter(unet=part), "a")
    path = next(iter(part.layers))
    up = pipe.unet.get_submodule(path).styleinject_layer.adapters["a"].up
    with torch.no_grad():
        up.weight += 0.125
    saved = file_format.read(pipe.save_styleinject_weights(tmp_path).path).components["unet"]
    trained, kept = saved.layers[path].tensors["up.weight"], saved.layers[path].tensors["down.weight"]
    assert trained.dtype == "F32"
    assert torch.equal(trained.torch(), part.layers[path].tensors["up.weight"].torch().float() + 0.125)
    assert kept.dtype == "F16"
    assert kept.tobytes() == part.layers[path].tensors["down.weight"].tobytes()


def test_some_components_can_be_saved_alone(sd: Make, lora: Make, adapter: Make, tmp_path: Path) -> None:
    pipe = sd()
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet), text_encoder=lora(pipe.text_encoder, TEXT)), "a")
    written = pipe.save_styleinject_weights(tmp_path, "a", components=["text_encoder"], weight_name="te.safetensors")
    assert written.path == tmp_path / "te.safetensors"
    assert list(file_format.read(written.path).components) == ["text_encoder"]
    with pytest.raises(UsageError, match=r"vae: adapter 'a' does not adapt it.*unet"):
        pipe.save_styleinject_weights(tmp_path, "a", components=["vae"])


def test_which_adapter_must_be_clear(sd: Make, lora: Make, adapter: Make, tmp_path: Path) -> None:
    pipe = sd()
    with pytest.raises(UsageError, match="found none is loaded"):
        pipe.save_styleinject_weights(tmp_path)
    for name in ("ink", "neon"):
        pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet)), name)
    with pytest.raises(UsageError, match="found ink, neon"):
        pipe.save_styleinject_weights(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_not_overwritten_unasked(sd: Make, lora: Make, adapter: Make, tmp_path: Path) -> None:
    pipe = sd()
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet)))
    pipe.save_styleinject_weights(tmp_path)
    with pytest.raises(FileAccessError):
        pipe.save_styleinject_weights(tmp_path)
    with pytest.raises(FileAccessError, match="a folder is expected"):
        pipe.save_styleinject_weights(tmp_path / "styleinject.safetensors")


def test_an_adapter_added_for_training_is_saved_once_its_base_is_named(sd: Make, noise: Make, tmp_path: Path) -> None:
    from si_hub import StyleInjectConfig

    pipe = sd()
    pipe.unet.add_adapter(StyleInjectConfig(r=2, target_modules=["to_q"]), "mine")
    with torch.no_grad():
        for key, parameter in pipe.unet.named_parameters():
            if "adapters.mine.up" in key:
                parameter.fill_(0.1)
    shown = noise(pipe)
    with pytest.raises(UsageError, match=r"mine: this adapter was not loaded from a file.*base_model="):
        pipe.save_styleinject_weights(tmp_path)
    pipe.save_styleinject_weights(tmp_path, base_model="sd15")
    other = sd()
    report = other.load_styleinject_weights(tmp_path)
    assert len(report.matched) == 12
    assert torch.allclose(noise(other), shown, atol=1e-5)


def test_a_layer_that_found_no_place_is_not_saved(sd: Make, lora: Make, adapter: Make, tmp_path: Path) -> None:
    pipe = sd()
    part = lora(pipe.unet)
    some = next(iter(part.layers.values()))
    strange = Component(None, {**part.layers, "nowhere": Layer(dict(some.tensors))})
    pipe.load_styleinject_weights(adapter(unet=strange), strict=False)
    saved = file_format.read(pipe.save_styleinject_weights(tmp_path).path)
    assert saved.components["unet"].layers.keys() == part.layers.keys()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_pipeline_saved_with_adapters_loaded_comes_back_as_the_base(
    sd: Make, lora: Make, adapter: Make, noise: Make, words: Make, state: Make, same: Make, tmp_path: Path
) -> None:
    pipe = sd()
    before, shown, said = state(pipe), noise(pipe), words(pipe)
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet), text_encoder=lora(pipe.text_encoder, TEXT)))
    pipe.save_pretrained(tmp_path / "loaded")
    pipe.unload_styleinject_weights()
    pipe.save_pretrained(tmp_path / "unloaded")
    for folder in ("loaded", "unloaded"):
        again = type(pipe).from_pretrained(tmp_path / folder, safety_checker=None)
        assert same(state(again), before)
        assert torch.equal(noise(again), shown)
        assert torch.equal(words(again), said)
    written = [path.read_bytes() for path in (tmp_path / "unloaded").rglob("*") if path.is_file()]
    assert not any(b"styleinject" in data for data in written)


def test_copies_and_pickles_of_a_pipeline_are_independent(
    sd: Make, lora: Make, adapter: Make, noise: Make, tmp_path: Path
) -> None:
    pipe = sd()
    base = noise(pipe)
    file = file_format.write(adapter(unet=lora(pipe.unet)), tmp_path / "file.safetensors")
    pipe.load_styleinject_weights(file.path)
    shown = noise(pipe)
    for twin in (copy.deepcopy(pipe), pickle.loads(pickle.dumps(pipe))):
        assert torch.equal(noise(twin), shown)
        saved = twin.save_styleinject_weights(tmp_path, weight_name="again.safetensors", overwrite=True)
        assert saved.path.read_bytes() == file.path.read_bytes()
        twin.unload_styleinject_weights()
        assert torch.equal(noise(twin), base)
        assert torch.equal(noise(pipe), shown)


def test_an_adapter_added_for_training_is_weighed_by_block(sd: Make, noise: Make, tmp_path: Path) -> None:
    from si_hub import StyleInjectConfig

    pipe, other = sd(), sd()
    config = StyleInjectConfig(r=2, target_modules=["to_q", "conv1", "linear_1"], init_weights=False)
    pipe.unet.add_adapter(config, "mine")
    plain, table = noise(pipe), {"unet": {"down": 0.5, "time_embedding": 0.0}}
    file = pipe.save_styleinject_weights(tmp_path, base_model="sd15").path
    pipe.set_styleinject_adapters("mine", table)
    other.load_styleinject_weights(file, weight=table)
    assert torch.equal(noise(pipe), noise(other))
    assert not torch.allclose(noise(pipe), plain, atol=1e-3)


@pytest.mark.parametrize("folder", ["x" * 300, "file/inner", "a\0b"])
def test_a_folder_that_cannot_be_is_an_error_of_ours(
    folder: str, sd: Make, lora: Make, adapter: Make, tmp_path: Path
) -> None:
    pipe = sd()
    (tmp_path / "file").touch()
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet)))
    with pytest.raises(FileAccessError):
        pipe.save_styleinject_weights(str(tmp_path / folder))


def test_a_name_that_is_too_long_is_an_error_of_ours_to_load_too(sd: Make) -> None:
    with pytest.raises(FileAccessError, match="File name too long"):
        sd().load_styleinject_weights("x" * 300)


@pytest.mark.parametrize("name", ["x.bin", "x.pt", "x", "x.safetensors.bin", ""])
def test_what_no_loader_would_open_is_not_written(name: str, sd: Make, tmp_path: Path) -> None:
    from si_hub import StyleInjectConfig

    pipe = sd()
    pipe.unet.add_adapter(StyleInjectConfig(r=2, target_modules=["to_q"]), "mine")
    with pytest.raises(UsageError, match=r"weight_name: .*\(expected a name that ends in \.safetensors, found"):
        pipe.save_styleinject_weights(tmp_path / "out", base_model="sd15", weight_name=name)
    assert not (tmp_path / "out").exists()
