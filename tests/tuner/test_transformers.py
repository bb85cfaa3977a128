"""What transformers promises of adapters, held for ours: its own methods, on its own models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from si_hub.tuner import StyleInjectConfig

IDS = torch.arange(6)[None]


def build() -> Any:
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=8, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return CLIPTextModel(config).eval()


def config(**fields: Any) -> StyleInjectConfig:
    known = {"r": 2, "num_branches": 3, "target_modules": ["q_proj", "fc1"], "init_weights": False}
    return StyleInjectConfig(**{**known, **fields})


@torch.no_grad()
def run(model: Any) -> Tensor:
    found: Tensor = model(IDS).last_hidden_state
    return found


@pytest.fixture
def trained() -> Any:
    model = build()
    model.add_adapter(config(), "mine")
    assert not torch.allclose(run(model), run(build()), atol=1e-3)
    return model


def test_what_save_pretrained_wrote_load_adapter_reads(trained: Any, tmp_path: Path) -> None:
    trained.save_pretrained(tmp_path)
    again = build()
    info = again.load_adapter(str(tmp_path), adapter_name="other")
    assert (info.missing_keys, info.unexpected_keys) == (set(), set())
    assert torch.equal(run(again), run(trained))


def test_what_save_pretrained_wrote_from_pretrained_reads(trained: Any, tmp_path: Path) -> None:
    build().save_pretrained(tmp_path / "base")
    trained.save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": str(tmp_path / "base")}))
    again = CLIPTextModel.from_pretrained(tmp_path / "adapter")
    assert torch.equal(run(again), run(trained))


def test_a_state_dict_goes_from_one_model_to_another(trained: Any) -> None:
    again = build()
    again.load_adapter(peft_config=config(), adapter_state_dict=trained.get_adapter_state_dict("mine"))
    assert torch.equal(run(again), run(trained))


def test_one_of_several_adapters_is_saved(trained: Any, tmp_path: Path) -> None:
    expected = run(trained)
    torch.manual_seed(1)
    with pytest.warns(UserWarning, match="Already found a `peft_config`"):
        trained.add_adapter(config(), "second")
    assert not torch.equal(run(trained), expected)
    trained.set_adapter("mine")
    assert torch.equal(run(trained), expected)
    trained.save_pretrained(tmp_path)
    stem = "base_model.model.encoder.layers.0.self_attn.q_proj.styleinject_layer"
    assert f"{stem}.down.weight" in load_file(tmp_path / "adapter_model.safetensors")
    again = build()
    again.load_adapter(str(tmp_path))
    assert torch.equal(run(again), expected)
