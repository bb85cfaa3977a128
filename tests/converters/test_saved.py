"""PEFT adapters with weights saved whole, made and merged by PEFT itself: what they are beside their base, exactly."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file

from si_hub.conversion import convert
from si_hub.errors import UnsupportedFamily
from si_hub.inspection import Inspection, inspect
from tests.miniature import BASE

CASES: dict[str, dict[str, Any]] = {
    "modules_to_save": {"modules_to_save": ["conv_out", "conv_norm_out"], "target_modules": ["to_q"]},
    "bias of LoRA's modules": {"bias": "lora_only", "target_modules": ["to_out.0"]},
    "every bias": {"bias": "all", "target_modules": ["to_out.0", "to_q"]},
}
Weights = dict[str, torch.Tensor]


def train(folder: Path, **options: Any) -> tuple[Path, Weights, Weights]:
    """A PEFT folder, the base's weights, and those that PEFT merges it into; nothing of it is zero."""
    torch.manual_seed(0)
    base = UNet2DConditionModel.from_pretrained(BASE, subfolder="unet")
    before = {name: value.clone() for name, value in base.state_dict().items()}
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, **options))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and ("bias" in name or "modules_to_save" in name):
            parameter.data += 0.05 * torch.randn_like(parameter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(str(folder))
    merged = model.merge_and_unload().state_dict()
    return folder, before, {name.replace("base_layer.", ""): value for name, value in merged.items()}


def added(file: Path, module: str) -> dict[str, torch.Tensor]:
    """What the file adds to a module's weight and bias, by FORMAT.md's sentence on them; alpha / rank is 8 / 4."""
    held = {name.removeprefix(f"unet.{module}."): value.double() for name, value in load_file(file).items()
            if name.startswith(f"unet.{module}.")}  # fmt: skip
    found = {leaf: held[f"{leaf}_delta"] for leaf in ("weight", "bias") if f"{leaf}_delta" in held}
    if "down.weight" in held:
        found["weight"] = found.get("weight", 0) + 2 * held["up.weight"] @ held["down.weight"].flatten(1)
    return found


@pytest.mark.parametrize("case", CASES)
def test_with_the_base_s_weights_it_is_what_peft_merges(case: str, tmp_path: Path) -> None:
    folder, before, merged = train(tmp_path / "peft", **CASES[case])
    done = convert(folder, tmp_path / "out.safetensors", base=BASE)
    assert done.exact
    changed = {name for name in before if not torch.equal(before[name], merged[name])}
    assert any(name.endswith("bias") for name in changed)
    seen = set()
    for module in {name.rpartition(".")[0] for name in before}:
        for leaf, delta in added(done.path, module).items():
            name = f"{module}.{leaf}"
            seen.add(name)
            wide = before[name].double() + delta.reshape(before[name].shape)
            assert torch.allclose(wide, merged[name].double(), rtol=1e-5, atol=1e-6), name
    assert changed <= seen


@pytest.mark.parametrize("case", CASES)
def test_without_them_it_is_named_and_what_to_do(case: str, tmp_path: Path) -> None:
    folder, _, _ = train(tmp_path / "peft", **CASES[case])
    from si_hub.architectures import from_folder

    with pytest.raises(
        UnsupportedFamily, match=r"saved by PEFT's modules_to_save or bias.*Name the base model's folder"
    ):
        convert(folder, tmp_path / "out.safetensors", base=from_folder(BASE))
    looked = inspect(folder / "adapter_model.safetensors")
    assert isinstance(looked, Inspection)
    assert "modules_to_save or bias" in str(looked.problem["problem"])


def test_a_part_is_converted_without_them_and_says_so(tmp_path: Path) -> None:
    folder, _, _ = train(tmp_path / "peft", **CASES["modules_to_save"])
    from si_hub.architectures import from_folder

    done = convert(folder, tmp_path / "out.safetensors", base=from_folder(BASE), allow_partial=True)
    assert not done.exact
    assert {name.rpartition(".")[0].removeprefix("base_model.model.") for name in done.report.dropped} == {
        "conv_out", "conv_norm_out",
    }  # fmt: skip
    with safe_open(done.path, "pt") as file:
        assert not [name for name in file.keys() if "conv_out" in name]  # noqa: SIM118


def test_plain_weights_that_no_configuration_speaks_of_stay_unknown(tmp_path: Path) -> None:
    import json

    from si_hub.errors import UnknownFamily

    folder, _, _ = train(tmp_path / "peft", **CASES["modules_to_save"])
    config = folder / "adapter_config.json"
    changed = json.loads(config.read_bytes()) | {"modules_to_save": ["conv_norm_out"]}
    config.write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(UnknownFamily, match="2 of"):
        convert(folder, tmp_path / "out.safetensors", base=BASE)


def test_a_quantised_adapter_is_never_read_without_its_scales(tmp_path: Path) -> None:
    """``allow_partial`` would leave the scales out, and the weights would be other numbers."""
    from safetensors.torch import save_file

    from tests.commands import write_kohya

    held = load_file(write_kohya(tmp_path / "a.safetensors"))
    down = next(name for name in held if name.endswith("lora_down.weight"))
    for beside in ("weight_scale", "scale_weight", "input_scale", "comfy_quant", "weight_scale_2"):
        name = f"{down.removesuffix('weight')}{beside}"
        save_file(held | {name: torch.tensor([0.5])}, tmp_path / "b.safetensors")
        for partial in (False, True):
            with pytest.raises(UnsupportedFamily, match=rf"{beside}: is quantised"):
                convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors", base="sd15", allow_partial=partial)
