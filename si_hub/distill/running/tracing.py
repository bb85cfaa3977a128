"""What goes into a model's modules and which gradient comes back to their outputs, observed while it flows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from si_hub.distill.pair.change import ModuleKey

#: Called with the key, the module, its input and the gradient at its output, once for every call and backward pass.
Observer = Callable[[ModuleKey, nn.Module, Tensor, Tensor], None]


@contextmanager
def trace(modules: Mapping[ModuleKey, nn.Module], batch: int, observe: Observer) -> Iterator[None]:
    """Call ``observe`` for each of ``modules`` in every backward pass inside the block.

    No parameter needs a gradient: the graph begins at the first outputs. What a module makes once for the whole batch
    (position embeddings ``[1, length, width]``) is spread over it, so that every sample has a gradient of its own.

    Args:
        modules: by key.
        batch: samples in a forward pass.
        observe: see `Observer`.
    """

    def hook_of(key: ModuleKey) -> Callable[..., Tensor]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
            given = (args[0] if args else next(iter(kwargs.values()))).detach()
            if isinstance(module, nn.Embedding) and output.shape[0] == 1:
                output = output.expand(batch, *output.shape[1:])
            if not output.requires_grad:
                output = output.detach().requires_grad_()

            def take_gradient(gradient: Tensor) -> None:
                observe(key, module, given, gradient.detach())

            output.register_hook(take_gradient)  # type: ignore[no-untyped-call]
            return output

        return hook

    with ExitStack() as hooks:
        for key, module in modules.items():
            handle = module.register_forward_hook(hook_of(key), with_kwargs=True)
            hooks.callback(handle.remove)
        yield
