"""The most memory that a process has held, on each system."""

import resource
import sys
from types import SimpleNamespace

from knet.peak_memory import peak_bytes


def test_units_of_systems(monkeypatch):
    usage = SimpleNamespace(ru_maxrss=3 * 2**20)
    monkeypatch.setattr(resource, "getrusage", lambda of_whom: usage)
    for system, expected in (("linux", 3 * 2**30), ("darwin", 3 * 2**20)):
        monkeypatch.setattr(sys, "platform", system)
        assert peak_bytes() == expected
    monkeypatch.setitem(sys.modules, "resource", None)  # Windows
    assert peak_bytes() is None
