"""Numbers that cannot be meant are told before training, and those at the border are taken."""

import math

import pytest
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluators

from knet.engine.checks import check_config, check_datasets
from knet.errors import UsageError
from knet.evaluation import EVALUATOR_BUILDERS

LOSSES = ("CLASS", "MASK", "DICE", "SEMANTIC", "RANK", "SEMANTIC_DICE", "POINT", "VOTE", "IOU")
WEIGHTS = [
    *(f"MODEL.KNET.LOSS.{name}_WEIGHT" for name in LOSSES),
    *(f"MODEL.KNET.MATCHER.{name}_WEIGHT" for name in ("CLASS", "MASK", "DICE")),
    *(f"MODEL.KNET.SEMANTIC.{name}_WEIGHT" for name in ("AUXILIARY", "DICE")),
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT",
]


@pytest.mark.parametrize("key", WEIGHTS)
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_weights(tiny_config, key, value):
    tiny_config.merge_from_list([key, 0.0])
    check_config(tiny_config)
    tiny_config.merge_from_list([key, value])
    with pytest.raises(UsageError, match=rf"{key} is {value}: 0 \(none\) or more"):
        check_config(tiny_config)


@pytest.mark.parametrize(
    "key, border, beyond",
    [
        ("SOLVER.MAX_ITER", 1, 0),
        ("SOLVER.CHECKPOINT_PERIOD", 1, 0),  # -1 would save after each step
        ("SOLVER.CHECKPOINT_KEEP", 0, -1),
        ("SOLVER.BACKBONE_MULTIPLIER", 0.0, -0.25),
        ("DATALOADER.MAX_UNREADABLE", 0, -1),
        ("DATALOADER.REPEAT_THRESHOLD", 0.0, -1.0),
        ("MODEL.KNET.LOSS.SAMPLED_CELLS", 0, -1),
        ("MODEL.KNET.KERNEL_UPDATE.DROPOUT", 1.0, 10.0),
        ("MODEL.KNET.TEST.SCORE_THRESHOLD", 1.0, 30.0),
        ("MODEL.KNET.TEST.OVERLAP_THRESHOLD", 0.0, -0.6),
        ("MODEL.KNET.TEST.MAX_INSTANCES", 0, -1),
        ("MODEL.PIXEL_STD", [1.0, 1.0, 1.0], [1.0, 0.0, 1.0]),
    ],
)
def test_borders(tiny_config, key, border, beyond):
    tiny_config.merge_from_list([key, border])
    check_config(tiny_config)
    tiny_config.merge_from_list([key, beyond])
    with pytest.raises(UsageError) as error:
        check_config(tiny_config)
    assert str(error.value).startswith(f"{key} is {beyond}: ")


@pytest.mark.parametrize("power", [-1.0, math.nan, math.inf])
def test_powers_of_the_mask_quality(tiny_config, power):
    tiny_config.MODEL.KNET.TEST.MASK_QUALITY = True
    tiny_config.MODEL.KNET.TEST.MASK_QUALITY_POWER = 0.0
    check_config(tiny_config)
    tiny_config.MODEL.KNET.TEST.MASK_QUALITY_POWER = power
    with pytest.raises(UsageError, match=rf"POWER is {power}: 0 \(scores stay as they are\)"):
        check_config(tiny_config)


@pytest.mark.parametrize("expected", [["panoptic_seg", "PQ", 50.0, 1.0], [["panoptic_seg", "PQ"]]])
def test_expected_results_of_another_form(tiny_config, expected):
    """Else found when the training is over."""
    tiny_config.TEST.EXPECTED_RESULTS = [["panoptic_seg", "PQ", 50.0, 1.0]]
    check_datasets(tiny_config)
    tiny_config.TEST.EXPECTED_RESULTS = expected
    with pytest.raises(UsageError, match=r"EXPECTED_RESULTS has .*such as \[\"panoptic_seg\", "):
        check_datasets(tiny_config)


def test_expected_results_that_no_evaluation_gives(tiny_config):
    def refused(*expected) -> str:
        tiny_config.TEST.EXPECTED_RESULTS = [[*expected, 50.0, 1.0]]
        with pytest.raises(UsageError) as error:
            check_datasets(tiny_config)
        return str(error.value)

    assert "names 'panoptic', which is not measured" in refused("panoptic", "PQ")
    tiny_config.MODEL.KNET.TEST.PANOPTIC_ON = False
    assert refused("panoptic_seg", "PQ").endswith("name segm or bbox or sem_seg")
    tiny_config.DATASETS.TEST = (*tiny_config.DATASETS.TEST, *tiny_config.DATASETS.TRAIN)
    assert "one data set, and DATASETS.TEST has 2" in refused("segm", "AP")


def test_results_of_evaluators_of_ones_own_are_not_known_before(tiny_config, monkeypatch):
    (name,) = tiny_config.DATASETS.TEST
    kind = MetadataCatalog.get(name).evaluator_type
    monkeypatch.setitem(EVALUATOR_BUILDERS, kind, {"INSTANCE": lambda *_: DatasetEvaluators([])})
    tiny_config.TEST.EXPECTED_RESULTS = [["count", "error", 0.0, 1.0]]
    check_datasets(tiny_config)
