"""Counts what makes the host wait for the device."""

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class HostReads(TorchDispatchMode):
    """Counts what copies from a device to the host, or makes the host wait for a value.

    Conversions are counted by name, as on a CPU they run no operator.
    """

    METHODS = ("cpu", "tolist", "item", "numpy", "__array__", "__bool__", "__int__", "__float__")
    # the size of the result, or the result itself, depends on values
    OPERATORS = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "equal",
        "is_nonzero",
        "bincount",
    )
    OPERATORS += ("_unique2", "unique_dim", "unique_consecutive", "repeat_interleave")

    def __init__(self, monkeypatch):
        super().__init__()
        self.count = Counter()
        for name in self.METHODS:
            monkeypatch.setattr(
                torch.Tensor, name, self.counting(name, getattr(torch.Tensor, name))
            )

    def counting(self, name, method):
        def counted(tensor, *args, **kwargs):
            self.count[name] += 1
            return method(tensor, *args, **kwargs)

        return counted

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in self.OPERATORS or by_mask:
            self.count[name] += 1
        return func(*args, **(kwargs or {}))
