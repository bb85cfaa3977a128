"""Prompts to run pipelines with: a file's, a built-in list, or words that a small tokenizer knows."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

from si_hub.errors import FileAccessError, MissingFile, UsageError

#: The built-in list: one of each, in an order in which all of them come up early.
SUBJECTS = (
    "a young woman with freckles", "an old fisherman", "two children running", "a knight in armour", "a red fox",
    "a sleeping cat", "a horse at full gallop", "an owl on a branch", "a mountain lake", "a narrow street",
    "a lighthouse", "a wooden cabin", "a spaceship", "a robot playing chess", "a vintage car", "a steam train",
    "a bowl of fruit", "a cup of coffee", "a bunch of wild flowers", "a castle on a cliff", "a busy market",
    "a ballet dancer", "a dragon", "a city skyline", "a portrait of a man with a beard", "a glass vase",
)  # fmt: skip
SETTINGS = (
    "at sunrise", "in the rain", "in deep snow", "under a starry sky", "in a sunlit room", "by candlelight",
    "in a dense forest", "on a beach", "in thick fog", "in the desert", "in front of a plain wall", "at night",
    "in autumn", "under water", "seen from above",
)  # fmt: skip
MANNERS = (
    "photograph", "oil painting", "watercolour", "pencil sketch", "anime", "close-up photo, shallow depth of field",
    "digital art, highly detailed", "film still", "isometric 3d render", "black and white photograph", "comic panel",
    "pixel art", "wide angle photo", "studio lighting",
)  # fmt: skip
#: Of a file's prompts, every so-manieth is kept for measuring.
HELD_OUT_EVERY = 4
#: Above this share of tokens that a tokenizer does not know, the built-in list says nothing to its model.
_UNKNOWN = 0.2


def read_prompts(path: str | Path) -> list[str]:
    """The prompts of a text file, one a line; empty lines and those that begin with ``#`` do not count.

    Raises:
        MissingFile, FileAccessError: not there, not readable.
        UsageError: not UTF-8, or no prompt in it.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise MissingFile("no such file of prompts", file=path) from error
    except OSError as error:
        raise FileAccessError(f"cannot be read: {error.strerror}", file=path) from error
    except UnicodeDecodeError as error:
        raise UsageError("is not a UTF-8 text", file=path, hint="Write one prompt a line.") from error
    found = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not found:
        raise UsageError("holds no prompt", file=path, hint="Write one prompt a line.")
    return found


def built_in(number: int, first: int = 0) -> list[str]:
    """``number`` prompts of the built-in list from the ``first`` on, no two alike within the first thousands."""
    every = (
        f"{SUBJECTS[k % len(SUBJECTS)]} {SETTINGS[k % len(SETTINGS)]}, {MANNERS[(k + k // 390) % len(MANNERS)]}"
        for k in count()
    )
    return list(islice(every, first, first + number))


def of_words(tokenizer: Any, number: int, seed: int) -> list[str]:
    """Prompts of random whole words that a tokenizer knows; none where it knows no word."""
    rng = random.Random(seed)
    special = set(tokenizer.all_special_tokens)
    plain = (token.removesuffix("</w>").lstrip("▁") for token in tokenizer.get_vocab() if _is_word(token, special))
    words = sorted({word for word in plain if len(word) > 1})
    return [" ".join(rng.choices(words, k=rng.randint(6, 12))) for _ in range(number)] if words else []


def _is_word(token: str, special: set[str]) -> bool:
    return token not in special and (token.endswith("</w>") or token.startswith("▁"))


def unknown_share(tokenizer: Any, prompts: Sequence[str]) -> float:
    """Share of the prompts' tokens that are the tokenizer's unknown token, or of a single letter."""
    unknown = tokenizer.unk_token_id
    tokens = [
        token for prompt in prompts for token in tokenizer(prompt, add_special_tokens=False, truncation=True).input_ids
    ]
    lost = sum(token == unknown or len(tokenizer.decode([token]).strip()) < 2 for token in tokens)
    return float(lost / max(1, len(tokens)))


def choose_prompts(
    path: Path | None, tokenizer: Any, number: int, held_out: int, seed: int
) -> tuple[list[str], list[str], str]:
    """Prompts to work with, prompts to measure with, and where they are from.

    Args:
        path: a file of prompts; ``None`` for the built-in list, or for words of a tokenizer that does not know it.
        tokenizer: of the pipeline's first text encoder.
        number, held_out: how many of each; a file's are repeated, each time with other noise, or cut to that.
        seed: of random words.
    """
    if path is not None:
        given = read_prompts(path)
        if len(given) == 1:
            return given * number, given * held_out, f"{path.name}, its one prompt for both, with other noise"
        measured = given[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY] or given[-1:]
        kept = [prompt for prompt in given if prompt not in set(measured)] or given
        return _cycle(kept, number), _cycle(measured, held_out), path.name
    listed = built_in(number + held_out)
    known = unknown_share(tokenizer, listed[:50]) <= _UNKNOWN
    words = [] if known else of_words(tokenizer, number + held_out, seed)
    if not words:
        return listed[:number], listed[number:], "the built-in list"
    return words[:number], words[number:], "random words of the model's own vocabulary, which lacks the built-in list's"


def _cycle(prompts: Sequence[str], number: int) -> list[str]:
    return [prompts[k % len(prompts)] for k in range(number)]
