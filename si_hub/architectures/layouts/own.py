"""The models' own names, and how diffusers and transformers have written them over the years: for every base."""

from __future__ import annotations

import re

from si_hub.architectures.layouts.contract import Layout, Names, Part
from si_hub.architectures.model import Model


def _own(model: Model) -> Names:
    """The model's own names."""
    return {path: (Part(path),) for path in model.modules}


def _without_list_index(model: Model) -> Names:
    """``to_out.0`` written as ``to_out``, as the old attention processors did."""
    return {path[: -len(".0")]: (Part(path),) for path in model.modules if path.endswith(".to_out.0")}


def _attention_processor(model: Model) -> Names:
    """``attn1.processor.to_q`` of diffusers before PEFT; ``to_out`` there is ``to_out.0``."""
    pattern = re.compile(r"(.*\battn\d?)\.((?:to_(?:[qkv]|out|add_out)|add_[qkv]_proj))(?:\.0)?")
    matches = ((path, pattern.fullmatch(path)) for path in model.modules)
    return {f"{match[1]}.processor.{match[2]}": (Part(path),) for path, match in matches if match}


def _bare_clip(model: Model) -> Names:
    """CLIP text encoders without ``text_model.``, as transformers 5.6 and later name them."""
    prefix = "text_model."
    return {path[len(prefix) :]: (Part(path),) for path in model.modules if path.startswith(prefix)}


def _clip_processor(model: Model) -> Names:
    """``self_attn.to_q`` for CLIP's ``q_proj``, of diffusers before PEFT."""
    pattern = re.compile(r"(.*\.self_attn)\.(q|k|v|out)_proj")
    matches = ((path, pattern.fullmatch(path)) for path in model.modules)
    return {f"{match[1]}.to_{match[2]}": (Part(path),) for path, match in matches if match}


diffusers = Layout("diffusers", _own, whole=True, local=True)
without_list_index = Layout("diffusers-to_out", _without_list_index)
attention_processor = Layout("attention-processor", _attention_processor)
bare_clip = Layout("transformers-5", _bare_clip)
clip_processor = Layout("clip-processor", _clip_processor)
