"""What is measured: by the data set's kind, and by what the model gives."""

import json
import os
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluators

from knet.data.training_images import load_dicts
from knet.errors import DatasetError, UsageError
from knet.evaluation import (
    EVALUATOR_BUILDERS,
    InstanceEvaluator,
    PanopticEvaluator,
    SemanticEvaluator,
    build_evaluator,
)
from knet.evaluation import panoptic_truth as truth_files
from knet.evaluation.build import check_evaluator
from tests.conftest import REPO
from tests.evaluation.conftest import (
    evaluate,
    instance_truth,
    label_truth,
    panoptic_truth,
    semantic_output,
)

ALL = [PanopticEvaluator, InstanceEvaluator, SemanticEvaluator]


def kinds(evaluator):
    """The classes of the evaluators that were built."""
    if isinstance(evaluator, DatasetEvaluators):
        return [kind for each in evaluator._evaluators for kind in kinds(each)]
    return [type(evaluator)]


def variant(shapes, kind):
    return shapes.val.replace("panoptic", kind)


def set_results(cfg, *kinds_on):
    for kind in ("PANOPTIC", "INSTANCE", "SEMANTIC"):
        cfg.MODEL.KNET.TEST[f"{kind}_ON"] = kind in kinds_on


def copy_of(name, new_name, **changes):
    """The same data set under another name, with some metadata changed (None: left out)."""
    metadata = {**MetadataCatalog.get(name).as_dict(), "name": new_name, **changes}
    DatasetCatalog.register(new_name, lambda: DatasetCatalog.get(name))
    MetadataCatalog.get(new_name).set(**{k: v for k, v in metadata.items() if v is not None})
    return new_name


# ---------------------------------------------------------------------------- what can be measured


def test_a_panoptic_model_is_measured_in_three_ways(tiny_config, shapes):
    evaluator = build_evaluator(tiny_config, shapes.val)
    assert kinds(evaluator) == ALL
    records = DatasetCatalog.get(shapes.val)
    outputs = [
        {**panoptic_truth(r), **instance_truth(r), **semantic_output(label_truth(r, 9), 9)}
        for r in records
    ]
    results = evaluate(evaluator, records, outputs)
    assert results["panoptic_seg"]["PQ"] == results["sem_seg"]["mIoU"] == 100.0
    assert results["segm"]["AP"] == results["bbox"]["AP"] == pytest.approx(100.0)
    folder = os.path.join(tiny_config.OUTPUT_DIR, "inference", shapes.val)
    kept = {"predictions.json", "coco_instances_results.json", "sem_seg_predictions.json"}
    assert kept <= set(os.listdir(folder))


@pytest.mark.parametrize(
    "given, measured",
    [
        (["PANOPTIC"], [PanopticEvaluator]),
        (["INSTANCE"], [InstanceEvaluator]),
        (["SEMANTIC"], [SemanticEvaluator]),
        (["PANOPTIC", "SEMANTIC"], [PanopticEvaluator, SemanticEvaluator]),
    ],
)
def test_only_results_that_the_model_makes_are_measured(tiny_config, shapes, given, measured):
    set_results(tiny_config, *given)
    check_evaluator(tiny_config, shapes.val)
    assert kinds(build_evaluator(tiny_config, shapes.val)) == measured


def test_an_instance_model_on_panoptic_data(tiny_config, shapes):
    tiny_config.MODEL.KNET.NUM_STUFF_CLASSES = 0
    set_results(tiny_config, "INSTANCE", "SEMANTIC")  # the latter is on unless switched off
    assert kinds(build_evaluator(tiny_config, shapes.val)) == [InstanceEvaluator]
    set_results(tiny_config, "SEMANTIC")
    with pytest.raises(UsageError, match=r"MODEL\.KNET\.TEST\.INSTANCE_ON True"):
        check_evaluator(tiny_config, shapes.val)


@pytest.mark.parametrize("architecture", ["SemanticKNet", "SemanticSegmentor"])
def test_a_semantic_model(tiny_config, shapes, architecture):
    tiny_config.MODEL.META_ARCHITECTURE = architecture
    set_results(tiny_config)
    for name in (shapes.val, variant(shapes, "semantic")):
        check_evaluator(tiny_config, name)
        assert kinds(build_evaluator(tiny_config, name)) == [SemanticEvaluator]
    with pytest.raises(UsageError, match=f"{architecture} gives semantic .* instance ones"):
        check_evaluator(tiny_config, variant(shapes, "instance"))


def test_mask_r_cnn(tiny_config, shapes):
    tiny_config.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    name = variant(shapes, "instance")
    assert kinds(build_evaluator(tiny_config, name)) == [InstanceEvaluator]
    with pytest.raises(UsageError, match=r"GeneralizedRCNN gives instance .* semantic ones"):
        check_evaluator(tiny_config, variant(shapes, "semantic"))
    tiny_config.MODEL.MASK_ON = False
    with pytest.raises(UsageError, match=r"MODEL\.MASK_ON True"):
        check_evaluator(tiny_config, name)


