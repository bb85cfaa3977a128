"""Sparse safetensors files of any size, and a tiny Stable Diffusion saved by diffusers itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.sparse import write_zeros

Shapes = Mapping[str, tuple[int, ...]]
WriteSparse = Callable[[Path, Shapes], Path]


@pytest.fixture(scope="session")
def write_sparse() -> WriteSparse:
    """``write_sparse(path, shapes)``: fp16 zeros that take no room on the disk."""

    def write(path: Path, shapes: Shapes) -> Path:
        return write_zeros(path, {name: ("F16", shape) for name, shape in shapes.items()})

    return write


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder of a two-block UNet and a CLIP text encoder, as their own libraries save them."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = tmp_path_factory.mktemp("tiny")
    UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8, cross_attention_dim=32,
        attention_head_dim=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).save_pretrained(folder / "unet")  # fmt: skip
    text = CLIPTextConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "v_prediction"}', encoding="utf-8")
    index = {
        "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.0", "safety_checker": [None, None],
        "unet": ["diffusers", "UNet2DConditionModel"], "text_encoder": ["transformers", "CLIPTextModel"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }  # fmt: skip
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder
