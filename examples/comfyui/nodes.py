"""What a user of ComfyUI sees: a loader for one adapter, and one for a list of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths  # ComfyUI's own

from si_hub.adapter import Adapter
from si_hub.errors import UsageError

from .attaching import attach
from .reading import Wish, read_adapter, read_list, read_weights

_STRENGTH = ("FLOAT", {"default": 1.0, "min": -20.0, "max": 20.0, "step": 0.01})
_STYLES = {"default": "", "tooltip": "ink=0.7, neon=0.3: weights of its named styles; empty: as its router chooses"}


class _Loader:
    CATEGORY = "loaders/StyleInject"
    RETURN_TYPES = ("MODEL", "CLIP")
    FUNCTION = "load"

    def __init__(self) -> None:
        self.kept: dict[tuple[str, int, int], Adapter] = {}

    def put_on(self, model: Any, clip: Any, wishes: list[Wish]) -> tuple[Any, Any]:
        """The patchers with all adapters on them; those that came in stay as they are."""
        kept: dict[tuple[str, int, int], Adapter] = {}
        for wish in wishes:
            path = find(wish.file)
            key = (str(path), (status := path.stat()).st_mtime_ns, status.st_size)
            adapter = kept[key] = self.kept.get(key) or read_adapter(path)
            model, clip = attach(model, clip, adapter, wish)
        self.kept = kept
        return model, clip


class StyleInjectLoader(_Loader):
    """One adapter file: StyleInject's own, or any LoRA, LoHa, LoKr, OFT … file."""

    DESCRIPTION = "Loads an adapter of any family, with the weights of its styles."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        return {
            "required": {
                "model": ("MODEL",),
                "adapter": (folder_paths.get_filename_list("loras"),),
                "strength_model": _STRENGTH,
                "strength_clip": _STRENGTH,
                "styles": ("STRING", _STYLES),
            },
            "optional": {"clip": ("CLIP",)},
        }

    @classmethod
    def IS_CHANGED(cls, adapter: str, **_: Any) -> tuple[int, int]:  # noqa: N802 - ComfyUI's name
        status = find(adapter).stat()
        return status.st_mtime_ns, status.st_size

    def load(
        self, model: Any, adapter: str, strength_model: float, strength_clip: float, styles: str, clip: Any = None
    ) -> tuple[Any, Any]:
        return self.put_on(model, clip, [Wish(adapter, strength_model, strength_clip, read_weights(styles))])


class StyleInjectStack(_Loader):
    """Several adapters, a line each: FILE [strength [strength of the text encoders]] [style=weight …]"""

    DESCRIPTION = "Loads several adapters, a line each: FILE 0.8 ink=0.7 neon=0.3"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        example = "style.styleinject.safetensors 0.8 ink=0.7 neon=0.3\ndetail.safetensors 0.5"
        text = ("STRING", {"multiline": True, "default": "", "placeholder": example})
        return {"required": {"model": ("MODEL",), "adapters": text}, "optional": {"clip": ("CLIP",)}}

    @classmethod
    def IS_CHANGED(cls, adapters: str, **_: Any) -> list[tuple[int, int]]:  # noqa: N802 - ComfyUI's name
        found = [find(wish.file).stat() for wish in read_list(adapters)]
        return [(status.st_mtime_ns, status.st_size) for status in found]

    def load(self, model: Any, adapters: str, clip: Any = None) -> tuple[Any, Any]:
        return self.put_on(model, clip, read_list(adapters))


def find(name: str) -> Path:
    """The file of a name in ComfyUI's folders of LoRAs; UsageError where there is none."""
    path = folder_paths.get_full_path("loras", name)
    if path is None:
        raise UsageError("is no file in ComfyUI's folders of LoRAs", key=name, hint="Put it into models/loras")
    return Path(path)


NODE_CLASS_MAPPINGS: dict[str, Any] = {"StyleInjectLoader": StyleInjectLoader, "StyleInjectStack": StyleInjectStack}
NODE_DISPLAY_NAME_MAPPINGS = {
    "StyleInjectLoader": "Load adapter (StyleInject)",
    "StyleInjectStack": "Load adapters (StyleInject)",
}
