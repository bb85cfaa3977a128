"""The PEFT configuration of a StyleInject adapter, in the words of a LoRA's."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import peft.utils.peft_types as peft_types
from peft import PeftConfig

from si_hub.adapter import POOLS, TRANSFORMS
from si_hub.errors import FormatError, UnknownField, UsageError

TUNER_NAME = "styleinject"
ROUTERS = ("learned", "fixed")


def extend_peft_type() -> peft_types.PeftType:
    """The member ``STYLEINJECT`` of PEFT's closed enum, added once.

    PEFT looks types up by value, by name and by iterating, so the member goes into all three tables.
    """
    value = TUNER_NAME.upper()
    members = peft_types.PeftType._member_map_
    if value not in members:
        member = str.__new__(peft_types.PeftType, value)
        member._name_ = value
        member._value_ = value
        type.__setattr__(peft_types.PeftType, value, member)
        members[value] = member
        peft_types.PeftType._member_names_.append(value)
        peft_types.PeftType._value2member_map_[value] = member
    found: peft_types.PeftType = members[value]
    return found


@dataclass
class StyleInjectConfig(PeftConfig):
    """What to train.

    Of an adapter that diffusers' ``add_adapter`` added, ``unet.set_adapters(name, weight)`` takes a number only: tables
    by block are resolved there per LoRA layer, and would count as 1. ``pipe.set_styleinject_adapters(name, table)``
    and `si_hub.tuner.set_active` weigh blocks and modules, exactly.

    Attributes:
        r: rank of every low-rank pair.
        alpha: numerator of the scale alpha / r; None means alpha = r, a scale of one.
        num_branches: n parallel down matrices. More than one pays where many styles are trained together.
        branches: names of the branches, one each, so that ``set_styles`` can mix them.
        transform: the injection T, see docs/FORMAT.md. docs/CLAIM.md measures them: ``add`` learns most per number.
        pool: how the router sees the input.
        router: ``learned`` per instance, or ``fixed``: the same for every input.
        target_modules: names or path endings, or a regular expression that matches whole paths. None: those that a
            LoRA adapts in a transformers model of this type.
        exclude_modules: the same, for modules to leave out.
        rank_pattern: rank by path ending or regular expression, where it is not ``r``.
        alpha_pattern: alpha likewise.
        core: share one 1×1 down matrix and give each branch a small spatial core, on convolutions with a kernel larger
            than 1; everything else gets a plain pair. The inner rank q is the pair's rank.
        train_bias: also train a difference of each module's bias.
        train_gain: also train a factor on each output channel of each module.
        gain_modules: further modules, matched like ``target_modules``, that get a trained factor per output channel
            (and, with ``train_bias``, a difference of the bias) but no low-rank pair: norms as well as linear layers
            and convolutions. One that ``target_modules`` matches too has both.
        init_weights: True: random down, zero up and router, so that training starts exactly at the base. False:
            random up and router too, for tests.
        layers_to_transform: of modules that ``target_modules`` lists by name, the layers by number.
        layers_pattern: what the list of these layers is called, where it is not any.
        modules_to_save: modules that are trained whole and saved beside the adapter, as a LoRA's; PEFT's own files hold
            them, a StyleInject file does not.
    """

    r: int = 8
    alpha: float | None = None
    num_branches: int = 1
    branches: list[str] | None = None
    transform: str = "add"
    pool: str = "mean"
    router: str = "learned"
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    core: bool = False
    train_bias: bool = False
    train_gain: bool = False
    gain_modules: list[str] | str | None = None
    init_weights: bool = True
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None

    #: Whether a file says it, a stranger's perhaps: then its expressions are matched by `si_hub.expressions`.
    from_file: ClassVar[bool] = False

    @classmethod
    def from_peft_type(cls, **kwargs: Any) -> Any:
        """What PEFT makes of a file's settings."""
        return super().from_peft_type(**{"peft_type": TUNER_NAME.upper(), **kwargs})

    def __post_init__(self) -> None:
        super().__post_init__()
        # Files say their type, which nobody who writes StyleInjectConfig(...) does.
        said: Any = getattr(self, "peft_type", None)
        if said is not None:
            self.__dict__["from_file"] = True
            _check_names(self)
        self.peft_type = extend_peft_type()
        for name in ("target_modules", "exclude_modules", "gain_modules"):
            value = getattr(self, name)
            setattr(self, name, set(value) if isinstance(value, (list, tuple)) else value)
        _check(self)


