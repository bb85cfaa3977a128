"""StyleInject as a PEFT tuner: ``get_peft_model``, ``PeftModel`` save and load, ``add_adapter`` of diffusers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial, wraps
from typing import Any

import torch
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import (
    BaseTuner,
    BaseTunerLayer,
    _check_adapters_not_merged,
    _delete_auxiliary_adapter,
    check_adapters_to_merge,
    check_target_module_exists,
)
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, register_peft_method, save_and_load
from peft.utils.other import AuxiliaryTrainingWrapper, get_pattern_key
from torch import Tensor, nn

from si_hub.errors import BaseMismatch, UsageError
from si_hub.expressions import PatternTable, read_expression, read_patterns
from si_hub.tuner.config import TUNER_NAME, StyleInjectConfig, extend_peft_type
from si_hub.tuner.door import Door, close_door, find_door, logical, open_door
from si_hub.tuner.fusion import fuse_into_base, unfuse_from_base
from si_hub.tuner.injection import check_name
from si_hub.tuner.kinds import FLOAT8, Kind, bias_shape, channels, kind_of, weight_shape, working_device, working_dtype
from si_hub.tuner.layer import CHILD, FixedRouter, GuestLayer, LayerAdapter, Value, hide_guests
from si_hub.tuner.leaves import cored_pair, pair, router
from si_hub.tuner.ledger import Record

_OURS = f".{CHILD}."
_PATTERNS = ("rank_pattern", "alpha_pattern")
#: Settings that choose modules, by names or by an expression.
_MATCHED = ("target_modules", "exclude_modules", "gain_modules")
#: Where a configuration's patterns are while PEFT does not see them.
_KEPT = "_patterns_put_away"


class StyleInjectModel(BaseTuner):
    """The tuner: adapters beside the modules that ``target_modules`` names, steered through the model's door."""

    prefix = TUNER_NAME + "_"
    tuner_layer_cls = Door
    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    # Adding an adapter.

    def _prepare_adapter_config(self, peft_config: Any, model_config: Any) -> Any:
        if peft_config.target_modules is None and model_config["model_type"] not in self.target_module_mapping:
            raise UsageError(
                "no modules to adapt", key="target_modules",
                hint="Please specify `target_modules` in StyleInjectConfig; [] beside `gain_modules` for gains alone",
            )  # fmt: skip
        return super()._prepare_adapter_config(peft_config, model_config)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """PEFT's own, undone when it raises: a failed adapter must not stand in the way of the next one.

        An adapter that PEFT knows by that name is replaced: PEFT has warned by then. The others stay trainable or not,
        as they are.
        """
        door = find_door(model)
        replaced = adapter_name in _peft_names(door)
        put_back = _take_out(door, adapter_name) if door is not None and replaced else None
        others = [] if door is None else [value for _, layer in door.layers() for value in layer.parameters()]
        trainable = [(value, value.requires_grad) for value in others]
        taken = door is not None and adapter_name in door.records
        try:
            check_name(model, adapter_name)
            with _put_patterns_away(self.peft_config[adapter_name]):
                super().inject_adapter(model, adapter_name, *args, **kwargs)
            for parameter, requires_grad in trainable:
                parameter.requires_grad_(requires_grad)
        except BaseException:
            door = find_door(model)
            if not replaced:
                self.peft_config.pop(adapter_name, None)
            if door is not None and not taken:
                door.drop(adapter_name)
                if put_back is not None:
                    put_back()
                close_door(model)
            # diffusers looks for it once the first add_adapter was tried, whether that worked or not.
            if getattr(model, "_hf_peft_config_loaded", False):
                model.peft_config = self.peft_config
            raise

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        if kwargs.get("adapter_names") is not None:
            raise UsageError(
                "one adapter per instance of a batch is not done here",
                key="adapter_names",
                hint="set_adapter() chooses for the whole batch; branches of one adapter are mixed per instance",
            )
        yield

    @staticmethod
    def _check_target_module_exists(peft_config: Any, key: str) -> Any:
        if any(part.startswith(StyleInjectModel.prefix) for part in key.split(".")):
            return False
        plain = _without_expressions(peft_config, key)
        matched = check_target_module_exists(plain, key)
        return matched if matched or plain.gain_modules is None else _matches_gain(plain, key)

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        base: nn.Module = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        path = logical(current_key)
        door = open_door(self.model)
        # PEFT makes layers without memory by having torch's modules register theirs on the meta device.
        empty = nn.Linear(1, 1).weight.device.type == "meta"
        plain = _without_expressions(peft_config, current_key)
        scaled = plain.gain_modules is not None and bool(_matches_gain(plain, current_key))
        # What a state dict names is paired, whatever the configuration matches.
        paired = not scaled or bool(check_target_module_exists(plain, current_key))
        adapter = fresh(peft_config, path, base, self.model, empty=empty, paired=paired, scaled=scaled)
        if target_name == "base_layer":
            parent = self.model.get_submodule(current_key.rpartition(".")[0].rpartition(".")[0])
        layer = door.layer_at(path, base, parent=parent)
        adapter.train(layer.training)
        layer.adapters[adapter_name] = adapter
        branches = tuple(peft_config.branches or ())
        door.records.setdefault(adapter_name, Record(managed=False, branches=branches, trainable=True))

    def _mark_only_adapters_as_trainable(self, model: nn.Module) -> None:
        super()._mark_only_adapters_as_trainable(model)
        door = _door(model)
        for name in door.peft_names():
            config = self.peft_config.get(name)
            trainable = name in self.active_adapters and config is not None and not config.inference_mode
            door.set_requires_grad(name, trainable)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        if autocast_adapter_dtype:
            for _, layer in _door(self.model).layers():
                if adapter_name in layer.adapters:
                    _widen(layer.adapters[adapter_name])

    # Steering and removing.

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete one adapter of ours; a merged one has to be unmerged first.

        Raises:
            UsageError: for an unknown name.
        """
        door = _door(self.model)
        if adapter_name not in self.peft_config or adapter_name not in door.peft_names():
            raise UsageError("no adapter of that name", key=adapter_name, found=sorted(door.peft_names()))
        _check_adapters_not_merged(self.model, adapter_name)
        del self.peft_config[adapter_name]
        door.drop(adapter_name)
        left = [name for name in self.active_adapters if name != adapter_name]
        self.active_adapter = left or sorted(door.peft_names())[:1]
        if not left and self.active_adapter:
            door.set_adapter(self.active_adapter)
        _delete_auxiliary_adapter(self.model, adapter_name, new_active_adapters=self.active_adapter or None)

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Fuse ours (by default the active ones) where that is exact.

        Raises:
            ConversionRefused: where it is not.
        """
        self._check_merge_allowed()
        door = _door(self.model)
        chosen = check_adapters_to_merge(door, self._choose(door, adapter_names))
        fuse_into_base(door, chosen, 1.0, safe=safe_merge)

    def unmerge_adapter(self) -> None:
        """Put the base weights back, bit for bit."""
        door = _door(self.model)
        unfuse_from_base(door, door.merged_adapters)

    def _choose(self, door: Door, names: list[str] | None) -> list[str]:
        return [name for name in door.peft_names() if door.records[name].active] if names is None else names

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        model: nn.Module = self.model
        door = _door(model)
        merged = door.merged_adapters
        if merge:
            self._check_merge_allowed()
            left = [name for name in self._choose(door, adapter_names) if name not in merged]
            fuse_into_base(door, left, 1.0, safe=safe_merge)
            door.let_go(door.peft_names())
        else:
            unfuse_from_base(door, merged)
        for name in door.peft_names():
            self.peft_config.pop(name, None)
            door.drop(name)
        close_door(model)
        for path, module in list(model.named_modules()):
            if isinstance(module, AuxiliaryTrainingWrapper):
                owner, _, name = path.rpartition(".")
                whole = module.unload_and_optionally_merge_module(merge, safe_merge, adapter_names)
                setattr(model.get_submodule(owner), name, whole)
        if not self.peft_config and hasattr(model, "peft_config"):
            del model.peft_config
        return model

    # The state dict: ``{module}.styleinject_layer.{name}.{leaf}`` in the model, without the name in a file.

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: PeftConfig,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, Tensor]:
        return {key: value for key, value in state_dict.items() if f"{_OURS}{adapter_name}." in key}

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        module, mark, leaf = key.rpartition(f"{_OURS}{adapter_name}.")
        return f"{logical(module)}.{CHILD}.{leaf}" if mark else key

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        wanted = {}
        for key in model.state_dict():
            if f"{_OURS}{adapter_name}." in key:
                short = cls._remove_adapter_name_from_key(key, adapter_name)
                wanted[short] = wanted["base_model.model." + short] = key
        return {wanted.get(key, key): value for key, value in state_dict.items()}


