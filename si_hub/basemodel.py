"""The base model that a user names for a conversion: what it is, and its weights where an adapter needs them.

A name says what a base model is; a folder, a checkpoint or a repository of the local cache has its weights as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from si_hub.architectures import Architecture, resolve
from si_hub.converters.dense import Parameter, Weights
from si_hub.distill.pair.model import ModelOnDisk
from si_hub.distill.pair.opening import find_cached, open_model
from si_hub.errors import UsageError
from si_hub.hub.names import as_ref


@dataclass(slots=True)
class ModelWeights(Mapping[str, Mapping[str, Parameter]]):
    """The weights of a model by component, unread; the model is opened when the first of them is asked for.

    Attributes:
        path: a folder, a checkpoint, or a repository of the local cache.
    """

    path: str
    _model: ModelOnDisk | None = field(default=None, repr=False)

    @property
    def model(self) -> ModelOnDisk:
        """The opened model; errors as `si_hub.distill.pair.opening.open_model`."""
        if self._model is None:
            self._model = open_model(self.path)
        return self._model

    def __getitem__(self, component: str) -> Mapping[str, Parameter]:
        return self.model.components[component]

    def __iter__(self) -> Iterator[str]:
        return iter(self.model.components)

    def __len__(self) -> int:
        return len(self.model.components)


def find_base(base: str | Path | Architecture | None) -> tuple[Architecture | None, Weights | None]:
    """What a user named as the base model, and its weights where there are any on this machine.

    Raises:
        UsageError: no base model is called so, and there is no such folder, file or cached repository.
        SiHubError: as `si_hub.architectures.resolve`.
    """
    if base is None:
        return None, None
    if not isinstance(base, str | Path):
        return resolve(base), None
    # Path.exists raises where a name cannot be a file's, such as one that is too long.
    there = os.path.exists(base)
    weights = ModelWeights(str(base)) if there or find_cached(as_ref(base)) else None
    try:
        return resolve(base), weights
    except UsageError:
        # A repository whose name says nothing: what is in the cache says it.
        if weights is None or there:
            raise
        return weights.model.architecture, weights
