"""The method svd: what it carries, that the pipeline draws with it, and that nothing can stop it halfway for good."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

import si_hub
from examples.miniature.checkpoints import unfold
from si_hub import format as file_format
from si_hub.distill import distill
from si_hub.distill.methods.svd import plan_of
from si_hub.distill.pair.change import Change
from si_hub.distill.pair.matching import Pair
from si_hub.distill.pair.opening import open_model
from si_hub.errors import ConversionRefused, FileAccessError, NotFinite, UsageError
from si_hub.storage.header import read_safetensors
from tests.distill import families
from tests.distill.checkpoints import write
from tests.miniature import BASE, KOHYA_LORA, NEON, open_pair
from tests.places import ROOT
from tests.systems import posix_alone

WORDS = "cond_stage_model.transformer.text_model.embeddings"


@pytest.fixture(scope="module")
def pair() -> Pair:
    return open_pair(NEON)


def base_pipeline() -> StableDiffusionPipeline:
    si_hub.enable()
    pipe = StableDiffusionPipeline.from_pretrained(BASE, dtype=torch.float32, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise(pipe: StableDiffusionPipeline) -> torch.Tensor:
    """The UNet's output for fixed latents and for the words 0, 1, 2 ... as its own text encoder reads them."""
    latents = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        states = pipe.text_encoder(torch.arange(20)[None].expand(2, -1)).last_hidden_state
        predicted: torch.Tensor = pipe.unet(latents, torch.tensor([100, 700]), states).sample
    return predicted


def test_with_everything_carried_the_base_draws_like_the_tuned_model(tmp_path: Path) -> None:
    result = distill(BASE, NEON, output=tmp_path / "neon.safetensors", method="svd", rank=1000, embeddings=True)
    assert result.error < 1e-6
    assert result.left_out == {}
    pipe, tuned = base_pipeline(), unfold(NEON)
    before, wanted = noise(pipe), noise(tuned)
    pipe.load_styleinject_weights(result.path)
    assert float((noise(pipe) - wanted).norm()) < 1e-4 * float((before - wanted).norm())


def test_every_layer_is_the_optimal_truncation_and_the_error_is_what_is_left(pair: Pair, tmp_path: Path) -> None:
    result = distill(BASE, NEON, output=tmp_path / "neon.safetensors", method="svd", rank=3, dtype="fp32")
    adapter = file_format.read(result.path)
    total = rest = 0.0
    for change in pair.changes:
        layers = adapter.components[change.component].layers
        leaves = layers[change.module].tensors if change.module in layers else {}
        delta, bias = change.delta(), change.bias_delta()
        assert delta is not None
        if "up.weight" in leaves:
            product = leaves["up.weight"].torch().double() @ leaves["down.weight"].torch().double().flatten(1)
            error = float((delta.double().flatten(1) - product).square().sum())
            sigma = numpy.linalg.svd(delta.double().flatten(1).numpy(), compute_uv=False)
            assert error**0.5 <= 1.005 * float(numpy.sqrt((sigma[3:] ** 2).sum()))
        elif "weight_delta" in leaves:
            assert torch.equal(leaves["weight_delta"].torch(), delta)
            error = 0.0
        else:
            assert f"{change.component}.{change.module}" in result.left_out
            error = float(delta.double().square().sum())
        total, rest = total + float(delta.double().square().sum()), rest + error
        if bias is not None:
            assert torch.equal(leaves["bias_delta"].torch(), bias)
            total += float(bias.double().square().sum())
    assert result.error == pytest.approx((rest / total) ** 0.5, rel=1e-5)
    document = file_format.read_document(read_safetensors(result.path))
    assert document["provenance"]["error"] == result.error
    assert document["provenance"]["source"]["name"] == "neon.safetensors"
    assert document["base_model"]["prediction_type"] == "v_prediction"


def test_each_component_has_its_own_share(pair: Pair, tmp_path: Path) -> None:
    result = distill(BASE, NEON, output=tmp_path / "neon.safetensors", method="svd", rank=3, dtype="fp32")
    adapter = file_format.read(result.path)
    for component in ("unet", "text_encoder"):
        total = rest = 0.0
        for change in (one for one in pair.changes if one.component == component):
            held = adapter.components[component].layers.get(change.module)
            leaves = {name: tensor.torch().double() for name, tensor in (held.tensors if held else {}).items()}
            if (delta := change.delta()) is not None:
                stood = leaves.get("weight_delta", torch.zeros(()))
                if "up.weight" in leaves:
                    stood = (leaves["up.weight"] @ leaves["down.weight"].flatten(1)).reshape(delta.shape)
                total += float(delta.double().square().sum())
                rest += float((delta.double() - stood).square().sum())
            if (bias := change.bias_delta()) is not None:
                total += float(bias.double().square().sum())
        assert result.carried[component] == pytest.approx(1 - rest / total, rel=1e-5)


