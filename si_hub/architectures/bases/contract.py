"""What there is to say of a base model: one value, from which every table of the package is derived."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from si_hub.architectures.layouts.contract import Layout


@dataclass(frozen=True, slots=True, eq=False)
class Blueprint:
    """How one component of a pipeline is built.

    Attributes:
        table: name of the shipped table of its modules; components that are the same share one.
        library: whose class it is.
        class_name: the class.
        config: its configuration, where it differs from the class's defaults.
    """

    table: str
    library: Literal["diffusers", "transformers"]
    class_name: str
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """A base model.

    Attributes:
        name: stable: documents record it.
        title: for people.
        components: by the pipeline's attribute name, in the order of the pipeline; autoencoders are left out.
        aliases: other names people use, in lower case.
        repositories: its releases on the Hub, the usual one first.
        layouts: namings its denoiser is written in besides diffusers' own.
        prefixes: beginnings of names in adapters → the component they mean, where that is not the general rule
            (``PREFIXES`` of the converters). One that ends in ``_`` is of names with underscores for dots.
        hints: how metadata that name it begin (``ss_base_model_version``, ``modelspec.architecture``, ``baseModel``);
            capitals and marks do not count, and of several bases the one with the longest hint is meant. One that ends
            in ``$`` is all of such a text, up to a slash.
        is_v2: whether kohya's ``ss_v2`` is true of it.
        modelspec: its name in ModelSpec; without one it goes by its own.
        modelspec_v: the same for releases that predict v, where it differs.
        kohya: what its trainers call it (``ss_base_model_version``); its name here without one.
        kohya_v: the same for releases that predict v, where it differs.
        kohya_native: whether adapters of its trainers have the project's own names of modules, and not diffusers'.
        implementation: whose code ModelSpec says that runs it; diffusers without one.
        inferred: how the kind begins that diffusers infers for a single file of it; of transformers only, so that a
            file that is opened without a base has a class.
        prediction_type: what the denoiser predicts, where it is the same for every release.
        optional: beginnings of the paths of modules that some releases lack.
        inputs: modules whose input channels differ between releases: inpainting, editing and depth models.
    """

    name: str
    title: str
    components: Mapping[str, Blueprint]
    aliases: tuple[str, ...] = ()
    repositories: tuple[str, ...] = ()
    layouts: tuple[Layout, ...] = ()
    prefixes: Mapping[str, str] = field(default_factory=dict)
    hints: tuple[str, ...] = ()
    is_v2: bool = False
    modelspec: str = ""
    modelspec_v: str = ""
    kohya: str = ""
    kohya_v: str = ""
    kohya_native: bool = True
    implementation: str = ""
    inferred: str = ""
    prediction_type: str | None = None
    optional: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()

    def name_in_modelspec(self, prediction_type: str | None) -> str:
        """What ModelSpec calls it, given what a release of it predicts."""
        usual = self.modelspec or self.name
        return self.modelspec_v or usual if prediction_type == "v_prediction" else usual

    def denoisers(self) -> dict[str, Blueprint]:
        """The components that remove the noise; several in models that take turns."""
        return {name: part for name, part in self.components.items() if not name.startswith("text_")}
