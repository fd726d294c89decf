"""What differs between two loaded transformers models, in words; nothing where one is as good as the other.

Compared are the objects users hold (parameters, buffers, modules, configurations), not what a forward gives.
Start at `differences`.
"""

from __future__ import annotations

from itertools import pairwise

import torch

IGNORED_ATTRIBUTES = frozenset(  # of tensors and modules
    {
        "_is_hf_initialized",  # transformers' own bookkeeping
        "name_or_path",  # where it came from
    }
)
IGNORED_SETTINGS = frozenset({"_name_or_path", "_commit_hash"})  # of configurations: where it came from
HOOKS = tuple(
    name for name in vars(torch.nn.Module()) if name.endswith(("_hooks", "_with_kwargs", "_always_called"))
)  # of modules
OF_TORCH = frozenset(vars(torch.nn.Module())) - {"training"}  # attributes of modules that are compared on their own
PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device, torch.Size)
MISSING = "nothing"


def differences(left, right):
    """Say what differs between two models, one line each; an empty list where nothing does.

    Names and their order, ties, classes, dtypes, shapes, strides, devices, flags, attributes, hooks, configurations,
    and every bit of every parameter and buffer, so that NaNs are equal and zeros of different signs are not.
    """
    return [
        *_unequal("class of the model", type(left), type(right)),
        *_unequal("dtype of the model", left.dtype, right.dtype),
        *_unequal("device of the model", left.device, right.device),
        *_name_differences(left, right),
        *_unequal("ties", _groups(left), _groups(right)),
        *_unequal("overlapping memory", _overlaps(left), _overlaps(right)),
        *_tensor_differences(left, right),
        *_module_differences(left, right),
        *_unequal_dicts("config", _settings(left, "config"), _settings(right, "config")),
        *_unequal_dicts(
            "generation_config", _settings(left, "generation_config"), _settings(right, "generation_config")
        ),
    ]


def info_differences(left, right):
    """Say what differs between two answers to `output_loading_info=True`, one line each; sets have no order."""
    found = _unequal("keys of the loading info", sorted(left), sorted(right))
    for key in sorted(left.keys() & right.keys()):
        found += _unequal(f"{key}, its class", type(left[key]), type(right[key]))
        found += _unequal(key, *(sorted(map(repr, info[key])) for info in (left, right)))
    return found


def _unequal(what, left, right):
    """The line for one fact, if its sides differ. Of two lists it tells what only one has, or where order breaks."""
    if left == right and type(left) is type(right):
        return []
    if isinstance(left, list) and isinstance(right, list):
        only = [item for item in left if item not in right], [item for item in right if item not in left]
        if any(only):
            left, right = only
        elif len(left) == len(right):
            at = next(at for at, pair in enumerate(zip(left, right, strict=True)) if pair[0] != pair[1])
            what, left, right = f"order of {what}, at {at}", left[at], right[at]
    return [f"{what}: {left!r} against {right!r}"]


def _unequal_dicts(what, left, right):
    """A line for each key whose values differ; dicts within are told by path."""
    if not (isinstance(left, dict) and isinstance(right, dict)):
        return _unequal(what, left, right)
    found = []
    for key in [*left, *(key for key in right if key not in left)]:
        found += _unequal_dicts(f"{what}.{key}", left.get(key, MISSING), right.get(key, MISSING))
    return found


def _parameters(model):
    """Each name of a parameter with its object; a tied one has several."""
    return dict(model.named_parameters(remove_duplicate=False))


def _buffers(model, *, persistent):
    """Each name of a buffer with its object, for those that are saved with the model or for those that are not."""
    return {
        f"{prefix}.{name}" if prefix else name: buffer
        for prefix, module in model.named_modules(remove_duplicate=False)
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
        if (name not in module._non_persistent_buffers_set) == persistent
    }


def _tensors(model):
    return {**_parameters(model), **_buffers(model, persistent=True), **_buffers(model, persistent=False)}


def _name_differences(left, right):
    found = []
    for what, listed in (
        ("parameters", _parameters),
        ("persistent buffers", lambda model: _buffers(model, persistent=True)),
        ("non-persistent buffers", lambda model: _buffers(model, persistent=False)),
        ("nothing and of plain tensors", _unregistered),
        ("state_dict", lambda model: model.state_dict()),
    ):
        found += _unequal(f"names of {what}", list(listed(left)), list(listed(right)))
    return found


def _unregistered(model):
    """Names that are registered with nothing behind them, and plain attributes that are tensors."""
    found = []
    for prefix, module in model.named_modules(remove_duplicate=False):
        registered = {**module._parameters, **module._buffers}
        found += [f"{prefix}.{name}" for name, value in registered.items() if value is None]
        found += [f"{prefix}.{name}" for name, value in vars(module).items() if isinstance(value, torch.Tensor)]
    return found


