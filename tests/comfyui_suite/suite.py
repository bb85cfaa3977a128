"""What ComfyUI's own U-Net and text encoder predict with an adapter on them: what diffusers' and transformers' do."""

from __future__ import annotations

import copy
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from si_hub import format, tuner
from si_hub.adapter import Adapter, BaseModel, Component, Layer
from si_hub.architectures.layouts.unet import sgm
from si_hub.architectures.model import Model, modules_from_shapes
from si_hub.errors import BaseMismatch, UsageError
from si_hub.storage.tensors import Tensor
from si_hub.tuner.door import find_door

import comfy.options  # isort: skip

comfy.options.enable_args_parsing()

import comfy.clip_model  # noqa: E402  # isort: skip
import comfy.model_base  # noqa: E402  # isort: skip
import comfy.model_patcher  # noqa: E402  # isort: skip
import comfy.ops  # noqa: E402  # isort: skip
import comfy.supported_models_base  # noqa: E402  # isort: skip

LORAS = Path()
sys.modules["folder_paths"] = types.SimpleNamespace(  # type: ignore[assignment]
    get_filename_list=lambda kind: sorted(path.name for path in LORAS.iterdir()),
    get_full_path=lambda kind, name: str(LORAS / name) if (LORAS / name).exists() else None,
)

from examples.comfyui import NODE_CLASS_MAPPINGS, attaching  # noqa: E402

CPU = torch.device("cpu")


class Config(comfy.supported_models_base.BASE):
    unet_extra_config: ClassVar[dict[str, Any]] = {}


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        block_out_channels=(32, 64), norm_num_groups=32, attention_head_dim=4, layers_per_block=1, sample_size=8,
        cross_attention_dim=64, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def described(unet: UNet2DConditionModel) -> Model:
    shapes = {name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()}
    return Model("UNet2DConditionModel", modules_from_shapes(shapes))


@pytest.fixture(scope="module")
def patcher(unet: UNet2DConditionModel, described: Model) -> Any:
    """ComfyUI's own U-Net with the same numbers, in its own patcher."""
    config = Config({
        "image_size": 8, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1],
        "channel_mult": [1, 2], "num_heads": 4, "use_spatial_transformer": True, "transformer_depth": [1, 0],
        "transformer_depth_output": [1, 1, 0, 0], "transformer_depth_middle": 1, "context_dim": 64,
        "use_linear_in_transformer": False, "legacy": False, "dtype": torch.float32, "use_checkpoint": False,
        "adm_in_channels": None,
    })  # fmt: skip
    model = comfy.model_base.BaseModel(config)
    state, shapes = unet.state_dict(), model.diffusion_model.state_dict()
    renamed = {
        f"{native}.{leaf}": state[f"{part.path}.{leaf}"].reshape(shapes[f"{native}.{leaf}"].shape)
        for native, (part,) in sgm(described).items()
        for leaf in ("weight", "bias")
        if f"{part.path}.{leaf}" in state
    }
    model.diffusion_model.load_state_dict(renamed)
    return comfy.model_patcher.ModelPatcher(model, CPU, CPU)


@pytest.fixture(autouse=True)
def base_is_untouched(patcher: Any) -> Iterator[None]:
    """After each test the model has its own modules and numbers."""
    modules = dict(patcher.model.named_modules())
    state = {name: tensor.clone() for name, tensor in patcher.model.state_dict().items()}
    yield
    assert all(module is modules[name] for name, module in patcher.model.named_modules())
    after = patcher.model.state_dict()
    assert state.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in state.items())


def random(*shape: int) -> Tensor:
    return Tensor.from_torch(0.3 * torch.randn(shape))


