"""Every published model: its recipe, its parameters and their groups are the authors'."""

import json

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler

from knet.checkpoint import to_official
from knet.engine import build_optimizer
from knet.engine.main import load_config
from tests.conftest import REPO

# our file below configs/ -> the authors' (MMSegmentation's where they have another width)
DETECTION = {
    f"coco/{task}/knet_{ours}.yaml": f"det__knet__knet_s3_{theirs}_coco{suffix}.json"
    for task, suffix in (("panoptic", "-panoptic"), ("instance", ""))
    for ours, theirs in (
        ("r50_1x", "r50_fpn_1x"),
        ("r50_ms3x", "r50_fpn_ms-3x"),
        ("r101_ms3x", "r101_fpn_ms-3x"),
        ("r101_dcn_ms3x", "r101_dcn-c3-c5_fpn_ms-3x"),
        *([("swin_l_ms3x", "swin-l_fpn_ms-3x_16x2")] if task == "panoptic" else []),
    )
}
SEMANTIC = {
    f"ade20k/knet_{ours}.yaml": f"seg__knet__knet_s3_{theirs}_ade20k.json"
    for ours, theirs in (
        ("fcn_r50", "fcn_r50-d8_80k_adamw"),
        ("pspnet_r50", "pspnet_r50-d8_80k_adamw"),
        ("deeplabv3_r50", "deeplabv3_r50-d8_80k_adamw"),
        ("upernet_r50", "upernet_r50-d8_80k_adamw"),
        ("upernet_swin_t", "upernet_swin-t_80k_adamw"),
        ("upernet_swin_l", "upernet_swin-l_80k_adamw"),
        ("upernet_swin_l_640", "upernet_swin-l_80k_adamw_640x640"),
    )
}
WIDE = {
    f"ade20k/mmseg_knet_{ours}.yaml": f"mmseg__knet_s3_{theirs}_adamw_80k_ade20k.json"
    for ours, theirs in (
        ("upernet_r50", "upernet_r50-d8_8x2_512x512"),
        ("upernet_swin_t", "upernet_swin-t_8x2_512x512"),
        ("upernet_swin_l", "upernet_swin-l_8x2_512x512"),
        ("upernet_swin_l_640", "upernet_swin-l_8x2_640x640"),
    )
}
PUBLISHED = {**DETECTION, **SEMANTIC, **WIDE}
PANOPTIC_R50 = "coco/panoptic/knet_r50_1x.yaml"


def official(kind: str, path: str) -> dict:
    """A recording of the authors' configuration; skips where it is not at hand."""
    file = REPO.parent / "shared" / "parity" / f"official_{kind}" / PUBLISHED[path]
    if not file.exists():
        pytest.skip(f"{file.name} is not beside the project (../shared/parity)")
    return json.loads(file.read_text())


def recipe_of(path: str):
    return load_config(str(REPO / "configs" / path), ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])


def test_the_paper_has_sixteen_models():
    assert len(DETECTION) + len(SEMANTIC) == 16
    files = {
        str(p.relative_to(REPO / "configs"))
        for folder in ("coco", "ade20k")
        for p in (REPO / "configs" / folder).rglob("*knet_*.yaml")
        if "panoptic" not in p.name
    }
    assert files == PUBLISHED.keys()


# ----------------------------------------------------------------------------------- the recipe


