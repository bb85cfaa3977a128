"""Which components of a pipeline a stranger's adapter may change: never what decodes, filters or steers pictures."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from si_hub.architectures.bases import find_base

#: Denoisers and text encoders by the names that diffusers' pipelines give them.
_USUAL = re.compile(r"(unet|transformer|prior|decoder|text_encoder)(_[0-9]{1,2})?")


def out_of_reach(architecture: str, components: Iterable[str], allowed: Collection[str] = ()) -> list[str]:
    """The components that an adapter for this base model does not reach unless the user says so.

    Args:
        architecture: the base model's name in the adapter; what a shipped one lists is reached too.
        components: the adapter's.
        allowed: those that the user has named.
    """
    base = find_base(architecture)
    listed = {*allowed, *(base.components if base else ())}
    return [name for name in components if name not in listed and not _USUAL.fullmatch(name)]
