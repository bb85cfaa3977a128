"""Running base and tuned model: weights in between, text, predictions and trajectories as the pipelines have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from examples.miniature.checkpoints import unfold
from si_hub.distill import open_model
from si_hub.distill.pair.change import ModuleKey
from si_hub.distill.pair.matching import Pair
from si_hub.distill.pair.model import ModelOnDisk
from si_hub.distill.running.assembling import why_not
from si_hub.distill.running.blocks import inside_blocks
from si_hub.distill.running.runner import Runner, what_is_held
from si_hub.distill.running.stored import StoredParameter
from si_hub.distill.running.tracing import trace
from si_hub.distill.running.trajectory import trajectories
from si_hub.errors import CannotRun, NotFinite
from tests.distill import families, masked
from tests.distill.running.sampled import states
from tests.miniature import BASE, INK, open_pair

# diffusers' Euler schedulers hand a tensor to numpy in a way that numpy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

RED = "a small red star in the middle, on sand"


def runner_of(base: Path, tuned: Path, **options: Any) -> Runner:
    return Runner(open_pair(tuned, base), options=options)


@pytest.fixture(scope="module")
def ink() -> Runner:
    return runner_of(BASE, INK)


@pytest.fixture(scope="module", params=["sdxl", "flux", "sd3", "qwen", "lumina2", "z_image"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """A pair of each family, small pictures."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "sdxl":
        base, parts = request.getfixturevalue("sdxl_folder"), ("unet", "text_encoder", "text_encoder_2")
    else:
        home = masked if hasattr(masked, request.param) else families
        base = getattr(home, request.param)(folder / "base")
        # Qwen2.5-VL's files name its modules otherwise than it does itself.
        parts = ("transformer", *(() if request.param == "qwen" else ("text_encoder", "text_encoder_2")))
    tuned = families.tuned(base, folder / "tuned", parts)
    return runner_of(base, tuned, height=16, width=16)


def test_every_family_is_computed_in_float32_where_a_cpu_holds_half_precision(family: Runner) -> None:
    """As precisely as with its rounded weights in float32: what pipeline and models hand on is of the right dtype."""
    held = Runner(family.pair, dtype=torch.bfloat16, options=family.options)
    same = Runner(family.pair, options=family.options)
    for name, model in held.pipeline.components.items():
        if isinstance(model, torch.nn.Module):
            numbers = {
                key: value.float() if value.is_floating_point() else value for key, value in model.state_dict().items()
            }
            getattr(same.pipeline, name).load_state_dict(numbers)
    walked, expected = (trajectories(runner, ["a b", "c"], [1, 2], steps=2) for runner in (held, same))
    for state, wanted in zip(walked, expected, strict=True):
        assert all(torch.equal(value, wanted.inputs[name]) for name, value in state.inputs.items())
    with torch.no_grad():
        assert torch.equal(held(walked[-1]), same(walked[-1]))


def test_every_family_computes_from_its_files_what_it_computes_from_memory(family: Runner) -> None:
    """Base, tuned model and the middle of both, bit by bit; and next to nothing of the model is held."""
    stored = Runner(family.pair, options=family.options, memory="files")
    where = trajectories(family, ["a b", "c"], [1, 2], steps=2)[-1]
    with torch.no_grad():
        for share in (1.0, 0.5, 0.0):
            found = []
            for runner in (stored, family):
                runner.mix(share)
                found.append(runner(where))
            assert torch.equal(*found), share
    # The Qwen2.5-VL that its library renames as it loads it is held.
    renamed = {"text_encoder"} if type(family.denoiser).__name__.startswith("Qwen") else set()
    for name in family.pair.base.components.keys() - renamed:
        model = getattr(stored.pipeline, name)
        inside = inside_blocks(model)
        assert inside, name
        assert all(isinstance(one, StoredParameter) is (id(one) in inside) for one in model.parameters()), name


