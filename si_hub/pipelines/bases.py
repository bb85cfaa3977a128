"""What a user says of the base model, as what a file may say of it: an architecture and a repository, never a path."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from si_hub import architectures
from si_hub.adapter import BaseModel
from si_hub.architectures.bases import find_base
from si_hub.architectures.known import under_known_name
from si_hub.architectures.shipped import list_usual
from si_hub.errors import SiHubError, UsageError
from si_hub.hub import names
from si_hub.hub.pull.cache import Cache
from si_hub.storage.paths import expand_home, names_a_place

#: Where huggingface_hub's cache keeps one commit of a repository.
_SNAPSHOT = re.compile(r"models--([^/]+)/snapshots/([0-9a-f]{40})$")
#: What says of a folder that it is a pipeline, or one model of one.
_PIPELINE_FILE, _CONFIG_FILE = "model_index.json", "config.json"
#: A class of diffusers or transformers, such as ``FluxPipeline`` or ``UNet2DConditionModel``.
_CLASS = re.compile(r"[A-Z][A-Za-z0-9]*(?:Pipeline|Model)")
_KEY = "base_model"
_EXPECTED = "a base model's name, a class name, user/name or a folder"


def name_base(told: BaseModel | str | os.PathLike[str], pipeline: Any) -> BaseModel:
    """The base model that a user names by a shipped name, a class name, a repository's id, or a folder or file.

    A folder gives its architecture, and its repository only where it is a commit of one in the cache.

    Args:
        told: what the user says; a `BaseModel` stays as it is.
        pipeline: says by its class what cannot be read.

    Raises:
        UsageError: a path of nothing, a folder without a model, a name that is mistyped or no base model's.
    """
    if isinstance(told, BaseModel):
        return told
    text = os.fspath(told)
    path = expand_home(text)
    if not text.strip():
        raise UsageError("the base model's name is empty", key=_KEY, expected=_EXPECTED, hint=list_usual())
    if path.exists():
        return _of_path(path, pipeline)
    if known := find_base(text):
        return BaseModel(known.name)
    if names.looks_like_ref(text):
        ref = names.parse_ref(text)
        cache = Cache(ref.repo_id)
        commit = cache.commit(ref)
        folder = cache.path(commit) if commit else None
        return BaseModel(_architecture(folder, pipeline), ref.repo_id, ref.revision)
    if names_a_place(text) or "/" in text:
        raise UsageError(
            "is neither a base model's name nor a folder that is there", key=_KEY, found=text, expected=_EXPECTED,
            hint=list_usual(),
        )  # fmt: skip
    if _CLASS.fullmatch(text) or text in _class_names(pipeline):
        return BaseModel(text)
    return BaseModel(_load_name(text))


def _class_names(pipeline: Any) -> set[str]:
    """The classes of a pipeline and of its components."""
    components = getattr(pipeline, "components", {})
    return {type(pipeline).__name__, *(type(component).__name__ for component in components.values())}


def _load_name(text: str) -> str:
    """
    Raises:
        UsageError: no base model's name: the nearest, or the several that it may mean.
    """
    try:
        return architectures.load(text).name
    except UsageError as error:
        own = f"Another model's architecture is said by its class, or by BaseModel({text!r})."
        raise UsageError(
            error.problem, key=_KEY, expected=error.expected, hint=f"{error.hint} {own}"
        ) from error  # fmt: skip


def _of_path(path: Path, pipeline: Any) -> BaseModel:
    snapshot = _SNAPSHOT.search(path.resolve().as_posix())
    repo_id = snapshot[1].replace("--", "/") if snapshot else ""
    if snapshot and names.looks_like_ref(repo_id):
        return BaseModel(_architecture(path, pipeline), repo_id, snapshot[2])
    if path.is_dir() and not any((path / name).is_file() for name in (_PIPELINE_FILE, _CONFIG_FILE)):
        raise UsageError(
            "the folder holds no model", key=_KEY, found=str(path), expected=f"a {_PIPELINE_FILE} or {_CONFIG_FILE}",
            hint=list_usual(),
        )  # fmt: skip
    return BaseModel(_architecture(path, pipeline))


def _architecture(path: Path | None, pipeline: Any) -> str:
    """The name of what lies at a path; where that cannot be read, the pipeline's class."""
    if path is not None and path.exists():
        try:
            return under_known_name(architectures.resolve(path)).name
        except SiHubError:
            pass
    return type(pipeline).__name__
