"""``train_net.py`` from its command line: train, evaluate, resume, and how it ends."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import default_argument_parser
from panopticapi.evaluation import pq_compute

from knet.engine.main import load_config, main, run
from tests.conftest import DEMO_CONFIG, PUBLISHED_FORM, REPO, PanopticFolder, pairs

# Every kernel that wins a pixel makes a segment: after so few iterations the strict limits of the
# recipe would leave nothing to look at.
LENIENT = {
    "MODEL.KNET.MASK_THRESHOLD": 0.1,
    "MODEL.KNET.TEST.SCORE_THRESHOLD": 0.0,
    "MODEL.KNET.TEST.OVERLAP_THRESHOLD": 0.0,
}


def strict_json(path: Path):
    """Read a json that holds no NaN or Infinity, which only Python accepts."""

    def refuse(constant):
        raise AssertionError(f"{path} has {constant}, which is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def losses(output: Path) -> dict:
    """{iteration: its record} of what was logged in training."""
    records = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    return {r["iteration"]: r for r in records if "total_loss" in r}


def iteration_of(checkpoint: Path) -> int:
    return torch.load(checkpoint, weights_only=False)["iteration"]


def optimizer_steps(checkpoint: dict) -> set:
    """How many steps AdamW has counted, over all parameters."""
    state = checkpoint["trainer"]["_trainer"]["optimizer"]["state"]
    return {float(of_parameter["step"]) for of_parameter in state.values()}


def results(output: Path) -> dict:
    """{file name: content} of the evaluation's folder."""
    folder = output / "inference"
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_training_evaluates_and_evaluating_again_gives_the_same(
    train_net, tiny_options, pottery, tmp_path
):
    pottery.write()
    output = tmp_path / "output"
    options = {**tiny_options, **pottery.options(), **LENIENT}
    options.update({"SOLVER.MAX_ITER": 16, "SOLVER.WARMUP_ITERS": 0})
    outcome = train_net(options=options)
    assert outcome.status == 0
    assert {"config.yaml", "log.txt", "metrics.json", "model_final.pth"} <= {
        p.name for p in output.iterdir()
    }
    assert "Running on cpu" in (output / "log.txt").read_text(), "this package logs there too"
    assert iteration_of(output / "model_final.pth") == 15
    (record,) = losses(output).values()
    named = [key for key in record if key.startswith("loss_")]
    assert len(named) == 3 * 3 + 2 + 1 and all(math.isfinite(record[key]) for key in named)
    assert math.isfinite(record["total_loss"])

    # what was evaluated is kept, in the form that COCO's own tool reads
    folder = output / "inference" / pottery.name
    quality = strict_json(folder / "panoptic_quality.json")
    assert quality["All"]["PQ"] > 0
    assert len(strict_json(folder / "predictions.json")["annotations"]) == 2
    official = pq_compute(
        str(pottery.json_file),
        str(folder / "predictions.json"),
        gt_folder=str(pottery.pngs),
        pred_folder=str(folder / "predictions"),
    )
    for group in ("All", "Things", "Stuff"):
        for key in ("pq", "sq", "rq"):
            assert quality[group][key.upper()] == 100 * official[group][key]
        assert quality[group]["classes"] == official[group]["n"]

    after_training = results(output)
    weights = str(output / "model_final.pth")
    again = {**options, "OUTPUT_DIR": str(tmp_path / "again"), "MODEL.WEIGHTS": weights}
    assert train_net("--eval-only", options=again).status == 0
    assert results(tmp_path / "again") == after_training
    assert not (tmp_path / "again" / "model_final.pth").exists()
    # the config kept beside the model is enough, in a process that knows nothing of the data yet
    DatasetCatalog.remove(pottery.name)
    MetadataCatalog.remove(pottery.name)
    kept = {"OUTPUT_DIR": str(tmp_path / "kept"), "MODEL.WEIGHTS": weights}
    config_file = str(output / "config.yaml")
    assert train_net("--eval-only", config_file=config_file, options=kept).status == 0
    assert results(tmp_path / "kept") == after_training
    # other weights give other results: the equality above is no accident
    again.update({"MODEL.WEIGHTS": "", "OUTPUT_DIR": str(tmp_path / "untrained")})
    assert train_net("--eval-only", options=again).status == 0
    assert results(tmp_path / "untrained") != after_training


