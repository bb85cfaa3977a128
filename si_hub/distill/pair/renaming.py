"""A single file's names → diffusers' names, by the installed diffusers' own converters on tensors that are not read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from diffusers.loaders import single_file_utils
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

from si_hub.architectures import Architecture
from si_hub.architectures.bases import BASES, BY_NAME
from si_hub.architectures.checkpoint import DENOISER_PREFIXES, DENOISERS
from si_hub.architectures.folder import COMPONENT, frozen_path
from si_hub.architectures.model import BUFFERS, modules_from_shapes
from si_hub.architectures.model import Model as Modules
from si_hub.distill.pair.checkpoint import check_same
from si_hub.distill.pair.deferred import Deferred, defer, weights
from si_hub.distill.pair.model import OPTIONAL, ModelOnDisk, vae_class
from si_hub.distill.pair.scaling import scales_of, with_scales
from si_hub.distill.pair.weights import Weight
from si_hub.errors import BaseMismatch, WrongPair

WeightTable = dict[str, Weight]
Convert = Callable[[dict[str, Deferred], str], Mapping[str, Any]]


def _clip(held: dict[str, Deferred], prefix: str) -> Mapping[str, Any]:
    return {name.removeprefix(prefix): tensor for name, tensor in held.items()}


def _open_clip(held: dict[str, Deferred], prefix: str) -> Mapping[str, Any]:
    width = held[f"{prefix}token_embedding.weight"].shape[1]
    model = SimpleNamespace(config=SimpleNamespace(hidden_size=width))
    converted: Mapping[str, Any] = single_file_utils.convert_open_clip_checkpoint(model, held, prefix=prefix)
    return converted


#: Where checkpoints keep text encoders; which component one is follows from its sizes.
_TEXT_ENCODERS: tuple[tuple[str, Convert], ...] = (
    ("cond_stage_model.transformer.", _clip),
    ("cond_stage_model.model.", _open_clip),
    ("conditioner.embedders.0.transformer.", _clip),
    ("conditioner.embedders.0.model.", _open_clip),
    ("conditioner.embedders.1.model.", _open_clip),
    ("text_encoders.clip_l.transformer.", _clip),
    ("text_encoders.clip_g.transformer.", _clip),
    ("text_encoders.t5xxl.transformer.", _clip),
)
_VAE = ("first_stage_model.", "vae.")
#: What a checkpoint holds besides the pipeline's weights.
_REASONS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), reason)
    for pattern, reason in (
        (r"model_ema\.", "a running average kept for training, not what the pipeline runs"),
        (r".*position_ids$", "a buffer of the numbers 0, 1, 2 ..."),
        (r".*(?:^|\.)(?:logit_scale|logit_bias)$", "CLIP's scale for comparing with images"),
        (r".*text_projection", "a projection that this pipeline does not have"),
        (r".*encoder\.embed_tokens\.weight$", "a second name of the text encoder's first embedding"),
        (r"cond_stage_model\.model\.|conditioner\.embedders\.\d\.model\.", "a last layer that the pipeline skips"),
        (r"cond_stage_model\.|conditioner\.|text_encoders\.", "a text encoder that the base does not have"),
        (r"first_stage_model\.|vae\.", "the autoencoder, which adapters do not carry"),
        (r"(?:alphas|betas|sqrt_|log_one_minus|posterior_|lvlb_|logvar|scale_factor|ztsnr|v_pred|edm_|sigma)",
         "the noise schedule, which the pipeline's scheduler has"),
        (r".*(?:scaled_fp8|scale_input|input_scale|comfy_quant)$", "a setting for computing in float8"),
        (r"control_model\.", "a ControlNet"),
    )
)  # fmt: skip
#: Classes of transformers that are no shipped base model's, by the beginning of what diffusers infers.
_OTHERS = (("wan-animate", "WanAnimateTransformer3DModel"), ("cosmos-1.0", "CosmosTransformer3DModel"))
_SHIPPED = tuple(
    (base.inferred, part.class_name) for base in BASES if base.inferred for part in base.denoisers().values()
)
#: Transformer class by the beginning of what diffusers infers, for files that are opened without a base; longest first.
_CLASSES = sorted({*_SHIPPED, *_OTHERS}, key=lambda entry: (-len(entry[0]), entry))


@dataclass(slots=True)
class MappedCheckpoint:
    """A checkpoint under diffusers' names, and what it holds besides."""

    architecture: Architecture
    components: dict[str, WeightTable] = field(default_factory=dict)
    vae: WeightTable = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)


