"""What offloading hooks are about to bring to a module that is being called.

They act within the call: whoever looks at a module's parameters just before it finds them away, on another device, or
empty where a disk has them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def find_parameter(module: nn.Module, name: str) -> Tensor | None:
    """A parameter with the values, and on the device, that the module's call will find; None where there is none.

    A tensor on the meta device is one that no hook is known to bring.
    """
    parameter = module._parameters.get(name)
    if parameter is None:
        return None
    group = _group_of(module)
    if group is None:
        return _of_accelerate(module, name, parameter)
    stored = find_stored(module, parameter)
    return (parameter.data if stored is None else stored).to(group.onload_device)


def find_stored(module: nn.Module, tensor: Tensor) -> Tensor | None:
    """The values of a tensor that a module's group keeps elsewhere, where the module's call will load the group."""
    group = _group_of(module)
    if group is None:
        return None
    if group.offload_to_disk_path is None:
        return group.cpu_param_dict.get(tensor)  # type: ignore[no-any-return]
    key = group.tensor_to_key.get(tensor)
    if key is None or not group._is_offloaded_to_disk:
        return None
    from safetensors import safe_open

    with safe_open(group.safetensors_file_path, framework="pt", device="cpu") as file:
        return file.get_tensor(key)  # type: ignore[no-any-return]


def _group_of(module: nn.Module) -> Any:
    """The group of diffusers' group offloading that the module's call will load."""
    registry = getattr(module, "_diffusers_hook", None)
    hook: Any = None if registry is None else registry.get_hook("group_offloading")
    return hook.group if hook is not None and hook.group.onload_leader in {None, module} else None


def _of_accelerate(module: nn.Module, name: str, parameter: Tensor) -> Tensor:
    """From the weights that a hook of accelerate keeps while the parameter is on the meta device."""
    if parameter.device.type != "meta":
        return parameter
    hook = getattr(module, "_hf_hook", None)
    for single in getattr(hook, "hooks", [hook]):
        weights = getattr(single, "weights_map", None)
        if weights is not None and getattr(single, "offload", False) and name in weights:
            stored: Tensor = weights[name]
            return stored.to(single.execution_device)
    return parameter
