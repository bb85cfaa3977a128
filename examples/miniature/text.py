"""Words and what they mean: CLIP vocabularies of the grammar, and a text encoder's first lessons, in text alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .data import ABSENT, answers
from .scenes import FACTS, STYLES, Scene, words
from .training import Batch, Recipe, pick, train

TOKENS = 20
TEXT_WIDTH = 64
TEXT_RECIPE = Recipe("text", steps=1200, batch=128, rate=1e-3, seed=22)


def merge_parts(parts: list[str], merge: str) -> list[str]:
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
            parts = merge_parts(parts, merge)
        while len(parts) > 1:
            merges.append(f"{parts[0]} {parts[1]}")
            parts = merge_parts(parts, merges[-1])
            tokens.append(parts[0])
    tokens = [*tokens, "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(
        json.dumps({token: index for index, token in enumerate(tokens)}), encoding="utf-8"
    )
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")


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
        rows = pick(generator, count, len(scenes))
        return {"ids": ids[pick(generator, count, len(styles)), rows], "labels": truth[rows]}

    train(recipe, TextLessons(text_encoder), batch_of, work)


def train_text_encoder(tokenizer: CLIPTokenizer, scenes: Sequence[Scene], work: Path) -> CLIPTextModel:
    """The base's text encoder after its first lessons."""
    torch.manual_seed(TEXT_RECIPE.seed)
    text_encoder = CLIPTextModel(text_config(tokenizer))
    teach_text(TEXT_RECIPE, text_encoder, tokenizer, scenes, work)
    return text_encoder
