"""Base and tuned model as one pipeline that runs: its weights are either's, or anything between them.

At most one model is held in memory. What the denoiser is called with is recorded from the pipeline itself, so that
every pipeline whose text goes in as `si_hub.training.encoding.TEXT` says can be run, UNet or transformer.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from si_hub.distill.pair.change import Change, ModuleKey, not_finite
from si_hub.distill.pair.matching import Pair
from si_hub.distill.pair.model import ModelOnDisk
from si_hub.distill.running.assembling import load_pipeline
from si_hub.distill.running.blocks import Workplace, compute_by_blocks
from si_hub.distill.running.states import States
from si_hub.distill.running.stored import Read, StoredParameter, mixture
from si_hub.errors import BaseMismatch, CannotRun, SiHubError, UsageError
from si_hub.training.encoding import MASKS, POOLED, encode_prompts, text_lengths
from si_hub.tuner.injection import live_path
from si_hub.tuner.kinds import kind_of
from si_hub.words import option

#: Numbers of a denoiser from which on it is computed block by block, unless it is said otherwise: XL and larger.
LARGE_DENOISER = 10**9
#: Arguments of a denoiser that are the same for every sample.
SHARED = frozenset({"img_ids", "txt_ids", "img_shapes"})
#: The texts of a denoiser that takes lists, one entry a sample, each of its own length (Z-Image).
LISTED_TEXT = "cap_feats"


class Runner:
    """A pipeline of the base whose weights can be mixed with the tuned model's.

    Args:
        pair: base and tuned model.
        pipeline: one of the base's that is loaded already; otherwise it is loaded from the base's folder.
        device: to run on.
        dtype: of the weights that are held. A CPU computes in float32 all the same, block by block.
        options: keywords for every call of the pipeline, such as ``height`` and ``guidance_scale``.
        memory: ``all`` holds the model and what its layers keep; ``blocks`` computes block by block, as
            `si_hub.distill.running.blocks` has it; ``files`` besides leaves the blocks' weights where they are until
            their turn comes. ``auto`` does the first with denoisers that are not large, with others on a CPU the last.

    Attributes:
        dtype, computed: of the weights that are held, and of what is computed. A CPU that reads weights from their
            files computes with all their digits and holds none of them: both are float32 then.
        memory: what ``auto`` has become.
        blockwise: whether models are computed block by block.
        pipeline: the pipeline; adapters may be loaded into it while the weights are the base's.
        listed: whether the denoiser takes lists of samples, whose tokens its layers then see in one row.

    Raises:
        CannotRun: the base is no pipeline folder, or its pipeline works in a way that is not known here.
    """

    def __init__(
        self,
        pair: Pair,
        pipeline: Any = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        options: Mapping[str, Any] | None = None,
        memory: str = "auto",
    ) -> None:
        self.pair = pair
        place = Workplace(torch.device(device))
        memory = what_is_held(memory, pair.base, place.device)
        if memory == "files" and place.device.type == "cpu":
            dtype = torch.float32
        place = _place(place.device, dtype)
        self.dtype, self.computed = dtype, place.dtype or dtype
        self.pipeline = load_pipeline(pair.base, dtype, stored=memory == "files") if pipeline is None else pipeline
        self.memory = memory
        self.blockwise = memory != "all" or place.dtype is not None
        if self.blockwise:
            parts = self.pipeline.components.values()
            compute_by_blocks((part for part in parts if isinstance(part, nn.Module)), place)
        else:
            self.pipeline.to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.options = {**text_lengths(self.pipeline), **_true_guidance(self.pipeline, options or {})}
        self.denoiser: nn.Module = getattr(self.pipeline, pair.base.denoiser)
        self.listed = LISTED_TEXT in inspect.signature(self.denoiser.forward).parameters
        if not hasattr(self.pipeline, "encode_prompt"):
            raise CannotRun("the pipeline has no encode_prompt", file=pair.base.path,
                            found=type(self.pipeline).__name__, hint=f"Use {option('method', 'svd')}.")  # fmt: skip
        self._paths = {name: dict(model.named_modules()) for name, model in self._models().items()}
        for model in self._models().values():
            model.requires_grad_(False).eval()
        # What is no block's may have room for all digits now, which it was loaded without.
        self.share = math.nan if place.dtype else 0.0
        self.mix(0.0)

    def _models(self) -> dict[str, nn.Module]:
        return {name: getattr(self.pipeline, name) for name in self.pair.base.components}

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        return next(self.denoiser.parameters()).device

    @property
    def latent_numbers(self) -> int:
        """Numbers in the latents of one picture."""
        pipe, config = self.pipeline, self.denoiser.config
        side = getattr(config, "sample_size", None) or getattr(pipe, "default_sample_size", None) or 128
        height, width = (self.options.get(name, 0) // pipe.vae_scale_factor for name in ("height", "width"))
        channels = pipe.vae.config.get("latent_channels") or pipe.vae.config.z_dim
        return int((height or side) * (width or side) * channels)

    def modules(self, changes: Iterable[Change]) -> dict[ModuleKey, nn.Module]:
        """The live module of each change that adapters can reach; bare parameters have none."""
        found: dict[ModuleKey, nn.Module] = {}
        for change in changes:
            path = live_path(self._paths[change.component], change.module)
            if path is None or change.kind == "parameter":
                continue
            module = self._paths[change.component][path]
            with suppress(BaseMismatch):
                kind_of(module, change.module)
                found[change.key] = module
        return found

    @torch.no_grad()
    def mix(self, share: float) -> None:
        """Give the pipeline the base's weights (0), the tuned model's (1), or ``share`` of the way between.

        Raises:
            NotFinite: one of the two models has NaN or infinity; where weights stay in their files, when they are read.
        """
        if share == self.share:
            return
        # Until all is mixed, and where it never is, the weights are no model's.
        self.share = math.nan
        for change in self.pair.changes:
            for leaf, sides in (("weight", change.weight), ("bias", change.bias)):
                if sides:
                    parameter, read = self._parameter(change, leaf), mixture(*sides, share)
                    if isinstance(parameter, StoredParameter):
                        parameter.read = _checked_once(read, change)
                    else:
                        parameter.copy_(_finite(read(torch.device("cpu")), change))
        self.share = share

    def _parameter(self, change: Change, leaf: str) -> Tensor:
        paths = self._paths[change.component]
        owner, leaf = change.module.rpartition(".")[::2] if change.kind == "parameter" else (change.module, leaf)
        live = live_path(paths, owner)
        if live is None:
            raise CannotRun("the pipeline lacks a module of the base", file=self.pair.base.path,
                            key=change.name)  # fmt: skip
        parameter: Tensor = getattr(paths[live], leaf)
        return parameter

    def sample(self, **call: Any) -> Any:
        """The pipeline's own sampling, with the run's options.

        Raises:
            UsageError: a call that the pipeline refuses, such as a height that its latents do not divide.
        """
        alone = isinstance(call["prompt"], str)
        nothing = " " if alone else [" "] * len(call["prompt"])
        guided = {"negative_prompt": nothing} if _is_truly_guided(self.pipeline) else {}
        try:
            return self.pipeline(**{**guided, **call, **self.options})
        except SiHubError:
            raise
        except ValueError as error:
            raise UsageError(f"the pipeline refuses to be run like this: {error}", file=self.pair.base.path) from error

    def encode(self, prompts: Sequence[str | None]) -> dict[str, Tensor]:
        """The denoiser's text arguments, one row a prompt, as `si_hub.training.encoding.encode_prompts` has them.

        Raises:
            CannotRun: ``encode_prompt`` returns something that is not known here.
        """
        found = encode_prompts(self.pipeline, prompts, self.device, self.options.get("max_sequence_length"))
        if found is None:
            raise CannotRun("the pipeline's encode_prompt returns something unknown", file=self.pair.base.path,
                            found=type(self.pipeline).__name__, hint=f"Use {option('method', 'svd')}.")  # fmt: skip
        return found

    def __call__(self, states: States, scale: Tensor | None = None) -> Tensor:
        """The predicted noise in states, a `Predictor`; or the prediction times another ``scale [states]``."""
        text = self.encode(states.prompts)
        given: dict[str, Any] = {
            name: value.to(self.device) for name, value in {**states.inputs, **states.shared}.items()
        }
        names = inspect.signature(self.denoiser.forward).parameters
        for what, places in (("pooled", POOLED), ("mask", MASKS)):
            if (value := text.pop(what, None)) is not None:
                given[next((name for name in places if name in names), places[-1])] = value
        added = {name: given.pop(name) for name in list(given) if name not in names}
        if added:
            given["added_cond_kwargs"] = added
        given = {name: _cast(value, self.computed) for name, value in given.items()}
        if "img_shapes" in given:
            given["img_shapes"] = [[tuple(shape) for shape in given["img_shapes"].tolist()]] * len(states)
        if self.listed:
            given["x"] = list(given["x"].unbind())
            text = {LISTED_TEXT: text["encoder_hidden_states"]}
        found = self.denoiser(**given, **text, return_dict=False)[0]
        predicted: Tensor = torch.stack(found) if self.listed else found
        scale = states.scale if scale is None else scale
        return predicted.float() * scale.to(predicted.device).view(-1, *[1] * (predicted.ndim - 1))


def what_is_held(memory: str, base: ModelOnDisk, device: torch.device) -> str:
    """What ``auto`` becomes for a base on a device, as `Runner` has it; anything else is what it is."""
    if memory != "auto":
        return memory
    if sum(weight.count for weight in base.components[base.denoiser].values()) <= LARGE_DENOISER:
        return "all"
    return "files" if device.type == "cpu" else "blocks"


def _finite(values: Tensor, change: Change) -> Tensor:
    """The values of a change's weight or bias; NotFinite where they are not."""
    # float8 cannot be asked.
    if not (values if values.itemsize > 1 else values.float()).isfinite().all():
        raise not_finite(change.name)
    return values


