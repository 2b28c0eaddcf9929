"""The panoptic and instance models behind the pyramid agree with the authors' implementation."""

import pytest
import torch
from detectron2.structures import BitMasks, Instances

from knet.modeling.inference import ImageSizes

from . import recorded

STUFF_OF = {"panoptic": recorded.STUFF, "instance": 0}
LOSS_VARIANTS = [
    *(
        ("panoptic", v)
        for v in (
            "normal",
            "zero_things_img1",
            "zero_stuff_img0",
            "zero_things_both",
            "batch1",
        )
    ),
    *(("instance", v) for v in ("normal", "zero_things_img1", "zero_things_both", "batch1")),
]


@pytest.mark.parametrize("task", STUFF_OF)
def test_forward(task, device):
    recording = recorded.load(f"{task}_head_forward.pt")
    model = recorded.build_model(STUFF_OF[task]).eval()
    recorded.load_official(model, recording["state_dict"])
    model.to(device)
    features = recorded.features(recording, device)
    with torch.no_grad():
        maps = model.neck(features)
        stages, semantic_logits = model.predict(features)
        feature_map = model.kernel_head(*maps)[0]
    allowed = recorded.tolerance(device, 1e-5)
    first = recording["rpn"]
    for out, expected in zip(maps, first["localization_feats"]):
        assert recorded.relative_error(out, expected) < allowed
    assert recorded.relative_error(feature_map, first["x_feats"]) < allowed
    assert recorded.relative_error(semantic_logits, first["seg_preds"]) < allowed
    assert recorded.relative_error(stages[0].kernels, first["proposal_feats"].flatten(2)) < allowed
    assert recorded.relative_error(stages[0].mask_logits, first["mask_preds"]) < allowed
    for stage, expected in zip(stages[1:], recording["stages"], strict=True):
        assert recorded.relative_error(stage.class_logits, expected["cls_score"]) < allowed
        assert recorded.relative_error(stage.mask_logits, expected["mask_preds"]) < allowed
        assert recorded.relative_error(stage.kernels, expected["object_feats"].flatten(2)) < allowed
    final = recording["final"]
    scaled = model.to_mask_stride(stages[-1].mask_logits)
    assert recorded.relative_error(scaled, final["scaled_mask_preds"]) < allowed
    scores = stages[-1].class_logits.sigmoid()
    assert recorded.relative_error(scores, final["cls_score_sigmoid"]) < allowed


def sizes_of(meta) -> ImageSizes:
    return ImageSizes(
        tuple(meta["batch_input_shape"]), tuple(meta["img_shape"][:2]), tuple(meta["ori_shape"][:2])
    )


def assert_merge_equal(panoptic_seg, expected):
    """Every pixel and segment; ids count from 1 here and from 0, times 1000, there."""
    segments, info = panoptic_seg
    labels = [s["label"] for s in expected["segments_info"]]
    assert [s["category_id"] for s in info] == labels
    assert [s["isthing"] for s in info] == [s["isthing"] for s in expected["segments_info"]]
    assert [s["area"] for s in info] == [s["area"] for s in expected["segments_info"]]
    assert [s["id"] for s in info] == list(range(1, len(labels) + 1))
    void = recorded.THINGS + recorded.STUFF
    theirs = torch.full_like(expected["pan_results"], -1)
    theirs[expected["pan_results"] == void] = 0
    for ours, segment in enumerate(expected["segments_info"], start=1):
        theirs[expected["pan_results"] == segment["id"]] = ours
    assert (theirs >= 0).all()
    assert torch.equal(segments.long(), theirs)


@pytest.mark.parametrize("case", ["A", "B", "C"])
def test_handmade_merge(case):
    """Each decision of the merge: kept, low score, overlapped, empty."""
    recording = recorded.load("panoptic_head_forward.pt")["handmade"][case]
    postprocessor = recorded.build_model().postprocessor
    inputs = recording["inputs"]
    results = postprocessor(
        torch.logit(inputs["cls_score_sigmoid"].double()),
        inputs["scaled_mask_preds"],
        sizes_of(inputs["img_meta"]),
    )
    assert_merge_equal(results["panoptic_seg"], recording["outputs"])


@pytest.mark.parametrize("thresholds", ["results", "results_low_thresholds"])
def test_panoptic_result(thresholds):
    recording = recorded.load("panoptic_head_forward.pt")
    postprocessor = recorded.build_model().postprocessor
    if thresholds == "results_low_thresholds":
        postprocessor.score_threshold = recording["low_thresholds"]["instance_score_thr"]
        postprocessor.overlap_threshold = recording["low_thresholds"]["overlap_thr"]
    final = recording["final"]
    for image, expected in enumerate(recording[thresholds]):
        results = postprocessor(
            torch.logit(final["cls_score_sigmoid"][image].double()),
            final["scaled_mask_preds"][image],
            sizes_of(recording["inputs"]["img_metas"][image]),
        )
        assert_merge_equal(results["panoptic_seg"], expected)


def test_instance_result():
    recording = recorded.load("instance_head_forward.pt")
    postprocessor = recorded.build_model(0).postprocessor
    postprocessor.max_instances = recording["config"]["test_cfg"]["rcnn"]["max_per_img"]
    final = recording["final"]
    for image, expected in enumerate(recording["results"]):
        instances = postprocessor(
            torch.logit(final["cls_score_sigmoid"][image].double()),
            final["scaled_mask_preds"][image],
            sizes_of(recording["inputs"]["img_metas"][image]),
        )["instances"]
        assert recorded.relative_error(instances.scores, expected["topk_scores"]) < 1e-5
        assert torch.equal(instances.pred_classes, expected["labels"])
        for per_class in expected["official_per_class"]:
            mine = instances[instances.pred_classes == per_class["label"]]
            assert torch.equal(mine.pred_masks, per_class["masks"])


