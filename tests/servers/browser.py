"""A real Chromium without a window: the one on PATH, or what `make test` has unpacked into .venv-chromium."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

UNPACKED = Path(__file__).parents[2] / ".venv-chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def running_chromium(folder: Path) -> Iterator[Browser]:
    """A Chromium with a profile of its own; the test is skipped where there is none that starts."""
    playwright = pytest.importorskip("playwright.sync_api")
    path, env = _found(folder)
    started = subprocess.run([path, "--version"], env=env, capture_output=True, text=True, check=False)
    if started.returncode:
        pytest.skip(f"{path} does not start: {started.stderr.strip() or started.returncode}")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=FLAGS, env=env)
        try:
            yield browser
        finally:
            browser.close()


def _found(folder: Path) -> tuple[str, dict[str, str]]:
    for name in ("chromium", "google-chrome"):
        path = shutil.which(name)
        if path is not None:
            return path, dict(os.environ)
    path = UNPACKED / "usr/lib/chromium/chromium-headless-shell"
    if not path.is_file():
        pytest.skip("no chromium on PATH or in .venv-chromium, where `make test` unpacks it if there is an apt-get")
    libraries = sorted({str(library.parent) for library in UNPACKED.rglob("*.so*")})
    env = {**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)}
    fonts = UNPACKED / "usr/share/fonts"
    if fonts.is_dir():  # the system has none
        config = folder / "fonts.conf"
        config.write_text(f"<fontconfig><dir>{fonts}</dir><cachedir>{folder / 'fonts'}</cachedir></fontconfig>")
        env["FONTCONFIG_FILE"] = str(config)
    return str(path), env
