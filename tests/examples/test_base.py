"""The base's parts: a vocabulary of whole words, and latents that are standardised without changing a picture."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from examples.miniature import base
from examples.miniature.scenes import words


def test_every_word_of_the_grammar_is_one_token(tmp_path: Path) -> None:
    tokenizer = base.load_tokenizer(tmp_path)
    for word in words():
        first, *inner, last = tokenizer(word).input_ids
        assert (first, last) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
        assert tokenizer.convert_ids_to_tokens(inner) == [f"{word}</w>"]


def test_every_token_has_one_place_in_the_vocabulary(tmp_path: Path) -> None:
    tokenizer = base.load_tokenizer(tmp_path)
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))


def test_the_longest_sentence_fits(tmp_path: Path) -> None:
    tokenizer = base.load_tokenizer(tmp_path)
    sentence = "a small red star left of a large blue square, on sand, neon style"
    assert len(tokenizer(sentence).input_ids) <= base.TOKENS
    ids = base.ids_of(tokenizer, [sentence, ""])
    assert ids.shape == (2, base.TOKENS)
    assert set(ids[1].tolist()) == {tokenizer.bos_token_id, tokenizer.eos_token_id}


def test_standardising_gives_unit_latents_and_the_same_pictures() -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL(**base.VAE).eval()
    pictures = torch.rand(16, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        before = vae.encode(pictures).latent_dist
        drawn = vae.decode(before.mean).sample
        base.standardise(vae, pictures)
        after = vae.encode(pictures).latent_dist
        assert torch.allclose(vae.decode(after.mean).sample, drawn, atol=1e-4)
    assert torch.allclose(after.mean.mean((0, 2, 3)), torch.zeros(base.CHANNELS), atol=1e-4)
    assert torch.allclose(after.mean.std((0, 2, 3)), torch.ones(base.CHANNELS), atol=1e-4)
    assert torch.allclose(after.std * before.mean.std((0, 2, 3)).view(1, -1, 1, 1), before.std, rtol=1e-4)
    assert vae.config.scaling_factor == 1.0


def test_the_unet_has_every_kind_of_module_that_stable_diffusion_has() -> None:
    names = {name for name, _ in UNet2DConditionModel(**base.UNET).named_modules()}
    ends = (
        "attn1.to_q", "attn2.to_k", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "time_emb_proj",
        "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "conv_in", "conv_out", "time_embedding.linear_1",
    )  # fmt: skip
    assert [end for end in ends if not any(name.endswith(end) for name in names)] == []