def test_what_rounding_takes_of_biases_is_part_of_the_error(tmp_path: Path) -> None:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        generator = torch.Generator().manual_seed(0)
        for name, value in sorted(tensors.items()):
            if name.endswith(".bias"):
                tensors[name] = value + 0.1 * torch.randn(value.shape, generator=generator)

    tuned = families.edited(BASE, tmp_path / "tuned", "unet", edit)
    result = distill(BASE, tuned, output=tmp_path / "x.safetensors", method="svd", dtype="bf16")
    total = rest = 0.0
    for change in open_pair(tuned).changes:
        bias = change.bias_delta()
        assert bias is not None
        total += float(bias.double().square().sum())
        rest += float((bias - bias.bfloat16().float()).double().square().sum())
    assert 0 < result.error == pytest.approx((rest / total) ** 0.5, rel=1e-4)


def test_a_seed_is_of_all_that_is_random(tmp_path: Path) -> None:
    one, same, other = (
        distill(BASE, NEON, output=tmp_path / f"{name}.safetensors", method="svd", rank=2, seed=seed)
        for name, seed in (("one", 0), ("same", 0), ("other", 1))
    )
    assert one.path.read_bytes() == same.path.read_bytes()
    assert one.sha256 != other.sha256
    assert other.error == pytest.approx(one.error, rel=1e-2)


def test_the_document_says_what_is_carried_and_what_is_not(tmp_path: Path) -> None:
    result = distill(BASE, NEON, output=tmp_path / "neon.safetensors", method="svd", rank=2)
    found = file_format.read(result.path).about["fidelity"]
    assert found["carried"] == pytest.approx(result.carried, rel=1e-3)
    assert sum(found["left_out"].values()) == len(result.left_out) > 0
    assert "error" not in found, "the error of predicted noise was not measured"
    assert result.warnings == ()
    held = load_file(NEON)
    numbers = sum(held[f"{WORDS}.{which}_embedding.weight"].numel() for which in ("token", "position"))
    assert result.notes[-1] == f"embeddings=True carries embeddings whole: {numbers:,} numbers more"


def test_modules_that_are_left_out_for_one_reason_are_counted_together() -> None:
    weight = next(iter(open_model(BASE).components["unet"].values()))
    shapes: dict[str, list[tuple[int, ...]]] = {
        "embedding": [(49408, 768), (32128, 4096)],
        "conv": [(320, 320, 3, 3, 3), (8, 8, 1, 1, 1)],
    }
    for kind, several in shapes.items():
        changes = [Change("unet", "layer", cast(Any, kind), shape, (weight, weight), None) for shape in several]
        assert {plan_of(change, 4).how for change in changes} == {"leave"}
        assert len({plan_of(change, 4).reason for change in changes}) == 1


def test_norms_and_biases_are_carried_whole_and_large_embeddings_are_named(pair: Pair) -> None:
    plans = {change.module: plan_of(change, 4) for change in pair.changes}
    assert plans["conv_norm_out"].how == "dense"
    assert plans["text_model.embeddings.position_embedding"].how == "dense"
    assert plans["text_model.embeddings.token_embedding"].how == "leave"
    assert plans["text_model.embeddings.token_embedding"].reason == "no low-rank pair can stand for it"
    assert plans["time_embedding.linear_1"].how == "pair"
    token = next(change for change in pair.changes if change.module.endswith("token_embedding"))
    assert plan_of(token, 4, embeddings=True).how == "dense"


def test_a_pair_never_costs_more_than_the_whole_difference() -> None:
    def change(*shape: int) -> Change:
        weight = next(iter(open_model(BASE).components["unet"].values()))
        return Change("unet", "layer", "conv" if len(shape) > 2 else "linear", shape, (weight, weight), None)

    assert plan_of(change(8, 8), 4).how == "dense"
    assert plan_of(change(8, 9), 4).how == "pair"
    assert plan_of(change(320, 1, 3, 3), 1).how == "dense"
    assert "three-dimensional" in plan_of(change(320, 320, 3, 3, 3), 4).reason


@pytest.mark.parametrize(("size", "dtype"), [(300_000, "fp16"), (800_000, "fp32"), (800_000, "bf16")])
def test_a_size_is_used_and_kept(size: int, dtype: str, tmp_path: Path) -> None:
    result = distill(BASE, NEON, output=tmp_path / "neon.safetensors", method="svd", size=size, dtype=dtype)
    assert size * 0.8 < result.size <= size
    assert result.path.stat().st_size == result.size


def test_impossible_budgets_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "neon.safetensors"
    with pytest.raises(UsageError, match="no adapter of rank 1 is that small"):
        distill(BASE, NEON, output=out, method="svd", size=1000)
    with pytest.raises(UsageError, match="fidelity is measured by running"):
        distill(BASE, NEON, output=out, method="svd", fidelity=0.9)
    with pytest.raises(UsageError, match="three ways to say one thing"):
        distill(BASE, NEON, output=out, rank=4, size=1000)
    with pytest.raises(UsageError, match="no such method"):
        distill(BASE, NEON, output=out, method="magic")
    with pytest.raises(UsageError, match="one tuned model"):
        distill(BASE, NEON, NEON.with_name("ink.safetensors"), output=out, method="svd")
    out.touch()
    with pytest.raises(FileAccessError, match="already exists"):
        distill(BASE, NEON, output=out, method="svd")
    assert list(tmp_path.iterdir()) == [out]


