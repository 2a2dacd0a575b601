"""Write the pictures of the report's page: `python tools/screenshots.py [FOLDER]`.

By default they go to docs/images: the page of examples/gpt.mod, in light and in dark, and beside it
a part of the page with the graph and the source.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from browser import NoBrowser, launched, prefer, resize

from modnorm.pipeline import analyse
from modnorm.report.html import page

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "examples" / "gpt.mod"
SIZE = (1360, 900)
SELECT = """
const names = [...document.querySelectorAll("[role=treeitem]")];
names.find((row) => row.textContent.includes(arguments[0])).click();
document.activeElement.blur();
const place = arguments[1] && document.querySelector(arguments[1]).getBoundingClientRect();
window.scrollTo(0, place ? place.top + window.scrollY - 12 : 0);
"""
PICTURES = {"report": ("attention", ""), "graph": ("mlp", "#graph")}
"""By name: the part that is selected, and the section that is scrolled to."""


def shoot(driver: Any, folder: Path) -> None:
    for scheme in ("light", "dark"):
        prefer(driver, scheme)
        for name, (part, section) in PICTURES.items():
            driver.execute_script(SELECT, part, section)
            resize(driver, *SIZE)
            out = folder / f"{name}-{scheme}.png"
            driver.save_screenshot(str(out))
            print(f"{out.name}: {out.stat().st_size / 1000:.0f} kB")


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        file = work / "gpt.html"
        source = work / MODEL.name
        source.write_text(MODEL.read_text(encoding="utf-8"), encoding="utf-8")
        text = page(analyse(source)).replace(str(source), MODEL.name)
        file.write_text(text, encoding="utf-8")
        try:
            driver = launched(work / "profile")
        except NoBrowser as error:
            sys.exit(str(error))
        try:
            driver.get(file.as_uri())
            resize(driver, *SIZE)
            shoot(driver, folder)
        finally:
            driver.quit()


if __name__ == "__main__":
    main()
