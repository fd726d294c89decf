"""Turn checkpoints, load plans and verdicts into tables and JSON.

Part of `cli`; needs neither torch nor the native core.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from .._plan import Copy, make_plan
from .._units import say_bytes, say_count, say_rate, say_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .._checkpoint import Layer
    from .._format import TensorInfo
    from .._plan import LoadPlan
    from .._verify import Summed, Verdict
    from ._selection import LayerPart, Selection

__all__ = [
    "LayerReads",
    "describe_checkpoint",
    "describe_plan",
    "describe_summed",
    "describe_verdict",
    "inspect_tables",
    "padded_bytes",
    "plan_layers",
    "plan_table",
    "printable",
    "table",
    "verdict_text",
]

_ALIGNMENT = 256  # of a tensor's place on the device
_MOST_FAULTS = 50  # listed for a person; JSON has all


def describe_checkpoint(chosen: Selection) -> dict[str, object]:
    """Return everything `inspect` knows of the chosen tensors, as JSON can hold it."""
    checkpoint, layer_of = chosen.checkpoint, chosen.layer_of()
    return {
        "url": checkpoint.url,
        "nbytes": chosen.nbytes,
        "metadata": dict(checkpoint.metadata),
        "dtypes": _dtypes(chosen.tensors),
        "shards": [
            {"url": shard.url, "file_nbytes": shard.nbytes, **_count(tensors)}
            for shard, tensors in zip(checkpoint.shards, chosen.by_shard(), strict=True)
        ],
        "layers": [{"name": layer.name, **_count(layer.tensors)} for layer in chosen.layers],
        "tensors": {
            tensor.name: {
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "nbytes": tensor.nbytes,
                "layer": layer_of[tensor.name],
                "shard": tensor.shard,
                "start": tensor.start,
                "end": tensor.end,
            }
            for tensor in chosen.tensors
        },
    }


def inspect_tables(chosen: Selection, *, tensors: bool) -> str:
    """Return a checkpoint as text: a summary, its shards, its layers, and every chosen tensor if asked for."""
    checkpoint = chosen.checkpoint
    shards = [
        (printable(shard.url.rpartition("/")[2]), *_row(members))
        for shard, members in zip(checkpoint.shards, chosen.by_shard(), strict=True)
        if members or chosen.whole
    ]
    layers = [(printable(layer.name) or "(rest)", *_row(layer.tensors)) for layer in chosen.layers]
    parts = [
        _summary(chosen),
        table(("shard", "tensors", "bytes", "dtypes"), shards),
        table(("layer", "tensors", "bytes", "dtypes"), layers),
    ]
    if tensors:
        rows = [
            (
                printable(tensor.name),
                tensor.dtype,
                "x".join(map(str, tensor.shape)) or "scalar",
                say_bytes(tensor.nbytes),
                printable(checkpoint.shards[tensor.shard].url.rpartition("/")[2]),
                str(tensor.start),
                str(tensor.end),
            )
            for tensor in chosen.tensors
        ]
        parts.append(table(("tensor", "dtype", "shape", "bytes", "shard", "start", "end"), rows))
    return "\n\n".join(parts if chosen.tensors or chosen.whole else parts[:1])


def _summary(chosen: Selection) -> str:
    """Say where a checkpoint is, how much was chosen of how much, and the dtypes of that."""
    checkpoint = chosen.checkpoint
    kinds = ", ".join(f"{dtype} {say_bytes(nbytes)}" for dtype, nbytes in _dtypes(chosen.tensors).items())
    held = {"tensor": checkpoint, "shard": checkpoint.shards, "layer": checkpoint.layers}
    counts = ", ".join(say_count(len(things), noun) for noun, things in held.items())
    lines = [printable(checkpoint.url), f"{say_bytes(checkpoint.nbytes)} in {counts}"]
    if not chosen.whole:
        lines.append(f"chosen: {say_bytes(chosen.nbytes)} in {say_count(len(chosen.tensors), 'tensor')}")
    return "\n".join([*lines, kinds or "no tensors"])


@dataclass(frozen=True, slots=True)
class LayerReads:
    """Hold what one layer costs: one group of the plan.

    Attributes:
        layer: Its name.
        tensors: How many it has.
        nbytes: Their bytes.
        reads: Reads its bytes arrive in.
        copies: Pieces those reads are copied to.
        dtypes: Bytes of each dtype.
        places: Where its bytes lie: shard, first byte and one past the last, for each shard that has some.
    """

    layer: str
    tensors: int
    nbytes: int
    reads: int
    copies: int
    dtypes: dict[str, int]
    places: list[tuple[int, int, int]]


def describe_plan(chosen: Selection, *, chunk_bytes: int) -> list[LayerReads]:
    """Plan the load of the chosen tensors, one group a layer, and count what each layer takes."""
    load_plan = plan_layers(chosen.layers, chunk_bytes=chunk_bytes)
    reads, copies = [0] * load_plan.group_count, [0] * load_plan.group_count
    firsts = [*load_plan.reads[4::5], load_plan.copy_count]
    for number, group in enumerate(load_plan.reads[3::5]):
        reads[group] += 1
        copies[group] += firsts[number + 1] - firsts[number]
    return [
        LayerReads(
            layer.name,
            len(layer.tensors),
            layer.nbytes,
            reads[group],
            copies[group],
            _dtypes(layer.tensors),
            _places(layer.tensors),
        )
        for group, layer in enumerate(chosen.layers)
    ]


def _places(tensors: Sequence[TensorInfo]) -> list[tuple[int, int, int]]:
    """Return the range of bytes that tensors lie in, of each shard that has some; there may be others' between."""
    ranges: dict[int, tuple[int, int]] = {}
    for tensor in tensors:
        start, end = ranges.get(tensor.shard, (tensor.start, tensor.end))
        ranges[tensor.shard] = min(start, tensor.start), max(end, tensor.end)
    return [(shard, *ranges[shard]) for shard in sorted(ranges)]


