"""A pipeline of a model on disk: a folder's, or one assembled from a single file and the configuration it lacks.

The configuration is a release's that si-hub ships (`RELEASES`), or that of a pipeline folder which the user names.
Every module is made without memory and gets its weights from the file one at a time, so that one model is held, and
nothing is written; or the weights of its blocks stay in the file (`stored`), and hardly anything is held.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from si_hub.architectures.bases import BY_NAME
from si_hub.architectures.folder import COMPONENT, frozen_path, read_object
from si_hub.distill.pair.model import ModelOnDisk
from si_hub.distill.pair.weights import Weight
from si_hub.distill.running.releases import RELEASES, Release
from si_hub.errors import BaseMismatch, CannotRun
from si_hub.training.quiet import load_quietly
from si_hub.words import option

if TYPE_CHECKING:
    import torch
    from torch import nn

_INDEX = "model_index.json"
#: Whose models can be made from their configuration.
_LIBRARIES = ("diffusers", "transformers")
#: Above this correlation with the noise that it is given, a denoiser predicts noise.
_ALIKE = 0.5


def load_pipeline(model: ModelOnDisk, dtype: torch.dtype | None = None, *, stored: bool = False) -> Any:
    """The diffusers pipeline of a model on the CPU.

    Args:
        model: a pipeline folder, or a single file.
        dtype: of its weights; float32 by default.
        stored: whether the weights of blocks stay in their files; the pipeline is then to be computed by blocks.
            Components of folders whose weights have other names than their modules are held all the same.

    Raises:
        CannotRun: `why_not` says why.
        BaseMismatch: the named configuration is of a model with other weights.
    """
    import torch

    dtype = dtype or torch.float32
    if reason := why_not(model):
        raise CannotRun(reason, file=model.path, hint=_way_out(model))
    with load_quietly():
        if model.layout == "file" and model.configuration is None:
            return _of_release(model, RELEASES[model.architecture.name], dtype, stored=stored)
        return _of_folder(model, dtype, stored=stored)


def why_not(model: ModelOnDisk) -> str | None:
    """Why a model's pipeline cannot be run; ``None`` where it can. Looks at names only."""
    if model.layout == "folder":
        return _folder_lacks(model.path, frozenset())
    if model.configuration is not None:
        reason = _folder_lacks(model.configuration, frozenset(_held(model)))
        return f"cannot be run: its configuration {model.configuration.name} {reason}" if reason else None
    release = RELEASES.get(model.architecture.name)
    if release is None:
        kind = BY_NAME[model.architecture.name].title if model.architecture.name in BY_NAME else "another model"
        return f"is a single file of {kind}, whose configuration is not shipped, so it cannot be run"
    lacking = [name for name in release.models if name not in _held(model)]
    if lacking:
        return f"is a single file without its {', '.join(lacking)}, so it cannot be run"
    entry = model.components[model.denoiser].get("conv_in.weight")
    usual = release.models[model.denoiser].config.get("in_channels", 4)
    if entry is not None and entry.shape[1] != usual:
        return f"takes {entry.shape[1]} channels where others take {usual}, so it cannot be run from prompts alone"
    return None


def _way_out(model: ModelOnDisk) -> str:
    svd = option("method", "svd")
    if model.layout == "folder":
        return f"Name a pipeline folder as the base, or use {svd}."
    return f"Name a diffusers folder or cached repository of its kind with {option('config')}, or use {svd}."


def _folder_lacks(folder: Path, held: frozenset[str]) -> str | None:
    """What a pipeline's folder lacks besides what is at hand elsewhere."""
    if not (folder / _INDEX).is_file():
        return "is not a whole pipeline, so it cannot be run"
    lacking = [name for name in _parts(folder) if name not in held and not (folder / name).is_dir()]
    return f"is a pipeline without its {', '.join(lacking)}, so it cannot be run" if lacking else None


def _parts(folder: Path) -> dict[str, list[Any]]:
    """Library and class of the components that a pipeline cannot do without."""
    return {
        name: entry for name, entry in read_object(folder / _INDEX).items()
        if isinstance(entry, list) and entry[0] and name not in {"safety_checker", "feature_extractor"}
    }  # fmt: skip


