"""The config: every key explained, every file loadable, the R-50 recipe equal to the published."""

import ast
import inspect
import json
import re

import pytest
import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler

from knet import add_knet_config, config
from knet.checkpoint import to_official
from knet.engine import build_optimizer
from knet.engine.main import load_config
from knet.errors import UsageError
from tests.conftest import REPO

CONFIGS = sorted((REPO / "configs").rglob("*.yaml"))
PANOPTIC = str(REPO / "configs" / "knet_panoptic.yaml")
OFFICIAL = "det__knet__knet_s3_r50_fpn_1x_coco-panoptic.json"


def official(kind: str) -> dict:
    """A recording of the authors' configuration; skips where it is not at hand."""
    path = REPO.parent / "shared" / "parity" / f"official_{kind}" / OFFICIAL
    if not path.exists():
        pytest.skip(f"official_{kind}/{OFFICIAL} is not beside the project (../shared/parity)")
    return json.loads(path.read_text())


def leaves(node: CfgNode, prefix: str = "") -> dict:
    """{dotted key: value}"""
    found = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        found.update(leaves(value, f"{name}.") if isinstance(value, CfgNode) else {name: value})
    return found


# ---------------------------------------------------------------------------------- every key


def assigned_keys() -> dict:
    """{dotted key as written in config.py: line number, from 0} of everything that it sets."""
    found = {}
    for node in ast.walk(ast.parse(inspect.getsource(config))):
        if isinstance(node, ast.Assign):
            key = re.sub(r"^(cfg\.MODEL\.KNET|knet)\.", "MODEL.KNET.", ast.unparse(node.targets[0]))
            found[re.sub(r"^cfg\.", "", key)] = node.lineno - 1
    return found


def test_every_key_has_its_meaning_above_it():
    lines = inspect.getsource(config).splitlines()
    added = get_cfg()
    add_knet_config(added)
    keys = leaves(added).keys() - leaves(get_cfg()).keys()
    assert len(keys) > 30
    written = assigned_keys()
    assert keys <= written.keys()

    unexplained = []
    for key in sorted(keys):
        line = written[key] - 1
        while lines[line].strip() and not lines[line].strip().startswith("#"):
            line -= 1  # up to the comment of the paragraph, or to the empty line above it
        if not lines[line].strip():
            unexplained.append(key)
    assert not unexplained, "no line of meaning above these keys of config.py"


def test_the_defaults_are_the_published_values():
    added = get_cfg()
    add_knet_config(added)
    defaults, recipe = leaves(added), leaves(load_config(PANOPTIC))
    keys = defaults.keys() - leaves(get_cfg()).keys()
    assert {key: recipe[key] for key in keys} == {key: defaults[key] for key in keys}


def test_adding_the_keys_changes_no_default_of_detectron2():
    before, added = get_cfg(), get_cfg()
    add_knet_config(added)
    after = leaves(added)
    assert {key: after[key] for key in leaves(before)} == leaves(before)


# ---------------------------------------------------------------------------------- every file


@pytest.mark.parametrize("path", CONFIGS, ids=[str(p.relative_to(REPO)) for p in CONFIGS])
def test_every_file_loads_and_is_plain_yaml(path):
    yaml.safe_load(path.read_text())  # refuses !!python, which runs code
    cfg = load_config(str(path))
    assert cfg.MODEL.META_ARCHITECTURE != get_cfg().MODEL.META_ARCHITECTURE
    assert cfg.DATASETS.TRAIN and cfg.DATASETS.TEST
    assert all(step < cfg.SOLVER.MAX_ITER for step in cfg.SOLVER.STEPS) or "Base" in path.name


def test_no_two_files_write_into_one_folder():
    folders = [load_config(str(p)).OUTPUT_DIR for p in CONFIGS if not p.name.startswith("Base")]
    assert len(folders) > 2
    assert len(set(folders)) == len(folders)


# -------------------------------------------------------------------------------- load_config


