"""Say what the bytes of a checkpoint should sum to, and which pieces of a plan show it.

Floor 2. `_manifest_file` reads and writes the manifest beside a checkpoint, `_sums` cuts tensors into the pieces that a
plan reads and joins their checksums; what a manifest may hold is `_format`'s. Read next: `_verify`, which sums a whole
checkpoint, and `torch`, which sums what it loads.
"""

from ._manifest_file import (
    MANIFEST_NAME,
    known_sums,
    manifest_path,
    read_manifest,
    write_manifest,
)
from ._sums import UNKNOWN, ExpectedSums, combine, expected_sums, plan_sums

__all__ = [
    "MANIFEST_NAME",
    "UNKNOWN",
    "ExpectedSums",
    "combine",
    "expected_sums",
    "known_sums",
    "manifest_path",
    "plan_sums",
    "read_manifest",
    "write_manifest",
]
