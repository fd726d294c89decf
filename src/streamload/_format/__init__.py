"""Turn the bytes of a safetensors header or index into checked records.

Floor 1; pure: no file is touched here. Everything is validated before anything is returned, and every input
that is not valid raises `FormatError`, never another exception. `_header` holds the rules of one file, `_index`
those of a sharded checkpoint, `_json` what both ask of JSON. Read next: `_sources` for where bytes come from,
`_checkpoint` for how shards become one Mapping.
"""

from ._header import DTYPE_BITS, Header, TensorInfo, header_nbytes, parse_header
from ._index import Index, parse_index
from ._json import MAX_JSON_NBYTES

__all__ = [
    "DTYPE_BITS",
    "MAX_JSON_NBYTES",
    "Header",
    "Index",
    "TensorInfo",
    "header_nbytes",
    "parse_header",
    "parse_index",
]
