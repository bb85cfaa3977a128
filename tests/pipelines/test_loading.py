"""Loading: what a user sees, and what a failure leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from si_hub import format as file_format
from si_hub.adapter import Adapter, Component
from si_hub.errors import BaseMismatch, NotFinite, UsageError

Build = Callable[..., Any]


def test_smoke(
    sd: Build, lora: Build, adapter: Build, noise: Build, words: Build, state: Build, same: Build, tmp_path: Path
) -> None:
    pipe = sd()
    before, base = state(pipe), noise(pipe)
    made = adapter(unet=lora(pipe.unet), text_encoder=lora(pipe.text_encoder, ("q_proj",), prefix="text_model."))
    written = file_format.write(made, tmp_path / "styleinject.safetensors")
    report = pipe.load_styleinject_weights(written.path)
    print(report)
    assert not torch.equal(noise(pipe), base)
    pipe.save_styleinject_weights(tmp_path / "again")
    assert (tmp_path / "again/styleinject.safetensors").read_bytes() == written.path.read_bytes()
    pipe.unload_styleinject_weights()
    assert torch.equal(noise(pipe), base)
    assert same(state(pipe), before)
