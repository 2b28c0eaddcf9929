"""Keys that save memory or time, or average weights: values that cannot work are told."""

import pytest

from knet.engine.checks import check_config
from knet.errors import UsageError
from tests.modeling.semantic.heads import small_config


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["SOLVER.FUSED", "false"], r"SOLVER\.FUSED is 'false': use True, False or None"),
        (["SOLVER.ACCUMULATE", 0], r"SOLVER\.ACCUMULATE is 0: 1 "),
        (["SOLVER.ACCUMULATE", 3], r"IMS_PER_BATCH 2 .*SOLVER\.ACCUMULATE 3 .* multiple of 3"),
        (
            ["SOLVER.ACCUMULATE", 2, "MODEL.KNET.LOSS.NORMALIZER", "batch"],
            r"LOSS\.NORMALIZER batch .* to process, or SOLVER\.ACCUMULATE 2 to 1",
        ),
        (["SOLVER.AMP.DTYPE", "float32"], r"SOLVER\.AMP\.DTYPE is 'float32': use float16 or bf"),
        (["SOLVER.AMP.ENABLED", True], r"SOLVER\.AMP\.ENABLED True with float16 needs a GPU"),
        (["TEST.AMP", True], r"TEST\.AMP True with float16 needs a GPU.*DTYPE to bfloat16"),
        (
            ["TEST.AMP", True, "MODEL.META_ARCHITECTURE", "GeneralizedRCNN"],
            r"TEST\.AMP is True, which GeneralizedRCNN does not know",
        ),
        (["MODEL_EMA.DECAY", 1.0], r"MODEL_EMA\.DECAY is 1\.0"),
        (["MODEL_EMA.DECAY", -0.1], r"MODEL_EMA\.DECAY is -0\.1"),
        (
            ["MODEL_EMA.ENABLED", True, "TEST.PRECISE_BN.ENABLED", True],
            r"TEST\.PRECISE_BN\.ENABLED .*MODEL_EMA\.ENABLED",
        ),
    ],
)
def test_what_cannot_work(tiny_config, options, sentence):
    check_config(tiny_config)
    tiny_config.merge_from_list(options)
    with pytest.raises(UsageError, match=sentence):
        check_config(tiny_config)


def test_parts_are_of_each_process(tiny_config):
    tiny_config.SOLVER.IMS_PER_BATCH, tiny_config.SOLVER.ACCUMULATE = 8, 4
    check_config(tiny_config, num_workers=2)
    with pytest.raises(UsageError, match=r"SOLVER\.ACCUMULATE 4 .* multiple of 16"):
        check_config(tiny_config, num_workers=4)


def test_bfloat16_works_on_a_cpu(tiny_config):
    tiny_config.SOLVER.AMP.ENABLED = tiny_config.TEST.AMP = True
    tiny_config.SOLVER.AMP.DTYPE = "bfloat16"
    check_config(tiny_config)


def test_batch_norm_of_parts_of_one_image():
    cfg = small_config("SemSegPSPHead", "SemanticKNet")
    cfg.SOLVER.IMS_PER_BATCH, cfg.MODEL.MASK_ON = 4, False
    cfg.SOLVER.ACCUMULATE = 2
    check_config(cfg)
    cfg.SOLVER.ACCUMULATE = 4
    with pytest.raises(UsageError, match=r"one image at a time: set SOLVER\.IMS_PER_BATCH to 8"):
        check_config(cfg)
