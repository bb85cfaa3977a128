"""Tiny pipelines that draw videos."""

from __future__ import annotations

from typing import Any

import diffusers
import transformers
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from tests.pipelines.tiny import parts
from tests.pipelines.tiny.calls import GUIDED, PROMPT, picture
from tests.pipelines.tiny.parts import causal, clip, join, qwen25, t5, tokenizer
from tests.pipelines.tiny.table import Made, tiny

FRAMES = {"height": 16, "width": 16, "num_frames": 5, "max_sequence_length": 16}
WAN: dict[str, Any] = {
    "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 16, "out_channels": 16,
    "text_dim": 32, "freq_dim": 256, "ffn_dim": 32, "num_layers": 2, "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
}  # fmt: skip


def with_wan_vae(transformer: Any, scheduler: Any = None, **more: Any) -> dict[str, Any]:
    scheduler = scheduler or FlowMatchEulerDiscreteScheduler(shift=7.0)
    return join(transformer, parts.wan_vae(), t5(), scheduler=scheduler, **more)


@tiny("WanPipeline", "WanVideoToVideoPipeline")
def wan(name: str) -> Made:
    """Wan 2.2: one transformer where there is much noise, another where there is little."""
    first = diffusers.WanTransformer3DModel(**WAN, rope_max_seq_len=32)
    if "VideoToVideo" in name:
        options = {**GUIDED, **FRAMES, "video": [picture(16)] * 5, "strength": 1.0}
        del options["num_frames"]
        return with_wan_vae(
            first, UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
        ), options
    second = diffusers.WanTransformer3DModel(**WAN, rope_max_seq_len=32)
    return with_wan_vae(first, transformer_2=second, boundary_ratio=0.9), {**GUIDED, **FRAMES}


@tiny("WanVACEPipeline")
def wan_vace(name: str) -> Made:
    options = {**WAN, "num_layers": 3, "rope_max_seq_len": 32}
    transformer = diffusers.WanVACETransformer3DModel(**options, vace_layers=[0, 2], vace_in_channels=96)
    given = {"video": [picture(16)] * 5, "mask": [picture(16, "L")] * 5}
    return with_wan_vae(transformer), {**GUIDED, **FRAMES, **given}


@tiny("SkyReelsV2Pipeline")
def skyreels(name: str) -> Made:
    transformer = diffusers.SkyReelsV2Transformer3DModel(**WAN, rope_max_seq_len=32)
    scheduler = UniPCMultistepScheduler(flow_shift=8.0, use_flow_sigmas=True)
    return with_wan_vae(transformer, scheduler), {**GUIDED, **FRAMES}


@tiny("HeliosPipeline")
def helios(name: str) -> Made:
    transformer = diffusers.HeliosTransformer3DModel(
        **WAN, rope_dim=(4, 4, 4), has_multi_term_memory_patch=True, guidance_cross_attn=True,
        zero_history_timestep=True, is_amplify_history=False,
    )  # fmt: skip
    scheduler = diffusers.HeliosScheduler(stage_range=[0, 1], stages=1, use_dynamic_shifting=True)
    return with_wan_vae(transformer, scheduler), {"prompt": PROMPT, "guidance_scale": 1.0, **FRAMES, "num_frames": 9}


@tiny("SanaVideoPipeline")
def sana_video(name: str) -> Made:
    transformer = diffusers.SanaVideoTransformer3DModel(
        in_channels=16, out_channels=16, num_attention_heads=2, attention_head_dim=12, num_layers=2,
        num_cross_attention_heads=2, cross_attention_head_dim=12, cross_attention_dim=24, caption_channels=8,
        mlp_ratio=2.5, sample_size=8, patch_size=(1, 2, 2), qk_norm="rms_norm_across_heads", rope_max_seq_len=32,
    )  # fmt: skip
    found = with_wan_vae(transformer, diffusers.DPMSolverMultistepScheduler())
    options = {**GUIDED, "height": 32, "width": 32, "frames": 5, "max_sequence_length": 16}
    options |= {"complex_human_instruction": [], "use_resolution_binning": False}
    return {**found, "text_encoder": causal("Gemma2", 8), "tokenizer": tokenizer(64)}, options


