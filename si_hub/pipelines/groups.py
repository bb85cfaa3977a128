"""diffusers' group offloading, taken off a model while its adapters change and put back as it was.

Its groups list a model's tensors when it is applied, and on a disk it believes every file that is there already.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from si_hub.tuner.layer import CHILD, all_modules

_HOOKS = ("group_offloading", "layer_execution_tracker", "lazy_prefetch_group_offloading")


@dataclass(frozen=True, slots=True)
class _Stored:
    """A group's file, and what its tensors were when they came from it: each tensor, its memory and its version."""

    group: Any
    file: Path
    tensors: tuple[tuple[Tensor, int, int], ...]

    def still_holds(self, present: set[nn.Module]) -> bool:
        """Whether the file is what the group's modules would be stored as now."""
        group = self.group
        if group.parameters or group.buffers or not present.issuperset(group.modules):
            return False
        now = [tensor for module in group.modules for tensor in (*module.parameters(), *module.buffers())]
        return [id(tensor) for tensor in dict.fromkeys(now)] == [id(tensor) for tensor, _, _ in self.tensors] and all(
            tensor.data_ptr() == memory and tensor._version == version for tensor, memory, version in self.tensors
        )


def is_grouped(model: nn.Module) -> bool:
    """Whether a model is offloaded in groups."""
    return next(_find_groups(model), None) is not None


class Groups:
    """The group offloading of one model, off from here on; every tensor is back in memory, mapped where it can be.

    Raises:
        OSError, safetensors.SafetensorError: a group's file is gone or broken; the model is as it was then.
    """

    def __init__(self, model: nn.Module) -> None:
        from diffusers.hooks import HookRegistry

        self.model = model
        groups = list(_find_groups(model))
        self.config = groups[0][1] if groups else None
        self.stored: list[_Stored] = []
        on_disk = [(group, _read(group)) for group, _ in groups if group.offload_to_disk_path is not None]
        for group, tensors in on_disk:
            self.stored.append(_bring_back(group, tensors))
        for name in _HOOKS if groups else ():
            HookRegistry.check_if_exists_or_initialize(model).remove_hook(name, recurse=True)

    def put_back(self) -> None:
        """Offload again; files that hold something else by now are written anew."""
        from diffusers.hooks.group_offloading import _apply_group_offloading

        if self.config is None:
            return
        present = set(self.model.modules())
        kept = {stored.file for stored in self.stored if stored.still_holds(present)}
        for file in {stored.file for stored in self.stored} | self._files_of_adapters():
            if file not in kept:
                with suppress(FileNotFoundError):
                    file.unlink()
        self.stored.clear()
        _apply_group_offloading(self.model, self.config)

    def _files_of_adapters(self) -> set[Path]:
        from diffusers.hooks.group_offloading import _compute_group_hash

        folder = self.config.offload_to_disk_path if self.config else None
        ours = (name for name, _ in self.model.named_modules() if CHILD in name)
        return set() if folder is None else {Path(folder, f"group_{_compute_group_hash(n)}.safetensors") for n in ours}


def _find_groups(model: nn.Module) -> Iterator[tuple[Any, Any]]:
    """Every group once, with the settings it was made from; the model's own settings first."""
    seen: set[int] = set()
    for module in all_modules(model):
        registry = vars(module).get("_diffusers_hook")
        hook = None if registry is None else registry.get_hook(_HOOKS[0])
        if hook is not None and id(hook.group) not in seen:
            seen.add(id(hook.group))
            yield hook.group, hook.config


def _read(group: Any) -> dict[str, Tensor]:
    """A group's tensors by their names in its file; none where it was never written, and so never left the memory."""
    from safetensors.torch import load_file

    if not group._is_offloaded_to_disk:
        return {}
    Path(group.safetensors_file_path).stat()  # whose error names the file, other than that of safetensors
    tensors: dict[str, Tensor] = load_file(group.safetensors_file_path, device="cpu")
    if os.name == "nt":
        # A file that is mapped cannot be replaced there.
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    return tensors


@torch.no_grad()
def _bring_back(group: Any, tensors: dict[str, Tensor]) -> _Stored:
    for name, tensor in group.key_to_tensor.items():
        if name in tensors:
            tensor.data = tensors[name]
    known = tuple((tensor, tensor.data_ptr(), tensor._version) for tensor in group.tensor_to_key)
    return _Stored(group, Path(group.safetensors_file_path), known)