def batched_inputs(inputs, num_stuff):
    """The recorded ground truth as Detectron2's training inputs."""
    batch = []
    for image, masks in enumerate(inputs["gt_masks"]):
        instances = Instances(tuple(masks.shape[-2:]))
        instances.gt_classes = inputs["gt_labels"][image]
        instances.gt_masks = BitMasks(masks.bool())
        batch.append({"instances": instances})
        if num_stuff:
            batch[-1]["sem_seg"] = inputs["gt_semantic_seg"][image][0]
    return batch


def official_loss_names(num_stages: int) -> dict:
    """Our loss names -> theirs."""
    names = {"loss_mask_0": "loss_rpn_mask", "loss_dice_0": "loss_rpn_dice"}
    names.update({"loss_rank_0": "loss_rpn_rank", "loss_semantic": "loss_rpn_seg"})
    for s in range(1, num_stages + 1):
        for ours, theirs in (("class", "cls"), ("mask",) * 2, ("dice",) * 2, ("rank",) * 2):
            names[f"loss_{ours}_{s}"] = f"s{s - 1}_loss_{theirs}"
    return names


@pytest.mark.parametrize("task,variant", LOSS_VARIANTS)
def test_losses_and_gradients(task, variant, device):
    num_stuff = STUFF_OF[task]
    recording = recorded.load(f"{task}_head_loss.pt")
    model = recorded.build_model(num_stuff)
    recorded.load_official(model, recording["state_dict"])
    model.to(device)
    expected = recording["variants"][variant]
    inputs = expected["inputs"]
    count = len(inputs["gt_masks"])
    features = {k: v[:count].clone() for k, v in recorded.features(recording, device).items()}
    for feature in features.values():
        feature.requires_grad_()
    padded = tuple(inputs["img_metas"][0]["batch_input_shape"])
    stages, semantic_logits = model.predict(features)
    targets = model.target_builder(batched_inputs(inputs, num_stuff), padded, device)

    if device.type == "cpu":
        check_targets(targets, expected["prepared"], num_stuff)
    losses = model.losses(stages, semantic_logits, targets)
    names = official_loss_names(len(stages) - 1)
    wanted = {k: v for k, v in expected["losses"].items() if "pos_acc" not in k}
    if "loss_rank" in wanted:  # their name where no thing is matched
        wanted["loss_rpn_rank"] = wanted.pop("loss_rank")
    assert {names[k] for k in losses} == set(wanted)
    for name, loss in losses.items():
        error = abs(float(loss.detach()) - wanted[names[name]])
        allowed = recorded.tolerance(device, 1e-5) * max(abs(wanted[names[name]]), 1e-3)
        assert error <= allowed, name

    sum(losses.values()).backward()
    check_gradients(model, features, expected, recorded.tolerance(device, 1e-4, 5e-3))
    check_assignments(model, stages, targets, expected)


def check_targets(targets, prepared, num_stuff):
    for image, masks in enumerate(prepared["gt_masks"]):
        assert targets.num_things[image] == len(masks)
        assert torch.equal(targets.thing_masks[image, : len(masks)], masks)
        assert torch.equal(targets.thing_classes[image, : len(masks)], prepared["gt_labels"][image])
        if num_stuff:
            present = targets.stuff_present[image].nonzero().flatten()
            classes = prepared["gt_sem_cls"][image]
            assert torch.equal(present + recorded.THINGS, classes)
            if len(classes):  # they pad an image without stuff by empty masks
                assert torch.equal(
                    targets.stuff_masks[image][present], prepared["gt_sem_seg"][image]
                )


def check_gradients(model, features, expected, tolerance):
    from knet.checkpoint import to_official

    gradients, unknown = to_official({k: p.grad for k, p in model.named_parameters()})
    assert not unknown and set(gradients) == set(expected["grad_norms"])
    largest = max(expected["grad_norms"].values())
    for name, norm in expected["grad_norms"].items():
        actual = float(gradients[name].norm()) if gradients[name] is not None else 0.0
        assert abs(actual - norm) <= tolerance * max(norm, 1e-6 * largest), name
    for name, gradient in expected["grads"].items():
        if float(gradient.norm()) > 1e-6 * largest:
            assert recorded.relative_error(gradients[name], gradient) < tolerance, name
    for feature, norm in zip(features.values(), expected["grad_fpn_norms"]):
        assert abs(float(feature.grad.norm()) - norm) <= tolerance * norm


def check_assignments(model, stages, targets, expected):
    """Costs and matched pairs of every stage and image."""
    at_stride = [
        type(s)(s.kernels, model.to_mask_stride(s.mask_logits).detach(), s.class_logits)
        for s in stages
    ]
    matched, _ = model.criterion.match(at_stride, targets)
    where = {"rpn": 0, "s0": 0, "s1": 1, "s2": 2}
    for record in expected["assigns"]:
        pairs, image = matched[where[record["where"]]], record["image"]
        mine = pairs.image == image
        theirs = record["gt_inds"].clone() - 1  # 0 is "no object" there
        ours = torch.full_like(theirs, -1)
        ours[pairs.kernel[mine].cpu()] = pairs.target[mine].cpu()
        assert torch.equal(ours, theirs), record["where"]
        if targets.num_things[image] == 0:
            continue
        cost = record["mask_cost"] + record["dice_cost"]
        source = at_stride[where[record["where"]]]
        if record["cls_cost"] is not None:
            cost = cost + record["cls_cost"]
        actual = model.criterion._costs(source, targets)[image, :, : targets.num_things[image]]
        allowed = recorded.tolerance(actual.device, 1e-5)
        assert recorded.relative_error(actual.detach(), cost) < allowed
