"""Turn the bytes of a safetensors header, index or manifest into checked records.

Floor 1; pure: no file is touched here. Everything is validated before anything is returned, and every input
that is not valid raises `FormatError`, never another exception. `_header` holds the rules of one file, `_index`
those of a sharded checkpoint, `_manifest` those of its checksums, `_json` what all ask of JSON. Read next:
`_sources` for where bytes come from, `_checkpoint` for how shards become one Mapping.
"""

from ._header import DTYPE_BITS, Header, TensorInfo, header_nbytes, parse_header
from ._index import Index, parse_index
from ._json import MAX_JSON_NBYTES
from ._manifest import Manifest, ShardSums, TensorSum, format_manifest, parse_manifest

__all__ = [
    "DTYPE_BITS",
    "MAX_JSON_NBYTES",
    "Header",
    "Index",
    "Manifest",
    "ShardSums",
    "TensorInfo",
    "TensorSum",
    "format_manifest",
    "header_nbytes",
    "parse_header",
    "parse_index",
    "parse_manifest",
]
