"""Detectron2's Panoptic FPN, to compare with, on data sets whose classes share one range of ids."""

import copy

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch import PanopticFPN
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from knet.data.class_layout import IGNORE_LABEL, resolve_model_classes
from knet.data.dataset_mapper import KNetDatasetMapper
from knet.engine.main import load_config
from knet.errors import UsageError
from knet.modeling.panoptic_fpn import PanopticFPNOfOneRange
from tests.training_dicts import load_training_dicts

from ..conftest import REPO, pairs

CONFIG = str(REPO / "configs" / "compare" / "facade_panoptic_fpn.yaml")
TINY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 40,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 8,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
    # a model that has learned nothing shall have results
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH": 0.0,
    "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT": 1,
}
SIZE = (64, 96)
# contiguous ids of things: last, as stuff-first data has them, or between the stuff
THINGS = pytest.mark.parametrize("things", [(3, 4), (0, 2)], ids=["last", "between"])


@pytest.fixture(autouse=True)
def _storage():
    """Detectron2's heads write how many boxes they see."""
    with EventStorage():
        yield


def tiny(things, **options) -> PanopticFPNOfOneRange:
    """Of five classes, with no data set at hand."""
    cfg = load_config(CONFIG, pairs({**TINY, **options}))
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST, cfg.DATASETS.CUSTOM = (), (), []
    cfg.MODEL.KNET.CLASSES = [
        {"id": i, "name": f"class {i}", "isthing": i in things} for i in range(5)
    ]
    torch.manual_seed(0)
    model = build_model(cfg)
    assert type(model) is PanopticFPNOfOneRange
    return model


def stuff_of(things):
    return [i for i in range(5) if i not in things]


def training_input(rng, things, count=2):
    """Boxes of random thing classes; labels of every class, and without one."""
    masks = torch.zeros(count, *SIZE, dtype=torch.bool)
    for mask in masks:
        y, x = int(rng.integers(32)), int(rng.integers(48))
        mask[y : y + 24, x : x + 30] = True
    instances = Instances(SIZE)
    instances.gt_classes = torch.from_numpy(rng.choice(things, size=count)).long()
    instances.gt_masks = BitMasks(masks)
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    labels = torch.from_numpy(rng.choice([0, 1, 2, 3, 4, IGNORE_LABEL], size=SIZE))
    image = torch.from_numpy(rng.integers(0, 256, size=(3, *SIZE), dtype=np.uint8))
    return {"image": image, "instances": instances, "sem_seg": labels, "file_name": "a.png"}


def passed_to_detectron2(monkeypatch, model, batch):
    """What Detectron2's class would train on."""
    seen = []
    monkeypatch.setattr(PanopticFPN, "forward", lambda self, inputs: seen.extend(inputs) or {})
    model.train()(batch)
    return seen


@THINGS
def test_labels_in_separate_ranges(things, monkeypatch):
    """A thing's label is 0, stuff is counted from 1; classes of things are counted from 0."""
    rng = np.random.default_rng(1)
    batch = [training_input(rng, things, count) for count in (5, 0)]
    seen = passed_to_detectron2(monkeypatch, tiny(things), batch)
    assert len(seen) == 2
    for x, other in zip(batch, seen):
        for before, after in zip(x["sem_seg"].flatten().tolist(), other["sem_seg"].flatten()):
            if before == IGNORE_LABEL:
                assert int(after) == IGNORE_LABEL
            else:
                assert int(after) == (0 if before in things else 1 + stuff_of(things).index(before))
        expected = [things.index(i) for i in x["instances"].gt_classes.tolist()]
        assert other["instances"].gt_classes.tolist() == expected
        assert other["instances"].gt_masks is x["instances"].gt_masks
        assert other["instances"].gt_boxes is x["instances"].gt_boxes
        assert other["instances"].image_size == SIZE
        assert other["image"] is x["image"]


@THINGS
def test_the_inputs_are_not_changed(things, monkeypatch):
    batch = [training_input(np.random.default_rng(2), things)]
    before = copy.deepcopy(batch)
    parts = [dict(x) for x in batch]
    passed_to_detectron2(monkeypatch, tiny(things), batch)
    for x, same, y in zip(batch, parts, before):
        assert x.keys() == y.keys()
        assert all(x[key] is same[key] for key in x)
        assert torch.equal(x["sem_seg"], y["sem_seg"])
        assert torch.equal(x["instances"].gt_classes, y["instances"].gt_classes)
        assert x["instances"].get_fields().keys() == y["instances"].get_fields().keys()


@THINGS
def test_results_in_one_range(things, monkeypatch):
    """Every thing class and every stuff class comes back under its own id."""
    instances = Instances(SIZE)
    instances.pred_classes, instances.scores = torch.tensor([1, 0, 1]), torch.rand(3)
    segments = torch.arange(6, dtype=torch.int32).reshape(2, 3)
    info = [{"id": i + 1, "isthing": True, "category_id": i} for i in (0, 1)]
    info += [{"id": 2 + i, "isthing": False, "category_id": i, "area": 1} for i in (1, 2, 3)]
    made = {"panoptic_seg": (segments, info), "instances": instances, "sem_seg": None}
    monkeypatch.setattr(PanopticFPN, "forward", lambda self, inputs: [made])
    (result,) = tiny(things).eval()([{}])
    assert result.keys() == {"panoptic_seg", "instances"}
    assert torch.equal(result["panoptic_seg"][0], segments)
    found = result["panoptic_seg"][1]
    assert [segment["category_id"] for segment in found] == [*things, *stuff_of(things)]
    assert [segment["id"] for segment in found] == [1, 2, 3, 4, 5]
    assert result["instances"].pred_classes.tolist() == [things[1], things[0], things[1]]