def _checked_once(read: Read, change: Change) -> Read:
    """The same, looking at the values the first time."""
    looked = False

    def checked(device: torch.device) -> Tensor:
        nonlocal looked
        values = read(device)
        if not looked:
            _finite(values, change)
            looked = True
        return values

    return checked


def _is_truly_guided(pipeline: Any) -> bool:
    """Whether a pipeline is meant to be guided by a second call with a negative prompt, if it is given one."""
    given = inspect.signature(pipeline.__call__).parameters.get("true_cfg_scale")
    return given is not None and given.default > 1.0


def _true_guidance(pipeline: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """A call's options, the guidance's scale under the name by which the pipeline guides."""
    if not _is_truly_guided(pipeline):
        return dict(options)
    return {"true_cfg_scale" if name == "guidance_scale" else name: value for name, value in options.items()}


def _place(device: torch.device, held: torch.dtype) -> Workplace:
    """Where to compute what is held in a dtype: a CPU has no half precision, or a slow one, and does it in float32."""
    return Workplace(device, torch.float32 if device.type == "cpu" and held.itemsize < torch.float32.itemsize else None)


def dtype_of(precision: str) -> torch.dtype:
    """What a model of a precision is held in: one of `si_hub.distill.request.PRECISIONS`."""
    return {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]


def arithmetic_of(precision: str, device: torch.device) -> str:
    """accelerate's name of what a model of a precision is computed in on a device."""
    return "no" if _place(device, dtype_of(precision)).dtype else precision


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, dict):
        return {name: _cast(part, dtype) for name, part in value.items()}
    return value.to(dtype) if value.is_floating_point() and value.ndim > 1 else value