def _held(model: ModelOnDisk) -> dict[str, dict[str, Weight]]:
    """Weights by component, the autoencoder's among them where the file has one."""
    return {**model.components, **({"vae": model.vae} if model.vae else {})}


def _of_folder(model: ModelOnDisk, dtype: torch.dtype, *, stored: bool) -> Any:
    """The pipeline of a folder; what a single file holds is that file's."""
    from diffusers import DiffusionPipeline
    from torch import nn

    folder = model.configuration or model.path
    given: dict[str, Any] = {"safety_checker": None} if "safety_checker" in read_object(folder / _INDEX) else {}
    parts = _parts(folder)
    if model.layout == "file":
        for name, weights in _held(model).items():
            if name in parts and (COMPONENT.fullmatch(name) or name == "vae"):
                module = _from_config(folder / name, parts[name])
                given[name] = _filled(model, name, module, weights, dtype, stored=stored)
    elif stored:
        for name, weights in model.components.items():
            if parts.get(name, [None])[0] in _LIBRARIES:
                module = _from_config(folder / name, parts[name])
                # What its library renames as it loads it, the library loads.
                if not _is_renamed(module, weights):
                    given[name] = _filled(model, name, module, weights, dtype, stored=True)
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            str(folder), dtype=dtype, local_files_only=True, trust_remote_code=False, **given
        )
    except (ValueError, RuntimeError, NotImplementedError, OSError) as error:
        [said, *_] = str(error).splitlines() or [type(error).__name__]
        raise CannotRun(f"cannot be loaded by diffusers: {said}", file=folder, hint=_way_out(model)) from error
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module):
            _check_filled(model, name, part)
    return pipeline


def _is_renamed(module: nn.Module, weights: Mapping[str, Weight]) -> bool:
    """Whether a file has names that a module lacks, and the module names that the file lacks."""
    class_name = type(module).__name__
    own = {frozen_path(name, class_name) for name, _ in (*module.named_parameters(), *module.named_buffers())}
    return bool(own - weights.keys()) and bool(weights.keys() - own)


def _from_config(folder: Path, entry: list[Any]) -> nn.Module:
    """A component by its folder's configuration, without memory."""
    if entry[0] not in _LIBRARIES or not (folder / "config.json").is_file():
        raise CannotRun("is no component that can be made from its configuration", file=folder, found=entry[0])
    config = read_object(folder / "config.json")
    return empty_model(entry[0], str(entry[1]), config)


def empty_model(library: str, class_name: str, config: Mapping[str, Any]) -> nn.Module:
    """A model whose parameters have no memory yet; its buffers have."""
    from accelerate import init_empty_weights

    kind = getattr(import_module(library), class_name)
    with init_empty_weights(include_buffers=False):
        if library == "diffusers":
            model: nn.Module = kind.from_config(dict(config))
        else:
            model = kind(kind.config_class(**config))
    return model


def _of_release(model: ModelOnDisk, release: Release, dtype: torch.dtype, *, stored: bool) -> Any:
    """The pipeline of a single file by the configuration that is shipped for it."""
    import diffusers

    from si_hub.distill.running.vocabulary import clip_tokenizer

    held = _held(model)

    def make(name: str, *, stored: bool) -> Any:
        part = release.models[name]
        empty = empty_model(part.library, part.class_name, part.config)
        return _filled(model, name, empty, held[name], dtype, stored=stored)

    parts: dict[str, Any] = {name: make(name, stored=stored) for name in release.models}
    denoiser = parts[model.denoiser]
    if model.prediction_type is None:
        model.prediction_type = "epsilon"
        if release.asks:
            # What stays in its file cannot be asked: it is held for a moment.
            model.prediction_type = asked_prediction(make(model.denoiser, stored=False) if stored else denoiser)
    prediction = model.prediction_type
    denoiser.register_to_config(sample_size=release.sides[prediction == "v_prediction"])
    name, config = release.schedule(prediction, model.ignored)
    tokenizers = {name: clip_tokenizer(padding) for name, padding in release.tokenizers.items()}
    checker = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return getattr(diffusers, release.pipeline)(
        **parts, **tokenizers, scheduler=getattr(diffusers, name)(**config), **release.options,
        **(checker if release.pipeline == "StableDiffusionPipeline" else {}),
    )  # fmt: skip


