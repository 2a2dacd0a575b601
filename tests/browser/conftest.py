"""Chromium without a window, and pages in it that may neither log nor load anything."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modnorm.pipeline import analyse
from modnorm.report.formats import extras
from modnorm.report.html import page
from tests.report_files import GPT, write_check, write_run

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from browser import NoBrowser, launched, prefer, resize

SIZE = (1440, 1000)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser with an empty profile; skips where there is none."""
    try:
        made = launched(tmp_path_factory.mktemp("profile"))
    except NoBrowser as error:
        pytest.skip(str(error))
    yield made
    made.quit()


class Tab:
    """A page in the browser, with what tests ask of it."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def load(self, path: Path) -> None:
        self.driver.get(path.as_uri())
        assert self.js("return document.documentElement.dataset.ready") == "true"

    def js(self, code: str, *arguments: object) -> Any:
        return self.driver.execute_script(code, *arguments)

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        found: list[Any] = self.driver.find_elements("css selector", selector)
        return found

    def keys(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def rows(self) -> list[str]:
        """The names in the tree, as they are shown."""
        code = """return [...document.querySelectorAll("[role=treeitem] .name")].map(
            (name) => name.querySelector("b, span:not(.twist)").textContent)"""
        found: list[str] = self.js(code)
        return found

    def row(self, name: str, turn: int = 0) -> Any:
        return self.all("[role=treeitem]")[
            [i for i, other in enumerate(self.rows()) if other == name][turn]
        ]

    def choose(self, name: str) -> None:
        """Click the first row of a name, from under the tree's head if it is there."""
        row = self.row(name)
        self.js("arguments[0].scrollIntoView({block: 'center'})", row)
        row.click()

    def selected(self) -> str:
        """The path of the selected part, as the details name it."""
        chosen = self.all("[role=treeitem][aria-selected=true]")
        assert len(chosen) == 1
        title: str = self.one("#details h3").text
        return title.partition(":")[0]

    def focused(self, key: str) -> str:
        return str(self.js(f"return document.activeElement.{key}"))

    def scheme(self, name: str) -> None:
        prefer(self.driver, name)

    def resize(self, width: int, height: int) -> None:
        resize(self.driver, width, height)

    def requests(self) -> list[str]:
        """Every address that was asked for since the last time."""
        events = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        return [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]


@pytest.fixture
def tab(driver: Any) -> Iterator[Tab]:
    """The browser's page; in the end nothing may have been logged, nor asked of a network."""
    found = Tab(driver)
    found.driver.get("about:blank")
    found.scheme("light")
    found.resize(*SIZE)
    found.requests()
    driver.get_log("browser")
    yield found
    assert driver.get_log("browser") == []
    loaded = [url for url in found.requests() if not url.startswith(("about:", "data:"))]
    assert all(url.startswith("file:///") and url.endswith(".html") for url in loaded), loaded
    driver.get("about:blank")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes the page of the example GPT with so many blocks, bare or with everything beside it."""
    folder = tmp_path_factory.mktemp("pages")

    def make(blocks: int = 4, *, whole: bool = False) -> Path:
        path = folder / f"gpt-{blocks}{'-whole' if whole else ''}.html"
        if not path.exists():
            analysis = analyse(GPT, {"blocks": blocks})
            beside = extras("html")
            if whole:
                beside = extras(
                    "html",
                    against=analyse(GPT, {"blocks": 2 * blocks, "heads": 8}),
                    check=write_check(folder / "check.json"),
                    monitor=write_run(folder / "run.jsonl", analysis.program),
                )
            path.write_text(page(analysis, beside), encoding="utf-8")
        return path

    return make


@pytest.fixture
def gpt(tab: Tab, made: Callable[..., Path]) -> Tab:
    """The page of the example GPT."""
    tab.load(made())
    return tab


@pytest.fixture
def whole(tab: Tab, made: Callable[..., Path]) -> Tab:
    """The same with a check, a run and another model beside it."""
    tab.load(made(whole=True))
    return tab
