"""Results made by hand, and a predictor that gives them."""

from types import SimpleNamespace

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from knet.data.classes import ModelClass
from knet.data.image_reading import read_image
from knet.errors import DatasetError
from knet.predictor import Prediction

CUP, WALL, PLATE = 0, 1, 3  # contiguous ids, with a gap
CLASSES = (
    ModelClass(CUP, 7, "cup", True, (200, 30, 30)),
    ModelClass(WALL, 3, "wall", False),
    ModelClass(PLATE, 92, "plate, deep", True),
)
SIZE = (30, 40)


def result(shift: int = 0) -> dict:
    """A wall, a cup and a plate, moved to the right; the upper rows are of no segment."""
    segments = torch.full(SIZE, 3, dtype=torch.int32)
    segments[:5] = 0
    segments[10:20, 5 + shift : 15 + shift] = 1
    segments[22:25, 20:32] = 2
    infos = [
        {"id": 1, "isthing": True, "category_id": CUP, "score": 0.9, "area": 100, "kernel": 4},
        {"id": 2, "isthing": True, "category_id": PLATE, "score": 0.5, "area": 36, "kernel": 2},
        {"id": 3, "isthing": False, "category_id": WALL, "score": 0.7, "area": 864, "kernel": 8},
    ]
    instances = Instances(SIZE)
    instances.pred_masks = torch.stack([segments == 1, segments == 2, segments == 9])
    instances.pred_boxes = Boxes(
        torch.tensor([[5.0 + shift, 10, 15 + shift, 20], [20, 22, 32, 25], [0, 0, 0, 0]])
    )
    instances.scores = torch.tensor([0.9, 0.5, 0.4])
    instances.pred_classes = torch.tensor([CUP, PLATE, PLATE])
    instances.pred_kernels = torch.tensor([4, 2, 0])
    scores = torch.full((4, *SIZE), -9.0)
    scores[2] = 0.0  # of no class
    for info in infos:
        scores[info["category_id"]][segments == info["id"]] = -1.0
    return {
        "panoptic_seg": (segments, infos),
        "instances": instances,
        "sem_seg": scores,
    }


class MadePredictor:
    """Gives the result above for any picture, moved by the value of its first pixel."""

    classes = CLASSES
    model = SimpleNamespace(device=torch.device("cpu"))
    batch_size = 1

    def __init__(self):
        self.seen = []

    def stream(self, sources, workers=1):
        for source in sources:
            self.seen.append(source)
            try:
                image = read_image(source)
            except DatasetError as error:
                yield Prediction(source, error=error)
                continue
            yield Prediction(source, image, result(int(image[0, 0, 0])))


def write_image(path, shift: int = 0):
    """An image for :class:`MadePredictor`; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*SIZE, 3), shift, np.uint8)
    Image.fromarray(pixels).save(path, quality=100)
    return str(path)