@pytest.mark.parametrize("memory", ["blocks", "files"])
def test_every_familys_gradients_are_those_of_the_whole_graph(family: Runner, memory: str) -> None:
    """Of every layer that was tuned, text encoders' too: what is computed again is computed as it was."""
    again = Runner(family.pair, options=family.options, memory=memory)
    where = trajectories(family, ["a b", "c"], [1, 2], steps=2)[-1]
    found: list[dict[ModuleKey, torch.Tensor]] = []
    for runner in (family, again):
        seen: dict[ModuleKey, torch.Tensor] = {}

        def observe(
            key: ModuleKey, module: torch.nn.Module, given: torch.Tensor, gradient: torch.Tensor, into: Any = seen
        ) -> None:
            into[key] = into[key] + gradient if key in into else gradient

        runner.mix(0.5)
        with trace(runner.modules(runner.pair.changes), 2, observe), torch.enable_grad():
            runner(where).square().sum().backward()  # type: ignore[no-untyped-call]
        runner.mix(0.0)
        found.append(seen)
    # What has no effect at all has no gradient in the one, and zeros in the other.
    assert not any(found[1][key].any() for key in found[1].keys() - found[0].keys())
    assert {key[0] for key in found[0]} == {change.component for change in family.pair.changes}
    for key, gradient in found[0].items():
        size = float(gradient.abs().max())
        assert torch.allclose(found[1][key], gradient, rtol=1e-3, atol=1e-4 * size + 1e-9), key


def test_what_a_pipeline_reads_while_it_samples_is_told_as_it_is(tmp_path: Path) -> None:
    """And not as a call that the pipeline refuses."""

    def damage(tensors: dict[str, torch.Tensor]) -> None:
        tensors["down_blocks.0.resnets.0.conv1.weight"][0] = float("nan")

    runner = Runner(open_pair(families.edited(BASE, tmp_path / "tuned", "unet", damage)), memory="files")
    runner.mix(1.0)
    with pytest.raises(NotFinite, match=r"unet\.down_blocks\.0\.resnets\.0\.conv1"):
        trajectories(runner, [RED], [1], steps=2)


def test_sampling_that_ends_in_no_numbers_says_so(tmp_path: Path) -> None:
    """A weight that base and tuned model share, and that nothing of their difference touches."""

    def damage(tensors: dict[str, torch.Tensor]) -> None:
        tensors["conv_norm_out.weight"][:] = float("inf")

    base = families.edited(BASE, tmp_path / "base", "unet", damage)
    tuned = families.tuned(base, tmp_path / "tuned", ("text_encoder",))
    with pytest.raises(CannotRun, match=r"base: its own sampling ends in NaN or infinity"):
        trajectories(Runner(open_pair(tuned, base)), [RED], [1], steps=2)


def test_mixing_gives_the_weights_of_either_model_and_of_the_middle(ink: Runner) -> None:
    base = DiffusionPipeline.from_pretrained(BASE, safety_checker=None)
    tuned = unfold(INK)
    for part in ("unet", "text_encoder"):
        ends = [dict(getattr(pipe, part).named_parameters()) for pipe in (base, tuned)]
        for share in (0.0, 1.0, 0.5):
            ink.mix(share)
            for name, value in getattr(ink.pipeline, part).named_parameters():
                expected = (1 - share) * ends[0][name] + share * ends[1][name]
                assert torch.allclose(value, expected, atol=1e-6), (name, share)
    ink.mix(0.0)
    for name, value in ink.pipeline.unet.named_parameters():
        assert torch.equal(value, base.unet.get_parameter(name))


def test_a_damaged_weight_is_named_and_leaves_no_mixture_behind(tmp_path: Path) -> None:
    def damage(tensors: dict[str, torch.Tensor]) -> None:
        tensors["conv_in.weight"] = 2 * tensors["conv_in.weight"]
        tensors["mid_block.attentions.0.proj_in.weight"][0, 0] = float("nan")

    runner = runner_of(BASE, families.edited(BASE, tmp_path / "tuned", "unet", damage))
    before = {name: value.clone() for name, value in runner.pipeline.unet.named_parameters()}
    for share in (1.0, 0.5):
        with pytest.raises(NotFinite, match=r"unet\.mid_block\.attentions\.0\.proj_in"):
            runner.mix(share)
    for change in [one for one in runner.pair.changes if one.module.startswith("mid_block")]:
        runner.pair.changes.remove(change)
    runner.mix(0.0)
    assert all(torch.equal(value, before[name]) for name, value in runner.pipeline.unet.named_parameters())


def test_a_damaged_weight_in_a_file_is_named_when_it_is_read(tmp_path: Path) -> None:
    def damage(tensors: dict[str, torch.Tensor]) -> None:
        tensors["mid_block.attentions.0.transformer_blocks.0.ff.net.2.weight"][0, 0] = float("nan")

    runner = Runner(open_pair(families.edited(BASE, tmp_path / "tuned", "unet", damage)), memory="files")
    where = states(Runner(open_pair(INK)))
    for share in (1.0, 0.5):
        runner.mix(share)
        with pytest.raises(NotFinite, match=r"unet\.mid_block\.attentions\.0\.transformer_blocks\.0\.ff\.net\.2"):
            runner(where)
    runner.mix(0.0)
    assert runner(where).isfinite().all()


