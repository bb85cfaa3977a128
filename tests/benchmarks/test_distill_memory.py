"""What is counted without a device, against counts by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import distill_memory as counting


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.bend = nn.Linear(3, 3), nn.GELU()

    def forward(self, given: Tensor) -> Tensor:
        bent: Tensor = self.bend(self.layer(given))
        return bent


class Denoiser(nn.Module):
    _no_split_modules = ("Block",)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.blocks = nn.Linear(3, 3), nn.Sequential(Block(), Block())

    def forward(self, sample: Tensor, return_dict: bool) -> tuple[Tensor]:
        assert not return_dict
        return (self.blocks(self.first(sample)),)


def test_a_graph_keeps_the_inputs_of_blocks_and_what_a_block_bends(monkeypatch: Any) -> None:
    """Three numbers at each border, and the anchor; in a block what is bent, and so in each of the whole graph."""
    monkeypatch.setattr(counting, "inputs_of", lambda *_: {"sample": torch.zeros(1, 3, device="meta")})
    with torch.device("meta"):
        models = [Denoiser().requires_grad_(False) for _ in range(2)]
    found = [
        counting.activations("", model, 8, torch.float32, by_blocks=by_blocks)
        for model, by_blocks in zip(models, (True, False), strict=True)
    ]
    assert found == [(2 * 3 * 4 + 4, 3 * 4), (2 * 3 * 4, 0)]


def test_moments_are_whole_squares_of_small_layers() -> None:
    """Four by four and six by six numbers, and how many rows they are of."""
    models: dict[str, nn.Module] = {"unet": nn.Sequential(nn.Linear(4, 6)), "vae": nn.Sequential(nn.Linear(9, 9))}
    assert counting.moment_bytes(models) == 4 * (16 + 1 + 36 + 1)


def test_attention_keeps_what_fused_kernels_do() -> None:
    query, key, value = (torch.zeros(1, 2, tokens, 4, device="meta", requires_grad=True) for tokens in (5, 7, 7))
    kept = counting.Kept()
    with kept.counting(set()):
        output = counting._fused(query, key, value, dropout_p=0.0)
    assert kept.total == 4 * 2 * 4 * (5 + 7 + 7 + 5)
    output.sum().backward()  # type: ignore[no-untyped-call]
    assert query.grad is not None
    assert query.grad.shape == query.shape
