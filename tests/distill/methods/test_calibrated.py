"""``--method calibrated`` on a checkpoint of the miniature: budgets kept, errors measured, what is kept used again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from diffusers import StableDiffusionPipeline

import si_hub
from examples.miniature.checkpoints import unfold
from si_hub.cli import main
from si_hub.distill import Distilled, distill
from si_hub.distill.methods.calibrated import Calibration
from si_hub.distill.request import Request
from si_hub.errors import CannotRun, UsageError
from si_hub.format import read
from si_hub.report.text import size_text
from si_hub.storage.header import read_safetensors
from tests.distill import families
from tests.distill.methods.surveys import SHORT
from tests.miniature import BASE, INK, PROMPTS, checkpoint, open_pair, tune_attentions

Distil = Callable[..., Distilled]


@pytest.fixture
def ink(tmp_path: Path, cache: Path) -> Distil:
    """Distil the miniature's ink after a short survey, which is made once."""

    def run(name: str = "ink.safetensors", **options: Any) -> Distilled:
        return distill(
            BASE, INK, output=tmp_path / name, method="calibrated", prompts=PROMPTS,
            **{**SHORT, "dtype": "fp16", "cache": cache, **options},
        )  # fmt: skip

    return run


@pytest.mark.parametrize("size", [pytest.param(40_000, marks=pytest.mark.slow), 120_000])
def test_a_file_has_at_most_the_size_that_was_asked_for_and_nearly_that(ink: Distil, size: int) -> None:
    found = ink(size=size)
    assert 0.9 * size < found.size <= size
    assert found.path.stat().st_size == found.size


def test_a_rank_means_as_many_numbers_as_that_rank_everywhere(ink: Distil) -> None:
    found = ink(rank=2)
    shapes = [c.shape for c in open_pair(INK).changes if c.kind in {"linear", "conv"}]
    uniform = sum(2 * (shape[0] + math.prod(shape[1:])) for shape in shapes)
    layers = [layer for part in read(found.path).components.values() for layer in part.layers.values()]
    held = sum(tensor.count for layer in layers for tensor in layer.tensors.values())
    assert 0.98 * uniform < held <= uniform


def test_a_fidelity_is_kept_by_measurement(ink: Distil) -> None:
    found = ink(fidelity=0.9)
    assert found.error <= 0.1
    smaller = ink("smaller.safetensors", size=int(found.size * 0.8))
    assert smaller.error > 0.1
    plain = ink("plain.safetensors", fidelity=0.9, passes=0)
    assert plain.error <= 0.1
    assert found.size < 0.95 * plain.size, "what is fitted is smaller"


