"""What `modnorm report` takes for 4 and 1000 blocks, and a browser to open its page for 96.

    python benchmarks/report.py [--rounds 9]

In turns; prints medians as Markdown tables. The second table needs Chromium, chromedriver and
selenium: it has the time from a page's start to its being ready and to its `load` event.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
GPT = ROOT / "examples" / "gpt.mod"
FORMATS = ("text", "json", "markdown", "html", "dot")
BLOCKS = (4, 1000)
LOADED = """
const [at] = performance.getEntriesByType("navigation");
return [at.domInteractive, at.loadEventEnd];
"""


def report(form: str, blocks: int, out: Path) -> list[str]:
    options = ["--format", form, "-p", f"blocks={blocks}", "-o", str(out)]
    return [sys.executable, "-m", "modnorm", "report", str(GPT), *options]


def timed(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - start


def reports(folder: Path, rounds: int) -> None:
    times: dict[tuple[str, int], list[float]] = {}
    sizes: dict[tuple[str, int], int] = {}
    for turn in range(rounds + 1):
        for form in FORMATS:
            for blocks in BLOCKS:
                out = folder / f"{form}-{blocks}"
                seconds = timed(report(form, blocks, out))
                if turn:  # the first only warms up
                    times.setdefault((form, blocks), []).append(seconds)
                sizes[form, blocks] = out.stat().st_size
    print("| format | 4 blocks, s | 1000 blocks, s | ratio | 4 blocks, kB | 1000 blocks, kB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for form in FORMATS:
        few, many = (statistics.median(times[form, blocks]) for blocks in BLOCKS)
        small, large = (sizes[form, blocks] / 1000 for blocks in BLOCKS)
        print(f"| {form} | {few:.3f} | {many:.3f} | {many / few:.2f} | {small:.0f} | {large:.0f} |")


def opened(driver: Any, page: Path) -> tuple[float, float]:
    """Seconds until the page's scripts have run, and until it is loaded."""
    driver.get("about:blank")
    driver.get(page.as_uri())
    interactive, loaded = driver.execute_script(LOADED)
    return interactive / 1000, loaded / 1000


def pages(folder: Path, rounds: int) -> None:
    sys.path.insert(0, str(ROOT / "tools"))
    from browser import NoBrowser, launched

    try:
        driver = launched(folder / "profile")
    except NoBrowser as error:
        print(f"\nThe page was not opened: {error}.")
        return
    try:
        print("\n| page | size, kB | scripts done, s | loaded, s | messages |")
        print("| --- | --- | --- | --- | --- |")
        for blocks in (4, 96, 1000):
            page = folder / f"{blocks}.html"
            subprocess.run(report("html", blocks, page), check=True)
            driver.get_log("browser")
            found = [opened(driver, page) for _ in range(rounds)]
            done, loaded = (statistics.median(column) for column in zip(*found, strict=True))
            size, messages = page.stat().st_size / 1000, len(driver.get_log("browser"))
            print(f"| {blocks} blocks | {size:.0f} | {done:.3f} | {loaded:.3f} | {messages} |")
    finally:
        driver.quit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    print(f"{platform.platform()}, Python {platform.python_version()}, {rounds} rounds\n")
    with tempfile.TemporaryDirectory() as name:
        reports(Path(name), rounds)
        pages(Path(name), rounds)


if __name__ == "__main__":
    main()
