"""The report of a study of 1,000 trials: writing it, and opening it in a browser.

    python benchmarks/report.py [--runs 7] [--trials 1000] [--beside CHECKOUT]

The study is made up (``tests/studies.py``). *command* is ``vae-tune report``, from its start to its end; *written* is
the part of it after its imports, as at the end of a search. *first figure* and *first view* are the times from opening
the page in Chromium until the first figure in the window is drawn and shown, and until all of them are; the window is
as large as the README's picture of a report. ``--beside`` alternates with the code of another checkout, such as a
``git worktree`` of an older commit.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from harness import FOLDER, checkouts, in_checkout, publish, ratio, spread

WINDOW = {"width": 1280, "height": 1670}
WRITE = """
import sys, time
from vae_tune.views.report.page import write_report
write_report(sys.argv[1], sys.argv[2])
start = time.perf_counter()
write_report(sys.argv[1], sys.argv[2])
print(time.perf_counter() - start)
"""
NOTE_MOMENTS = """
const note = (moment) => requestAnimationFrame(() => setTimeout(() => (window[moment] ??= performance.now())));
function look() {
  const inWindow = [...document.querySelectorAll("[data-card]:has(.plot)")].filter((card) => {
    const { top, bottom } = card.getBoundingClientRect();
    return bottom > 0 && top < innerHeight;
  });
  const drawn = inWindow.filter((card) => card.querySelector(".main-svg"));
  if (drawn.length) note("firstFigure");
  if (drawn.length && drawn.length === inWindow.length) note("firstView");
  else requestAnimationFrame(look);
}
addEventListener("DOMContentLoaded", look);
"""
"""Sets ``firstFigure`` and ``firstView`` to the milliseconds from opening the page until that is shown."""
HELPERS = ("tests.browser:browser", "tests.browser:find_chromium", "tests.studies:make_study")
PARTS = ("command", "written", "first figure", "first view")


def write(checkout: Path, study: Path, page: Path) -> dict[str, float]:
    """Write the report of a study, and return the seconds of the command and those after its imports."""
    how = in_checkout(checkout)
    start = time.perf_counter()
    command = [sys.executable, "-m", "vae_tune", "report", str(study), "--output", str(page)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, **how)
    command_seconds = time.perf_counter() - start
    command = [sys.executable, "-c", WRITE, str(study), str(page)]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, **how).stdout
    return {"command": command_seconds, "written": float(output)}


def first_view(chromium: Any, page: Path) -> dict[str, float]:
    """Open a page; return the seconds until the first figure in the window is shown, and until all of them are."""
    opened = chromium.new_page(viewport=WINDOW)
    opened.add_init_script(NOTE_MOMENTS)
    opened.goto(page.as_uri())
    opened.wait_for_function("() => window.firstView")
    moments = opened.evaluate("[window.firstFigure, window.firstView]")
    opened.close()
    return {part: moment / 1e3 for part, moment in zip(PARTS[2:], moments, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--beside", type=Path)
    options = parser.parse_args()
    sys.path.insert(0, str(FOLDER.parent))
    browser, find_chromium, make_study = map(resolve_name, HELPERS)
    path, problem = find_chromium()
    if path is None:
        parser.error(problem)
    ways = checkouts(options.beside)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as place:
        study = make_study(Path(place) / "study", trials=options.trials)
        for run in range(options.runs + 1):
            for name, checkout in ways.items():
                page = Path(place) / "report.html"
                seconds = write(checkout, study, page)
                with browser(path) as chromium:
                    seconds |= first_view(chromium, page)
                if run:  # the first one warms up
                    found[name].append(seconds)
                    print(f"  {name}: {seconds}", flush=True)
    base = next(iter(found.values()))
    rows = []
    for name, runs in found.items():
        taken = [[run[part] for run in runs] for part in PARTS]
        ratios = [f"{ratio(own, [run[part] for run in base]):.2f} x" for part, own in zip(PARTS, taken, strict=True)]
        rows.append([name, *(cell for own in zip(map(spread, taken), ratios, strict=True) for cell in own)])
    columns = ["", *(cell for part in PARTS for cell in (f"{part}, s", "of the first"))]
    title = f"A report of {options.trials} trials; medians of {options.runs} runs in turn (least to most)"
    publish("report", title, columns, rows, found)


if __name__ == "__main__":
    main()