@pytest.mark.parametrize("path", PUBLISHED)
def test_optimizer_and_schedule(path):
    theirs, ours = official("configs", path), recipe_of(path).SOLVER
    optimizer, lr = theirs["optimizer"], theirs["lr_config"]
    assert optimizer["type"].upper() == ours.OPTIMIZER
    assert (optimizer["lr"], optimizer["weight_decay"]) == (ours.BASE_LR, ours.WEIGHT_DECAY)
    assert ours.WEIGHT_DECAY_NORM == ours.WEIGHT_DECAY
    assert ours.WEIGHT_DECAY_BIAS in (None, ours.WEIGHT_DECAY) and ours.BIAS_LR_FACTOR == 1
    custom = optimizer.get("paramwise_cfg", {}).get("custom_keys", {})
    assert custom.get("backbone", {}).get("lr_mult", 1.0) == ours.BACKBONE_MULTIPLIER
    clip = theirs["optimizer_config"]["grad_clip"]
    assert ours.CLIP_GRADIENTS.ENABLED and ours.CLIP_GRADIENTS.CLIP_TYPE == "full_model"
    assert clip["max_norm"] == ours.CLIP_GRADIENTS.CLIP_VALUE
    assert clip["norm_type"] == ours.CLIP_GRADIENTS.NORM_TYPE
    assert lr["warmup"] == ours.WARMUP_METHOD and lr["warmup_iters"] == ours.WARMUP_ITERS
    assert lr["warmup_ratio"] == ours.WARMUP_FACTOR and ours.GAMMA == 0.1
    assert not ours.AMP.ENABLED and ours.REFERENCE_WORLD_SIZE == 0

    gpus = 16 if "16x2" in PUBLISHED[path] else 8
    assert gpus * theirs["data"]["samples_per_gpu"] == ours.IMS_PER_BATCH
    if theirs["runner"]["type"] == "IterBasedRunner":
        assert (theirs["runner"]["max_iters"], tuple(lr["step"])) == (ours.MAX_ITER, ours.STEPS)
    else:
        # an epoch of the 3x models is the training set three times
        epoch = {"1x": 7330, "ms": 21988}["1x" if "_1x" in path else "ms"] * 8 // gpus
        assert epoch * theirs["runner"]["max_epochs"] == ours.MAX_ITER
        assert tuple(epoch * e for e in lr["step"]) == ours.STEPS


@pytest.mark.parametrize("path", DETECTION)
def test_detection_data_and_thresholds(path):
    theirs, cfg = official("configs", path), recipe_of(path)
    knet, data = cfg.MODEL.KNET, cfg.INPUT
    train = {step["type"]: step for step in theirs["train_pipeline"]}
    sizes = train["Resize"]["img_scale"]
    if isinstance(sizes[0], list):
        assert train["Resize"]["multiscale_mode"] == "range" == data.MIN_SIZE_TRAIN_SAMPLING
        assert tuple(short for _, short in sizes) == data.MIN_SIZE_TRAIN
        assert {long for long, _ in sizes} == {data.MAX_SIZE_TRAIN}
    else:
        assert sizes == [data.MAX_SIZE_TRAIN, *data.MIN_SIZE_TRAIN]
    assert train["RandomFlip"]["flip_ratio"] == 0.5 and data.RANDOM_FLIP == "horizontal"
    test = {step["type"]: step for step in theirs["test_pipeline"]}["MultiScaleFlipAug"]
    assert test["img_scale"] == [data.MAX_SIZE_TEST, data.MIN_SIZE_TEST]
    assert not data.RESIZE_ANTIALIAS and not data.CROP.ENABLED and data.FORMAT == "RGB"
    assert theirs["img_norm_cfg"]["mean"] == cfg.MODEL.PIXEL_MEAN
    assert theirs["img_norm_cfg"]["std"] == cfg.MODEL.PIXEL_STD

    thresholds = theirs["model"]["test_cfg"]["rcnn"]
    assert thresholds["max_per_img"] == knet.TEST.MAX_INSTANCES
    assert thresholds["mask_thr"] == knet.MASK_THRESHOLD
    if "panoptic" in path:
        merge = thresholds["merge_stuff_thing"]
        assert merge["instance_score_thr"] == knet.TEST.SCORE_THRESHOLD
        assert merge["overlap_thr"] == knet.TEST.OVERLAP_THRESHOLD
    tasks = (knet.TEST.PANOPTIC_ON, knet.TEST.INSTANCE_ON)
    assert tasks == (("panoptic" in path), True)
    assert cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS and cfg.DATALOADER.ASPECT_RATIO_GROUPING


