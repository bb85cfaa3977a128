"""The built pages in headless Chromium, at two widths: ``python -m website.browser build/site build/shots``.

What has to hold of every page: no link of it leads nowhere, it is no wider than the screen, its pictures are there,
nothing stands on the browser's console, and nothing is fetched from another host. Searching finds. Screenshots are left
to be looked at.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

WIDTHS = {"desk": (1280, 900), "phone": (375, 812)}
#: Pages that a picture is made of, by their address.
SHOWN = ("", "LOAD/", "CONVERT/", "DISTILL/", "TROUBLESHOOTING/", "reference/python/", "reference/commands/")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--hide-scrollbars",
)  # fmt: skip
STATE = """return {
  wide: document.documentElement.scrollWidth, inner: window.innerWidth,
  blank: [...document.images].filter(one => !(one.complete && one.naturalWidth)).map(one => one.src),
  fetched: performance.getEntriesByType('resource').map(one => one.name),
}"""


class Page(HTMLParser):
    """The links of a page and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            if (tag, name) in (("a", "href"), ("link", "href"), ("img", "src"), ("script", "src")) and value:
                self.links.append(value)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        return


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """The address of a server of a folder."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@contextmanager
def browser() -> Iterator[Any]:
    """Headless Chromium with a profile of its own."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not chromium or not driver:
        sys.exit("chromium and chromedriver are not there: apt-get install chromium chromium-driver")
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        started = webdriver.Chrome(options=options, service=Service(driver))
        try:
            yield started
        finally:
            started.quit()


def addresses(site: Path) -> list[str]:
    """The address of every page, below the site's own."""
    found = [file.relative_to(site).as_posix() for file in sorted(site.rglob("*.html"))]
    return [re.sub(r"(^|/)index\.html$", r"\1", name) for name in found]


def broken_links(site: Path) -> list[str]:
    """What leads to no file or anchor of the site, each with the page that has it."""
    pages = {name: Page(_file(site, name).read_text(encoding="utf-8")) for name in addresses(site)}
    wrong = []
    for name, page in pages.items():
        for link in page.links:
            if name == "404.html" and link.startswith("/"):
                link = link.removeprefix("/si-hub")  # Under the address that the pages will have.
            parts = urlsplit(urljoin(f"http://site/{name}", link))
            if parts.scheme not in ("http", "https") or parts.netloc != "site":
                continue
            target = unquote(parts.path).lstrip("/")
            if not _file(site, target).is_file():
                wrong.append(f"{name or 'index.html'}: {link} is not there")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                wrong.append(f"{name or 'index.html'}: {link} has no such anchor")
    return wrong


def _file(site: Path, name: str) -> Path:
    return site / name / "index.html" if name == "" or name.endswith("/") else site / name


def resize(driver: Any, width: int, height: int) -> None:
    settings = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", settings)


def look(driver: Any, url: str, name: str, shots: Path) -> list[str]:
    """What is wrong with a page at any width."""
    wrong = []
    for kind, (width, height) in WIDTHS.items():
        resize(driver, width, height)
        driver.get(url + name)
        state = driver.execute_script(STATE)
        if state["wide"] > state["inner"]:
            wrong.append(f"{name or 'index'} is {state['wide']} wide on a {kind} of {state['inner']}")
        wrong += [f"{name or 'index'}: {one} is no picture" for one in state["blank"]]
        wrong += [f"{name or 'index'} fetches {one}" for one in state["fetched"] if not one.startswith(url)]
        if name in SHOWN:
            driver.save_screenshot(str(shots / f"{name.strip('/').replace('/', '-') or 'index'}-{kind}.png"))
    wrong += [f"{name or 'index'}: {entry['message']}" for entry in driver.get_log("browser")]
    return wrong


def search(driver: Any, url: str, word: str) -> list[str]:
    """What is wrong with searching a word."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    resize(driver, *WIDTHS["desk"])
    driver.get(url)
    field = driver.find_element(By.CSS_SELECTOR, "input.md-search__input")
    field.click()
    field.send_keys(word)
    WebDriverWait(driver, 20).until(
        lambda it: it.find_elements(By.CSS_SELECTOR, ".md-search-result__item"), f"searching {word} finds nothing"
    )
    return []


def main() -> None:
    site, shots = Path(sys.argv[1]), Path(sys.argv[2])
    shots.mkdir(parents=True, exist_ok=True)
    wrong = broken_links(site)
    pages = addresses(site)
    with serve(site) as url, browser() as driver:
        for name in pages:
            wrong += look(driver, url, name, shots)
        wrong += search(driver, url, "distill")
    for one in wrong:
        print(one)
    print(f"{len(pages)} pages at {len(WIDTHS)} widths: {len(wrong)} faults; screenshots in {shots}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
