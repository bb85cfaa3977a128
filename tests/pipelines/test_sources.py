"""What may be loaded: files, folders, repositories, tensors; and what is said where it cannot be."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from si_hub import format as file_format
from si_hub.adapter import Adapter, BaseModel, Component, Layer
from si_hub.errors import MissingFile, NotSafetensors, NotStyleInject, SiHubError, UsageError
from si_hub.pipelines import sources
from si_hub.pipelines.sources import Fetch
from si_hub.storage.tensors import Tensor
from tests.miniature import KOHYA_LORA

Make = Callable[..., Any]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def small() -> Adapter:
    layer = Layer(
        {"down.weight": Tensor.from_torch(torch.ones(2, 6)), "up.weight": Tensor.from_torch(torch.ones(5, 2))},
        alpha=1.0,
    )
    return Adapter(BaseModel("sd15"), {"unet": Component("UNet2DConditionModel", {"conv": layer})})


@pytest.fixture
def cache(tmp_path: Path, small: Adapter) -> Path:
    """A Hub cache with user/style: its main and its tag v1, each a commit of one file."""
    repository = tmp_path / "cache" / "models--user--style"
    for revision, commit in (("main", COMMIT), ("v1", COMMIT[::-1])):
        (repository / "refs").mkdir(parents=True, exist_ok=True)
        (repository / "refs" / revision).write_text(commit, encoding="utf-8")
        (repository / "snapshots" / commit).mkdir(parents=True)
        file_format.write(small, repository / "snapshots" / commit / "ink.safetensors")
    return tmp_path / "cache"


def offline(cache: Path, **options: Any) -> Fetch:
    return Fetch(cache_dir=cache, local_files_only=True, **options)


def test_a_file_is_itself_and_a_home_folder_is_expanded(
    tmp_path: Path, small: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_format.write(small, tmp_path / "ink.safetensors")
    monkeypatch.setenv("HOME", str(tmp_path))
    for source in (tmp_path / "ink.safetensors", str(tmp_path / "ink.safetensors"), "~/ink.safetensors"):
        assert sources.locate_adapter(source, Fetch()) == tmp_path / "ink.safetensors"


def test_in_a_folder_the_default_name_wins_over_others(tmp_path: Path, small: Adapter) -> None:
    for name in ("a.safetensors", "styleinject.safetensors"):
        file_format.write(small, tmp_path / name)
    assert sources.locate_adapter(tmp_path, Fetch()).name == "styleinject.safetensors"
    assert sources.locate_adapter(tmp_path, Fetch(weight_name="a.safetensors")).name == "a.safetensors"


def test_the_only_styleinject_file_among_foreign_and_broken_ones_is_found(tmp_path: Path, small: Adapter) -> None:
    (tmp_path / "sub").mkdir()
    file_format.write(small, tmp_path / "sub" / "ink.safetensors")
    save_file({"lora_unet_x.alpha": torch.ones(())}, tmp_path / "sub" / "foreign.safetensors")
    (tmp_path / "sub" / "broken.safetensors").write_bytes(b"nonsense")
    assert sources.locate_adapter(tmp_path, Fetch(subfolder="sub")).name == "ink.safetensors"


def test_several_adapters_in_a_folder_are_listed(tmp_path: Path, small: Adapter) -> None:
    for name in ("neon.safetensors", "ink.safetensors"):
        file_format.write(small, tmp_path / name)
    with pytest.raises(UsageError, match=r"several adapters.*ink\.safetensors, neon\.safetensors.*weight_name="):
        sources.locate_adapter(tmp_path, Fetch())


def test_a_foreign_file_and_a_folder_of_foreign_files_show_the_convert_command(tmp_path: Path) -> None:
    foreign = tmp_path / "lora.safetensors"
    save_file({"lora_unet_x.lora_up.weight": torch.ones(2, 2)}, foreign)
    with pytest.raises(NotStyleInject, match=rf"si_hub\.convert\('{foreign}'\)"):
        sources.locate_adapter(tmp_path, Fetch())
    with pytest.raises(NotStyleInject, match=rf"si_hub\.convert\('{foreign}'\)"):
        sources.adapter_from(foreign, Fetch())


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    for name in ("lora.bin", "lora.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UsageError, match="a pickle can run any code"):
        sources.adapter_from(tmp_path, Fetch(weight_name="lora.bin"))
    for name in ("lora.bin", "lora.safetensors"):
        with pytest.raises(NotSafetensors):
            sources.adapter_from(tmp_path / name, Fetch())
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("source", ["./nowhere", "/no/where/at/all", "gone.safetensors", "a/b/c"])
def test_a_path_that_is_not_there_is_said_so_and_never_asked_of_the_hub(source: str) -> None:
    with pytest.raises(MissingFile, match="no such file or folder"):
        sources.locate_adapter(source, Fetch())


def test_an_empty_folder_and_a_missing_weight_name_are_errors(tmp_path: Path, small: Adapter) -> None:
    with pytest.raises(MissingFile, match="holds no safetensors file"):
        sources.locate_adapter(tmp_path, Fetch())
    with pytest.raises(MissingFile, match="holds no safetensors file"):
        sources.locate_adapter(tmp_path, Fetch(subfolder="gone"))
    file_format.write(small, tmp_path / "ink.safetensors")
    with pytest.raises(MissingFile, match=r"neon\.safetensors: no such file \(found ink\.safetensors\)"):
        sources.locate_adapter(tmp_path, Fetch(weight_name="neon.safetensors"))


@pytest.mark.parametrize("source", [3, None, ["a"]])
def test_a_source_of_another_kind_is_an_error(source: object) -> None:
    with pytest.raises(UsageError, match=f"found {type(source).__name__}"):
        sources.adapter_from(source, Fetch())


# Repositories.


def test_a_cached_repository_is_found_by_branch_tag_and_commit_without_a_network(cache: Path) -> None:
    for revision, commit in ((None, COMMIT), ("main", COMMIT), ("v1", COMMIT[::-1]), (COMMIT[::-1], COMMIT[::-1])):
        found = sources.locate_adapter("user/style", offline(cache, revision=revision))
        assert found == cache / "models--user--style" / "snapshots" / commit / "ink.safetensors"


@pytest.mark.parametrize(("repo", "revision"), [("user/other", None), ("user/style", "v2"), ("style", None)])
def test_what_is_not_cached_is_said_so(cache: Path, repo: str, revision: str | None) -> None:
    with pytest.raises(
        MissingFile, match=rf"not in the cache, and downloading is switched off.*si_hub\.pull\('{repo}(@v2)?'\)"
    ):
        sources.locate_adapter(repo, offline(cache, revision=revision))


def test_hf_hub_offline_asks_nobody(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert sources.locate_adapter("user/style", Fetch(cache_dir=cache)).name == "ink.safetensors"


@given(st.text(max_size=20))
def test_any_text_gives_a_path_or_a_typed_error(text: str) -> None:
    try:
        found = sources.locate_adapter(text, Fetch(cache_dir="nowhere", local_files_only=True))
    except SiHubError:
        return
    assert found.is_file()


# Tables of tensors.


def test_a_state_dict_loads_as_the_file_it_came_from(
    sd: Make, lora: Make, adapter: Make, noise: Make, tmp_path: Path
) -> None:
    pipe = sd()
    file = file_format.write(adapter(unet=lora(pipe.unet)), tmp_path / "styleinject.safetensors")
    pipe.load_styleinject_weights(file.path)
    shown = noise(pipe)
    tensors = StableDiffusionPipeline.styleinject_state_dict(tmp_path)
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
    assert "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.up.weight" in tensors
    for number, options in enumerate(({}, {"metadata": tensors.metadata})):
        source = dict(tensors) if options else tensors
        pipe.load_styleinject_weights(source, f"again{number}", **options)
        assert torch.equal(noise(pipe), shown)
    saved = pipe.save_styleinject_weights(tmp_path / "saved", "again0")
    assert saved.path.read_bytes() == file.path.read_bytes()


def test_a_table_without_its_document_is_an_error_that_says_how_to_pass_it(
    sd: Make, lora: Make, adapter: Make, tmp_path: Path
) -> None:
    file = file_format.write(adapter(unet=lora(sd().unet)), tmp_path / "styleinject.safetensors")
    tensors = StableDiffusionPipeline.styleinject_state_dict(file.path)
    with pytest.raises(NotStyleInject, match=r"the table of tensors.*metadata="):
        sd().load_styleinject_weights(dict(tensors))
    with pytest.raises(UsageError, match="metadata goes with a table of tensors"):
        sd().load_styleinject_weights(file.path, metadata=tensors.metadata)
    with pytest.raises(UsageError, match=r"odd: a table of tensors holds something else.*found int"):
        sd().load_styleinject_weights({**tensors, "odd": 3}, metadata=tensors.metadata)
    assert StableDiffusionPipeline.styleinject_state_dict(tensors).metadata == tensors.metadata
    with pytest.raises(UsageError, match="found int"):
        StableDiffusionPipeline.styleinject_state_dict(3)


def test_an_empty_base_is_an_error_and_not_the_current_folder(small: Adapter) -> None:
    for source in (KOHYA_LORA, small):
        with pytest.raises(UsageError, match="convert: the base model's name is empty"):
            sources.adapter_from(source, Fetch(), convert="")
