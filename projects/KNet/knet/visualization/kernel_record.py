"""What the kernels of a K-Net do with an image, seen from outside: the model is not changed.

Shape shorthand: N kernels (instance, then stuff), K classes, S stages of kernel update, h x w the
map at the neck's stride, H x W the image.
"""

import contextlib
from typing import TYPE_CHECKING, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import nn

from ..data.image_reading import ImageSource
from ..errors import UsageError
from ..modeling.mask_iou import weigh_classes
from ..modeling.masks import on_grid
from ..modeling.meta_arch import KNet
from ..modeling.structures import StagePrediction
from .segmentation import Segmentation, find_kind, read_result

if TYPE_CHECKING:
    from ..predictor import Predictor

__all__ = ["FoundObjects", "KernelRecord", "record_kernels"]


class FoundObjects(NamedTuple):
    """The segments of a result, and the kernel that made each; no kernel twice."""

    segmentation: Segmentation
    kernels: List[int]


class KernelRecord:
    """The stages of one image.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        stages: S + 1 predictions; the first is the kernel head's.
        attention: S of (N, N), how much each kernel (row) takes from each, the mean of the heads;
            empty where the stages have no attention of PyTorch's.
    """

    def __init__(
        self,
        model: KNet,
        inputs: List[Dict],
        image: np.ndarray,
        stages: Sequence[StagePrediction],
        attention: Sequence[torch.Tensor],
    ):
        self.image = image
        self.stages = list(stages)
        self.attention = [weights[0].float().cpu() for weights in attention]
        self._model = model
        self._inputs = inputs
        images = model.preprocess_image(inputs)
        self._images = images
        self._sizes = tuple(images.tensor.shape[-2:]), images.image_sizes[0]

    def masks(self, stage: int, grid: Tuple[int, int]) -> torch.Tensor:
        """(N, height, width) probabilities of a stage, on a grid that the image fills."""
        masks = self.stages[stage].mask_logits.float().sigmoid()
        return on_grid(masks, *self._sizes, grid)[0].cpu()

    def class_scores(self, stage: int) -> Optional[torch.Tensor]:
        """(N, K) probabilities; None where a stage has no classes yet."""
        logits = self.stages[stage].class_logits
        return None if logits is None else logits[0].float().sigmoid().cpu()

    def labels(self, stage: int) -> Optional[Tuple[List[float], List[int]]]:
        """Score and contiguous class id of each kernel; None where a stage has no classes yet."""
        scores = self.class_scores(stage)
        if scores is None:
            return None
        postprocessor = self._model.postprocessor
        best, labels = postprocessor.kernel_labels(scores)
        return best.tolist(), [postprocessor.layout.ids[i] for i in labels.tolist()]

    def found(self, stage: int, score_threshold: float) -> Optional[FoundObjects]:
        """The result that the model would give after a stage; None where it has no classes yet."""
        if self.stages[stage].class_logits is None:
            return None
        result = self._model.results(self.stages[stage], self._images, self._inputs)[0]
        kind = find_kind(result)
        if kind == "semantic":
            raise UsageError(
                "a semantic result does not tell its kernels: set MODEL.KNET.TEST.PANOPTIC_ON or "
                "INSTANCE_ON True"
            )
        found = read_result(result, kind, self.image.shape[:2], score_threshold)
        if kind == "panoptic":
            return FoundObjects(found, [segment["kernel"] for segment in found.segments])
        instances = result["instances"]
        kernels = instances.pred_kernels[instances.scores >= score_threshold].tolist()
        first = [kernels.index(kernel) for kernel in dict.fromkeys(kernels)]
        once = Segmentation(
            [found.masks[i] for i in first],
            found.boxes[first],
            [found.segments[i] for i in first],
            found.size,
        )
        return FoundObjects(once, [kernels[i] for i in first])

    def points(self) -> Optional[torch.Tensor]:
        """(N, 2) y and x where the instance kernels start, as shares of the padded image.

        None where they start nowhere in particular.
        """
        points = self.stages[0].points
        if points is None:
            return None
        height, width = points.logits.shape[-2:]
        cells = points.cells[0].cpu()
        y, x = torch.div(cells, width, rounding_mode="floor"), cells % width
        return torch.stack(((y + 0.5) / height, (x + 0.5) / width), dim=1)


def record_kernels(predictor: "Predictor", source: ImageSource) -> KernelRecord:
    """Predict on an image and keep what every stage has made of it.

    Raises:
        UsageError: the model is no K-Net of instance kernels, or has test-time augmentation.
        DatasetError: the image cannot be read.
    """
    model = predictor.model
    if not isinstance(model, KNet):
        raise UsageError(
            f"a {type(model).__name__} has no instance kernels: give the weights of a panoptic or "
            "instance K-Net"
        )
    if predictor.cfg.TEST.AUG.ENABLED:
        raise UsageError("kernels are shown of one view: set TEST.AUG.ENABLED False")
    inputs: List[Dict] = []
    stages: List[StagePrediction] = []
    attention: List[torch.Tensor] = []
    with _watched(model, inputs, stages, attention):
        (prediction,) = predictor.stream([source], workers=1)
    if prediction.error is not None:
        raise prediction.error
    return KernelRecord(model, inputs, prediction.image, stages, attention)


@contextlib.contextmanager
def _watched(
    model: KNet,
    inputs: List[Dict],
    stages: List[StagePrediction],
    attention: List[torch.Tensor],
) -> Iterator[None]:
    """Within it a model's inputs, stages and attention are added to the lists."""

    def ask_for_weights(module, args, kwargs):
        return args, {**kwargs, "need_weights": True, "average_attn_weights": True}

    def rated(stage: StagePrediction) -> StagePrediction:  # as the last one's result is
        return weigh_classes(stage, model.criterion.num_kernels)

    with contextlib.ExitStack() as stack:

        def keep(handle) -> None:
            stack.callback(handle.remove)

        keep(model.register_forward_pre_hook(lambda _, args: inputs.extend(args[0])))
        keep(model.kernel_head.register_forward_hook(lambda _, __, out: stages.append(out[1])))
        for head in model.kernel_update_heads:
            for module in head.modules():
                if isinstance(module, nn.MultiheadAttention):
                    keep(module.register_forward_pre_hook(ask_for_weights, with_kwargs=True))
                    keep(module.register_forward_hook(lambda _, __, out: attention.append(out[1])))
            keep(head.register_forward_hook(lambda _, __, out: stages.append(rated(out))))
        yield
