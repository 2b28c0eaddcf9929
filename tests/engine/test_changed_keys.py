"""Keys that are others when a run goes on: they count, or are refused."""

import json

import pytest

from knet.engine.changed_keys import compare_keys
from tests.engine.test_exact_resume import differences, final


@pytest.fixture
def options(tiny_options):
    """Two iterations at the full rate."""
    tiny_options.update({"DATASETS.TEST": (), "SOLVER.WARMUP_ITERS": 0, "SOLVER.BASE_LR": 0.001})
    tiny_options["SOLVER.BACKBONE_MULTIPLIER"] = 0.5
    return tiny_options


def begun(train_net, options):
    assert train_net(options=options).status == 0
    options["SOLVER.MAX_ITER"] = 4


def going_on(train_net, tmp_path, options, **more):
    outcome = train_net("--resume", options={**options, **more})
    assert outcome.status == 0
    optimizer = final(tmp_path / "output")["trainer"]["_trainer"]["optimizer"]
    *_, last = (tmp_path / "output" / "metrics.json").read_text().splitlines()
    return outcome.out, optimizer["param_groups"], json.loads(last)["lr"]


def test_the_base_rate_is_the_one_of_the_config(train_net, tmp_path, options):
    begun(train_net, options)
    rates = {}
    for base in (0.001, 0.004):
        out, groups, logged = going_on(train_net, tmp_path, options, **{"SOLVER.BASE_LR": base})
        rates = {group["lr"] for group in groups}
        assert rates == {base, base / 2} and logged in rates
        options["SOLVER.MAX_ITER"] += 2
    assert "SOLVER.BASE_LR 0.004 (was 0.001), SOLVER.MAX_ITER 6 (was 4)" in out


def test_steps_count(train_net, tmp_path, options):
    begun(train_net, options)
    more = {"SOLVER.STEPS": (3,), "SOLVER.GAMMA": 0.1}
    out, groups, _ = going_on(train_net, tmp_path, options, **more)
    assert sorted({group["lr"] for group in groups}) == pytest.approx([0.00005, 0.0001])
    assert "SOLVER.STEPS (3,) (was ())" in out


def test_weight_decay_counts(train_net, tmp_path, options):
    begun(train_net, options)
    # both, as one alone makes other groups of parameters
    more = {"SOLVER.WEIGHT_DECAY": 0.125, "SOLVER.WEIGHT_DECAY_NORM": 0.125}
    out, groups, _ = going_on(train_net, tmp_path, options, **more)
    assert 0.125 in {group["weight_decay"] for group in groups}
    assert "SOLVER.WEIGHT_DECAY 0.125" in out


def test_other_groups_of_parameters(train_net, tmp_path, options):
    begun(train_net, options)
    more = {"SOLVER.NO_DECAY": ["*.bias"], "SOLVER.BACKBONE_MULTIPLIER": 0.25}
    sentence = train_net("--resume", options={**options, **more}).sentence()
    assert "NO_DECAY" in sentence and "to what they were" in sentence


def test_a_changed_rate_changes_the_weights(train_net, tmp_path, options):
    begun(train_net, options)
    going_on(train_net, tmp_path, options)
    plain = final(tmp_path / "output")["model"]
    options["OUTPUT_DIR"] = str(tmp_path / "other")
    assert train_net(options={**options, "SOLVER.MAX_ITER": 2}).status == 0
    assert train_net("--resume", options={**options, "SOLVER.BASE_LR": 0.004}).status == 0
    assert differences(plain, final(tmp_path / "other")["model"])


def test_more_images_a_batch(train_net, tmp_path, options):
    begun(train_net, options)
    out, _, _ = going_on(train_net, tmp_path, options, **{"SOLVER.IMS_PER_BATCH": 4})
    assert "SOLVER.IMS_PER_BATCH 4 (was 2)" in out and "not exactly" in out


def test_nothing_is_told_of_what_is_the_same(train_net, tmp_path, options):
    begun(train_net, options)
    options["SOLVER.MAX_ITER"] = 2
    assert "other keys" not in train_net("--resume", options=options).out


def test_other_data_are_told(train_net, tmp_path, options, shapes):
    begun(train_net, options)
    out, _, _ = going_on(train_net, tmp_path, options, **{"DATASETS.TRAIN": (shapes.val,)})
    assert f"DATASETS.TRAIN ('{shapes.val}',) (was ('{shapes.train}',))" in out
    assert "the data start from their beginning" in out


def test_another_optimizer_is_another_run(train_net, tmp_path, options):
    begun(train_net, options)
    outcome = train_net("--resume", options={**options, "SOLVER.OPTIMIZER": "SGD"})
    assert "SOLVER.OPTIMIZER is SGD, and was ADAMW" in outcome.sentence()
    outcome = train_net("--resume", options={**options, "SOLVER.OPTIMIZER": "adamw"})
    assert outcome.status == 0


def test_other_matrices_for_muon_are_another_run(train_net, tmp_path, options):
    """Their states would be taken by position, from each other."""
    options = {**options, "SOLVER.OPTIMIZER": "MUON", "SOLVER.NO_MUON": ["*.class_proj.*"]}
    begun(train_net, options)
    outcome = train_net("--resume", options={**options, "SOLVER.NO_MUON": ["*.mask_proj.*"]})
    assert "SOLVER.NO_MUON is ('*.mask_proj.*',), and was ('*.class_proj" in outcome.sentence()


def test_what_saves_memory_counts(train_net, tmp_path, options):
    begun(train_net, options)
    more = {"SOLVER.ACCUMULATE": 2, "SOLVER.AMP.ENABLED": True, "SOLVER.AMP.DTYPE": "bfloat16"}
    out, *_ = going_on(train_net, tmp_path, options, **more)
    assert "SOLVER.ACCUMULATE 2 (was 1), SOLVER.AMP.ENABLED True (was False)" in out
    assert "SOLVER.AMP.DTYPE bfloat16 (was float16)" in out


@pytest.mark.parametrize("is_there", [True, False])
def test_a_kernel_is_told_of_where_it_is_another(tiny_config, monkeypatch, caplog, is_there):
    """A run of before SOLVER.FUSED None, in which it was False."""
    monkeypatch.setattr("knet.engine.optimizer._has_fused", lambda kind, device: is_there)
    tiny_config.SOLVER.FUSED = False
    plain = {"config": tiny_config.dump()}
    tiny_config.SOLVER.FUSED = None
    compare_keys(plain, tiny_config)
    assert ("SOLVER.FUSED None (was False)" in caplog.text) == is_there
