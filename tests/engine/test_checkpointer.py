"""Which weights may be left out when a model is loaded."""

import pytest
import torch

from knet.engine.checkpointer import KNetCheckpointer
from knet.errors import UsageError
from tests.tiny_model import tiny_model


def saved(tmp_path, state):
    path = tmp_path / "weights.pth"
    torch.save({"model": state}, path)
    return str(path)


def test_starting_from_part_of_the_weights_is_allowed(tmp_path):
    model = tiny_model()
    state = model.state_dict()
    left_out = next(iter(state))
    path = saved(tmp_path, {k: v for k, v in state.items() if k != left_out})
    KNetCheckpointer(model).resume_or_load(path, resume=False)


def test_complete_weights_are_demanded_for_evaluation(tmp_path):
    model = tiny_model()
    state = model.state_dict()
    left_out = next(iter(state))
    path = saved(tmp_path, {k: v for k, v in state.items() if k != left_out})
    checkpointer = KNetCheckpointer(model)
    checkpointer.complete = True
    with pytest.raises(UsageError) as error:
        checkpointer.resume_or_load(path, resume=False)
    assert left_out in str(error.value) and path in str(error.value)
    assert "MODEL.WEIGHTS" in str(error.value)


def test_a_file_that_is_no_checkpoint(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_text("not weights")
    with pytest.raises(UsageError, match=r"weights\.pth.*MODEL\.WEIGHTS"):
        KNetCheckpointer(tiny_model()).load(str(path))
