"""Make one Mapping of the files of a checkpoint, its tensors grouped into layers in the order a model runs them.

Floor 2. `_files` decides which files a path stands for, `_layers` groups and orders tensors by their names alone,
`_mapping` opens the files, checks them against each other and holds them open. Read next: `_plan`.
"""

from ._layers import Layer, group_layers
from ._mapping import Checkpoint, Shard, infos_of, open, open_files

__all__ = ["Checkpoint", "Layer", "Shard", "group_layers", "infos_of", "open", "open_files"]