@tiny("LTXPipeline")
def ltx(name: str) -> Made:
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, patch_size=1, patch_size_t=1, num_attention_heads=4, attention_head_dim=8,
        cross_attention_dim=32, num_layers=1, caption_channels=32,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLLTXVideo(
        in_channels=3, out_channels=3, latent_channels=8, block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4, layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 5,
        spatio_temporal_scaling=(True, True, False, False), decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False,) * 5, upsample_residual=(False,) * 4, upsample_factor=(1,) * 4,
        timestep_conditioning=False, patch_size=1, patch_size_t=1, encoder_causal=True, decoder_causal=False,
    )  # fmt: skip
    return join(transformer, vae, t5()), {**GUIDED, **FRAMES, "height": 32, "width": 32, "num_frames": 9}


@tiny("LTX2Pipeline")
def ltx2(name: str) -> Made:
    """Video with sound: connectors stand between the text encoder and the transformer."""
    text = {
        "vocab_size": parts.VOCABULARY, "hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16,
        "patch_size": 8,
    }  # fmt: skip
    encoder = transformers.Gemma3ForConditionalGeneration(
        transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=93)
    )
    transformer = diffusers.LTX2VideoTransformer3DModel(
        in_channels=4, out_channels=4, patch_size=1, patch_size_t=1, num_attention_heads=2, attention_head_dim=8,
        cross_attention_dim=16, audio_in_channels=4, audio_out_channels=4, audio_num_attention_heads=2,
        audio_attention_head_dim=4, audio_cross_attention_dim=8, num_layers=2, qk_norm="rms_norm_across_heads",
        caption_channels=32, rope_double_precision=False, rope_type="split",
    )  # fmt: skip
    from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder

    connectors = LTX2TextConnectors(
        caption_channels=32, text_proj_in_factor=3, video_connector_num_attention_heads=4,
        video_connector_attention_head_dim=8, video_connector_num_layers=1,
        video_connector_num_learnable_registers=None,
        audio_connector_num_attention_heads=4, audio_connector_attention_head_dim=8, audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=None, connector_rope_base_seq_len=32, rope_theta=10000.0,
        rope_double_precision=False, causal_temporal_positioning=False, rope_type="split",
    )  # fmt: skip
    vae = diffusers.AutoencoderKLLTX2Video(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(8,), decoder_block_out_channels=(8,),
        layers_per_block=(1,), decoder_layers_per_block=(1, 1), spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,), decoder_inject_noise=(False, False), downsample_type=("spatial",),
        upsample_residual=(False,), upsample_factor=(1,), timestep_conditioning=False, patch_size=1, patch_size_t=1,
        encoder_causal=True, decoder_causal=False,
    )  # fmt: skip
    audio = diffusers.AutoencoderKLLTX2Audio(
        base_channels=4, output_channels=2, ch_mult=(1,), num_res_blocks=1, attn_resolutions=None, in_channels=2,
        resolution=32, latent_channels=2, norm_type="pixel", causality_axis="height", mid_block_add_attention=False,
        sample_rate=16000, mel_hop_length=160, is_causal=True, mel_bins=8,
    )  # fmt: skip
    vocoder = LTX2Vocoder(
        in_channels=16, hidden_channels=32, out_channels=2, upsample_kernel_sizes=[4, 4], upsample_factors=[2, 2],
        resnet_kernel_sizes=[3], resnet_dilations=[[1, 3, 5]], leaky_relu_negative_slope=0.1,
        output_sampling_rate=16000,
    )  # fmt: skip
    found = join(transformer, vae, encoder, audio_vae=audio, connectors=connectors, vocoder=vocoder)
    options = {"guidance_scale": 1.0, "frame_rate": 25.0, "height": 32, "width": 32, "num_frames": 5}
    return found, {"prompt": PROMPT, **options, "max_sequence_length": 16}


@tiny("CogVideoXPipeline")
def cogvideox(name: str) -> Made:
    transformer = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=4, attention_head_dim=8, in_channels=4, out_channels=4, time_embed_dim=2, text_embed_dim=32,
        num_layers=1, sample_width=2, sample_height=2, sample_frames=9, patch_size=2, temporal_compression_ratio=4,
        max_text_seq_length=16,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8,) * 4, latent_channels=4, layers_per_block=1, norm_num_groups=2,
        temporal_compression_ratio=4,
    )  # fmt: skip
    return join(transformer, vae, t5(), scheduler=DDIMScheduler()), {**GUIDED, **FRAMES, "num_frames": 8}


