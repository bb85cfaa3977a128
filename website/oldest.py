"""The oldest versions that pyproject.toml supports, as constraints for pip: ``python -m website.oldest``."""

from __future__ import annotations

import re

from website.hooks import ROOT

#: Libraries whose oldest supported versions are tested, with all else that pip finds for them.
LIBRARIES = (
    "torch", "diffusers", "transformers", "peft", "huggingface_hub", "safetensors", "accelerate", "lycoris-lora",
)  # fmt: skip


def oldest() -> list[str]:
    """``torch==2.6`` for ``torch>=2.6``, of each of `LIBRARIES`."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = dict(re.findall(r'"([\w-]+)>=([0-9.]+)"', text))
    return [
        f"{name}=={found[name]}.*" if found[name].count(".") < 2 else f"{name}=={found[name]}" for name in LIBRARIES
    ]


if __name__ == "__main__":
    print("\n".join(oldest()))
