"""PyTorch's own files, opened so that no code in them runs, and refused in our words."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

from si_hub.errors import FormatError, UnsupportedFamily

#: How torch names an object that it does not make: ``GLOBAL os.system``.
_OBJECT = re.compile(r"(?:GLOBAL|Unsupported class|global:?) +`?([A-Za-z_]\w*(?:\.\w+)+)")


def load_pickle(path: Path, refusal: type[FormatError] | type[UnsupportedFamily], *, mmap: bool = False) -> Any:
    """What a PyTorch file of tensors and plain values holds; with ``mmap`` the tensors are mapped, not read.

    Torch's own errors paste pages, with escape sequences and how to load such a file without protection. Of these only
    the name of the first object that is no tensor is worth telling.

    Raises:
        refusal: anything else is in it, or it is no such file.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:
        named = _OBJECT.search(str(error))
        found = named[1] if named else type(error).__name__
        rest = "which could run any code" if named else "or none"
        raise refusal(
            f"is a pickle of more than tensors, {rest}", file=path, found=found, hint="Save its tensors as safetensors."
        ) from None
