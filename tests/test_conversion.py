"""The whole conversion: a file in, a file out, and what the caller is told."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from si_hub import architectures, format
from si_hub.conversion import Converted, convert, default_output
from si_hub.errors import FileAccessError, NotFinite, SiHubError, UnsupportedFamily, UsageError
from si_hub.inspection import inspect
from tests.sparse import data_start, write_zeros

STEM = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_"


def arrays(rank: int = 2) -> dict[str, Any]:
    """A LoRA of two SD1.5 modules with distinct numbers."""
    random = np.random.default_rng(0)
    held: dict[str, Any] = {}
    for name, alpha in (("k", 1.0), ("v", None)):
        held[f"{STEM}{name}.lora_down.weight"] = random.standard_normal((rank, 768)).astype(np.float16)
        held[f"{STEM}{name}.lora_up.weight"] = random.standard_normal((320, rank)).astype(np.float16)
        if alpha:
            held[f"{STEM}{name}.alpha"] = np.array(alpha, np.float32)
    return held


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    from safetensors.numpy import save_file

    path = tmp_path / "lora.safetensors"
    save_file(arrays(), path, {"ss_output_name": "ink", "ss_network_dim": "2", "ss_tag_frequency": "x" * 9999})
    return path


def test_a_lora_becomes_a_styleinject_file_beside_it(lora: Path) -> None:
    result = convert(lora)
    assert result.path == lora.with_name("lora.styleinject.safetensors")
    adapter = format.read(result.path, verify=True)
    layers = adapter.components["unet"].layers
    assert adapter.base_model.architecture == "sd15"
    assert adapter.about["title"] == "ink"
    assert adapter.metadata["ss_network_dim"] == "2"
    for name, alpha in (("k", 1.0), ("v", None)):
        layer = layers[f"down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_{name}"]
        assert layer.scale == (alpha or 2) / 2
        for side in ("down", "up"):
            expected = arrays()[f"{STEM}{name}.lora_{side}.weight"]
            np.testing.assert_array_equal(layer.tensors[f"{side}.weight"].numpy(), expected)


def test_the_result_says_what_was_done(lora: Path) -> None:
    result = convert(lora)
    assert (result.base, result.family, result.naming) == ("sd15", "lora", "lora_unet_ diffusers")
    assert (result.modules, result.ranks, result.alphas) == ({"unet": 2}, {2: 2}, {"1": 1, "rank": 1})
    assert result.source_sha256 == hashlib.sha256(lora.read_bytes()).hexdigest()
    assert result.size == result.path.stat().st_size
    assert result.source_size == lora.stat().st_size
    assert set(result.report.left_out) == {"ss_tag_frequency"}
    document = format.read(result.path).about["provenance"]
    assert document["source"] == {"name": lora.name, "size": result.source_size, "sha256": result.source_sha256}
    assert document["exact"] is True
    data = json.loads(json.dumps(result.as_dict()))
    assert data["tensors"] == {"used": 4, "folded": 1, "dropped": 0}
    assert data["identity"] == result.identity
    text = result.as_text()
    assert str(result.path) in text
    assert "ss_tag_frequency" in text
    assert "2 (unet 2)" in text
    assert "1 × 1, rank × 1" in text


def test_dropped_tensors_are_told_by_reason(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({**arrays(), "_aux.a": np.ones(1), "_aux.\x1b[2J": np.ones(1)}, tmp_path / "a.safetensors")
    result = convert(tmp_path / "a.safetensors")
    assert "dropped: 2 (_aux.\\x1b[2J, _aux.a): a slider's training aid" in result.as_text()
    assert set(result.as_dict()["dropped"]) == {"_aux.a", "_aux.\x1b[2J"}


def test_nothing_is_overwritten_without_force(lora: Path) -> None:
    first = convert(lora)
    with pytest.raises(FileAccessError, match=r"lora\.styleinject\.safetensors: already exists.*force=True"):
        convert(lora)
    assert convert(lora, force=True).identity == first.identity
    with pytest.raises(FileAccessError, match="is the source itself"):
        convert(lora, lora, force=True)
    with pytest.raises(UnsupportedFamily, match="StyleInject adapter already"):
        convert(first.path, lora.with_name("again.safetensors"))


def test_default_names_lie_beside_files_and_inside_folders(tmp_path: Path) -> None:
    assert default_output(Path("a/b.safetensors")) == Path("a/b.styleinject.safetensors")
    assert default_output(Path("b.pt")) == Path("b.styleinject.safetensors")
    assert default_output(tmp_path) == tmp_path / f"{tmp_path.name}.styleinject.safetensors"


def test_a_failed_conversion_writes_nothing(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    held = arrays()
    held[f"{STEM}k.lora_up.weight"][3, 1] = np.nan
    save_file(held, tmp_path / "nan.safetensors")
    with pytest.raises(NotFinite, match=rf"nan\.safetensors.*{STEM}k\.lora_up\.weight"):
        convert(tmp_path / "nan.safetensors")
    assert os.listdir(tmp_path) == ["nan.safetensors"]


def test_a_tiny_folder_is_a_base_for_a_peft_folder(tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig, get_peft_model

    base: Any = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, cross_attention_dim=24,
        attention_head_dim=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    base.save_pretrained(tmp_path / "unet")
    config = LoraConfig(r=2, lora_alpha=3, target_modules=["to_q", "conv1"], init_lora_weights=False)
    get_peft_model(base, config).save_pretrained(tmp_path / "peft")
    result = convert(tmp_path / "peft", base=tmp_path / "unet")
    assert result.path == tmp_path / "peft" / "peft.styleinject.safetensors"
    assert result.alphas == {"3": sum(result.modules.values())}
    assert convert(tmp_path / "peft", base=tmp_path / "unet", force=True).identity == result.identity


def test_progress_reaches_the_whole(lora: Path) -> None:
    seen: list[tuple[int, int]] = []
    convert(lora, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 0


def test_plain_conversion_never_imports_torch(lora: Path) -> None:
    script = (
        "import sys; from si_hub.conversion import convert; convert(sys.argv[1]); "
        "sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, str(lora)], check=True)


def test_a_full_size_sdxl_file_with_every_module_fits_the_documents_limit(tmp_path: Path) -> None:
    entries: dict[str, tuple[str, tuple[int, ...]]] = {}
    prefixes = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
    end, alphas = 0, []
    for component, prefix in prefixes.items():
        for number, (path, module) in enumerate(architectures.load("sdxl").components[component].modules.items()):
            if module.kind in ("linear", "conv"):
                stem = prefix + path.replace(".", "_")
                ones = (1,) * len(module.shape[2:])
                shapes = {"lora_down.weight": (1, *module.shape[1:]), "lora_up.weight": (module.shape[0], 1, *ones)}
                for leaf, shape in {**shapes, "alpha": ()}.items():
                    entries[f"{stem}.{leaf}"] = ("F16", shape)
                    end += 2 * prod(shape)
                alphas.append((end - 2, number % 50 + 1))
    file = write_zeros(tmp_path / "lora.safetensors", entries)
    with file.open("r+b") as out:
        for start, alpha in alphas:
            out.seek(data_start(file) + start)
            out.write(struct.pack("<e", alpha))
    result = convert(file)
    assert isinstance(result, Converted)
    assert sum(result.modules.values()) == len(alphas) > 1000
    assert len(result.alphas) == 50
    assert len(format.read(result.path).components["unet"].layers) == result.modules["unet"]


def test_errors_leave_no_output_behind(tmp_path: Path) -> None:
    (tmp_path / "empty.safetensors").touch()
    for name in ("empty.safetensors", "missing.safetensors"):
        with pytest.raises(SiHubError):
            convert(tmp_path / name)
    assert os.listdir(tmp_path) == ["empty.safetensors"]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_a_peft_folder_a_component_is_one_adapter_worth_what_each_is_alone(tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig, get_peft_model
    from transformers import CLIPTextConfig, CLIPTextModel

    unet: Any = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16,), layers_per_block=1, norm_num_groups=8, cross_attention_dim=24,
        attention_head_dim=4, down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",),
    )  # fmt: skip
    config = CLIPTextConfig(
        vocab_size=9, hidden_size=24, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4
    )
    for name, model, alpha in (("unet", unet, 3), ("text_encoder", CLIPTextModel(config), 5)):
        model.save_pretrained(tmp_path / "base" / name)
        target = {"unet": "to_q", "text_encoder": "q_proj"}[name]
        lora = LoraConfig(r=2, lora_alpha=alpha, target_modules=[target], init_lora_weights=False)
        get_peft_model(model, lora).save_pretrained(tmp_path / "lora" / name)
    index = {"_class_name": "X", "unet": ["diffusers", "UNet2DConditionModel"], "text_encoder": ["t", "CLIPTextModel"]}
    (tmp_path / "base" / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    result = convert(tmp_path / "lora", base=tmp_path / "base")
    whole = format.read(result.path, verify=True)
    for name in ("unet", "text_encoder"):
        alone = format.read(convert(tmp_path / "lora" / name, tmp_path / name, base=tmp_path / "base").path)
        layers, expected = whole.components[name].layers, alone.components[name].layers
        assert layers.keys() == expected.keys()
        for path, layer in layers.items():
            assert layer.scale == expected[path].scale == {"unet": 1.5, "text_encoder": 2.5}[name]
            for leaf, tensor in layer.tensors.items():
                assert tensor.tobytes() == expected[path].tensors[leaf].tobytes()
    files = [tmp_path / "lora" / name / "adapter_model.safetensors" for name in ("text_encoder", "unet")]
    assert whole.about["provenance"]["sources"] == [
        {"name": f"{file.parent.name}/{file.name}", "size": file.stat().st_size,
         "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for file in files
    ]  # fmt: skip
    assert result.source_size == sum(file.stat().st_size for file in files)
    with pytest.raises(FileAccessError, match="is the source itself"):
        convert(tmp_path / "lora", files[1], base=tmp_path / "base", force=True)
    seen = inspect(tmp_path / "lora", base=tmp_path / "base")
    assert isinstance(seen, list)
    assert [(item.path, item.kind, list(item.parts)) for item in seen] == [
        (tmp_path / "lora", "adapter", ["text_encoder", "unet"]),
        (result.path, "styleinject", ["text_encoder", "unet"]),
    ]
    files[0].write_bytes(b"")
    seen = inspect(tmp_path / "lora", base=tmp_path / "base")
    assert isinstance(seen, list)
    assert [(item.path, item.kind) for item in seen] == [
        (result.path, "styleinject"), (files[0], "unreadable"), (files[1], "adapter"),
    ]  # fmt: skip


def test_a_check_and_a_smaller_adapter_are_not_asked_for_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has its errors measured"):
        convert(tmp_path / "lora.safetensors", check=True, rank=2)


def test_a_base_of_the_cache_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.miniature import KOHYA_LORA
    from tests.test_basemodel import cache

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    name = cache(tmp_path, "somebody/miniature")
    [weights] = tmp_path.glob("models--*/snapshots/*/unet/*.safetensors")
    before = weights.read_bytes()
    with pytest.raises(FileAccessError, match="is the base model, or a file of it"):
        convert(KOHYA_LORA, weights, base=name, force=True)
    assert weights.read_bytes() == before


@pytest.mark.parametrize("spoken", ["python", "command"])
def test_an_output_that_ends_in_a_slash_is_a_folder(spoken: str, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from si_hub.cli import main
    from tests.miniature import BASE, KOHYA_LORA

    folder = f"{tmp_path}/new/one/"
    if spoken == "python":
        convert(KOHYA_LORA, folder, base=BASE)
    else:
        result = CliRunner().invoke(main, ["convert", str(KOHYA_LORA), "--base", str(BASE), "-o", folder])
        assert result.exit_code == 0, result.output
    assert (tmp_path / "new" / "one" / "kohya_lora.styleinject.safetensors").is_file()
