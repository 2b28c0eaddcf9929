"""The loss curve: which lines of metrics.json count, and what is added up."""

import json
import math

import matplotlib
import pytest
from PIL import Image

from knet.errors import UsageError
from knet.visualization import draw_losses
from knet.visualization.loss_curve import read_losses, sum_over_stages


def record(iteration, total=10.0, **losses):
    return {"iteration": iteration, "total_loss": total, "lr": 0.1, **losses}


def write(folder, *lines):
    path = folder / "metrics.json"
    path.write_text("".join(f"{x if isinstance(x, str) else json.dumps(x)}\n" for x in lines))
    return str(path)


def test_stages_of_a_kind_are_added_up(tmp_path):
    losses = {"loss_mask_0": 1.0, "loss_mask_1": 2.0, "loss_mask_10": 4.0, "loss_semantic": 0.5}
    path = write(tmp_path, record(19, **losses), record(39, loss_mask_0=1.0, loss_sem_seg=3.0))
    curves = sum_over_stages(read_losses(path))
    assert list(curves) == ["total_loss", "semantic", "mask", "sem_seg"]
    assert curves["mask"][0] == 7.0
    assert curves["semantic"][0] == 0.5 and math.isnan(curves["semantic"][1])


@pytest.mark.parametrize("again, kept", [(19, [(19, 2), (39, 2)]), (39, [(19, 1), (39, 2)])])
def test_a_repeated_or_resumed_run_replaces_what_it_did_again(tmp_path, again, kept):
    first = [record(i, 1.0) for i in (19, 39, 59, 79)]
    path = write(tmp_path, *first, *[record(i, 2.0) for i in range(again, 59, 20)])
    assert [(r["iteration"], r["total_loss"]) for r in read_losses(path)] == kept


def test_lines_of_an_evaluation_and_broken_lines_are_left_out(tmp_path):
    evaluation = {"iteration": 19, "panoptic_seg/PQ": 40.0}
    path = write(tmp_path, record(19), '{"iteration": 3', record(39), evaluation)
    assert [r["iteration"] for r in read_losses(path)] == [19, 39]


@pytest.mark.parametrize("total", [3.0, 0.0, -1.0, math.nan])
def test_any_values_can_be_drawn(tmp_path, total):
    write(tmp_path, record(19, total, loss_dice_0=1.0), record(39, total, loss_dice_0=0.1))
    file = draw_losses(str(tmp_path))
    assert file == str(tmp_path / "losses.png")
    with Image.open(file) as picture:
        assert picture.width > 800


def test_a_single_line_is_enough_and_nothing_global_changes(tmp_path):
    backend = matplotlib.get_backend()
    write(tmp_path, record(19, loss_dice_0=1.0))
    draw_losses(str(tmp_path))
    assert matplotlib.get_backend() == backend


def test_missing_file_says_what_to_give(tmp_path):
    with pytest.raises(UsageError, match=r"metrics\.json does not exist: give the OUTPUT_DIR"):
        draw_losses(str(tmp_path))
    write(tmp_path, {"iteration": 3, "panoptic_seg/PQ": 1.0})
    with pytest.raises(UsageError, match="no losses yet: train for 20"):
        draw_losses(str(tmp_path))
