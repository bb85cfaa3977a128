"""The scale of every module, wherever the source keeps it: an alpha tensor, a PEFT configuration, or nowhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from si_hub.converters.families.contract import SourceModule
from si_hub.converters.numbers import number
from si_hub.errors import FormatError, LayerShapeError, NotFinite, UnsupportedFamily
from si_hub.expressions import PatternTable, read_patterns

#: PEFT settings that make a LoRA more than ΔW = scale · B · A, and the values for which they do.
_UNSUPPORTED: dict[str, Callable[[Any], bool]] = {
    "use_dora": bool,
    "use_qalora": bool,
    "alora_invocation_tokens": bool,
    "layer_replication": bool,
    "arrow_config": bool,
    # These change the base model's weights when the adapter is loaded.
    "init_lora_weights": lambda value: str(value).startswith(("pissa", "olora", "corda", "loftq", "lora_ga", "milora")),
}
#: PEFT's families whose tensors are named as LyCORIS names them, which has an alpha tensor beside them.
_KINDS_WITHOUT_ALPHA = {"LOHA", "LOKR"}


def read_alpha(module: SourceModule) -> float | None:
    """The alpha tensor's value, of any dtype and with one element of any shape; 0 is None, the rank, as in kohya's.

    Raises:
        FormatError: more than one element, or a dtype no alpha has.
        NotFinite: NaN or infinity.
    """
    tensor, name = module.tensors["alpha"], module.names["alpha"]
    try:
        value = number(tensor)
    except ValueError as error:
        raise FormatError(str(error), file=module.file, key=name) from error
    if not math.isfinite(value):
        raise NotFinite("an alpha must be finite", file=module.file, key=name, found=value)
    return value or None


def read_limit(module: SourceModule) -> float | None:
    """What an OFT's alpha tensor limits its rotations to; ``None`` where nothing does: no alpha, or LyCORIS's 0.

    Raises:
        FormatError, NotFinite: as `read_alpha`.
    """
    if "alpha" not in module.tensors:
        return None
    limit = read_alpha(module)
    # kohya's trainer holds them to 0 then, and LyCORIS to nothing.
    return 0.0 if limit is None and module.reading.prefix.startswith("oft_") else limit


def config_alpha(module: SourceModule, path: str, rank: int | None, config: Mapping[str, Any]) -> float:
    """alpha of a module under a PEFT configuration: patterns first, and rank-stabilised scales folded in.

    PEFT scales by alpha / r, with ``use_rslora`` by alpha / √r; the result over ``rank`` is that scale.

    Args:
        path: the module's name as PEFT knew it.
        rank: ``None`` for a module without one, whose scale is returned.

    Raises:
        UnsupportedFamily: the configuration asks for what a LoRA cannot express.
        FormatError, LayerShapeError: a value of the wrong kind, a pattern that is not understood; another rank than
            the tensors'.
    """
    for setting, value in config.items():
        if setting == "use_dora" and "magnitude" in module.tensors:
            continue
        if (reason := _UNSUPPORTED.get(setting)) and value and reason(value):
            raise UnsupportedFamily(
                f"its configuration sets {setting}, which a plain LoRA cannot express",
                file=module.file, key=module.stem, found=f"{setting} = {value}",
            )  # fmt: skip
    given = _number(module, find_pattern(config, "rank_pattern", path, config.get("r", rank or 1)), "r")
    key = "lora_alpha" if "lora_alpha" in config else "alpha"
    alpha = _number(module, find_pattern(config, "alpha_pattern", path, config.get(key, given)), key)
    if rank is None:
        return alpha / given if given else 1.0
    if given != rank:
        raise LayerShapeError(
            "its rank differs from the configuration's", file=module.file, key=next(iter(module.names.values())),
            expected=f"r = {given:g}", found=rank,
        )  # fmt: skip
    return _number(module, alpha * math.sqrt(rank), "lora_alpha") if config.get("use_rslora") else alpha


def config_of(
    configs: Mapping[str, Mapping[str, Any]], module: SourceModule, component: str
) -> Mapping[str, Any] | None:
    """PEFT's configuration of a module, where there is one: its component's, or that for all."""
    common = configs.get("", {})
    own = module.spelling == "peft" or str(common.get("peft_type", "")).upper() in _KINDS_WITHOUT_ALPHA
    return configs.get(component, common if own and common else None)


def resolve_alpha(module: SourceModule, path: str, rank: int | None) -> float | None:
    """The numerator of alpha / rank, wherever the source keeps it; ``None`` where it is the rank.

    Args:
        path: of the module, as the source names it.
        rank: of the module; ``None`` for a family whose scale stands in a configuration alone.

    Raises:
        FormatError, LayerShapeError, NotFinite, UnsupportedFamily: as `read_alpha` and `config_alpha`.
    """
    if rank is not None and "alpha" in module.tensors:
        return read_alpha(module)
    if "alpha" in module.tensors or module.config is None:
        return None
    return config_alpha(module, path, rank, module.config)


def find_pattern(config: Mapping[str, Any], name: str, path: str, default: Any) -> Any:
    """A value for ``path`` by a table of patterns, as `si_hub.converters.source` reads them."""
    patterns = config.get(name)
    if isinstance(patterns, dict):
        patterns = read_patterns(patterns, name)
    return patterns.find(path, default) if isinstance(patterns, PatternTable) else default


def _number(module: SourceModule, value: Any, name: str) -> float:
    """A setting as a number.

    Raises:
        FormatError: it is none, or one that no float holds.
    """
    try:
        # Python's whole numbers have no end; floats have.
        number = math.nan if isinstance(value, bool) or not isinstance(value, (int, float)) else float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise FormatError(
            "the adapter's configuration has no usable number", file=module.file, key=name, found=repr(value)[:60]
        )
    return number
