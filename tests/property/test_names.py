"""Whatever the names: layers hold every tensor once, indices never leave their directory."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

from hypothesis import given
from hypothesis import strategies as st

from streamload._checkpoint import group_layers
from streamload._format import TensorInfo, parse_index
from streamload.errors import FormatError

PARTS = st.sampled_from(
    ["model", "layers", "h", "encoder", "decoder", "norm", "head", "embed", "0", "1", "10", "02", ""]
)
NAMES = st.lists(PARTS, min_size=1, max_size=6).map(".".join) | st.text(max_size=20)
SHARDS = st.lists(st.sampled_from(["..", ".", "", "a", "b.safetensors", "\\", "\0", "~"]), max_size=4).map("/".join)


@given(st.lists(NAMES, unique=True, max_size=20), st.randoms())
def test_every_tensor_is_in_exactly_one_layer_in_one_order(names, random):
    tensors = [TensorInfo(name, "U8", (1,), at, at + 1) for at, name in enumerate(names)]
    layers = group_layers(tensors)
    assert sorted(tensor.name for layer in layers for tensor in layer.tensors) == sorted(names)
    assert len({layer.name for layer in layers}) == len(layers)
    assert all(tensor.name.startswith(layer.name) for layer in layers for tensor in layer.tensors)
    random.shuffle(tensors)
    assert group_layers(tensors) == layers


@given(st.dictionaries(NAMES, SHARDS | st.text(max_size=8), max_size=4))
def test_accepted_index_stays_in_its_directory(weight_map):
    try:
        index = parse_index(json.dumps({"weight_map": weight_map}).encode(), url="index")
    except FormatError:
        return
    assert index.weight_map == weight_map
    for shard in index.weight_map.values():
        path = PurePosixPath("/models") / shard
        assert path.is_relative_to("/models")
        assert ".." not in path.parts
        assert path != PurePosixPath("/models")
