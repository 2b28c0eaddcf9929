"""Where the comparisons with the recordings run: on the CPU, and on a GPU where there is one."""

import pytest
import torch

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
def device(request) -> torch.device:
    """The GPU without TF32, which its convolutions use by themselves."""
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    switches = switches if request.param == "cuda" else ()
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = False
    yield torch.device(request.param)
    for switch, value in zip(switches, before):
        switch.allow_tf32 = value
