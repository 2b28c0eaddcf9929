"""Where the comparisons with the recordings run: on the CPU, and on a GPU where there is one."""

import pytest
import torch

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
def device(request, whole_float32) -> torch.device:
    return torch.device(request.param)
