"""Results of Detectron2's own models: no kernels, boxes that are not those of the masks."""

import pytest
from detectron2.modeling import GeneralizedRCNN
from torch import nn

from knet.errors import UsageError
from knet.results.kinds import choose_results
from knet.results.table import table_rows
from tests.results import made


class MaskRCNN(GeneralizedRCNN):
    def __init__(self):
        nn.Module.__init__(self)


def mask_rcnn_result() -> dict:
    instances = made.result()["instances"]
    instances.remove("pred_kernels")
    instances.pred_boxes.tensor += 0.3
    return {"instances": instances}


def test_a_mask_rcnn_makes_instances_alone():
    assert choose_results(MaskRCNN()) == choose_results(MaskRCNN(), "instance") == "instance"
    with pytest.raises(UsageError, match="makes instance results alone"):
        choose_results(MaskRCNN(), also=["semantic"])


def test_no_kernel_is_told_of_an_instance_that_has_none():
    rows = table_rows(mask_rcnn_result(), made.CLASSES, "instance")
    assert [row[-1] for row in rows] == [None, None]


def test_a_row_of_a_collection():
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    pytest.importorskip("ray", reason="Ray is not installed")
    from knet.collection.rows import result_row, row_schema

    row = result_row(mask_rcnn_result(), made.CLASSES, ["instance"], 0.0)
    table = pa.Table.from_pylist([row], row_schema(["instance"]))
    written = table["instance"].to_pylist()[0]
    assert [region["kernel"] for region in written] == [None] * 3
    assert written[0]["bbox"] == [5, 10, 10, 10]  # the mask's