def map_checkpoint(
    path: Path, held: WeightTable, architecture: Architecture | None, base: ModelOnDisk | None
) -> MappedCheckpoint:
    """Map every tensor of a checkpoint, or say why it is left out.

    Args:
        path: the file, for messages.
        held: its weights by its own names.
        architecture: as recognised by names and shapes.
        base: the model it must be.

    Raises:
        WrongPair: it is not the base's architecture.
        BaseMismatch: diffusers cannot map it, or it holds no denoiser.
    """
    tensors = with_scales({name: defer(weight) for name, weight in held.items()})
    expected = base.architecture if base else architecture
    denoiser, class_name = _which(path, tensors, expected)
    found = weights(_denoiser(path, tensors, class_name, _config(base, expected, denoiser), expected, denoiser))
    modules = Modules(class_name, modules_from_shapes({name: weight.shape for name, weight in found.items()}))
    if base:
        check_same(path, modules, base.architecture.components[denoiser], base)
    result = MappedCheckpoint(replace(expected or Architecture(class_name, {})), {denoiser: found})
    components = {denoiser: modules}
    for name, encoder, table in _text_encoders(path, tensors, expected, base):
        components[name], result.components[name] = encoder, table
    result.vae = _vae(tensors, base)
    result.architecture = replace(result.architecture, components=components)
    used = {
        source for table in (*result.components.values(), result.vae) for w in table.values() for source in w.sources
    }
    scales = scales_of(held)
    result.ignored = {name: _reason(name) for name in held if name not in used and name not in scales}
    return result


def _reason(name: str) -> str:
    return next(
        (reason for pattern, reason in _REASONS if pattern.match(name)), "no part of the pipeline that is known"
    )


def _which(path: Path, tensors: Mapping[str, Deferred], expected: Architecture | None) -> tuple[str, str]:
    """Component name and class of the denoiser."""
    for name in DENOISERS if expected else ():
        if expected and name in expected.components:
            return name, expected.components[name].class_name
    kind = single_file_utils.infer_diffusers_model_type(dict(tensors))
    class_name = next((value for prefix, value in _CLASSES if kind.startswith(prefix)), None)
    if class_name is None:
        raise BaseMismatch(
            "is a checkpoint of no architecture that can be told from the file alone", file=path,
            hint="Name a diffusers folder as the base model.",
        )  # fmt: skip
    return "transformer", class_name


def _config(base: ModelOnDisk | None, expected: Architecture | None, component: str) -> dict[str, Any]:
    """What diffusers' converter wants to know of the denoiser: its folder's configuration, or the shipped one."""
    if base and (config := base.config(component)):
        return {"layers_per_block": 2, **config}
    shipped = BY_NAME.get(expected.name) if expected else None
    values = shipped.components[component].config if shipped and component in shipped.components else {}
    return {"layers_per_block": 2, **values}


def _denoiser(
    path: Path,
    tensors: Mapping[str, Deferred],
    class_name: str,
    config: dict[str, Any],
    expected: Architecture | None,
    component: str,
) -> Mapping[str, Any]:
    """The denoiser's tensors under diffusers' names."""
    prefix = next(prefix for prefix in DENOISER_PREFIXES if any(name.startswith(prefix) for name in tensors))
    elsewhere = tuple(prefix for prefix, _ in _TEXT_ENCODERS) + _VAE + ("model_ema.",)
    inner = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix) and (prefix or not name.startswith(elsewhere)) and not name.endswith(BUFFERS)
    }
    known = _parameters(expected.components[component]) if expected else frozenset()
    if known and known <= inner.keys():
        return {name: tensor for name, tensor in inner.items() if name in known}  # in the file's order, every time
    entry = SINGLE_FILE_LOADABLE_CLASSES.get(class_name)
    if entry is None:
        raise BaseMismatch(f"diffusers maps no single file to a {class_name}", file=path, hint="Name a folder.")
    if class_name == "UNet2DConditionModel":
        inner = {f"{single_file_utils.LDM_UNET_KEY}{name}": tensor for name, tensor in inner.items()}
    try:
        converted: Mapping[str, Any] = entry["checkpoint_mapping_fn"](checkpoint=inner, config=config)
    except Exception as error:  # The converters raise whatever a missing name happens to cause.
        raise BaseMismatch(
            f"diffusers cannot map it to a {class_name}", file=path, found=f"{type(error).__name__}: {error}",
            hint="Is it the architecture of the base?",
        ) from error  # fmt: skip
    return converted