def test_what_is_kept_of_an_evaluation_is_strict_json(train_net, tiny_options, pottery, tmp_path):
    pottery.content["categories"].append({"id": 50, "name": "vase", "isthing": 1})
    pottery.write()
    options = {**tiny_options, **pottery.options()}
    assert train_net("--eval-only", options=options).status == 0
    folder = tmp_path / "output" / "inference" / pottery.name
    strict_json(folder / "predictions.json")
    quality = strict_json(folder / "panoptic_quality.json")
    assert quality["per_class"]["vase"]["PQ"] is None, "it occurs nowhere"
    assert quality["per_class"]["cup"]["PQ"] is not None


def test_the_fast_form_trains_goes_on_and_is_evaluated(train_net, tiny_options, pottery, tmp_path):
    pottery.write()
    options = {k: v for k, v in tiny_options.items() if k not in PUBLISHED_FORM}
    options.update({**pottery.options(), "DATASETS.TEST": ()})
    assert train_net(options=options).status == 0
    output = tmp_path / "output"
    (record,) = losses(output).values()
    named = {key for key in record if key.startswith("loss_")}
    # mask, dice and rank of stage 0 to 2, class of stage 1 and 2
    assert {"loss_point", "loss_semantic", "loss_semantic_dice"} < named and len(named) == 14
    assert all(math.isfinite(record[key]) for key in named)

    options["SOLVER.MAX_ITER"] = 4
    outcome = train_net("--resume", options=options)
    assert outcome.status == 0 and "Starting training from iteration 2" in outcome.out
    options.update({**pottery.options(), "MODEL.WEIGHTS": str(output / "model_final.pth")})
    assert train_net("--eval-only", options=options).status == 0
    quality = strict_json(output / "inference" / pottery.name / "panoptic_quality.json")
    assert math.isfinite(quality["All"]["PQ"])
    # nothing of it may be read as the published form
    published = {**tiny_options, "MODEL.WEIGHTS": options["MODEL.WEIGHTS"]}
    assert "model_final.pth" in train_net("--eval-only", options=published).sentence()


def test_resuming_goes_on_where_training_stopped(train_net, tiny_options, tmp_path):
    output = tmp_path / "output"
    options = {**tiny_options, "SOLVER.CHECKPOINT_PERIOD": 1, "DATASETS.TEST": ()}
    assert train_net(options=options).status == 0
    assert iteration_of(output / "model_final.pth") == 1
    first = torch.load(output / "model_final.pth", weights_only=False)

    options["SOLVER.MAX_ITER"] = 4
    outcome = train_net("--resume", options=options)
    assert outcome.status == 0
    assert "Starting training from iteration 2" in outcome.out
    assert sorted(losses(output)) == [1, 3]
    assert all(math.isfinite(record["total_loss"]) for record in losses(output).values())
    # iteration 2 began with the weights and the optimizer's state that iteration 1 left
    last = torch.load(output / "model_final.pth", weights_only=False)
    assert last["iteration"] == 3
    assert optimizer_steps(first) == {2.0}
    assert optimizer_steps(last) == {4.0}

    # without --resume it starts anew
    outcome = train_net(options=options)
    assert "Starting training from iteration 0" in outcome.out


def test_resuming_what_is_finished_evaluates_it(train_net, tiny_options, tmp_path):
    assert train_net(options=tiny_options).status == 0
    before = results(tmp_path / "output")
    for path in (tmp_path / "output" / "inference").rglob("*.json"):
        path.unlink()
    assert train_net("--resume", options=tiny_options).status == 0
    assert results(tmp_path / "output") == before


def test_resuming_is_the_same_as_never_having_stopped(train_net, tiny_options, tmp_path):
    folder = PanopticFolder(tmp_path)
    folder.add_ordinary(1)  # one image: the loader can only give the same again
    folder.write()
    options = {
        **tiny_options,
        **folder.options(),
        "DATASETS.TEST": (),
        "INPUT.RANDOM_FLIP": "none",
        "SOLVER.IMS_PER_BATCH": 1,
        "SOLVER.WARMUP_ITERS": 0,  # a warm-up longer than the run is squeezed into it
    }
    weights = {}
    for name, stops in (("resumed", (2, 4)), ("straight", (4,)), ("shorter", (3,))):
        for stop in stops:
            options.update({"SOLVER.MAX_ITER": stop, "OUTPUT_DIR": str(tmp_path / name)})
            assert train_net("--resume", options=options).status == 0
        checkpoint = torch.load(tmp_path / name / "model_final.pth", weights_only=False)
        assert checkpoint["iteration"] == stops[-1] - 1
        weights[name] = checkpoint["model"]
    for name, tensor in weights["straight"].items():
        assert torch.equal(weights["resumed"][name], tensor), name
    assert any(not torch.equal(weights["shorter"][n], t) for n, t in weights["straight"].items())


