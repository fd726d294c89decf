"""Results for tests of reports: one of each kind, and timelines whose numbers are made up."""

from __future__ import annotations

import json
from pathlib import Path

from streamload._report import Result, read_result, result_of

COMMITTED = sorted((Path(__file__).parents[1] / "benchmarks" / "results").glob("*.json"))

LAYERS = ("model.embed_tokens", *(f"model.layers.{number}" for number in range(4)), "lm_head")


def timeline(title, first_token, *, overlapped):
    """Layers that take a tenth of a second to read, copy and compute; computing waits for all, or for its layer."""
    spans = []
    for number, layer in enumerate(LAYERS):
        at = number * 0.1
        begin = at + 0.1 if overlapped else 0.7 + at
        spans += [
            {"lane": "read", "layer": layer, "start": at, "end": at + 0.04, "nbytes": 1_000_000 + number, "thread": 0},
            {
                "lane": "copy",
                "layer": layer,
                "start": at + 0.05,
                "end": at + 0.09,
                "nbytes": 1_000_000 + number,
                "thread": 0,
            },
            {"lane": "compute", "layer": layer, "start": begin, "end": begin + 0.08, "nbytes": 0, "thread": 0},
        ]
    instants = [["load call returned", 0.01 if overlapped else 0.6], ["first token", first_token]]
    return {"title": title, "layers": list(LAYERS), "spans": spans, "instants": instants}


TIMELINES = [
    timeline("the usual way: load everything, then compute", 1.3, overlapped=False),
    timeline("streamed: compute while the weights arrive", 0.7, overlapped=True),
]

COLD_START = {
    "kind": "cold start",
    "started": 1_795_000_000.25,
    "seconds": 4.0,
    "wall_seconds": 4.01,
    "totals": {"process_start": 0.25, "imports": 2.5, "first_token": 1.25},
    "reached": {"process_start": 0.25, "all_resident": 3.5, "first_token": 4.0},
    "phases": [
        {"name": "process_start", "start": 0.0, "end": 0.25, "detail": ""},
        {"name": "imports", "start": 0.25, "end": 2.25, "detail": "torch"},
        {"name": "first_token", "start": 2.25, "end": 2.5, "detail": ""},
        {"name": "imports", "start": 2.5, "end": 3.0, "detail": "transformers"},
        {"name": "first_token", "start": 3.0, "end": 4.0, "detail": ""},
    ],
    "loads": [
        {
            "name": "model",
            "submitted": 3.0,
            "first_byte": 3.1,
            "all_resident": 3.5,
            "layers": {"0": 3.2, "1": 3.5},
            "stats": {"bytes_total": 1_000_000_000, "stall_seconds": 0.125},
            "bytes_per_second": 2e9,
            "cache_hit_bytes": 0,
        }
    ],
}

HOSTILE = "</script><script>alert(1)</script><!-- \"'& <img src=x onerror=alert(2)> \U0001f600"


def committed(stem) -> Result:
    """A committed result by the end of its name."""
    path = max(path for path in COMMITTED if path.stem.endswith(stem))  # the newest, by the date in its name
    return read_result(path)


def as_result(content, name="made-up.json") -> Result:
    """A result as `--json` would have written it."""
    return result_of(name, json.dumps(content, indent=2) + "\n")


def with_timelines() -> Result:
    """The demo's committed result, with timelines that are made up."""
    return as_result({**committed("host-demo").content, "timelines": TIMELINES}, "timelines.json")


def hostile() -> Result:
    """A result in which every text a stranger may have chosen ends a script, and whose file is unusual, too."""
    content = json.loads(json.dumps(dict(committed("host-source").content)))
    content["url"] = content["command"] = HOSTILE
    content["scores"][1]["name"] = HOSTILE
    content["scores"][9]["cannot_run"] = HOSTILE + "\ud800"
    content["machine"]["processor"] = HOSTILE
    layers = [HOSTILE, "__proto__", "constructor"]
    spans = [
        {"lane": "read", "layer": layer, "start": 0.1 * place, "end": 0.1 * place + 0.05, "nbytes": 1, "thread": 0}
        for place, layer in enumerate(layers)
    ]
    content["timelines"] = [{"title": HOSTILE, "layers": layers, "spans": spans, "instants": [[HOSTILE, 0.2]]}]
    return result_of(f"{HOSTILE}.json".replace("/", "∕"), json.dumps(content, indent=1).replace("\n", "\r\n"))
