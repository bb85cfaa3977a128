"""Every layout by name: the general ones, and the native ones of every shipped base model."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from si_hub.architectures.bases import BASES
from si_hub.architectures.layouts.contract import Layout
from si_hub.architectures.layouts.own import (
    attention_processor,
    bare_clip,
    clip_processor,
    diffusers,
    without_list_index,
)

_NATIVE = tuple(dict.fromkeys(layout for base in BASES for layout in base.layouts))
_GENERAL = (bare_clip, without_list_index, attention_processor, clip_processor)

#: Where two give a name a meaning, the first wins.
LAYOUTS: Mapping[str, Layout] = MappingProxyType({layout.name: layout for layout in (diffusers, *_NATIVE, *_GENERAL)})
#: Those that checkpoints are written in, the projects' own before diffusers'.
WHOLE: tuple[Layout, ...] = tuple(layout for layout in (*_NATIVE, diffusers) if layout.whole)
