"""Tiny pipelines that draw pictures by a transformer."""

from __future__ import annotations

from typing import Any

import diffusers
import transformers
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler

from tests.pipelines.tiny import parts
from tests.pipelines.tiny.calls import GUIDED, PROMPT, given, picture, square
from tests.pipelines.tiny.parts import bert, causal, clip, join, qwen25, t5, tokenizer
from tests.pipelines.tiny.table import Made, tiny

TURNS = (
    "{% for m in messages %}{{ m['role'] }}: "
    "{{ m['content'] if m['content'] is string else m['content'][0]['text'] }}\n{% endfor %}"
)


@tiny("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline", "StableDiffusion3PAGPipeline")
def stable_diffusion_3(name: str) -> Made:
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=16, patch_size=1, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=4,
        caption_projection_dim=32, joint_attention_dim=32, pooled_projection_dim=64, out_channels=4,
    )  # fmt: skip
    found = join(
        transformer, parts.vae(4), clip(True), text_encoder_2=clip(True), text_encoder_3=t5(), tokenizer_2=tokenizer(),
        tokenizer_3=tokenizer(),
    )  # fmt: skip
    return found, {**square(8), **given(name, 8)}


@tiny(
    "FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline", "FluxControlPipeline", "FluxFillPipeline",
    "FluxKontextPipeline",
)  # fmt: skip
def flux(name: str) -> Made:
    channels = {"FluxControlPipeline": 8, "FluxFillPipeline": 20}.get(name, 4)
    latents = 2 if "Fill" in name else 1
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=channels, out_channels=4 * latents, num_layers=1, num_single_layers=1,
        attention_head_dim=16, num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32,
        axes_dims_rope=[4, 4, 8], guidance_embeds=name == "FluxPipeline",
    )  # fmt: skip
    found = join(transformer, parts.vae(latents), clip(), text_encoder_2=t5(), tokenizer_2=tokenizer())
    options = {"prompt": PROMPT, "height": 8, "width": 8, "max_sequence_length": 16, **given(name, 8)}
    if "Control" in name:
        options["control_image"] = picture(8)
    if "Kontext" in name:
        options |= {"image": picture(8), "max_area": 64, "_auto_resize": False}
    return found, options


@tiny("Flux2KleinPipeline")
def flux2(name: str) -> Made:
    transformer = diffusers.Flux2Transformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, timestep_guidance_channels=256, axes_dims_rope=[4, 4, 4, 4], guidance_embeds=False,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLFlux2(
        sample_size=32, down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(4,), layers_per_block=1, latent_channels=1, norm_num_groups=1,
    )  # fmt: skip
    found = join(transformer, vae, causal("Qwen3", 16, head=True), 64)
    options = {"prompt": PROMPT, "height": 8, "width": 8, "max_sequence_length": 24, "text_encoder_out_layers": (1,)}
    return found, options


@tiny("ChromaPipeline", "ChromaImg2ImgPipeline")
def chroma(name: str) -> Made:
    transformer = diffusers.ChromaTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=[4, 4, 8], approximator_hidden_dim=32, approximator_layers=1,
        approximator_num_channels=16,
    )  # fmt: skip
    return join(transformer, parts.vae(1), t5()), {**square(8, 16), **given(name, 8)}


@tiny("QwenImagePipeline", "QwenImageImg2ImgPipeline", "QwenImageInpaintPipeline")
def qwen_image(name: str) -> Made:
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=3,
        joint_attention_dim=16, guidance_embeds=False, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    found = join(transformer, parts.qwen_vae(), qwen25(16), 512)
    options = {"prompt": PROMPT, "negative_prompt": "neon", "true_cfg_scale": 3.0, "height": 32, "width": 32}
    return found, {**options, "max_sequence_length": 32, **given(name, 32)}


@tiny("ZImagePipeline", "ZImageImg2ImgPipeline")
def z_image(name: str) -> Made:
    transformer = diffusers.ZImageTransformer2DModel(
        all_patch_size=(2,), all_f_patch_size=(1,), in_channels=16, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2,
        n_kv_heads=2, qk_norm=True, cap_feat_dim=16, rope_theta=256.0, t_scale=1000.0, axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )  # fmt: skip
    return join(transformer, parts.vae(16, 2), causal("Qwen3", 16), 64), {**square(32, 16), **given(name, 32)}


