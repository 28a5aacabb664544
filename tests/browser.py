"""A real browser for what a page does in one; as a script, the screenshot for the README.

``python -m tests.browser results/NAME docs/images/report.png`` draws the top of a study's report.
"""

import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.debian import install

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium():
    """Return the path of a Chromium, installed from Debian where this runs as root; else why there is none."""
    if path := next(filter(None, map(shutil.which, NAMES)), None):
        return path, ""
    if problem := install("chromium"):
        return None, f"no browser: none of {', '.join(NAMES)} is installed, and {problem}"
    return shutil.which("chromium"), "no browser: chromium was installed, but is not in PATH"


@contextmanager
def browser(path):
    """Run the Chromium at ``path``, without a screen."""
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if root else [])
        yield chromium
        chromium.close()


def screenshot(folder, output, width=1280, height=1670):
    """Draw the top of the report of the study in ``folder``."""
    from vae_tune.views.report.page import write_report

    path, problem = find_chromium()
    if path is None:
        sys.exit(problem)
    with tempfile.TemporaryDirectory() as place, browser(path) as chromium:
        page = chromium.new_page(viewport={"width": width, "height": height})
        page.goto(write_report(folder, Path(place) / "report.html").as_uri())
        page.wait_for_function("() => document.querySelectorAll('.js-plotly-plot .main-svg').length > 2")
        page.screenshot(path=output)


if __name__ == "__main__":
    screenshot(*sys.argv[1:3])
