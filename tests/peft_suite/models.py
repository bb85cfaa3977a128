"""Tiny random models under the names that PEFT's tests ask the Hub for: no Hub is needed to run them.

Each is of the class its name says, with the module names of its kind and a vocabulary that holds the tests' tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = 1024
#: Not the tokens 1 and 2, which the tests' inputs are made of: a padding token is embedded as zeros.
_TOKENS = {"bos_token_id": 0, "pad_token_id": 3, "eos_token_id": 4}
#: One of each of the sizes that models of this age call by the same names.
_COMMON: dict[str, Any] = {
    "vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 32, "max_position_embeddings": 128, "initializer_range": 0.2,
    **_TOKENS,
}  # fmt: skip
_GROUPED = {**_COMMON, "num_key_value_heads": 2}


def _opt(**sizes: Any) -> Any:
    return transformers.OPTConfig(**{**_COMMON, "init_std": 0.2, "ffn_dim": 32, "word_embed_proj_dim": 16, **sizes})


def _gpt2() -> Any:
    return transformers.GPT2Config(
        vocab_size=WORDS, n_embd=16, n_layer=2, n_head=4, n_positions=128, initializer_range=0.2, **_TOKENS
    )


def _gptj() -> Any:
    return transformers.GPTJConfig(
        vocab_size=WORDS, n_embd=16, n_layer=2, n_head=4, n_positions=128, rotary_dim=4, tie_word_embeddings=False,
        initializer_range=0.2, **_TOKENS,
    )  # fmt: skip


def _bart() -> Any:
    return transformers.BartConfig(
        vocab_size=WORDS, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=128,
        decoder_start_token_id=4, forced_eos_token_id=None, init_std=0.2, **_TOKENS,
    )  # fmt: skip


def _t5() -> Any:
    return transformers.T5Config(
        vocab_size=WORDS, d_model=16, d_kv=4, d_ff=32, num_layers=5, num_heads=4, decoder_start_token_id=0,
        pad_token_id=0, eos_token_id=4,
    )  # fmt: skip


def _gemma3() -> Any:
    return transformers.Gemma3TextConfig(**{**_GROUPED, "head_dim": 8, "sliding_window": 64})


#: The Hub's name → the model's class and its configuration.
MODELS: dict[str, tuple[str, Callable[[], Any]]] = {
    "peft-internal-testing/opt-125m": ("OPTForCausalLM", lambda: _opt(num_hidden_layers=12)),
    "peft-internal-testing/tiny-random-OPTForCausalLM": ("OPTForCausalLM", _opt),
    "peft-internal-testing/tiny-random-GPT2LMHeadModel": ("GPT2LMHeadModel", _gpt2),
    "peft-internal-testing/tiny-random-gpt2": ("GPT2LMHeadModel", _gpt2),
    "hf-internal-testing/tiny-random-gpt2": ("GPT2LMHeadModel", _gpt2),
    "peft-internal-testing/tiny-random-GPTJForCausalLM": ("GPTJForCausalLM", _gptj),
    "trl-internal-testing/tiny-random-LlamaForCausalLM": (
        "LlamaForCausalLM", lambda: transformers.LlamaConfig(**_GROUPED),
    ),
    "peft-internal-testing/tiny-random-LlamaForCausalLM": (
        "LlamaForCausalLM", lambda: transformers.LlamaConfig(**_GROUPED),
    ),
    "trl-internal-testing/tiny-LlamaForSequenceClassification-3.2": (
        "LlamaForSequenceClassification", lambda: transformers.LlamaConfig(**_GROUPED),
    ),
    "hf-internal-testing/tiny-random-MistralForCausalLM": (
        "MistralForCausalLM", lambda: transformers.MistralConfig(**_GROUPED),
    ),
    "peft-internal-testing/tiny-dummy-qwen2": ("Qwen2ForCausalLM", lambda: transformers.Qwen2Config(**_GROUPED)),
    "trl-internal-testing/tiny-Qwen3ForCausalLM": ("Qwen3ForCausalLM", lambda: transformers.Qwen3Config(**_GROUPED)),
    "hf-internal-testing/tiny-random-Gemma3ForCausalLM": ("Gemma3ForCausalLM", _gemma3),
    "peft-internal-testing/tiny-random-BloomForCausalLM": (
        "BloomForCausalLM",
        lambda: transformers.BloomConfig(vocab_size=WORDS, hidden_size=16, n_layer=5, n_head=4, **_TOKENS),
    ),
    "peft-internal-testing/tiny-random-GPTNeoXForCausalLM": (
        "GPTNeoXForCausalLM", lambda: transformers.GPTNeoXConfig(**{**_COMMON, "num_hidden_layers": 5}),
    ),
    "peft-internal-testing/tiny-random-BartForConditionalGeneration": ("BartForConditionalGeneration", _bart),
    "peft-internal-testing/tiny-random-T5ForConditionalGeneration": ("T5ForConditionalGeneration", _t5),
    "peft-internal-testing/tiny-random-T5ForConditionalGeneration-calibrated": ("T5ForConditionalGeneration", _t5),
    "peft-internal-testing/tiny-random-t5": ("T5ForConditionalGeneration", _t5),
    "google/flan-t5-small": ("T5ForConditionalGeneration", _t5),
    "bert-base-uncased": ("BertForSequenceClassification", lambda: transformers.BertConfig(**_COMMON)),
    "gpt2": ("GPT2LMHeadModel", _gpt2),
    "peft-internal-testing/tiny-random-BertModel": ("BertModel", lambda: transformers.BertConfig(**_COMMON)),
    "hf-internal-testing/tiny-random-BertModel": ("BertModel", lambda: transformers.BertConfig(**_COMMON)),
    "peft-internal-testing/tiny-random-BertForSequenceClassification": (
        "BertForSequenceClassification", lambda: transformers.BertConfig(**_COMMON),
    ),
    "peft-internal-testing/tiny-random-RobertaModel": ("RobertaModel", lambda: transformers.RobertaConfig(**_COMMON)),
    "peft-internal-testing/tiny-random-RobertaForSequenceClassification": (
        "RobertaForSequenceClassification", lambda: transformers.RobertaConfig(**_COMMON),
    ),
    "peft-internal-testing/tiny-random-DebertaModel": (
        "DebertaModel", lambda: transformers.DebertaConfig(**_COMMON, relative_attention=True, pos_att_type="p2c|c2p"),
    ),
    "peft-internal-testing/tiny-random-DebertaV2Model": (
        "DebertaV2Model",
        lambda: transformers.DebertaV2Config(**_COMMON, relative_attention=True, pos_att_type="p2c|c2p"),
    ),
    "peft-internal-testing/tiny-clip-text-2": (
        "CLIPTextModelWithProjection", lambda: transformers.CLIPTextConfig(**_COMMON, projection_dim=16),
    ),
}  # fmt: skip
PIPELINE = "hf-internal-testing/tiny-sd-pipe"


def build_models(folder: Path) -> None:
    """Every model as ``FOLDER/OWNER/NAME``, so that its name is its path for whoever works in the folder."""
    for name, (cls, configure) in MODELS.items():
        torch.manual_seed(0)
        getattr(transformers, cls)(configure()).eval().save_pretrained(folder / name)
        tokenizer().save_pretrained(folder / name)
    torch.manual_seed(0)
    pipeline().save_pretrained(folder / PIPELINE)


def tokenizer() -> Any:
    """A tokenizer of whole words, most of them numbers."""
    special = ["<s>", "<unk>", "<mask>", "<pad>", "</s>"]
    vocabulary = {word: index for index, word in enumerate([*special, *map(str, range(WORDS - len(special)))])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        model_max_length=77,
    )  # fmt: skip


def pipeline() -> Any:
    """A Stable Diffusion pipeline of a few thousand parameters."""
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, sample_size=8, cross_attention_dim=16, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), norm_num_groups=4,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 16), latent_channels=4, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    text = transformers.CLIPTextModel(transformers.CLIPTextConfig(**{**_COMMON, "projection_dim": 16}))
    return StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer(), unet=unet, scheduler=DDIMScheduler(),
        safety_checker=None, feature_extractor=None, image_encoder=None, requires_safety_checker=False,
    )  # fmt: skip


if __name__ == "__main__":
    build_models(Path(sys.argv[1]))