def test_the_seed_makes_a_run_repeatable(train_net, tiny_options, tmp_path):
    runs = []
    for name in ("a", "b"):
        options = {**tiny_options, "OUTPUT_DIR": str(tmp_path / name), "DATASETS.TEST": ()}
        assert train_net(options=options).status == 0
        runs.append(losses(tmp_path / name)[1]["total_loss"])
    assert runs[0] == runs[1]


def test_options_reach_the_run_and_are_kept(train_net, tiny_options, tmp_path):
    options = {**tiny_options, "SOLVER.MAX_ITER": 1, "MODEL.KNET.NUM_KERNELS": 5}
    assert train_net(options=options).status == 0
    kept = load_config(str(tmp_path / "output" / "config.yaml"))
    assert (kept.SOLVER.MAX_ITER, kept.MODEL.KNET.NUM_KERNELS) == (1, 5)
    weights = torch.load(tmp_path / "output" / "model_final.pth", weights_only=False)["model"]
    assert weights["kernel_head.instance_kernels.weight"].shape[0] == 5


@pytest.mark.parametrize("flags", [[], ["--eval-only"]], ids=["train", "eval-only"])
def test_expected_results_are_checked(tiny_options, flags, capsys):
    def run(expected):
        options = {**tiny_options, "SOLVER.MAX_ITER": 1, "TEST.EXPECTED_RESULTS": expected}
        return main(["--config-file", DEMO_CONFIG, *flags, *pairs(options)])

    assert run([["panoptic_seg", "PQ", 50.0, 50.1]]) == 0
    with pytest.raises(SystemExit) as end:
        run([["panoptic_seg", "PQ", 999.0, 1.0]])
    assert end.value.code == 1
    assert "Result verification failed" in capsys.readouterr().out


def test_weights_to_evaluate_are_advised_if_they_are_there(train_net, tiny_options, tmp_path):
    def advice():
        logged = train_net("--eval-only", options=tiny_options).out
        (line,) = (line for line in logged.splitlines() if "has learned nothing" in line)
        return line.partition("give the weights of one that has")[2]

    assert advice() == ""
    train_net(options={**tiny_options, "SOLVER.MAX_ITER": 1})
    assert advice() == f", such as MODEL.WEIGHTS {tmp_path / 'output' / 'model_final.pth'}"


def test_several_test_sets_are_evaluated_each(train_net, tiny_options, shapes, tmp_path):
    options = {**tiny_options, "DATASETS.TEST": (shapes.val, shapes.train)}
    assert train_net("--eval-only", options=options).status == 0
    assert {p.name for p in (tmp_path / "output" / "inference").iterdir()} == {
        shapes.val,
        shapes.train,
    }


def test_it_can_train_without_a_test_set(train_net, tiny_options, tmp_path):
    assert train_net(options={**tiny_options, "DATASETS.TEST": ()}).status == 0
    assert not (tmp_path / "output" / "inference").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_data_can_be_loaded_by_workers(train_net, tiny_options, workers):
    options = {**tiny_options, "DATALOADER.NUM_WORKERS": workers}
    assert train_net(options=options).status == 0


def test_an_instance_model_learns_from_panoptic_data(train_net, tiny_options, tmp_path):
    options = {**tiny_options, "MODEL.KNET.NUM_STUFF_CLASSES": 0}
    assert train_net(options=options).status == 0
    (record,) = losses(tmp_path / "output").values()
    assert math.isfinite(record["total_loss"])
    weights = torch.load(tmp_path / "output" / "model_final.pth", weights_only=False)["model"]
    assert weights["kernel_update_heads.0.class_proj.weight"].shape[0] == 5


# ------------------------------------------------------------------------- ends in one sentence


def test_an_unknown_key(train_net, tiny_options):
    outcome = train_net(options={**tiny_options, "MODEL.KNET.NUM_KERNEL": 5})
    assert "MODEL.KNET.NUM_KERNEL" in outcome.sentence()
    assert "Traceback" not in outcome.out


def test_a_missing_config_file(train_net, tiny_options):
    outcome = train_net(config_file="configs/nowhere.yaml", options=tiny_options)
    assert "configs/nowhere.yaml" in outcome.sentence()
    assert "Traceback" not in outcome.out