def test_the_command_line_comes_after_the_file_and_the_file_after_the_defaults(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"_BASE_: {PANOPTIC}\nMODEL:\n  KNET:\n    NUM_KERNELS: 7\n    NUM_STAGES: 2\n")
    cfg = load_config(str(path), ["MODEL.KNET.NUM_STAGES", "5"])
    assert (cfg.MODEL.KNET.NUM_KERNELS, cfg.MODEL.KNET.NUM_STAGES) == (7, 5)
    assert cfg.MODEL.KNET.CHANNELS == 256 and cfg.SOLVER.MAX_ITER == 87960
    assert load_config("").MODEL.KNET.NUM_KERNELS == 100


@pytest.mark.parametrize(
    "options, mention",
    [
        (["MODEL.KNET.NUM_KERNEL", "5"], "MODEL.KNET.NUM_KERNEL"),
        (["MODEL.KNETS.NUM_KERNELS", "5"], "MODEL.KNETS.NUM_KERNELS"),
        (["MODEL.KNET.NUM_KERNELS"], "MODEL.KNET.NUM_KERNELS"),
        (["MODEL.KNET.NUM_KERNELS", "many"], "MODEL.KNET.NUM_KERNELS"),
        (["MODEL.KNET", "5"], "MODEL.KNET"),
    ],
    ids=["unknown key", "unknown node", "no value", "another type", "a node"],
)
def test_options_that_do_not_fit(options, mention):
    with pytest.raises(UsageError, match=re.escape(mention)) as error:
        load_config(PANOPTIC, options)
    assert len(str(error.value).splitlines()) == 1


def test_a_config_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere\.yaml"):
        load_config(str(tmp_path / "nowhere.yaml"))


@pytest.mark.parametrize(
    "text, mention",
    [
        ("MODEL:\n  KNET:\n    NUM_KERNEL: 5\n", "NUM_KERNEL"),
        ("MODEL:\n  KNET:\n    NUM_KERNELS: many\n", "NUM_KERNELS"),
        ("MODEL: [\n", "mine.yaml"),
        ("_BASE_: not_there.yaml\n", "not_there.yaml"),
        ("just words\n", "mine.yaml"),
    ],
    ids=["unknown key", "another type", "no yaml", "base not there", "no keys"],
)
def test_a_config_file_with_a_mistake_is_named(tmp_path, text, mention):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        load_config(str(path))
    assert str(path) in str(error.value) and mention in str(error.value)
    assert len(str(error.value).splitlines()) == 1


# ------------------------------------------------------------------------ the published recipe


@pytest.fixture(scope="module")
def recipe():
    return load_config(PANOPTIC, ["MODEL.DEVICE", "cpu"])


@pytest.fixture(scope="module")
def model(recipe):
    return build_model(recipe)


def test_the_recipe_as_the_reference_writes_it_down(recipe):
    solver, data = recipe.SOLVER, recipe.INPUT
    assert recipe.MODEL.RESNETS.DEPTH == 50 and not recipe.MODEL.RESNETS.STRIDE_IN_1X1
    assert recipe.MODEL.PIXEL_MEAN == [123.675, 116.28, 103.53] and data.FORMAT == "RGB"
    assert recipe.MODEL.PIXEL_STD == [58.395, 57.12, 57.375]
    assert recipe.MODEL.BACKBONE.FREEZE_AT == 2 and recipe.MODEL.BACKBONE.NORM_EVAL
    assert (data.MIN_SIZE_TRAIN, data.MAX_SIZE_TRAIN) == ((800,), 1333)
    assert (data.MIN_SIZE_TEST, data.MAX_SIZE_TEST) == (800, 1333)
    assert (data.RANDOM_FLIP, data.RESIZE_ANTIALIAS, data.CROP.ENABLED) == (
        "horizontal",
        False,
        False,
    )
    assert recipe.DATALOADER.FILTER_EMPTY_ANNOTATIONS and recipe.DATALOADER.ASPECT_RATIO_GROUPING
    assert recipe.DATALOADER.MIN_IMAGE_SIDE == 32
    assert (solver.IMS_PER_BATCH, solver.MAX_ITER, solver.STEPS) == (16, 87960, (58640, 80630))
    assert (solver.OPTIMIZER, solver.BASE_LR, solver.GAMMA) == ("ADAMW", 1e-4, 0.1)
    assert solver.BACKBONE_MULTIPLIER == 0.25
    assert (solver.WEIGHT_DECAY, solver.WEIGHT_DECAY_NORM) == (0.05, 0.05)
    assert solver.WEIGHT_DECAY_BIAS in (None, 0.05) and solver.BIAS_LR_FACTOR == 1
    assert (solver.WARMUP_METHOD, solver.WARMUP_FACTOR, solver.WARMUP_ITERS) == (
        "linear",
        0.001,
        1000,
    )
    clip = solver.CLIP_GRADIENTS
    assert (clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE, clip.NORM_TYPE) == (
        True,
        "full_model",
        1.0,
        2.0,
    )
    assert not solver.AMP.ENABLED and solver.REFERENCE_WORLD_SIZE == 0


