"""``modelspec.*`` metadata (ModelSpec 1.0.1), derived from the document so that user interfaces show the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from si_hub.architectures.bases import BY_NAME

SPEC_VERSION = "1.0.1"

_PREDICTIONS = {"v_prediction": "v"}


def derive(document: Mapping[str, Any]) -> dict[str, str]:
    """The ``modelspec.*`` keys of a document: what it knows, no date, so that the same document gives the same text."""
    base = document["base_model"]
    name, prediction = base["architecture"], base.get("prediction_type")
    known = BY_NAME.get(name)
    fields = {
        "sai_model_spec": SPEC_VERSION,
        "architecture": f"{known.name_in_modelspec(prediction) if known else name}/styleinject",
        "implementation": "si-hub",
        "title": document.get("title") or f"StyleInject adapter for {name}",
        "author": document.get("author"),
        "license": document.get("license"),
        "tags": ", ".join(document.get("tags", [])),
        "trigger_phrase": ", ".join(document.get("trigger_words", [])),
        "prediction_type": _PREDICTIONS.get(prediction, prediction) if prediction else None,
        "hash_sha256": f"0x{document['tensors_sha256']}",
    }
    return {f"modelspec.{key}": value for key, value in fields.items() if value}