def _door(model: nn.Module) -> Door:
    door = find_door(model)
    if door is None:
        raise UsageError("the model has no StyleInject adapter", hint="Add one first")
    return door


def _take_out(door: Door, name: str) -> Callable[[], None]:
    """Take an adapter out of the model; what is returned puts it back.

    Raises:
        UsageError: while it is merged.
    """
    if name in door.merged_adapters:
        raise UsageError("the adapter is merged", key=name, hint="Unmerge it before another one takes its name")
    record = door.records[name]
    sites = {path: (site, site.layer[name]) for path, site in door.sites.items() if name in site.layer.adapters}
    door.drop(name)

    def put_back() -> None:
        for path, (site, adapter) in sites.items():
            door.layer_at(path, site.base, parent=site.attention).adapters[name] = adapter
        door.records[name] = record
        door.refresh()

    return put_back


def _peft_names(door: Door | None) -> list[str]:
    return [] if door is None else door.peft_names()


def _without_expressions(config: Any, path: str) -> Any:
    """The configuration with names in place of expressions: PEFT would match a stranger's for as long as it takes."""
    names = {}
    for setting in _MATCHED if config.from_file else ():
        value = getattr(config, setting)
        if isinstance(value, str):
            names[setting] = {path} if _expression(value, setting).matches(path) else set()
    return _changed(config, names) if names else config


