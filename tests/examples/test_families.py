"""The other two bases: their vocabularies and the quantities they are trained to predict."""

from __future__ import annotations

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
from torch import nn

from examples.miniature import autoencoder, families, text
from examples.miniature.scenes import words


def test_every_word_is_one_piece_of_the_t5_vocabulary() -> None:
    tokenizer = families.new_t5_tokenizer()
    sentence = "a small red star left of a large blue square, on sand, neon style"
    pieces = tokenizer.convert_ids_to_tokens(tokenizer(sentence).input_ids)
    assert pieces == [f"▁{word}".replace("▁,", ",") for word in sentence.replace(",", " ,").split()] + ["</s>"]
    assert {word for word in words() if tokenizer.unk_token_id in tokenizer(word).input_ids} == set()


class Oracle(nn.Module):
    """A transformer that predicts what it was told to."""

    def __init__(self, answer: torch.Tensor) -> None:
        super().__init__()
        self.answer = answer
        self.seen: dict[str, torch.Tensor] = {}

    def forward(self, **inputs: torch.Tensor) -> object:
        self.seen = inputs
        return type("Output", (), {"sample": self.answer})


class Text(nn.Module):
    """A text encoder of zeros."""

    def forward(self, ids: torch.Tensor) -> object:
        states = torch.zeros(*ids.shape, text.TEXT_WIDTH)
        return type("Output", (), {"last_hidden_state": states, "pooler_output": states[:, 0]})


def test_flow_matching_asks_for_the_step_that_flux_takes_from_noise_to_latents() -> None:
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(2, autoencoder.CHANNELS, 8, 8, generator=generator) for _ in range(2))
    packed = [FluxPipeline._pack_latents(x, 2, autoencoder.CHANNELS, 8, 8) for x in (latents, noise)]
    oracle = Oracle(packed[1] - packed[0])
    loss = families.FlowMatching(oracle, Text(), Text())
    ids = torch.zeros(2, text.TOKENS, dtype=torch.long)
    timesteps = torch.tensor([249, 999])
    assert float(loss(latents, ids, ids, noise, timesteps)) == 0.0
    # From what the model was shown, diffusers' scheduler must reach the latents in one step along that velocity.
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    for row, sigma in enumerate((0.25, 1.0)):
        scheduler.set_timesteps(sigmas=[sigma])
        shown = oracle.seen["hidden_states"][row]
        assert float(oracle.seen["timestep"][row]) == sigma
        reached = scheduler.step(oracle.answer[row], scheduler.timesteps[0], shown).prev_sample
        assert torch.allclose(reached, packed[0][row], atol=1e-5)
