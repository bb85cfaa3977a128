"""What the page shows and does, without the page: adapters on one pipeline, drawn and saved as they are mixed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from si_hub.adapter import Adapter
from si_hub.converters.numbers import as_float64
from si_hub.editing.mixing import MixPart, write_mix
from si_hub.errors import CannotRun, UsageError
from si_hub.foreign import make_safe
from si_hub.format import Written
from si_hub.pipelines import enable, registry, saving
from si_hub.training.base import base_folder, load_base
from si_hub.words import label, option
from si_hub.work.processes import choose_device

if TYPE_CHECKING:
    from PIL.Image import Image

    from si_hub.pipelines.report import LoadReport

#: Pictures of the base that are kept, so that moving a slider draws one picture and not two.
_KEPT = 16
#: Digits of a slider's first place.
_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Scene:
    """What is drawn.

    Attributes:
        prompt, seed: of the picture.
        steps: of sampling.
        guidance: scale of classifier-free guidance.
    """

    prompt: str
    seed: int = 0
    steps: int = 20
    guidance: float = 5.0


@dataclass(frozen=True, slots=True)
class Mix:
    """How strongly each adapter acts, and which of its styles.

    Attributes:
        weights: by adapter; 0 leaves it out.
        styles: by adapter, weights by branch; an adapter that is not named here keeps its own router.
    """

    weights: Mapping[str, float]
    styles: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Branches:
    """The named styles of one adapter.

    Attributes:
        start: each with the weight that its fixed router gives it, or equal shares where a router chooses by the input.
        is_fixed: whether every router is fixed.
    """

    start: Mapping[str, float]
    is_fixed: bool


class Studio:
    """Adapters on one base model.

    Attributes:
        folder: where the base lies.
        title: the base's name, without where it lies.
        reports: what each load did, by adapter.
        branches: of the adapters that have named styles.
    """

    def __init__(self, adapters: Sequence[str], base: str | Path | None = None, device: str | None = None) -> None:
        """Load a base and adapters for it.

        Args:
            adapters: files, folders or repositories, of StyleInject or any family that is converted.
            base: a diffusers folder or a cached repository; by default the one that the first adapter names.
            device: as of `si_hub.work.processes.choose_device`; half precision everywhere but on a CPU.

        Raises:
            UsageError: no adapter, or a base that nothing names.
            MissingFile, CannotRun: the base.
            SiHubError: as of ``load_styleinject_weights``.
        """
        import torch

        if not adapters:
            raise UsageError("no adapter is named", expected="files, folders or repositories")
        where = choose_device(device)
        said = base if base is not None else named_base(adapters[0])
        self.folder = base_folder(said, "drawn with")
        self.title = Path(said).resolve().name if Path(said).exists() else make_safe(said)
        self.reports: dict[str, LoadReport] = {}
        self._turn = threading.Lock()
        self._drawn: OrderedDict[Scene, Image] = OrderedDict()
        enable()
        self._pipe = load_base(self.folder, torch.float32 if where.type == "cpu" else torch.float16).to(where)
        for source in adapters:
            report = self._pipe.load_styleinject_weights(source, _free_name(source, self.reports))
            self.reports[report.adapter_name] = report
        self.branches = {name: found for name in self.reports if (found := self._find_branches(name)) is not None}

    @property
    def names(self) -> list[str]:
        """The adapters, as they were given."""
        return list(self.reports)

    @property
    def start(self) -> Mix:
        """Every adapter at weight 1, fixed routers as their files have them."""
        styles = {name: one.start for name, one in self.branches.items() if one.is_fixed}
        return Mix(dict.fromkeys(self.reports, 1.0), styles)

    def preview_prompt(self) -> str | None:
        """What the first adapter that says so is best seen with."""
        said = (self._source(name).about.get("preview_prompts") for name in self.names)
        return next((str(prompts[0]) for prompts in said if prompts), None)

    def report_text(self) -> str:
        """What each load matched, missed and left out."""
        return "\n".join(str(report) for report in self.reports.values())

    def draw(self, scene: Scene, mix: Mix) -> Image:
        """The picture with the adapters as they are mixed.

        Raises:
            UsageError: an unknown adapter or style, or a weight that is no finite number.
            CannotRun: the pipeline makes no pictures.
        """
        with self._turn:
            acting = {name: weight for name, weight in mix.weights.items() if weight}
            self._pipe.set_styleinject_adapters(list(acting), list(acting.values()) or None)
            for name in self.branches:
                self._pipe.set_styles(mix.styles.get(name), name)
            return self._run(scene)

    def draw_base(self, scene: Scene) -> Image:
        """The picture of the base alone, from equal noise; errors as of `draw`."""
        with self._turn:
            if scene not in self._drawn:
                self._pipe.disable_styleinject()
                try:
                    self._drawn[scene] = self._run(scene)
                finally:
                    self._pipe.enable_styleinject()
                while len(self._drawn) > _KEPT:
                    self._drawn.popitem(last=False)
            self._drawn.move_to_end(scene)
            return self._drawn[scene]

    def save(self, mix: Mix, file: Path) -> Written:
        """Write one adapter that does what this mix does; errors as of `write_mix`."""
        with self._turn:
            parts = [
                MixPart(name, self._read(name), weight, mix.styles.get(name)) for name, weight in mix.weights.items()
            ]
        return write_mix(parts, file, self.folder)

    def _run(self, scene: Scene) -> Image:
        import torch

        noise = torch.Generator("cpu").manual_seed(scene.seed)
        found = self._pipe(
            scene.prompt, num_inference_steps=scene.steps, guidance_scale=scene.guidance, generator=noise
        )  # fmt: skip
        if not hasattr(found, "images"):
            raise CannotRun("draws no pictures", file=self.folder, found=type(self._pipe).__name__)
        picture: Image = found.images[0]
        return picture

    def _read(self, name: str) -> Adapter:
        return saving.collect_adapter(self._pipe, name, None, None)

    def _source(self, name: str) -> Adapter:
        models = registry.models(self._pipe).values()
        return next(held[name] for model in models if name in (held := registry.sources(model)))

    def _find_branches(self, name: str) -> Branches | None:
        adapter = self._source(name)
        if not adapter.branches:
            return None
        layers = [one for component in adapter.components.values() for one in component.layers.values()]
        routed = [layer.tensors for layer in layers if layer.branches > 1]
        if not routed or any("router.weight" in tensors for tensors in routed):
            return Branches(dict.fromkeys(adapter.branches, round(1 / len(adapter.branches), _DIGITS)), not routed)
        logits = as_float64(routed[0]["router.bias"])
        powers = numpy.exp(logits - logits.max())
        shares = (float(share) for share in powers / powers.sum())
        return Branches({one: round(share, _DIGITS) for one, share in zip(adapter.branches, shares, strict=True)}, True)


def named_base(source: str) -> str:
    """The repository that a StyleInject file on this machine says it is for.

    Raises:
        UsageError: it says none, or is somebody else's format or elsewhere.
    """
    from si_hub.inspection import inspect

    hint = f"Say it: {option('base', 'FOLDER')}, or a repository of the local cache"
    if not Path(source).exists():
        raise UsageError("its base model is not known before it is fetched", file=source, key=label("base"), hint=hint)
    found = inspect(Path(source))
    document = {} if isinstance(found, list) else found.document
    repository = document.get("base_model", {}).get("repo_id")
    if not isinstance(repository, str):
        raise UsageError("names no repository of its base model", file=source, key=label("base"), hint=hint)
    return repository


def _free_name(source: str, taken: Mapping[str, Any]) -> str:
    """A file's name without its suffixes, or a repository's, which pipelines take: no dots, no slashes."""
    text = Path(source.partition("@")[0] if not Path(source).exists() else source).name
    for suffix in (".safetensors", ".styleinject"):
        text = text.removesuffix(suffix)
    plain = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in make_safe(text)) or "adapter"
    names: Callable[[int], str] = lambda number: plain if number == 1 else f"{plain}_{number}"  # noqa: E731
    return next(name for number in range(1, len(taken) + 2) if (name := names(number)) not in taken)
