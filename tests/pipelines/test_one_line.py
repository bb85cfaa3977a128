"""Every kind of adapter file, loaded in one line with nothing named, draws what its own library draws.

Files are those of the miniature, trained and written by the peers, and random ones that LyCORIS and PEFT write here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

from examples.miniature.drawing import draw_prompts, unseen_scenes
from examples.miniature.peers import ATTENTION, LOADERS, PEERS, lycoris_network
from tests.miniature import BASE, MINIATURE

#: Of the largest difference of two pictures, of 1.
ALIKE = 2 / 255
DENSE, CONVOLVED = ("Transformer2DModel",), ("ResnetBlock2D", "Downsample2D", "Upsample2D")
#: A kind → classes of the UNet's modules that LyCORIS goes into, and its options.
LYCORIS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "OFT": (DENSE, {"network_module": "diag-oft", "lora_dim": 4, "conv_lora_dim": 4}),
    "OFT, rescaled and held": (DENSE, {"network_module": "diag-oft", "lora_dim": 4, "alpha": 1e-2, "rescaled": True}),
    "BOFT": (DENSE, {"network_module": "boft", "lora_dim": 6, "conv_lora_dim": 6}),
    "(IA)3": (DENSE + CONVOLVED, {"network_module": "ia3"}),
    "GLoRA": (DENSE, {"network_module": "glora", "lora_dim": 4, "conv_lora_dim": 4}),
    "LoCon, Tucker": (CONVOLVED, {"network_module": "locon", "conv_lora_dim": 4, "use_tucker": True}),
    "LoHa, Tucker": (CONVOLVED, {"network_module": "loha", "conv_lora_dim": 2, "use_tucker": True}),
    "LoKr, Tucker": (CONVOLVED, {"network_module": "lokr", "conv_lora_dim": 2, "use_tucker": True}),
    "DoRA on a LoHa": (DENSE + CONVOLVED, {"network_module": "loha", "lora_dim": 2, "weight_decompose": True}),
    "DoRA on a LoKr, of inputs": (
        DENSE + CONVOLVED,
        {"network_module": "lokr", "lora_dim": 2, "weight_decompose": True, "wd_on_output": False},
    ),
    "whole differences": (CONVOLVED, {"network_module": "full"}),
}
_ON_ATTENTION = {"target_modules": [*ATTENTION]}
_EVERYWHERE = {"target_modules": [*ATTENTION, "conv1", "conv2"]}
#: The same of PEFT: its configuration.
PEFT: dict[str, Callable[[], peft.PeftConfig]] = {
    "OFT": lambda: peft.OFTConfig(oft_block_size=4, init_weights=False, **_ON_ATTENTION),
    "BOFT": lambda: peft.BOFTConfig(boft_block_size=4, init_weights=False, **_ON_ATTENTION),
    "(IA)3": lambda: peft.IA3Config(feedforward_modules=["to_out.0"], init_ia3_weights=False, **_ON_ATTENTION),
    "LoHa": lambda: peft.LoHaConfig(r=2, alpha=1, init_weights=False, **_EVERYWHERE),
    "LoKr": lambda: peft.LoKrConfig(r=2, alpha=1, init_weights=False, **_EVERYWHERE),
    "DoRA": lambda: peft.LoraConfig(r=2, use_dora=True, init_lora_weights=False, **_EVERYWHERE),
}  # fmt: skip


def new_pipe() -> Any:
    return StableDiffusionPipeline.from_pretrained(BASE, safety_checker=None)


def draw(pipe: Any) -> torch.Tensor:
    return draw_prompts(pipe, [scene.prompt() for scene in unseen_scenes(1)], num_inference_steps=4)


@pytest.fixture(scope="module")
def plain() -> torch.Tensor:
    """What the base draws."""
    return draw(new_pipe())


def assert_draws(theirs: torch.Tensor, plain: torch.Tensor, source: Path) -> None:
    """One line gives their pictures; they are not the base's, which comes back."""
    pipe = new_pipe()
    report = pipe.load_styleinject_weights(source)
    assert report.notes[0].startswith("converted in memory, exactly")
    apart, moved = (draw(pipe) - theirs).abs().max() / 2, (theirs - plain).abs().max() / 2
    assert moved > 10 * ALIKE
    assert apart < ALIKE
    pipe.unload_styleinject_weights()
    assert torch.equal(draw(pipe), plain)


#: Where a change is a product of three factors or four, they have to be larger to make one that is seen.
FACTORS = ("Tucker", "LoHa", "LoKr")


def fill(kind: str, parameters: Any) -> None:
    """Random numbers near what untrained parameters are, so that an adapter changes a picture and does not end it."""
    size = 0.3 if any(word in kind for word in FACTORS) else 0.1
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, value in parameters:
            noise = torch.randn(value.shape, generator=generator)
            near = "dora" in key or "rescale" in key or "magnitude" in key
            value.copy_(value * (1 + 0.05 * noise) if near else value + size * noise)


@pytest.mark.parametrize("name", PEERS)
def test_a_file_of_the_miniature(name: str, plain: torch.Tensor) -> None:
    file = MINIATURE / "peers" / f"{name}.safetensors"
    theirs = new_pipe()
    LOADERS[name](theirs, file)
    assert_draws(draw(theirs), plain, file)


@pytest.mark.slow
@pytest.mark.parametrize("kind", LYCORIS)
def test_a_file_that_lycoris_writes(kind: str, plain: torch.Tensor, tmp_path: Path) -> None:
    targets, options = LYCORIS[kind]
    theirs = new_pipe()
    network = lycoris_network(theirs.unet, "unet", targets, **options)
    network.apply_to()
    fill(kind, network.named_parameters())
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, tmp_path / "a.safetensors")
    assert_draws(draw(theirs), plain, tmp_path / "a.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("kind", PEFT)
def test_a_folder_that_peft_writes(kind: str, plain: torch.Tensor, tmp_path: Path) -> None:
    theirs = new_pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(theirs.unet, PEFT[kind]())
    fill(kind, ((name, value) for name, value in model.named_parameters() if value.requires_grad))
    model.save_pretrained(tmp_path)
    assert_draws(draw(theirs), plain, tmp_path)
