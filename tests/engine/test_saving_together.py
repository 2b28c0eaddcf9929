"""Parts, bfloat16, averaged weights, recomputed activations and a stop in between, all at once."""

import pytest

from knet.checkpoint.safe_load import load_file
from knet.engine.averaged_weights import averaged_in
from tests.engine.test_exact_resume import differences, stopped_after

ALL = {
    "SOLVER.IMS_PER_BATCH": 4,
    "SOLVER.ACCUMULATE": 2,
    "SOLVER.AMP.ENABLED": True,
    "SOLVER.AMP.DTYPE": "bfloat16",
    "MODEL_EMA.ENABLED": True,
    "MODEL_EMA.DECAY": 0.8,
    "MODEL.BACKBONE.CHECKPOINT": True,
    "MODEL.KNET.CHECKPOINT_STAGES": True,
    "MODEL.KNET.KERNEL_UPDATE.DROPOUT": 0.1,
    "MODEL.RESNETS.NORM": "BN",
    "SOLVER.MAX_ITER": 6,
    "SOLVER.CHECKPOINT_PERIOD": 3,
    "TEST.EVAL_PERIOD": 2,
    "TEST.AMP": True,
}


@pytest.mark.parametrize("head", ["KernelHead", "PointKernelHead"])
def test_going_on_is_never_having_stopped(train_net, tiny_options, tmp_path, head):
    options = {**tiny_options, **ALL, "MODEL.KNET.KERNEL_HEAD.NAME": head}
    assert train_net(options=options).status == 0
    stopped_after(tmp_path / "output", tmp_path / "again", 3)
    options["OUTPUT_DIR"] = str(tmp_path / "again")
    outcome = train_net("--resume", options=options)
    assert outcome.status == 0 and "not exactly" not in outcome.out
    straight, again = (
        load_file(str(tmp_path / d / "model_final.pth")) for d in ("output", "again")
    )
    assert differences(straight, again) == []
    assert differences(averaged_in(straight), straight["model"])
    first = load_file(str(tmp_path / "output" / "model_0000002.pth"))
    assert len(differences(averaged_in(first), averaged_in(straight))) > 50


def test_recomputing_changes_no_bit(train_net, tiny_options, tmp_path):
    finals = []
    for recomputed in (True, False):
        options = {**tiny_options, **ALL, "DATASETS.TEST": (), "SOLVER.MAX_ITER": 3}
        options["MODEL.BACKBONE.CHECKPOINT"] = recomputed
        options["MODEL.KNET.CHECKPOINT_STAGES"] = recomputed
        options["OUTPUT_DIR"] = str(tmp_path / str(recomputed))
        assert train_net(options=options).status == 0
        finals.append(load_file(str(tmp_path / str(recomputed) / "model_final.pth")))
    assert differences(finals[0]["model"], finals[1]["model"]) == []
    assert differences(finals[0]["trainer"], finals[1]["trainer"]) == []
