"""Where pictures pull at a model: the gradient of every module's weight at the base, kept as its leading directions.

Before anything is trained, the loss of a few hundred noisy pictures is differentiated by the weights themselves, one
module at a time: no gradient outlives its module's turn but in two small sketches, from which its singular values and
right singular vectors follow (Halko, Martinsson and Tropp, SIAM Review 53, 2011; two-sided as in Tropp et al., SIAM J.
Matrix Anal. 38, 2017, algorithm 7). `si_hub.training.dealing` deals ranks out by them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from si_hub.errors import UsageError
from si_hub.words import option
from si_hub.work.seeds import seed_of

#: Columns of a sketch beyond the directions that are wanted of it.
_SPARE = 8
#: fp16 holds no smaller gradients than these times the loss.
_LIFT = 1024.0


@dataclass(frozen=True, slots=True)
class Pull:
    """The leading directions of one module's gradient.

    Attributes:
        strengths: singular values ``[k]``, falling.
        reads: right singular vectors ``[k, in · kernel]``: what of its input the module would read.
        numbers: numbers that one rank costs in this module: a row of A and a column of B.
    """

    strengths: Tensor
    reads: Tensor
    numbers: int


class _Sketch:
    """The sum of a matrix's gradients: itself where that is small, else seen from both sides at random.

    Args:
        shape: ``(out, in · kernel)``.
        directions: how many are wanted.
        seed: of what it is seen by.
    """

    def __init__(self, shape: tuple[int, int], directions: int, seed: int, device: torch.device) -> None:
        out, into = shape
        self.directions = min(directions, out, into)
        width = self.directions + _SPARE
        tall = 2 * width + 1
        self.whole = out * into <= width * out + tall * into
        if self.whole:
            self.sum = torch.zeros(shape, device=device)
            return
        generator = torch.Generator().manual_seed(seed)
        self.right = torch.randn(into, width, generator=generator).to(device)
        self.left = torch.randn(tall, out, generator=generator).to(device)
        self.columns = torch.zeros(out, width, device=device)
        self.rows = torch.zeros(tall, into, device=device)

    def add(self, gradient: Tensor) -> None:
        """One more gradient, in the module's own shape."""
        matrix = gradient.detach().float().flatten(1)
        if self.whole:
            self.sum += matrix
        else:
            self.columns += matrix @ self.right
            self.rows += self.left @ matrix

    def finite(self) -> bool:
        """Whether every gradient was."""
        held = (self.sum,) if self.whole else (self.columns, self.rows)
        return all(bool(torch.isfinite(one).all()) for one in held)

    def leading(self) -> tuple[Tensor, Tensor]:
        """Singular values ``[k]`` and right singular vectors ``[k, in · kernel]``, its largest entries above 0."""
        if self.whole:
            matrix = self.sum.cpu().double()
        else:
            basis = torch.linalg.qr(self.columns.cpu().double())[0]
            matrix = torch.linalg.lstsq(self.left.cpu().double() @ basis, self.rows.cpu().double()).solution
        _, strengths, reads = torch.linalg.svd(matrix, full_matrices=False)
        strengths, reads = strengths[: self.directions], reads[: self.directions]
        highest = reads.gather(1, reads.abs().argmax(1, keepdim=True))
        return strengths.float(), (reads * highest.sign()).float()


def as_tensors(pulls: Mapping[str, Pull]) -> tuple[dict[str, Tensor], dict[str, int]]:
    """What was found, as tensors to keep by name, and the numbers that a rank costs by path."""
    tensors: dict[str, Tensor] = {}
    for path, pull in pulls.items():
        tensors |= {f"{path}.strengths": pull.strengths, f"{path}.reads": pull.reads}
    return tensors, {path: pull.numbers for path, pull in pulls.items()}


def from_tensors(tensors: Mapping[str, Tensor], numbers: Mapping[str, int]) -> dict[str, Pull]:
    """What `as_tensors` was given."""
    return {path: Pull(tensors[f"{path}.strengths"], tensors[f"{path}.reads"], cost) for path, cost in numbers.items()}


def survey(
    modules: Mapping[str, nn.Module],
    losses: Iterator[Callable[[], Tensor]],
    directions: int,
    *,
    seed: int = 0,
    lifted: bool = False,
) -> dict[str, Pull]:
    """Differentiate losses by the weights of modules, which stay as they are.

    Args:
        modules: linear layers and convolutions of one group, by path.
        losses: each computes the loss of a few samples.
        directions: how many of every module are wanted.
        seed: of the sketches of large modules.
        lifted: whether gradients are computed in fp16, and lifted into its range.

    Returns:
        By path, what pulls there.

    Raises:
        UsageError: a gradient is infinite or not a number.
    """
    sketches: dict[str, _Sketch] = {}
    with _watched(modules, sketches, directions, seed):
        for compute in losses:
            loss = compute() * (_LIFT if lifted else 1.0)
            loss.backward()  # type: ignore[no-untyped-call]
    found = {}
    for path, module in modules.items():
        if path not in sketches:
            continue
        if not sketches[path].finite():
            raise UsageError(
                "the gradient of a module is not finite in this precision", key=path,
                hint=f"Train in another one, {option('precision', 'bf16')}, or with {option('ranks', 'even')}",
            )  # fmt: skip
        strengths, reads = sketches[path].leading()
        weight = _weight(module)
        found[path] = Pull(strengths, reads, weight.shape[0] + weight[0].numel())
    return found


@contextmanager
def _watched(
    modules: Mapping[str, nn.Module], sketches: dict[str, _Sketch], directions: int, seed: int
) -> Iterator[None]:
    """Gradients of the modules' weights go into sketches as soon as they are there, and nowhere else."""
    before = {path: _weight(module).requires_grad for path, module in modules.items()}
    handles = []

    def watch(path: str, weight: nn.Parameter) -> Callable[[Tensor], None]:
        def take(parameter: Tensor) -> None:
            gradient = parameter.grad
            assert gradient is not None
            if path not in sketches:
                shape = (weight.shape[0], weight[0].numel())
                sketches[path] = _Sketch(shape, directions, seed_of(seed, "sketch " + path, 0), gradient.device)
            sketches[path].add(gradient)
            parameter.grad = None

        return take

    try:
        for path, module in modules.items():
            weight = _weight(module)
            weight.requires_grad_(True)
            hook = watch(path, weight)
            handles.append(weight.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]
        yield
    finally:
        for handle in handles:
            handle.remove()
        for path, module in modules.items():
            _weight(module).requires_grad_(before[path]).grad = None


def _weight(module: nn.Module) -> nn.Parameter:
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    return weight