def _filled(
    model: ModelOnDisk,
    component: str,
    module: nn.Module,
    weights: Mapping[str, Weight],
    dtype: torch.dtype,
    *,
    stored: bool = False,
) -> nn.Module:
    """A module with the file's weights, each copied and widened when its turn comes; or those of blocks not at all."""
    from torch import nn

    from si_hub.distill.running.blocks import inside_blocks
    from si_hub.distill.running.stored import StoredParameter

    owners = dict(module.named_modules())
    # Pipelines widen their autoencoders now and then, which is small.
    left = inside_blocks(module) if stored and component != "vae" else set()
    tensors = chain(module.named_parameters(), ((name, one) for name, one in module.named_buffers() if one.ndim))
    for name, empty in list(tensors):
        weight = weights.get(frozen_path(name, type(module).__name__))
        if weight is None:
            continue
        if weight.shape != tuple(empty.shape):
            raise BaseMismatch(
                "has a weight of another shape than its configuration says", file=model.path,
                key=f"{component}.{name}", expected=list(empty.shape), found=list(weight.shape),
                hint=_whose_configuration(model),
            )  # fmt: skip
        owner, _, leaf = name.rpartition(".")
        own = _dtype_in(module, name, dtype)
        if id(empty) in left and isinstance(empty, nn.Parameter):
            setattr(owners[owner], leaf, StoredParameter.of(weight, own))
            continue
        held = weight.torch().to(own).contiguous()
        setattr(
            owners[owner], leaf,
            nn.Parameter(held, requires_grad=False) if isinstance(empty, nn.Parameter) else held,
        )  # fmt: skip
    tie: Any = getattr(module, "tie_weights", None)
    if tie is not None:
        tie()
    _check_filled(model, component, module)
    return module.eval()


def _check_filled(model: ModelOnDisk, component: str, module: nn.Module) -> None:
    """Raise BaseMismatch where a parameter has got no weight."""
    for name, parameter in module.named_parameters():
        if parameter.is_meta:
            raise BaseMismatch(
                "lacks a weight that its configuration names", file=model.path, key=f"{component}.{name}",
                hint=_whose_configuration(model),
            )  # fmt: skip


def _whose_configuration(model: ModelOnDisk) -> str:
    if model.layout == "folder":
        return "Take another copy of the folder."
    return f"Name the configuration of this very model with {option('config')}."


def _dtype_in(module: nn.Module, name: str, dtype: torch.dtype) -> torch.dtype:
    """What a parameter is held in: float32 where its library says that less is not enough for it."""
    import torch

    if dtype.itemsize >= torch.float32.itemsize:
        return dtype
    exact = set(getattr(module, "_keep_in_fp32_modules_strict", None) or ())
    # transformers means float16 alone, diffusers whatever is less.
    if dtype == torch.float16 or type(module).__module__.startswith("diffusers."):
        exact |= set(getattr(module, "_keep_in_fp32_modules", None) or ())
    return dtype if exact.isdisjoint(name.split(".")) else torch.float32


def asked_prediction(denoiser: Any) -> str:
    """What a denoiser predicts, by asking it: given hardly anything but noise, one of noise gives it back.

    A prediction of v is there the negative picture, v = √ᾱ ε − √(1−ᾱ) x0 (Salimans & Ho, arXiv 2202.00512).
    """
    import torch

    draw = torch.Generator().manual_seed(0)
    like = next(denoiser.parameters())
    noise = torch.randn(1, denoiser.config.in_channels, 32, 32, generator=draw).to(like)
    text = torch.zeros(1, 77, denoiser.config.cross_attention_dim).to(like)
    with torch.no_grad():
        found = denoiser(noise, torch.tensor(999), text, return_dict=False)[0].float().flatten()
    alike = torch.nn.functional.cosine_similarity(found, noise.float().flatten(), 0)
    return "epsilon" if float(alike) > _ALIKE else "v_prediction"