def _check_names(config: StyleInjectConfig) -> None:
    """PEFT would put these into expressions of its own; of a stranger's only names go there."""
    for setting in ("layers_pattern", "modules_to_save"):
        held = getattr(config, setting)
        for name in [held] if isinstance(held, str) else held or ():
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise FormatError(
                    "is no module's name", key=setting, expected="letters, digits, _, - and dots", found=str(name)
                )


_NAME = re.compile(r"[\w.-]{1,256}", re.ASCII)


def _check(config: StyleInjectConfig) -> None:
    for name, allowed in (("transform", TRANSFORMS), ("pool", POOLS), ("router", ROUTERS)):
        value = getattr(config, name)
        if value not in allowed:
            raise UsageError("unknown value", key=name, expected=" | ".join(allowed), found=value)
    for name in ("r", "num_branches"):
        if getattr(config, name) < 1:
            raise UsageError("has to be 1 or more", key=name, found=getattr(config, name))
    if config.branches is not None and len(set(config.branches)) != config.num_branches:
        raise UsageError(
            "needs one name per branch, all different",
            key="branches",
            expected=config.num_branches,
            found=config.branches,
        )
    for name in ("layers_to_transform", "layers_pattern"):
        for setting in ("target_modules", "gain_modules"):
            if isinstance(getattr(config, setting), str) and getattr(config, name) is not None:
                raise UsageError(
                    f"`{name}` cannot be used when `{setting}` is a str",
                    hint="Name the layers in the expression itself",
                )
    if config.layers_pattern and config.layers_to_transform is None:
        raise UsageError(
            "When `layers_pattern` is specified, `layers_to_transform` must also be specified",
            hint="Say which of the layers by their numbers",
        )


#: What a LoRA's configuration has → what there is for it here.
_INSTEAD = {
    "lora_alpha": "alpha= is what a LoRA calls lora_alpha",
    "init_lora_weights": "init_weights= is what a LoRA calls init_lora_weights",
    "bias": "train_bias=True trains a difference of each adapted module's bias",
    "lora_bias": "train_bias=True trains a difference of each adapted module's bias",
    "use_rslora": "alpha=a * r ** 0.5 scales as use_rslora does with lora_alpha=a",
    "lora_dropout": "There is no dropout here",
    "use_dora": "There are no magnitudes here; train_gain=True trains a factor of each output",
    "target_parameters": "Parameters are not trained here, modules are: target_modules=",
    "fan_in_fan_out": "Weights of torch's own layout are adapted only",
    "trainable_token_indices": "Tokens are not trained here",
}


def _refuse_unknown(init: Any) -> Any:
    """PEFT drops the fields it does not know with a warning; a field that changes a model's meaning is not dropped."""
    known = {f.name for f in fields(StyleInjectConfig)}

    @functools.wraps(init)
    def check_fields(self: StyleInjectConfig, *args: Any, **kwargs: Any) -> None:
        unknown = sorted(kwargs.keys() - known)
        if unknown:
            hints = [_INSTEAD[name] for name in unknown if name in _INSTEAD]
            raise UnknownField(
                "unknown field in a StyleInject configuration",
                key=", ".join(unknown),
                hint="; ".join(hints) or "Upgrade si-hub, or take the field out of adapter_config.json",
            )
        init(self, *args, **kwargs)

    return check_fields


StyleInjectConfig.__init__ = _refuse_unknown(StyleInjectConfig.__init__)  # type: ignore[method-assign]
