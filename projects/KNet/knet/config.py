"""Every key that K-Net adds to Detectron2's config, its default and its meaning."""

from detectron2.config import CfgNode as CN

__all__ = ["add_knet_config"]


def add_knet_config(cfg: CN) -> None:
    """Add K-Net's keys, with the values of the released models, to a Detectron2 config."""
    cfg.MODEL.KNET = knet = CN()
    # Class counts. -1: take them from the metadata of DATASETS.TRAIN (or TEST); a number that
    # contradicts the metadata stops before training.
    knet.NUM_THING_CLASSES = -1
    knet.NUM_STUFF_CLASSES = -1
    # Instance kernels: at most so many objects an image (the paper's N)
    knet.NUM_KERNELS = 100
    # Channels of neck, kernels and update stages
    knet.CHANNELS = 256
    # Groups of every GroupNorm of neck and kernel head; must divide CHANNELS
    knet.NUM_GROUPS = 32
    # Update stages (S in the paper)
    knet.NUM_STAGES = 3
    # A pixel belongs to a mask where its probability is above this
    knet.MASK_THRESHOLD = 0.5
    # Stride of the masks in matching, losses and results; NECK.STRIDE or a part of it
    knet.MASK_STRIDE = 4

    knet.NECK = CN()
    # A class of NECK_REGISTRY
    knet.NECK.NAME = "SemanticFPN"
    # Backbone features that it sums
    knet.NECK.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    # Stride of the maps that kernels convolve
    knet.NECK.STRIDE = 8

    knet.KERNEL_HEAD = CN()
    # A class of KERNEL_HEAD_REGISTRY
    knet.KERNEL_HEAD.NAME = "KernelHead"

    knet.KERNEL_UPDATE = CN()
    # A class of KERNEL_UPDATE_HEAD_REGISTRY
    knet.KERNEL_UPDATE.NAME = "KernelUpdateHead"
    # Heads of the attention among kernels; must divide CHANNELS
    knet.KERNEL_UPDATE.NUM_HEADS = 8
    # Hidden channels of the feed-forward layer
    knet.KERNEL_UPDATE.FEEDFORWARD_CHANNELS = 2048
    # Dropout of attention and feed-forward
    knet.KERNEL_UPDATE.DROPOUT = 0.0
    # Linear-norm-ReLU blocks before the last linear of the class and the mask branch
    knet.KERNEL_UPDATE.NUM_CLASS_LAYERS = 1
    knet.KERNEL_UPDATE.NUM_MASK_LAYERS = 1

    # Weights of the matching cost
    knet.MATCHER = CN()
    knet.MATCHER.CLASS_WEIGHT = 2.0
    knet.MATCHER.MASK_WEIGHT = 1.0
    knet.MATCHER.DICE_WEIGHT = 4.0

    # Weights of the losses, the same in every stage
    knet.LOSS = CN()
    knet.LOSS.CLASS_WEIGHT = 2.0
    knet.LOSS.MASK_WEIGHT = 1.0
    knet.LOSS.DICE_WEIGHT = 4.0
    # 0 leaves the rank loss out; a model without stuff classes never has it
    knet.LOSS.RANK_WEIGHT = 0.1
    knet.LOSS.SEMANTIC_WEIGHT = 1.0

    knet.TEST = CN()
    # Which results the model makes
    knet.TEST.PANOPTIC_ON = True
    knet.TEST.INSTANCE_ON = True
    knet.TEST.SEMANTIC_ON = True
    # Panoptic: things below this score are dropped
    knet.TEST.SCORE_THRESHOLD = 0.3
    # Panoptic: a kernel that won less of its own area than this is dropped
    knet.TEST.OVERLAP_THRESHOLD = 0.6
    # Instance: results an image
    knet.TEST.MAX_INSTANCES = 100

    # BatchNorm of the backbone normalises with its stored statistics in training too and never
    # updates them; scale and shift still learn. True needs pretrained weights.
    cfg.MODEL.BACKBONE.NORM_EVAL = True

    # False: OpenCV's bilinear resize, as in the published recipe; True: Pillow's, antialiased
    cfg.INPUT.RESIZE_ANTIALIAS = False

    # Images with a side (in pixels) below this are left out of training
    cfg.DATALOADER.MIN_IMAGE_SIDE = 32

    # Data sets of your own, in COCO panoptic format, as a list of
    # {NAME, IMAGE_ROOT, PANOPTIC_ROOT, PANOPTIC_JSON, INSTANCES_JSON (optional)};
    # relative paths start at the environment variable DETECTRON2_DATASETS (default: datasets)
    cfg.DATASETS.CUSTOM = []

    # Learning-rate factor of the backbone (without its feature pyramid)
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.25
    # ADAMW, or SGD with Detectron2's SOLVER.MOMENTUM and NESTEROV
    cfg.SOLVER.OPTIMIZER = "ADAMW"
