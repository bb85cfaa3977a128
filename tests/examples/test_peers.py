"""Adapter files: what a peer's own loader reads back acts as what its trainer left in memory."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import safe_open
from transformers import CLIPTextModel

from examples.miniature import autoencoder, base, data, peers, text
from examples.miniature.drawing import draw_prompts
from examples.miniature.scenes import FACTS, STYLES, scenes


def new_pipe(folder: Path) -> Any:
    torch.manual_seed(0)
    tokenizer = text.load_tokenizer(folder)
    vae, text_encoder = AutoencoderKL(**autoencoder.VAE), CLIPTextModel(text.text_config(tokenizer))
    pipe = base.assemble(vae, text_encoder, tokenizer, UNet2DConditionModel(**base.UNET), base.new_scheduler())
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.eval()
    return pipe


PROMPTS = [scene.prompt() for scene in islice(scenes(0), 4)]


@torch.no_grad()
def predicted(pipe: Any) -> torch.Tensor:
    latents = torch.randn(len(PROMPTS), autoencoder.CHANNELS, 8, 8, generator=torch.Generator().manual_seed(1))
    states = pipe.text_encoder(text.ids_of(pipe.tokenizer, PROMPTS)).last_hidden_state
    return torch.as_tensor(pipe.unet(latents, torch.tensor([100, 300, 500, 900]), states).sample)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few small steps on noise."""

    def lessons(pipe: Any, name: str, work: Path) -> base.LatentBatches:
        latents = torch.randn(len(PROMPTS), autoencoder.CHANNELS, 8, 8, generator=torch.Generator().manual_seed(2))
        return base.LatentBatches(latents, {"ids": (pipe.tokenizer, PROMPTS)})

    monkeypatch.setattr(peers, "lessons", lessons)
    monkeypatch.setattr(peers, "STEPS", 16)
    monkeypatch.setattr(peers, "BATCH", 4)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("name", peers.PEERS)
def test_a_file_loaded_by_its_own_library_acts_as_what_was_trained(name: str, tmp_path: Path) -> None:
    file = tmp_path / f"{name}.safetensors"
    untouched = predicted(new_pipe(tmp_path))
    trained = new_pipe(tmp_path)
    write = peers.train_peer(trained, name, file, tmp_path)
    wanted = predicted(trained)
    write()
    fresh = new_pipe(tmp_path)
    peers.LOADERS[name](fresh, file)
    change = (wanted - untouched).norm()
    assert change > 1e-3 * untouched.norm()
    # Files are fp16: what is left of the error must be rounding.
    assert (predicted(fresh) - wanted).norm() < 0.02 * change


@pytest.mark.usefixtures("few")
def test_the_kohya_file_has_kohyas_names_for_both_components(tmp_path: Path) -> None:
    file = tmp_path / "kohya_lora.safetensors"
    peers.train_peer(new_pipe(tmp_path), "kohya_lora", file, tmp_path)()
    with safe_open(file, "pt") as opened:
        keys = set(opened.keys())
    for module in (
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
        "lora_te_text_model_encoder_layers_2_mlp_fc1",
    ):
        assert {f"{module}.{leaf}" for leaf in ("lora_down.weight", "lora_up.weight", "alpha")} <= keys


def test_a_picture_depends_on_its_own_seed_and_not_on_the_batch(tmp_path: Path) -> None:
    pipe = new_pipe(tmp_path)
    together = draw_prompts(pipe, PROMPTS, seed=5, num_inference_steps=3)
    assert together.shape == (len(PROMPTS), 3, 32, 32)
    alone = draw_prompts(pipe, PROMPTS[2:3], seed=7, num_inference_steps=3)
    assert torch.allclose(alone[0], together[2], atol=1e-3)
    assert not torch.allclose(together[1], together[2], atol=1e-2)


def test_a_training_set_is_the_same_when_it_is_read_again(tmp_path: Path) -> None:
    first, second = (data.draw_set("ink", 20, seed=4, work=tmp_path) for _ in range(2))
    assert (first.images == second.images).all()
    assert first.scenes == second.scenes
    assert [file.name for file in (tmp_path / "pictures").iterdir()] == ["ink-20-4.npy"]
    truth = data.labels(first)
    for row, scene in zip(truth.tolist(), first.scenes, strict=True):
        named = {
            question: options[answer]
            for (question, options), answer in zip(FACTS.items(), row, strict=False)
            if answer != data.ABSENT
        }
        assert named == scene.facts()
        assert STYLES[row[-1]] == "ink"
