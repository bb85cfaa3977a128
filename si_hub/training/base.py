"""The base model that is trained on: a diffusers folder, or a repository of the local cache, as a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from si_hub.architectures.folder import read_object
from si_hub.errors import CannotRun, MissingFile
from si_hub.hub.names import looks_like_ref, parse_ref
from si_hub.hub.pull.cache import Cache
from si_hub.training.quiet import load_quietly

_INDEX = "model_index.json"


def base_folder(base: str | Path, use: str = "trained on") -> Path:
    """Where a base's pipeline lies, which is to be ``use``.

    Raises:
        MissingFile: there is no such folder, nor such a repository in the local cache.
        CannotRun: no whole pipeline.
    """
    folder = Path(base)
    if not folder.exists() and looks_like_ref(str(base)):
        ref = parse_ref(str(base))
        cache = Cache(ref.repo_id)
        commit = cache.commit(ref)
        if commit is None:
            raise MissingFile(
                "no such folder, and no such repository in the local cache", file=str(base),
                hint=f"Fetch it first: hf download {ref.repo_id}",
            )  # fmt: skip
        folder = cache.path(commit)
    if not folder.exists():
        raise MissingFile("no such folder", file=str(base))
    if not (folder / _INDEX).is_file():
        raise CannotRun(
            f"is no whole pipeline, so it cannot be {use}", file=folder, expected=f"a folder with {_INDEX}",
            hint="A single file becomes one by from_single_file(...).save_pretrained(...) of its diffusers pipeline.",
        )  # fmt: skip
    return folder


def load_base(folder: Path, dtype: Any) -> Any:
    """The pipeline of a folder, on the CPU, frozen.

    Args:
        folder: from `base_folder`.
        dtype: torch's, of its weights.
    """
    from diffusers import DiffusionPipeline

    checker = {"safety_checker": None} if "safety_checker" in read_object(folder / _INDEX) else {}
    with load_quietly():
        pipeline = DiffusionPipeline.from_pretrained(
            str(folder), dtype=dtype, local_files_only=True, trust_remote_code=False, **checker
        )
    pipeline.set_progress_bar_config(disable=True)
    for component in pipeline.components.values():
        if hasattr(component, "requires_grad_"):
            component.requires_grad_(False).eval()
    return pipeline
