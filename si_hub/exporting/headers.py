"""What the header of an exported file says, so that other programs show it rightly.

Keys: kohya's ``ss_…`` that A1111, Forge and SD.Next read, ModelSpec 1.0.1, and ``lora_adapter_metadata`` of diffusers.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from si_hub.adapter import Adapter, Layer
from si_hub.architectures.bases import BY_NAME, find_named
from si_hub.converters.source import METADATA_CONFIG
from si_hub.format.modelspec import SPEC_VERSION
from si_hub.storage.write import Digests

_PREDICTIONS = {"v_prediction": "v"}


def describe_file(adapter: Adapter, layers: list[Layer]) -> Callable[[Digests], dict[str, str]]:
    """Metadata of a file for kohya's, A1111's and ComfyUI's users, given the hash of its data.

    The source's own keys stay, where they are still true.
    """
    about, base = adapter.about, adapter.base_model
    known = BY_NAME.get(base.architecture)
    version = _kohya_name(base.architecture, base.prediction_type)
    spec = known.name_in_modelspec(base.prediction_type) if known else base.architecture
    kinds = {leaf for layer in layers for leaf in layer.tensors}
    plain = kinds <= {"down.weight", "up.weight"}
    said = {
        "ss_network_module": "networks.lora" if plain else "lycoris.kohya",
        "ss_network_dim": _only([layer.rank for layer in layers if layer.rank]),
        "ss_network_alpha": _only([layer.scale * layer.rank for layer in layers if layer.rank]),
        "ss_network_args": None if plain else json.dumps({"algo": _algo_of(kinds)}),
        "ss_v2": str(bool(known and known.is_v2)),
        "ss_base_model_version": version,
        "ss_output_name": about.get("title"),
        "modelspec.sai_model_spec": SPEC_VERSION,
        "modelspec.architecture": f"{spec}/lora",
        "modelspec.implementation": (known and known.implementation) or "https://github.com/huggingface/diffusers",
        "modelspec.title": about.get("title") or f"Adapter for {known.title if known else base.architecture}",
        "modelspec.author": about.get("author"),
        "modelspec.license": about.get("license"),
        "modelspec.tags": ", ".join(about.get("tags", ())),
        "modelspec.trigger_phrase": ", ".join(about.get("trigger_words", ())),
        "modelspec.prediction_type": _PREDICTIONS.get(base.prediction_type or "", base.prediction_type),
    }
    fixed = {**adapter.metadata, **{key: text for key, text in said.items() if text}, "format": "pt"}

    def with_hashes(digests: Digests) -> dict[str, str]:
        # kohya hashes the data as the safetensors library orders them: so they are written.
        return {**fixed, "modelspec.hash_sha256": f"0x{digests.tensors}", "sshs_model_hash": digests.tensors}

    return with_hashes


def _algo_of(leaves: set[str]) -> str:
    """LyCORIS's name of a kind of adapter that has these leaves, the rarest of several."""
    kinds = {"kron": "lokr", "turn": "diag-oft", "gain": "ia3", "gain_in": "ia3", "up.weight": "locon"}
    return next((name for leaf, name in kinds.items() if leaf in leaves), "full")


def _kohya_name(architecture: str, prediction_type: str | None) -> str:
    """What kohya's trainer calls a base model: a text by which readers find it again."""
    known = BY_NAME.get(architecture)
    if known is None:
        return architecture
    usual = (known.kohya_v if prediction_type == "v_prediction" else "") or known.kohya
    # Its own name says it, or what metadata of it begin with.
    said = (architecture, *(hint for hint in known.hints if not hint.endswith("$")))
    return usual or next((text for text in said if known in find_named(text)), architecture)


def _only(values: list[float]) -> str | None:
    """The one value of all modules as text, ``Dynamic`` where they differ; none where there is no module."""
    found = {f"{value:g}" for value in values}
    return "Dynamic" if len(found) > 1 else next(iter(found), None)


def configure_folder(
    adapter: Adapter, layers: Mapping[str, Layer], whole: Mapping[str, bool] | None = None
) -> dict[str, Any]:
    """``adapter_config.json`` of a component's folder."""
    return {
        "peft_type": "LORA", "task_type": None, "inference_mode": True,
        "base_model_name_or_path": adapter.base_model.repo_id, **peft_config(layers, whole),
    }  # fmt: skip


def peft_config(layers: Mapping[str, Layer], whole: Mapping[str, bool] | None = None) -> dict[str, Any]:
    """What PEFT's LoraConfig has to say of pairs: the commonest rank and alpha, and patterns for the others.

    Modules are named by the ends of their paths, which are the same whether CLIP models have ``text_model.`` or not.

    Args:
        whole: settings that are of all pairs or of none: ``lora_bias``, ``use_dora``.
    """
    layers = {path.removeprefix("text_model."): layer for path, layer in layers.items()}
    ranks = Counter(layer.rank for layer in layers.values())
    alphas = Counter(_alpha(layer) for layer in layers.values())
    rank, alpha = ranks.most_common(1)[0][0], alphas.most_common(1)[0][0]
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {path: layer.rank for path, layer in layers.items() if layer.rank != rank},
        "alpha_pattern": {path: _alpha(layer) for path, layer in layers.items() if _alpha(layer) != alpha},
        "target_modules": sorted(layers),
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "lora_bias": False,
        **(whole or {}),
    }


def _alpha(layer: Layer) -> float | int:
    alpha = layer.scale * layer.rank
    return int(alpha) if float(alpha).is_integer() else alpha


def diffusers_metadata(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """``lora_adapter_metadata`` of diffusers: PEFT's configuration of each component, in one table."""
    table = {f"{name}.{key}": value for name, config in configs.items() for key, value in config.items()}
    return {METADATA_CONFIG: json.dumps(table, sort_keys=True)}
