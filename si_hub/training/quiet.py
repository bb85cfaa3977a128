"""Loading a pipeline without diffusers' and transformers' bars and advice; theirs are not ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def load_quietly() -> Any:
    """A context in which both libraries say nothing but errors; then they are as they were."""
    from contextlib import ExitStack

    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    stack = ExitStack()
    for library in (diffusers_logging, transformers_logging):
        if library.is_progress_bar_enabled():
            restore: Callable[[], None] = library.enable_progress_bar
            library.disable_progress_bar()
            stack.callback(restore)
        stack.callback(library.set_verbosity, library.get_verbosity())
        library.set_verbosity_error()
    return stack