def test_a_lora_instead_of_a_checkpoint_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(ConversionRefused, match="adapter such as a LoRA"):
        distill(BASE, KOHYA_LORA, output=tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_base_that_cannot_be_run_is_distilled_from_its_weights_and_it_is_said_why(tmp_path: Path) -> None:
    tuned = load_file(BASE / "unet" / "diffusion_pytorch_model.safetensors")
    tuned["conv_in.bias"] += 0.5
    result = distill(BASE / "unet", write(tmp_path / "unet.safetensors", tuned), output=tmp_path / "out.safetensors")
    assert result.method == "svd"
    assert "cannot be run" in result.reason
    assert result.modules == {"unet": 1}


#: Runs a distillation once for the time it takes, then again and again, each time killed at a random moment.
KILLED = """
import os, random, sys
from pathlib import Path
import torch
from si_hub.distill import distill
from tests.killing import Fork, seconds_of
import si_hub.distill.pair.renaming, si_hub.distill.methods.svd
torch.set_num_threads(1)
base, tuned, folder = sys.argv[1:]

def run(name):
    distill(base, tuned, output=f"{folder}/{name}.safetensors", method="svd", rank=4)

# Here first, so that what the children do is the work and not the imports.
run("whole")
duration = seconds_of(lambda: run("done-0"))
work = Path(folder, ".killed.safetensors.work")
draw, found = random.Random(0), []
# Once as soon as a part is finished, then at any moment.
moments = [lambda: any(work.glob("*.safetensors")), *(draw.uniform(0, duration) for _ in range(9))]
for number, moment in enumerate(moments, 1):
    Fork(lambda: run("killed")).end(moment)
    found.append(len(list(work.glob("*.safetensors"))))
    if os.path.exists(f"{folder}/killed.safetensors"):
        os.rename(f"{folder}/killed.safetensors", f"{folder}/done-{number}.safetensors")
print(max(found))
assert Fork(lambda: run("killed")).wait() == 0
"""


@pytest.mark.slow
@posix_alone
def test_killed_at_ten_moments_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(BASE), str(NEON), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(done.stdout) > 0, "no killed run left anything behind"
    whole = (tmp_path / "whole.safetensors").read_bytes()
    for file in (tmp_path / "killed.safetensors", *tmp_path.glob("done-*.safetensors")):
        assert file.read_bytes() == whole
    assert not (tmp_path / ".killed.safetensors.work").exists()


def test_the_number_of_threads_changes_no_byte(tmp_path: Path) -> None:
    written = []
    for threads in (3, 1):
        torch.set_num_threads(threads)
        result = distill(BASE, NEON, output=tmp_path / str(threads), method="svd", rank=2)
        assert torch.get_num_threads() == threads
        written.append(result.path.read_bytes())
    assert written[0] == written[1]


def test_a_damaged_model_is_named_by_the_module(tmp_path: Path) -> None:
    tuned = load_file(BASE / "unet" / "diffusion_pytorch_model.safetensors")
    tuned["mid_block.resnets.0.conv1.weight"][0, 0, 0, 1] = torch.nan
    file = write(tmp_path / "unet.safetensors", tuned)
    with pytest.raises(NotFinite, match=r"unet\.mid_block\.resnets\.0\.conv1: the base or the tuned model has NaN"):
        distill(BASE / "unet", file, output=tmp_path / "out.safetensors", method="svd")
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.slow
def test_two_processes_make_the_same_adapter_as_one(tmp_path: Path, two_processes: Callable[..., str]) -> None:
    command = ["distill", str(BASE), str(NEON), "--method", "svd", "--rank", "4", "--json"]
    done = two_processes("-m", "si_hub.cli", *command, "-o", str(tmp_path / "two"))
    assert json.loads(done)["path"] == str(tmp_path / "two")
    distill(BASE, NEON, output=tmp_path / "one", method="svd", rank=4)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_without_a_budget_a_twentieth_of_the_checkpoint_holds_it_in_bytes(tmp_path: Path) -> None:
    result = distill(BASE, NEON, output=tmp_path / "neon.safetensors", method="svd")
    limit = NEON.stat().st_size / 20
    assert result.size <= limit
    larger = distill(
        BASE, NEON, output=tmp_path / "larger.safetensors", method="svd", rank=max(result.ranks) + 1, dtype="fp16"
    )
    assert larger.size > limit
    assert {tensor.dtype for tensor in read_safetensors(result.path).tensors.values()} == {"F16"}
    exact = distill(BASE, NEON, output=tmp_path / "exact", method="svd", rank=max(result.ranks), dtype="fp32")
    assert result.error == pytest.approx(exact.error, rel=0.01)


def test_what_fewer_bytes_would_round_too_much_is_float32(tmp_path: Path) -> None:
    """Every layer whole: all that is left is rounding."""
    result = distill(BASE, NEON, output=tmp_path / "neon.safetensors", method="svd", rank=999)
    assert {tensor.dtype for tensor in read_safetensors(result.path).tensors.values()} == {"F32"}
