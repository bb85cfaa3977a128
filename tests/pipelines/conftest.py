"""Tiny pipelines from a seed, and adapters for them by hand: nothing is downloaded."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import si_hub
from si_hub.adapter import Adapter, BaseModel, Component, Layer
from si_hub.storage.tensors import Tensor

LETTERS = "abcdefghijklmnopqrstuvwxyz<>*_0123456789"
WIDTH = 24


@pytest.fixture(scope="session", autouse=True)
def _enabled() -> None:
    torch.set_num_threads(1)
    si_hub.enable()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def _tokenizer() -> Any:
    words = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[], model_max_length=16)


def _text_config(tokenizer: Any, **options: Any) -> Any:
    return CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, **options,
    )  # fmt: skip


def _vae() -> Any:
    return AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, layers_per_block=1, sample_size=16,
    )  # fmt: skip


def _scheduler() -> Any:
    return DDIMScheduler(steps_offset=1, clip_sample=False)


@pytest.fixture
def sd() -> Callable[[], Any]:
    """Build a StableDiffusionPipeline: UNet of two levels, CLIP of two layers, every weight from seed 0."""

    def build() -> Any:
        torch.manual_seed(0)
        tokenizer = _tokenizer()
        unet = UNet2DConditionModel(
            block_out_channels=(16, 32), layers_per_block=2, sample_size=8, cross_attention_dim=WIDTH,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), norm_num_groups=8, attention_head_dim=8,
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        )  # fmt: skip
        pipe = StableDiffusionPipeline(
            vae=_vae(), text_encoder=CLIPTextModel(_text_config(tokenizer)), tokenizer=tokenizer, unet=unet,
            scheduler=_scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
        return _ready(pipe)

    return build


@pytest.fixture
def sdxl() -> Callable[[], Any]:
    """Build a StableDiffusionXLPipeline with two text encoders, every weight from seed 0."""

    def build() -> Any:
        torch.manual_seed(0)
        tokenizer = _tokenizer()
        unet = UNet2DConditionModel(
            block_out_channels=(16, 32), layers_per_block=2, sample_size=8, cross_attention_dim=2 * WIDTH,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), norm_num_groups=8, attention_head_dim=(2, 4),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 2),
            use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + WIDTH,
        )  # fmt: skip
        pipe = StableDiffusionXLPipeline(
            vae=_vae(), text_encoder=CLIPTextModel(_text_config(tokenizer)), tokenizer=tokenizer, unet=unet,
            text_encoder_2=CLIPTextModelWithProjection(_text_config(tokenizer, projection_dim=WIDTH)),
            tokenizer_2=_tokenizer(), scheduler=_scheduler(), add_watermarker=False,
        )  # fmt: skip
        return _ready(pipe)

    return build


def _ready(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    for model in pipe.components.values():
        if isinstance(model, nn.Module):
            model.eval()
    return pipe


@pytest.fixture
def noise() -> Callable[..., torch.Tensor]:
    """The UNet's output for fixed inputs, `[2, 4, 8, 8]`."""

    def run(pipe: Any, **options: Any) -> torch.Tensor:
        draw = torch.Generator().manual_seed(1)
        unet = pipe.unet
        latents = torch.randn(2, 4, 8, 8, generator=draw).to(unet.dtype)
        states = torch.randn(2, 16, unet.config.cross_attention_dim, generator=draw).to(unet.dtype)
        if unet.config.addition_embed_type == "text_time":
            options["added_cond_kwargs"] = {
                "text_embeds": torch.randn(2, WIDTH, generator=draw).to(unet.dtype),
                "time_ids": torch.ones(2, 6).to(unet.dtype),
            }
        with torch.no_grad():
            return unet(latents, torch.tensor([10, 500]), states, **options).sample  # type: ignore[no-any-return]

    return run


@pytest.fixture
def words() -> Callable[..., torch.Tensor]:
    """A text encoder's last hidden state for fixed tokens, `[1, 16, 24]`."""

    def run(pipe: Any, component: str = "text_encoder") -> torch.Tensor:
        encoder = getattr(pipe, component)
        with torch.no_grad():
            return encoder(torch.arange(16)[None] % 40).last_hidden_state  # type: ignore[no-any-return]

    return run


@pytest.fixture
def state() -> Callable[[Any], dict[str, torch.Tensor]]:
    """A copy of every tensor of every model of a pipeline, by name: what "exactly as before" is compared with."""

    def read(pipe: Any) -> dict[str, torch.Tensor]:
        return {
            f"{component}.{key}": value.detach().clone()
            for component, model in pipe.components.items()
            if isinstance(model, nn.Module)
            for key, value in model.state_dict().items()
        }

    return read


