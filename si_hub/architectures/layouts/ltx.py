"""LTX-Video and LTX-2 under the names of Lightricks' code."""

from __future__ import annotations

from si_hub.architectures.layouts.table import from_words

_NORMS = {"norm_q": "q_norm", "norm_k": "k_norm"}
_VIDEO = {"proj_in": "patchify_proj", "time_embed": "adaln_single"}
_TWO = {
    "audio_proj_in": "audio_patchify_proj",
    "audio_time_embed": "audio_adaln_single",
    "prompt_adaln": "prompt_adaln_single",
    "audio_prompt_adaln": "audio_prompt_adaln_single",
    "av_cross_attn_video_scale_shift": "av_ca_video_scale_shift_adaln_single",
    "av_cross_attn_audio_scale_shift": "av_ca_audio_scale_shift_adaln_single",
    "av_cross_attn_video_a2v_gate": "av_ca_a2v_gate_adaln_single",
    "av_cross_attn_audio_v2a_gate": "av_ca_v2a_gate_adaln_single",
    "video_a2v_cross_attn_scale_shift_table": "scale_shift_table_a2v_ca_video",
    "audio_a2v_cross_attn_scale_shift_table": "scale_shift_table_a2v_ca_audio",
}

#: Names of Lightricks' LTX-Video code.
ltx = from_words("ltx", _NORMS | _VIDEO, ("LTXVideo",))
#: Names of Lightricks' LTX-2 code.
ltx2 = from_words("ltx2", _NORMS | _VIDEO | _TWO, ("LTX2Video",))