@pytest.mark.parametrize(
    "kind, evaluator, key",
    [("instance", InstanceEvaluator, "INSTANCE"), ("semantic", SemanticEvaluator, "SEMANTIC")],
)
def test_a_data_set_of_one_kind(tiny_config, shapes, kind, evaluator, key):
    name = variant(shapes, kind)
    assert kinds(build_evaluator(tiny_config, name)) == [evaluator]
    set_results(tiny_config, *{"PANOPTIC", "INSTANCE", "SEMANTIC"} - {key})
    with pytest.raises(UsageError) as error:
        check_evaluator(tiny_config, name)
    assert str(error.value).endswith(f"set MODEL.KNET.TEST.{key}_ON True")
    assert f"'{name}' in DATASETS.TEST needs {kind} results" in str(error.value)


def test_a_model_without_any_result(tiny_config, shapes):
    set_results(tiny_config)
    with pytest.raises(UsageError) as error:
        check_evaluator(tiny_config, shapes.val)
    for kind in ("PANOPTIC", "INSTANCE", "SEMANTIC"):
        assert f"MODEL.KNET.TEST.{kind}_ON True" in str(error.value)


# -------------------------------------------------------------------------------- evaluator types


@pytest.mark.parametrize("evaluator_type", ["cityscapes_panoptic_seg", "ade20k_panoptic_seg"])
def test_other_panoptic_data_sets(tiny_config, shapes, evaluator_type):
    name = copy_of(shapes.val, "other", evaluator_type=evaluator_type)
    assert kinds(build_evaluator(tiny_config, name)) == ALL


@pytest.mark.parametrize(
    "kind, measured",
    [("panoptic", ALL), ("instance", [InstanceEvaluator]), ("semantic", [SemanticEvaluator])],
)
def test_data_registered_without_an_evaluator_type(tiny_config, shapes, kind, measured):
    name = copy_of(variant(shapes, kind), "mine", evaluator_type=None)
    tiny_config.DATASETS.TEST = (name,)
    check_evaluator(tiny_config, name)
    assert kinds(build_evaluator(tiny_config, name)) == measured


@pytest.mark.parametrize("evaluator_type", ["lvis", None])
def test_an_unknown_evaluator_type_names_the_known_ones(tiny_config, evaluator_type):
    if evaluator_type:
        MetadataCatalog.get("some_set").evaluator_type = evaluator_type
    with pytest.raises(UsageError) as error:
        build_evaluator(tiny_config, "some_set")
    for mention in ("'some_set'", "DATASETS.TEST", repr(evaluator_type), "coco_panoptic_seg"):
        assert mention in str(error.value)


def test_truth_that_tells_nothing_of_its_kind(tiny_config):
    DatasetCatalog.register("objects", lambda: [{"file_name": "a.png", "annotations": [{}]}])
    with pytest.raises(UsageError, match=r"'objects' in DATASETS\.TEST has the .* type None"):
        check_evaluator(tiny_config, "objects")


def test_another_evaluator_can_be_added(tiny_config, monkeypatch):
    builders = {"INSTANCE": lambda name, folder: (name, folder)}
    monkeypatch.setitem(EVALUATOR_BUILDERS, "mine", builders)
    MetadataCatalog.get("some_set").evaluator_type = "mine"
    name, folder = build_evaluator(tiny_config, "some_set")
    assert name == "some_set" and folder.endswith("inference/some_set")


# ------------------------------------------------------------------------------- before training