@pytest.fixture
def same() -> Callable[[dict[str, torch.Tensor], dict[str, torch.Tensor]], bool]:
    def compare(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
        return list(left) == list(right) and all(torch.equal(left[key], right[key]) for key in left)

    return compare


@pytest.fixture
def lora() -> Callable[..., Component]:
    """A Component with a low-rank pair (n branches, a fixed router of zeros where n > 1) for modules of a model."""

    def build(
        model: nn.Module, ends: tuple[str, ...] = ("to_q", "to_v"), rank: int = 2, alpha: float | None = 1.0,
        seed: int = 0, branches: int = 1, size: float = 0.3, dtype: torch.dtype = torch.float32, prefix: str = "",
    ) -> Component:  # fmt: skip
        draw = torch.Generator().manual_seed(seed)
        layers = {}
        for path, module in model.named_modules():
            if not path.endswith(ends) or not isinstance(module, nn.Linear | nn.Conv2d):
                continue
            out, kernel = module.weight.shape[0], tuple(module.weight.shape[2:])
            fan_in = math.prod(module.weight.shape[1:])
            down = torch.randn(branches * rank, *module.weight.shape[1:], generator=draw) / math.sqrt(fan_in)
            up = size * torch.randn(out, rank, *(1,) * len(kernel), generator=draw)
            tensors = {"down.weight": down, "up.weight": up.reshape(out, rank)}
            if branches > 1:
                tensors["router.bias"] = torch.zeros(branches)
            layers[prefix + path] = Layer({k: Tensor.from_torch(v.to(dtype)) for k, v in tensors.items()}, alpha=alpha)
        assert layers, f"no module ends in {ends}"
        return Component(type(model).__name__, layers)

    return build


@pytest.fixture
def adapter() -> Callable[..., Adapter]:
    def build(branches: tuple[str, ...] = (), **components: Component) -> Adapter:
        return Adapter(BaseModel("sd15"), components, branches, {"title": "test"})

    return build


@pytest.fixture
def latents() -> Callable[..., torch.Tensor]:
    """Two steps of the whole pipeline from fixed noise, `[1, 4, 8, 8]`."""

    def run(pipe: Any, prompt: str = "ink cat", **options: Any) -> torch.Tensor:
        draw = torch.Generator().manual_seed(2)
        out = pipe(prompt, height=16, width=16, num_inference_steps=2, generator=draw, output_type="latent", **options)
        return out.images  # type: ignore[no-any-return]

    return run


@pytest.fixture
def as_lora() -> Callable[..., dict[str, torch.Tensor]]:
    """A diffusers LoRA state dict with the numbers of a Component, by hand: `unet.{path}.lora_A.weight` ..."""

    def build(component: Component, name: str) -> dict[str, torch.Tensor]:
        found = {}
        for path, layer in component.layers.items():
            down, up = layer.tensors["down.weight"].torch(), layer.tensors["up.weight"].torch()
            up = up.reshape(*up.shape, *(1,) * (down.ndim - 2))
            found[f"{name}.{path}.lora_A.weight"] = down.clone()
            found[f"{name}.{path}.lora_B.weight"] = up * layer.scale
        return found

    return build


@pytest.fixture
def as_kohya() -> Callable[..., dict[str, torch.Tensor]]:
    """A kohya LoRA state dict with the numbers of a Component, by hand: `lora_unet_{flat path}.lora_down.weight` ..."""

    def build(component: Component, prefix: str) -> dict[str, torch.Tensor]:
        found = {}
        for path, layer in component.layers.items():
            down, up = layer.tensors["down.weight"].torch(), layer.tensors["up.weight"].torch()
            stem = f"{prefix}_{path.replace('.', '_')}"
            found[f"{stem}.lora_down.weight"] = down.clone()
            found[f"{stem}.lora_up.weight"] = up.reshape(*up.shape, *(1,) * (down.ndim - 2)).clone()
            found[f"{stem}.alpha"] = torch.tensor(layer.alpha)
        return found

    return build


@pytest.fixture
def merged() -> Callable[..., nn.Module]:
    """A float64 copy of a model with the low-rank pairs of a Component in its weights: W + w · alpha/rank · B A."""

    def build(model: nn.Module, component: Component, weight: float | Callable[[str], float] = 1.0) -> nn.Module:
        twin = copy.deepcopy(model).double()
        modules = dict(twin.named_modules())
        with torch.no_grad():
            for path, layer in component.layers.items():
                module = modules.get(path) or modules[path.removeprefix("text_model.")]
                down, up = (layer.tensors[leaf].torch().double() for leaf in ("down.weight", "up.weight"))
                alpha = up.shape[1] if layer.alpha is None else layer.alpha
                delta = (up @ down.flatten(1)).reshape(module.weight.shape) * alpha / up.shape[1]
                module.weight += delta * (weight(path) if callable(weight) else weight)
        return twin

    return build


@pytest.fixture
def error() -> Callable[[torch.Tensor, torch.Tensor], float]:
    """‖a − b‖ / ‖b‖ in float64."""

    def measure(found: torch.Tensor, expected: torch.Tensor) -> float:
        return float((found.double() - expected.double()).norm() / expected.double().norm())

    return measure
