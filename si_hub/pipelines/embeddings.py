"""Textual inversions that ride along in an adapter, through the pipeline's own loader for them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from si_hub.errors import UsageError
from si_hub.storage.tensors import Tensor

_VOCABULARY = "styleinject_vocabulary"
#: How diffusers names the further vectors of one token.
_NUMBERED = re.compile(r"(.+)_[0-9]+")


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """A text encoder before its first token: rows of its table, its config's size, and its own, where it has one."""

    rows: int
    configured: int
    own: int | None


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
    encoder.__dict__.setdefault(_VOCABULARY, _Vocabulary(table.shape[0], encoder.config.vocab_size, _own_size(encoder)))
    try:
        for token, vectors in embeddings.items():
            if vectors.shape[-1] != table.shape[-1]:
                raise UsageError(
                    "the embedding has another width than the text encoder",
                    key=f"{component}.embedding.{token}",
                    expected=table.shape[-1],
                    found=vectors.shape[-1],
                )
            if clash := _clashes(token, vectors, tokenizer.get_vocab()):
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
        _restore_vocabulary(getattr(pipeline, component))
        return
    tokenizer, encoder = tokenizer_of(pipeline, component), getattr(pipeline, component)
    before = encoder.get_input_embeddings()
    pipeline.unload_textual_inversion(tokens, tokenizer=tokenizer, text_encoder=encoder)
    # diffusers puts a fresh module in place; the old one is what others hold, hook and adapt.
    rows = encoder.get_input_embeddings().weight.data
    before.weight.data = rows
    before.num_embeddings = rows.shape[0]
    encoder.set_input_embeddings(before)
    _restore_vocabulary(encoder)


def _restore_vocabulary(encoder: Any) -> None:
    """The sizes that transformers notes at a model and its config: its own again once all tokens are gone."""
    rows = encoder.get_input_embeddings().weight.shape[0]
    before = encoder.__dict__.get(_VOCABULARY)
    if before is None or rows != before.rows:
        encoder.config.vocab_size = rows
        return
    del encoder.__dict__[_VOCABULARY]
    encoder.config.vocab_size = before.configured
    if before.own is None:
        encoder.__dict__.pop("vocab_size", None)
    else:
        encoder.vocab_size = before.own


def _own_size(encoder: Any) -> int | None:
    size: int | None = encoder.__dict__.get("vocab_size")
    return size


def _clashes(token: str, vectors: Tensor, known: Collection[str]) -> list[str]:
    """Words that the tokenizer has and that one more token would be, or that would count as its further vectors."""
    stem = _NUMBERED.fullmatch(token)
    words = {*spellings(token, vectors), f"{token}_1", *([stem[1]] if stem else [])}
    return sorted(word for word in words if word in known)


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
