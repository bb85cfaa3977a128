"""The same modules under other projects' names; every layout by name is in `si_hub.architectures.namings`."""

from si_hub.architectures.layouts.contract import Layout, Names, Part
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

__all__ = [
    "Layout", "Names", "Part", "attention_processor", "bare_clip", "bfl", "clip_processor", "diffusers", "mmdit",
    "sgm", "without_list_index", "xlabs",
]  # fmt: skip
