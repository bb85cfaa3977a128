"""What trainers and sites write into files names the right base models."""

from __future__ import annotations

import pytest

from si_hub.architectures.bases import BASES, find_named


@pytest.mark.parametrize(
    ("text", "names"),
    [
        # ss_base_model_version of sd-scripts, musubi-tuner and ai-toolkit.
        ("sd_v1", "sd15"), ("sdxl_base_v1-0", "sdxl"), ("flux1", "flux"), ("chroma", "chroma"), ("medium", "sd3"),
        ("5-medium", "sd35-medium"), ("5-large", "sd35-large"), ("sd_3", "sd3 sd35-medium sd35-large"),
        ("flux.1", "flux"), ("flux_2_dev", "flux2-dev"), ("flux3", "flux3-image-klein"),
        ("flux2", "flux2-dev flux2-klein-4b flux2-klein-9b"),
        ("flux2_klein_4b", "flux2-klein-4b"), ("flux_2_klein_9b", "flux2-klein-9b"), ("auraflow", "auraflow"),
        ("qwen_image", "qwen-image"), ("qwen_image_edit_plus", "qwen-image"), ("hunyuan_video", "hunyuan-video"),
        ("hunyuan_video_1_5", "hunyuan-video-1.5"), ("hunyuan-image-2.1", "hunyuan-image-2.1"),
        ("framepack", "hunyuan-video"), ("zimage", "z-image"), ("z_image", "z-image"),
        ("ideogram4", "ideogram4"), ("minimax_h3", "minimax-h3"), ("minimax_h3_ref2va", "minimax-h3"),
        ("hidream_i1", "hidream-i1"), ("hidream_o1_image", ""), ("ernie_image", "ernie-image"),
        ("kandinsky5", "kandinsky5-image-lite kandinsky5-video-lite kandinsky5-video-pro"),
        ("krea2", "krea2"), ("lumina2", "lumina2"), ("pixart", "pixart-alpha pixart-sigma"),
        # modelspec.architecture of sd-scripts, musubi-tuner and OneTrainer.
        ("stable-diffusion-v1/lora", "sd15"), ("stable-diffusion-xl-v1-base/lora", "sdxl"),
        ("stable-diffusion-xl-v1-refiner", "sdxl-refiner"), ("stable-diffusion-3-medium", "sd3"),
        ("stable-diffusion-v3-medium/lora", "sd3"), ("stable-diffusion-3-5-large/lora", "sd35-large"),
        ("stable-diffusion-v3.5/lora", "sd35-medium sd35-large"), ("flux-1-dev/lora", "flux"),
        ("Flux.1-dev/lora", "flux"), ("Chroma1/lora", "chroma"), ("chroma/lora", "chroma"),
        ("Flux.2-dev/lora", "flux2-dev"), ("Flux.2-klein-4b/lora", "flux2-klein-4b"),
        ("Flux.2/lora", "flux2-dev flux2-klein-4b flux2-klein-9b"), ("Qwen-Image-Edit-Plus/lora", "qwen-image"),
        ("hunyuan-video/lora", "hunyuan-video"), ("hunyuan-video-1.5/lora", "hunyuan-video-1.5"),
        ("Z-Image/lora", "z-image"),
        ("Ideogram-4/lora", "ideogram4"), ("Ideogram/lora", "ideogram4"), ("Qwen-Image-2.1", "qwen-image-2.1"),
        ("hidream-i1/lora", "hidream-i1"), ("Ernie/lora", "ernie-image"),
        ("Krea-2/lora", "krea2"), ("lumina-2/lora", "lumina2"), ("sana/lora", "sana-1.6b sana-0.6b"),
        ("pixart-alpha/lora", "pixart-alpha"), ("pixart-sigma/lora", "pixart-sigma"),
        # baseModel of Civitai.
        ("Pony", "sdxl"), ("Illustrious", "sdxl"), ("NoobAI", "sdxl"), ("Pony V7", "auraflow"), ("Flux.1 D", "flux"),
        ("Flux.2 D", "flux2-dev"), ("Flux.2 Klein 9B", "flux2-klein-9b"), ("SD 3.5 Large Turbo", "sd35-large"),
        ("SD 3.5", "sd35-medium sd35-large"), ("ZImageTurbo", "z-image"), ("Qwen", "qwen-image"),
        ("Krea 2", "krea2"), ("Flux.1 Krea", "flux"), ("SSD-1B", "ssd-1b"),
        ("Segmind-Vega", "segmind-vega"),
        ("Ideogram 4.0", "ideogram4"), ("MiniMax H3", "minimax-h3"), ("Hunyuan 1", "hunyuan-dit"), ("FIBO", "fibo"),
        ("Flux 3 Video", ""), ("HiDream", "hidream-i1"), ("HiDream-O1", ""), ("Ernie", "ernie-image"),
        ("Lumina", "lumina2"), ("PixArt a", "pixart-alpha"), ("PixArt E", "pixart-sigma"),
        ("wan_2.2_5b", "wan22-ti2v-5b"), ("Wan Video 2.2 I2V-A14B", "wan22-i2v-a14b"), ("anima", "anima"),
        ("wan_2.2_14b", "wan22-t2v-a14b wan22-i2v-a14b"), ("ltx-2.3", "ltx-2.3"),
        ("", ""), ("something", ""),
    ],
)  # fmt: skip
def test_a_text_names_the_bases_with_the_longest_hint_in_it(text: str, names: str) -> None:
    assert {base.name for base in find_named(text)} == set(names.split())


def test_every_base_is_named_by_its_own_hints() -> None:
    for base in BASES:
        assert all(base in find_named(hint) for hint in base.hints), base.name
