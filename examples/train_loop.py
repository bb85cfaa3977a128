"""A training loop of one's own: a StyleInject adapter on a folder of pictures, in plain torch, PEFT and diffusers.

    python examples/train_loop.py examples/miniature/base PICTURES my_style.safetensors --steps 300 --side 32

`si-hub train` does the same and more: it takes up what was killed, shares the steps among devices, keeps latents on
disk. This script is for those who want to change what is learned. It trains Stable Diffusion 1 and 2.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageOps

import si_hub


def read(folder: Path, side: int) -> tuple[list[Image.Image], list[str]]:
    """Square pictures of a side, and the captions beside them."""
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in {".png", ".jpg", ".jpeg", ".webp"})
    pictures = [ImageOps.fit(ImageOps.exif_transpose(Image.open(file)).convert("RGB"), (side, side)) for file in files]
    return pictures, [file.with_suffix(".txt").read_text(encoding="utf-8").strip() for file in files]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=5e-3, help="about 0.5 divided by the width of the layers")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(options.seed)
    si_hub.enable()  # Gives the pipeline load_styleinject_weights, save_styleinject_weights and their kin.
    pipe = StableDiffusionPipeline.from_pretrained(options.base, safety_checker=None).to(device)
    scheduler = pipe.scheduler
    for model in (pipe.unet, pipe.vae, pipe.text_encoder):
        model.requires_grad_(False)

    # The adapter: a PEFT tuner like any other. It begins at the base, since its up matrices are zero.
    config = si_hub.StyleInjectConfig(
        r=options.rank,
        transform="add",
        target_modules=["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"],
    )
    pipe.unet.add_adapter(config, adapter_name="mine")
    trained = [value for value in pipe.unet.parameters() if value.requires_grad]
    print(f"{sum(value.numel() for value in trained):,} numbers are trained")

    # Autoencoder and text encoder learn nothing: what they say of each picture is computed once.
    pictures, captions = read(options.pictures, options.side)
    with torch.no_grad():
        pixels = pipe.image_processor.preprocess(pictures).to(device)
        latents = torch.cat([pipe.vae.encode(one[None]).latent_dist.mean for one in pixels])
        latents = latents * pipe.vae.config.scaling_factor
        texts = torch.cat([pipe.encode_prompt(one, device, 1, False)[0] for one in captions])
        nothing = pipe.encode_prompt("", device, 1, False)[0]

    optimizer = torch.optim.AdamW(trained, lr=options.rate, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    average = [value.detach().clone() for value in trained]  # What is kept in the end: calmer than the last step.
    keep = max(0.0, 1.0 - 20.0 / options.steps)

    for step in range(options.steps):
        rows = torch.randint(len(latents), (options.batch,))
        clean, text = latents[rows], texts[rows].clone()
        text[torch.rand(options.batch) < 0.1] = nothing[0]  # Guidance asks the model without a prompt, too.
        noise = torch.randn_like(clean)
        times = torch.randint(int(scheduler.config.num_train_timesteps), (options.batch,), device=device)
        noisy = scheduler.add_noise(clean, noise, times)
        wanted = noise
        if scheduler.config.prediction_type == "v_prediction":
            wanted = scheduler.get_velocity(clean, noise, times)

        found = pipe.unet(noisy, times, text).sample
        loss = torch.nn.functional.mse_loss(found, wanted)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()

        share = min(keep, (step + 1) / (step + 10))
        with torch.no_grad():
            for mean, value in zip(average, trained, strict=True):
                mean.lerp_(value, 1.0 - share)
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}: loss {loss.item():.4f}")

    with torch.no_grad():
        for mean, value in zip(average, trained, strict=True):
            value.copy_(mean)
    output: Path = options.output
    pipe.save_styleinject_weights(
        output.parent, weight_name=output.name, adapter_name="mine", base_model=str(options.base)
    )
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