def _groups(model):
    """Which names share one object, as sorted tuples of two names or more."""
    by_object = {}
    for name, tensor in _tensors(model).items():
        by_object.setdefault(id(tensor), []).append(name)
    return sorted(tuple(names) for names in by_object.values() if len(names) > 1)


def _overlaps(model):
    """Which neighbours in memory overlap though they are two objects, by their first names."""
    first_names = {}
    for name, tensor in _tensors(model).items():
        if tensor.numel() and not tensor.is_meta:
            first_names.setdefault(id(tensor), (name, tensor))
    ranges = []
    for name, tensor in first_names.values():
        last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
        start = tensor.data_ptr()
        ranges.append((str(tensor.device), start, start + (last + 1) * tensor.element_size(), name))
    ranges.sort()
    return [(one[3], other[3]) for one, other in pairwise(ranges) if one[0] == other[0] and other[1] < one[2]]


def _tensor_differences(left, right):
    found = []
    others = _tensors(right)
    for name, one in _tensors(left).items():
        if (other := others.get(name)) is None:
            continue  # told among the names
        facts = _unequal_dicts(name, _facts(one), _facts(other))
        found += facts
        if one.shape == other.shape and one.dtype == other.dtype and not (one.is_meta or other.is_meta):
            found += _bit_differences(name, one, other)
    for side, model in (("left", left), ("right", right)):
        found += [
            f"{name} of the {side} model: its class is {type(parameter).__name__}, not Parameter"
            for name, parameter in _parameters(model).items()
            if type(parameter) is not torch.nn.Parameter
        ]
    return found


def _facts(tensor):
    """All but the numbers of one parameter or buffer."""
    return {
        "class": _class_names(tensor),
        "dtype": tensor.dtype,
        "shape": tuple(tensor.shape),
        "stride": tensor.stride(),
        "device": tensor.device,
        "layout": tensor.layout,
        "requires_grad": tensor.requires_grad,
        "is_leaf": tensor.is_leaf,
        "is_inference": tensor.is_inference(),
        "is_pinned": tensor.is_pinned(),
        "has a gradient": tensor.is_leaf and tensor.grad is not None,
        "hooks": len(tensor._backward_hooks or ()) + len(getattr(tensor, "_post_accumulate_grad_hooks", None) or ()),
        "attributes": {
            name: value if isinstance(value, PLAIN) else type(value)
            for name, value in vars(tensor).items()
            if name not in IGNORED_ATTRIBUTES
        },
    }


def _class_names(value):
    """The names of a class and of what it is made from: torch makes the class of a parametrized module anew."""
    return [f"{base.__module__}.{base.__qualname__}" for base in type(value).__mro__]


def _bits(tensor):
    """The bytes of a tensor's numbers in the order of its indices, on the host: uint8, numbers by bytes of each."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).view(flat.numel(), flat.element_size())


def _bit_differences(name, one, other):
    if not one.numel():
        return []
    wrong = (_bits(one) != _bits(other)).any(dim=1).nonzero().flatten()
    if not len(wrong):
        return []
    at = int(wrong[0])
    numbers = [tensor.detach().reshape(-1)[at].item() for tensor in (one, other)]
    return [f"{name}: {len(wrong)} of {one.numel()} numbers, the first at {at}: {numbers[0]!r} against {numbers[1]!r}"]


def _module_differences(left, right):
    modules = [dict(model.named_modules(remove_duplicate=False)) for model in (left, right)]
    found = _unequal("names of modules", *map(list, modules))
    for name in (name for name in modules[0] if name in modules[1]):
        one, other = (named[name] for named in modules)
        found += _unequal_dicts(f"module {name!r}", _module_facts(one), _module_facts(other))
    return found


def _module_facts(module):
    """What one module is apart from what is in it; `training` is among its plain attributes."""
    attributes = {name: value for name, value in vars(module).items() if name not in IGNORED_ATTRIBUTES}
    return {
        "class": _class_names(module),
        "attributes": sorted(attributes),
        **{name: value for name, value in attributes.items() if name not in OF_TORCH and _is_plain(value)},
        **{name: len(attributes[name]) for name in HOOKS},
    }


def _is_plain(value):
    """Whether a value says by `==` whether it is the same: no objects in it but numbers, text and the like."""
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return all(map(_is_plain, value)) if isinstance(value, (list, tuple, set)) else isinstance(value, PLAIN)


def _settings(model, which):
    """A configuration as a dict, with what it says about attention and experts and without where it came from."""
    config = getattr(model, which, None)
    if config is None:
        return MISSING
    internal = {name: vars(config)[name] for name in sorted(vars(config)) if name.endswith("_implementation_internal")}
    return {"class": type(config), **_kept(config.to_dict()), **internal}


def _kept(settings):
    return {
        key: _kept(value) if isinstance(value, dict) else value
        for key, value in settings.items()
        if key not in IGNORED_SETTINGS
    }
