"""Adapters on a pipeline as the page has them: what is drawn, what is saved, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import si_hub
from si_hub import format
from si_hub.adapter import BaseModel
from si_hub.app.studio import Mix, Scene, Studio, named_base
from si_hub.errors import CannotRun, ConversionRefused, MissingFile, UsageError
from tests.miniature import BASE, INK, KOHYA_LORA, join_styles

SCENE = Scene("a large red circle at the left, on sand", 3, 4, 3.0)
DORA = KOHYA_LORA.with_name("lycoris_dora.safetensors")


@pytest.fixture(scope="module")
def styles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return join_styles(tmp_path_factory.mktemp("styles"))


@pytest.fixture(scope="module")
def studio(styles: Path) -> Studio:
    return Studio([str(styles), str(DORA)], BASE, "cpu")


def draw(*adapters: tuple[Path, float], styles: dict[str, float] | None = None) -> Image.Image:
    """The same picture by the pipeline's own methods."""
    import torch
    from diffusers import StableDiffusionPipeline

    pipe: Any = StableDiffusionPipeline.from_pretrained(BASE, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    for number, (file, _) in enumerate(adapters):
        pipe.load_styleinject_weights(file, adapter_name=f"a{number}")
    if adapters:
        pipe.set_styleinject_adapters([f"a{n}" for n in range(len(adapters))], [weight for _, weight in adapters])
    if styles:
        pipe.set_styles(styles)
    noise = torch.Generator().manual_seed(SCENE.seed)
    found: Image.Image = pipe(SCENE.prompt, num_inference_steps=4, guidance_scale=3.0, generator=noise).images[0]
    return found


def apart(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.array(one).astype(int) - np.array(other).astype(int)).max())


def test_what_is_loaded_is_named_reported_and_mixed_as_its_file_says(studio: Studio) -> None:
    assert (studio.names, studio.title) == (["styles", "lycoris_dora"], "base")
    assert studio.start == Mix(
        {"styles": 1.0, "lycoris_dora": 1.0}, {"styles": {"kohya_lora": 0.5, "peft_lora": 0.5}}
    )  # fmt: skip
    assert "82 layers of" in studio.report_text()
    assert "converted in memory, exactly: dora" in studio.report_text()


def test_weights_and_styles_draw_what_the_pipelines_methods_draw_and_the_base_is_the_base(
    studio: Studio, styles: Path
) -> None:
    mix = Mix({"styles": 0.9, "lycoris_dora": 0.5}, {"styles": {"kohya_lora": 0.7, "peft_lora": -0.3}})
    mixed = studio.draw(SCENE, mix)
    assert apart(mixed, draw((styles, 0.9), (DORA, 0.5), styles={"kohya_lora": 0.7, "peft_lora": -0.3})) == 0
    assert apart(studio.draw_base(SCENE), draw()) == 0
    assert studio.draw_base(SCENE) is studio.draw_base(SCENE)
    assert apart(studio.draw(SCENE, Mix({"styles": 0.0, "lycoris_dora": 0.0})), draw()) == 0


def test_a_mix_is_saved_as_one_adapter_that_draws_it(studio: Studio, tmp_path: Path) -> None:
    mix = Mix({"styles": 0.9, "lycoris_dora": 0.5}, {"styles": {"kohya_lora": 0.7, "peft_lora": -0.3}})
    saved = studio.save(mix, tmp_path / "mix.safetensors")
    assert apart(draw((saved.path, 1.0)), studio.draw(SCENE, mix)) <= 1


def test_what_cannot_be_mixed_is_refused(studio: Studio, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no adapter has a branch of this name"):
        studio.draw(SCENE, Mix({"styles": 1.0}, {"styles": {"ink": 1.0}}))
    with pytest.raises(UsageError, match="every adapter has weight 0"):
        studio.save(Mix({"styles": 0.0}), tmp_path / "mix.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_base_is_named_or_said_by_the_first_file(tmp_path: Path) -> None:
    adapter = format.read(si_hub.convert(KOHYA_LORA, tmp_path / "one.safetensors", base=BASE).path)
    adapter.base_model = BaseModel(adapter.base_model.architecture, "user/base")
    assert named_base(str(format.write(adapter, tmp_path / "says.safetensors").path)) == "user/base"
    with pytest.raises(UsageError, match=r"names no repository of its base model.*base=FOLDER"):
        named_base(str(KOHYA_LORA))
    with pytest.raises(UsageError, match="not known before it is fetched"):
        named_base("user/style")
    with pytest.raises(UsageError, match="no adapter is named"):
        Studio([], BASE)
    with pytest.raises(MissingFile, match="nowhere: no such folder"):
        Studio([str(KOHYA_LORA)], "nowhere")
    with pytest.raises(CannotRun, match="is no whole pipeline, so it cannot be drawn with"):
        Studio([str(KOHYA_LORA)], BASE / "unet")


def test_what_is_no_adapter_is_refused() -> None:
    with pytest.raises(ConversionRefused, match="is a full checkpoint, which cannot be converted"):
        Studio([str(INK)], BASE)
