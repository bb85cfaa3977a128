"""The pairs that distill is measured on at full size, here at no size: what is written is a pair that runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import full_size_pairs
from benchmarks.full_size_pairs import shapes_in_file, write_pair
from si_hub.architectures.bases.contract import Blueprint
from si_hub.distill import open_model
from si_hub.distill.running.runner import Runner
from si_hub.distill.running.trajectory import trajectories
from tests.distill.checkpoints import write
from tests.miniature import open_pair

SMALL = {
    "transformer": Blueprint(
        "", "diffusers", "FluxTransformer2DModel",
        {"in_channels": 64, "num_attention_heads": 2, "attention_head_dim": 16, "joint_attention_dim": 32,
         "pooled_projection_dim": 16, "axes_dims_rope": (4, 6, 6), "guidance_embeds": True},
    ),
    "text_encoder": Blueprint(
        "", "transformers", "CLIPTextModel",
        {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2},
    ),
    "text_encoder_2": Blueprint(
        "", "transformers", "T5EncoderModel",
        {"d_model": 32, "d_kv": 8, "d_ff": 24, "num_heads": 2, "vocab_size": 11, "feed_forward_proj": "gated-gelu"},
    ),
}  # fmt: skip


def test_a_pair_of_folders_runs_from_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_size_pairs, "BY_NAME", {"flux": SimpleNamespace(components=SMALL)})
    base, tuned = write_pair(tmp_path, "flux")
    pair = open_pair(tuned, base)
    assert {change.component for change in pair.changes} == {"transformer"}
    found = Runner(pair, options={"height": 32, "width": 32}, memory="files")
    walked = trajectories(found, ["a b"], [0], 2)[-1]
    predicted = []
    with torch.no_grad():
        for share in (0.0, 1.0):
            found.mix(share)
            predicted.append(found(walked))
    assert all(one.isfinite().all() for one in predicted)
    assert (predicted[0] - predicted[1]).norm() > 0.01 * predicted[0].norm()


@pytest.mark.parametrize("size", ["sd15", "sdxl"])
def test_names_in_files_are_those_of_a_whole_checkpoint(size: str, tmp_path: Path) -> None:
    shapes = shapes_in_file(size)
    file = write(tmp_path / "base.safetensors", shapes)
    found = open_model(file)
    assert found.architecture.name == size
    assert not found.ignored
    assert found.vae
