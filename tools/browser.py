"""Chromium without a window, for tests of the report's page, its pictures and its benchmark."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-device-scale-factor=1",
)
NAMES = ("chromium", "chromium-browser", "google-chrome")


class NoBrowser(RuntimeError):
    """There is no Chromium, or nothing that drives it; its text says what is missing."""


def launched(profile: Path) -> Any:
    """A selenium driver of a new browser; `profile` is an empty folder.

    Raises:
        NoBrowser: if selenium, Chromium or chromedriver is not installed.
    """
    try:
        from selenium import webdriver
    except ImportError:
        raise NoBrowser('selenium is not installed: pip install "modnorm[browser]"') from None
    program = next(filter(None, map(shutil.which, NAMES)), None)
    service = shutil.which("chromedriver")
    if program is None or service is None:
        missing = "Chromium" if program is None else "chromedriver"
        raise NoBrowser(f"{missing} is not installed (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(service))


def prefer(driver: Any, scheme: str) -> None:
    """Let the browser prefer the colour scheme `light` or `dark`."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def resize(driver: Any, width: int, height: int) -> None:
    """Give the page a size in pixels, and wait until it is drawn."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => setTimeout(done, 50))"
    )