def _matches_gain(config: Any, path: str) -> Any:
    """Whether a module is one of ``gain_modules``, as PEFT matches ``target_modules``."""
    return check_target_module_exists(_changed(config, {"target_modules": config.gain_modules}), path)


@contextmanager
def _put_patterns_away(config: Any) -> Iterator[None]:
    """PEFT tries itself whether the patterns match anything, to warn; of a stranger's it sees none meanwhile."""
    kept = {setting: getattr(config, setting) for setting in _PATTERNS if getattr(config, "from_file", False)}
    config.__dict__[_KEPT] = kept
    for setting in kept:
        setattr(config, setting, {})
    try:
        yield
    finally:
        del config.__dict__[_KEPT]
        for setting, patterns in kept.items():
            setattr(config, setting, patterns)


def _changed(config: Any, values: dict[str, Any]) -> Any:
    other = copy.copy(config)
    for name, value in values.items():
        setattr(other, name, value)
    return other


_expression = lru_cache(maxsize=64)(read_expression)


def _pattern(config: StyleInjectConfig, setting: str, path: str, default: Any) -> Any:
    patterns: Mapping[str, Any] = config.__dict__.get(_KEPT, {}).get(setting, getattr(config, setting))
    if not config.from_file:
        return patterns.get(get_pattern_key(patterns.keys(), path), default)
    return _table(setting, tuple(patterns.items())).find(path, default) if patterns else default


@lru_cache(maxsize=16)
def _table(setting: str, patterns: tuple[tuple[str, Any], ...]) -> PatternTable:
    return read_patterns(dict(patterns), setting)


def fresh(
    config: StyleInjectConfig,
    path: str,
    base: nn.Module,
    model: nn.Module,
    *,
    empty: bool = False,
    paired: bool = True,
    scaled: bool = False,
) -> LayerAdapter:
    """A new adapter of one module: random A_i, zero B and zero router, gains of one, so that it starts at the base.

    Args:
        empty: without memory, on the meta device, for weights that are loaded next.
        paired: whether it has a low-rank pair.
        scaled: whether it has a gain, whatever ``train_gain`` says.

    Raises:
        BaseMismatch: for a pair in a module without a low-rank form, a gain in a norm of several axes, a rank that the
            groups of a convolution do not divide, or a core in a grouped convolution.
    """
    kind = kind_of(base, path)
    place: dict[str, Any] = {
        "device": torch.device("meta") if empty else working_device(base), "dtype": working_dtype(base, model),
    }  # fmt: skip
    beside = _beside(config, path, kind, base, place, gain=scaled or config.train_gain)
    if not paired:
        return LayerAdapter(path, kind, beside)
    if not kind.low_rank:
        raise BaseMismatch(
            "only linear layers and convolutions have a low-rank pair", key=path, found=type(base).__name__,
            hint="Name it in gain_modules, not in target_modules",
        )  # fmt: skip
    rank, alpha = (
        _pattern(config, "rank_pattern", path, config.r), _pattern(config, "alpha_pattern", path, config.alpha)
    )  # fmt: skip
    groups = getattr(base, "groups", 1)
    if rank % groups:
        raise BaseMismatch(
            "the groups do not divide the rank", key=path, expected=f"a multiple of {groups}", found=rank
        )
    return LayerAdapter(
        path,
        kind,
        _leaves(config, path, kind, base, place, rank, groups) | beside,
        branches=config.num_branches,
        rank=rank,
        alpha=None if alpha is None else float(alpha),
        transform=config.transform,  # type: ignore[arg-type]
        pool=config.pool,  # type: ignore[arg-type]
        groups=groups,
    )


