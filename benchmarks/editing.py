"""Two SDXL LoRAs of rank 64 merged to one of rank 64, beside the full singular value decomposition of kohya's scripts.

    python -m benchmarks.editing [--rank 64] [--sampled 6] [--json]

The merge is the whole command in a process of its own, on random float16 numbers for all linear layers of the U-Net's
blocks. The other arithmetic, a dense sum and torch.linalg.svd of it in float32, takes too long for all of them: it is
timed on one layer of each size in the same run and scaled.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from benchmarks.convert import SI_HUB, cost_of
from benchmarks.lowering import write_file
from si_hub import architectures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--sampled", type=int, default=1, help="layers of each size for the full decomposition")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    modules = {
        path: module
        for path, module in architectures.load("sdxl").components["unet"].modules.items()
        if module.kind == "linear" and "attentions" in path
    }
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(dir=".") as place:
        folder = Path(place)
        for number in range(2):
            shapes: dict[str, tuple[int, ...]] = {}
            for path, module in modules.items():
                stem = "lora_unet_" + path.replace(".", "_")
                shapes[f"{stem}.lora_down.weight"] = (options.rank, module.shape[1])
                shapes[f"{stem}.lora_up.weight"] = (module.shape[0], options.rank)
            write_file(folder / f"{number}.safetensors", shapes, hole=False, seed=number)
        files = [str(folder / f"{number}.safetensors") for number in range(2)]
        wish = ["--base", "sdxl", "--rank", str(options.rank), "-o", str(folder / "out.safetensors")]
        cost = cost_of([*SI_HUB, "merge", *files, *wish])
        rows.append({
            "what": "si-hub merge --rank", "layers": len(modules), "wall, s": round(cost.wall, 1),
            "cpu, s": round(cost.cpu, 1), "peak, MB": round(cost.peak),
        })  # fmt: skip
    seconds = 0.0
    for shape, count in Counter(module.shape for module in modules.values()).items():
        for _ in range(options.sampled):
            up, down = torch.randn(shape[0], 2 * options.rank), torch.randn(2 * options.rank, shape[1])
            start = time.process_time()
            torch.linalg.svd(up @ down)
            seconds += (time.process_time() - start) * count / options.sampled
    rows.append({"what": "full SVD, sampled and scaled", "layers": len(modules), "cpu, s": round(seconds, 1)})
    for row in rows:
        print(json.dumps(row) if options.json else "   ".join(f"{name} {value}" for name, value in row.items()))


if __name__ == "__main__":
    main()
