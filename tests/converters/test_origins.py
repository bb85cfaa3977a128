"""Where layers come from: parts of a fused module get their rows of its difference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from si_hub import converters
from tests.converters.tiny import MODULES, convert, stem_of, weights


def test_a_layers_origin_is_its_source_module_by_definition(tmp_path: Path) -> None:
    stem = stem_of("mid_block.linear")
    down, up = torch.randn(2, 16), torch.randn(32, 2)
    state = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(6.0)}
    found = convert(tmp_path / "lora.safetensors", state, weights())
    [key] = list(found.origins)
    assert key == ("unet", "mid_block.linear")
    assert found.origins.target(key).shape == MODULES["mid_block.linear"].shape
    expected, reached = (
        found.origins.expected(key),
        found.origins.reached(key, found.adapter.components["unet"].layers[key[1]]),
    )
    for difference in (expected, reached):
        assert difference.weight is not None
        torch.testing.assert_close(difference.weight(), 3 * up.double() @ down.double())
        assert difference.bias is None


def test_parts_of_a_fused_module_are_its_rows(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    rng, stem = np.random.default_rng(0), "lora_unet_double_blocks_0_img_attn_qkv"
    down, up = rng.standard_normal((2, 3072)).astype(np.float32), rng.standard_normal((9216, 2)).astype(np.float32)
    save_file({f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}, tmp_path / "flux.safetensors")
    found = converters.convert_source(tmp_path / "flux.safetensors", base="flux", check=True)
    assert found.report.check is not None
    assert (found.report.check.modules, found.report.check.largest_error) == (3, 0.0)
    for at, part in enumerate("qkv"):
        difference = found.origins.expected(("transformer", f"transformer_blocks.0.attn.to_{part}"))
        assert difference.weight is not None
        np.testing.assert_allclose(
            difference.weight()[:2], up[at * 3072 : at * 3072 + 2].astype(float) @ down, rtol=1e-12
        )
