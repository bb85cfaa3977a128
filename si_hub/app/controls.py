"""The page's sliders as a panel, and their places read back as a mix: no gradio here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from si_hub.app.studio import Mix, Scene, Studio
from si_hub.errors import UsageError

#: Values that come before those of the adapters: prompt, seed, steps, guidance.
SCENE = 4
_MOST_STEPS = 200


@dataclass(frozen=True, slots=True)
class Knob:
    """One control.

    Attributes:
        kind: ``weight`` of an adapter, ``by_hand`` (whether its styles are mixed here), or one ``style``.
        adapter: whose.
        label: what is written at it.
        start: where it stands at first.
    """

    kind: str
    adapter: str
    label: str
    start: float | bool


@dataclass(frozen=True, slots=True)
class Panel:
    """All controls of the adapters, in the page's order.

    Attributes:
        controls: each adapter's weight, then its styles.
    """

    controls: Sequence[Knob] = field(default=())

    @classmethod
    def of(cls, studio: Studio) -> Panel:
        """A weight for each adapter, and for named styles a switch and a slider for each."""
        controls: list[Knob] = []
        for name in studio.names:
            controls.append(Knob("weight", name, f"weight of {name}", 1.0))
            if branches := studio.branches.get(name):
                controls.append(Knob("by_hand", name, "mix its styles by hand", branches.is_fixed))
                controls += [Knob("style", name, style, share) for style, share in branches.start.items()]
        return cls(tuple(controls))

    def read_mix(self, values: Sequence[object]) -> Mix:
        """What the controls say, in the page's order.

        Raises:
            UsageError: a value that is no number.
        """
        weights: dict[str, float] = {}
        styles: dict[str, dict[str, float]] = {}
        by_hand = {
            control.adapter
            for control, value in zip(self.controls, values, strict=True)
            if control.kind == "by_hand" and value
        }
        for control, value in zip(self.controls, values, strict=True):
            if control.kind == "weight":
                weights[control.adapter] = read_number(value, control.label)
            elif control.kind == "style" and control.adapter in by_hand:
                styles.setdefault(control.adapter, {})[control.label] = read_number(value, control.label)
        return Mix(weights, styles)


def read_scene(values: Sequence[object]) -> Scene:
    """What is to be drawn, of the first `SCENE` values.

    Raises:
        UsageError: a value that is no number, a negative seed, or steps that nobody would wait for.
    """
    prompt, seed, steps, guidance = values
    scene = Scene(
        str(prompt or ""), int(read_number(seed, "seed")), int(read_number(steps, "steps")),
        read_number(guidance, "guidance"),
    )  # fmt: skip
    if not 0 <= scene.seed < 2**63:
        raise UsageError("is no seed", key="seed", expected="0 or a larger whole number", found=scene.seed)
    if not 1 <= scene.steps <= _MOST_STEPS:
        raise UsageError("is no number of steps", key="steps", expected=f"1 to {_MOST_STEPS}", found=scene.steps)
    return scene


def read_number(value: object, name: str) -> float:
    """A slider's or a box's number.

    Raises:
        UsageError: it is empty, or something else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) == float("inf"):
        raise UsageError("is no number", key=name, found="nothing" if value is None else repr(value))
    return float(value)
