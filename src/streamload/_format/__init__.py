"""Turn the bytes of a safetensors header, index, manifest or list of models into checked records.

Floor 1; pure: no file is touched here. Everything is validated before anything is returned, and every input
that is not valid raises `FormatError`, never another exception. `_header` holds the rules of one file, `_index`
those of a sharded checkpoint, `_manifest` those of its checksums, `_models` those of a list of models, `_json` what all
ask of JSON. Read next: `_sources` for where bytes come from, `_checkpoint` for how shards become one Mapping.
"""

from ._header import DTYPE_BITS, Header, TensorInfo, header_nbytes, parse_header
from ._index import PLAIN_PATH, Index, is_plain_path, parse_index
from ._json import MAX_JSON_NBYTES
from ._manifest import Manifest, ShardSums, TensorSum, format_manifest, parse_manifest
from ._models import ListedModel, ModelFile, ModelList, format_models, format_of, parse_models

__all__ = [
    "DTYPE_BITS",
    "MAX_JSON_NBYTES",
    "PLAIN_PATH",
    "Header",
    "Index",
    "ListedModel",
    "Manifest",
    "ModelFile",
    "ModelList",
    "ShardSums",
    "TensorInfo",
    "TensorSum",
    "format_manifest",
    "format_models",
    "format_of",
    "header_nbytes",
    "is_plain_path",
    "parse_header",
    "parse_index",
    "parse_manifest",
    "parse_models",
]
