"""The page in headless Chromium, over the miniature: what a user sees and does. `make app-test` has what it needs."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from si_hub.cli import main
from tests.miniature import BASE, KOHYA_LORA
from tests.places import ROOT

pytestmark = pytest.mark.skipif(
    find_spec("gradio") is None or find_spec("selenium") is None, reason="gradio is not here: `make app-test`"
)
#: An adapter of five named styles, which act equally while nobody mixes them.
STYLES = ROOT / "examples" / "styles.safetensors"
EVEN = dict.fromkeys(("ink", "neon", "mosaic", "pastel", "clay"), 0.2)
PROMPT = "a large red circle at the left, on sand"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--hide-scrollbars", "--window-size=1280,1000",
)  # fmt: skip
SHOTS = ROOT / "build" / "shots"
#: Seconds for a picture, on a machine that does other things too.
PATIENCE = 120


class Page:
    """The page as its user has it before him."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver, self.url = driver, url

    def find(self, selector: str) -> Any:
        from selenium.webdriver.common.by import By
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, PATIENCE).until(
            lambda it: next(iter(it.find_elements(By.CSS_SELECTOR, selector)), None), f"nothing is {selector}"
        )

    def address(self, name: str) -> str:
        """Where a picture is, or the saved file."""
        from selenium.common.exceptions import StaleElementReferenceException

        until, selector = time.monotonic() + PATIENCE, f"#{name} a[href]" if name == "saved" else f"#{name} img"
        while time.monotonic() < until:
            with suppress(StaleElementReferenceException):  # Another picture has come meanwhile.
                one = self.find(selector)
                if found := one.get_attribute("href") or one.get_attribute("src"):
                    return str(found)
        raise AssertionError(f"{name} has no address")

    def picture(self, name: str) -> np.ndarray[Any, Any]:
        return np.array(Image.open(io.BytesIO(fetch(self.address(name)))).convert("RGB"))

    def wait_for_text(self, selector: str, text: str) -> None:
        """Until one of the elements says a text: what slides in has its own text only after it is there."""
        from selenium.webdriver.support.ui import WebDriverWait

        says = "const all = [...document.querySelectorAll(arguments[0])]; return all.map(one => one.textContent).join()"
        WebDriverWait(self.driver, PATIENCE).until(
            lambda it: text in it.execute_script(says, selector), f"no {selector} says {text!r}"
        )

    def next_picture(self, name: str, before: str) -> np.ndarray[Any, Any]:
        """The picture once another is there than at an address."""
        until = time.monotonic() + PATIENCE
        while self.address(name) == before:
            assert time.monotonic() < until, f"{name} is as it was"
            time.sleep(0.1)
        return self.picture(name)

    def move(self, slider: str, value: float) -> None:
        """A slider to a place, as the page itself is told by a mouse."""
        place = (
            "const [one, value] = arguments; one.value = value; one.dispatchEvent(new Event('input', {bubbles: true}))"
        )
        self.driver.execute_script(place, self.find(f"#{slider} input[type=range]"), value)

    def is_in_sight(self, name: str) -> bool:
        """Whether all of something is seen before anything is scrolled."""
        ends = "const at = arguments[0].getBoundingClientRect(); return at.top >= 0 && at.bottom <= innerHeight"
        return bool(self.driver.execute_script(ends, self.find(f"#{name}")))

    def console(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def shoot(self, name: str) -> None:
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(SHOTS / f"{name}.png"))


def fetch(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
        data: bytes = answer.read()
    return data


def start(*arguments: str, folder: Path, **settings: str) -> tuple[subprocess.Popen[str], str]:
    """A Python that serves a page, and the address that it says."""
    settings |= {"XDG_CACHE_HOME": str(folder / ".cache"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=folder, env={**os.environ, **settings}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    if not url.startswith("http://127.0.0.1:"):
        process.kill()
        pytest.fail(url + process.communicate()[1])
    return process, url


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """A browser on the page of the shipped styles; at the end the command is interrupted as by Ctrl-C."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    assert chromium, "install chromium (Debian: apt-get install chromium chromium-driver)"
    assert driver, "install chromedriver (Debian: apt-get install chromium-driver)"
    command = ["-m", "si_hub", "app", str(STYLES), "--base", str(BASE)]
    process, url = start(*command, "--guidance", "3", "--prompt", PROMPT, folder=tmp_path)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    try:
        browser.get(url)
        yield Page(browser, url)
    finally:
        browser.quit()
        process.terminate()
        process.communicate(timeout=60)


def draw(file: Path | None, **styles: float) -> np.ndarray[Any, Any]:
    """What diffusers draws with an adapter and its styles mixed, enlarged by whole pixels."""
    import torch
    from diffusers import StableDiffusionPipeline

    import si_hub

    si_hub.enable()
    pipe: Any = StableDiffusionPipeline.from_pretrained(BASE, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    if file is not None:
        pipe.load_styleinject_weights(file)
    if styles:
        pipe.set_styles(styles)
    noise = torch.Generator().manual_seed(0)
    found = pipe(PROMPT, num_inference_steps=20, guidance_scale=3.0, generator=noise).images[0]
    return np.array(found).repeat(12, axis=0).repeat(12, axis=1)


def apart(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> int:
    """The largest difference of two pictures, of 255."""
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def test_a_slider_is_moved_the_picture_changes_and_the_mix_is_a_file(page: Page, tmp_path: Path) -> None:
    first, base = page.picture("mixed"), page.picture("base")
    assert apart(first, draw(STYLES, **EVEN)) <= 1
    assert apart(base, draw(None)) <= 1
    page.shoot("app-even")
    assert all(page.is_in_sight(name) for name in ("mixed", "base", "draw", "save"))
    before = page.address("mixed")
    page.move("style-styles-ink", 0.8)
    page.next_picture("mixed", before)
    before = page.address("mixed")
    page.move("style-styles-neon", 0.0)
    mixed = page.next_picture("mixed", before)
    assert apart(mixed, draw(STYLES, **EVEN | {"ink": 0.8, "neon": 0.0})) <= 1
    assert apart(mixed, first) > 30
    assert apart(page.picture("base"), base) == 0
    page.shoot("app-mixed")

    page.find("#save").click()
    saved = tmp_path / "saved.safetensors"
    saved.write_bytes(fetch(page.address("saved")))
    assert apart(draw(saved), mixed) <= 1

    page.move("weight-styles", 0.0)
    page.find("#save").click()
    page.wait_for_text(".toast-body", "every adapter has weight 0")
    page.shoot("app-refused")
    fetched = page.driver.execute_script("return performance.getEntriesByType('resource').map(one => one.name)")
    assert [one for one in fetched if not one.startswith((page.url, "blob:", "data:"))] == []
    assert page.console() == []


def test_the_space_serves_the_same_page(tmp_path: Path) -> None:
    process, url = start(
        str(ROOT / "examples" / "space" / "app.py"), folder=tmp_path, ADAPTERS=str(KOHYA_LORA), BASE=str(BASE),
    )  # fmt: skip
    try:
        served = fetch(url).decode()
        assert "kohya_lora on base" in served
        assert "weight of kohya_lora" in served
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_what_is_no_adapter_or_no_base_ends_the_command_with_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no header")
    for arguments, code, said in (
        ([str(broken), "--base", str(BASE)], 3, "broken.safetensors"),
        ([str(KOHYA_LORA), "--base", "nowhere"], 7, "nowhere: no such folder"),
        ([str(KOHYA_LORA)], 2, "--base FOLDER"),
    ):
        done = CliRunner().invoke(main, ["app", *arguments])
        assert done.exit_code == code, done.stderr
        assert said in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
