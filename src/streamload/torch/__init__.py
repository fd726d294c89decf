"""Load safetensors weights into torch: the functions of `safetensors.torch`, and streams that do not wait.

Floor 4. The map:

    _dtypes          safetensors' names for torch's dtypes
    _memory          blocks of memory, tensors over them, who owns them
    _layout          an index and a view, taken apart into rows of bytes
    _failure         one failure, raised to every waiter
    _assembly        a tensor put together from parts of others
    _groups          tensors in order of use, cut into what is waited for as one
    _submit          tensors become addresses, a plan, a ticket
    _stats           the numbers of several tickets
    _convert         casts and transposes through a little memory
    _destinations    what fill is to put where, checked
    _fill            fill: into memory that is there already
    _host            mapped tensors and read ranges, for the CPU
    _file            load_file, load, load_model
    _slice           which bytes an index asks for
    _safe_open       safe_open and its slices
    _feed            iter_tensors, stream
    _gate            a tensor that waits for its own bytes
    _untraced        what torch.compile is kept away from
    _block_hooks     a block that waits for all of its tensors
    _seats           which tensor of a checkpoint belongs where in a module
    _module_load     a load that outlives its caller and leaves nothing behind
    _embedding       rows of a table that has not arrived
    _history         when a load did what
    _sleep           tensors without memory, and who may be one
    _delivery        how weights travel, to do so again
    _filling         a module's tensors over memory, behind closed gates
    _adopt           a module filled from what others have planned
    _units           which weights one module of it needs together
    _oversized       what stays and what is streamed
    _streamed_units  who holds what is streamed, in which order
    _streamed_gate   a weight that is there only while its unit is held
    _stand_ins       what stands in place of a streamed module's forward
    _host_copies     streamed weights in page-locked memory
    _module_stream   stream_module
    _load_into       load_into

`import streamload.torch as st` can stand where `import safetensors.torch as st` stood.
"""

try:
    from safetensors.torch import save, save_file, save_model
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"streamload.torch needs {error.name}, which is not installed: pip install 'streamload[torch]'", name=error.name
    ) from error

from ._destinations import Destination
from ._feed import LayerStream, LoadedLayer, iter_tensors, stream
from ._file import load, load_file, load_model
from ._fill import fill
from ._load_into import load_into
from ._module_stream import ModuleStream, stream_module
from ._safe_open import SafeSlice, safe_open

__all__ = [
    "Destination",
    "LayerStream",
    "LoadedLayer",
    "ModuleStream",
    "SafeSlice",
    "fill",
    "iter_tensors",
    "load",
    "load_file",
    "load_into",
    "load_model",
    "safe_open",
    "save",
    "save_file",
    "save_model",
    "stream",
    "stream_module",
]
