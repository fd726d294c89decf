"""The loaders that streamload is measured beside, one in a file, each called as its own documentation says.

Floor 6; needs torch. Each is optional: `pip install 'streamload[bench]'` brings those that install beside each other.
`_peer` holds what they share. All run with the settings they ship with, and with those the environment gives them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._fastsafetensors import fastsafetensors
from ._instanttensor import instanttensor
from ._peer import peer
from ._prefetch import prefetch
from ._runai import runai
from ._safetensors import safetensors
from ._tensorizer import tensorizer
from ._torch_load import torch_load

if TYPE_CHECKING:
    from .._course import Course
    from .._rounds import Contestant

__all__ = ["peers"]


def peers(course: Course) -> list[Contestant]:
    """List every peer, installed or not."""
    return [
        *peer("safetensors", course, safetensors),
        *peer("safetensors prefetch", course, prefetch),
        *peer("torch.load(mmap=True)", course, torch_load),
        *peer("fastsafetensors", course, fastsafetensors),
        *peer("runai-model-streamer", course, runai),
        *peer("tensorizer", course, tensorizer),
        *peer("InstantTensor", course, instanttensor),
    ]