@tiny("MochiPipeline")
def mochi(name: str) -> Made:
    transformer = diffusers.MochiTransformer3DModel(
        patch_size=2, num_attention_heads=2, attention_head_dim=8, num_layers=2, pooled_projection_dim=16,
        in_channels=12, out_channels=None, qk_norm="rms_norm", text_embed_dim=32, time_embed_dim=4,
        activation_fn="swiglu", max_sequence_length=16,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLMochi(
        latent_channels=12, out_channels=3, encoder_block_out_channels=(32,) * 4, decoder_block_out_channels=(32,) * 4,
        layers_per_block=(1,) * 5,
    )  # fmt: skip
    return join(transformer, vae, t5()), {**GUIDED, **FRAMES, "num_frames": 7}


@tiny("AllegroPipeline")
def allegro(name: str) -> Made:
    transformer = diffusers.AllegroTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, num_layers=1,
        cross_attention_dim=24, sample_width=8, sample_height=8, sample_frames=8, caption_channels=24,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLAllegro(
        down_block_types=("AllegroDownBlock3D",) * 4, up_block_types=("AllegroUpBlock3D",) * 4,
        block_out_channels=(8,) * 4, latent_channels=4, layers_per_block=1, norm_num_groups=2,
        temporal_compression_ratio=4,
    )  # fmt: skip
    found = join(transformer, vae, t5(24), scheduler=DDIMScheduler())
    return found, {**GUIDED, **FRAMES, "num_frames": 8, "clean_caption": False}


@tiny("LattePipeline")
def latte(name: str) -> Made:
    transformer = diffusers.LatteTransformer3DModel(
        sample_size=8, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=3, caption_channels=32,
        in_channels=4, cross_attention_dim=24, out_channels=8, attention_bias=True, activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000, norm_type="ada_norm_single", norm_elementwise_affine=False, norm_eps=1e-6,
        video_length=2,
    )  # fmt: skip
    found = join(transformer, parts.vae(4, 2), t5(), scheduler=DDIMScheduler())
    return found, {**GUIDED, "height": 16, "width": 16, "video_length": 2, "clean_caption": False}


@tiny("EasyAnimatePipeline")
def easy_animate(name: str) -> Made:
    transformer = diffusers.EasyAnimateTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=2,
        text_embed_dim=16,
        num_layers=1, sample_width=16, sample_height=16, patch_size=2,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLMagvit(
        down_block_types=("SpatialDownBlock3D", *("SpatialTemporalDownBlock3D",) * 3),
        up_block_types=("SpatialUpBlock3D", *("SpatialTemporalUpBlock3D",) * 3), block_out_channels=(8,) * 4,
        latent_channels=4, layers_per_block=1, norm_num_groups=2, spatial_group_norm=False,
    )  # fmt: skip
    return join(transformer, vae, qwen25(16), 256), {**GUIDED, "height": 16, "width": 16, "num_frames": 5}


@tiny("HunyuanVideoPipeline")
def hunyuan_video(name: str) -> Made:
    transformer = diffusers.HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, patch_size=1, patch_size_t=1, guidance_embeds=True, text_embed_dim=16,
        pooled_projection_dim=8, rope_axes_dim=(2, 4, 4),
    )  # fmt: skip
    vae = diffusers.AutoencoderKLHunyuanVideo(
        latent_channels=4, down_block_types=("HunyuanVideoDownBlock3D",) * 4, norm_num_groups=4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4, block_out_channels=(8,) * 4, layers_per_block=1,
        scaling_factor=0.476986, spatial_compression_ratio=8, temporal_compression_ratio=4,
    )  # fmt: skip
    found = join(
        transformer, vae, causal("Llama", 16, layers=4), 64, scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=clip(width=8, length=77), tokenizer_2=tokenizer(),
    )  # fmt: skip
    template = {"template": "{}", "crop_start": 0}
    return found, {"prompt": PROMPT, "prompt_template": template, "guidance_scale": 4.5, **FRAMES}
