"""The command as tests call it, and a small foreign adapter to give it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from click.testing import CliRunner
from safetensors.numpy import save_file

from si_hub.cli import main

STEMS = {
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": (320, 320),
    "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_attn2_to_k": (320, 768),
    "lora_te_text_model_encoder_layers_11_mlp_fc1": (3072, 768),
}


def write_kohya(file: Path) -> Path:
    """A kohya LoRA of Stable Diffusion 1.5: three modules, rank 4, alpha 2."""
    random = np.random.default_rng(5)
    tensors = {}
    for stem, (out, wide) in STEMS.items():
        tensors[f"{stem}.lora_down.weight"] = random.standard_normal((4, wide)).astype(np.float16)
        tensors[f"{stem}.lora_up.weight"] = random.standard_normal((out, 4)).astype(np.float16)
        tensors[f"{stem}.alpha"] = np.array(2, np.float16)
    save_file(tensors, file, metadata={"ss_output_name": "my style", "ss_network_module": "networks.lora"})
    return file


def run(*arguments: str | Path) -> str:
    """What a command says, and nothing to stderr."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return result.stdout