def every_leaf(described: Model, transform: Any, branches: int) -> Component:
    """Layers with branches, gains, turns, differences and plain pairs, over all modules."""
    torch.manual_seed(1)
    layers = {}
    for at, (path, module) in enumerate(described.modules.items()):
        if module.kind == "norm":
            layers[path] = Layer({"weight_delta": random(*module.shape), "bias_delta": random(module.shape[0])})
        if module.kind not in {"linear", "conv"}:
            continue
        out, into = module.shape[:2]
        tensors = {"down.weight": random(2 * branches, *module.shape[1:]), "up.weight": random(out, 2)}
        if branches > 1:
            tensors |= {"router.weight": random(branches, into), "router.bias": random(branches)}
        if at % 3 == 1:
            tensors |= {"gain": random(out), "turn_in": random(into // 2, 2, 2)}
        layers[path] = Layer(tensors, alpha=1.5, transform=transform)
    return Component("UNet2DConditionModel", layers)


def predict(patched: Any) -> torch.Tensor:
    """ComfyUI's prediction while the patcher's patches are in the model."""
    patched.patch_model()
    try:
        with torch.no_grad():
            result: torch.Tensor = patched.model.diffusion_model(*inputs()[:2], context=inputs()[2])
            return result
    finally:
        patched.unpatch_model()


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(2)
    return torch.randn(2, 4, 8, 8), torch.tensor([500, 20]), torch.randn(2, 7, 64)


def predict_by_diffusers(
    unet: UNet2DConditionModel, loaded: dict[str, tuple[Component, float]], styles: tuple[float, ...] | None = None
) -> torch.Tensor:
    """What diffusers' U-Net predicts with these adapters at these weights."""
    for name, (component, weight) in loaded.items():
        tuner.inject(unet, component, name=name)
        door = find_door(unet)
        assert door is not None
        for _, layer in door.layers():
            layer[name].weight = weight
            layer[name].styles = styles if layer[name].branches > 1 else None
    try:
        with torch.no_grad():
            result: torch.Tensor = unet(*inputs()).sample
            return result
    finally:
        tuner.remove(unet)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3 * float(expected.abs().max()))


def test_both_libraries_predict_the_same_without_an_adapter(unet: UNet2DConditionModel, patcher: Any) -> None:
    assert_close(predict(patcher.clone()), predict_by_diffusers(unet, {}))


@pytest.mark.parametrize("transform", ["add", "variance", "restyle", "adain"])
@pytest.mark.parametrize("branches", [1, 3])
def test_every_transform_and_router_acts(
    unet: UNet2DConditionModel, patcher: Any, described: Model, transform: str, branches: int
) -> None:
    component = every_leaf(described, transform, branches)
    expected = predict_by_diffusers(unet, {"one": (component, 0.7)})
    assert (expected - predict(patcher.clone())).abs().max() > 0.1
    assert_close(predict(attaching.attach_component(patcher, component, described, 0.7)), expected)


def test_named_styles_are_mixed(unet: UNet2DConditionModel, patcher: Any, described: Model) -> None:
    component, styles = every_leaf(described, "add", 3), (0.5, 0.0, -0.2)
    expected = predict_by_diffusers(unet, {"one": (component, 1.0)}, styles)
    assert_close(predict(attaching.attach_component(patcher, component, described, 1.0, styles)), expected)


def test_two_adapters_and_a_lora_of_comfyuis_own(unet: UNet2DConditionModel, patcher: Any, described: Model) -> None:
    one, two = every_leaf(described, "variance", 2), every_leaf(described, "add", 1)
    both = attaching.attach_component(patcher, one, described, 0.5)
    both = attaching.attach_component(both, two, described, -0.3)
    weight = 0.05 * torch.randn(32, 32)
    key = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    assert both.add_patches({key: (weight,)}, 1.0) == [key]
    own = copy.deepcopy(unet)
    own.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q.weight.data += weight
    expected = predict_by_diffusers(own, {"a": (one, 0.5), "b": (two, -0.3)})
    assert_close(predict(both), expected)


def test_a_clone_made_while_another_workflow_is_loaded_begins_at_the_base(
    unet: UNet2DConditionModel, patcher: Any, described: Model
) -> None:
    one, two = every_leaf(described, "variance", 2), every_leaf(described, "add", 1)
    loaded = attaching.attach_component(patcher, one, described, 1.0)
    loaded.patch_model()
    try:
        other = attaching.attach_component(patcher, two, described, 1.0)
    finally:
        loaded.unpatch_model()
    assert_close(predict(other), predict_by_diffusers(unet, {"two": (two, 1.0)}))


def test_layers_for_other_modules_are_refused_by_name(patcher: Any, described: Model) -> None:
    component = Component(None, {"transformer_blocks.0.attn.to_q": Layer({"gain": random(8)})})
    with pytest.raises(BaseMismatch, match=r"transformer_blocks\.0\.attn\.to_q: 1 of 1 layers are for modules"):
        attaching.attach_component(patcher, component, described, 1.0)


class Clip:
    """As much of ComfyUI's CLIP as a loader touches."""

    def __init__(self, patcher: Any) -> None:
        self.patcher = patcher

    def clone(self) -> Clip:
        return Clip(self.patcher.clone())


def make_clip() -> Clip:
    """ComfyUI's own CLIP model of SD 1.5's sizes in a patcher, as its CLIP has it."""
    torch.manual_seed(3)
    config = {
        "num_hidden_layers": 2, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072,
        "hidden_act": "quick_gelu",
    }  # fmt: skip
    encoder = torch.nn.Module()
    encoder.clip_l = torch.nn.Module()
    with torch.no_grad():
        encoder.clip_l.transformer = comfy.clip_model.CLIPTextModel(config, torch.float32, CPU, comfy.ops.manual_cast)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return Clip(comfy.model_patcher.ModelPatcher(encoder, CPU, CPU))


def write_adapter(folder: Path) -> Adapter:
    """An adapter of SD 1.5 with named styles in both components, as a file in ComfyUI's folder."""
    global LORAS
    LORAS = folder
    torch.manual_seed(4)
    path = "text_model.encoder.layers.1.mlp.fc2"
    pair = {"down.weight": random(4, 3072), "up.weight": random(768, 2), "router.bias": random(2)}
    adapter = Adapter(
        BaseModel("sd15"), {"text_encoder": Component("CLIPTextModel", {path: Layer(pair, alpha=2.0)})}, ("ink", "neon")
    )
    format.write(adapter, folder / "style.safetensors")
    return adapter


def encode(clip: Clip) -> torch.Tensor:
    clip.patcher.patch_model()
    try:
        with torch.no_grad():
            result: torch.Tensor = clip.patcher.model.clip_l.transformer(torch.arange(77)[None])[0]
            return result
    finally:
        clip.patcher.unpatch_model()


def test_the_loader_puts_styles_on_the_text_encoder(patcher: Any, tmp_path: Path) -> None:
    adapter, clip = write_adapter(tmp_path), make_clip()
    node = NODE_CLASS_MAPPINGS["StyleInjectLoader"]()
    model, loaded = node.load(patcher, "style.safetensors", 1.0, 0.5, "ink=0.7 neon=-0.2", clip)
    assert model is patcher
    module = clip.patcher.model.clip_l.transformer.text_model.encoder.layers[1].mlp.fc2
    before, weight = encode(clip), module.weight.detach().clone()
    layer = adapter.components["text_encoder"].layers["text_model.encoder.layers.1.mlp.fc2"]
    down, up = layer.tensors["down.weight"].torch(), layer.tensors["up.weight"].torch()
    module.weight.data += 0.5 * up @ (0.7 * down[:2] - 0.2 * down[2:])
    expected = encode(clip)
    module.weight.data = weight
    assert (expected - before).abs().max() > 1e-3
    assert_close(encode(loaded), expected)
    assert_close(encode(clip), before)
    with pytest.raises(UsageError, match="has no such style"):
        node.load(patcher, "style.safetensors", 1.0, 1.0, "oil=1", clip)


def test_a_lora_of_kohya_is_loaded_as_it_is_and_lists_are_read(patcher: Any, tmp_path: Path) -> None:
    write_adapter(tmp_path)
    stem = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    state = {f"{stem}.lora_down.weight": torch.randn(2, 768), f"{stem}.lora_up.weight": torch.randn(3072, 2)}
    save_file(state, tmp_path / "a lora.safetensors", {"ss_base_model_version": "sd_v1"})
    node, clip = NODE_CLASS_MAPPINGS["StyleInjectStack"](), make_clip()
    _, loaded = node.load(patcher, "a lora.safetensors 0.5\n\n# a remark\nstyle.safetensors 1 0.2 ink=1", clip)
    module = clip.patcher.model.clip_l.transformer.text_model.encoder.layers[0].mlp.fc1
    _, alone = node.load(patcher, "style.safetensors 1 0.2 ink=1", clip)
    weight = module.weight.detach().clone()
    module.weight.data += 0.5 * state[f"{stem}.lora_up.weight"] @ state[f"{stem}.lora_down.weight"]
    expected = encode(alone)
    module.weight.data = weight
    assert_close(encode(loaded), expected)
    assert (encode(alone) - expected).abs().max() > 1e-3
    with pytest.raises(UsageError, match="is no file in ComfyUI's folders"):
        node.load(patcher, "missing.safetensors", clip)


def test_the_recorded_graph_names_the_nodes_inputs() -> None:
    graph = json.loads(Path("examples/comfyui/workflow_api.json").read_text(encoding="utf-8"))
    ours = [node for node in graph.values() if node["class_type"] in NODE_CLASS_MAPPINGS]
    assert ours
    global LORAS
    LORAS = Path("examples/comfyui")
    for node in ours:
        wanted = NODE_CLASS_MAPPINGS[node["class_type"]].INPUT_TYPES()
        assert set(node["inputs"]) <= {*wanted["required"], *wanted["optional"]}
        assert set(wanted["required"]) <= set(node["inputs"])
    for node in graph.values():
        for value in node["inputs"].values():
            if isinstance(value, list):
                assert value[0] in graph


def test_the_graph_to_drop_in_is_the_recorded_one() -> None:
    """ComfyUI's own two forms of a graph: what the editor shows, and what its server is told."""
    told = json.loads(Path("examples/comfyui/workflow_api.json").read_text(encoding="utf-8"))
    shown = json.loads(Path("examples/comfyui/workflow.json").read_text(encoding="utf-8"))
    links = {link[0]: [str(link[1]), link[2]] for link in shown["links"]}
    assert {str(node["id"]): node["type"] for node in shown["nodes"]} == {
        number: node["class_type"] for number, node in told.items()
    }
    for node in shown["nodes"]:
        inputs = told[str(node["id"])]["inputs"]
        assert {one["name"]: links[one["link"]] for one in node["inputs"]} == {
            name: value for name, value in inputs.items() if isinstance(value, list)
        }
        values = [value for value in node["widgets_values"] if value != "fixed"]
        assert values == [value for value in inputs.values() if not isinstance(value, list)]
