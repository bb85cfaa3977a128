"""What is said of a training: no path in the document, the same for the same training."""

from __future__ import annotations

import json
from pathlib import Path

from si_hub.training.loop import Course
from si_hub.training.result import PlannedTraining, Trained, count_text, last_loss, trained_document
from si_hub.training.settings import TrainSettings


def test_a_document_has_counts_settings_and_versions() -> None:
    course = Course([2.0] * 60 + [1.0] * 60, [(0, 1.0), (120, 0.25)], 120)
    settings = TrainSettings.of({"steps": 120, "seed": 7})
    found = trained_document(settings, course, {"ink": 3, "neon": 4}, {"base": "sdxl"})
    assert (found["pictures"], found["styles"], found["seed"]) == (7, {"ink": 3, "neon": 4}, 7)
    assert (found["base"], found["kept_step"], found["errors"]) == ("sdxl", 120, [[0, 1.0], [120, 0.25]])
    assert found["losses"] == [2.0] * 20 + [1.0] * 20
    assert found["versions"].keys() >= {"si-hub", "torch", "diffusers", "peft"}
    assert "stopped" not in found
    stopped = Course([float("nan")], [(0, 1.0)], 0, "the loss was nan at step 1")
    assert trained_document(settings, stopped, {"": 1}, {})["losses"] == [None]
    assert trained_document(settings, stopped, {"": 1}, {})["stopped"] == "the loss was nan at step 1"
    assert "styles" not in trained_document(settings, stopped, {"": 1}, {})


def test_counts_are_said_by_style() -> None:
    assert count_text({"": 16}) == "16"
    assert count_text({"ink": 16, "neon": 2}) == "18 (ink 16, neon 2)"
    assert last_loss(Course([9.0] * 38 + [1.0, 3.0])) == 2.0


def test_a_result_is_lines_and_data() -> None:
    found = Trained(
        Path("a\x1bb.safetensors"), 1000, Path("base"), "sdxl", "lora", 8, 0.01, 20, {"": 4}, 32, 48, 65536, 0, 1.0,
        False, 0.5, "", ("nothing",), (Path("r.html"),),
    )  # fmt: skip
    text = found.as_text()
    assert "\x1b" not in text
    assert "48 modules, 65,536 numbers" in text
    assert "identity" not in text
    assert json.loads(json.dumps(found.as_dict()))["report"] == ["r.html"]
    plan = PlannedTraining(Path("a.safetensors"), Path("base"), {"": 4}, {"rank": 8})
    assert plan.as_text().startswith("would train a.safetensors")
    assert json.loads(json.dumps(plan.as_dict()))["settings"] == {"rank": 8}
