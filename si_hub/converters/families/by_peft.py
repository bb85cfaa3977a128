"""PEFT's own layers asked what they make of a weight: for its families whose formula is a setting of theirs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from si_hub.converters.dense import BaseModule, Difference
from si_hub.converters.families.contract import SourceModule, Target
from si_hub.errors import LayerShapeError, UnsupportedFamily
from si_hub.storage.tensors import Tensor

if TYPE_CHECKING:
    import torch

_NAME = "default"
#: Settings that say which modules are adapted or how they begin: the one module here is named by us.
_OURS = {
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save", "rank_pattern",
    "alpha_pattern", "base_model_name_or_path", "auto_mapping", "task_type", "inference_mode", "revision", "bias",
}  # fmt: skip


def differ_by_peft(
    module: SourceModule, target: Target, own: BaseModule, kind: str, names: Mapping[str, str]
) -> Difference:
    """What PEFT's merge makes of the base's weight, less the weight, in float64; biases stay as they are.

    Args:
        kind: PEFT's name of the family.
        names: parameter of PEFT's layer, ``{}`` for the adapter's name, by slot.

    Raises:
        UnsupportedFamily: no configuration says the family's settings, or PEFT has no layer for this module.
        LayerShapeError: tensors that are not its parameters'.
    """
    settings = dict(module.config or {})
    if str(settings.get("peft_type", "")).upper() != kind:
        raise UnsupportedFamily(
            f"{kind} of PEFT, whose settings are in its configuration", file=module.file, key=module.stem,
            expected=f"adapter_config.json with peft_type {kind}", found=settings.get("peft_type", "none"),
            hint="Keep adapter_config.json beside it.",
        )  # fmt: skip
    held = {names[slot].format(_NAME): tensor for slot, tensor in module.tensors.items()}

    def merge() -> torch.Tensor:
        weight = own.weight()
        return (_merge(module, kind, settings, held, weight) - weight).reshape(target.shape)

    return Difference(merge)


def _merge(
    module: SourceModule, kind: str, settings: Mapping[str, Any], held: Mapping[str, Tensor], weight: torch.Tensor
) -> torch.Tensor:
    import torch
    from peft import inject_adapter_in_model
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils import PeftType

    config_class: Any = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)]
    known = set(config_class.__dataclass_fields__) - _OURS - {"peft_type", "peft_version"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            config = config_class(target_modules=["layer"], **{k: v for k, v in settings.items() if k in known})
            model = inject_adapter_in_model(config, _hold(weight), _NAME)
        except (TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UnsupportedFamily(
                f"PEFT makes no {kind} layer of its configuration for this module", file=module.file, key=module.stem,
                found=str(error),
            ) from error  # fmt: skip
        layer: Any = model.layer
        own = dict(layer.named_parameters())
        for name, tensor in held.items():
            parameter = own.get(name)
            if parameter is None or tuple(parameter.shape) != tensor.shape:
                raise LayerShapeError(
                    f"is no parameter of PEFT's {kind} layer", file=module.file, key=module.stem,
                    expected=f"{name} {list(parameter.shape)}" if parameter is not None else ", ".join(sorted(own)),
                    found=f"{name} {list(tensor.shape)}",
                )  # fmt: skip
            parameter.data = tensor.torch().double()
        with torch.no_grad():
            layer.merge()
    merged: torch.Tensor = layer.get_base_layer().weight.detach()
    return merged


def _hold(weight: torch.Tensor) -> torch.nn.Module:
    """A model of one module, ``layer``, with this weight."""
    import torch
    from torch import nn

    out, width, *kernel = weight.shape
    model = nn.Module()
    kind: dict[str, Any] = {"bias": False, "dtype": torch.float64}
    size: Any = tuple(kernel)
    model.layer = nn.Conv2d(width, out, size, **kind) if kernel else nn.Linear(width, out, **kind)
    with torch.no_grad():
        model.layer.weight.copy_(weight)
    return model
