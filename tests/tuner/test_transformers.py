"""What transformers promises of adapters, held for ours: its own methods, on its own models."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model, inject_adapter_in_model
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from si_hub.errors import UsageError
from si_hub.pipelines.saving import collect_adapter
from si_hub.tuner import StyleInjectConfig


class Classifier(torch.nn.Module):
    """A text model with a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = build(), torch.nn.Linear(16, 3)

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.head(self.body(ids).last_hidden_state[:, 0])
        return found


def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier().eval()


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
    config = {**json.loads(file.read_bytes()), "base_model_name_or_path": str(tmp_path / "base")}
    file.write_text(json.dumps(config), encoding="utf-8")
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


def test_a_head_is_trained_whole_saved_and_loaded_beside_the_adapter(tmp_path: Path) -> None:
    base = classifier()(IDS).detach()
    model = get_peft_model(classifier(), config(transform="add", num_branches=1, modules_to_save=["head"]))
    assert {name for name, value in model.named_parameters() if value.requires_grad and "styleinject" not in name} == {
        "base_model.model.head.modules_to_save.default.weight", "base_model.model.head.modules_to_save.default.bias",
    }  # fmt: skip
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value += 0.1
    expected = model(IDS).detach()
    assert not torch.allclose(expected, base, atol=1e-2)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(classifier(), tmp_path)
    assert torch.equal(again(IDS), expected)
    with again.disable_adapter():
        assert torch.equal(again(IDS), base)
    merged = again.merge_and_unload()
    torch.testing.assert_close(merged(IDS), expected)
    assert set(merged.state_dict()) == set(classifier().state_dict())


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
@pytest.mark.parametrize("pattern", [None, "layers"])
def test_layers_are_chosen_by_number(pattern: str | None) -> None:
    model = get_peft_model(build(), config(layers_to_transform=[1], layers_pattern=pattern))
    adapted = {name.split(".styleinject")[0] for name, _ in model.named_parameters() if "styleinject" in name}
    assert adapted == {f"base_model.model.encoder.layers.1.{end}" for end in ("mlp.fc1", "self_attn.q_proj")}


def test_a_head_has_no_place_in_a_styleinject_file() -> None:
    model = classifier()
    inject_adapter_in_model(config(modules_to_save=["head"]), model, "mine")
    pipeline = SimpleNamespace(components={"unet": model})
    with pytest.raises(UsageError, match=r"unet: modules that are trained whole .*found head"):
        collect_adapter(pipeline, "mine", None, "sd15")
