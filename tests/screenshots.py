"""Make the pictures of docs/report.md: `.venv/bin/python -m tests.screenshots`, after `make test` has set all up."""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

from streamload._report import read_result, write_report

from .servers.browser import running_chromium

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "report"
OVERLAP, SOURCE = FOLDER / "overlap.json", ROOT / "benchmarks" / "results" / "2026-11-28-host-source.json"
SHOTS = (
    # name, result, width, height, colours
    ("timeline-1440", OVERLAP, 1440, 1290, "light"),
    ("source-820-dark", SOURCE, 820, 1000, "dark"),
    ("source-360", SOURCE, 360, 1000, "light"),
)


def main():
    with tempfile.TemporaryDirectory() as name, running_chromium(Path(name)) as browser:
        for stem, result, width, height, scheme in SHOTS:
            path = Path(name) / f"{stem}.html"
            write_report([read_result(result)], str(path), made="Made for docs/report.md")
            size = {"width": width, "height": height}
            with browser.new_context(viewport=size, color_scheme=scheme, offline=True) as context:
                page = context.new_page()
                page.goto(path.as_uri())
                page.wait_for_selector("html[data-drawn=all]", state="attached")
                if stem.startswith("source"):  # the pointer over streamload's own bar
                    bar = page.locator("#chart-0-0 g.hit_marks > path").nth(1)
                    box = bar.bounding_box()
                    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.7)
                    page.wait_for_selector("#vg-tooltip-element.visible")
                picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(128)
            picture.save(FOLDER / f"{stem}.png", optimize=True)
            sys.stdout.write(f"{FOLDER / stem}.png\n")


if __name__ == "__main__":
    main()
