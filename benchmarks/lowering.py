"""What it costs to convert families whose numbers are computed, at the size of SDXL: seconds, and peak memory.

    python benchmarks/lowering.py [--only dora] [--runs 3] [--json]

Each family is a file of random float16 numbers for all linear layers of SDXL's U-Net (Tucker: for its 3x3
convolutions), converted by a whole process, the base's weights a folder whose files are holes: all that is measured is
the arithmetic, the reading and the writing. LoKr, which is copied, stands beside them for comparison.
"""

from __future__ import annotations

import argparse
import json
import statistics
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.convert import SI_HUB, cost_of
from si_hub import architectures
from si_hub.architectures.model import Module

Shapes = dict[str, tuple[int, ...]]
RANK = 16


def _pair(stem: str, module: Module) -> Shapes:
    out, width, *kernel = module.shape
    return {
        f"{stem}.lora_down.weight": (RANK, width, *kernel),
        f"{stem}.lora_up.weight": (out, RANK, *(1 for _ in kernel)),
    }


def _dora(stem: str, module: Module) -> Shapes:
    return _pair(stem, module) | {f"{stem}.dora_scale": (module.shape[0], 1)}


def _loha(stem: str, module: Module) -> Shapes:
    out, width = module.shape
    return {f"{stem}.hada_w{half}_{side}": (out, 8) if side == "a" else (8, width) for half in "12" for side in "ab"}


def _tucker(stem: str, module: Module) -> Shapes:
    out, width, *kernel = module.shape
    return {f"{stem}.lora_mid.weight": (RANK, RANK, *kernel), f"{stem}.lora_down.weight": (RANK, width, 1, 1),
            f"{stem}.lora_up.weight": (out, RANK, 1, 1)}  # fmt: skip


def _lokr(stem: str, module: Module) -> Shapes:
    out, width = module.shape
    return {
        f"{stem}.lokr_w1": (16, 16),
        f"{stem}.lokr_w2_a": (out // 16, RANK),
        f"{stem}.lokr_w2_b": (RANK, width // 16),
    }


def _glora(stem: str, module: Module) -> Shapes:
    out, width = module.shape
    return {f"{stem}.a1.weight": (width, RANK), f"{stem}.a2.weight": (RANK, width), f"{stem}.b1.weight": (out, RANK),
            f"{stem}.b2.weight": (RANK, width)}  # fmt: skip


def _oft(stem: str, module: Module) -> Shapes:
    return {f"{stem}.oft_blocks": (module.shape[0] // 32, 32, 32)}


#: family → its tensors for a module, whether its modules are convolutions, further options.
FAMILIES: dict[str, tuple[Callable[[str, Module], Shapes], bool, tuple[str, ...]]] = {
    "lokr, copied": (_lokr, False, ()),
    "loha, rank 8": (_loha, False, ()),
    "locon with Tucker cores": (_tucker, True, ("--allow-large",)),
    "dora": (_dora, False, ()),
    "glora": (_glora, False, ()),
    "oft": (_oft, False, ()),
    "oft, --rank 8": (_oft, False, ("--rank", "8")),
}


def modules(convolutions: bool) -> Iterator[tuple[str, Module]]:
    """The modules that are adapted, under kohya's names."""
    for path, module in architectures.load("sdxl").components["unet"].modules.items():
        wanted = module.kind == "conv" and module.shape[2:] == (3, 3) if convolutions else (
            module.kind == "linear" and "transformer_blocks" in path
        )  # fmt: skip
        if wanted and module.shape[1] % 16 == 0 and module.shape[0] % 32 == 0:
            yield f"lora_unet_{path.replace('.', '_')}", module


def write_file(file: Path, shapes: Shapes, *, hole: bool, seed: int = 0) -> int:
    """A safetensors file of float16 numbers, random or a hole; its size."""
    header: dict[str, object] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    random = np.random.default_rng(seed)
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        if hole:
            out.truncate(8 + len(text) + end)
        else:
            for shape in shapes.values():
                out.write((0.1 * random.standard_normal(shape, np.float32)).astype("<f2").tobytes())
    return file.stat().st_size


def write_base(folder: Path) -> None:
    """SDXL as a folder of diffusers, its numbers holes."""
    classes = {"unet": "diffusers", "text_encoder": "transformers", "text_encoder_2": "transformers"}
    base = architectures.load("sdxl")
    index = {"_class_name": "StableDiffusionXLPipeline"}
    for name, library in classes.items():
        model, place = base.components[name], folder / name
        place.mkdir(parents=True)
        index |= {name: [library, model.class_name]}  # type: ignore[dict-item]
        shapes: Shapes = {}
        for path, module in model.modules.items():
            if module.kind == "parameter":
                shapes[path] = module.shape
                continue
            shapes[f"{path}.weight"] = module.shape
            if module.bias:
                shapes[f"{path}.bias"] = module.shape[:1]
        write_file(place / "model.safetensors", shapes, hole=True)
        config = {"_class_name": model.class_name, "architectures": [model.class_name]}
        (place / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")


def measure(folder: Path, runs: int, only: str) -> dict[str, dict[str, float]]:
    base = folder / "base"
    write_base(base)
    found: dict[str, dict[str, float]] = {}
    for name, (tensors, convolutions, options) in FAMILIES.items():
        if not name.startswith(only):
            continue
        shapes: Shapes = {}
        for stem, module in modules(convolutions):
            shapes |= tensors(stem, module)
        source, output = folder / "source.safetensors", folder / "out.safetensors"
        size = write_file(source, shapes, hole=False)
        command = [*SI_HUB, "convert", str(source), "--base", str(base), "-o", str(output), "--force", *options]
        costs = [cost_of(command) for _ in range(runs)]
        found[name] = {
            "source, MB": size / 1e6, "result, MB": output.stat().st_size / 1e6,
            "wall, s": statistics.median(cost.wall for cost in costs),
            "cpu, s": statistics.median(cost.cpu for cost in costs), "peak, MB": max(cost.peak for cost in costs),
        }  # fmt: skip
        output.unlink()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="families whose name begins like this")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        found = measure(Path(folder), options.runs, options.only)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for name, figures in found.items():
        print(f"{name:<26}" + "  ".join(f"{key} {value:9.1f}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