def _leaves(
    config: StyleInjectConfig, path: str, kind: Kind, base: nn.Module, place: dict[str, Any], rank: int, groups: int
) -> dict[str, nn.Module]:
    into, out = channels(base, kind)
    n, kernel = config.num_branches, weight_shape(base, kind)[2:]
    cored = config.core and any(size > 1 for size in kernel)
    if cored and groups > 1:
        raise BaseMismatch(
            "a core sees all inputs at once, and this is a grouped convolution", key=path, expected="groups 1",
            found=f"groups {groups}", hint="Leave it out with exclude_modules, or train without cores",
        )  # fmt: skip

    def noise(*shape: int) -> Tensor:
        # kaiming_uniform_ with a = √5, as LoRA starts its A: uniform within 1 / √fan_in.
        tensor = torch.empty(shape, **place)
        return nn.init.kaiming_uniform_(tensor, a=5**0.5)

    start = partial(_start, config, place)
    up = start(out, rank // groups)
    leaves: dict[str, nn.Module] = {}
    if cored:
        inner, core = noise(rank, into, *[1] * len(kernel)), noise(n * rank, rank, *kernel)
        leaves["down"], leaves["core"], leaves["up"] = cored_pair(base, kind, inner, core, up)
    else:
        leaves["down"], leaves["up"] = pair(base, kind, noise(n * rank, into, *kernel), up)
    if n > 1:
        bias = start(n)
        leaves["router"] = FixedRouter(bias) if config.router == "fixed" else router(start(n, into), bias)
    return leaves


def _beside(
    config: StyleInjectConfig, path: str, kind: Kind, base: nn.Module, place: dict[str, Any], *, gain: bool
) -> dict[str, nn.Module]:
    """What is trained beside the pair, or without one: factors on the outputs, and a difference of the bias."""
    shape, leaves = bias_shape(base, kind), dict[str, nn.Module]()
    if gain and len(shape) != 1:
        raise BaseMismatch("a gain is a vector, and this norm has several axes", key=path, found=list(shape))
    if gain:
        # In float32 at least, as a file's gains are: gain − 1 would vanish in half precision.
        wide = place | {"dtype": torch.promote_types(place["dtype"], torch.float32)}
        leaves["gain"] = Value(1 + _start(config, wide, *shape))
    if config.train_bias:
        leaves["bias_delta"] = Value(_start(config, place, *shape))
    return leaves


def _start(config: StyleInjectConfig, place: dict[str, Any], *shape: int) -> Tensor:
    """Where what changes the output begins: at zero, or at random for tests."""
    return torch.zeros(shape, **place) if config.init_weights else torch.randn(shape, **place) * 0.1


def _widen(module: nn.Module) -> None:
    for parameter in module.parameters():
        if parameter.dtype in {torch.float16, torch.bfloat16} | FLOAT8:
            parameter.data = parameter.data.float()


def register() -> None:
    """Make PEFT know the tuner; once, however often it is imported."""
    kind = extend_peft_type()
    if kind not in PEFT_TYPE_TO_TUNER_MAPPING:
        register_peft_method(
            name=TUNER_NAME, config_cls=StyleInjectConfig, model_cls=StyleInjectModel, prefix=StyleInjectModel.prefix
        )
        BaseTuner.inject_adapter = _leave_guests_alone(BaseTuner.inject_adapter)
        if prefixes := getattr(save_and_load, _PREFIXES, None):
            setattr(save_and_load, _PREFIXES, _tell_ours(prefixes))


#: Where ``get_base_model_state_dict`` and its counterpart ask what is no part of the base.
_PREFIXES = "_get_adapter_state_dict_key_prefixes"


def _tell_ours(prefixes: Callable[[Any], set[str]]) -> Callable[[Any], set[str]]:
    """Names of adapters' tensors in a PeftModel, ours among them: PEFT knows those within its own layers only."""

    @wraps(prefixes)
    def all_prefixes(model: Any) -> set[str]:
        modules = model.base_model.model.named_modules()
        return prefixes(model) | {name for name, module in modules if isinstance(module, GuestLayer)}

    return all_prefixes


def _leave_guests_alone(inject: Callable[..., None]) -> Callable[..., None]:
    """A tuner's injection that takes none of our leaves for a module of the base.

    PEFT looks at the names and classes of all modules (``all-linear``, a regular expression) and offers no way to say
    that some are no part of the base.
    """

    @wraps(inject)
    def inject_into_base(*args: Any, **kwargs: Any) -> None:
        with hide_guests():
            inject(*args, **kwargs)

    return inject_into_base


register()
