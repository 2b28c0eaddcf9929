"""The curves of trainings, from what ``metrics.json`` has of runs stopped and resumed."""

import json

import numpy as np
import pytest
from PIL import Image

from knet.errors import UsageError
from knet.visualization import draw_runs
from knet.visualization.run_curves import curves_of_run


def training(iteration: int, loss: float) -> dict:
    parts = {"loss_dice_0": loss / 4, "loss_dice_1": loss / 2, "loss_rank_0": loss / 4}
    return {"iteration": iteration, "total_loss": loss, "lr": 0.1, **parts, "time": 0.5}


def evaluation(iteration: int, quality: float) -> dict:
    losses = {"val_total_loss": 3.0, "val_loss_dice_0": 1.0, "val_loss_dice_1": 2.0}
    names = {"panoptic_seg/PQ": quality, "panoptic_seg/PQ-cup": 1.0, "segm/APl": np.nan}
    return {"iteration": iteration, **losses, **names}


def write(folder, records, end: str = "") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.json").write_text(lines + end)
    return str(folder)


def points(curve) -> list:
    return list(zip(curve[0].tolist(), curve[1].tolist()))


def panels_with(path, color) -> int:
    """In how many panels, four a row, there is something in a colour."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))[60:]  # below the legend
    rows = np.array_split(pixels, 2)
    cells = [cell for row in rows for cell in np.array_split(row, 4, axis=1)]
    return sum((cell == color).all(axis=-1).any() for cell in cells)


def test_losses_results_and_rates(tmp_path):
    records = [training(19, 8.0), training(39, 4.0), evaluation(29, 50.0), evaluation(40, 60.0)]
    curves = curves_of_run(write(tmp_path, records))
    assert points(curves["total_loss"]) == [(19, 8.0), (39, 4.0)]
    assert points(curves["dice"]) == [(19, 6.0), (39, 3.0)], "summed over stages"
    assert points(curves["val_total_loss"]) == [(29, 3.0), (40, 3.0)]
    assert points(curves["val_dice"]) == [(29, 3.0), (40, 3.0)]
    assert points(curves["panoptic_seg/PQ"]) == [(29, 50.0), (40, 60.0)]
    assert points(curves["lr"]) == [(19, 0.1), (39, 0.1)]
    assert not {"panoptic_seg/PQ-cup", "segm/APl", "time"} & set(curves)


def test_a_run_that_was_killed_and_went_on(tmp_path):
    """From iteration 30 on it is told twice, with half a line between."""
    first = [training(19, 8.0), evaluation(19, 10.0), training(39, 7.0), evaluation(39, 20.0)]
    first += [training(59, 6.0), evaluation(59, 30.0)]
    again = [training(39, 5.0), evaluation(39, 25.0)]
    folder = write(tmp_path, first, '{"iteration": 79, "total_lo\n')
    with open(tmp_path / "metrics.json", "a") as f:
        f.writelines(json.dumps(record) + "\n" for record in again)
        f.write('{"iteration": 59')
    curves = curves_of_run(folder)
    assert points(curves["total_loss"]) == [(19, 8.0), (39, 5.0)]
    assert points(curves["panoptic_seg/PQ"]) == [(19, 10.0), (39, 25.0)]


def test_several_runs_in_one_picture(tmp_path):
    one = write(tmp_path / "one", [training(19, 8.0), training(39, 4.0), evaluation(39, 50.0)])
    other = write(tmp_path / "other", [training(19, 2.0)])
    draw_runs([one, other], str(tmp_path / "both.png"))
    draw_runs([one], str(tmp_path / "alone.png"))
    blue, orange = (31, 119, 180), (255, 127, 14)
    assert (
        panels_with(tmp_path / "both.png", blue) == panels_with(tmp_path / "alone.png", blue) == 5
    )
    assert panels_with(tmp_path / "both.png", orange) == 4, "all but the result"


def test_nothing_to_draw(tmp_path):
    with pytest.raises(UsageError, match=r"metrics\.json does not exist: give the OUTPUT_DIR"):
        draw_runs([str(tmp_path)], str(tmp_path / "run.png"))
    folder = write(tmp_path, [])
    with pytest.raises(UsageError, match="has no numbers yet"):
        draw_runs([folder], str(tmp_path / "run.png"))
    with pytest.raises(UsageError, match=r"let it end in \.png"):
        draw_runs([folder], str(tmp_path / "run.jpg"))
