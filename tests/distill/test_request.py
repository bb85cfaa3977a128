"""What is asked for: read from keywords once, and refused in one line where it makes no sense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from si_hub.distill.request import Request, SurveyOptions, TrainingOptions, branch_names
from si_hub.errors import UsageError
from tests.places import ROOT

DOCS = ROOT / "docs"
TUNED = ["ink.safetensors", "neon.safetensors"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: is a whole number, 1 or more"),
        ({"steps": 2.5}, "steps: is a whole number"),
        ({"average": 1}, r"average: is a decay, below 1 \(found 1"),
        ({"rate": -1}, "rate: is a positive number"),
        ({"samples": "many"}, "samples: is a positive number"),
        ({"checkpointing": "perhaps"}, "checkpointing: is yes or no"),
    ],
)
def test_options_that_make_no_sense_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainingOptions.of(options)


def test_options_are_parted_into_ours_and_the_calibrations() -> None:
    said = {"steps": 7, "checkpointing": "true", "trajectories": 3, "images": Path("x")}
    request = Request.of("trained", TUNED[:1], options=said)
    assert request.training == TrainingOptions(steps=7, checkpointing=True, images="x")
    assert request.survey == SurveyOptions(trajectories=3)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"size": 0}, r"^size: is no size \(expected bytes, or a text such as 40MB, found 0\)"),
        ({"size": -1}, "^size: is no size"),
        ({"size": True}, "^size: is no size"),
        ({"size": 1.5}, "^size: is no size"),
        ({"size": float("inf")}, "^size: is no size"),
        ({"size": "0MB"}, "^size: is no size"),
        ({"size": "forty"}, "^size: is no size .*found forty"),
        ({"rank": "4"}, "^rank: a rank is a whole number, 1 or more .*found 4"),
        ({"rank": 2.5}, "^rank: a rank is a whole number"),
        ({"rank": 0}, "^rank: a rank is a whole number"),
        ({"rank": float("nan")}, "^rank: a rank is a whole number"),
        ({"fidelity": "0.9"}, "^fidelity: a fidelity lies between 0 and 1"),
        ({"fidelity": float("nan")}, "^fidelity: a fidelity lies between 0 and 1"),
        ({"size": 0, "rank": 4}, "^size: is no size"),
    ],
)
def test_a_budget_that_is_none_is_told(budget: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Request.of("calibrated", TUNED[:1], **budget)


@pytest.mark.parametrize("size", ["40kB", "0.04 MB", 40_000, 40_000.0, np.int64(40_000)])
def test_a_size_is_the_same_however_it_is_written(size: Any) -> None:
    found = Request.of("calibrated", TUNED[:1], size=size).size
    assert (found, type(found)) == (40_000, int)


def test_branches_are_named_by_files_or_as_told() -> None:
    assert branch_names("", ["a", "b"]) == ("a", "b")
    assert branch_names("ink, neon", ["a", "b"]) == ("ink", "neon")
    with pytest.raises(UsageError, match="a name of its own"):
        branch_names("", ["model", "model"])


@pytest.mark.parametrize(
    ("method", "known"),
    [
        ("svd", {"guidance"}),
        ("calibrated", {"guidance", "states", "cache"}),
        ("trained", {"guidance", "states", "cache", "steps"}),
    ],
)
@pytest.mark.parametrize("when", ["named", "chosen"])
def test_a_method_takes_its_own_options_and_no_other_s(method: str, known: set[str], when: str) -> None:
    for name in ("guidance", "states", "cache", "steps", "temperature"):
        options = {name: 3}

        def ask(options: dict[str, Any] = options) -> None:
            Request.of(method if when == "named" else None, TUNED[:1], options=options).check_for(method)

        if name in known:
            ask()
        else:
            with pytest.raises(UsageError, match=f"{name}: the method {method} has no such option"):
                ask()


def test_an_unknown_option_is_told_with_all_that_the_method_has() -> None:
    with pytest.raises(UsageError, match="the method trained has no such option") as unknown:
        Request.of("trained", TUNED, options={"foo": 1})
    listed = str(unknown.value.expected).split(", ")
    assert {"guidance", "states", "cache", "router", "steps", "walks"} <= set(listed)
    # What is listed, the manual explains.
    table = (DOCS / "DISTILL.md").read_text(encoding="utf-8")
    assert [name for name in listed if f"`{name}`" not in table and f"`--{name}" not in table] == []
    for method, hint in (("svd", "only the method trained knows it"), ("calibrated", "only the method trained")):
        with pytest.raises(UsageError, match=f"the method {method} has no such option .* {hint}"):
            Request.of(method, TUNED, options={"walks": 1})
    with pytest.raises(UsageError, match="calibrated and trained know it"):
        Request.of("svd", TUNED, options={"probes": 1})


def test_a_value_keeps_what_was_said_of_it() -> None:
    request = Request.of(
        "calibrated", TUNED[:1], rank=40, seed=7, options={"resolution": 32, "guidance": 3, "states": 2}
    )
    assert request.call.keywords() == {"guidance_scale": 3, "height": 32, "width": 32}
    assert request.said == {"guidance": "3", "resolution": "32", "states": "2"}
    assert request.survey == SurveyOptions(states=2, seed=7, pieces=80)


def test_only_several_models_have_branches_and_a_router() -> None:
    with pytest.raises(UsageError, match=r"^router: is for several tuned models"):
        Request.of("trained", TUNED[:1], options={"router": "learned"})
    assert Request.of("trained", TUNED, options={"router": "learned"}).branches == tuple(TUNED)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, r"precision: no such precision \(expected no, fp16, bf16, found int4\)"),
        ({"memory": "none"}, r"memory: no such memory \(expected auto, all, blocks, files, found none\)"),
    ],
)
def test_words_that_an_option_does_not_know_are_told(options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Request.of("calibrated", ["a.safetensors"], options=options)