@THINGS
@pytest.mark.parametrize("counts", [(2, 3), (0, 2), (0, 0)])
def test_it_trains(things, counts):
    rng = np.random.default_rng(3)
    model = tiny(things).train()
    losses = model([training_input(rng, things, count) for count in counts])
    assert {"loss_sem_seg", "loss_rpn_cls", "loss_cls", "loss_mask"} <= losses.keys()
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


@THINGS
def test_it_predicts(things):
    rng = np.random.default_rng(4)
    model = tiny(things).eval()
    image = training_input(rng, things)["image"]
    torch.nn.init.normal_(model.sem_seg_head.predictor.weight)  # else one class is everywhere
    with torch.no_grad():
        (result,) = model([{"image": image, "height": 50, "width": 71}])
    segments, info = result["panoptic_seg"]
    assert segments.shape == (50, 71) and "sem_seg" not in result
    assert set(segments.unique().tolist()) - {0} == {segment["id"] for segment in info}
    kinds = {segment["isthing"] for segment in info}
    assert kinds == {False, True}
    for segment in info:
        assert segment["category_id"] in (things if segment["isthing"] else stuff_of(things))
    instances = result["instances"]
    assert len(instances) > 0 and set(instances.pred_classes.tolist()) <= set(things)
    assert instances.pred_masks.shape[1:] == (50, 71) and isinstance(instances.pred_boxes, Boxes)


def test_what_is_learned_comes_back_under_its_id():
    """Two colours of stuff and one object, by heart: no class is taken for another."""
    things = (3, 4)
    image, labels = torch.full((3, *SIZE), 30.0), torch.zeros(SIZE, dtype=torch.long)
    image[:, :, 48:], labels[:, 48:] = 220, 2
    mask = torch.zeros(1, *SIZE, dtype=torch.bool)
    mask[0, 16:48, 8:40] = True
    image[0, mask[0]], labels[mask[0]] = 250, 4
    instances = Instances(SIZE, gt_classes=torch.tensor([4]), gt_masks=BitMasks(mask))
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    x = {"image": image, "instances": instances, "sem_seg": labels}
    model = tiny(things).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        loss = sum(model([x]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        (result,) = model([{"image": image}])
    assert int(result["instances"].pred_classes[0]) == 4
    segments, info = result["panoptic_seg"]
    category = {segment["id"]: segment["category_id"] for segment in info}
    assert category[int(segments[32, 24])] == 4  # inside the object
    stuff = {}
    for segment in info:
        if not segment["isthing"]:
            stuff[segment["category_id"]] = (segments == segment["id"])[:, :].nonzero()
    assert float(stuff[0][:, 1].float().median()) < 48 < float(stuff[2][:, 1].float().median())


# --- with a data set -----------------------------------------------------------------------------


@pytest.fixture
def on_pottery(pottery):
    """A config that trains on images of two thing classes, 0 and 2, and one stuff class, 1."""
    pottery.write()
    keys = {"MODEL.SEM_SEG_HEAD.NUM_CLASSES": 2, "INPUT.MIN_SIZE_TRAIN": (40,)}
    return load_config(CONFIG, pairs({**TINY, **keys, **pottery.options()}))


def test_the_projects_mapper_gives_what_it_learns_from(on_pottery):
    torch.manual_seed(0)
    model = build_model(on_pottery).train()
    assert (model.layout.thing_ids, model.layout.stuff_ids) == ((0, 2), (1,))
    mapper = KNetDatasetMapper(on_pottery, True)
    batch = [mapper(x) for x in load_training_dicts(on_pottery)]
    for x in batch:
        assert set(x["instances"].gt_classes.tolist()) == {0, 2}
        boxes = x["instances"].gt_masks.get_bounding_boxes()
        assert torch.equal(x["instances"].gt_boxes.tensor, boxes.tensor)
    losses = model(batch)
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_its_classes_are_those_of_the_data_set(on_pottery):
    """Names and kinds, for pictures and for the file of weights."""
    classes = resolve_model_classes(on_pottery)
    assert [(each.id, each.name, each.isthing) for each in classes] == [
        (0, "cup", True),
        (1, "wall", False),
        (2, "plate", True),
    ]


@pytest.mark.parametrize(
    "key, count, wanted", [("ROI_HEADS", 5, 2), ("SEM_SEG_HEAD", 5, 4), ("SEM_SEG_HEAD", 3, 4)]
)
def test_class_counts_that_do_not_fit_are_told(key, count, wanted):
    """It would train, and fail in its first result."""
    with pytest.raises(UsageError, match=rf"MODEL\.{key}\.NUM_CLASSES is {count}, .*to {wanted}$"):
        tiny((3, 4), **{f"MODEL.{key}.NUM_CLASSES": count})
