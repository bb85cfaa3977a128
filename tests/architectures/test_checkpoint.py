"""Single-file checkpoints as base models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from si_hub import architectures
from si_hub.architectures import Architecture
from si_hub.architectures.layouts import Names, bfl, sgm
from si_hub.errors import BaseMismatch, MissingFile

WriteSparse = Callable[[Path, Mapping[str, tuple[int, ...]]], Path]
Shapes = dict[str, tuple[int, ...]]


def original_shapes(architecture: Architecture, component: str, names: Names, prefix: str) -> Shapes:
    """Weights of a component under their original names."""
    modules = architecture.components[component].modules
    return {
        f"{prefix}{name}.{'scale' if name.endswith('_norm') else 'weight'}": (
            sum(modules[part.path].shape[0] for part in parts),
            *modules[parts[0].path].shape[1:],
        )
        for name, parts in names.items()
    }


@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl", "sdxl-refiner"])
def test_an_original_checkpoint_is_recognised(name: str, write_sparse: WriteSparse, tmp_path: Path) -> None:
    known = architectures.load(name)
    shapes = original_shapes(known, "unet", sgm(known.components["unet"]), "model.diffusion_model.")
    file = write_sparse(tmp_path / "model.safetensors", {**shapes, "first_stage_model.quant_conv.weight": (8, 8, 1, 1)})
    found = architectures.resolve(file)
    assert found.name == name
    assert found.components["unet"].modules == known.components["unet"].modules


def test_an_inpainting_checkpoint_keeps_its_nine_input_channels(write_sparse: WriteSparse, tmp_path: Path) -> None:
    known = architectures.load("sd15")
    shapes = original_shapes(known, "unet", sgm(known.components["unet"]), "model.diffusion_model.")
    shapes["model.diffusion_model.input_blocks.0.0.weight"] = (320, 9, 3, 3)
    found = architectures.resolve(write_sparse(tmp_path / "inpainting.safetensors", shapes))
    assert found.components["unet"].modules["conv_in"].shape == (320, 9, 3, 3)
    assert found.components["unet"].modules["conv_out"] == known.components["unet"].modules["conv_out"]


@pytest.mark.parametrize("guidance", [True, False], ids=["dev", "schnell"])
def test_flux_has_its_guidance_modules_only_where_the_checkpoint_has(
    guidance: bool, write_sparse: WriteSparse, tmp_path: Path
) -> None:
    known = architectures.load("flux")
    shapes = original_shapes(known, "transformer", bfl(known.components["transformer"]), "")
    kept = {name: shape for name, shape in shapes.items() if guidance or not name.startswith("guidance_in")}
    modules = architectures.resolve(write_sparse(tmp_path / "flux.safetensors", kept)).components["transformer"].modules
    assert len(modules) == len(known.components["transformer"].modules) - (0 if guidance else 2)
    assert ("time_text_embed.guidance_embedder.linear_1" in modules) is guidance


def test_a_file_beside_its_config_is_read_as_its_folder(tiny_folder: Path) -> None:
    found = architectures.resolve(tiny_folder / "unet" / "diffusion_pytorch_model.safetensors")
    expected = architectures.from_folder(tiny_folder / "unet")
    assert found.components["unet"].modules == expected.components["unet"].modules


def test_other_checkpoints_are_refused(write_sparse: WriteSparse, tmp_path: Path) -> None:
    known = architectures.load("sd15")
    shapes = original_shapes(known, "unet", sgm(known.components["unet"]), "model.diffusion_model.")
    wrong = {**shapes, "model.diffusion_model.out.2.weight": (5, 320, 3, 3)}
    files: list[Shapes] = [wrong, dict(list(shapes.items())[:-1]), {"vae.conv.weight": (4, 4)}]
    for index, held in enumerate(files):
        with pytest.raises(BaseMismatch, match=r"checkpoint of no known architecture.*diffusers folder"):
            architectures.resolve(write_sparse(tmp_path / f"{index}.safetensors", held))
    with pytest.raises(MissingFile, match="no such file"):
        architectures.from_checkpoint(tmp_path / "missing.safetensors", [known])
