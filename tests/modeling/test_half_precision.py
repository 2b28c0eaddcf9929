"""Large masks under fp16 autocast: sums that half precision cannot hold are kept out of it."""

from collections import defaultdict

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from knet.modeling.criterion import Criterion
from knet.modeling.kernel_head import KernelHead
from knet.modeling.kernel_update import KernelUpdateHead
from knet.modeling.matcher import Matcher
from knet.modeling.point_kernel_head import PointKernelHead
from knet.modeling.structures import StagePrediction, Targets
from tests.modeling.semantic.heads import small_config, training_batch
from tests.tiny_model import LAYOUT, tiny_model, training_input

HALF = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


@HALF
def test_update_of_a_kernel_with_a_large_mask(dtype):
    """16,800 cells, the paper's map of stride 8: F^K is about 1e4, its products 1e8."""
    torch.manual_seed(0)
    head = KernelUpdateHead(num_classes=3, channels=16, num_heads=4, feedforward_channels=32)
    feature_map = torch.rand(1, 16, 100, 168)
    kernels = 1e4 * torch.rand(1, 2, 16)
    mask_logits = torch.full((1, 2, 100, 168), 5.0)
    with torch.no_grad():
        expected = head(feature_map, kernels, mask_logits)
        with torch.autocast("cpu", dtype=dtype):
            stage = head(feature_map, kernels, mask_logits)
    assert torch.isfinite(stage.mask_logits).all() and torch.isfinite(stage.class_logits).all()
    # kernels after LayerNorm are of size 1
    torch.testing.assert_close(stage.kernels.float(), expected.kernels, rtol=0, atol=0.1)


@HALF
def test_matching_and_losses_of_a_large_object(dtype):
    """67,200 cells of stride 4: more than fp16 can count."""
    height, width = 200, 336
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 3, height, width, generator=generator)
    logits[0, 1] += 6
    masks = torch.ones(1, 2, height, width)
    masks[0, 1, :, 100:] = 0
    targets = Targets(
        thing_masks=masks,
        thing_classes=torch.tensor([[0, 1]]),
        num_things=[2],
        stuff_masks=torch.zeros(1, 0, height, width),
        stuff_present=torch.zeros(1, 0, dtype=torch.bool),
    )
    stages = [
        StagePrediction(torch.zeros(1, 3, 4), logits),
        StagePrediction(torch.zeros(1, 3, 4), logits, torch.zeros(1, 3, 2)),
    ]
    semantic_logits = torch.zeros(1, 2, height, width)
    criterion = Criterion(matcher=Matcher(), num_kernels=3, num_thing_classes=2)
    expected = criterion(stages, semantic_logits, targets)
    with torch.autocast("cpu", dtype=dtype):
        losses = criterion(stages, semantic_logits, targets)
    assert losses == expected


@HALF
def test_what_comes_in_half_precision_is_resized_in_float32(dtype):
    generator = torch.Generator().manual_seed(0)
    halves = [torch.randn(1, n, 16, 24, generator=generator).to(dtype) for n in (3, 2)]
    masks = (torch.rand(1, 2, 32, 48, generator=generator) > 0.5).float()
    targets = Targets(
        thing_masks=masks,
        thing_classes=torch.tensor([[0, 1]]),
        num_things=[2],
        stuff_masks=torch.zeros(1, 0, 32, 48),
        stuff_present=torch.zeros(1, 0, dtype=torch.bool),
    )
    criterion = Criterion(matcher=Matcher(), num_kernels=3, num_thing_classes=2)
    of_half, of_float = (
        criterion([StagePrediction(torch.zeros(1, 3, 4), masks)], semantic, targets)
        for masks, semantic in (halves, [half.float() for half in halves])
    )
    assert of_half == of_float


# ------------------------------------------------------------------------------- whole models

INPUT_SIZE = (64, 96)


def panoptic(kernel_head):
    model = tiny_model(kernel_head=kernel_head)
    inputs = [training_input(np.random.default_rng(i), LAYOUT, INPUT_SIZE) for i in range(2)]
    return model, inputs


def semantic():
    cfg = small_config("SemSegFCNHead", "SemanticKNet")
    cfg.MODEL.KNET.SEMANTIC.DICE_WEIGHT = 1.0
    cfg.MODEL.KNET.SEMANTIC.AUXILIARY_IN_FEATURE = "res4"
    torch.manual_seed(0)
    return build_model(cfg), training_batch()


MODELS = pytest.mark.parametrize(
    "build",
    [lambda: panoptic(KernelHead), lambda: panoptic(PointKernelHead), semantic],
    ids=["panoptic", "points", "semantic"],
)