def test_no_config_file_at_all(capsys, tmp_path):
    assert main(["OUTPUT_DIR", str(tmp_path)]) == 1
    # a torch that finds the CUDA compiler but no GPU writes a line of its own before
    *_, line = err = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("train_net.py: DATASETS.TRAIN is ()")
    assert not any("Traceback" in other for other in err)


@pytest.mark.parametrize("flags", [[], ["--eval-only"], ["--resume"]])
def test_weights_that_are_not_there(train_net, tiny_options, flags):
    options = {**tiny_options, "MODEL.WEIGHTS": "nowhere/model.pth"}
    sentence = train_net(*flags, options=options).sentence()
    assert "nowhere/model.pth" in sentence and "MODEL.WEIGHTS" in sentence


def test_a_file_that_holds_no_weights(train_net, tiny_options, tmp_path):
    (tmp_path / "model.pth").write_text("not weights")
    options = {**tiny_options, "MODEL.WEIGHTS": str(tmp_path / "model.pth")}
    sentence = train_net("--eval-only", options=options).sentence()
    assert str(tmp_path / "model.pth") in sentence and "MODEL.WEIGHTS" in sentence


@pytest.mark.parametrize("flags", [["--eval-only"], ["--resume"]], ids=["eval-only", "resume"])
def test_weights_of_another_model(train_net, tiny_options, tmp_path, flags):
    options = {**tiny_options, "DATASETS.TEST": ()}
    assert train_net(options=options).status == 0
    options["MODEL.KNET.NUM_KERNELS"] = 5
    if "--eval-only" in flags:
        options["MODEL.WEIGHTS"] = str(tmp_path / "output" / "model_final.pth")
    # to go on with some weights left as they were initialised would be wrong without a word
    assert "model_final.pth" in train_net(*flags, options=options).sentence()


@pytest.mark.parametrize(
    "key, value",
    [
        ("MODEL.META_ARCHITECTURE", "Nope"),
        ("MODEL.BACKBONE.NAME", "nope"),
        ("SOLVER.LR_SCHEDULER_NAME", "Nope"),
        ("SOLVER.OPTIMIZER", "LION"),
        ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "value"),
        ("SOLVER.IMS_PER_BATCH", 0),
        ("SOLVER.MAX_ITER", 0),
        ("SOLVER.AMP.ENABLED", True),
        ("DATASETS.TRAIN", ()),
        ("DATALOADER.NUM_WORKERS", -1),
    ],
)
def test_a_value_of_detectron2s_that_cannot_work(train_net, tiny_options, key, value):
    assert key in train_net(options={**tiny_options, key: value}).sentence()


@pytest.mark.parametrize(
    "key, value",
    [
        ("MODEL.FPN.IN_FEATURES", ["res2", "res9"]),
        ("MODEL.RESNETS.DEPTH", 51),
        ("INPUT.FORMAT", "XYZ"),
        ("INPUT.RANDOM_FLIP", "both"),
        ("SOLVER.BASE_LR", -1.0),
    ],
)
def test_a_value_deep_in_detectron2_that_cannot_work(train_net, tiny_options, key, value):
    assert train_net(options={**tiny_options, key: value}).sentence()


def test_a_process_of_its_own_knows_the_data_sets_of_the_config(
    tiny_options, pottery, tmp_path, monkeypatch
):
    """Processes that are spawned for several GPUs have not prepared anything."""
    pottery.write()
    cfg = load_config(DEMO_CONFIG, pairs({**tiny_options, **pottery.options()}))
    seen = []
    monkeypatch.setattr("knet.engine.main.KNetTrainer", lambda cfg: seen.extend(DatasetCatalog))
    with pytest.raises(AttributeError):  # it is no trainer
        run(cfg, default_argument_parser().parse_args(["--num-gpus", "0"]))
    assert pottery.name in seen


def test_as_a_program(tiny_options, tmp_path):
    """Once for real: exit status, one sentence, no traceback, and nothing left behind."""
    done = subprocess.run(
        [
            sys.executable,
            str(REPO / "train_net.py"),
            "--config-file",
            DEMO_CONFIG,
            *pairs({**tiny_options, "MODEL.KNET.NUM_KERNEL": 5}),
        ],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("train_net.py: ")]
    assert len(lines) == 1 and "MODEL.KNET.NUM_KERNEL" in lines[0]
    assert done.stderr.strip().endswith(lines[0])
    assert list(tmp_path.iterdir()) == []
