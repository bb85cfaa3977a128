"""Where a picture's drawing is, by the scheduler: steps counted by hand, on schedulers of every make."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch

import si_hub
from si_hub import Act, Adapter, tuner
from si_hub.errors import BaseMismatch, ConversionRefused, UsageError
from si_hub.pipelines.clock import Clock, instant_of
from si_hub.schedule import Instant, WeightCurve

Make = Callable[..., Any]
#: diffusers' schedulers and numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
SCHEDULERS = [
    "DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "LCMScheduler",
    "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler",
]  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("share", [False, True], ids=["times", "shares"])
def test_steps_are_counted_once_each_on_every_scheduler(name: str, share: bool) -> None:
    scheduler = getattr(diffusers, name)()
    scheduler.set_timesteps(6)
    sample, found = torch.zeros(1, 4, 2, 2), []
    for time in scheduler.timesteps:
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(sample, time)
        found.append(instant_of(scheduler, float(time) / 1000 if share else float(time)))
        scheduler.step(torch.zeros_like(sample), time, sample)
    times = [float(time) for time in scheduler.timesteps]
    distinct = list(dict.fromkeys(times))
    assert [now.step for now in found] == [distinct.index(time) for time in times]
    assert {now.steps for now in found} == {len(distinct)}
    sigmas = [now.sigma for now in found]
    assert all(sigma is not None and math.isfinite(sigma) for sigma in sigmas)
    assert sigmas == sorted(sigmas, key=lambda sigma: -(sigma or 0))


def test_sigma_is_noise_over_signal_where_a_scheduler_has_no_list_of_it() -> None:
    scheduler = diffusers.DDIMScheduler()
    scheduler.set_timesteps(4)
    kept = torch.cumprod(1 - torch.linspace(0.0001, 0.02, 1000, dtype=torch.float64), 0)[500]
    assert instant_of(scheduler, 500).sigma == pytest.approx(float(((1 - kept) / kept).sqrt()), rel=1e-4)


def test_another_time_than_the_scheduler_s_is_refused() -> None:
    scheduler = diffusers.DDIMScheduler()
    scheduler.set_timesteps(4)
    with pytest.raises(UsageError, match="not called with the time of the pipeline's scheduler"):
        instant_of(scheduler, 100)


@pytest.fixture
def loaded(sd: Make, lora: Make, adapter: Make) -> Any:
    pipe = sd()
    parts = {"unet": lora(pipe.unet), "text_encoder": lora(pipe.text_encoder, ("q_proj",))}
    pipe.load_styleinject_weights(adapter(**parts), "a")
    styles = lora(pipe.unet, ("to_q", "conv1"), branches=2, seed=3)
    pipe.load_styleinject_weights(adapter(("ink", "neon"), unet=styles), "s")
    pipe.set_styleinject_adapters([])
    return pipe


def by_hand(pipe: Any, weights: list[Any], ask: Callable[[Any], Any], **options: Any) -> torch.Tensor:
    """A picture of four steps in which a callback asks for another weight before each of them."""
    requests: list[Any] = []

    def change(pipe: Any, step: int, _: Any, kwargs: Any) -> Any:
        requests.pop().__exit__(None, None, None)
        if step + 1 < len(weights):
            requests.append(ask(weights[step + 1]).__enter__())
        return kwargs

    requests.append(ask(weights[0]).__enter__())
    draw = torch.Generator().manual_seed(2)
    out = pipe(
        "ink cat", height=16, width=16, num_inference_steps=4, generator=draw, output_type="latent",
        callback_on_step_end=change, **options,
    )  # fmt: skip
    images: torch.Tensor = out.images
    return images


def run(pipe: Any, **options: Any) -> torch.Tensor:
    draw = torch.Generator().manual_seed(2)
    out = pipe("ink cat", height=16, width=16, num_inference_steps=4, generator=draw, output_type="latent", **options)
    images: torch.Tensor = out.images
    return images


WEIGHTS = [1.0, 0.0, -0.5, 2.0]


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler"])
def test_a_list_a_function_and_a_curve_act_step_by_step(loaded: Any, scheduler: str) -> None:
    loaded.scheduler = getattr(diffusers, scheduler).from_config(loaded.scheduler.config)
    expected = by_hand(loaded, WEIGHTS, lambda weight: loaded.styleinject({"a": {"unet": weight}}))
    assert torch.equal(run(loaded.styleinject("a", weight=WEIGHTS)), expected)
    assert torch.equal(run(loaded.styleinject("a", weight={"unet": WEIGHTS})), expected)
    assert torch.equal(run(loaded.styleinject("a", weight=lambda now: WEIGHTS[now.step])), expected)
    curve = WeightCurve(tuple((step / 3, weight) for step, weight in enumerate(WEIGHTS)))
    assert torch.allclose(run(loaded.styleinject("a", weight=curve)), expected, atol=1e-5)
    seen: list[Instant] = []
    run(loaded.styleinject("a", weight=lambda now: (seen.append(now), 1.0)[1]))  # type: ignore[func-returns-value]
    assert [now.step for now in seen] == [0, 1, 2, 3]
    assert [now.sigma for now in seen] == sorted((now.sigma for now in seen), reverse=True)  # type: ignore[type-var]


def test_styles_by_step_and_rows_by_step_are_what_they_are_one_by_one(loaded: Any) -> None:
    styles = by_hand(loaded, WEIGHTS, lambda weight: loaded.styleinject("s", styles={"ink": weight, "neon": 0.5}))
    assert torch.allclose(run(loaded.styleinject("s", styles={"ink": WEIGHTS, "neon": 0.5})), styles, atol=1e-5)
    loaded.to(torch.float64)
    rows: list[Any] = [Act("a", WEIGHTS), Act("s", 0.5, {"neon": [0, 0, 1, 1]}), None]
    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    prompts = ["ink cat", "oil dog", "sea"]
    options: dict[str, Any] = {"height": 16, "width": 16, "num_inference_steps": 4, "output_type": "latent"}
    together = loaded.styleinject(rows=rows)(prompts, latents=noise, **options).images
    for number, row in enumerate(rows):
        request = loaded.styleinject([] if row is None else row)
        alone = request(prompts[number], latents=noise[number : number + 1], **options).images
        assert torch.allclose(together[number], alone[0], rtol=0, atol=1e-11)


def test_what_does_not_fit_the_steps_or_the_model_is_an_error(loaded: Any) -> None:
    with pytest.raises(UsageError, match="expected 4 weights, found 3"):
        run(loaded.styleinject("a", weight=[1, 2, 3]))
    with pytest.raises(UsageError, match="text_encoder: is not run by steps"):
        run(loaded.styleinject("a", weight={"text_encoder": [1, 2, 3, 4]}))
    with pytest.raises(UsageError, match="step 0: a weight is a finite number"):
        run(loaded.styleinject("a", weight=lambda now: "much"))
    with loaded.styleinject("a", weight=WEIGHTS), pytest.raises(UsageError, match="time of the pipeline's scheduler"):
        loaded.unet(torch.zeros(1, 4, 8, 8), 100, torch.zeros(1, 16, 24))


@pytest.fixture
def scheduled(sd: Make, lora: Make, adapter: Make) -> Adapter:
    made: Adapter = adapter(("ink", "neon"), unet=lora(sd().unet, ("to_q", "conv1"), branches=2, seed=3))
    made.about["schedule"] = {
        "weight": {"over": "progress", "points": [[0, 1], [1, 0]]},
        "branches": {"neon": {"over": "progress", "points": [[0, 0], [1, 3]]}},
    }
    return made


def test_a_stored_schedule_is_followed_by_every_draw_until_it_is_unloaded(
    loaded: Any, scheduled: Adapter, tmp_path: Any, state: Make, same: Make
) -> None:
    loaded.unload_styleinject_weights()
    before, base = state(loaded), run(loaded)
    plain = Adapter(scheduled.base_model, scheduled.components, scheduled.branches)
    loaded.load_styleinject_weights(plain, "s")
    # The router's bias is zero: both branches have one half.
    thirds = [(1 - step / 3, {"ink": 0.5, "neon": 0.5 * step}) for step in range(4)]
    expected = by_hand(loaded, thirds, lambda part: loaded.styleinject(Act("s", *part)))
    styles = [(1 - step / 3, {"ink": 2.0, "neon": 1.0 * step}) for step in range(4)]
    styled = by_hand(loaded, styles, lambda part: loaded.styleinject(Act("s", *part)))
    loaded.delete_styleinject_adapters("s")
    si_hub.format.write(scheduled, tmp_path / "s.safetensors")
    loaded.load_styleinject_weights(tmp_path / "s.safetensors", "s")
    assert torch.allclose(run(loaded), expected, atol=1e-5)
    assert torch.equal(run(loaded), run(loaded.styleinject("s")))
    loaded.set_styles({"ink": 2.0, "neon": 1.0})
    assert torch.allclose(run(loaded), styled, atol=1e-5)
    with pytest.raises(ConversionRefused, match="weights change by step"):
        loaded.fuse_styleinject()
    loaded.save_styleinject_weights(tmp_path / "saved", "s")
    assert (tmp_path / "saved" / "styleinject.safetensors").read_bytes() == (tmp_path / "s.safetensors").read_bytes()
    twin = copy.copy(loaded)
    twin.unet = copy.deepcopy(loaded.unet)
    assert torch.allclose(run(twin), styled, atol=1e-5)
    loaded.load_styleinject_weights(plain, "s", hotswap=True)
    assert not torch.allclose(run(loaded), styled, atol=1e-3)
    loaded.unload_styleinject_weights()
    assert torch.equal(run(loaded), base)
    assert same(state(loaded), before)
    assert not loaded.unet._forward_pre_hooks


def test_a_schedule_without_its_pipeline_or_a_denoiser_is_refused(
    loaded: Any, scheduled: Adapter, lora: Make, adapter: Make
) -> None:
    loaded.unload_styleinject_weights()
    texts = adapter(text_encoder=lora(loaded.text_encoder, ("q_proj",)))
    texts.about["schedule"] = {"weight": {"over": "progress", "points": [[0, 1]]}}
    with pytest.raises(BaseMismatch, match=r"schedule: .*none of its models is a denoiser"):
        loaded.load_styleinject_weights(texts)
    assert loaded.get_list_styleinject_adapters() == {}
    loaded.load_styleinject_weights(scheduled, "s")
    other = copy.copy(loaded)
    other.scheduler = copy.deepcopy(loaded.scheduler)
    expected = run(loaded)
    loaded.scheduler.set_timesteps(7)
    with pytest.raises(UsageError, match=r"time of the pipeline's scheduler.*with pipe.styleinject\(\)"):
        run(other)
    assert torch.equal(run(other.styleinject()), expected)
    compiled: Any = torch.compile(loaded.unet, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="compiled model cannot follow weights"):
        compiled(torch.zeros(1, 4, 8, 8), 3, torch.zeros(1, 16, 24))
    torch.compiler.reset()


def test_a_clock_outlives_its_pipeline_only_to_say_so() -> None:
    clock = pickle.loads(pickle.dumps(Clock(torch.nn.Identity())))
    with pytest.raises(UsageError, match="need the scheduler of a pipeline"):
        clock(torch.nn.Identity(), (), {})
    assert copy.deepcopy(clock) is clock
    assert tuner.adapters(torch.nn.Identity()) == {}
