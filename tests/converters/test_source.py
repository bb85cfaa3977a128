"""Opening what people name: files, folders, pickles."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from si_hub.converters import open_source
from si_hub.errors import AmbiguousFamily, FormatError, MissingFile, NotSafetensors, SiHubError, UnsupportedFamily

WriteArrays = Callable[..., Path]
PAIR = {"unet.a.lora_A.weight": np.ones((1, 2)), "unet.a.lora_B.weight": np.ones((2, 1))}


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "pytorch_lora_weights.safetensors", "mine.safetensors"])
def test_a_folder_stands_for_the_adapter_in_it(name: str, tmp_path: Path, write_arrays: WriteArrays) -> None:
    write_arrays(tmp_path / name, PAIR)
    write_arrays(tmp_path / "mine.styleinject.safetensors", PAIR)
    assert open_source(tmp_path).path == tmp_path / name


def test_a_folder_of_several_files_or_none_asks_which(tmp_path: Path, write_arrays: WriteArrays) -> None:
    with pytest.raises(MissingFile, match=r"no safetensors adapter.*adapter_model\.safetensors"):
        open_source(tmp_path)
    for name in "ab":
        write_arrays(tmp_path / f"{name}.safetensors", PAIR)
    with pytest.raises(AmbiguousFamily, match=r"several safetensors files.*a\.safetensors, b\.safetensors"):
        open_source(tmp_path)


def test_configurations_are_read_beside_the_file_and_in_its_header(tmp_path: Path, write_arrays: WriteArrays) -> None:
    inside = {"unet.r": 4, "unet.lora_alpha": 8, "text_encoder.r": 2}
    (tmp_path / "adapter_config.json").write_text('{"r": 16}', encoding="utf-8")
    metadata = {"lora_adapter_metadata": json.dumps(inside)}
    source = open_source(write_arrays(tmp_path / "adapter_model.safetensors", PAIR, metadata))
    assert source.configs == {"": {"r": 16}, "unet": {"r": 4, "lora_alpha": 8}, "text_encoder": {"r": 2}}


@pytest.mark.parametrize("text", ["[]", "{", '{"r": 1, "r": 2}'])
def test_a_broken_configuration_is_a_typed_error(text: str, tmp_path: Path, write_arrays: WriteArrays) -> None:
    file = write_arrays(tmp_path / "a.safetensors", PAIR, {"lora_adapter_metadata": text})
    with pytest.raises(FormatError, match="lora_adapter_metadata"):
        open_source(file)
    write_arrays(file, PAIR)
    (tmp_path / "adapter_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(FormatError, match=r"adapter_config\.json"):
        open_source(file)


def test_a_pickle_of_tensors_is_opened_when_it_is_named(tmp_path: Path) -> None:
    import torch

    torch.save({"state_dict": {name: torch.from_numpy(array) for name, array in PAIR.items()}}, tmp_path / "a.pt")
    source = open_source(tmp_path / "a.pt")
    assert {name: tensor.numpy().tolist() for name, tensor in source.tensors.items()} == {
        name: array.tolist() for name, array in PAIR.items()
    }
    with pytest.raises(MissingFile, match="only opened when it is named itself"):
        open_source(tmp_path)


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"a": Bomb(tmp_path / "exploded")}))
    with pytest.raises(UnsupportedFamily, match="pickle of more than tensors"):
        open_source(tmp_path / "a.pt")
    assert not (tmp_path / "exploded").exists()


def test_pickles_of_other_things_and_under_other_names_are_refused(tmp_path: Path) -> None:
    import torch

    torch.save({"epoch": 3}, tmp_path / "a.ckpt")
    with pytest.raises(UnsupportedFamily, match="without a plain table of tensors"):
        open_source(tmp_path / "a.ckpt")
    torch.save({name: torch.ones(1) for name in PAIR}, tmp_path / "a.safetensors")
    with pytest.raises(NotSafetensors, match="zip archive"):
        open_source(tmp_path / "a.safetensors")
    (tmp_path / "empty.pt").touch()
    with pytest.raises(NotSafetensors, match="is empty"):
        open_source(tmp_path / "empty.pt")


def test_a_styleinject_file_is_no_source(tmp_path: Path, write_arrays: WriteArrays) -> None:
    file = write_arrays(tmp_path / "a.safetensors", PAIR, {"styleinject": "{}"})
    with pytest.raises(UnsupportedFamily, match="is a StyleInject adapter already"):
        open_source(file)


def test_a_missing_file_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(SiHubError, match="no such file"):
        open_source(tmp_path / "missing.safetensors")