@pytest.mark.parametrize("path", DETECTION)
def test_detection_model(path):
    theirs, cfg = official("configs", path)["model"], recipe_of(path)
    knet, backbone = cfg.MODEL.KNET, theirs["backbone"]
    first, stages = theirs["rpn_head"], theirs["roi_head"]["mask_head"]
    assert theirs["roi_head"]["num_stages"] == len(stages) == knet.NUM_STAGES
    assert first["num_proposals"] == knet.NUM_KERNELS
    assert first["localization_fpn"]["norm_cfg"]["num_groups"] == knet.NUM_GROUPS
    update = knet.KERNEL_UPDATE
    for stage in stages:
        assert stage["in_channels"] == stage["out_channels"] == knet.CHANNELS
        assert stage["mask_thr"] == knet.MASK_THRESHOLD
        assert stage["mask_upsample_stride"] == knet.NECK.STRIDE // knet.MASK_STRIDE
        assert stage["num_heads"] == update.NUM_HEADS and stage["dropout"] == update.DROPOUT
        assert stage["feedforward_channels"] == update.FEEDFORWARD_CHANNELS
        assert stage["num_cls_fcs"] == update.NUM_CLASS_LAYERS
        assert stage["num_mask_fcs"] == update.NUM_MASK_LAYERS
        assert stage["loss_cls"]["loss_weight"] == knet.LOSS.CLASS_WEIGHT
        assert stage["loss_mask"]["loss_weight"] == knet.LOSS.MASK_WEIGHT
        assert stage["loss_dice"]["loss_weight"] == knet.LOSS.DICE_WEIGHT
        if "panoptic" in path:
            assert stage["loss_rank"]["loss_weight"] == knet.LOSS.RANK_WEIGHT
    assert first["loss_seg"]["loss_weight"] == knet.LOSS.SEMANTIC_WEIGHT
    training = theirs["train_cfg"]
    for assigner in [training["rpn"]["assigner"], *(r["assigner"] for r in training["rcnn"])]:
        assert assigner["cls_cost"]["weight"] == knet.MATCHER.CLASS_WEIGHT
        assert assigner["mask_cost"]["weight"] == knet.MATCHER.MASK_WEIGHT
        assert assigner["dice_cost"]["weight"] == knet.MATCHER.DICE_WEIGHT
    if backbone["type"] == "ResNet":
        assert backbone["depth"] == cfg.MODEL.RESNETS.DEPTH
        assert backbone["norm_eval"] == cfg.MODEL.BACKBONE.NORM_EVAL
        assert backbone["frozen_stages"] == cfg.MODEL.BACKBONE.FREEZE_AT - 1
    else:
        check_swin(backbone, cfg)


def check_swin(theirs, cfg):
    ours = cfg.MODEL.SWIN
    assert theirs.get("embed_dims", theirs.get("embed_dim")) == ours.EMBED_DIM
    assert theirs["depths"] == ours.DEPTHS and theirs["num_heads"] == ours.NUM_HEADS
    assert theirs["window_size"] == ours.WINDOW_SIZE and theirs["mlp_ratio"] == ours.MLP_RATIO
    assert theirs["drop_path_rate"] == ours.DROP_PATH_RATE


