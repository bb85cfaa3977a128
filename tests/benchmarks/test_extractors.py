"""The peers' extractions as the distillation's table measures them: what they keep, and what goes into the model."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.extractors import EXTRACTORS, KOHYA_PREFIXES, kohya, put_in, truncated_and_clamped
from examples.miniature.checkpoints import HERE


def new_pipe() -> Any:
    """The smallest U-Net and text encoder with every kind of module that the peers look at."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=16, attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=8,
    )  # fmt: skip
    config = CLIPTextConfig(vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                            num_attention_heads=2, bos_token_id=0, eos_token_id=1)  # fmt: skip
    return SimpleNamespace(unet=unet.eval(), text_encoder=CLIPTextModel(config).eval())


@torch.no_grad()
def tuned_from(base: Any, text_change: float = 0.1) -> Any:
    torch.manual_seed(1)
    tuned = copy.deepcopy(base)
    for component, size in (("unet", 0.02), ("text_encoder", text_change)):
        for parameter in getattr(tuned, component).parameters():
            parameter += size * torch.randn_like(parameter)
    return tuned


def product(tensors: dict[str, torch.Tensor], stem: str) -> torch.Tensor:
    """A module's weight difference as its file's keys say, ``[out, in, *kernel]`` in float64."""
    held = {
        key.removeprefix(f"{stem}."): value.double() for key, value in tensors.items() if key.startswith(f"{stem}.")
    }
    if "diff" in held:
        return held["diff"]
    up, down = held["lora_up.weight"].flatten(1), held["lora_down.weight"]
    scale = held["alpha"].item() / up.shape[1]
    if "lora_mid.weight" in held:
        return scale * torch.einsum("oa,abhw,bi->oihw", up, held["lora_mid.weight"], down.flatten(1))
    return scale * torch.einsum("or,r...->o...", up, down)


@pytest.mark.parametrize("method", EXTRACTORS)
def test_a_file_changes_a_model_by_exactly_what_it_says(method: str) -> None:
    base, student = new_pipe(), new_pipe()
    tensors = EXTRACTORS[method](base, tuned_from(base), 2)
    put_in(student, tensors)
    stems = {key.split(".")[0] for key in tensors}
    for component, prefix in KOHYA_PREFIXES.items():
        before = dict(getattr(base, component).named_modules())
        for path, module in getattr(student, component).named_modules():
            if isinstance(getattr(module, "weight", None), torch.Tensor):
                stem = f"{prefix}_{path.replace('.', '_')}"
                change = module.weight.double() - before[path].weight.double()
                expected = product(tensors, stem) if stem in stems else torch.zeros((), dtype=torch.float64)
                assert torch.allclose(change, expected.expand_as(change), atol=1e-5), path
                stems.discard(stem)
    assert not stems


@pytest.mark.parametrize(
    ("family", "prefixes"),
    [
        ("sdxl", {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}),
        ("dit", {"transformer": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}),
    ],
)
def test_so_do_files_of_lycoris_for_other_bases(family: str, prefixes: dict[str, str]) -> None:
    base, student = (DiffusionPipeline.from_pretrained(HERE / family) for _ in range(2))
    tuned = DiffusionPipeline.from_pretrained(HERE / family)
    with torch.no_grad():
        for component in prefixes:
            for parameter in getattr(tuned, component).parameters():
                parameter += 0.02 * torch.randn_like(parameter)
    tensors = EXTRACTORS["lycoris"](base, tuned, 2)
    put_in(student, tensors)
    stems = {key.split(".")[0] for key in tensors}
    for component, prefix in prefixes.items():
        before = dict(getattr(base, component).named_modules())
        found = 0
        for path, module in getattr(student, component).named_modules():
            stem = f"{prefix}_{path.replace('.', '_')}"
            if stem in stems:
                change = module.weight.double() - before[path].weight.double()
                assert torch.allclose(change, product(tensors, stem).expand_as(change), atol=1e-5), path
                stems.discard(stem)
                found += 1
        assert found
    assert not stems


@pytest.mark.parametrize("shape", [(24, 16), (24, 4, 3, 3)])
def test_kohyas_factors_are_the_truncated_svd_cut_at_the_quantile_of_their_entries(shape: tuple[int, ...]) -> None:
    torch.manual_seed(2)
    change = torch.randn(shape)
    left, values, right = (part.numpy() for part in torch.linalg.svd(change.flatten(1).double()))
    factors = left[:, :3] * values[:3], right[:3]
    limit = np.quantile(np.concatenate([factor.ravel() for factor in factors]), 0.99)
    assert max(abs(factor).max() for factor in factors) > limit
    expected = np.matmul(*(factor.clip(-limit, limit) for factor in factors))
    up, down = truncated_and_clamped(change, 3)
    assert up.shape == (24, 3, *([1, 1] if len(shape) == 4 else []))
    assert down.shape == (3, *shape[1:])
    np.testing.assert_allclose((up.flatten(1) @ down.flatten(1)).numpy(), expected, atol=1e-4)


def test_kohya_takes_a_text_encoder_that_barely_differs_for_unchanged() -> None:
    base = new_pipe()
    assert any(key.startswith("lora_te_") for key in kohya(base, tuned_from(base), 2))
    assert not any(key.startswith("lora_te_") for key in kohya(base, tuned_from(base, 1e-4), 2))
