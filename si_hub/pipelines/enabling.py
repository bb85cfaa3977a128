"""Giving the mixin's methods to diffusers' own classes."""

from __future__ import annotations

from si_hub.pipelines.mixin import StyleInjectLoaderMixin
from si_hub.tuner.model import register


def enable() -> None:
    """Give every diffusers pipeline `StyleInjectLoaderMixin`'s methods, existing objects included.

    Calling it again changes nothing. A name that diffusers itself defines is never replaced.

    Raises:
        RuntimeError: diffusers has a method of one of the names; nothing is changed then.
    """
    from diffusers import DiffusionPipeline, ModularPipeline

    register()

    methods = {name: member for name, member in vars(StyleInjectLoaderMixin).items() if not name.startswith("_")}
    for cls in (DiffusionPipeline, ModularPipeline):
        taken = [name for name, member in methods.items() if vars(cls).get(name, member) is not member]
        if taken:
            raise RuntimeError(
                f"{cls.__name__} of this diffusers has its own {', '.join(taken)}; inherit StyleInjectLoaderMixin"
            )
    for cls in (DiffusionPipeline, ModularPipeline):
        for name, member in methods.items():
            setattr(cls, name, member)