def test_panopticapi_is_needed_for_panoptic_quality_alone(tiny_config, shapes, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install --no-deps panopticapi-lite"):
        check_evaluator(tiny_config, shapes.val)
    set_results(tiny_config, "INSTANCE", "SEMANTIC")
    check_evaluator(tiny_config, shapes.val)


def test_ground_truth_of_other_images_is_found_before_training(tiny_config, shapes, tmp_path):
    content = json.loads(Path(MetadataCatalog.get(shapes.val).json_file).read_text())
    for image in content["images"]:
        image["id"] += 1000
    (tmp_path / "other.json").write_text(json.dumps(content))
    name = copy_of(shapes.val, "mixed", json_file=str(tmp_path / "other.json"))
    with pytest.raises(DatasetError, match=r"other\.json has no image of the data set 'mixed'"):
        check_evaluator(tiny_config, name)
    set_results(tiny_config, "PANOPTIC", "SEMANTIC")
    check_evaluator(tiny_config, name)  # nobody asks for it


# --------------------------------------------------------------------------------- from train_net


def test_a_panoptic_model_reports_all_three(train_net, tiny_options, pottery, tmp_path):
    pottery.write()
    any_percentage = [
        [task, metric, 50.0, 50.1]
        for task, metric in (
            ("panoptic_seg", "PQ"),
            ("segm", "AP"),
            ("bbox", "AP"),
            ("sem_seg", "mIoU"),
        )
    ]
    options = {**tiny_options, **pottery.options(), "TEST.EXPECTED_RESULTS": any_percentage}
    outcome = train_net(options=options)
    assert outcome.status == 0, outcome.err
    assert "Results verification passed" in outcome.out
    folder = tmp_path / "output" / "inference" / pottery.name
    results = json.loads((folder / "coco_instances_results.json").read_text())
    assert {r["category_id"] for r in results} == {pottery.CUP, pottery.PLATE}
    kept = json.loads((folder / "sem_seg_predictions.json").read_text())
    assert {p["category_id"] for p in kept} <= {pottery.CUP, pottery.PLATE, pottery.WALL}


@pytest.mark.parametrize(
    "config, kind, expected, file",
    [
        ("instance", "instance", ("segm", "AP"), "coco_instances_results.json"),
        ("instance", "panoptic", ("segm", "AP"), "coco_instances_results.json"),
        ("semantic", "semantic", ("sem_seg", "mIoU"), "sem_seg_predictions.json"),
        ("semantic", "panoptic", ("sem_seg", "mIoU"), "sem_seg_predictions.json"),
    ],
)
def test_models_of_one_task_report_its_figure(
    train_net, tiny_options, shapes, tmp_path, config, kind, expected, file
):
    options = {
        **tiny_options,
        "MODEL.SEM_SEG_HEAD.CONVS_DIM": 16,
        "DATASETS.TRAIN": (variant(shapes, kind),),
        "DATASETS.TEST": (variant(shapes, kind),),
        "TEST.EXPECTED_RESULTS": [[*expected, 50.0, 50.1]],
    }
    config_file = str(REPO / "configs" / "demo" / f"knet_{config}_shapes.yaml")
    outcome = train_net("--eval-only", config_file=config_file, options=options)
    assert outcome.status == 0, outcome.err
    assert "Results verification passed" in outcome.out
    files = os.listdir(tmp_path / "output" / "inference" / variant(shapes, kind))
    assert file in files and "predictions.json" not in files


def test_keys_of_the_evaluation(shapes, tiny_config, tmp_path):
    records = load_dicts(shapes.val)
    for official in (False, True):
        tiny_config.OUTPUT_DIR = str(tmp_path / str(official))
        tiny_config.TEST.KEEP_PANOPTIC = False
        tiny_config.TEST.OFFICIAL_TOOLS = official
        tiny_config.MODEL.KNET.TEST.INSTANCE_ON = tiny_config.MODEL.KNET.TEST.SEMANTIC_ON = False
        evaluator = build_evaluator(tiny_config, shapes.val)
        results = evaluate(evaluator, records, [panoptic_truth(r) for r in records])
        assert results["panoptic_seg"]["PQ"] == 100
        folder = tmp_path / str(official) / "inference" / shapes.val
        assert [p.name for p in folder.iterdir()] == ["panoptic_quality.json"]


def test_ground_truth_is_read_once_for_all_results(shapes, tiny_config, tmp_path, monkeypatch):
    tiny_config.OUTPUT_DIR, records, read = str(tmp_path), load_dicts(shapes.val), []
    classes = 1 + max(s["category_id"] for r in records for s in r["segments_info"])
    outputs = [
        {
            **panoptic_truth(r),
            **instance_truth(r),
            **semantic_output(label_truth(r, classes), classes),
        }
        for r in records
    ]
    evaluator, read_image = build_evaluator(tiny_config, shapes.val), truth_files.read_image

    def count(path, *arguments):
        read.append(path)
        return read_image(path, *arguments)

    monkeypatch.setattr(truth_files, "read_image", count)
    results = evaluate(evaluator, records, outputs)
    assert results["panoptic_seg"]["PQ"] == results["sem_seg"]["pACC"] == 100
    assert read == [r["pan_seg_file_name"] for r in records]


def test_evaluators_of_ones_own_need_a_name_and_a_folder_alone(
    shapes, tiny_config, tmp_path, monkeypatch
):
    class Own(PanopticEvaluator):
        def __init__(self, dataset_name, folder):
            super().__init__(dataset_name, folder)

    builders = {"PANOPTIC": Own, "SEMANTIC": lambda name, folder: SemanticEvaluator(name, folder)}
    monkeypatch.setitem(EVALUATOR_BUILDERS, "own", builders)
    tiny_config.OUTPUT_DIR = str(tmp_path)
    evaluator = build_evaluator(tiny_config, copy_of(shapes.val, "own", evaluator_type="own"))
    assert kinds(evaluator) == [Own, SemanticEvaluator]
