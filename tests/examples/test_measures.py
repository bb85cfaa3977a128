"""Judges' scores and paired measures, against counts made by hand."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

from examples.miniature import autoencoder, base, measures, text
from examples.miniature.judges import QUESTIONS, Judges, chance, judge
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
