"""What is measured: one job for each candidate, kind of step, size and number."""

from dataclasses import dataclass, field
from itertools import product
from typing import Iterator, List, Optional, Tuple

from detectron2.config import CfgNode

from ..engine.main import load_config
from ..errors import UsageError

__all__ = [
    "ALTERNATIVES",
    "DTYPES",
    "KINDS",
    "MACHINE",
    "Job",
    "Settings",
    "config_of",
    "points",
]

KINDS = ("inference", "training")
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # their names in torch
ALTERNATIVES = ("panoptic_fpn", "mask_rcnn", "mask2former")
MACHINE = "machine"  # measures the speed of the machine itself
NUM_THINGS, NUM_STUFF = 80, 53  # COCO's, where the config leaves it to the data


@dataclass(frozen=True)
class Settings:
    """What all jobs of a run have in common.

    Attributes:
        config_files: of K-Nets; the alternatives have the backbone of the first.
        opts: KEY VALUE, changed in each config.
        alternatives: of :data:`ALTERNATIVES`.
        kinds: of :data:`KINDS`.
        sizes: (height, width) of the input.
        output: (height, width) of the results, the input's if None.
        batches, objects, kernels: images a step, objects an image, instance kernels (None: the
            config's); several of one are measured one after the other.
        dtype: of :data:`DTYPES`.
        compiled: compile the network's parts.
        steps: timed ones, after ``warm_up`` others.
        threads: of a CPU, PyTorch's choice if None.
        device: "cpu" or "cuda".
        scene: of :data:`knet.benchmark.made_up.SCENES`.
        nvtx: see :class:`knet.benchmark.watch.Watch`.
    """

    config_files: Tuple[str, ...]
    opts: Tuple[str, ...] = ()
    alternatives: Tuple[str, ...] = ()
    kinds: Tuple[str, ...] = KINDS
    sizes: Tuple[Tuple[int, int], ...] = ((800, 1216),)
    output: Optional[Tuple[int, int]] = None
    batches: Tuple[int, ...] = (1,)
    objects: Tuple[int, ...] = (30,)
    kernels: Tuple[Optional[int], ...] = (None,)
    dtype: str = "fp32"
    compiled: bool = False
    steps: int = 5
    warm_up: int = 1
    threads: Optional[int] = None
    device: str = "cpu"
    scene: str = "objects"
    nvtx: bool = False

    @property
    def candidates(self) -> Tuple[str, ...]:
        return (*self.config_files, *self.alternatives)


@dataclass(frozen=True)
class Job:
    """One candidate at one point; what a process of its own is given."""

    candidate: str
    kind: str
    size: Tuple[int, int]
    batch: int
    objects: int
    kernels: Optional[int]
    settings: Settings = field(repr=False)

    @property
    def learns(self) -> bool:
        return self.kind == "training"

    def config(self) -> CfgNode:
        """Of the candidate; of an alternative that of the first K-Net."""
        files = self.settings.config_files
        file = self.candidate if self.candidate in files else files[0]
        return config_of(file, self.settings, self.kernels)


def points(settings: Settings) -> Iterator[List[Job]]:
    """The jobs that take turns, first candidate first, for each kind and number."""
    swept = (settings.kinds, settings.sizes, settings.batches, settings.objects, settings.kernels)
    for kind, size, batch, objects, kernels in product(*swept):
        yield [
            Job(candidate, kind, size, batch, objects, kernels, settings)
            for candidate in (*settings.candidates, MACHINE)
        ]


def config_of(config_file: str, settings: Settings, num_kernels: Optional[int] = None) -> CfgNode:
    """A config that needs neither weights nor data.

    Raises:
        UsageError: it cannot be loaded, or is not of a panoptic or instance K-Net.
    """
    cfg = load_config(config_file, [*settings.opts, "MODEL.WEIGHTS", ""])
    if cfg.MODEL.META_ARCHITECTURE != "KNet":
        raise UsageError(f"{config_file} is not of a panoptic or an instance K-Net: leave it out")
    knet = cfg.MODEL.KNET
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    for key, count in (("NUM_THING_CLASSES", NUM_THINGS), ("NUM_STUFF_CLASSES", NUM_STUFF)):
        if knet[key] < 0:
            knet[key] = count
    if num_kernels is not None:
        knet.NUM_KERNELS = num_kernels
    cfg.MODEL.DEVICE = settings.device
    return cfg
