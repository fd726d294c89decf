"""Colours and type of a report.

Part of `_report`; pure. Charts name colours by what they stand for. On the page these are CSS variables, so that it
turns dark, and light for paper, without JavaScript; a picture gets the light ones. Orange, blue and grey are apart for
every kind of colour blindness, and by lightness.
"""

from __future__ import annotations

from typing import Final

__all__ = ["DARK", "FONT", "LIGHT", "css_variables", "in_light", "token"]

FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

LIGHT: Final = {
    "paper": "#ffffff",
    "raised": "#f5f7f9",
    "ink": "#18222d",
    "quiet": "#586574",
    "line": "#dfe5ea",
    "ceiling": "#93a1b0",
    "streamload": "#0a66b7",
    "peer": "#e0913a",
    "read": "#a9b8c6",
    "copy": "#e0913a",
    "compute": "#0a66b7",
    "mark": "#c2185b",
}
DARK: Final = {
    "paper": "#10161c",
    "raised": "#19212a",
    "ink": "#e7ecf1",
    "quiet": "#9aa8b6",
    "line": "#2b3641",
    "ceiling": "#738394",
    "streamload": "#58aaf5",
    "peer": "#e8a354",
    "read": "#65768a",
    "copy": "#e8a354",
    "compute": "#58aaf5",
    "mark": "#ff7fae",
}


def token(name: str) -> str:
    """Return a colour by what it stands for, as the page's style sheet has it."""
    return f"var(--{name})"


def css_variables(colours: dict[str, str]) -> str:
    """Return colours as declarations of CSS variables."""
    return "".join(f"--{name}:{colour};" for name, colour in colours.items())


def in_light(spec: object) -> object:
    """Return a chart with the light colours in the place of CSS variables."""
    if isinstance(spec, dict):
        return {key: in_light(value) for key, value in spec.items()}
    if isinstance(spec, list):
        return [in_light(value) for value in spec]
    if isinstance(spec, str) and spec.startswith("var(--") and spec[6:-1] in LIGHT:
        return LIGHT[spec[6:-1]]
    return spec
