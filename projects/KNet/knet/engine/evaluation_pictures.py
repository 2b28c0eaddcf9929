"""Pictures of a few images at each evaluation: the truth beside the prediction."""

import logging
import os
import tempfile

import numpy as np
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from PIL import Image

from ..data.image_reading import ImageReader
from ..errors import DatasetError, UsageError
from ..evaluation.outputs import inference_folder
from ..files import file_name_of
from ..visualization.pictures import draw_contact_sheet, draw_predictions
from .writers import has_tensorboard

__all__ = ["EvaluationPictures"]

logger = logging.getLogger(__name__)


class EvaluationPictures:
    """Draws ``TEST.PICTURES`` images of each of ``DATASETS.TEST`` from what an evaluation has left.

    The images are the same at each evaluation, spread over the data set. A sheet of them is
    ``OUTPUT_DIR/pictures/iter_<iteration>_<data set>.jpg``, and is in TensorBoard.
    """

    def __init__(self, cfg):
        self._cfg = cfg
        self._undrawable = set()  # data sets, told already

    def __call__(self) -> None:
        """Draw, in the main process alone; for Detectron2's EvalHook."""
        if comm.is_main_process():
            for name in self._cfg.DATASETS.TEST:
                try:
                    self._draw(name)
                except (UsageError, DatasetError, OSError) as error:
                    if name not in self._undrawable:
                        logger.warning(f"no pictures of '{name}' (TEST.PICTURES): {error}")
                    self._undrawable.add(name)

    def _draw(self, name: str) -> None:
        storage = get_event_storage()
        folder = os.path.join(self._cfg.OUTPUT_DIR, "pictures")
        sheet = os.path.join(folder, f"iter_{storage.iter:07d}_{file_name_of(name)}.jpg")
        with tempfile.TemporaryDirectory() as parts:
            predictions = inference_folder(self._cfg.OUTPUT_DIR, name)
            files = draw_predictions(
                predictions,
                name,
                parts,
                limit=self._cfg.TEST.PICTURES,
                reader=ImageReader.from_config(self._cfg),
                spread=True,
            )
            os.makedirs(folder, exist_ok=True)
            draw_contact_sheet(files, sheet, columns=1)
        logger.info("Pictures of the evaluation: %s", sheet)
        if has_tensorboard():  # whose writer empties the storage of them
            with Image.open(sheet) as picture:
                storage.put_image(f"pictures/{name}", np.asarray(picture).transpose(2, 0, 1))
