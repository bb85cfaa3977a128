"""What a user names as the base model: a name has no weights; a folder, a checkpoint and a cached repository have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from si_hub.architectures import load
from si_hub.basemodel import find_base
from si_hub.distill.pair import opening as pair
from si_hub.distill.pair.model import ModelOnDisk
from si_hub.errors import MissingFile, UsageError
from tests.miniature import BASE, copy_base


def cache(folder: Path, name: str) -> str:
    """The miniature as the Hub's client keeps a repository, by its own layout."""
    commit = "a" * 40
    place = folder / f"models--{name.replace('/', '--')}"
    copy_base(place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit, encoding="ascii")
    return name


def test_a_name_has_no_weights() -> None:
    assert find_base("sdxl") == (load("sdxl"), None)
    assert find_base(None) == (None, None)
    assert find_base(load("sd15")) == (load("sd15"), None)


def test_a_folders_weights_are_those_of_its_files() -> None:
    architecture, weights = find_base(BASE)
    assert architecture is not None
    assert weights is not None
    [file] = (BASE / "unet").glob("*.safetensors")
    held = load_file(file)
    assert set(weights["unet"]) == set(held)
    assert torch.equal(weights["unet"]["conv_in.weight"].torch(), held["conv_in.weight"])
    assert all(name.startswith(("text_model.", "text_projection.")) for name in weights["text_encoder"])
    modules = architecture.components["unet"].modules
    named = {f"{path}.weight" for path, module in modules.items() if module.kind != "parameter"}
    assert named <= weights["unet"].keys()


def test_a_model_is_opened_once_and_when_its_weights_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def open_model(path: str) -> ModelOnDisk:
        opened.append(path)
        return pair.open_model(path)

    monkeypatch.setattr("si_hub.basemodel.open_model", open_model)
    _, weights = find_base(BASE)
    assert weights is not None
    assert opened == []
    assert weights["unet"]["conv_in.weight"].torch().shape == weights["unet"]["conv_in.weight"].shape
    assert opened == [str(BASE)]


def test_a_cached_repository_is_a_base_though_its_name_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    name = cache(tmp_path, "somebody/miniature")
    architecture, weights = find_base(name)
    assert architecture is not None
    assert weights is not None
    assert (
        weights["unet"]["conv_in.weight"].torch().shape[0]
        == architecture.components["unet"].modules["conv_in"].shape[0]
    )


@pytest.mark.parametrize(("base", "error"), [("nonsense", UsageError), ("no/such-repository", UsageError)])
def test_what_is_no_base_is_an_error(base: str, error: type[Exception]) -> None:
    with pytest.raises((error, MissingFile)):
        find_base(base)
