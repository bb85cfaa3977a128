"""The adapter that is trained: begins at the base, is found whole in the file, and goes away."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import si_hub
from si_hub.adapter import BaseModel
from si_hub.errors import UsageError
from si_hub.training.adapting import Pupil, surveyed_modules
from si_hub.training.settings import TrainSettings
from si_hub.training.surveying import Pull


@pytest.fixture
def own(pipeline: Any) -> Any:
    """A pipeline of the test's own, to train in."""
    found = copy.copy(pipeline)
    found.unet, found.text_encoder = copy.deepcopy(pipeline.unet), copy.deepcopy(pipeline.text_encoder)
    for model in (found.unet, found.text_encoder):
        model.requires_grad_(False)
    return found


def answer(pipeline: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    latents, text = torch.randn(1, 8, 8, 8, generator=generator), torch.randn(1, 5, 64, generator=generator)
    with torch.no_grad():
        found: torch.Tensor = pipeline.unet(latents, torch.tensor([500]), text).sample
    return found


@pytest.mark.parametrize("method", ["styleinject", "lora", "dora"])
def test_it_begins_at_the_base_and_steps_aside(own: Any, method: str) -> None:
    base = answer(own)
    pupil = Pupil(own, ["unet"], TrainSettings.of({"method": method, "rank": 2}))
    torch.testing.assert_close(answer(own), base, rtol=1e-4, atol=1e-5)
    for leaf in pupil.leaves.values():
        leaf.data += 0.1
    assert not torch.allclose(answer(own), base, atol=1e-2)
    with pupil.away():
        torch.testing.assert_close(answer(own), base, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(answer(own), base, atol=1e-2)


def test_numbers_and_modules_are_counted(own: Any) -> None:
    pupil = Pupil(own, ["unet", "text_encoder"], TrainSettings.of({"rank": 2, "targets": "to_q"}))
    queries = [module for path, module in own.unet.named_modules() if path.endswith("to_q")]
    words = [
        m
        for path, m in own.text_encoder.named_modules()
        if path.split(".")[-1] in {"q_proj", "k_proj", "v_proj", "out_proj"}
    ]
    assert pupil.modules == len(queries) + len(words)
    assert pupil.numbers == sum(2 * (m.in_features + m.out_features) for m in [*queries, *words])


def test_the_rate_falls_with_the_width_and_can_be_said(own: Any) -> None:
    pupil = Pupil(own, ["unet"], TrainSettings.of({"rank": 2, "targets": "to_q"}))
    # The attentions of the miniature are 48 wide: half of one 48th is more than the most, a two hundredth.
    assert pupil.rate() == 0.005
    said = copy.copy(pupil)
    said.settings = TrainSettings.of({"rate": 0.5})
    assert said.rate() == 0.5


def test_ranks_follow_what_pulls(own: Any) -> None:
    paths = [path for path, module in own.unet.named_modules() if path.endswith(("to_q", "to_k"))]
    generator = torch.Generator().manual_seed(0)
    pulls = {}
    for place, path in enumerate(paths):
        shape = own.unet.get_submodule(path).weight.shape
        reads = torch.linalg.qr(torch.randn(shape[1], 4, generator=generator))[0].T
        # The first module pulls far more than all others.
        pulls[path] = Pull(torch.tensor([4.0, 3.0, 2.0, 1.0]) * (100.0 if place == 0 else 1.0), reads, sum(shape))
    settings = TrainSettings.of({"rank": 1, "targets": "to_q,to_k"})
    base = answer(own)
    pupil = Pupil(own, ["unet"], settings, pulls=pulls)
    torch.testing.assert_close(answer(own), base, rtol=1e-4, atol=1e-5)
    assert pupil.numbers <= sum(pull.numbers for pull in pulls.values())
    down = pupil.leaves[f"unet.{paths[0]}.styleinject_layer.trained.down.weight"]
    assert len(down) == 4
    torch.testing.assert_close(torch.nn.functional.normalize(down), pulls[paths[0]].reads)


def test_a_lora_takes_the_same_ranks(own: Any) -> None:
    [path] = [path for path, _ in own.unet.named_modules() if path.endswith("mid_block.attentions.0.proj_in")]
    weight = own.unet.get_submodule(path).weight
    reads = torch.eye(weight[0].numel())[:3]
    pulls = {path: Pull(torch.tensor([3.0, 2.0, 1.0]), reads, weight.shape[0] + weight[0].numel())}
    told = {"rank": 2, "targets": "mid_block.attentions.0.proj_in", "method": "lora", "ranks": "fitted"}
    pupil = Pupil(own, ["unet"], TrainSettings.of(told), pulls=pulls)
    [down] = [leaf for name, leaf in pupil.leaves.items() if "lora_A" in name]
    torch.testing.assert_close(torch.nn.functional.normalize(down.flatten(1)), reads[:2])


def pulled(pipeline: Any, *names: str) -> tuple[int, dict[str, Pull]]:
    """The width of two layers of an attention, and pulls at them of which the second is 2.5 times as large."""
    ends = [f"mid_block.attentions.0.transformer_blocks.0.attn1.{name}" for name in names]
    wide = pipeline.unet.get_submodule(ends[0]).in_features
    sizes = torch.tensor([4.0, 3.0, 2.0, 1.0])
    return wide, {
        path: Pull(sizes * larger, torch.eye(wide)[:4], 2 * wide) for path, larger in zip(ends, (1.0, 2.5), strict=True)
    }


@pytest.mark.parametrize("method", ["styleinject", "lora"])
def test_a_scale_is_every_module_s_whatever_its_rank(own: Any, method: str) -> None:
    """Of the same numbers: alpha as large as the rank is what none is, and twice that does twice as much."""
    wide, pulls = pulled(own, "to_q", "to_k")
    ends = list(pulls)
    does: list[torch.Tensor] = []
    x = torch.ones(1, wide)
    for alpha in (None, 2.0, 4.0):
        pipeline = copy.copy(own)
        pipeline.unet = copy.deepcopy(own.unet)
        told = {"rank": 2, "targets": ends, "method": method, "ranks": "fitted", "alpha": alpha}
        pupil = Pupil(pipeline, ["unet"], TrainSettings.of(told), pulls=pulls)
        downs = {name: leaf for name, leaf in pupil.leaves.items() if ".down." in name or "lora_A" in name}
        assert sorted(map(len, downs.values())) == [1, 3]
        for name, leaf in pupil.leaves.items():
            leaf.data.fill_(0.1 if name not in downs else 0.5)
        with torch.no_grad():
            parts = [pipeline.unet.get_submodule(end)(x) - own.unet.get_submodule(end)(x) for end in ends]
        does.append(torch.cat(parts))
    # 0.1 · rank · 0.5 · width
    torch.testing.assert_close(does[0][:, 0], torch.tensor([1.0, 3.0]) * 0.05 * wide, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(does[1], does[0])
    torch.testing.assert_close(does[2], 2 * does[0], rtol=1e-4, atol=1e-4)


def test_a_lora_of_fitted_ranks_is_written_as_diffusers_does(own: Any, tmp_path: Path) -> None:
    _, pulls = pulled(own, "to_v", "to_out.0")
    ends = list(pulls)
    told = {"rank": 2, "targets": ends, "method": "lora", "ranks": "fitted", "alpha": 3.0}
    pupil = Pupil(own, ["unet"], TrainSettings.of(told), pulls=pulls)
    for leaf in pupil.leaves.values():
        leaf.data += 0.1
    trained = answer(own)
    pupil.save_lora(tmp_path / "lora.safetensors", tmp_path / "work", overwrite=False)
    own.unet.delete_adapters(["trained"])
    base = answer(own)
    own.load_lora_weights(tmp_path / "lora.safetensors")
    torch.testing.assert_close(answer(own), trained)
    own.unload_lora_weights()
    si_hub.enable()
    own.load_styleinject_weights(tmp_path / "lora.safetensors")
    torch.testing.assert_close(answer(own), trained, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(base, trained, atol=1e-2)


def test_what_is_surveyed_has_no_groups(own: Any) -> None:
    found = surveyed_modules(own.unet, TrainSettings())
    assert {"conv1", "conv2", "to_q"} <= {path.rpartition(".")[2] for path in found}
    with pytest.raises(UsageError, match="targets: has no module of these names"):
        surveyed_modules(own.unet, TrainSettings.of({"targets": "to_x"}))


def test_names_of_no_module_are_told(own: Any) -> None:
    with pytest.raises(UsageError, match="targets: has no module of these names"):
        Pupil(own, ["unet"], TrainSettings.of({"targets": "to_x"}))


def test_a_branch_acts_alone(own: Any) -> None:
    pupil = Pupil(own, ["unet"], TrainSettings.of({"rank": 1, "targets": "to_q"}), ["ink", "neon"])
    for name, leaf in pupil.leaves.items():
        if name.endswith("up.weight"):
            leaf.data.fill_(1.0)
        if name.endswith("down.weight"):
            leaf.data[1:] = 0.0  # Of neon, nothing.
    pupil.choose("neon")
    with pupil.away():
        base = answer(own)
    torch.testing.assert_close(answer(own), base)
    pupil.choose("ink")
    assert not torch.allclose(answer(own), base, atol=1e-3)
    adapter = pupil.adapter(BaseModel("custom"), {"title": "two"})
    assert (adapter.branches, adapter.about) == (("ink", "neon"), {"title": "two"})


def test_a_lora_is_written_as_diffusers_does(own: Any, tmp_path: Path) -> None:
    pupil = Pupil(own, ["unet"], TrainSettings.of({"method": "lora", "rank": 2, "targets": "to_q"}))
    for leaf in pupil.leaves.values():
        leaf.data += 0.1
    trained = answer(own)
    pupil.save_lora(tmp_path / "lora.safetensors", tmp_path / "work", overwrite=False)
    assert all(name.startswith("unet.") for name in load_file(tmp_path / "lora.safetensors"))
    own.unet.delete_adapters(["trained"])
    own.load_lora_weights(tmp_path / "lora.safetensors")
    torch.testing.assert_close(answer(own), trained)
