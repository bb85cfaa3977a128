"""Judges' scores and paired measures, against counts made by hand."""

from __future__ import annotations

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel

from examples.miniature import autoencoder, base, measures, text
from examples.miniature.checkpoints import HERE
from examples.miniature.judges import QUESTIONS, Judges, chance, judge
from examples.miniature.render import SIDE
from examples.miniature.report import shuffle
from examples.miniature.scenes import FACTS, STYLES, Scene, Thing

STAR = Scene((Thing("small", "red", "star"),), "at the top", "sand")
PAIR = Scene((Thing("small", "red", "star"), Thing("large", "blue", "ring")), "left of", "night")


class Fixed(Judges):
    """Judges that see the same scene in every picture."""

    def __init__(self, seen: Scene, style: str) -> None:
        super().__init__()
        self.answers = {**seen.facts(), "style": style}

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = {}
        for name, options in QUESTIONS.items():
            logits[name] = torch.zeros(len(pictures), len(options))
            logits[name][:, options.index(self.answers[name])] = 1.0
        return logits


def test_alignment_is_the_share_of_all_facts_that_are_right() -> None:
    verdict = judge(Fixed(PAIR, "neon"), torch.zeros(2, 3, 32, 32), [PAIR, STAR])
    # All eight facts of the pair; of the lone star's five, shape, colour and size, but not layout and background.
    assert verdict.alignment == pytest.approx((8 + 3) / (8 + 5))
    assert verdict.facts["background"] == 0.5
    assert verdict.facts["second_shape"] == 1.0
    assert verdict.styles == {style: float(style == "neon") for style in STYLES}


def test_chance_counts_the_facts_that_another_scene_happens_to_share() -> None:
    # Of the five facts that both scenes have, first shape, colour and size agree, in either direction.
    assert chance([STAR, PAIR]) == pytest.approx(3 / 5)
    assert set(FACTS) == {*PAIR.facts()}


def test_shuffling_leaves_no_picture_in_its_place() -> None:
    pictures = torch.arange(9.0).view(9, 1, 1, 1)
    moved = shuffle(pictures)
    assert sorted(moved.flatten().tolist()) == pictures.flatten().tolist()
    assert not moved.eq(pictures).any()


@pytest.fixture(scope="module")
def pipes(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, object]:
    tokenizer = text.load_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        vae, unet = AutoencoderKL(**autoencoder.VAE).eval(), UNet2DConditionModel(**base.UNET).eval()
        text_encoder = CLIPTextModel(text.text_config(tokenizer)).eval()
        found.append(base.assemble(vae, text_encoder, tokenizer, unet, base.new_scheduler()))
    return found[0], found[1]


def test_the_teacher_itself_has_no_error_and_the_base_has_error_one(pipes: tuple[object, object]) -> None:
    start, teacher = pipes
    latents = torch.randn(10, autoencoder.CHANNELS, 8, 8, generator=torch.Generator().manual_seed(0))
    prompts = [STAR.prompt(), PAIR.prompt()] * 5
    by_bucket, noise = measures.noise_errors(teacher, teacher, start, latents, prompts)
    assert by_bucket == (0.0,) * measures.BUCKETS
    assert noise == 0.0
    by_bucket, noise = measures.noise_errors(start, teacher, start, latents, prompts)
    assert by_bucket == (1.0,) * measures.BUCKETS
    assert noise == 1.0


def test_predicted_noise_is_what_the_scheduler_makes_of_the_velocity(pipes: tuple[object, object]) -> None:
    pipe = pipes[0]
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, autoencoder.CHANNELS, 8, 8, generator=generator) for _ in range(2))
    timesteps = torch.tensor([5, 400, 990])
    scheduler = base.new_scheduler()
    noisy = scheduler.add_noise(latents, noise, timesteps)

    class Oracle:
        """A model that knows the latents: it predicts the true velocity."""

        config = UNet2DConditionModel(**base.UNET).config

        def __call__(self, *arguments: object) -> object:
            return type("Output", (), {"sample": scheduler.get_velocity(latents, noise, timesteps)})

    class Knowing:
        encode_prompt = staticmethod(lambda prompts, *rest, **options: (torch.zeros(len(prompts), 20, 64), None))
        unet = Oracle()

    Knowing.scheduler = scheduler  # type: ignore[attr-defined]
    found = measures.predicted_noise(Knowing(), noisy, timesteps, [STAR.prompt()] * 3)
    assert pipe is not None
    assert torch.allclose(found, noise, atol=1e-4)


@pytest.mark.parametrize("family", ["base", "sdxl", "dit"])
def test_what_a_denoiser_is_asked_is_what_its_pipeline_asks_it(family: str) -> None:
    pipe = DiffusionPipeline.from_pretrained(HERE / family)
    pipe.set_progress_bar_config(disable=True)
    denoiser = pipe.transformer if family == "dit" else pipe.unet
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    denoiser.register_forward_hook(
        lambda module, given, told, answer: seen.append((told["timestep"] if "timestep" in told else given[1],
                                                         answer[0])),
        with_kwargs=True,
    )  # fmt: skip
    noisy = torch.randn(2, autoencoder.CHANNELS, 8, 8, generator=torch.Generator().manual_seed(0))
    given = FluxPipeline._pack_latents(noisy, 2, autoencoder.CHANNELS, 8, 8) if family == "dit" else noisy
    prompts = [STAR.prompt(), PAIR.prompt()]
    own = {"height": SIDE, "width": SIDE, "max_sequence_length": text.TOKENS} if family == "dit" else {}
    pipe(prompts, latents=given, num_inference_steps=1, guidance_scale=1.0, output_type="latent", **own)
    time, answer = seen[0]
    step = round(float(time.flatten()[0]) * 1000) - 1 if family == "dit" else int(time)
    found = measures.predicted_noise(pipe, noisy, torch.tensor([step, step]), prompts)
    assert torch.equal(seen[1][1], answer)
    if family != "dit":
        alpha = pipe.scheduler.alphas_cumprod[step]
        answer = alpha.sqrt() * answer + (1 - alpha).sqrt() * noisy
    expected = FluxPipeline._unpack_latents(answer, 8, 8, 1) if family == "dit" else answer
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_flow_s_noisy_latents_lie_on_the_way_to_the_noise() -> None:
    latents = torch.randn(10, autoencoder.CHANNELS, 8, 8, generator=torch.Generator().manual_seed(1))
    states = measures.add_noise(FlowMatchEulerDiscreteScheduler(shift=1.0), latents, [STAR.prompt()] * 10, seed=3)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))
    sigmas = (states.timesteps.double() + 1).view(-1, 1, 1, 1) / 1000
    assert torch.allclose(states.latents.double(), (1 - sigmas) * latents + sigmas * noise, atol=1e-6)
