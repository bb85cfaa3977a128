"""A StyleInject reader of one page, with numpy alone: python read_styleinject.py FILE"""

import json
import sys
from typing import Any

import numpy as np

NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "|i1"}
LEAVES = "down.weight down.scale core.weight up.weight router.weight router.bias gain gain_in turn turn_in weight_delta"


def read(path: str) -> tuple[dict[str, Any], dict[tuple[str, str], Any]]:
    """The document, and per (component, module path) the arrays by leaf; a token's path is embedding.{token}."""
    with open(path, "rb") as file:
        header, data = json.loads(file.read(int.from_bytes(file.read(8), "little"))), file.read()
    document, layers = json.loads(header.pop("__metadata__")["styleinject"]), dict[tuple[str, str], Any]()
    if document["format_version"].split(".")[0] != "1" or {*document.get("requires", ())} - {"int8", "schedule"}:
        raise ValueError("the file needs a newer reader")
    for name, entry in header.items():
        raw = np.frombuffer(data[slice(*entry["data_offsets"])], NUMPY[entry["dtype"]])
        raw = (raw.astype("<u4") << 16).view("<f4") if entry["dtype"] == "BF16" else raw
        (component, *parts), words = name.split("."), 2 if name.endswith((".weight", ".bias", ".scale")) else 1
        token = component.startswith("text_encoder") and parts[0] == "embedding"
        module, leaf = ".".join(parts[: None if token else -words]), "embedding" if token else ".".join(parts[-words:])
        if leaf not in (*LEAVES.split(), "bias_delta", "kron", "param_delta", "alpha", "embedding"):
            raise ValueError(f"{name}: unknown leaf")
        layers.setdefault((component, module), {})[leaf] = raw.reshape(entry["shape"]).astype(np.float64)
    for held in (held for held in layers.values() if "down.scale" in held):
        held["down.weight"] = (held["down.weight"].T * held.pop("down.scale")).T.astype("<f4").astype(float)
    return document, layers


def matches(pattern: list[str], path: list[str]) -> bool:
    if not pattern or pattern[0] == "**":
        return any(matches(pattern[1:], path[i:]) for i in range(len(path) + 1)) if pattern else not path
    return bool(path) and pattern[0] in ("*", path[0]) and matches(pattern[1:], path[1:])


def weight_change(document: dict[str, Any], key: tuple[str, str], layer: dict[str, Any], styles: Any = None) -> Any:
    """What T = add adds to the base weight: with n branches their mean, or their sum weighted by ``styles``."""
    described, groups, change = document["components"][key[0]], 1, layer.get("weight_delta", np.zeros(()))
    for value, patterns in described.get("exceptions", {}).get("groups", {}).items():
        groups = int(value) if any(matches(p.split("."), key[1].split(".")) for p in patterns) else groups
    if "up.weight" in layer:
        down, up, rank = layer["down.weight"], layer["up.weight"], layer["up.weight"].shape[1] * groups
        down = np.einsum("rq...,qi...->ri...", layer.get("core.weight", np.eye(len(down))), down)
        branches = down.reshape(-1, groups, rank // groups, down[0].size)
        mixed = branches.mean(0) if styles is None else np.tensordot(styles, branches, 1)
        scale = layer.get("alpha", rank if described["alpha"] is None else described["alpha"]) / rank
        change = change + scale * (up.reshape(groups, -1, up.shape[1]) @ mixed).reshape(len(up), *down.shape[1:])
    blocks = [np.concatenate([factor * change for factor in row], axis=1) for row in layer.get("kron", [])]
    return np.concatenate(blocks) if blocks else change


if __name__ == "__main__":
    about, found = read(sys.argv[1])
    print(json.dumps(about, indent=2))
    for where, tensors in sorted(found.items()):
        print(*where, {leaf: a.shape for leaf, a in tensors.items()}, weight_change(about, where, tensors).shape)
