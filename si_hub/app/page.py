"""The page, by gradio: sliders, the picture with and without the adapters, and the mix as a file.

Nothing is asked of any other machine: the fonts are the system's, and analytics are off.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import wraps
from html import escape
from pathlib import Path
from typing import Any, TypeVar

from si_hub.app.controls import SCENE, Knob, Panel, read_scene
from si_hub.app.studio import Scene, Studio
from si_hub.errors import SiHubError
from si_hub.words import keep_words

_T = TypeVar("_T")

#: One picture at a time: they share a pipeline.
_ONE = "studio"
_FILE = "mix.safetensors"
#: Pixels that the longer side of a picture has at least.
_READABLE = 384
#: Ends of the sliders of weights and styles, and their step.
_WEIGHT, _STYLE = (-2.0, 2.0, 0.05), (0.0, 1.5, 0.05)
#: Seconds between two sweeps of what the page has shown and offered, and the age at which that goes.
_SWEEP = (3600, 86400)


def build_page(studio: Studio, scene: Scene, folder: Path) -> Any:
    """The page as gradio's ``Blocks``.

    Args:
        studio: what it is about.
        scene: what it draws first.
        folder: for files that are saved, until the server ends.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    import gradio as gr

    from si_hub.report.pictures import enlarge

    panel = Panel.of(studio)

    def draw(*values: object) -> tuple[Any, Any]:
        wanted, mix = read_scene(values[:SCENE]), panel.read_mix(values[SCENE:])
        return enlarge(studio.draw(wanted, mix), _READABLE), enlarge(studio.draw_base(wanted), _READABLE)

    def save(*values: object) -> str:
        mix = panel.read_mix(values[SCENE:])
        file = Path(tempfile.mkdtemp(dir=folder)) / _FILE
        studio.save(mix, file)
        return str(file)

    with gr.Blocks(title="si-hub", analytics_enabled=False, delete_cache=_SWEEP) as page:
        gr.HTML(f"<h2>{escape(', '.join(studio.names))} on {escape(studio.title)}</h2>")
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                prompt = gr.Textbox(scene.prompt, label="prompt", lines=2, elem_id="prompt")
                with gr.Row():
                    seed = gr.Number(scene.seed, label="seed", precision=0, minimum=0, elem_id="seed")
                    steps = gr.Slider(1, 100, scene.steps, step=1, label="steps", elem_id="steps")
                    guidance = gr.Slider(0, 20, scene.guidance, step=0.5, label="guidance", elem_id="guidance")
                controls = [_control(gr, control) for control in panel.controls]
            with gr.Column(scale=3, min_width=320):
                with gr.Row():
                    look: dict[str, Any] = {
                        "format": "png",
                        "interactive": False,
                        "buttons": ["download", "fullscreen"],
                    }
                    shown = gr.Image(label="with the adapters", elem_id="mixed", **look)
                    base = gr.Image(label="the base alone, from equal noise", elem_id="base", **look)
                # Under the pictures and not under the sliders: however many styles there are, they stay in sight.
                with gr.Row():
                    draw_it = gr.Button("Draw", variant="primary", elem_id="draw")
                    save_it = gr.Button("Save this mix as a file", elem_id="save")
                saved = gr.File(label="the mix as one adapter", interactive=False, elem_id="saved", height=90)
                with gr.Accordion("What was loaded", open=False):
                    gr.Code(studio.report_text(), language=None, label="load report", elem_id="report")
        inputs, outputs = [prompt, seed, steps, guidance, *controls], [shown, base]
        moved = [control.input for control in controls] + [seed.submit, prompt.submit, steps.input, guidance.input]
        run: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": _ONE}
        gr.on(
            [page.load, draw_it.click, *moved], _tell(gr, draw), inputs, outputs, trigger_mode="always_last",
            api_name="draw", **run,
        )  # fmt: skip
        save_it.click(_tell(gr, save), inputs, saved, api_name="save", **run)
    return page


def page_look() -> dict[str, Any]:
    """What ``Blocks.launch`` takes besides an address: the system's fonts, no share, no links to elsewhere."""
    import gradio as gr

    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return {
        "theme": theme, "share": False, "footer_links": [], "ssr_mode": False, "quiet": True, "mcp_server": False,
        "enable_monitoring": False,
    }  # fmt: skip


def _control(gr: Any, control: Knob) -> Any:
    if control.kind == "by_hand":
        return gr.Checkbox(bool(control.start), label=control.label, elem_id=f"by-hand-{control.adapter}")
    least, most, step = _WEIGHT if control.kind == "weight" else _STYLE
    name = control.adapter if control.kind == "weight" else f"{control.adapter}-{control.label}"
    return gr.Slider(least, most, control.start, step=step, label=control.label, elem_id=f"{control.kind}-{name}")


def _tell(gr: Any, function: Callable[..., _T]) -> Callable[..., _T]:
    """An error of ours as a message on the page; in the words of whoever started it."""
    spoken = keep_words(function)

    @wraps(function)
    def tell(*values: object) -> _T:
        try:
            return spoken(*values)
        except SiHubError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return tell
