"""Detectron2's Panoptic FPN on the data sets of this project, to compare with.

Panoptic FPN wants things and stuff in separate id ranges, with a stuff class 0 for all things; the
data sets here have one range. Only the ids differ.
"""

from typing import Dict, List

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import PanopticFPN

from ..data.class_layout import ClassLayout, resolve_class_layout
from ..errors import UsageError

__all__ = ["PanopticFPNOfOneRange"]


@META_ARCH_REGISTRY.register()
class PanopticFPNOfOneRange(PanopticFPN):
    """Panoptic FPN that takes and gives contiguous ids of one range, in any order.

    ``MODEL.ROI_HEADS.NUM_CLASSES`` is the number of thing classes,
    ``MODEL.SEM_SEG_HEAD.NUM_CLASSES`` that of stuff classes and one for all things.
    """

    @configurable
    def __init__(self, *, layout: ClassLayout, **kwargs):
        """
        Args:
            layout: the data set's classes.
            kwargs: of Detectron2's class.
        """
        super().__init__(**kwargs)
        self.layout = layout

    @classmethod
    def from_config(cls, cfg):
        layout = resolve_class_layout(cfg)
        for key, count, wanted in (
            ("ROI_HEADS", cfg.MODEL.ROI_HEADS.NUM_CLASSES, layout.num_things),
            ("SEM_SEG_HEAD", cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, layout.num_stuff + 1),
        ):
            if count != wanted:
                raise UsageError(
                    f"MODEL.{key}.NUM_CLASSES is {count}, but the data has {layout.num_things} "
                    f"thing and {layout.num_stuff} stuff classes: set it to {wanted}"
                )
        return {**super().from_config(cfg), "layout": layout}

    def forward(self, batched_inputs: List[Dict]):
        """As Detectron2's, without ``sem_seg``, whose ids no evaluator here knows."""
        if self.training:
            return super().forward([self._separated(x) for x in batched_inputs])
        return [self._joined(result) for result in super().forward(batched_inputs)]

    def _separated(self, x: Dict) -> Dict:
        """A training input in ids of one range -> in separate ones."""
        x = dict(x)
        model_class = self.layout.to_model(x["sem_seg"])
        stuff = (model_class - self.layout.num_things + 1).clamp(min=0)
        x["sem_seg"] = torch.where(model_class < 0, self.sem_seg_head.ignore_value, stuff)
        instances = x["instances"]
        x["instances"] = type(instances)(instances.image_size, **instances.get_fields())
        x["instances"].gt_classes = self.layout.to_model(instances.gt_classes)
        return x

    def _joined(self, result: Dict) -> Dict:
        """A result in separate ids -> in those of one range."""
        segments, info = result["panoptic_seg"]
        ids, num_things = self.layout.ids, self.layout.num_things
        for segment in info:
            offset = 0 if segment["isthing"] else num_things - 1
            segment["category_id"] = ids[segment["category_id"] + offset]
        instances = result["instances"]
        thing_ids = torch.tensor(self.layout.thing_ids, device=instances.pred_classes.device)
        instances.pred_classes = thing_ids[instances.pred_classes]
        return {"panoptic_seg": (segments, info), "instances": instances}
