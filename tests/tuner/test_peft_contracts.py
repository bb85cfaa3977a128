"""What PEFT does for a LoRA, done for ours: each test runs on both, the LoRA being what is expected."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, PeftModel, get_model_status, get_peft_model, inject_adapter_in_model
from peft.utils.save_and_load import get_base_model_state_dict, set_base_model_state_dict
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from si_hub.errors import UsageError
from si_hub.tuner import StyleInjectConfig
from si_hub.tuner.door import find_door

Configure = Callable[..., Any]


def _lora(*targets: str) -> LoraConfig:
    return LoraConfig(r=2, target_modules=list(targets), init_lora_weights=False)


def _ours(*targets: str) -> StyleInjectConfig:
    return StyleInjectConfig(r=2, transform="add", target_modules=list(targets), init_weights=False)


@pytest.fixture(params=[_lora, _ours], ids=["LoRA", "StyleInject"])
def configure(request: pytest.FixtureRequest) -> Configure:
    found: Configure = request.param
    return found


class Net(nn.Module):
    """Two linear layers, always the same."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.out = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.out(torch.relu(self.fc(x)))
        return found


X = torch.linspace(-1, 1, 18).reshape(3, 6)


def test_the_base_s_state_comes_and_goes_under_its_own_names(configure: Configure) -> None:
    model = get_peft_model(Net(), configure("fc"))
    state = get_base_model_state_dict(model)
    assert list(state) == list(Net().state_dict())
    wanted = {name: value + 1 for name, value in Net().state_dict().items()}
    found = set_base_model_state_dict(model, wanted)
    assert (found.missing_keys, found.unexpected_keys) == ([], [])
    assert all(torch.equal(value, wanted[name]) for name, value in get_base_model_state_dict(model).items())


def test_status_says_what_is_trained_where(configure: Configure) -> None:
    model = get_peft_model(Net(), configure("fc"))
    status = get_model_status(model)
    assert (status.enabled, status.active_adapters, status.merged_adapters) == (True, ["default"], [])
    assert (status.requires_grad, status.devices) == ({"default": True}, {"default": ["cpu"]})
    assert (status.trainable_params, status.available_adapters) == (24, ["default"])
    model.merge_adapter()
    assert get_model_status(model).merged_adapters == ["default"]
    model.unmerge_adapter()
    model.base_model.set_adapter("default", inference_mode=True)
    assert get_model_status(model).requires_grad == {"default": False}


@torch.no_grad()
def test_what_is_merged_and_then_disabled_is_the_base(configure: Configure) -> None:
    model = get_peft_model(Net(), configure("fc"))
    acting = model(X)
    model.merge_adapter()
    torch.testing.assert_close(model(X), acting)
    with model.disable_adapter():
        torch.testing.assert_close(model(X), Net()(X))
    torch.testing.assert_close(model(X), acting)
    assert get_model_status(model).merged_adapters == []


def test_merging_a_second_time_warns(configure: Configure) -> None:
    model = get_peft_model(Net(), configure("fc"))
    model.add_adapter("more", configure("fc"))
    model.merge_adapter()
    with pytest.warns(UserWarning, match="All adapters are already merged"):
        model.merge_adapter()
    with pytest.warns(UserWarning, match="additionally merging more"):
        model.merge_adapter(["default", "more"])


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_merging_a_tied_layer_warns(configure: Configure) -> None:
    config = GPT2Config(vocab_size=16, n_embd=8, n_layer=1, n_head=2, n_positions=8, bos_token_id=0, eos_token_id=1)
    with pytest.warns(UserWarning, match="tie_word_embeddings=True"):
        model = get_peft_model(GPT2LMHeadModel(config), configure("lm_head"))
    with pytest.warns(UserWarning, match="tied_target_modules"):
        model.merge_adapter()


@pytest.mark.parametrize("wrapped", [True, False])
def test_layers_are_made_without_memory_and_filled_from_a_file(
    wrapped: bool, configure: Configure, tmp_path: Path
) -> None:
    trained = get_peft_model(Net(), configure("fc"))
    trained.save_pretrained(tmp_path)
    base = Net()
    if wrapped:
        get_peft_model(base, configure("fc"), low_cpu_mem_usage=True)
    else:
        inject_adapter_in_model(configure("fc"), base, low_cpu_mem_usage=True)
    guests = {p.device.type for name, p in base.named_parameters() if "lora_" in name or "styleinject" in name}
    assert guests == {"meta"}
    again = PeftModel.from_pretrained(Net(), tmp_path, low_cpu_mem_usage=True)
    assert {value.device.type for value in again.parameters()} == {"cpu"}
    assert torch.equal(again(X), trained(X))


def unet() -> Any:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, sample_size=8, cross_attention_dim=8, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), norm_num_groups=4,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()  # fmt: skip


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_deleting_the_active_adapter_makes_another_active(configure: Configure) -> None:
    model = unet()
    model.add_adapter(configure("to_q"), "a")
    model.add_adapter(configure("to_q"), "b")
    with pytest.warns(UserWarning, match="Adapter b was active which is now deleted. Setting active adapter to a"):
        model.delete_adapters("b")
    assert model.active_adapters() == ["a"]
    assert any(value.requires_grad for value in model.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.delete_adapters("a")
    assert not hasattr(model, "peft_config")


def test_deleting_a_merged_adapter_of_ours_gives_the_base_back() -> None:
    model = unet()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.add_adapter(_ours("to_q"), "a")
    door = find_door(model)
    assert door is not None
    door.merge(adapter_names=["a"])
    model.delete_adapters("a")
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_one_adapter_per_instance_is_an_error_not_silence() -> None:
    model = get_peft_model(Net(), _ours("fc"))
    with pytest.raises(UsageError, match="adapter_names: one adapter per instance"):
        model(X, adapter_names=["default", "__base__", "default"])
