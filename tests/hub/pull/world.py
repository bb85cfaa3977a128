"""What the tests of pulling pull: adapters of ours and of others, and the files of a repository around them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from tests.hub.loopback import LoopbackHub, faults
from tests.places import GOLDEN

STYLE = "user/style"
OURS = (GOLDEN / "three_branches.safetensors").read_bytes()
CARD = "---\nlicense: mit\n---\n# A style\n"
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(300)
#: A repository as push makes it, with what must never be fetched beside it.
FILES: dict[str, bytes | str] = {
    "styleinject.safetensors": OURS,
    "README.md": CARD,
    "config.json": '{"library_name": "si-hub"}\n',
    "samples/1.png": PICTURE,
}
UNSAFE: dict[str, bytes | str] = {
    "pytorch_model.bin": b"\x80\x04N.",
    "model.pt": b"PK\x03\x04",
    "old.ckpt": b"\x80\x02N.",
    "data.pkl": b"\x80\x04N.",
    "loader.py": "raise SystemExit",
    "run.sh": "exit",
    "notebook.ipynb": "{}",
    ".hidden/config.json": "{}",
    "weights.gguf": b"GGUF",
}
STEM = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
#: `FILES` as they lie on the disk.
EXPECTED = {name: data if isinstance(data, bytes) else data.encode() for name, data in FILES.items()}


def kohya(alpha: float = 2.0, wide: int = 4) -> bytes:
    """A kohya LoRA of Stable Diffusion 1.5 with one module; over 10 kB, so the Hub keeps it apart."""
    random = np.random.default_rng(3)
    tensors: dict[str, Any] = {
        f"{STEM}.lora_down.weight": random.standard_normal((wide, 320)).astype(np.float32),
        f"{STEM}.lora_up.weight": random.standard_normal((320, wide)).astype(np.float32),
        f"{STEM}.alpha": np.array(alpha, np.float32),
    }
    return bytes(save(tensors, metadata={"ss_network_module": "networks.lora", "ss_base_model_version": "sd_v1"}))


def peft() -> dict[str, bytes | str]:
    """A PEFT LoRA of a Stable Diffusion 1.5 UNet, as `PeftModel.save_pretrained` leaves it."""
    random = np.random.default_rng(4)
    stem = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors: dict[str, Any] = {
        f"{stem}.lora_A.weight": random.standard_normal((4, 320)).astype(np.float32),
        f"{stem}.lora_B.weight": random.standard_normal((320, 4)).astype(np.float32),
    }
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["to_q"]}
    return {"adapter_model.safetensors": bytes(save(tensors)), "adapter_config.json": json.dumps(config)}


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path there; what pulling itself keeps in folders of that name is not one."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if not name.startswith(".cache/")}


def fetched(hub: LoopbackHub) -> list[str]:
    """Files of the repository that were asked for, in order of their names; the log starts anew."""
    names = sorted(re.sub(r".*/resolve/[^/]+/", "", e.path) for e in hub.log if "/resolve/" in e.path)
    hub.log.clear()
    return names


def edit_listing(hub: LoopbackHub, **changes: Any) -> None:
    """The listing as a strange Hub would give it."""
    hub.fault(faults.edited(lambda info: info | changes), on="GET /api/models/", times=None)
