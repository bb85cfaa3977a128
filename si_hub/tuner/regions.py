"""Where the instances of a layer have their places in the picture, and what a mask is there."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from si_hub.errors import UsageError

#: Models that put text before the picture where they join both to one sequence.
_TEXT_FIRST = {"FluxTransformer2DModel", "ChromaTransformer2DModel"}
#: Layers that see text alone, whatever its length.
_TEXTUAL = re.compile(
    r"(^|\.)(add_[qkv]_proj|to_add_out|ff_context|norm\d?_context|context_embedder|caption_projection|encoder_hid_proj"
    r"|attn2\.to_[kv])(\.|$)"
)


@dataclass(frozen=True, slots=True)
class Places:
    """The places of a model's input.

    Attributes:
        height, width: of latents, or of the tokens that they are given as.
        frames: of a film.
        text: tokens of text, 0 where there are none.
        text_first: whether they come first where a layer sees both; None where that is not known.
    """

    height: int
    width: int
    frames: int = 1
    text: int = 0
    text_first: bool | None = None

    def grids(self) -> Iterator[tuple[int, int]]:
        """Heights and widths that the model's levels and patches make of it, finest first."""
        seen = set()
        for power in range(8):
            for round_up in (True, False):
                sizes = [side / 2**power for side in (self.height, self.width)]
                grid = (math.ceil(sizes[0]), math.ceil(sizes[1])) if round_up else (int(sizes[0]), int(sizes[1]))
                if min(grid) > 0 and grid not in seen:
                    seen.add(grid)
                    yield grid


def scene_of(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Places | None:
    """The places of a model's input: latents, or packed tokens with the places that Flux is told; else None."""
    names = ("hidden_states", "sample", "x")
    given = args[0] if args else next((kwargs[name] for name in names if name in kwargs), None)
    text = kwargs.get("encoder_hidden_states", args[2] if len(args) > 2 else None)
    length = text.shape[1] if isinstance(text, Tensor) and text.ndim == 3 else 0
    first = True if type(model).__name__ in _TEXT_FIRST else None
    if isinstance(given, Tensor) and given.ndim in (4, 5):
        return Places(given.shape[-2], given.shape[-1], given.shape[2] if given.ndim == 5 else 1, length, first)
    places = kwargs.get("img_ids")
    if isinstance(given, Tensor) and given.ndim == 3 and isinstance(places, Tensor):
        rows, columns = (int(one) + 1 for one in places.reshape(-1, places.shape[-1])[:, 1:3].amax(0))
        if rows * columns == given.shape[1]:
            return Places(rows, columns, 1, length, first)
    return None


def mask_at(masks: Tensor, elsewhere: float, path: str, h: Tensor, channels_last: bool, scene: Places | None) -> Any:
    """What the contribution of a layer is multiplied with.

    Args:
        masks: ``[N, H, W]``, one for each instance, or ``[1, H, W]``.
        elsewhere: for what has no place in the picture: text, times.
        path: the layer's, for errors.
        h: its output, ``[N, *tokens, C]`` or ``[N, C, *space]``.

    Returns:
        ``elsewhere`` itself, or a tensor that broadcasts over ``h``.

    Raises:
        UsageError: the layer's tokens may have places that are not known.
    """
    if not channels_last and h.ndim == 4:
        return _resize(masks, (h.shape[2], h.shape[3]))[:, None]
    if channels_last and h.ndim == 4:
        return _resize(masks, (h.shape[1], h.shape[2]))[..., None]
    if h.ndim == 2 or _TEXTUAL.search(path):
        return elsewhere
    if scene is not None and channels_last and h.ndim == 3:
        tokens = h.shape[1]
        for rows, columns in scene.grids():
            here = rows * columns
            if tokens % here == 0 and tokens // here in {1, scene.frames}:
                return _resize(masks, (rows, columns)).flatten(1).repeat(1, tokens // here)[..., None]
            joined = here * scene.frames + scene.text
            if scene.text and tokens == joined and scene.text_first is not None:
                picture = _resize(masks, (rows, columns)).flatten(1).repeat(1, scene.frames)
                text = picture.new_full((len(picture), scene.text), elsewhere)
                parts = (text, picture) if scene.text_first else (picture, text)
                return torch.cat(parts, 1)[..., None]
        if tokens in {1, scene.text}:
            return elsewhere
    raise UsageError(
        "where this layer's tokens have their places in the picture is not known", key=path,
        found=list(h.shape), hint="Draw without a mask, or leave the layer out of the adapter",
    )  # fmt: skip


def _resize(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks ``[N, H, W]`` of another size: a token's is the mean over its area."""
    return masks if masks.shape[1:] == size else F.interpolate(masks[:, None], size=size, mode="area")[:, 0]