def test_what_is_held_goes_by_size_and_device(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = open_pair(INK)
    numbers = sum(weight.count for weight in pair.base.components["unet"].values())
    for large, expected in ((0, ["all", "all"]), (1, ["files", "blocks"])):
        monkeypatch.setattr("si_hub.distill.running.runner.LARGE_DENOISER", numbers - large)
        assert [what_is_held("auto", pair.base, torch.device(name)) for name in ("cpu", "cuda")] == expected
        assert what_is_held("blocks", pair.base, torch.device("cpu")) == "blocks"
    found = Runner(pair)
    assert (found.memory, found.blockwise) == ("files", True)


def test_half_precision_rounds_nothing_that_is_read_from_files() -> None:
    held = Runner(open_pair(INK), dtype=torch.bfloat16, memory="files")
    assert (held.dtype, held.computed) == (torch.float32, torch.float32)


def test_a_prediction_is_the_unet_s_times_what_makes_it_noise(ink: Runner) -> None:
    """With v-prediction the noise is √ᾱ v + √(1−ᾱ) x; errors of it are √ᾱ times those of v."""
    ink.mix(1.0)
    steps = trajectories(ink, [RED, RED], [1, 2], steps=4)
    tuned = unfold(INK)
    states, _ = tuned.encode_prompt([RED, RED], "cpu", 1, False)
    for step, time in zip(steps, (999, 749, 499, 249), strict=True):
        with torch.no_grad():
            expected = (
                tuned.unet(step.inputs["sample"], time, states).sample * tuned.scheduler.alphas_cumprod[time].sqrt()
            )
            assert torch.allclose(ink(step), expected, atol=1e-4)
        assert step.place.tolist() == pytest.approx([time / 1000] * 2)


def test_every_family_runs_and_the_tuned_model_differs(family: Runner) -> None:
    """At the base's weights a prediction is what the pipeline's own call to the denoiser gave."""
    outputs: list[torch.Tensor] = []
    handle = family.denoiser.register_forward_hook(lambda module, args, output: outputs.append(output[0]))
    family.mix(0.0)
    try:
        steps = trajectories(family, ["a b", "c"], [1, 2], steps=3)
    finally:
        handle.remove()
    each = len(outputs) // 3
    with torch.no_grad():
        for step, output in zip(steps, outputs[::each], strict=True):
            # The null prompts' rows come first; where samples are a list, last.
            given = torch.stack([*output[:2]]) if family.listed else output[-2:]
            assert torch.allclose(family(step), given, atol=1e-4)
        before = family(steps[0])
        family.mix(1.0)
        assert not torch.allclose(family(steps[0]), before, atol=1e-3)
        family.mix(0.0)
        assert torch.equal(family(steps[0]), before)


def test_gradients_reach_latents_and_every_text_encoder(family: Runner) -> None:
    steps = trajectories(family, ["a b", "c"], [1, 2], steps=2)
    reached = {}
    for model in family._models().values():
        model.requires_grad_(True)
        model.zero_grad()
    family(steps[0]).square().sum().backward()  # type: ignore[no-untyped-call]
    for name, model in family._models().items():
        reached[name] = any(value.grad is not None and bool(value.grad.any()) for value in model.parameters())
        model.requires_grad_(False)
    assert all(reached.values()), reached


def test_the_null_prompt_is_zeros_where_the_pipeline_says_so(family: Runner) -> None:
    text = family.encode([None, "a"])
    zero = getattr(family.pipeline.config, "force_zeros_for_empty_prompt", False)
    assert all(bool(value[0].any()) is not zero and bool(value[1].any()) for value in text.values())


def test_why_a_base_cannot_run(tmp_path: Path) -> None:
    file = open_model(INK, base=open_model(BASE))
    assert "configuration is not shipped" in str(why_not(file))
    assert why_not(open_model(BASE)) is None
    part = ModelOnDisk(BASE / "unet", "folder", file.architecture, None, {})
    assert why_not(part)
    with pytest.raises(CannotRun, match="method='svd'"):
        Runner(Pair(file, file, []))
