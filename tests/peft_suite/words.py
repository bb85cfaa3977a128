"""A configuration class that is called in a LoRA's words and makes one of ours: what PEFT's own tests are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from si_hub.adapter import TRANSFORMS
from si_hub.errors import UnknownField
from si_hub.tuner import StyleInjectConfig

#: A LoRA's word → ours.
_SAME = {"lora_alpha": "alpha", "init_lora_weights": "init_weights", "lora_bias": "train_bias"}
#: What a LoRA has beyond ours → values that say nothing, because they switch it off.
_OFF: dict[str, set[str | bool]] = {
    "bias": {"none"}, "use_rslora": {False}, "use_dora": {False}, "fan_in_fan_out": {False},
}  # fmt: skip
#: What only regularises a LoRA's training, whatever its value.
_TRAINING = {"lora_dropout"}


@dataclass(frozen=True)
class Variant:
    """One kind of adapter: ``add``, ``variance-3-learned`` ..."""

    transform: str
    branches: int
    router: str

    @property
    def name(self) -> str:
        """The transform, and the number of branches and the router where there is one."""
        return self.transform if self.branches == 1 else f"{self.transform}-{self.branches}-{self.router}"

    @property
    def merges(self) -> bool:
        """Whether it is a matrix that can be added to the base's, for every input the same."""
        return self.transform == "add" and (self.branches == 1 or self.router == "fixed")


#: One branch (which has no router) and three, every transform, both routers.
VARIANTS = {
    variant.name: variant
    for transform in TRANSFORMS
    for variant in (
        Variant(transform, 1, "learned"),
        Variant(transform, 3, "learned"),
        Variant(transform, 3, "fixed"),
    )
}


def translate(words: dict[str, Any], variant: Variant) -> dict[str, Any]:
    """A LoRA's words as those of a StyleInjectConfig; what it has no word for stays, and is refused by it."""
    ours: dict[str, Any] = {"transform": variant.transform, "num_branches": variant.branches, "router": variant.router}
    for name, value in words.items():
        if name in _TRAINING or (isinstance(value, (str, bool)) and value in _OFF.get(name, ())):
            continue
        own_beginning = name == "init_lora_weights" and not isinstance(value, bool)
        ours[name if own_beginning else _SAME.get(name, name)] = value
    return ours


def is_sayable(words: dict[str, Any], variant: Variant) -> bool:
    """Whether a StyleInjectConfig has a word for everything in a LoRA's configuration."""
    try:
        StyleInjectConfig(**translate(words, variant))
    except UnknownField:
        return False
    except ValueError:
        return True
    return True


class _LoraWords(type):
    """Calls make one of ours, and one of ours is an instance, whoever made it."""

    variant: Variant

    def __call__(cls, *args: Any, **words: Any) -> Any:
        return StyleInjectConfig(*args, **translate(words, cls.variant))

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, StyleInjectConfig)


def stand_in(variant: Variant) -> type:
    """The class to take the place of ``peft.LoraConfig``."""
    return _LoraWords("LoraConfig", (StyleInjectConfig,), {"variant": variant, "__module__": "peft"})