@pytest.mark.parametrize("path", [*SEMANTIC, *WIDE])
def test_semantic_data_and_model(path):
    theirs, cfg = official("configs", path), recipe_of(path)
    data, head, semantic = cfg.INPUT, cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.KNET.SEMANTIC
    train = {step["type"]: step for step in theirs["train_pipeline"]}
    assert train["Resize"]["img_scale"] == [data.MAX_SIZE_TRAIN, *data.MIN_SIZE_TRAIN]
    assert tuple(train["Resize"]["ratio_range"]) == data.SCALE_RANGE
    assert train["RandomCrop"]["crop_size"] == train["Pad"]["size"] == data.CROP.SIZE
    assert train["RandomCrop"]["cat_max_ratio"] == data.CROP.SINGLE_CATEGORY_MAX_AREA
    assert train["RandomFlip"]["prob"] == 0.5 and data.RANDOM_FLIP == "horizontal"
    assert "PhotoMetricDistortion" in train and data.COLOR_AUG_SSD
    assert train["Pad"]["seg_pad_val"] == head.IGNORE_VALUE
    test = {step["type"]: step for step in theirs["test_pipeline"]}["MultiScaleFlipAug"]
    assert test["img_scale"] == [data.MAX_SIZE_TEST, data.MIN_SIZE_TEST]
    assert theirs["img_norm_cfg"]["mean"] == cfg.MODEL.PIXEL_MEAN

    parts = theirs["model"]["decode_head"]
    base, auxiliary = parts["kernel_generate_head"], theirs["model"]["auxiliary_head"]
    assert parts["num_stages"] == cfg.MODEL.KNET.NUM_STAGES
    assert base["channels"] == head.CONVS_DIM and base["dropout_ratio"] == semantic.DROPOUT
    assert auxiliary["channels"] == semantic.AUXILIARY_CHANNELS
    assert auxiliary["loss_decode"]["loss_weight"] == semantic.AUXILIARY_WEIGHT
    assert head.NORM == "SyncBN" and (base["norm_cfg"]["type"] == head.NORM or path in WIDE)
    if "dilations" in base:
        assert base["dilations"] == [1, *head.ASPP_DILATIONS]
    for stage in parts["kernel_update_head"]:
        assert stage["kernel_updator_cfg"]["in_channels"] == semantic.UPDATE_CHANNELS
        assert stage["num_heads"] == cfg.MODEL.KNET.KERNEL_UPDATE.NUM_HEADS
        assert stage["feedforward_channels"] == cfg.MODEL.KNET.KERNEL_UPDATE.FEEDFORWARD_CHANNELS
    backbone, names = theirs["model"]["backbone"], list("2345")
    if backbone["type"] == "SwinTransformer":
        check_swin(backbone, cfg)
        prefix, names = "p", list("0123")
    else:
        resnets, prefix = cfg.MODEL.RESNETS, "res"
        assert backbone["type"] == "ResNetV1c" and backbone["contract_dilation"]
        assert backbone["dilations"] == [1, 1, resnets.RES4_DILATION, resnets.RES5_DILATION]
        assert backbone["strides"] == [
            1,
            2,
            *(1 if d > 1 else 2 for d in backbone["dilations"][2:]),
        ]
        assert backbone["norm_eval"] == cfg.MODEL.BACKBONE.NORM_EVAL
    features = [prefix + name for name in names]
    used = base["in_index"] if isinstance(base["in_index"], list) else [base["in_index"]]
    assert [features[i] for i in used] == head.IN_FEATURES
    assert features[auxiliary["in_index"]] == semantic.AUXILIARY_IN_FEATURE


def test_the_learning_rate_of_each_iteration():
    recipe = recipe_of(PANOPTIC_R50)
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


# -------------------------------------------------------------------------------- the parameters


@pytest.mark.parametrize("path", PUBLISHED)
def test_parameters_and_their_groups(path):
    """Names, shapes, what is frozen, and who learns at which rate and weight decay."""
    recorded, recipe = official("keys", path), recipe_of(path)
    model = build_model(recipe)
    shapes = {
        name: tuple(value["shape"])
        for name, value in recorded["keys"].items()
        if not name.endswith("num_batches_tracked")
    }
    state, unknown = to_official(
        {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    )
    assert not unknown
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == shapes

    trained, unknown = to_official(dict(model.named_parameters()))
    trained = {name: p for name, p in trained.items() if p.requires_grad}
    frozen = set(recorded.get("frozen_params", ()))
    if "optimizer_groups" not in recorded:  # of MMSegmentation's only the keys are recorded
        return
    parameters = {name for name, value in recorded["keys"].items() if value["parameter"]}
    assert trained.keys() == parameters - frozen
    groups = {}
    for group in build_optimizer(recipe, model).param_groups:
        key = f"lr={group['lr']:g} wd={group['weight_decay']:g}"
        groups[key] = groups.get(key, 0) + len(group["params"])
    assert groups == {k: v["requires_grad"] for k, v in recorded["optimizer_groups"].items()}
