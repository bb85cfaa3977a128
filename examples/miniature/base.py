"""The base model: a StableDiffusionPipeline with every kind of module the real one has, trained on the plain style.

Stages: the autoencoder (all styles), the text encoder's first lessons (text alone), then U-Net and text encoder
together on latents that are computed once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .data import ABSENT, Pictures, answers, draw_set, to_floats
from .progress import tracked
from .scenes import FACTS, STYLES, Scene, words
from .training import Batch, Recipe, atomic_save, picked, train

TOKENS = 20
TEXT_WIDTH = 64
LATENT_SIDE = 8
CHANNELS = 8  # of the latents; with Stable Diffusion's four, shapes of nine pixels come back blurred
NOISIER = 0.6  # below 1: more of the noisy timesteps, in which it is decided what a picture shows
UNCONDITIONAL = 0.1  # share of training samples whose prompt is empty, for classifier-free guidance

VAE_RECIPE = Recipe("vae", steps=2400, batch=24, rate=2e-3, seed=21)
DECODER_RECIPE = Recipe("decoder", steps=2500, batch=24, rate=2e-3, seed=24)
TEXT_RECIPE = Recipe("text", steps=1200, batch=128, rate=1e-3, seed=22)
BASE_RECIPE = Recipe("base", steps=5000, batch=48, rate=1.5e-3, seed=23, warmup=200, average=0.998)
KL_WEIGHT = 2e-4
DECODED_NOISE = 0.06  # what the encoder itself is unsure of, in standard deviations of the latents
VAE_PER_STYLE = 5000  # the same pictures that the judges learn from
BASE_PICTURES, BASE_SEED = 24_000, 1000

UNET: dict[str, Any] = {
    "sample_size": LATENT_SIDE,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "block_out_channels": (48, 96),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": TEXT_WIDTH,
    "attention_head_dim": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
VAE: dict[str, Any] = {
    "sample_size": 32,
    "block_out_channels": (16, 32, 48),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "latent_channels": CHANNELS,
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
}


def merged(parts: list[str], merge: str) -> list[str]:
    """The parts of a word after one merge of byte-pair encoding, wherever it applies from left to right."""
    left, right = merge.split()
    found: list[str] = []
    for part in parts:
        if found and (found[-1], part) == (left, right):
            found[-1] = left + right
        else:
            found.append(part)
    return found


def write_vocabulary(folder: Path) -> None:
    """CLIP's ``vocab.json`` and ``merges.txt``: letters, and one token for each word of the grammar."""
    letters = sorted(set("".join(words())))
    merges: list[str] = []
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    for word in words():
        parts = [*word[:-1], f"{word[-1]}</w>"]
        for merge in merges:
            parts = merged(parts, merge)
        while len(parts) > 1:
            merges.append(f"{parts[0]} {parts[1]}")
            parts = merged(parts, merges[-1])
            tokens.append(parts[0])
    tokens = [*tokens, "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIPTokenizer of the grammar's vocabulary that pads to `TOKENS`."""
    write_vocabulary(folder)
    return CLIPTokenizer.from_pretrained(folder, model_max_length=TOKENS)


def ids_of(tokenizer: Any, prompts: Sequence[str]) -> torch.Tensor:
    """``[prompts, TOKENS]``."""
    found = tokenizer(
        list(prompts), padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
    ).input_ids
    return torch.as_tensor(found)


def text_config(tokenizer: CLIPTokenizer, **options: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **options,
    )


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule; v-prediction, and sampling from the last timestep, train best at this size."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )


class Autoencoding(nn.Module):
    """The autoencoder's loss: squared and absolute error of the picture, and the divergence of its latents."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, pictures: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        found = self.vae.encode(pictures).latent_dist
        drawn = self.vae.decode(found.mean + found.std * noise).sample
        error = drawn - pictures
        divergence = 0.5 * (found.mean.square() + found.var - 1.0 - found.logvar).mean()
        loss: torch.Tensor = error.square().mean() + 0.2 * error.abs().mean() + KL_WEIGHT * divergence
        return loss


def train_vae(work: Path) -> AutoencoderKL:
    """An autoencoder of pictures in every style, with standardised latents."""
    torch.manual_seed(VAE_RECIPE.seed)
    sets = [draw_set(style, VAE_PER_STYLE, seed=index, work=work).floats() for index, style in enumerate(STYLES)]
    pictures = torch.cat(sets)
    vae = AutoencoderKL(**VAE)

    def batch_of(generator: torch.Generator, count: int) -> Batch:
        rows = picked(generator, count, len(pictures))
        noise = torch.randn(count, CHANNELS, LATENT_SIDE, LATENT_SIDE, generator=generator)
        return {"pictures": pictures[rows], "noise": noise}

    train(VAE_RECIPE, Autoencoding(vae), batch_of, work)
    standardise(vae, pictures[:: len(pictures) // 600])
    return vae


@torch.no_grad()
def standardise(vae: AutoencoderKL, pictures: torch.Tensor) -> None:
    """Gives every latent channel zero mean and unit variance over the pictures; what is decoded stays the same.

    The change of coordinates goes into the 1×1 convolutions on both sides of the latents, since Stable Diffusion
    itself knows only one factor for all channels, which becomes 1.
    """
    latents = vae.encode(pictures).latent_dist.mean
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = len(mean)
    inner, outer = vae.quant_conv, vae.post_quant_conv
    inner.weight[:channels] /= std.view(-1, 1, 1, 1)
    inner.bias[:channels] = (inner.bias[:channels] - mean) / std
    inner.bias[channels:] -= 2.0 * std.log()
    outer.bias += outer.weight[:, :, 0, 0] @ mean
    outer.weight *= std.view(1, -1, 1, 1)
    vae.register_to_config(scaling_factor=1.0)


class Decoding(nn.Module):
    """The loss of the decoder alone: error of the picture, squared and absolute, and of its differences in x and y."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: torch.Tensor, noise: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
        error = self.vae.decode(latents + DECODED_NOISE * noise).sample - pictures
        edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        loss: torch.Tensor = error.square().mean() + 0.2 * error.abs().mean() + 0.2 * edges
        return loss


def train_decoder(vae: AutoencoderKL, work: Path) -> AutoencoderKL:
    """Goes on with the decoder while the latents stay what they are: sharper pictures for every model on them."""
    torch.manual_seed(DECODER_RECIPE.seed)
    sets = [draw_set(style, VAE_PER_STYLE, seed=index, work=work) for index, style in enumerate(STYLES)]
    latents = torch.cat([encode(vae, one, work) for one in sets])
    pictures = torch.from_numpy(np.concatenate([one.images for one in sets]))

    def batch_of(generator: torch.Generator, count: int) -> Batch:
        rows = picked(generator, count, len(pictures))
        noise = torch.randn(count, CHANNELS, LATENT_SIDE, LATENT_SIDE, generator=generator)
        return {"latents": latents[rows], "noise": noise, "pictures": to_floats(pictures[rows])}

    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    train(DECODER_RECIPE, Decoding(vae), batch_of, work)
    return vae


class TextLessons(nn.Module):
    """Reads the facts of a scene off the text encoder's tokens: one learned query per question.

    What it teaches is what pictures would have to teach: which words belong together, and what relations mean.
    """

    def __init__(self, text_encoder: nn.Module) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.queries = nn.Parameter(torch.randn(len(FACTS), TEXT_WIDTH))
        self.read = nn.MultiheadAttention(TEXT_WIDTH, 4, batch_first=True)
        self.heads = nn.ModuleList(nn.Linear(TEXT_WIDTH, len(options)) for options in FACTS.values())

    def logits(self, ids: torch.Tensor) -> list[torch.Tensor]:
        states = self.text_encoder(ids).last_hidden_state
        found, _ = self.read(self.queries.expand(len(ids), -1, -1), states, states, need_weights=False)
        return [head(found[:, column]) for column, head in enumerate(self.heads)]

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        losses = [
            F.cross_entropy(logits, labels[:, column], ignore_index=ABSENT)
            for column, logits in enumerate(self.logits(ids))
        ]
        return torch.stack(losses).sum()


def teach_text(recipe: Recipe, text_encoder: nn.Module, tokenizer: Any, scenes: Sequence[Scene], work: Path) -> None:
    """Teaches a text encoder what the sentences of the grammar say, with and without a style."""
    styles = [None, *STYLES]
    ids = torch.stack([ids_of(tokenizer, [scene.prompt(style) for scene in scenes]) for style in styles])
    truth = torch.tensor([answers(scene) for scene in scenes])

    def batch_of(generator: torch.Generator, count: int) -> Batch:
        rows = picked(generator, count, len(scenes))
        return {"ids": ids[picked(generator, count, len(styles)), rows], "labels": truth[rows]}

    train(recipe, TextLessons(text_encoder), batch_of, work)


def train_text_encoder(tokenizer: CLIPTokenizer, scenes: Sequence[Scene], work: Path) -> CLIPTextModel:
    """The base's text encoder after its first lessons."""
    torch.manual_seed(TEXT_RECIPE.seed)
    text_encoder = CLIPTextModel(text_config(tokenizer))
    teach_text(TEXT_RECIPE, text_encoder, tokenizer, scenes, work)
    return text_encoder


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Pictures, work: Path) -> torch.Tensor:
    """Scaled latents ``[count, 8, 8, 8]`` of a training set, computed once and kept in the work folder."""
    seed = pictures.scenes[0].prompt().replace(" ", "_")
    file = work / "latents" / f"{pictures.style}-{len(pictures.scenes)}-{seed}.pt"
    if not file.exists():
        parts = torch.chunk(pictures.floats(), 40)
        found = [vae.encode(part).latent_dist.mean for part in tracked(parts, f"latents: {pictures.style}")]
        atomic_save({"latents": torch.cat(found) * vae.config.scaling_factor}, file)
    return torch.as_tensor(torch.load(file, weights_only=True)["latents"])


