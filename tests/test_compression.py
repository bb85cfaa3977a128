"""Adapters made smaller: the best pairs, with the errors that NumPy finds too."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from si_hub import format as file_format
from si_hub.compression import check_options, compress
from si_hub.converters import Conversion
from si_hub.errors import NotFinite, UsageError
from si_hub.format import writer
from tests.converters.tiny import convert, stem_of, weights

STEM = stem_of("mid_block.linear")


def dense(tmp_path: Path, *, plain: bool = False) -> tuple[Conversion, torch.Tensor]:
    """A full difference of known singular values 32 / 2^k, and a small LoRA beside it."""
    generator = torch.Generator().manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(32, 16, generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(16, 16, generator=generator, dtype=torch.float64))
    delta = (left * (32 * 0.5 ** torch.arange(16.0).double())) @ right.T
    state = {f"{STEM}.diff": delta.float(), f"{STEM}.diff_b": torch.ones(32)}
    if plain:
        other = stem_of("mid_block.square")
        state |= {f"{other}.lora_down.weight": torch.ones(1, 16), f"{other}.lora_up.weight": torch.ones(16, 1)}
    return convert(tmp_path / "full.safetensors", state, weights()), delta


def test_a_rank_gives_the_best_pair_and_its_error(tmp_path: Path) -> None:
    found, delta = dense(tmp_path)
    cost = compress(found, rank=4)
    layer = found.adapter.components["unet"].layers["mid_block.linear"]
    assert layer.rank == 4
    assert layer.tensors["bias_delta"].numpy().tolist() == [1.0] * 32
    sigma = np.linalg.svd(delta.numpy(), compute_uv=False)
    rest, norm = np.square(sigma[4:]).sum(), np.square(sigma).sum() + 32
    assert cost.errors["unet.mid_block.linear"] == pytest.approx(math.sqrt(rest / norm), rel=1e-3)
    assert cost.error == pytest.approx(math.sqrt(rest / norm), rel=1e-3)
    provenance = found.adapter.about["provenance"]
    assert provenance["error"] == pytest.approx(cost.error, rel=1e-3)
    assert "exact" not in provenance


@pytest.mark.parametrize("tolerance", [0.3, 0.05, 0.004])
def test_a_tolerance_gives_the_lowest_rank_that_keeps_it(tolerance: float, tmp_path: Path) -> None:
    found, delta = dense(tmp_path)
    cost = compress(found, tolerance=tolerance)
    sigma = np.linalg.svd(delta.numpy(), compute_uv=False)
    allowed = tolerance**2 * (np.square(sigma).sum() + 32)
    lowest = next(rank for rank in range(1, 17) if np.square(sigma[rank:]).sum() <= allowed)
    assert found.adapter.components["unet"].layers["mid_block.linear"].rank == lowest
    assert 0 < cost.error <= tolerance


def test_a_size_is_kept_and_not_wasted(tmp_path: Path) -> None:
    for size in (2700, 3200):
        found, _ = dense(tmp_path)
        compress(found, size=size)
        written = writer.write(
            found.adapter, tmp_path / f"{size}.safetensors", hash_source=tmp_path / "full.safetensors"
        )
        # One rank more is 192 bytes; the hash and the error in the document are counted as long as they can be.
        assert size - 192 - 200 <= written.size <= size
        assert file_format.read(written.path).components["unet"].layers["mid_block.linear"].rank >= 1


def test_what_is_exact_and_no_larger_stays(tmp_path: Path) -> None:
    found, _ = dense(tmp_path, plain=True)
    before = found.adapter.components["unet"].layers["mid_block.square"]
    cost = compress(found, rank=2)
    assert found.adapter.components["unet"].layers["mid_block.square"] is before
    assert set(cost.errors) == {"unet.mid_block.linear"}


def test_nothing_to_make_smaller_stays_exact(tmp_path: Path) -> None:
    state = {f"{STEM}.lora_down.weight": torch.ones(1, 16), f"{STEM}.lora_up.weight": torch.ones(32, 1)}
    found = convert(tmp_path / "lora.safetensors", state, None)
    cost = compress(found, rank=8)
    assert (cost.errors, cost.error, cost.as_lines(), cost.as_dict()) == ({}, 0.0, [], {})
    assert found.adapter.about["provenance"]["exact"] is True


def test_the_same_source_gives_the_same_pairs(tmp_path: Path) -> None:
    made = []
    for _ in range(2):
        found, _ = dense(tmp_path)
        compress(found, rank=3)
        layer = found.adapter.components["unet"].layers["mid_block.linear"]
        made.append(b"".join(tensor.tobytes() for tensor in layer.tensors.values()))
    assert made[0] == made[1]


def test_a_pair_is_cut_in_its_own_dtype_and_stays_where_it_is_small_enough(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    state = {f"{STEM}.lora_down.weight": torch.randn(8, 16, generator=generator).half(),
             f"{STEM}.lora_up.weight": torch.randn(32, 8, generator=generator).half()}  # fmt: skip
    for number, options in enumerate(({"rank": 8}, {"rank": 70}, {"tolerance": 0.001})):
        found = convert(tmp_path / f"{number}.safetensors", state, None)
        before = found.adapter.components["unet"].layers["mid_block.linear"]
        assert compress(found, **options).errors == {}  # type: ignore[arg-type]
        assert found.adapter.components["unet"].layers["mid_block.linear"] is before
    found = convert(tmp_path / "small.safetensors", state, None)
    cost = compress(found, rank=3)
    layer = found.adapter.components["unet"].layers["mid_block.linear"]
    assert (layer.rank, layer.tensors["up.weight"].dtype, layer.tensors["down.weight"].dtype) == (3, "F16", "F16")
    product = state[f"{STEM}.lora_up.weight"].double() @ state[f"{STEM}.lora_down.weight"].double()
    sigma = torch.linalg.svdvals(product)
    reached = layer.tensors["up.weight"].torch().double() @ layer.tensors["down.weight"].torch().double()
    error = float((product - reached).norm() / product.norm())
    assert error <= 1.001 * float(sigma[3:].norm() / sigma.norm())
    assert cost.error == pytest.approx(error, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": 4, "size": 100}, "say one of them"),
        ({"rank": 0}, "a rank is 1 or more"),
        ({"tolerance": 1.5}, "a tolerance is a relative error"),
        ({"tolerance": math.nan}, "a tolerance is a relative error"),
    ],
)
def test_options_that_say_nothing_are_refused(options: dict[str, float], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_options(**{"rank": None, "tolerance": None, "size": None, **options})  # type: ignore[arg-type]


def test_a_size_that_no_rank_keeps_is_refused(tmp_path: Path) -> None:
    found, _ = dense(tmp_path)
    with pytest.raises(UsageError, match="no pairs of rank 1 are that small"):
        compress(found, size=100)


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    found = convert(tmp_path / "full.safetensors", {f"{STEM}.diff": torch.full((32, 16), math.inf)}, None)
    with pytest.raises(NotFinite, match=r"unet\.mid_block\.linear: its numbers are not finite"):
        compress(found, rank=1)


def test_rotations_are_replaced_where_a_pair_is_smaller(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    skew = torch.zeros(1, 16, 16)
    skew[0, 0, 1] = 0.3  # a rotation of one plane: of rank 2, less the identity
    state = {f"{stem_of('mid_block.square')}.oft_blocks": skew}
    held = {"unet": {"mid_block.square.weight": torch.randn(16, 16, generator=generator)}}
    found = convert(tmp_path / "oft.safetensors", state, held)
    cost = compress(found, rank=2)
    layer = found.adapter.components["unet"].layers["mid_block.square"]
    assert set(layer.tensors) == {"down.weight", "up.weight"}
    assert cost.error < 1e-5