def test_the_recipe_equals_the_authors_configuration(recipe):
    theirs, ours, knet = official("configs"), recipe.SOLVER, recipe.MODEL.KNET
    optimizer, lr = theirs["optimizer"], theirs["lr_config"]
    assert optimizer["type"].upper() == ours.OPTIMIZER
    assert (optimizer["lr"], optimizer["weight_decay"]) == (ours.BASE_LR, ours.WEIGHT_DECAY)
    factors = {k: v["lr_mult"] for k, v in optimizer["paramwise_cfg"]["custom_keys"].items()}
    assert factors == {"backbone": ours.BACKBONE_MULTIPLIER}
    clip = theirs["optimizer_config"]["grad_clip"]
    assert (
        clip["max_norm"],
        clip["norm_type"],
    ) == (ours.CLIP_GRADIENTS.CLIP_VALUE, ours.CLIP_GRADIENTS.NORM_TYPE)
    assert (
        lr["warmup"],
        lr["warmup_iters"],
        lr["warmup_ratio"],
    ) == (ours.WARMUP_METHOD, ours.WARMUP_ITERS, ours.WARMUP_FACTOR)
    epoch = 7330
    assert tuple(epoch * e for e in lr["step"]) == ours.STEPS
    assert epoch * theirs["runner"]["max_epochs"] == ours.MAX_ITER
    assert 8 * theirs["data"]["samples_per_gpu"] == ours.IMS_PER_BATCH

    parts, stages = theirs["model"], theirs["model"]["roi_head"]["mask_head"]
    first, stage = parts["rpn_head"], stages[0]
    assert knet.NUM_STAGES == parts["roi_head"]["num_stages"] == len(stages)
    assert first["num_proposals"] == knet.NUM_KERNELS
    assert knet.CHANNELS == first["in_channels"] == stage["in_channels"] == stage["out_channels"]
    assert first["localization_fpn"]["norm_cfg"]["num_groups"] == knet.NUM_GROUPS
    assert stage["mask_thr"] == knet.MASK_THRESHOLD
    assert stage["mask_upsample_stride"] == knet.NECK.STRIDE // knet.MASK_STRIDE
    update = knet.KERNEL_UPDATE
    assert (
        stage["num_heads"],
        stage["feedforward_channels"],
        stage["dropout"],
    ) == (update.NUM_HEADS, update.FEEDFORWARD_CHANNELS, update.DROPOUT)
    assert (
        stage["num_cls_fcs"],
        stage["num_mask_fcs"],
    ) == (update.NUM_CLASS_LAYERS, update.NUM_MASK_LAYERS)
    for head in stages:
        assert head["loss_cls"]["loss_weight"] == knet.LOSS.CLASS_WEIGHT
        assert head["loss_mask"]["loss_weight"] == knet.LOSS.MASK_WEIGHT
        assert head["loss_dice"]["loss_weight"] == knet.LOSS.DICE_WEIGHT
        assert head["loss_rank"]["loss_weight"] == knet.LOSS.RANK_WEIGHT
    assert first["loss_seg"]["loss_weight"] == knet.LOSS.SEMANTIC_WEIGHT
    for assigner in (
        parts["train_cfg"]["rpn"]["assigner"],
        *(r["assigner"] for r in parts["train_cfg"]["rcnn"]),
    ):
        assert assigner["cls_cost"]["weight"] == knet.MATCHER.CLASS_WEIGHT
        assert assigner["mask_cost"]["weight"] == knet.MATCHER.MASK_WEIGHT
        assert assigner["dice_cost"]["weight"] == knet.MATCHER.DICE_WEIGHT
    test = parts["test_cfg"]["rcnn"]
    assert test["max_per_img"] == knet.TEST.MAX_INSTANCES
    assert test["merge_stuff_thing"]["instance_score_thr"] == knet.TEST.SCORE_THRESHOLD
    assert test["merge_stuff_thing"]["overlap_thr"] == knet.TEST.OVERLAP_THRESHOLD

    for pipeline, flip in (("train_pipeline", 0.5), ("test_pipeline", None)):
        steps = {step["type"]: step for step in theirs[pipeline]}
        size = steps.get("Resize", {}).get("img_scale") or steps["MultiScaleFlipAug"]["img_scale"]
        split = "TRAIN" if flip else "TEST"
        short = recipe.INPUT[f"MIN_SIZE_{split}"]
        assert [recipe.INPUT[f"MAX_SIZE_{split}"], (short[0] if flip else short)] == size
        if flip:
            assert steps["RandomFlip"]["flip_ratio"] == flip
    assert theirs["img_norm_cfg"]["mean"] == recipe.MODEL.PIXEL_MEAN
    assert theirs["img_norm_cfg"]["std"] == recipe.MODEL.PIXEL_STD


