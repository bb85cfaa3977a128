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
from peft.helpers import disable_input_dtype_casting
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.save_and_load import get_base_model_state_dict, set_base_model_state_dict
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

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


def configure_nothing(configure: Configure) -> Any:
    config = configure()
    config.target_modules = None
    return config


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
def test_modules_are_those_of_a_lora_where_none_are_named(configure: Configure) -> None:
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    model = get_peft_model(LlamaForCausalLM(config), configure_nothing(configure))
    assert model.targeted_module_names == ["model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"]
    with pytest.raises(ValueError, match="Please specify `target_modules`"):
        get_peft_model(Net(), configure_nothing(configure))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"target_modules": ".*fc", "layers_to_transform": [0]}, "`layers_to_transform` cannot be used"),
        ({"target_modules": ".*fc", "layers_pattern": ["h"]}, "`layers_pattern` cannot be used"),
        ({"target_modules": ["fc"], "layers_pattern": ["h"]}, "`layers_to_transform` must also be specified"),
    ],
)
@pytest.mark.parametrize("cls", [LoraConfig, StyleInjectConfig])
def test_layers_cannot_be_chosen_twice(cls: Any, words: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        cls(**words)


def test_what_is_trained_stays_so_when_others_come(configure: Configure, tmp_path: Path) -> None:
    get_peft_model(Net(), configure("fc")).save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(Net(), tmp_path, is_trainable=True)
    model.load_adapter(tmp_path, "frozen")
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained
    assert all(".default" in name for name in trained)
    model.load_adapter(tmp_path, "trained", is_trainable=True)
    both = {name for name, value in model.named_parameters() if value.requires_grad}
    assert both == trained | {name.replace(".default", ".trained") for name in trained}


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_an_adapter_is_begun_anew_with_a_warning(configure: Configure) -> None:
    net = Net()
    before = get_peft_model(net, configure("fc"))(X)
    torch.manual_seed(3)
    with pytest.warns(UserWarning, match="modify a model with PEFT for a second time"):
        again = get_peft_model(net, configure("fc"))
    assert not torch.allclose(again(X), before)
    assert get_model_status(again).available_adapters == ["default"]


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`", "ignore:You are trying to modify a model")
def test_an_adapter_that_cannot_be_begun_anew_stays_as_it_was() -> None:
    net = Net()
    model = get_peft_model(net, _ours("fc"))
    before = model(X)
    with pytest.raises(ValueError, match="not found in the base model"):
        get_peft_model(net, _ours("nothing"))
    assert torch.equal(model(X), before)
    model.merge_adapter()
    with (
        pytest.warns(UserWarning, match="second time"),
        pytest.raises(UsageError, match="default: the adapter is merged"),
    ):
        get_peft_model(net, _ours("fc"))
    model.unmerge_adapter()
    assert torch.equal(model(X), before)


def test_every_adapted_layer_is_a_dictionary_of_its_adapters(configure: Configure) -> None:
    model = get_peft_model(Net(), configure("fc", "out"))
    model.add_adapter("more", configure("out"))
    shelves = [module for module in model.modules() if isinstance(module, nn.ModuleDict) and "default" in module]
    assert len(shelves) >= 2
    assert sum("more" in shelf for shelf in shelves) == len(shelves) // 2


def test_nothing_of_a_deleted_adapter_is_left_in_what_peft_was_given(configure: Configure) -> None:
    model = get_peft_model(Net(), configure("fc"))
    layer = next(module for module in model.modules() if isinstance(module, BaseTunerLayer))
    given = [getattr(layer, name) for name in layer.adapter_layer_names]
    assert any("default" in adapters for adapters in given)
    model.delete_adapter("default")
    assert not any("default" in adapters for adapters in given)


def test_inputs_are_left_alone_where_hooks_cast_the_weights(configure: Configure) -> None:
    model = get_peft_model(Net(), configure("fc")).half()

    def cast(dtype: torch.dtype) -> Callable[..., None]:
        def hook(module: nn.Module, *_: Any) -> None:
            for value in module.parameters(recurse=False):
                value.data = value.data.to(dtype)

        return hook

    for module in model.modules():
        module.register_forward_pre_hook(cast(torch.float32))
        module.register_forward_hook(cast(torch.float16))
    with disable_input_dtype_casting(model, active=True):
        assert model(X).dtype == torch.float32
    with pytest.raises(RuntimeError, match="dtype"):
        model(X)
