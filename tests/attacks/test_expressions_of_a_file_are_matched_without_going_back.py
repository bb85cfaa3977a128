"""Expressions in adapter_config.json of a model's adapter: a stranger's are followed, the user's own are PEFT's."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn

from si_hub.errors import FormatError
from si_hub.tuner import StyleInjectConfig
from tests.systems import posix_alone

SLOW = ".*" * 12 + "Z"
PATH = "transformer_blocks_of_a_model_with_long_names_as_they_often_are.attention.to_q"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        owner: nn.Module = self
        for name in PATH.split(".")[:-1]:
            owner.add_module(name, inner := nn.Module())
            owner = inner
        owner.add_module("to_q", nn.Linear(4, 4))


@contextmanager
def ended_after(seconds: int) -> Iterator[None]:
    """An error where the body takes longer."""

    def end(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"takes longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def write_config(folder: Path, **settings: Any) -> Path:
    get_peft_model(Net(), StyleInjectConfig(r=2, target_modules=["to_q"])).save_pretrained(str(folder))
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | settings), encoding="utf-8")
    return folder


@posix_alone
@pytest.mark.filterwarnings("ignore:You have passed exclude_modules")
@pytest.mark.parametrize(
    "settings",
    [{"alpha_pattern": {SLOW: 3}}, {"rank_pattern": {SLOW: 3}}, {"exclude_modules": SLOW}, {"target_modules": SLOW}],
)
def test_no_expression_of_a_file_holds_a_model_up(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = write_config(tmp_path, **settings)
    with ended_after(5):
        if "target_modules" in settings:
            with pytest.raises(ValueError, match="not found in the base model"):
                PeftModel.from_pretrained(Net(), str(folder))
        else:
            assert any(
                "styleinject" in name for name, _ in PeftModel.from_pretrained(Net(), str(folder)).named_modules()
            )


@pytest.mark.parametrize("settings", [{"layers_pattern": [SLOW]}, {"modules_to_save": [SLOW]}])
def test_what_peft_puts_into_expressions_is_a_name(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = write_config(tmp_path, **settings)
    for kind in (PeftConfig, StyleInjectConfig):
        with pytest.raises(FormatError, match=f"{next(iter(settings))}: is no module's name"):
            kind.from_pretrained(str(folder))


def test_a_file_that_keeps_its_type_to_itself_is_a_file(tmp_path: Path) -> None:
    folder = write_config(tmp_path, target_modules="(?!x).*to_q")
    file = folder / "adapter_config.json"
    config = {key: value for key, value in json.loads(file.read_bytes()).items() if key != "peft_type"}
    file.write_text(json.dumps(config), encoding="utf-8")
    config = StyleInjectConfig.from_pretrained(str(folder))
    with pytest.raises(FormatError, match=r"target_modules: an expression that is not understood"):
        get_peft_model(Net(), config)


@pytest.mark.parametrize("setting", ["target_modules", "exclude_modules"])
def test_the_users_own_expressions_look_around_as_pefts_do(setting: str) -> None:
    told: dict[str, Any] = {"target_modules": r"(?!.*norm).*\.to_[qk]$"}
    if setting == "exclude_modules":
        told = {"target_modules": "all-linear", "exclude_modules": r".*(?<!to_q)"}
    config = StyleInjectConfig(r=2, alpha_pattern={r"(?=.*attention).*to_q": 6.0}, **told)
    model = get_peft_model(Net(), config)
    [adapter] = [m for name, m in model.named_modules() if name.endswith("styleinject_layer.default")]
    assert adapter.alpha == 6.0
    assert torch.equal(torch.tensor(adapter.rank), torch.tensor(2))