def _parameters(model: Modules) -> frozenset[str]:
    """Names of a model's parameters."""
    names: set[str] = set()
    for path, module in model.modules.items():
        names |= {path} if module.kind == "parameter" else {f"{path}.weight"}
        names |= {f"{path}.bias"} if module.bias else set()
    return frozenset(names)


def _text_encoders(
    path: Path, tensors: Mapping[str, Deferred], expected: Architecture | None, base: ModelOnDisk | None
) -> list[tuple[str, Modules, WeightTable]]:
    """Text encoders of a checkpoint that the base has, by component name.

    Raises:
        WrongPair: the base has text encoders, and none is of these sizes.
    """
    found: list[tuple[str, Modules, WeightTable]] = []
    places = {
        name: model for name, model in (expected.components if expected else {}).items()
        if COMPONENT.fullmatch(name) and name not in DENOISERS
    }  # fmt: skip
    for prefix, convert in _TEXT_ENCODERS:
        held = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if not held or not places:
            continue
        table = weights({name: value for name, value in convert(held, prefix).items() if not name.endswith(BUFFERS)})
        match = _place(table, places, {name for name, _, _ in found})
        if match is None:
            raise WrongPair(
                "holds a text encoder that is none of the base's", file=path, key=next(iter(held)),
                expected=", ".join(f"{name} {model.class_name}" for name, model in places.items()),
                found=_token_shape(table), hint="Name the base model it was tuned from.",
            )  # fmt: skip
        found.append(match)
    return found


def _place(
    table: WeightTable, places: Mapping[str, Modules], taken: set[str]
) -> tuple[str, Modules, WeightTable] | None:
    """The component whose modules a text encoder's are, but for those that one of the two may lack."""
    for name, model in places.items():
        named = {frozen_path(key, model.class_name): weight for key, weight in table.items()}
        optional = {f"{path}.weight" for path in OPTIONAL if path not in model.modules}
        kept = {key: weight for key, weight in named.items() if key not in optional}
        modules = modules_from_shapes({key: weight.shape for key, weight in kept.items()})
        expected = {p: m for p, m in model.modules.items() if p in modules or p not in OPTIONAL}
        if name not in taken and modules == expected:
            return name, Modules(model.class_name, modules), kept
    return None


def _token_shape(table: WeightTable) -> str:
    return next((f"{name} {list(w.shape)}" for name, w in table.items() if "embed" in name or "shared" in name), "")


def _vae(tensors: Mapping[str, Deferred], base: ModelOnDisk | None) -> WeightTable:
    """The autoencoder under diffusers' names; empty where the file has none or diffusers cannot map it."""
    held = {name: tensor for name, tensor in tensors.items() if name.startswith(_VAE)}
    entry = SINGLE_FILE_LOADABLE_CLASSES.get(
        (vae_class(base.folder) if base and base.folder else "") or "AutoencoderKL"
    )
    if not held or entry is None:
        return {}
    blocks = [None] * len({match[0] for name in held if (match := re.search(r"encoder\.down\.\d+", name))})
    config = {"down_block_types": blocks, "up_block_types": blocks}
    try:
        return weights(entry["checkpoint_mapping_fn"](checkpoint=dict(held), config=config))
    except Exception:  # A report is all that the autoencoder is for: what cannot be mapped is said to be left out.
        return {}