def test_the_learning_rate_of_each_iteration(recipe):
    weight = torch.nn.Parameter(torch.zeros(1))
    scheduler = build_lr_scheduler(recipe, torch.optim.SGD([weight], lr=recipe.SOLVER.BASE_LR))

    def rate(iteration):
        scheduler.last_epoch = iteration
        return scheduler.get_lr()[0]

    for i in (0, 1, 2, 500, 999, 1000):
        assert rate(i) == pytest.approx(1e-4 * (0.001 + 0.999 * i / 1000), rel=1e-9), i
    for i, factor in ((1001, 1), (58639, 1), (58640, 0.1), (80629, 0.1), (80630, 0.01)):
        assert rate(i) == pytest.approx(1e-4 * factor, rel=1e-9), i
    assert rate(87959) == pytest.approx(1e-6, rel=1e-9)


def test_trained_parameters_and_their_groups_equal_the_authors(recipe, model):
    recorded = official("keys")
    frozen = set(recorded["frozen_params"])
    shapes = {name: tuple(v["shape"]) for name, v in recorded["keys"].items() if v["parameter"]}
    expected = {name: shape for name, shape in shapes.items() if name not in frozen}

    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    renamed, unknown = to_official(trained)
    assert not unknown
    assert {name: tuple(p.shape) for name, p in renamed.items()} == expected

    names = {id(p): name for name, p in renamed.items()}
    groups = {}
    for group in build_optimizer(recipe, model).param_groups:
        key = f"lr={group['lr']:g} wd={group['weight_decay']:g}"
        groups.setdefault(key, []).extend(names[id(p)] for p in group["params"])
    counted = {key: len(members) for key, members in groups.items()}
    assert counted == {k: v["requires_grad"] for k, v in recorded["optimizer_groups"].items()}
    slow = groups["lr=2.5e-05 wd=0.05"]
    assert set(slow) == {name for name in expected if name.startswith("backbone.")}


def test_state_dict_equals_the_authors(model):
    recorded = {
        name: tuple(value["shape"])
        for name, value in official("keys")["keys"].items()
        if not name.endswith("num_batches_tracked")
    }
    ours, unknown = to_official(
        {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    )
    assert not unknown
    assert {name: tuple(tensor.shape) for name, tensor in ours.items()} == recorded
