"""Memory that is freed and asked for again does not come from the system again."""

import os
import platform
import subprocess
import sys

import pytest

from knet.engine.freed_memory import keep_freed_memory

PROGRAM = """
import resource, sys
import torch
from knet.engine.freed_memory import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step():
    maps = [torch.ones(2**21) for _ in range(16)]  # of 8 MiB

if sys.argv[1] == "kept":
    assert keep_freed_memory()
for _ in range(3):
    step()
before = faults()
for _ in range(5):
    step()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
def test_steps_of_one_size_ask_the_system_once():
    def page_faults(argument):
        command = [sys.executable, "-c", PROGRAM, argument]
        run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return int(run.stdout)

    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))
    }
    # a page may be a huge one
    assert page_faults("kept") < page_faults("given back") / 10


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert not keep_freed_memory()