class Called(TorchDispatchMode):
    """The dtypes with which each operator was called."""

    def __init__(self):
        super().__init__()
        self.dtypes = defaultdict(set)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        flat = tree_flatten((args, kwargs or {}))[0]
        found = {x.dtype for x in flat if isinstance(x, torch.Tensor) and x.is_floating_point()}
        self.dtypes[func.overloadpacket.__name__] |= found
        return func(*args, **(kwargs or {}))


@HALF
@MODELS
def test_losses_and_what_they_are_made_of_are_float32(build, dtype):
    model, inputs = build()
    group_features = []

    def note(module, args, result):
        group_features.append(args[0].dtype)

    stages = getattr(model, "sem_seg_head", model).kernel_update_heads
    for head in stages:
        head.updater.register_forward_hook(note)
    with torch.autocast("cpu", dtype=dtype), Called() as called:
        losses = model(inputs)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert group_features == len(stages) * [torch.float32]
    half = {name for name, dtypes in called.dtypes.items() if dtype in dtypes}
    assert "convolution" in half, "the network does compute in half precision"
    # what sums over pixels, or takes a logarithm
    reductions = {name for name in called.dtypes if name in REDUCTIONS}
    assert len(reductions) > 3 and not half & reductions


REDUCTIONS = {
    *("sum", "mean", "_log_softmax", "_softmax", "log_sigmoid_forward", "log", "exp"),
    *("binary_cross_entropy_with_logits", "nll_loss2d_forward", "square", "pow", "scatter_add"),
}


@MODELS
def test_results_are_float32(build):
    model, inputs = build()
    with torch.no_grad():
        for _ in range(30):  # BatchNorm learns how large its inputs are
            model(inputs)
    model.eval()
    inputs = [{"image": x["image"]} for x in inputs]
    with torch.no_grad():
        full = model(inputs)
        model.test_dtype = torch.float16
        half = model(inputs)
    for a, b in zip(full, half):
        assert a.keys() == b.keys()
        assert b["sem_seg"].dtype is torch.float32
        assert not torch.equal(a["sem_seg"], b["sem_seg"]), "it does compute in half precision"
        difference = (a["sem_seg"] - b["sem_seg"]).abs().mean()
        assert difference < 0.2 * a["sem_seg"].std()


@HALF
def test_results_of_one_prediction_are_the_same_under_autocast(dtype):
    model, inputs = panoptic(KernelHead)
    model.eval()
    images = model.preprocess_image(inputs)
    with torch.no_grad():
        stages, _ = model.predict(model.backbone(images.tensor))
        expected = model.results(stages[-1], images, inputs)
        with torch.autocast("cpu", dtype=dtype):
            found = model.results(stages[-1], images, inputs)
    for a, b in zip(expected, found):
        assert torch.equal(a["sem_seg"], b["sem_seg"])
        assert torch.equal(a["panoptic_seg"][0], b["panoptic_seg"][0])
        assert torch.equal(a["instances"].pred_masks, b["instances"].pred_masks)


@pytest.mark.parametrize("build", [lambda: panoptic(KernelHead), semantic], ids=["pan", "sem"])
def test_large_features_do_not_overflow(build):
    """A mean of 10 at each cell of a map of the paper's size: the sum is beyond float16."""
    model = build()[0]
    head = getattr(model, "sem_seg_head", model).kernel_update_heads[0]
    channels = head.mask_proj.in_features
    feature_map = torch.full((1, channels, 100, 168), 10.0)
    torch.nn.init.dirac_(head.feature_transform.weight)
    torch.nn.init.zeros_(head.feature_transform.bias)
    masks = torch.full((1, 5, 100, 168), 3.0)
    found = []
    head.updater.register_forward_hook(lambda module, args, result: found.append(args[0]))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.float16):
        head(feature_map.half(), torch.rand(1, 5, channels), masks.half())
    expected = 10 * 100 * 168 / (1 if head.mask_threshold is not None else 5)
    torch.testing.assert_close(found[0], torch.full((1, 5, channels), expected))


def test_bfloat16_learns_as_float32_does():
    """Thirty steps on two images: the loss falls as far."""
    ends = []
    for half in (False, True):
        model, inputs = panoptic(KernelHead)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
        for _ in range(30):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                total = sum(model(inputs).values())
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            ends.append(total.item())
    full, half = ends[:30], ends[30:]
    assert full[-1] < 0.7 * full[0]
    assert abs(half[-1] - full[-1]) < 0.15 * full[-1]
