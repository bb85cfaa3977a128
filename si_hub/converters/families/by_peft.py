"""PEFT's own layers asked what they make of a weight: for its families whose formula is a setting of theirs."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from si_hub.converters.dense import BaseModule, Difference
from si_hub.converters.families.contract import SourceModule, Target
from si_hub.converters.families.scales import find_pattern
from si_hub.errors import LayerShapeError, UnsupportedFamily

if TYPE_CHECKING:
    import torch

#: Settings that say which modules are adapted or how they begin: the one module here is named by us.
_OURS = {
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save",
    "base_model_name_or_path", "auto_mapping", "task_type", "inference_mode", "revision", "bias", "peft_type",
    "peft_version",
}  # fmt: skip
#: Settings that say another one's value for some modules.
_PATTERNS = {
    "rank_pattern": "r", "alpha_pattern": "alpha", "n_frequency_pattern": "n_frequency", "lambda_pattern":
    "delora_lambda", "block_size_pattern": "block_size",
}  # fmt: skip
#: Whole numbers that are no size.
_NO_SIZES = ("seed", "key", "step", "alpha", "scaling")
#: The one module, in PEFT's names of its tensors.
_LAYER = "layer"
_PREFIX = "base_model.model."
_LAYERED = f"{_PREFIX}{_LAYER}"

#: Slot → names of its tensor.
TensorNames = Mapping[str, tuple[str, ...]]


def differ_by_peft(
    module: SourceModule,
    target: Target,
    own: BaseModule | None,
    kind: str,
    names: TensorNames,
    *,
    changes: str = "weight",
    shared: frozenset[str] = frozenset(),
    sizes: Mapping[str, int] | None = None,
) -> Difference:
    """What PEFT's merge makes of the base's weight or bias, less that, in float64.

    Args:
        own: the base's numbers; zeros where none are given, for what is only added to them.
        kind: PEFT's name of the family.
        names: what PEFT saves a slot's tensor as, after the module's name; whole names for what modules share.
        changes: ``weight``, ``bias`` or ``both``.
        shared: the names of tensors that are as large as the largest module needs, of which others have a part.
        sizes: settings that the tensors say.

    Raises:
        UnsupportedFamily: no configuration says the family's settings, or PEFT has no layer for this module.
        LayerShapeError: tensors that are not its parameters'.
    """
    settings = _read_settings(module, kind) | dict(sizes or {})
    has_bias = target.bias and changes != "weight"

    def merge(leaf: str) -> torch.Tensor:
        import torch

        before = {"weight": own.weight() if own else torch.zeros(target.shape, dtype=torch.float64)}
        if has_bias:
            before["bias"] = own.bias() if own else torch.zeros(target.shape[0], dtype=torch.float64)
        return _merge(module, target, kind, settings, names, shared, before)[leaf] - before[leaf]

    return Difference(
        None if changes == "bias" else lambda: merge("weight"), (lambda: merge("bias")) if has_bias else None
    )


def _read_settings(module: SourceModule, kind: str) -> dict[str, Any]:
    """The configuration of one module: PEFT's settings without those that name modules, patterns resolved."""
    config = dict(module.config or {})
    if str(config.get("peft_type", "")).upper() != kind:
        raise UnsupportedFamily(
            f"{kind} of PEFT, whose settings are in its configuration", file=module.file, key=module.stem,
            expected=f"adapter_config.json with peft_type {kind}", found=config.get("peft_type", "none"),
            hint="Keep adapter_config.json beside it.",
        )  # fmt: skip
    for pattern, name in _PATTERNS.items():
        found = find_pattern(config, pattern, module.reading.body, None)
        if found is not None:
            config[name] = found
    return {name: value for name, value in config.items() if name not in _OURS and name not in _PATTERNS}


