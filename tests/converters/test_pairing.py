"""Two files for two denoisers: which is which, and that nothing of either gets lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from si_hub import format as file_format
from si_hub.architectures import Architecture, Model
from si_hub.architectures.model import Module
from si_hub.cli import main
from si_hub.conversion import convert
from si_hub.converters import convert_pair, convert_source
from si_hub.converters.pairing import order_pair
from si_hub.errors import AmbiguousFamily, BaseMismatch, UsageError

MODEL = Model(
    "WanTransformer3DModel",
    {"blocks.0.attn1.to_q": Module("linear", (8, 6)), "blocks.0.attn1.to_k": Module("linear", (8, 6))},
)
TWO = Architecture("two", {"transformer": MODEL, "transformer_2": MODEL})
ONE = Architecture("one", {"transformer": MODEL})


def lora(file: Path, value: float, **more: torch.Tensor) -> Path:
    stem = "transformer.blocks.0.attn1.to_q"
    tensors = {f"{stem}.lora_A.weight": torch.full((2, 6), value), f"{stem}.lora_B.weight": torch.full((8, 2), value)}
    save_file(tensors | more, file)
    return file


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return lora(tmp_path / "x_HighNoise.safetensors", 1.0), lora(tmp_path / "x_low_noise.safetensors", 2.0)


@pytest.mark.parametrize(
    ("names", "swapped"),
    [
        (("style_high_noise", "style_low_noise"), False),
        (("style-low", "style-high"), True),
        (("LowNoise", "HighNoise"), True),
        (("a", "b"), False),
        (("slow", "highway"), False),
        (("low", "other"), False),
    ],
)
def test_names_say_which_is_which_and_the_order_says_it_where_they_do_not(
    names: tuple[str, str], swapped: bool
) -> None:
    first, second = (Path(f"{name}.safetensors") for name in names)
    assert order_pair([first, second]) == ((second, first) if swapped else (first, second))


def test_both_files_are_one_adapter_with_two_components(pair: tuple[Path, Path]) -> None:
    found = convert_pair((pair[1], pair[0]), base=TWO, check=True)
    values = {
        name: component.layers["blocks.0.attn1.to_q"].tensors["down.weight"].numpy()[0, 0]
        for name, component in found.adapter.components.items()
    }
    assert values == {"transformer": 1.0, "transformer_2": 2.0}
    provenance = found.adapter.about["provenance"]
    assert [entry["name"] for entry in provenance["sources"]] == [path.name for path in pair]
    assert provenance["exact"] is True
    assert provenance["check"] == {"modules": 2, "largest_error": 0.0}
    assert set(provenance["layout"]) == {"transformer", "transformer_2"}
    assert found.report.count() == {"used": 4, "folded": 0, "dropped": 0}
    assert [key[0] for key in found.origins] == ["transformer", "transformer_2"]
    difference = found.origins.expected(("transformer_2", "blocks.0.attn1.to_q"))
    assert difference.weight is not None
    assert difference.weight()[0, 0] == 8.0


def test_what_one_file_loses_is_counted(pair: tuple[Path, Path], tmp_path: Path) -> None:
    stranger = {
        "transformer.other.lora_A.weight": torch.ones(2, 6),
        "transformer.other.lora_B.weight": torch.ones(8, 2),
    }
    low = lora(tmp_path / "low2.safetensors", 2.0, **stranger)
    found = convert_pair((pair[0], low), base=TWO, allow_partial=True)
    assert "exact" not in found.adapter.about["provenance"]
    assert found.adapter.about["provenance"]["left_out"] == 2
    assert all(name.startswith("low2.safetensors: ") for name in found.report.dropped)


def test_one_file_is_for_the_denoiser_that_the_user_names(pair: tuple[Path, Path]) -> None:
    found = convert_source(pair[1], base=TWO, denoiser="transformer_2")
    assert list(found.adapter.components) == ["transformer_2"]
    with pytest.raises(BaseMismatch, match=r"two has no such denoiser.*transformer or transformer_2"):
        convert_source(pair[1], base=TWO, denoiser="unet")


def test_a_base_of_one_denoiser_takes_no_pair(pair: tuple[Path, Path]) -> None:
    with pytest.raises(BaseMismatch, match="no second denoiser"):
        convert_pair(pair, base=ONE)


def test_a_file_that_names_the_second_denoiser_itself_does_not_make_a_pair(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    stem = "transformer_2.blocks.0.attn1.to_q"
    own = {f"{stem}.lora_A.weight": torch.ones(2, 6), f"{stem}.lora_B.weight": torch.ones(8, 2)}
    both = lora(tmp_path / "both.safetensors", 1.0, **own)
    with pytest.raises(AmbiguousFamily, match="both files change the transformer_2"):
        convert_pair((both, pair[1]), base=TWO)


def test_not_two_files_are_no_pair(pair: tuple[Path, Path]) -> None:
    for paths in (pair[:1], (*pair, pair[0])):
        with pytest.raises(UsageError, match="a pair is two files"):
            convert_pair(paths, base=TWO)


def test_the_command_writes_one_file_with_both_hashes(tmp_path: Path) -> None:
    """Wan 2.2 by its own names, as trainers write them."""
    stem = "diffusion_model.blocks.0.self_attn.q"
    files = []
    for name, value in (("low", 1.0), ("high", 2.0)):
        tensors = {f"{stem}.lora_A.weight": torch.full((2, 5120), value), f"{stem}.lora_B.weight": torch.ones(5120, 2)}
        files.append(tmp_path / f"wan_{name}_noise.safetensors")
        save_file(tensors, files[-1])
    out = tmp_path / "out.safetensors"
    arguments: list[Any] = ["convert", *files, "--pair", "--base", "wan2.2-t2v-a14b", "-o", out]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    adapter = file_format.read(out)
    downs = {
        name: one.layers["blocks.0.attn1.to_q"].tensors["down.weight"].numpy()[0, 0]
        for name, one in adapter.components.items()
    }
    assert downs == {"transformer": 2.0, "transformer_2": 1.0}
    assert len({entry["sha256"] for entry in adapter.about["provenance"]["sources"]}) == 2
    assert convert(files, tmp_path / "again.safetensors", base="wan2.2-t2v-a14b").exact
