"""Parts of tiny pipelines: text encoders, tokenizers and autoencoders of one to two layers, made of configurations."""

from __future__ import annotations

from typing import Any

import transformers
from diffusers import AutoencoderKL, AutoencoderKLQwenImage, AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, VQModel
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789<>|_/:;,.!?'\"{}()[]-+*=\n "
SPECIAL = ("<pad>", "</s>", "<unk>", "<s>")
#: Rows of every text encoder's table.
VOCABULARY = 96
#: Width of what text encoders give, where a pipeline does not ask for another.
WIDTH = 32


def tokenizer(length: int = 16, template: str | None = None) -> Any:
    """A token a letter, one for the end; stands for CLIP's, T5's, Qwen's and Gemma's alike."""
    vocabulary = {text: index for index, text in enumerate([*SPECIAL, *LETTERS])}
    made = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("(?m)."), "isolated")
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", bos_token="<s>",
        model_max_length=length, padding_side="right",
        chat_template=template or "{% for m in messages %}{{ m['content'] }}{% endfor %}",
    )  # fmt: skip


def clip(projected: bool = False, width: int = WIDTH, length: int = 16) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=length, bos_token_id=3, eos_token_id=1, pad_token_id=0, projection_dim=width,
    )  # fmt: skip
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return kind(config)


def t5(width: int = WIDTH, kind: str = "T5") -> Any:
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=VOCABULARY, d_model=width, d_kv=8, d_ff=37, num_layers=2, num_heads=4,
        relative_attention_num_buckets=8, use_cache=False,
    )  # fmt: skip
    return getattr(transformers, f"{kind}EncoderModel")(config)


def causal(kind: str, width: int = WIDTH, head: bool = False, layers: int = 2, **options: Any) -> Any:
    """A decoder-only text model of a kind such as ``Qwen3``, with its language head or without."""
    config = getattr(transformers, f"{kind}Config")(
        **{
            "vocab_size": VOCABULARY, "hidden_size": width, "intermediate_size": 37, "num_hidden_layers": layers,
            "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512,
            "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 3, **options,
        }
    )  # fmt: skip
    return getattr(transformers, f"{kind}{'ForCausalLM' if head else 'Model'}")(config)


def bert() -> Any:
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=37
    )
    return transformers.BertModel(config)


def qwen25(width: int = WIDTH, layers: int = 2) -> Any:
    """Qwen2.5-VL, whose pictures are not looked at."""
    rope = {"mrope_section": [1, 1, 2] if width == 16 else [2, 2, 4], "rope_type": "default", "type": "default"}
    text = {
        "vocab_size": VOCABULARY, "hidden_size": width, "intermediate_size": width, "num_hidden_layers": layers,
        "num_attention_heads": 2, "num_key_value_heads": 2, "rope_scaling": rope, "rope_theta": 1e6,
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": width, "intermediate_size": width, "num_heads": 2, "out_hidden_size": width}
    config = transformers.Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, vision_start_token_id=90, vision_end_token_id=91, vision_token_id=92,
        image_token_id=93, video_token_id=94,
    )  # fmt: skip
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def vae(latents: int = 4, levels: int = 1, **options: Any) -> Any:
    return AutoencoderKL(
        block_out_channels=(8,) * levels, down_block_types=("DownEncoderBlock2D",) * levels, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * levels, layers_per_block=1, latent_channels=latents, sample_size=32,
        **{"scaling_factor": 1.5, "shift_factor": 0.06, **options},
    )  # fmt: skip


def wan_vae() -> Any:
    return AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )


def qwen_vae() -> Any:
    return AutoencoderKLQwenImage(
        base_dim=24, z_dim=4, dim_mult=[1, 2, 4], num_res_blocks=1, temperal_downsample=[False, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip


def movq() -> Any:
    return VQModel(
        block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4, norm_num_groups=8,
        up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, num_vq_embeddings=12, vq_embed_dim=4,
    )  # fmt: skip


def join(
    transformer: Any, vae: Any, encoder: Any, length: int = 16, scheduler: Any = None, **more: Any
) -> dict[str, Any]:
    """The parts of a pipeline of one transformer and one text encoder; by default it learns flows."""
    return {
        "scheduler": scheduler or FlowMatchEulerDiscreteScheduler(), "transformer": transformer, "vae": vae,
        "text_encoder": encoder, "tokenizer": tokenizer(length), **more,
    }  # fmt: skip
