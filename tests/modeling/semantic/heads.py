"""Small semantic models and inputs for them."""

import torch
from detectron2.config import get_cfg

from knet import add_knet_config

# base head -> what it needs of the backbone, in a config
BASE_HEADS = {
    "SemSegFPNHead": {"IN_FEATURES": ["p2", "p3", "p4", "p5"], "COMMON_STRIDE": 4},
    "DeepLabV3Head": {"IN_FEATURES": ["res5"], "COMMON_STRIDE": 32},
    "DeepLabV3PlusHead": {"IN_FEATURES": ["res2", "res5"], "COMMON_STRIDE": 4},
    "SemSegFCNHead": {"IN_FEATURES": ["res5"]},
    "SemSegPSPHead": {"IN_FEATURES": ["res5"]},
    "SemSegASPPHead": {"IN_FEATURES": ["res5"], "ASPP_DILATIONS": [1, 2, 3]},
    "SemSegUPerHead": {"IN_FEATURES": ["res2", "res3", "res4", "res5"]},
}
NUM_CLASSES = 5


def small_config(base_head: str, meta_architecture: str = "SemanticSegmentor"):
    """K-Net on this head, on a narrow ResNet; 5 classes, no data set."""
    cfg = get_cfg()
    add_knet_config(cfg)
    model = cfg.MODEL
    model.DEVICE, model.WEIGHTS, model.META_ARCHITECTURE = "cpu", "", meta_architecture
    resnets = model.RESNETS
    resnets.STEM_OUT_CHANNELS, resnets.RES2_OUT_CHANNELS, resnets.WIDTH_PER_GROUP = 8, 16, 4
    resnets.NORM, resnets.OUT_FEATURES = "BN", ["res2", "res3", "res4", "res5"]
    model.BACKBONE.FREEZE_AT = 0
    if base_head == "SemSegFPNHead":
        model.BACKBONE.NAME = "build_resnet_fpn_backbone"
        model.FPN.IN_FEATURES, model.FPN.OUT_CHANNELS = resnets.OUT_FEATURES, 16
    else:
        model.BACKBONE.NAME = "build_resnet_backbone"
    head = model.SEM_SEG_HEAD
    head.NAME, head.NUM_CLASSES, head.CONVS_DIM, head.NORM = "KNetSemSegHead", NUM_CLASSES, 16, "BN"
    head.ASPP_CHANNELS, head.PROJECT_CHANNELS = 16, [8]
    for key, value in BASE_HEADS.get(base_head, {}).items():
        head[key] = value
    model.KNET.SEMANTIC.BASE_HEAD = base_head
    model.KNET.KERNEL_UPDATE.NUM_HEADS = 4
    model.KNET.KERNEL_UPDATE.FEEDFORWARD_CHANNELS = 32
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    return cfg


def training_batch(sizes=((64, 96), (64, 96)), ignored: float = 0.1, seed: int = 0):
    """Images of these sizes with random labels, some pixels without one."""
    generator = torch.Generator().manual_seed(seed)
    batch = []
    for size in sizes:
        labels = torch.randint(0, NUM_CLASSES, size, generator=generator)
        labels[torch.rand(size, generator=generator) < ignored] = 255
        image = torch.randint(0, 256, (3, *size), generator=generator)
        batch.append({"image": image.to(torch.uint8), "sem_seg": labels})
    return batch
