"""Rows of a panoptic PNG; decoding by hand is in test_dataset_mapper."""

import numpy as np
import pytest
import torch

from knet.data.panoptic_rows import split_rows

THING = {"id": 1, "category_id": 3, "isthing": True}


@pytest.mark.filterwarnings("error")
def test_rows_that_must_not_be_written_to_are_taken_without_a_warning():
    """Those that Pillow has resized."""
    rows = np.eye(4, dtype=np.uint8)
    rows.flags.writeable = False
    torch.set_warn_always(True)
    try:
        masks, classes, labels = split_rows(rows, [THING], ignore_label=255)
    finally:
        torch.set_warn_always(False)
    assert masks[0].tolist() == np.eye(4, dtype=bool).tolist() and classes.tolist() == [3]
    assert (labels == np.where(rows, 3, 255)).all()


@pytest.mark.parametrize("number", [255, 256, 70_000])
def test_more_segments_than_a_byte_counts(number):
    rows = np.arange(number + 1)[None]
    segments = [{**THING, "id": i, "isthing": i == number} for i in range(1, number + 1)]
    masks, classes, labels = split_rows(rows.astype(np.min_scalar_type(number)), segments, 255)
    assert np.argwhere(masks).tolist() == [[0, 0, number]] and classes.tolist() == [3]
    assert labels[0, 0] == 255 and (labels[0, 1:] == 3).all()
