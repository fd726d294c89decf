"""What the demo shows and the benchmarks measure with: models that compute, and the checkpoints they come from.

Floor 5; needs torch, and transformers for checkpoints that are not of our own making. The map:

    _llama      a Llama-shaped model in plain torch
    _accelerator the same, as slow as a simulated accelerator
    _subject    a checkpoint and how to compute with it: our own Llama, or any transformers directory
    _residue    what a load leaves in a module: nothing, if all is well
    _clocks     marks in time, on the host or on a CUDA stream
    _marks      when each part of a module computed, for a timeline
    _processors one processor left to those who copy
"""

from ._clocks import Clock, open_clock
from ._llama import build_llama
from ._marks import Marks
from ._processors import one_processor_for_copying
from ._residue import residue
from ._subject import Subject, SubjectError, load_plainly, own_subject, transformers_subject

__all__ = [
    "Clock",
    "Marks",
    "Subject",
    "SubjectError",
    "build_llama",
    "load_plainly",
    "one_processor_for_copying",
    "open_clock",
    "own_subject",
    "residue",
    "transformers_subject",
]
