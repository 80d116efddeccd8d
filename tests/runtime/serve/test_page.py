"""The web page: its markup always, and in a real browser where there is one."""

from __future__ import annotations

import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import read, write_scene

from mfnet_runtime.scene.discovery import Scene

pytest.importorskip("fastapi", reason="the extra serve is not installed")
from mfnet_runtime.serve.app import PAGE

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


class Markup(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside_label: list[dict[str, str | None]] = []
        self._labels = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._labels += tag == "label"
        if tag == "input" and self._labels:
            self.inside_label.append(dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        self._labels -= tag == "label"


def test_markup_is_usable_without_a_mouse_and_without_a_network() -> None:
    text, markup = PAGE.read_text(encoding="utf-8"), Markup()
    markup.feed(text)
    every = {tag: [attrs for name, attrs in markup.tags if name == tag] for tag, _ in markup.tags}
    assert every["html"][0]["lang"] == "en"
    assert any(attrs.get("name") == "viewport" for attrs in every["meta"])
    labelled = {attrs.get("for") for attrs in every["label"]}
    for attrs in every["input"]:
        assert attrs in markup.inside_label or attrs["id"] in labelled
    assert all("alt" in attrs for attrs in every["img"])
    assert any(attrs.get("aria-live") for attrs in every["div"])
    assert "://" not in text
    assert not any(attrs.get("src") for attrs in every["script"] + every["img"])


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return write_scene(tmp_path, "ortho")


DROP = """(names) => {
  const data = new DataTransfer();
  for (const name of names) data.items.add(new File(["x"], name));
  document.querySelector("h1").dispatchEvent(
    new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
  return ["image", "dsm"].map((id) => document.getElementById(id).files[0].name);
}"""


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1400, 900), (390, 844)])
def test_page_in_a_browser(
    address: str, scene: Scene, tmp_path: Path, size: tuple[int, int]
) -> None:
    """By keyboard from two files to the class map on disk; an error; nothing scrolls sideways."""
    playwright: Any = pytest.importorskip("playwright.sync_api", reason="Playwright is missing")
    if BROWSER is None:
        pytest.skip("no Chromium")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        faults: list[str] = []
        page.on("pageerror", lambda fault: faults.append(str(fault)))
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        assert page.evaluate(DROP, ["my_dsm.tif", "b.tif"]) == ["b.tif", "my_dsm.tif"]
        page.get_by_label("Image").set_input_files(scene.image)
        page.get_by_label("Heights (DSM)").set_input_files(scene.dsm)
        page.get_by_role("button", name="Segment").focus()
        page.keyboard.press("Enter")
        page.get_by_text("Done in").wait_for(timeout=60_000)

        for name in ("image", "dsm", "classes"):
            assert page.locator(f"#show-{name}").evaluate("image => image.naturalWidth") == 48
        page.get_by_label("Opacity of the classes").focus()
        page.keyboard.press("Home")
        assert page.locator("#show-classes").evaluate("image => image.style.opacity") == "0"
        assert page.locator("#legend th").all_inner_texts() == ["red", "green", "blue", "high"]
        with page.expect_download() as download:
            page.get_by_role("link", name="Download").click()
        download.value.save_as(tmp_path / "saved.tif")
        assert download.value.suggested_filename == "ortho_classes.tif"
        assert set(np.unique(read(tmp_path / "saved.tif"))) <= {0, 1, 2, 3}
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]

        page.get_by_label("Heights (DSM)").set_input_files(scene.image)
        page.get_by_role("button", name="Segment").click()
        page.locator("#status.error").wait_for()
        assert page.locator("#status").inner_text().startswith("dsm.tif: DSM has 3 bands")
        assert faults == []
        assert {url.partition(address)[0] for url in asked if not url.startswith("data:")} == {""}
        browser.close()
