"""The one in-memory form that every room speaks: adapter → components → layers → tensors.

The formula a layer stands for is in ``docs/FORMAT.md``; this module only holds it. Everything here is free of
torch: tensors are descriptions of where bytes are (`si_hub.storage.tensors.Tensor`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from si_hub.storage.tensors import Tensor

Transform = Literal["add", "variance", "restyle", "adain"]
Pool = Literal["mean"]
TRANSFORMS: tuple[str, ...] = get_args(Transform)
POOLS: tuple[str, ...] = get_args(Pool)

#: Every leaf a layer may carry, with its shape in the words of docs/FORMAT.md. Tensor names end in one of these.
LEAVES: dict[str, str] = {
    "down.weight": "[n * rank, in, *kernel], with a core [q, in]",
    "up.weight": "[out, rank]",
    "down.scale": "[n * rank]",
    "core.weight": "[n * rank, q, *kernel]",
    "router.weight": "[n, in]",
    "router.bias": "[n]",
    "gain": "[out]",
    "gain_in": "[in]",
    "turn": "[blocks, out / blocks, out / blocks]",
    "turn_in": "[blocks, in / blocks, in / blocks]",
    "weight_delta": "shape of the base weight",
    "bias_delta": "shape of the base bias",
    "param_delta": "shape of the bare parameter",
    "kron": "[o1, i1]",
    "alpha": "[]",
}


@dataclass(slots=True)
class Layer:
    """What an adapter does to one module of the base model.

    Attributes:
        tensors: leaf name (a key of `LEAVES`, never ``alpha``) to tensor. A pair of whole numbers is here the floats
            that it stands for (`si_hub.format.whole`), without ``down.scale``.
        alpha: numerator of the scale alpha / rank; ``None`` means alpha = rank, a scale of one.
        transform: the injection T.
        pool: how the router sees the input.
        groups: groups of a grouped base convolution; ``up.weight`` is then ``[out, rank / groups]``.
    """

    tensors: dict[str, Tensor]
    alpha: float | None = None
    transform: Transform = "add"
    pool: Pool = "mean"
    groups: int = 1

    @property
    def rank(self) -> int:
        """Rank of the low-rank pair, 0 where there is none."""
        up = self.tensors.get("up.weight")
        return 0 if up is None else up.shape[1] * self.groups

    @property
    def branches(self) -> int:
        """Number n of parallel down matrices (cores, where there are some), 0 where there is no low-rank pair."""
        first = self.tensors.get("core.weight", self.tensors.get("down.weight"))
        return 0 if first is None or self.rank == 0 else first.shape[0] // self.rank

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return 1.0 if self.alpha is None or self.rank == 0 else self.alpha / self.rank


@dataclass(slots=True)
class Component:
    """One model of the pipeline: its class name, its layers by frozen module path, embeddings by token."""

    class_name: str | None = None
    layers: dict[str, Layer] = field(default_factory=dict)
    embeddings: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The model an adapter is made for."""

    architecture: str
    repo_id: str | None = None
    revision: str | None = None
    prediction_type: str | None = None
    sha256: str | None = None


@dataclass(slots=True)
class Adapter:
    """A whole StyleInject adapter.

    Attributes:
        base_model: what it is made for.
        components: by the pipeline's attribute name (``unet``, ``text_encoder_2`` ...).
        branches: names of the branches, empty where they have none.
        about: the document's descriptive fields as they are (title, author, license, trigger_words,
            preview_prompts, tags, provenance, fidelity, training, extensions and unknown optional ones).
        metadata: foreign header metadata, preserved.
    """

    base_model: BaseModel
    components: dict[str, Component]
    branches: tuple[str, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
