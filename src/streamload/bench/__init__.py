"""Benchmarks: what is reached, against a ceiling and peers measured in the same process.

Floor 6; needs torch. Every contestant of a round runs once before any runs again, in an order that turns, so that
a slow moment of the machine meets all of them. The map:

    _engine         `streamload bench engine`: bytes from files into memory
    _many           the same bytes in few tensors and in many, and the cost of planning
    _course         what everyone works on, and what is right
    _contestants    what takes part: ceilings, streamload, peers
    _ours           streamload, as users call it
    _traced         the same once more, by layer, for timelines
    _overlap        `streamload bench overlap`: moving weights hidden behind computing
    _pretrained     `streamload bench from_pretrained`: transformers' load, stock and streamed
    _source         `streamload bench source`: weights from an object store, beside other clients
    _link           `streamload bench link`: copies to the device by size, and what pinning costs
    _storage        `streamload bench storage`: a drive, or a bucket, by depth and size
    _compare        `streamload bench compare`: every installed loader over one model, warm and cold
    _agree          `streamload bench agree`: two results of one kind, figure by figure
    _samples        the samples of a figure: their spread, and whether others say the same
    _figures        a rate with its size and depth, and tables of them
    _progress       how far a benchmark is
    _schemas        the JSON Schema of each kind of result
    _settings       what is asked for, and what peers find in the environment
    _peers          other loaders, one in a file
    _ceiling        the fastest way to move the bytes that needs nothing of ours
    _ceiling_ring   the same through small buffers
    _ceiling_drive  the drive's own rate
    _planning       opening and planning, by the tensor
    _shapes         checkpoints of many tensors
    _rounds         how contestants are timed
    _forks          a process for each run, with torch imported already
    _memory         how their memory is watched
    _result         what comes out: figures, ratios, a JSON file
    _table          the same as text
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._agree._agreement import Agreement, agreement_of
from ._compare._result import CompareBench
from ._link._result import LinkBench
from ._many_result import ManyTensorsBench
from ._overlap._result import OverlapBench
from ._pretrained._result import PretrainedBench
from ._progress import SILENT, BenchProgress
from ._result import BenchError, EngineBench
from ._schemas import result_kinds, result_schema
from ._settings import (
    CompareSettings,
    LinkSettings,
    OverlapSettings,
    PeerSettings,
    PretrainedSettings,
    SourceSettings,
    StorageSettings,
)
from ._source._result import SourceBench
from ._storage._result import StorageBench

if TYPE_CHECKING:
    import os

__all__ = [
    "Agreement",
    "BenchError",
    "BenchProgress",
    "CompareBench",
    "CompareSettings",
    "EngineBench",
    "LinkBench",
    "LinkSettings",
    "ManyTensorsBench",
    "OverlapBench",
    "OverlapSettings",
    "PeerSettings",
    "PretrainedBench",
    "PretrainedSettings",
    "SourceBench",
    "SourceSettings",
    "StorageBench",
    "StorageSettings",
    "agreement_of",
    "result_kinds",
    "result_schema",
    "run_compare_bench",
    "run_engine_bench",
    "run_link_bench",
    "run_many_tensors_bench",
    "run_overlap_bench",
    "run_pretrained_bench",
    "run_source_bench",
    "run_storage_bench",
]


def run_engine_bench(
    path: str | os.PathLike[str] | None = None,
    *,
    device: str = "cpu",
    repeat: int = 8,
    cold: bool = False,
    tensors: int | None = None,
    peer_settings: PeerSettings | None = None,
    command: str = "",
    progress: BenchProgress = SILENT,
) -> EngineBench:
    """Measure ceilings, streamload and its peers over one checkpoint, interleaved.

    Args:
        path: The checkpoint; None makes one of about 1 GB in a temporary directory.
        device: "cpu" or "cuda:N".
        repeat: Rounds; each runs everything once.
        cold: Drop the files from the page cache before each run.
        tensors: How many tensors the checkpoint made here has, as a mixture of experts; None makes a Llama.
        peer_settings: What peers find in the environment, for the record.
        command: What was typed, for the record.
        progress: Shows how far it is.

    Raises:
        BenchError: There is no such device, the checkpoint is empty, streamload's bytes are wrong, or `tensors` came
            with a path.
        FormatError: The checkpoint is not valid.
        FileNotFoundError: There is none.
    """
    from ._engine import run  # torch

    settings = PeerSettings() if peer_settings is None else peer_settings
    return run(
        path,
        device,
        repeat=repeat,
        cold=cold,
        tensors=tensors,
        settings=settings,
        command=command,
        progress=progress,
    )


def run_many_tensors_bench(
    *,
    device: str = "cpu",
    repeat: int = 8,
    counts: tuple[int, int] = (300, 20_000),
    planned: int = 90_000,
    nbytes: int | None = None,
    command: str = "",
    progress: BenchProgress = SILENT,
) -> ManyTensorsBench:
    """Measure streamload over the same bytes in few tensors and in many, and what planning still more takes.

    Args:
        device: "cpu" or "cuda:N".
        repeat: Rounds; each runs everything once.
        counts: Tensors of the two checkpoints, the fewer first.
        planned: Tensors of the one that is only opened and planned.
        nbytes: Bytes of each checkpoint; None: about 1 GB.
        command: What was typed, for the record.
        progress: Shows how far it is.

    Raises:
        BenchError: There is no such device, or streamload's bytes are wrong.
    """
    from ._many import run  # torch

    return run(device, repeat=repeat, counts=counts, planned=planned, nbytes=nbytes, command=command, progress=progress)


def run_overlap_bench(settings: OverlapSettings, progress: BenchProgress = SILENT) -> OverlapBench:
    """Measure first tokens of a model that is not there yet, beside the ceiling and the same model resident.

    Raises:
        BenchError: There is no such device, an output differed, or a load left something behind.
        SubjectError: The model cannot be computed with.
        FormatError: The checkpoint is not valid.
        FileNotFoundError: There is none.
    """
    from ._overlap._run import run  # torch

    return run(settings, progress)


def run_pretrained_bench(settings: PretrainedSettings, progress: BenchProgress = SILENT) -> PretrainedBench:
    """Measure transformers' `from_pretrained`, stock and streamed, each load in a process of its own, by turns.

    Raises:
        BenchError: There is no such device, the model is no causal language model, both ways did not give the same
            weights and tokens, or a load failed.
        FormatError: The checkpoint is not valid.
        FileNotFoundError: There is none.
    """
    from ._pretrained._run import run  # torch, transformers

    return run(settings, progress)


def run_source_bench(settings: SourceSettings, progress: BenchProgress = SILENT) -> SourceBench:
    """Measure streamload over an object store beside raw sockets and other people's clients.

    Every client moves the same bytes once in a process of its own, by turns; in the first round its bytes are compared
    once the clock has stopped. The clock starts when the client is made and the checkpoint's headers are read.

    Raises:
        BenchError: There is no server, streamload failed, or its bytes were wrong.
        SourceError, FileNotFoundError, PermissionError, FormatError: As opening the checkpoint does.
    """
    from ._source._run import run  # torch

    return run(settings, progress)


def run_link_bench(settings: LinkSettings, progress: BenchProgress = SILENT) -> LinkBench:
    """Measure copies to a device by their size, and what pinning host memory costs.

    On "cpu" host memory stands for the device, which the result says.

    Raises:
        BenchError: There is no such device.
        DeviceError: The device refused.
    """
    from ._link._run import run

    return run(settings, progress)


def run_storage_bench(settings: StorageSettings, progress: BenchProgress = SILENT) -> StorageBench:
    """Measure a drive, or a bucket.

    A drive cold, around the page cache and through it, and warm; a bucket by the number of connections, and how long
    the first byte takes.

    Raises:
        BenchError: There is nothing to read, or streamload's bytes are wrong.
        FileNotFoundError, PermissionError, SourceError, FormatError: As opening it does.
    """
    from ._storage._run import run

    return run(settings, progress)


def run_compare_bench(settings: CompareSettings, progress: BenchProgress = SILENT) -> CompareBench:
    """Load one model with every loader that is installed, by turns, warm and cold.

    Before the clock starts each loader's bytes are compared with safetensors'.

    Raises:
        BenchError: There is no such device, the checkpoint is empty, or streamload's bytes are wrong.
        FormatError: The checkpoint is not valid.
        FileNotFoundError: There is none.
    """
    from ._compare._run import run  # torch

    return run(settings, progress)
