"""The base that is trained on: found, or told why not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from si_hub.errors import CannotRun, MissingFile
from si_hub.training.base import base_folder, load_base
from tests.miniature import BASE, INK


def test_a_folder_is_itself_and_its_pipeline_is_frozen() -> None:
    assert base_folder(BASE) == BASE
    pipeline = load_base(BASE, torch.bfloat16)
    parameters = list(pipeline.unet.parameters())
    assert {value.dtype for value in parameters} == {torch.bfloat16}
    assert not any(value.requires_grad for value in parameters)
    assert not pipeline.unet.training


def test_a_repository_is_found_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingFile, match=r"no such repository in the local cache.*hf download user/base"):
        base_folder("user/base")
    commit = "0123456789" * 4
    (tmp_path / "models--user--base" / "refs").mkdir(parents=True)
    (tmp_path / "models--user--base" / "refs" / "main").write_text(commit, encoding="utf-8")
    folder = tmp_path / "models--user--base" / "snapshots" / commit
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text("{}", encoding="utf-8")
    assert base_folder("user/base") == folder


def test_what_is_no_pipeline_is_told(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match="no whole pipeline"):
        base_folder(INK)
    with pytest.raises(CannotRun, match="no whole pipeline"):
        base_folder(tmp_path)
    with pytest.raises(MissingFile, match="no such folder"):
        base_folder(tmp_path / "gone")
