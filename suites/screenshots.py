"""Screenshots of every page, from real runs of this project on this machine: ``nox -s screenshots``.

Two runs of the smoke suite (the second on one thread, so that a comparison has something to tell), short ones for a
history, two modes against each other in lock-step, a diagnosis, and a simulated scan. Each page is taken light, dark,
on a phone, as a whole, and on paper. What the README shows is copied to where it stands. Needs Chromium
(``LLMBENCH_CHROMIUM=path``).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
SHORT = ["--workload", "regression-linear", "--workload", "gpt-tiny", "--mode", "eager", "--mode", "bf16"]
HISTORY = 12  # runs, of which the last third has one thread
FIRST_SCREEN = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}
PAPER = {"width": 1047, "height": 718}  # A4 landscape without its margins, at 96 dots an inch
SHOTS: dict[str, dict[str, Any]] = {
    "light": {"viewport": FIRST_SCREEN, "color_scheme": "light"},
    "dark": {"viewport": FIRST_SCREEN, "color_scheme": "dark"},
    "light-full": {"viewport": FIRST_SCREEN, "color_scheme": "light", "whole": True},
    "dark-full": {"viewport": FIRST_SCREEN, "color_scheme": "dark", "whole": True},
    "phone": {"viewport": PHONE, "color_scheme": "light", "whole": True, "is_mobile": True, "has_touch": True},
    "print": {"viewport": PAPER, "color_scheme": "dark", "whole": True, "media": "print"},
}
SHOWN = ("run-light", "run-dark", "ab-light", "ab-dark", "compare-light", "compare-dark")
"""What the README shows."""


def llmbench(*arguments: str | Path, **environment: str) -> None:
    """Runs the command. A case that failed or a fault that was found is no reason to stop: the page shows it."""
    command = [sys.executable, "-m", "llmbench", *map(str, arguments)]
    print("$", *(f"{name}={value}" for name, value in environment.items()), "llmbench", *command[3:], flush=True)
    done = subprocess.run(command, env=os.environ | environment, stdout=subprocess.DEVNULL, check=False)
    if done.returncode not in (0, 1, 3):
        raise SystemExit(f"llmbench {command[3]} ended with {done.returncode}")


def make(folder: Path, name: str, *arguments: str, **environment: str) -> Path:
    """A run that is there already is used again."""
    run = folder / name
    if not (run / "report.html").exists():
        shutil.rmtree(run, ignore_errors=True)
        llmbench("run", "smoke", *arguments, "--out", run, **environment)
    return run


def run_page(runs: Path, page: Path) -> None:
    llmbench("report", make(runs, "two-threads"), "--out", page)


def ab_page(runs: Path, page: Path) -> None:
    """Where a mode is faster, slower, and the same."""
    workloads = [part for name in ("regression-linear", "bert-tiny", "gpt-tiny") for part in ("--workload", name)]
    folder = runs / "ab"
    if not (folder / "report.html").exists():
        shutil.rmtree(folder, ignore_errors=True)
        llmbench("ab", "smoke", *workloads, "--base-mode", "eager", "--cand-mode", "bf16", "--out", folder)
    shutil.copy(folder / "report.html", page)


def compare_page(runs: Path, page: Path) -> None:
    llmbench("compare", make(runs, "two-threads"), make(runs, "one-thread", **ONE_THREAD), "--html", page)


def history_page(runs: Path, page: Path) -> None:
    for index in range(HISTORY):
        environment = ONE_THREAD if 3 * index >= 2 * HISTORY else {}
        make(runs / "history", f"{index:02d}", *SHORT, **environment)
    llmbench("history", runs / "history", "--html", page)


def doctor_page(runs: Path, page: Path) -> None:
    llmbench("doctor", "--html", page, **ONE_THREAD)


def scan_page(runs: Path, page: Path) -> None:
    llmbench("scan", "--simulate", "nodes=64,slow=2,slowdown=0.1:0.3,links=1,noise=0.015,seed=7", "--html", page)


PAGES: dict[str, Callable[[Path, Path], None]] = {
    "run": run_page,
    "ab": ab_page,
    "compare": compare_page,
    "history": history_page,
    "doctor": doctor_page,
    "scan": scan_page,
}


def shoot(pages: dict[str, Path], out: Path) -> list[Path]:
    """Every shot of every page, as ``PAGE-SHOT.png``."""
    from playwright.sync_api import sync_playwright

    taken = []
    path = os.environ.get("LLMBENCH_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        for name, page in pages.items():
            for shot, options in SHOTS.items():
                options = dict(options)
                whole, media = options.pop("whole", False), options.pop("media", None)
                context = browser.new_context(**options)
                opened = context.new_page()
                opened.emulate_media(media=media, color_scheme=options["color_scheme"])
                opened.goto(page.resolve().as_uri())
                taken.append(out / f"{name}-{shot}.png")
                opened.screenshot(path=taken[-1], full_page=whole)
                context.close()
        browser.close()
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("reports/runs/screenshots"), help="pages and screenshots")
    parser.add_argument("--runs", type=Path, help="runs, kept and used again (default: OUT/runs)")
    parser.add_argument("--images", type=Path, help="copy what the README shows here")
    parser.add_argument("--page", choices=PAGES, action="append", help="only this one (may be repeated)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    pages = {name: options.out / f"{name}.html" for name in options.page or PAGES}
    for name, page in pages.items():
        PAGES[name](options.runs or options.out / "runs", page)
    for image in shoot(pages, options.out):
        print(image)
        if options.images and image.stem in SHOWN:
            options.images.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, options.images)


if __name__ == "__main__":
    main()
