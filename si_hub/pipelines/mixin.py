"""The methods that `si_hub.enable` gives to every diffusers pipeline, for those who prefer to inherit them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from si_hub.adapter import BaseModel
from si_hub.errors import UsageError
from si_hub.pipelines import fusing, loading, padding, registry, saving, sources, weights
from si_hub.pipelines import styles as branches
from si_hub.pipelines.cache import AdapterCache, AdapterSource
from si_hub.pipelines.converting import convert_for_pipeline
from si_hub.pipelines.hotswap import swap
from si_hub.pipelines.offload import in_turn
from si_hub.pipelines.report import LoadReport
from si_hub.pipelines.request import Ask, AskedWeight, StyleInjectRequest, StyleWeight, make_request
from si_hub.pipelines.running import changing, wait_until_free
from si_hub.storage.access import tell_access_errors
from si_hub.tokens import conceal

if TYPE_CHECKING:
    import torch

    from si_hub.format import Written

AdapterNames = str | Sequence[str]


class StyleInjectLoaderMixin:
    """StyleInject adapters for a ``DiffusionPipeline``: load, combine, weigh, mix styles, fuse, save, unload.

    The methods mirror those for LoRA, and leave those alone: ``set_adapters``, ``fuse_lora``, ``delete_adapters`` and
    ``unload_lora_weights`` concern LoRAs only. Adapters of both kinds act together. The components are the models
    among the pipeline's components; no LoRA support is needed.

    Unload before ``save_pretrained``: it writes a component with everything in it. What it writes with adapters loaded
    still loads as the base (as fused, where something is), with a warning about weights that were not used; after
    `bake_styleinject` it is the fused weights and nothing else. Adapters
    act in projections that ``fuse_qkv_projections`` fuses afterwards; none are loaded into fused ones.
    """

    @tell_access_errors()
    def load_styleinject_weights(
        self,
        pretrained_model_name_or_path_or_dict: AdapterSource,
        adapter_name: str | None = None,
        *,
        weight_name: str | None = None,
        subfolder: str | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
        local_files_only: bool | None = None,
        token: str | bool | None = None,
        metadata: Mapping[str, str] | None = None,
        convert: bool | str | os.PathLike[str] = True,
        hotswap: bool = False,
        low_cpu_mem_usage: bool = True,
        strict: bool = True,
        allow_components: Sequence[str] = (),
        weight: weights.AdapterWeight = None,
    ) -> LoadReport:
        """Load an adapter of any kind and make it the only active one; on any error the pipeline is as it was.

        A LoRA, LoCon, LoHa, LoKr, DoRA, OFT and what else `si_hub.convert` reads is converted in memory, exactly, with
        the pipeline itself as its base model. What is computed without the base's weights is kept beside the Hub's
        cache, see `si_hub.pipelines.converted`.

        Args:
            pretrained_model_name_or_path_or_dict: a file, a folder that holds one adapter, the id of a repository on
                the Hub or in its cache (``user/name``, ``user/name@revision``), an `Adapter`, or tensors by name as
                `styleinject_state_dict` returns them. Where there is a StyleInject file, it is taken.
            adapter_name: the name it gets, ``default_0``, ``default_1`` ... by default.
            weight_name: which file of a folder or repository.
            subfolder: where in it.
            revision: branch, tag or commit of a repository.
            cache_dir: another cache than huggingface_hub's.
            force_download: fetch again what is cached.
            local_files_only: never ask the Hub.
            token: for private and gated repositories.
            metadata: the header metadata that belongs to a plain table of tensors.
            convert: False refuses what is no StyleInject file. The name, folder or checkpoint of a base model says
                which one somebody else's adapter is for, where the pipeline does not tell, or its metadata say
                otherwise; what is a function of the base's weights takes a folder's, else the pipeline's. The report
                says what was converted.
            hotswap: replace the numbers of the loaded adapter ``adapter_name`` in place; a compiled model stays
                compiled. Weights stay as they are, and styles where the branches' names do. See
                `enable_styleinject_hotswap`.
            low_cpu_mem_usage: keep tensors of the right dtype memory-mapped; False copies them.
            strict: whether layers without a place in this pipeline are an error, and tensors of somebody else's
                adapter that are not converted.
            allow_components: components that the adapter may change besides denoisers, text encoders and what its base
                model lists; one for any other, a ``safety_checker`` or ``vae``, is an error without this.
            weight: as in `set_styleinject_adapters`, 1 by default; not with ``hotswap``.

        Returns:
            What matched, by component; ``print`` shows it.

        Raises:
            TypeError: an unknown keyword.
            MissingFile, FormatError, FileAccessError: the file.
            ChecksumError: a repository's file is not what was pushed.
            AuthError, GatedRepository, RateLimited, NetworkError: the Hub; where the cache has the revision it answers
                for a Hub that cannot be reached, with a `HubWarning`.
            ConversionRefused, UnsupportedFamily, UnknownFamily, AmbiguousFamily: what cannot be converted exactly.
            NotFinite: NaN or infinity in a tensor.
            BaseMismatch: nothing matched; with ``strict``, not everything did; a component out of an adapter's reach.
            UsageError: a name in use, several files to choose from, tokens that the tokenizer has already.
        """
        if hotswap and weight is not None:
            raise UsageError("hotswap keeps the weights", key="weight", hint="Then call set_styleinject_adapters()")
        token = conceal(token)
        fetch = sources.Fetch(
            weight_name, subfolder, revision, _path(cache_dir), force_download, local_files_only, token
        )
        found = sources.adapter_from(pretrained_model_name_or_path_or_dict, fetch, metadata, convert)
        add = swap if hotswap else loading.load_adapter
        with changing(self, [adapter_name] if hotswap and adapter_name is not None else ()):
            loaded = (
                convert_for_pipeline(self, found, convert, strict=strict)
                if isinstance(found, sources.FoundAdapter)
                else found
            )
            report = add(
                self, loaded.adapter, adapter_name, source=loaded.source, low_cpu_mem_usage=low_cpu_mem_usage,
                strict=strict, allowed=allow_components,
            )  # fmt: skip
            if not hotswap:
                try:
                    self.set_styleinject_adapters(report.adapter_name, weight)
                except BaseException:
                    loading.unload_adapters(self, [report.adapter_name])
                    raise
                self.enable_styleinject()
        return replace(report, notes=loaded.notes)

    @classmethod
    @tell_access_errors()
    def styleinject_state_dict(
        cls,
        pretrained_model_name_or_path_or_dict: str | os.PathLike[str] | Mapping[str, torch.Tensor],
        *,
        weight_name: str | None = None,
        subfolder: str | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
        local_files_only: bool | None = None,
        token: str | bool | None = None,
    ) -> sources.StateDict:
        """An adapter's tensors by their names in the file, its header metadata as ``.metadata``; no pipeline needed.

        Args and errors are those of `load_styleinject_weights`, which takes the result.
        """
        token = conceal(token)
        fetch = sources.Fetch(
            weight_name, subfolder, revision, _path(cache_dir), force_download, local_files_only, token
        )
        return sources.state_dict(pretrained_model_name_or_path_or_dict, fetch)

    @in_turn
    def unload_styleinject_weights(self) -> None:
        """Take all adapters out; every weight is the base's, bit for bit, every module the same object as before.

        Fused ones are unfused first, with a warning: `bake_styleinject` keeps their weights instead.
        """
        fusing.warn_of_unfusing(self, list(registry.by_name(self)))
        with changing(self):
            loading.unload_adapters(self, list(registry.by_name(self)))

    @in_turn
    def delete_styleinject_adapters(self, adapter_names: AdapterNames) -> None:
        """Take the named adapters out; fused ones are unfused first, with a warning.

        Raises:
            UsageError: an unknown name; nothing is deleted then.
        """
        names = registry.list_names(adapter_names, self)
        fusing.warn_of_unfusing(self, names)
        with changing(self, names):
            loading.unload_adapters(self, names)

    @tell_access_errors()
    def save_styleinject_weights(
        self,
        save_directory: str | os.PathLike[str],
        adapter_name: str | None = None,
        *,
        weight_name: str = "styleinject.safetensors",
        components: Sequence[str] | None = None,
        base_model: BaseModel | str | os.PathLike[str] | None = None,
        overwrite: bool = False,
    ) -> Written:
        """Save one adapter; what is still as it was loaded is saved in the bytes it came in.

        Args:
            save_directory: a folder, created where it does not exist.
            adapter_name: which; not needed where only one is loaded.
            weight_name: the file's name, which ends in ``.safetensors``.
            components: which of its components, all by default.
            base_model: what it is for, where it was not loaded from a file: a name such as ``sdxl``, a class name, a
                repository's id, or the folder or file of the base. No path enters the file.
            overwrite: replace an existing file.

        Raises:
            UsageError: which adapter, which component, or for which base is not clear; another file name.
            FileAccessError: a file in the way.
        """
        name = saving.only_name(self, adapter_name)
        with changing(self, ()):
            adapter = saving.collect_adapter(self, name, components, base_model)
        return saving.write_adapter(adapter, Path(save_directory), weight_name, overwrite)

    @in_turn
    def set_styleinject_adapters(
        self, adapter_names: AdapterNames, adapter_weights: weights.AdapterWeight = None
    ) -> None:
        """Choose which adapters act, and how strongly; all others are inactive.

        Args:
            adapter_names: one or several; an empty list deactivates all.
            adapter_weights: one for all or a list with one per name. Each is a number; or a table by component
                (``{"unet": 0.7, "text_encoder": 0.2}``); a component's entry may be a table by UNet block
                (``{"unet": {"down": 0.5, "mid": 1.0, "up": {"block_0": [0.2, 0.4, 0.6]}}}``) or module path
                (``{"unet": {"time_embedding": 0.0}}``). What is left out has weight 1.

        Raises:
            UsageError: an unknown name, component, block or module; nothing is changed then.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        models = registry.models(self)
        shared = weights.share_out(names, adapter_weights, registry.owners_in(models), models)
        loading.activate(
            models,
            {
                component: {n: weights.per_module(models[component], w, component) for n, w in mine.items()}
                for component, mine in shared.items()
            },
        )

    @in_turn
    def get_list_styleinject_adapters(self) -> dict[str, list[str]]:
        """Names of the loaded adapters, by component."""
        return registry.by_component(self)

    @in_turn
    def get_active_styleinject_adapters(self) -> list[str]:
        """Names of the active adapters."""
        return registry.active_names(self)

    @in_turn
    def enable_styleinject(self) -> None:
        """Let the active adapters act again."""
        registry.switch_adapters(self, True)

    @in_turn
    def disable_styleinject(self) -> None:
        """Switch all adapters off, fused ones excepted; which are active, and their weights, is kept.

        Loading an adapter switches them on again.
        """
        registry.switch_adapters(self, False)

    @in_turn
    def set_styleinject_device(self, adapter_names: AdapterNames, device: torch.device | str | int) -> None:
        """Move adapters to a device, to make room; they have to be back beside the base to act.

        Raises:
            UsageError: an unknown name.
        """
        names = registry.list_names(adapter_names, self)
        wait_until_free(self, names)
        registry.move_adapters(self, names, device)

    @in_turn
    def set_styles(self, styles: Mapping[str, float] | None, adapter_names: AdapterNames | None = None) -> None:
        """Mix the branches by name, in every layer, in place of the router: ``set_styles({"ink": 0.7, "neon": 0.3})``.

        Args:
            styles: weights used as given; branches left out get 0. ``None`` gives the choice back to the router.
            adapter_names: which adapters, by default all that have a branch of these names.

        Raises:
            UsageError: an unknown style or adapter.
        """
        branches.mix_styles(self, styles, None if adapter_names is None else registry.list_names(adapter_names, self))

    def styleinject(
        self,
        adapters: Ask = None,
        *,
        weight: AskedWeight = None,
        styles: Mapping[str, StyleWeight] | None = None,
        rows: Sequence[Ask] | None = None,
    ) -> StyleInjectRequest:
        """A request: what acts in the calls of one with-block, in this thread or task alone.

        ``with pipe.styleinject("ink", weight=0.7): pipe(...)``, or in one line ``pipe.styleinject("ink")(prompt)``.
        Inside, exactly what is named acts; what others set, load or ask meanwhile does not. Deleting, swapping or
        moving an adapter waits until no request uses it, fusing until there is none.

        Args:
            adapters: a name; an `Act`; a table of weights by name; a list of names and acts. By default the adapters
                that are active when the block begins, as they are then.
            weight: of the one adapter that is named, as in `set_styleinject_adapters`; or by step: a list with one
                number per step, a `WeightCurve`, a function of an `Instant`.
            styles: weights of branches, as in `set_styles` or by step, of all adapters here that have them. By default
                what `set_styles` chose, or the router.
            rows: in place of the others, what acts in each picture of one batch: one entry for every picture that a
                call returns, ``None`` where nothing does.

        Raises:
            UsageError: arguments that exclude each other. When the block begins: an adapter, style, component or block
                that is not there; a fused adapter; a compiled model, which cannot tell requests apart. While it
                draws: rows that are not the batch's, or that differ where a model does not keep pictures apart.
        """
        return make_request(self, adapters, weight, styles, rows)

    def enable_styleinject_cache(
        self, max_bytes: int, adapters: Mapping[str, AdapterSource] | None = None
    ) -> AdapterCache:
        """Let requests load adapters by naming them, within a number of bytes; see `AdapterCache`.

        Args:
            max_bytes: what these adapters may take together; those not asked for the longest are unloaded.
            adapters: what to load for each name, as ``load_styleinject_weights`` takes it; nothing is read yet.

        Raises:
            UsageError: the models have a cache already, no byte is allowed, or a name is in use.
        """
        cache = AdapterCache(self, max_bytes)
        try:
            for name, source in (adapters or {}).items():
                cache.add(name, source)
        except BaseException:
            cache.close()
            raise
        return cache

    @in_turn
    def fuse_styleinject(
        self,
        components: Sequence[str] | None = None,
        scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: AdapterNames | None = None,
        *,
        lora_scale: float | None = None,
    ) -> None:
        """Compute the base weights with adapters in them: exact, or refused.

        Args:
            components: where, by default everywhere.
            scale: factor on top of the adapters' weights.
            safe_fusing: check for NaN and infinity before any weight is changed.
            adapter_names: which, by default the active ones.
            lora_scale: diffusers' name of ``scale``, with a warning that says so.

        Raises:
            ConversionRefused: T is not ``add``, or a router chooses per input; the error says the way out.
            UsageError: an unknown component or name, or one that is fused already.
        """
        names = None if adapter_names is None else registry.list_names(adapter_names, self)
        with changing(self):
            fusing.fuse_adapters(self, components, fusing.pick_scale(scale, lora_scale), safe_fusing, names)

    @in_turn
    def bake_styleinject(
        self,
        components: Sequence[str] | None = None,
        scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: AdapterNames | None = None,
        *,
        lora_scale: float | None = None,
    ) -> None:
        """Keep fused weights for good: the adapters are gone, and ``save_pretrained`` writes the weights as they are.

        Args:
            components: where, by default everywhere.
            scale: factor for adapters that are not fused yet, which are fused now.
            safe_fusing: check for NaN and infinity before any weight is changed.
            adapter_names: which, by default the fused ones or, where none is, the active ones.
            lora_scale: diffusers' name of ``scale``, with a warning that says so.

        Raises:
            ConversionRefused: as for `fuse_styleinject`.
            UsageError: an unknown component or name, or other adapters that are fused into the same modules.
        """
        names = None if adapter_names is None else registry.list_names(adapter_names, self)
        with changing(self):
            fusing.bake_adapters(self, components, fusing.pick_scale(scale, lora_scale), safe_fusing, names)

    @in_turn
    def unfuse_styleinject(self, components: Sequence[str] | None = None) -> None:
        """Put the base weights back, bit for bit, whatever was called since; the adapters act on their own again."""
        with changing(self):
            fusing.unfuse_adapters(self, components)

    @property
    def num_fused_styleinject(self) -> int:
        """How many adapters are fused."""
        return len(fusing.list_fused(self))

    @property
    def fused_styleinject(self) -> list[str]:
        """Names of the fused adapters."""
        return fusing.list_fused(self)

    @in_turn
    def enable_styleinject_hotswap(self, target_rank: int = 128, targets: Sequence[str] = ()) -> None:
        """Pad adapters loaded from now on to one rank, so that ``hotswap=True`` can follow with any other.

        Args:
            target_rank: the highest rank among all adapters to come. All of them take the memory of this rank then,
                however small their files are; one that would have more numbers than the model itself is refused.
            targets: ends of the paths of modules, such as ``to_q``, that adapters to come may have: where one that is
                loaded has none, in a component that it has, it takes the memory of a layer of zeros.

        Raises:
            UsageError: adapters are loaded already, or a target that no model has.
        """
        padding.enable_padding(self, target_rank, targets)


def _path(path: str | os.PathLike[str] | None) -> Path | None:
    return None if path is None else Path(path)