@tiny("SanaPipeline", "SanaSprintPipeline")
def sana(name: str) -> Made:
    sprint = "Sprint" in name
    transformer = diffusers.SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=4,
        num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=8,
        sample_size=32, **({"qk_norm": "rms_norm_across_heads", "guidance_embeds": True} if sprint else {}),
    )  # fmt: skip
    vae = diffusers.AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=[1, 1], downsample_block_type="conv",
        upsample_block_type="interpolate", decoder_norm_types="rms_norm", decoder_act_fns="silu",
    )  # fmt: skip
    found = join(
        transformer, vae, causal("Gemma2", 8), 64, scheduler=diffusers.SCMScheduler() if sprint else
        FlowMatchEulerDiscreteScheduler(shift=7.0),
    )  # fmt: skip
    options = {"height": 32, "width": 32, "max_sequence_length": 16, "complex_human_instruction": None}
    return found, {**({"prompt": PROMPT} if sprint else GUIDED), **options, "use_resolution_binning": False}


@tiny("Lumina2Pipeline")
def lumina2(name: str) -> Made:
    transformer = diffusers.Lumina2Transformer2DModel(
        sample_size=4, patch_size=2, in_channels=4, hidden_size=8, num_layers=2, num_attention_heads=1, num_kv_heads=1,
        multiple_of=16, scaling_factor=1.0, axes_dim_rope=[4, 2, 2], cap_feat_dim=8,
    )  # fmt: skip
    return join(transformer, parts.vae(4), causal("Gemma2", 8), 512), {**square(16, 16), "system_prompt": "draw"}


@tiny("LuminaPipeline")
def lumina(name: str) -> Made:
    transformer = diffusers.LuminaNextDiT2DModel(
        sample_size=4, patch_size=2, in_channels=4, hidden_size=8, num_layers=2, num_attention_heads=1, num_kv_heads=1,
        multiple_of=16, learn_sigma=True, qk_norm=True, cross_attention_dim=8, scaling_factor=1.0,
    )  # fmt: skip
    return join(transformer, parts.vae(4), causal("Gemma", 8), 64), {**square(16, 16), "clean_caption": False}


@tiny("AuraFlowPipeline")
def aura_flow(name: str) -> Made:
    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=32, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8,
        num_attention_heads=4, caption_projection_dim=32, joint_attention_dim=32, out_channels=4,
        pos_embed_max_size=256,
    )  # fmt: skip
    return join(transformer, parts.vae(4, 2), t5(kind="UMT5")), square(16, 16)


@tiny("PixArtAlphaPipeline", "PixArtSigmaPipeline")
def pixart(name: str) -> Made:
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=8, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=3, caption_channels=32,
        in_channels=4, cross_attention_dim=24, out_channels=8, use_additional_conditions=False,
    )  # fmt: skip
    found = join(transformer, parts.vae(4, 2), t5(), scheduler=DDIMScheduler())
    options = {"height": 16, "width": 16, "max_sequence_length": 16, "use_resolution_binning": False}
    return found, {**GUIDED, **options, "clean_caption": False}


@tiny("HunyuanDiTPipeline", "HunyuanDiTPAGPipeline")
def hunyuan_dit(name: str) -> Made:
    transformer = diffusers.HunyuanDiT2DModel(
        sample_size=16, num_layers=4, patch_size=2, attention_head_dim=8, num_attention_heads=3, in_channels=4,
        cross_attention_dim=32, cross_attention_dim_t5=32, pooled_projection_dim=16, hidden_size=24,
        activation_fn="gelu-approximate",
    )  # fmt: skip
    found = join(
        transformer, parts.vae(4, 2), bert(), 77, scheduler=DDPMScheduler(), text_encoder_2=t5(),
        tokenizer_2=tokenizer(256), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    return found, {**square(16), "use_resolution_binning": False}


@tiny("HunyuanImagePipeline")
def hunyuan_image(name: str) -> Made:
    transformer = diffusers.HunyuanImageTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=4, attention_head_dim=8, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, patch_size=(1, 1), guidance_embeds=True, text_embed_dim=32, text_embed_2_dim=32,
        rope_axes_dim=(4, 4),
    )  # fmt: skip
    vae = diffusers.AutoencoderKLHunyuanImage(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32, 64, 64, 64), layers_per_block=1,
        scaling_factor=0.476986, spatial_compression_ratio=8, sample_size=128,
    )  # fmt: skip
    found = join(
        transformer, vae, qwen25(layers=4), 1100, scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=t5(), tokenizer_2=tokenizer(128),
    )  # fmt: skip
    return found, {"prompt": 'ink "cat"', "height": 16, "width": 16, "distilled_guidance_scale": 3.5}


