"""What a report is made of: the folder of a run, its data set, and what an evaluation left."""

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Dict, List, Optional, Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..data.datasets.custom import register_custom_datasets
from ..data.image_reading import ImageReader, to_rgb
from ..data.training_images import load_dicts
from ..engine.main import load_config
from ..errors import UsageError
from ..evaluation.outputs import inference_folder
from ..visualization.results import RESULTS, Results

__all__ = ["Run", "open_run", "title_of"]


@dataclass
class Run:
    """One evaluated model.

    Attributes:
        folder: ``OUTPUT_DIR``.
        title: for people.
        cfg: its config.
        dataset: that was evaluated; registered.
        kinds: of results that can be compared with a truth, by the order of ``RESULTS``.
        kind: the one that is looked at closely.
    """

    folder: str
    title: str
    cfg: CfgNode
    dataset: str
    kinds: List[str]
    kind: str

    @property
    def inference(self) -> str:
        """The folder of the predictions."""
        return inference_folder(self.folder, self.dataset)

    @cached_property
    def dicts(self) -> List[Dict]:
        """The data set's images that have a truth of the kind."""
        return self.dicts_of(self.kind)

    def dicts_of(self, kind: str) -> List[Dict]:
        """Those that have a truth of a kind of results."""
        return [d for d in load_dicts(self.dataset) if _has_truth(d, kind)]

    @property
    def metadata(self):
        return MetadataCatalog.get(self.dataset)

    @cached_property
    def reader(self) -> ImageReader:
        return ImageReader.from_config(self.cfg)

    def image(self, dataset_dict: Dict):
        """(H, W, 3) uint8 RGB."""
        return to_rgb(self.reader.open(dataset_dict["file_name"]))

    def with_size(self, dataset_dict: Dict) -> Dict:
        """The dict, with ``height`` and ``width`` where the data set does not tell them."""
        if {"height", "width"} <= dataset_dict.keys():
            return dataset_dict
        height, width = self.image(dataset_dict).shape[:2]
        return {**dataset_dict, "height": height, "width": width}

    def results(self, kind: str) -> Results:
        """
        Raises:
            UsageError: the predictions are of other images.
        """
        results = RESULTS[kind](self.inference, self.metadata)
        dicts = self.dicts_of(kind)
        lacking = [d for d in dicts if d not in results]
        # of an image where no object was found there is no line
        if lacking and (kind != "instance" or len(lacking) == len(dicts)):
            raise UsageError(
                f"{results.path} has nothing of {len(lacking)} images of '{self.dataset}' (as "
                f"{lacking[0]['file_name']}): evaluate the model on this data set again"
            )
        return results


def open_run(
    folder: str,
    *,
    dataset: Optional[str] = None,
    kind: Optional[str] = None,
    config_file: str = "",
    title: str = "",
) -> Run:
    """
    Args:
        folder: ``OUTPUT_DIR`` of a training or an evaluation.
        dataset: None: the first of the config's DATASETS.TEST that was evaluated.
        kind: None: the first of panoptic, instance and semantic that there is.
        config_file: None: ``config.yaml`` of the folder.
        title: None: the folder's name.

    Raises:
        UsageError: no config, no predictions, a data set that is not registered or has no truth of
            this kind.
        DatasetError: the data set cannot be loaded.
    """
    cfg = load_config(config_file or _config_of(folder))
    if dataset and dataset not in cfg.DATASETS.TEST:
        cfg.DATASETS.TEST = (dataset, *cfg.DATASETS.TEST)
    register_custom_datasets(cfg)
    candidates = [dataset] if dataset else list(cfg.DATASETS.TEST)
    evaluated = [name for name in candidates if os.path.isdir(inference_folder(folder, name))]
    if not evaluated:
        raise UsageError(
            f"{folder} has no results in inference/ of {' or '.join(candidates) or 'a data set'}: "
            "evaluate first (train_net.py --eval-only), or give --weights and --dataset"
        )
    name = evaluated[0]
    if name not in DatasetCatalog.list():
        raise UsageError(
            f"the data set '{name}' is not registered: give --config-file with the config whose "
            "DATASETS.CUSTOM describes it"
        )
    kinds = _kinds(inference_folder(folder, name), name, kind)
    title = title or os.path.basename(os.path.abspath(folder))
    return Run(folder, title, cfg, name, kinds, kind or kinds[0])


def title_of(folders: Sequence[str]) -> List[str]:
    """The folders, without what all of their paths begin with."""
    paths = [os.path.abspath(folder) for folder in folders]
    if len(paths) == 1:
        return [os.path.basename(paths[0])]
    common = os.path.commonpath(paths)
    names = [os.path.relpath(path, common) for path in paths]
    return [os.path.basename(paths[0]) if name == os.curdir else name for name in names]


def _config_of(folder: str) -> str:
    path = os.path.join(folder, "config.yaml")
    if not os.path.isdir(folder):
        raise UsageError(f"{folder} is no folder: give the OUTPUT_DIR of a run")
    if not os.path.isfile(path):
        raise UsageError(
            f"{folder} holds no config.yaml, as a run leaves it: give the OUTPUT_DIR of a run, or "
            "--config-file"
        )
    return path


def _kinds(inference: str, dataset: str, wanted: Optional[str]) -> List[str]:
    """
    Raises:
        UsageError: there is none that can be compared, or not the one wanted.
    """
    dicts = load_dicts(dataset)
    left = [k for k, r in RESULTS.items() if os.path.isfile(os.path.join(inference, r.FILE))]
    kinds = [kind for kind in left if any(_has_truth(d, kind) for d in dicts)]
    if not kinds or wanted not in (None, *kinds):
        what = f"{wanted} results" if wanted else "results"
        there = f"there are {' and '.join(left)} ones" if left else "there are none"
        key = ", with TEST.KEEP_PANOPTIC True" if wanted in (None, "panoptic") else ""
        raise UsageError(
            f"{inference} has no {what} to compare with the truth of '{dataset}' ({there}): "
            f"evaluate again on a data set with ground truth{key}"
        )
    return kinds


def _has_truth(dataset_dict: Dict, kind: str) -> bool:
    return any(key in dataset_dict for key in RESULTS[kind].TRUTH_KEYS)