def _merge(
    module: SourceModule,
    target: Target,
    kind: str,
    settings: Mapping[str, Any],
    names: TensorNames,
    shared: frozenset[str],
    before: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    import torch
    from peft import get_peft_model
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils import PeftType, get_peft_model_state_dict, set_peft_model_state_dict

    config_class: Any = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)]
    known = {name: value for name, value in settings.items() if name in config_class.__dataclass_fields__}
    _check_sizes(module, target, kind, known)
    held = {_name(text): tensor.torch() for slot, tensor in module.tensors.items() for text in names[slot]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = get_peft_model(_hold(target, before), config_class(target_modules=[_LAYER], **known))
            expected = get_peft_model_state_dict(model)
            _check_shapes(module, kind, held, expected, {_name(text) for text in shared})
            set_peft_model_state_dict(model, {name: _cut(held[name], one.shape) for name, one in expected.items()})
            layer: Any = model.base_model.model.get_submodule(_LAYER).double().eval()
            with torch.no_grad():
                layer.merge()
        except LayerShapeError:
            raise
        except (
            TypeError, ValueError, AttributeError, RuntimeError, LookupError, NotImplementedError, ImportError,
            AssertionError, ArithmeticError,
        ) as error:  # fmt: skip
            raise UnsupportedFamily(
                f"PEFT makes no {kind} layer of its configuration for this module", file=module.file, key=module.stem,
                found=str(error),
            ) from error  # fmt: skip
    base: Any = layer.get_base_layer()
    return {leaf: getattr(base, leaf).detach().reshape(one.shape) for leaf, one in before.items()}


def _name(suffix: str) -> str:
    return f"{_LAYERED}{suffix}" if suffix.startswith(".") else suffix


def _check_sizes(module: SourceModule, target: Target, kind: str, settings: Mapping[str, Any]) -> None:
    """Raise LayerShapeError for a size that is no axis of anything here: PEFT makes room for it before it looks."""
    axes = [size for tensor in module.tensors.values() for size in (*tensor.shape, tensor.count)]
    most = max((*axes, *target.shape, 64))
    for name, value in settings.items():
        if isinstance(value, int) and value > most and not any(part in name for part in _NO_SIZES):
            raise LayerShapeError(
                f"its {kind} configuration has a size that is none of its tensors'", file=module.file, key=module.stem,
                expected=f"{name} up to {most}", found=value,
            )  # fmt: skip


def _check_shapes(
    module: SourceModule,
    kind: str,
    held: Mapping[str, torch.Tensor],
    expected: Mapping[str, torch.Tensor],
    shared: Collection[str],
) -> None:
    """Raise LayerShapeError where the tensors are not those that PEFT would save of the layer."""
    for name, one in expected.items():
        found = held.get(name)
        is_shared = name in shared or name.removeprefix("base_model") in {one.removeprefix(_LAYERED) for one in shared}
        fits = found is not None and (
            found.ndim == one.ndim and all(a >= b for a, b in zip(found.shape, one.shape, strict=True))
            if is_shared else found.shape == one.shape
        )  # fmt: skip
        if not fits:
            raise LayerShapeError(
                f"is no parameter of PEFT's {kind} layer", file=module.file, key=module.stem,
                expected=f"{name.removeprefix(_PREFIX)} {list(one.shape)}",
                found="none" if found is None else f"{name.removeprefix(_PREFIX)} {list(found.shape)}",
            )  # fmt: skip
    extra = {name for name in held.keys() - expected.keys() if name not in shared and name.startswith(_PREFIX)}
    if extra:
        raise LayerShapeError(
            f"is no parameter of PEFT's {kind} layer", file=module.file, key=module.stem,
            expected=", ".join(sorted(expected)), found=", ".join(sorted(extra)),
        )  # fmt: skip


def _cut(tensor: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The beginning of a tensor along each axis: what a smaller module takes of what several share."""
    return tensor[tuple(slice(size) for size in shape)]


def _hold(target: Target, before: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """A model of one module with these numbers."""
    import torch
    from torch import nn

    out, width, *kernel = target.shape
    size: Any = tuple(kernel)
    made: nn.Module
    if target.kind == "embedding":
        made = nn.Embedding(out, width, dtype=torch.float64)
    elif kernel:
        made = nn.Conv2d(width, out, size, bias="bias" in before, dtype=torch.float64)
    else:
        made = nn.Linear(width, out, bias="bias" in before, dtype=torch.float64)
    with torch.no_grad():
        for leaf, values in before.items():
            getattr(made, leaf).copy_(values)
    model = nn.Module()
    model.add_module(_LAYER, made)
    return model