@tiny("CogView3PlusPipeline", "CogView4Pipeline")
def cogview(name: str) -> Made:
    four = "4" in name
    options: dict[str, Any] = {"num_attention_heads": 4, "condition_dim": 4} if four else {
        "num_attention_heads": 2, "condition_dim": 2, "pos_embed_max_size": 8, "sample_size": 8
    }  # fmt: skip
    kind = diffusers.CogView4Transformer2DModel if four else diffusers.CogView3PlusTransformer2DModel
    transformer = kind(
        patch_size=2, in_channels=4, num_layers=2, attention_head_dim=4, out_channels=4, text_embed_dim=32,
        time_embed_dim=8, **options,
    )  # fmt: skip
    scheduler = (
        FlowMatchEulerDiscreteScheduler(
            base_shift=0.25, max_shift=0.75, base_image_seq_len=256, use_dynamic_shifting=True, time_shift_type="linear"
        )
        if four
        else diffusers.CogVideoXDDIMScheduler()
    )
    encoder = causal("Glm", 32, head=True, attention_bias=False) if four else t5()
    return join(transformer, parts.vae(4, 2), encoder, 64, scheduler=scheduler), square(16, 16)


@tiny("HiDreamImagePipeline")
def hidream(name: str) -> Made:
    transformer = diffusers.HiDreamImageTransformer2DModel(
        patch_size=2, in_channels=4, out_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=4, caption_channels=[32, 16], text_emb_dim=64, num_routed_experts=4,
        num_activated_experts=2, axes_dims_rope=(4, 2, 2), max_resolution=(32, 32), llama_layers=(0, 1),
    )  # fmt: skip
    found = join(
        transformer, parts.vae(4, 2), clip(True, length=128), 128, text_encoder_2=clip(True, length=128),
        text_encoder_3=t5(), text_encoder_4=causal("Llama", 16, head=True), tokenizer_2=tokenizer(128),
        tokenizer_3=tokenizer(128), tokenizer_4=tokenizer(128),
    )  # fmt: skip
    return found, square(16, 16)


@tiny("BriaPipeline")
def bria(name: str) -> Made:
    transformer = diffusers.BriaTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=None, axes_dims_rope=[0, 4, 4],
    )  # fmt: skip
    return join(transformer, parts.vae(4), t5()), square(16, 16)


@tiny("OvisImagePipeline")
def ovis_image(name: str) -> Made:
    transformer = diffusers.OvisImageTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    found = join(transformer, parts.vae(1), causal("Qwen3"))
    return {**found, "tokenizer": tokenizer(512, TURNS)}, square(16, 256)


@tiny("PRXPipeline")
def prx(name: str) -> Made:
    transformer = diffusers.PRXTransformer2DModel(
        patch_size=1, in_channels=4, context_in_dim=8, hidden_size=8, mlp_ratio=2.0, num_heads=2, depth=1,
        axes_dim=[2, 2],
    )  # fmt: skip
    from transformers.models.t5gemma.configuration_t5gemma import T5GemmaConfig, T5GemmaModuleConfig
    from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

    shape = {
        "vocab_size": parts.VOCABULARY, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "max_position_embeddings": 64,
        "layer_types": ["full_attention"], "query_pre_attn_scalar": 4,
    }  # fmt: skip
    encoder = T5GemmaEncoder(T5GemmaConfig(encoder=T5GemmaModuleConfig(**shape), is_encoder_decoder=False).encoder)
    return join(transformer, parts.vae(4), encoder, 64), {**square(32), "use_resolution_binning": False}


@tiny("Krea2Pipeline")
def krea2(name: str) -> Made:
    transformer = diffusers.Krea2Transformer2DModel(
        in_channels=16, num_layers=2, attention_head_dim=8, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=32, timestep_embed_dim=8, text_hidden_dim=16, num_text_layers=3, text_num_attention_heads=2,
        text_num_key_value_heads=1, text_intermediate_size=16, num_layerwise_text_blocks=1, num_refiner_text_blocks=1,
        axes_dims_rope=(4, 2, 2), rope_theta=1000.0,
    )  # fmt: skip
    text = {
        "vocab_size": parts.VOCABULARY, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    encoder = transformers.Qwen3VLModel(transformers.Qwen3VLConfig(text_config=text, vision_config=vision))
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, max_shift=1.15, max_image_seq_len=6400)
    found = join(transformer, parts.qwen_vae(), encoder, 512, scheduler=scheduler, text_encoder_select_layers=(0, 1, 2))
    return found, square(32, 16)


@tiny("DiTPipeline")
def dit(name: str) -> Made:
    transformer = diffusers.DiTTransformer2DModel(
        sample_size=8, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=2, in_channels=4,
        out_channels=8, num_embeds_ada_norm=1000,
    )  # fmt: skip
    found = {"scheduler": DDIMScheduler(), "transformer": transformer, "vae": parts.vae(4, 2)}
    return found, {"class_labels": [1], "output_type": "np"}
