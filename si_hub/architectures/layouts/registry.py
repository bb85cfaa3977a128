"""Every layout by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from si_hub.architectures.layouts.contract import Layout
from si_hub.architectures.layouts.flux import bfl, xlabs
from si_hub.architectures.layouts.own import (
    attention_processor,
    bare_clip,
    clip_processor,
    diffusers,
    without_list_index,
)
from si_hub.architectures.layouts.sd3 import mmdit
from si_hub.architectures.layouts.unet import sgm

#: Where two give a name a meaning, the first wins.
LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        layout.name: layout
        for layout in (
            diffusers, sgm, bfl, mmdit, bare_clip, without_list_index, attention_processor, clip_processor, xlabs
        )
    }
)  # fmt: skip
#: Those that checkpoints are written in, the projects' own before diffusers'.
WHOLE: tuple[Layout, ...] = tuple(layout for layout in (sgm, bfl, xlabs, mmdit, diffusers) if layout.whole)
