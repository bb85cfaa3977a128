"""Giving the mixin's methods to diffusers' own classes, and telling type checkers of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from si_hub.errors import UsageError
from si_hub.pipelines.mixin import StyleInjectLoaderMixin
from si_hub.tuner.model import register

if TYPE_CHECKING:
    from typing_extensions import TypeIs

_P = ParamSpec("_P")
_R = TypeVar("_R")

if TYPE_CHECKING:

    class Enabled(StyleInjectLoaderMixin, Generic[_P, _R]):
        """What a type checker takes `enable` to return: a pipeline's own call with our methods; it never exists.

        Components and what else diffusers' classes have are ``Any``, as they are there.
        """

        def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R: ...

        def __getattr__(self, name: str) -> Any: ...


@overload
def enable() -> None: ...
@overload
def enable(pipe: Callable[_P, _R]) -> Enabled[_P, _R]: ...
def enable(pipe: Any = None) -> Any:
    """Give every diffusers pipeline `StyleInjectLoaderMixin`'s methods, existing objects included.

    Calling it again changes nothing. A name that diffusers itself defines is never replaced.

    Args:
        pipe: a pipeline, for type checkers: ``pipe = si_hub.enable(pipe)`` has the methods to them.

    Returns:
        ``pipe`` itself.

    Raises:
        RuntimeError: diffusers has a method of one of the names; nothing is changed then.
        UsageError: ``pipe`` is no pipeline of diffusers.
    """
    from diffusers import DiffusionPipeline, ModularPipeline

    if not (pipe is None or is_enabled(pipe) or isinstance(pipe, DiffusionPipeline | ModularPipeline)):
        raise UsageError("is no pipeline of diffusers", key="pipe", found=type(pipe).__name__)
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
    return pipe


def is_enabled(pipe: object) -> TypeIs[StyleInjectLoaderMixin]:
    """Whether a pipeline has the methods; after ``assert is_enabled(pipe)`` type checkers know both."""
    own = vars(StyleInjectLoaderMixin)["load_styleinject_weights"]
    return getattr(type(pipe), "load_styleinject_weights", None) is own