class Denoising(nn.Module):
    """Stable Diffusion's training loss: the squared error of the predicted velocity."""

    def __init__(self, unet: nn.Module, text_encoder: nn.Module, scheduler: DDIMScheduler) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder
        self.scheduler = scheduler

    def forward(
        self, latents: torch.Tensor, ids: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        target = self.scheduler.get_velocity(latents, noise, timesteps)
        states = self.text_encoder(ids).last_hidden_state
        return F.mse_loss(self.unet(noisy, timesteps, states).sample, target)


class LatentBatches:
    """Batches of latents, what they show, noise and timesteps.

    Args:
        latents: ``[count, 8, 8, 8]``.
        said: for each text encoder, the name of its argument, a tokenizer and the prompts.
    """

    def __init__(self, latents: torch.Tensor, said: Mapping[str, tuple[Any, Sequence[str]]]) -> None:
        self.latents = latents
        self.said = {
            name: (ids_of(tokenizer, prompts), ids_of(tokenizer, [""])) for name, (tokenizer, prompts) in said.items()
        }

    def __call__(self, generator: torch.Generator, count: int) -> Batch:
        rows = picked(generator, count, len(self.latents))
        dropped = torch.rand(count, 1, generator=generator) < UNCONDITIONAL
        return {
            "latents": self.latents[rows],
            "noise": torch.randn(count, *self.latents.shape[1:], generator=generator),
            "timesteps": (torch.rand(count, generator=generator) ** NOISIER * 1000).long(),
            **{name: torch.where(dropped, empty, ids[rows]) for name, (ids, empty) in self.said.items()},
        }


def plain_lessons(vae: AutoencoderKL, tokenizers: Mapping[str, Any], work: Path) -> LatentBatches:
    """The plain pictures with prompts that name no style, for one or more tokenizers by the argument they serve."""
    pictures = draw_set("plain", BASE_PICTURES, seed=BASE_SEED, work=work)
    prompts = [scene.prompt() for scene in pictures.scenes]
    return LatentBatches(
        encode(vae, pictures, work), {name: (tokenizer, prompts) for name, tokenizer in tokenizers.items()}
    )


def train_base(
    vae: AutoencoderKL, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, work: Path
) -> StableDiffusionPipeline:
    """U-Net and text encoder together, on plain pictures with prompts that name no style."""
    torch.manual_seed(BASE_RECIPE.seed)
    unet, scheduler = UNet2DConditionModel(**UNET), new_scheduler()
    lessons = plain_lessons(vae, {"ids": tokenizer}, work)
    train(BASE_RECIPE, Denoising(unet, text_encoder, scheduler), lessons, work)
    return assemble(vae, text_encoder, tokenizer, unet, scheduler)


def assemble(
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
    scheduler: DDIMScheduler,
) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