def test_without_a_budget_a_twentieth_of_the_checkpoint_is_spent_at_most_and_the_next_sizes_are_told(
    ink: Distil, cache: Path
) -> None:
    found = ink(dtype=None)
    assert found.size <= INK.stat().st_size / 20
    assert {tensor.dtype for tensor in read_safetensors(found.path).tensors.values()} == {"F16"}
    (half, more), (twice, less) = found.sizes
    assert 0.4 * found.size < half < 0.55 * found.size
    assert 1.8 * found.size < twice <= 2 * found.size
    assert more > found.error > less
    # Half of what is counted before the file is written, which is some bytes more: the choice may be a neighbour.
    own = Calibration(
        open_pair(INK), Request.of("calibrated", [INK], prompts=PROMPTS, options={**SHORT, "cache": cache})
    )
    choice = own.fitted()
    nearest = own.within(own.size(choice) // 2)
    assert half == own.size(nearest)
    assert choice.before is not None
    gained = own.fidelity_of(choice).error / choice.before
    assert more == pytest.approx(gained * own.fidelity_of(nearest).error, rel=1e-6)
    assert ink("half.safetensors", dtype="fp16", size=found.size // 2).error == pytest.approx(more, rel=0.2)
    first = found.as_text().splitlines()[0]
    assert first.startswith(f"{size_text(found.size)} leaves {found.error:.4f} of the base's error; ")
    assert f"{size_text(half)} about {more:.4f}, {size_text(twice)} about {less:.4f}" in first
    said = ink("own.safetensors", size=120_000)
    assert said.sizes == ()
    assert ink("bytes.safetensors", size=120_000, dtype="int8").error < 0.75 * said.error


def test_the_error_in_the_document_is_what_running_both_pipelines_shows(ink: Distil, calibration: Calibration) -> None:
    """On the same states, with pipelines that diffusers loads, and the file loaded by its user's function."""
    found = ink(size=100_000)
    student = StableDiffusionPipeline.from_pretrained(BASE, safety_checker=None)
    base = StableDiffusionPipeline.from_pretrained(BASE, safety_checker=None)
    si_hub.enable()
    student.load_styleinject_weights(found.path)
    states = calibration.measure.states
    told = [prompt or "" for prompt in states.prompts]

    @torch.no_grad()
    def noise(pipe: Any) -> torch.Tensor:
        text, _ = pipe.encode_prompt(told, "cpu", 1, False)
        velocity = pipe.unet(states.inputs["sample"], states.inputs["timestep"], text).sample
        found: torch.Tensor = velocity * pipe.scheduler.alphas_cumprod[states.inputs["timestep"].long()].sqrt().view(
            -1, 1, 1, 1
        )
        return found

    wanted = noise(unfold(INK))
    errors = [(noise(pipe) - wanted).square().mean((1, 2, 3)) for pipe in (student, base)]
    assert found.error == pytest.approx(float(errors[0].sum() / errors[1].sum()), rel=1e-3)
    document = found.fidelity
    assert document["error"] == pytest.approx(found.error, rel=1e-3)
    lowest = states.place < 0.2
    assert document["by_timestep"][0]["error"] == pytest.approx(
        float(errors[0][lowest].sum() / errors[1][lowest].sum()), rel=1e-3
    )
    assert [bucket["start"] for bucket in document["by_timestep"]] == [0, 200, 400, 600, 800]


def test_everything_that_can_be_carried_leaves_little_and_the_slope_says_so(calibration: Calibration) -> None:
    """All pieces, whole norms, biases and embeddings: what is left is what 16 pieces a layer cannot say."""
    columns = list(range(len(calibration.findings.columns)))
    held = calibration.findings.effects.double().sum(1)
    target = calibration.findings.target.double()
    assert float((held - target).square().sum() / target.square().sum()) < 0.05
    components = calibration.chooser.make(
        columns, torch.ones(len(columns), dtype=torch.float64), [], [], "F16"
    ).components
    assert calibration.measure.of(components).error < 0.15


def test_it_leaves_less_than_svd_of_the_same_size(ink: Distil, tmp_path: Path, calibration: Calibration) -> None:
    plain = distill(BASE, INK, output=tmp_path / "svd.safetensors", method="svd", rank=2, dtype="fp16")
    found = ink(size=plain.size)
    ours, theirs = (calibration.measure.of(read(path).components).error for path in (found.path, plain.path))
    assert ours < 0.6 * theirs


def test_the_same_call_gives_the_same_bytes_from_the_cache_and_from_nothing(tmp_path: Path) -> None:
    tuned = tune_attentions(tmp_path, "ink")
    files = [
        distill(
            BASE, tuned, output=tmp_path / name, method="calibrated", dtype="fp16", size=50_000, prompts=PROMPTS,
            **{**SHORT, "cache": tmp_path / cache},
        ).path
        for name, cache in (("a", "cache"), ("b", "cache"), ("c", "another"))
    ]  # fmt: skip
    assert len({file.read_bytes() for file in files}) == 1


def test_what_is_left_out_is_said(ink: Distil) -> None:
    found = ink(size=40_000)
    carried = {f"{name}.{path}" for name, part in read(found.path).components.items() for path in part.layers}
    changed = {f"{c.component}.{c.module}" for c in open_pair(INK).changes}
    assert carried | set(found.left_out) == changed
    assert not carried & set(found.left_out)
    assert 0 < found.carried["unet"] < 1
    assert sum(found.fidelity["left_out"].values()) == len(found.left_out)


def test_room_for_more_than_was_looked_at_is_said(ink: Distil) -> None:
    assert any(": pieces=N looks at more" in note for note in ink(size=10**8).notes)
    assert not ink("small.safetensors", size=40_000).notes


def test_a_size_for_nothing_is_refused_with_the_least(ink: Distil) -> None:
    with pytest.raises(UsageError, match=r"kB or more"):
        ink(size=2000)


def test_a_fidelity_out_of_reach_is_refused_with_the_best(ink: Distil) -> None:
    with pytest.raises(UsageError, match=r"0\.9\d+ or less"):
        ink(fidelity=0.99999)


@pytest.mark.slow
def test_from_too_few_states_parts_are_not_fitted_until_they_are_worse_than_none(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    neon = checkpoint("neon")
    starved: dict[str, Any] = {
        **SHORT, "trajectories": 1, "states": 1, "held_out": 4, "pieces": 8, "passes": 0, "cache": cache,
    }  # fmt: skip

    def run(name: str, size: int) -> Distilled:
        return distill(
            BASE, neon, output=tmp_path / name, method="calibrated", dtype="fp16", prompts=PROMPTS, size=size, **starved
        )

    found = run("found", 8_000)
    assert found.error < 1.0
    assert found.warnings == ()
    options = [word for name, value in starved.items() for word in ("--set", f"{name}={value}")]
    command = ["distill", str(BASE), str(neon), "-o", str(tmp_path / "tiny"), "--method", "calibrated", "--json"]
    tiny = CliRunner().invoke(
        main, [*command, "--dtype", "fp16", "--prompts", str(PROMPTS), "--size", "3400", *options],
        catch_exceptions=False,
    )  # fmt: skip
    told = json.loads(tiny.stdout)
    assert 0.95 < told["error"] < 1.0
    [warning] = told["warnings"]
    assert warning.startswith("the adapter is hardly better than the base, of whose error it leaves 0.9")
    assert "--curve" in warning
    assert f"si-hub: warning: {warning}\n" in tiny.stderr
    monkeypatch.setattr(Calibration, "_sound", lambda _, choice: choice)
    fitted = run("fitted", 8_000)
    assert fitted.error > 1.0, "the fit would have been taken"
    assert fitted.warnings[0].startswith("the adapter is worse than the base, of whose error it leaves 1.")


def test_unknown_options_are_refused(ink: Distil) -> None:
    with pytest.raises(UsageError, match="temperature"):
        ink(size=40_000, temperature=3)
    with pytest.raises(UsageError, match="positive"):
        ink(size=40_000, probes=0)
    with pytest.raises(UsageError, match="states: is a whole number"):
        ink(size=40_000, states=2.5)
    with pytest.raises(UsageError, match="only the method trained knows it"):
        ink(size=40_000, steps=10)


def test_a_base_that_cannot_run_is_refused_with_the_way_out(tmp_path: Path, sdxl_folder: Path) -> None:
    tuned = families.tuned(sdxl_folder / "unet", tmp_path / "unet", ("",))
    with pytest.raises(CannotRun, match="method='svd'"):
        distill(sdxl_folder / "unet", tuned, output=tmp_path / "x.safetensors", method="calibrated")


def test_of_a_merged_lora_its_own_ranks_are_carried_and_no_rounding_errors(tmp_path: Path, cache: Path) -> None:
    draw = torch.Generator().manual_seed(0)

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for name, value in sorted(tensors.items()):
            if name.endswith(("attn1.to_v.weight", "attn2.to_k.weight")):
                pair = torch.randn(len(value), 2, generator=draw) @ torch.randn(2, value.shape[1], generator=draw)
                tensors[name] = value + 0.1 * value.std() * pair

    tuned = families.edited(BASE, tmp_path / "tuned", "unet", edit)
    result = distill(BASE, tuned, output=tmp_path / "x.safetensors", size=10**7, prompts=PROMPTS, **SHORT, cache=cache)
    assert set(result.ranks) == {2}
    assert result.error < 1e-6
    assert result.notes == ()


def test_a_difference_that_no_prompt_brings_out_is_said(tmp_path: Path, cache: Path) -> None:
    """A new token's embedding: to all prompts that lack it, the tuned model is the base."""

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        [name] = (name for name in tensors if name.endswith("token_embedding.weight"))
        tensors[name][:2] += 1.0  # A comma's and a lone letter's, which the prompts have not.

    tuned = families.edited(BASE, tmp_path / "tuned", "text_encoder", edit)
    for more in ({"size": 100_000}, {"rank": 4}, {"fidelity": 0.9}, {"method": "trained", "steps": 5}):
        with pytest.raises(UsageError, match=r"what the base predicts.*prompts="):
            distill(
                BASE, tuned, output=tmp_path / "x.safetensors", prompts=PROMPTS, **{**SHORT, "cache": cache, **more}
            )
    with pytest.raises(UsageError, match=r"what the base predicts.*prompts="):
        distill(
            BASE, tuned, INK, output=tmp_path / "x.safetensors", prompts=PROMPTS, **{**SHORT, "cache": cache}
        )  # fmt: skip


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("family", ["sdxl", "flux", "sd3"])
def test_every_family_is_distilled(family: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Random weights and random noise on them: everything is carried, text encoders too, and little is left."""
    if family == "sdxl":
        base, parts = request.getfixturevalue("sdxl_folder"), ("unet", "text_encoder", "text_encoder_2")
    else:
        base, parts = getattr(families, family)(tmp_path / "base"), ("transformer", "text_encoder", "text_encoder_2")
    tuned = families.tuned(base, tmp_path / "tuned", parts, share=0.05)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(f"{a} {b}" for a in "abcd" for b in "efgh"), encoding="utf-8")
    few: dict[str, Any] = {"trajectories": 4, "states": 2, "sampling_steps": 3, "held_out": 3, "probes": 1}
    found = distill(
        base, tuned, output=tmp_path / "x.safetensors", method="calibrated", size=10**8, prompts=prompts,
        cache=tmp_path / "cache", resolution=16, pieces=64, **few,
    )  # fmt: skip
    assert found.error < 0.05
    assert parts[0] in found.modules
    assert set(found.carried) == set(parts)
    some = distill(
        base, tuned, output=tmp_path / "y.safetensors", method="calibrated", size=found.size // 3, prompts=prompts,
        cache=tmp_path / "cache", resolution=16, pieces=64, **few,
    )  # fmt: skip
    assert found.error < some.error < 1
