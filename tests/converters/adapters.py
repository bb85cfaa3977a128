"""Small adapters with numbers in them, and what converting them and looking at them comes to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from si_hub import format as file_format
from si_hub.conversion import Converted, convert
from si_hub.errors import SiHubError
from si_hub.inspection import Inspection, inspect

Arrays = dict[str, Any]
Write = Callable[..., Path]
FLUX_DOUBLE, FLUX_SINGLE = "lora_unet_double_blocks_0_img_attn_proj", "lora_unet_single_blocks_0_linear2"
SDXL = "lora_unet_down_blocks_{}_attentions_0_transformer_blocks_{}_attn{}_to_{}"


def numbers(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float16)


def pair(stem: str, out: int, in_: int, *, alpha: float | None = None, peft: bool = False, rank: int = 4) -> Arrays:
    """The two or three tensors of a LoRA's module."""
    down, up = (".lora_A.weight", ".lora_B.weight") if peft else (".lora_down.weight", ".lora_up.weight")
    held = {stem + down: numbers(rank, in_), stem + up: numbers(out, rank)}
    return held | ({} if alpha is None else {f"{stem}.alpha": np.array(alpha, np.float32)})


def refuse(file: Path, error: type[SiHubError], match: str, **options: Any) -> SiHubError:
    with pytest.raises(error, match=match) as caught:
        convert(file, **options)
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    return caught.value


def look(file: Path) -> Inspection:
    found = inspect(file)
    assert isinstance(found, Inspection)
    return found


def document_says_exact(result: Converted) -> bool:
    provenance = file_format.read(result.path).about["provenance"]
    assert ("left_out" in provenance) != ("exact" in provenance)
    assert result.exact == provenance.get("exact", False)
    exact: bool = result.exact
    return exact
