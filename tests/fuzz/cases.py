"""The files that are mutated, in parts that can be changed one by one: tensors, metadata, document, configuration."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy

from si_hub.architectures import load

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "1.0"
#: dtype, shape, bytes
Entry = tuple[str, list[int], bytes]


@dataclass(slots=True)
class Case:
    """A file before it is bytes.

    Attributes:
        kind: ``styleinject``, ``kohya``, ``peft`` or ``document``.
        tensors: by name, in the order of their data.
        document: of a StyleInject file; its hash is set when it is written.
        config: of an adapter_config.json beside it.
        keep_hash: whether the document's hash is left as it is.
    """

    kind: str
    tensors: dict[str, Entry]
    metadata: dict[str, str] = field(default_factory=dict)
    document: Any = None
    config: Any = None
    keep_hash: bool = False


def read_case(path: Path, kind: str) -> Case:
    """A file of ours in parts."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    metadata = header.pop("__metadata__")
    tensors = {
        name: (entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])]) for name, entry in header.items()
    }
    return Case(kind, tensors, metadata, json.loads(metadata.pop("styleinject")))


def lay_out(case: Case) -> tuple[dict[str, Any], bytes]:
    """The header's table and the data of a case."""
    data = b"".join(held for _, _, held in case.tensors.values())
    metadata: dict[str, Any] = dict(case.metadata)
    if case.document is not None:
        if isinstance(case.document, dict) and not case.keep_hash and "tensors_sha256" in case.document:
            case.document["tensors_sha256"] = hashlib.sha256(data).hexdigest()
        metadata["styleinject"] = json.dumps(case.document, separators=(",", ":"))
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for name, (dtype, shape, held) in case.tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(held)]}
        at += len(held)
    return header, data


def join_bytes(header: bytes, data: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def _numbers(shape: tuple[int, ...], dtype: str = "F16") -> Entry:
    values = numpy.linspace(-1, 1, int(numpy.prod(shape))).astype({"F16": "<f2", "F32": "<f4"}[dtype])
    return dtype, list(shape), values.tobytes()


def _pairs(stems: dict[str, str], down: str, up: str) -> dict[str, Entry]:
    """Low-rank pairs for modules of the UNet or text encoder of SD 1.5, by what their names are in the file."""
    tensors: dict[str, Entry] = {}
    components = load("sd15").components
    for stem, place in stems.items():
        component, _, path = place.partition(":")
        out, into, *kernel = components[component].modules[path].shape
        tensors[stem + down] = _numbers((2, into, *kernel))
        tensors[stem + up] = _numbers((out, 2, *(1 for _ in kernel)))
    return tensors


def make_seeds() -> list[Case]:
    """What is mutated: the golden files, and one adapter of each foreign form."""
    golden = sorted(GOLDEN.glob("*.safetensors"))
    seeds = [read_case(path, "styleinject") for path in golden]
    # What their documents say is changed more often than their many tensors.
    seeds += [read_case(path, "document") for path in golden if "branch" not in path.name]
    q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    k = "text_model.encoder.layers.0.self_attn.k_proj"
    conv = "down_blocks.0.resnets.0.conv1"
    native = {
        "lora_unet_" + q.replace(".", "_"): f"unet:{q}",
        "lora_te_" + k.replace(".", "_"): f"text_encoder:{k}",
    }
    kohya = _pairs(native, ".lora_down.weight", ".lora_up.weight")
    for stem in native:
        kohya[f"{stem}.alpha"] = _numbers((), "F32")
    said = {
        "ss_network_module": "networks.lora", "ss_network_dim": "2", "ss_network_alpha": "1", "ss_sd_model_name": "a",
        "ss_tag_frequency": '{"10_a": {"b": 3}}', "ss_base_model_version": "sd_v1",
    }  # fmt: skip
    seeds.append(Case("kohya", kohya, said))
    convolved = _pairs({"lora_unet_" + conv.replace(".", "_"): f"unet:{conv}"}, ".lora_down.weight", ".lora_up.weight")
    seeds.append(Case("kohya", convolved))
    config = {
        "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["to_q"], "rank_pattern": {"to_k": 3},
        "alpha_pattern": {".*attn2.*": 8}, "use_rslora": False, "use_dora": False, "bias": "none",
        "modules_to_save": None, "exclude_modules": None, "layers_to_transform": None, "init_lora_weights": True,
        "fan_in_fan_out": False, "base_model_name_or_path": "a/b", "lora_dropout": 0.0, "task_type": None,
    }  # fmt: skip
    ends = (".lora_A.weight", ".lora_B.weight")
    seeds.append(Case("peft", _pairs({f"base_model.model.{q}": f"unet:{q}"}, *ends), config=config))
    text = json.dumps({f"unet.{name}": value for name, value in config.items()})
    seeds.append(Case("peft", _pairs({f"unet.{q}": f"unet:{q}"}, *ends), {"lora_adapter_metadata": text}))
    return seeds
