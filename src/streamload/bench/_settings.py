"""Which of the peers' own settings were in the environment: a figure means little without them.

Floor 6; pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PeerSettings"]

_PREFIXES = ("FASTSAFETENSORS_", "INSTANTTENSOR_", "RUNAI_STREAMER_", "SAFETENSORS_", "TENSORIZER_")


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """Hold the settings that peers find in the environment.

    Attributes:
        values: Text by name of the variable.
    """

    values: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> PeerSettings:
        """Pick the peers' variables out of a mapping such as `os.environ`."""
        return cls({name: text for name, text in sorted(environ.items()) if name.startswith(_PREFIXES)})
