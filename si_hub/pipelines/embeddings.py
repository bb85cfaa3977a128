"""Textual inversions that ride along in an adapter, through the pipeline's own loader for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from si_hub.errors import UsageError
from si_hub.storage.tensors import Tensor


def tokenizer_of(pipeline: Any, component: str) -> Any:
    """The tokenizer that feeds a text encoder, None where the pipeline cannot take textual inversions for it."""
    if not component.startswith("text_encoder") or not hasattr(pipeline, "load_textual_inversion"):
        return None
    return getattr(pipeline, component.replace("text_encoder", "tokenizer"), None)


def add_embeddings(pipeline: Any, component: str, embeddings: Mapping[str, Tensor]) -> None:
    """Give every token of ``embeddings`` (``[k, dim]`` each) its rows in the component; all or none.

    Raises:
        UsageError: a token that the tokenizer already has, or vectors of another width than the text encoder's.
    """
    if not embeddings:
        return
    tokenizer, encoder = tokenizer_of(pipeline, component), getattr(pipeline, component)
    table = encoder.get_input_embeddings().weight
    added: dict[str, Tensor] = {}
    try:
        for token, vectors in embeddings.items():
            if vectors.shape[-1] != table.shape[-1]:
                raise UsageError(
                    "the embedding has another width than the text encoder",
                    key=f"{component}.embedding.{token}",
                    expected=table.shape[-1],
                    found=vectors.shape[-1],
                )
            if clash := set(spellings(token, vectors)) & set(tokenizer.get_vocab()):
                raise UsageError(
                    "the tokenizer already has this token",
                    key=f"{component}.embedding.{token}",
                    found=", ".join(sorted(clash)),
                    hint="Unload the textual inversion or adapter that brought it",
                )
            values = vectors.torch().to(table.device, table.dtype).reshape(-1, table.shape[-1])
            pipeline.load_textual_inversion({token: values}, tokenizer=tokenizer, text_encoder=encoder)
            added[token] = vectors
    except BaseException:
        remove_embeddings(pipeline, component, added)
        raise


def remove_embeddings(pipeline: Any, component: str, embeddings: Mapping[str, Tensor]) -> None:
    """Take the tokens out again: tokenizer and embedding table are as they were without them."""
    tokens = [spelling for token, vectors in embeddings.items() for spelling in spellings(token, vectors)]
    if not tokens:
        return
    tokenizer, encoder = tokenizer_of(pipeline, component), getattr(pipeline, component)
    before = encoder.get_input_embeddings()
    pipeline.unload_textual_inversion(tokens, tokenizer=tokenizer, text_encoder=encoder)
    after = encoder.get_input_embeddings()
    # diffusers puts a fresh module in place, and leaves the grown size in the config.
    after.weight.requires_grad_(before.weight.requires_grad)
    after.train(before.training)
    encoder.config.vocab_size = after.weight.shape[0]


def spellings(token: str, vectors: Tensor) -> list[str]:
    """The tokens that one name becomes: one per vector."""
    count = vectors.shape[0] if len(vectors.shape) > 1 else 1
    return [token, *(f"{token}_{index}" for index in range(1, count))]


def live_embeddings(pipeline: Any, component: str, embeddings: Mapping[str, Tensor]) -> dict[str, torch.Tensor]:
    """The vectors as they are now in the text encoder, ``[k, dim]`` per token."""
    if not embeddings:
        return {}
    tokenizer = tokenizer_of(pipeline, component)
    table = getattr(pipeline, component).get_input_embeddings().weight.detach()
    return {
        token: table[tokenizer.convert_tokens_to_ids(spellings(token, vectors))]
        for token, vectors in embeddings.items()
    }
