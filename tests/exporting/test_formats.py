"""Every base model in every format: read back by the converters, all its modules are where they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from si_hub import architectures, converters
from si_hub.adapter import Adapter, BaseModel, Component, Layer
from si_hub.architectures.bases import BASES
from si_hub.cli.export import EXPORTED
from si_hub.errors import ConversionRefused
from si_hub.exporting.assembling import ExportJob, spell_files
from si_hub.exporting.command import FORMATS
from si_hub.exporting.formats import FILE_FORMATS, KOHYA
from si_hub.storage.tensors import Tensor
from tests import sparse

#: Of these some in every run, of the others all in the slow one.
QUICK = {"sd15", "sdxl", "sd3", "flux", "qwen-image", "wan21-t2v-1.3b", "lumina2"}


def zeros(*shape: int) -> Tensor:
    return Tensor.from_bytes("F16", shape, bytes(2 * int(np.prod(shape))))


def adapter_of(base: str, components: set[str]) -> Adapter:
    """Pairs of rank 1 for all linear layers and convolutions."""
    architecture = architectures.load(base)
    made = {}
    for name, model in architecture.components.items():
        if name not in components:
            continue
        layers = {
            path: Layer({"down.weight": zeros(1, *module.shape[1:]), "up.weight": zeros(module.shape[0], 1)}, 0.5)
            for path, module in model.modules.items()
            if module.kind in {"linear", "conv"}
        }
        made[name] = Component(model.class_name, layers)
    return Adapter(BaseModel(base), made)


def exported_components(base: str, name: str) -> set[str]:
    found = set()
    for component in architectures.load(base).components:
        try:
            FILE_FORMATS[name].prefix(base, component)
        except ConversionRefused:
            continue
        found.add(component)
    return found


@pytest.mark.parametrize("name", [name for name in FILE_FORMATS if name != "peft"])
@pytest.mark.parametrize(
    "base", [pytest.param(base.name, marks=[] if base.name in QUICK else pytest.mark.slow) for base in BASES]
)
def test_what_is_written_is_read_as_the_same_modules(base: str, name: str, tmp_path: Path) -> None:
    adapter = adapter_of(base, exported_components(base, name))
    architecture = architectures.load(base)
    files, _ = spell_files(ExportJob(adapter, architecture, None, FILE_FORMATS[name], tmp_path / "a.safetensors"), None)
    # Of two denoisers that take turns each has a file of its own.
    places = list(adapter.components) if len(files) > 1 else [None]
    read: dict[str, set[str]] = {}
    for file, denoiser in zip(files, places, strict=True):
        entries = {key: (tensor.dtype, tensor.shape) for key, tensor in file.tensors.items()}
        written = sparse.write_zeros(tmp_path / "b.safetensors", entries)
        found = converters.convert_source(written, base=architecture, denoiser=denoiser)
        assert not found.report.lost
        read |= {key: set(one.layers) for key, one in found.adapter.components.items()}
    assert read == {key: set(one.layers) for key, one in adapter.components.items()}


def test_the_command_line_knows_all_formats() -> None:
    assert EXPORTED == FORMATS


@pytest.mark.parametrize(
    ("base", "component", "prefix"),
    [
        ("sd15", "unet", "lora_unet_"), ("sd15", "text_encoder", "lora_te_"), ("sdxl", "text_encoder", "lora_te1_"),
        ("sdxl", "text_encoder_2", "lora_te2_"), ("flux", "transformer", "lora_unet_"),
        ("flux", "text_encoder_2", "lora_te3_"), ("sd3", "text_encoder_3", "lora_te3_"),
    ],
)  # fmt: skip
def test_kohyas_prefixes_are_those_of_its_trainers(base: str, component: str, prefix: str) -> None:
    assert KOHYA.prefix(base, component) == prefix


def test_a_second_denoiser_has_no_names_in_one_file() -> None:
    with pytest.raises(ConversionRefused, match=r"transformer_2.*has no names for it"):
        KOHYA.prefix("wan22-t2v-a14b", "transformer_2")