def plan_layers(layers: Sequence[Layer | LayerPart], *, chunk_bytes: int) -> LoadPlan:
    """Plan the load of layers, one group each, each tensor aligned to 256 bytes as a loader would."""
    groups: list[list[Copy]] = []
    address = _ALIGNMENT
    for layer in layers:
        groups.append([])
        for tensor in layer.tensors:
            groups[-1].append(Copy(tensor.shard, tensor.start, tensor.end, address))
            address += padded_bytes(tensor)
    return make_plan(groups, chunk_bytes=chunk_bytes)


def padded_bytes(tensor: TensorInfo) -> int:
    """Return what a tensor takes on the device, in bytes."""
    return -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT


def plan_table(layers: Sequence[LayerReads], *, chunk_bytes: int) -> str:
    """Return a described plan as text."""
    nbytes, reads = sum(layer.nbytes for layer in layers), sum(layer.reads for layer in layers)
    copies = sum(layer.copies for layer in layers)
    head = (
        f"{say_bytes(nbytes)} in {len(layers)} groups: {reads} reads of at most {say_bytes(chunk_bytes)} "
        f"({say_bytes(nbytes / max(reads, 1))} on average), {copies} copies"
    )
    rows = [
        (
            printable(layer.layer) or "(rest)",
            str(layer.tensors),
            say_bytes(layer.nbytes),
            str(layer.reads),
            str(layer.copies),
            " ".join(layer.dtypes),
            ", ".join(f"{shard}:{start}-{end}" for shard, start, end in layer.places),
        )
        for layer in layers
    ]
    columns = ("group", "tensors", "bytes", "reads", "copies", "dtypes", "shard:start-end")
    return f"{head}\n\n{table(columns, rows)}"


def describe_summed(summed: Summed) -> str:
    """Return what was summed, and where the sums are, as text."""
    return f"{_summed(summed)}\nwritten to {printable(summed.manifest)}"


def describe_verdict(verdict: Verdict) -> dict[str, object]:
    """Return a verdict as JSON can hold it."""
    return {"right": verdict.right, **asdict(verdict), "bytes_per_second": verdict.nbytes / verdict.seconds}


def verdict_text(verdict: Verdict, *, unicode: bool) -> str:
    """Return a verdict as text: one line when all is right, else what is wrong and where.

    Args:
        verdict: What `verify` found.
        unicode: Whether the terminal takes more than ASCII.
    """
    if verdict.right:
        return f"right: {_summed(verdict)}"
    dash = "–" if unicode else "-"
    rows = [
        (
            printable(fault.shard) or "-",
            "-" if fault.tensor is None else printable(fault.tensor),
            f"{fault.start}{dash}{fault.end}",
            " ".join(printable(fault.text).split()),
        )
        for fault in verdict.faults[:_MOST_FAULTS]
    ]
    more = len(verdict.faults) - len(rows)
    return "\n".join(
        [
            f"wrong: {say_count(len(verdict.faults), 'fault')}; {_summed(verdict)}; "
            f"manifest {printable(verdict.manifest)}",
            "",
            table(("shard", "tensor", "bytes", "what"), rows),
            *([f"and {say_count(more)} more; --json lists all"] if more else []),
        ]
    )


def _summed(done: Summed | Verdict) -> str:
    read = f"{say_bytes(done.nbytes)} in {say_count(done.shards, 'shard')}, {say_count(done.tensors, 'tensor')}"
    return f"{read}, read in {say_seconds(done.seconds)} at {say_rate(done.nbytes / done.seconds)}"


def printable(name: str) -> str:
    """Return a name as a terminal may be shown it: control characters would break the table, or worse."""
    return name if name.isprintable() else repr(name)[1:-1]


def _dtypes(tensors: Iterable[TensorInfo]) -> dict[str, int]:
    found: dict[str, int] = {}
    for tensor in tensors:
        found[tensor.dtype] = found.get(tensor.dtype, 0) + tensor.nbytes
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _count(tensors: Sequence[TensorInfo]) -> dict[str, object]:
    nbytes = sum(tensor.nbytes for tensor in tensors)
    return {"tensors": len(tensors), "nbytes": nbytes, "dtypes": _dtypes(tensors)}


def _row(tensors: Sequence[TensorInfo]) -> tuple[str, str, str]:
    nbytes = sum(tensor.nbytes for tensor in tensors)
    return str(len(tensors)), say_bytes(nbytes), " ".join(_dtypes(tensors))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align columns: numbers to the right, words to the left."""
    everything = [head, *rows]
    widths = [max(len(row[column]) for row in everything) for column in range(len(head))]
    right = [column > 0 and all(row[column][:1].isdigit() for row in rows) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in everything
    )
