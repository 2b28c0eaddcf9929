"""Every key that K-Net adds to Detectron2's config, its default and its meaning."""

import yaml
from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg
from detectron2.projects.deeplab import add_deeplab_config

__all__ = ["add_knet_config", "config_from_text"]


def add_knet_config(cfg: CN) -> None:
    """Add K-Net's keys, with the values of the released models, to a Detectron2 config.

    Detectron2's DeepLab keys (``MODEL.SEM_SEG_HEAD.ASPP_*``, ``MODEL.RESNETS.RES4_DILATION``,
    ``INPUT.CROP.SINGLE_CATEGORY_MAX_AREA``, ...) come along: semantic models use them.
    """
    add_deeplab_config(cfg)
    _add_model(cfg)
    _add_training_and_test(cfg)
    _add_backbones(cfg)
    _add_data(cfg)
    _add_solver(cfg)
    _add_watching(cfg)
    _add_model_file(cfg)
    _add_evaluation(cfg)


def config_from_text(text: str) -> CN:
    """The config that ``cfg.dump()`` wrote; runs no code of the text's.

    Raises:
        AssertionError, KeyError, TypeError, ValueError, yaml.YAMLError: it is none, or has keys or
            values that this version does not know.
    """
    content = yaml.safe_load(text)
    if not isinstance(content, dict):
        raise TypeError("it has no keys")
    cfg = get_cfg()
    add_knet_config(cfg)
    cfg.merge_from_other_cfg(CN(content))
    return cfg


def _add_model(cfg: CN) -> None:
    cfg.MODEL.KNET = knet = CN()
    # Class counts. -1: take them from the metadata of DATASETS.TRAIN (or TEST); a number that
    # contradicts the metadata stops before training.
    knet.NUM_THING_CLASSES = -1
    knet.NUM_STUFF_CLASSES = -1
    # The classes themselves, one {id, dataset_id, name, isthing, color} each; []: as the data sets
    # have them. What training writes carries them, so that a model needs no data set to be used.
    knet.CLASSES = []
    # Instance kernels: at most so many objects an image (the paper's N)
    knet.NUM_KERNELS = 100
    # Channels of neck, kernels and update stages
    knet.CHANNELS = 256
    # Groups of every GroupNorm of neck and kernel head; must divide CHANNELS
    knet.NUM_GROUPS = 32
    # Update stages (S in the paper); a semantic model of 0 is its base head alone
    knet.NUM_STAGES = 3
    # Recompute the activations of the update stages in the backward pass, as
    # MODEL.BACKBONE.CHECKPOINT does
    knet.CHECKPOINT_STAGES = False
    # A pixel belongs to a mask where its probability is above this
    knet.MASK_THRESHOLD = 0.5
    # Stride of the masks in matching, losses and results; NECK.STRIDE or a part of it
    knet.MASK_STRIDE = 4
    # Two blocks of 1x1 convolution (the paper's) between the sum of the pyramid's levels and the
    # classifier of the semantic branch, in neck and kernel head; False: none, as in Panoptic FPN,
    # which learns many classes from few images sooner
    knet.SEMANTIC_BLOCKS = True
    # Leave out of MODEL.WEIGHTS the tensors that depend on the classes and do not fit, to fine-tune
    # on other classes
    knet.WEIGHTS_SKIP_CLASSES = False
    # Training starts from a whole model or a whole backbone; True: from whatever of MODEL.WEIGHTS
    # fits, with a table in the log of what is taken and what starts from nothing
    knet.WEIGHTS_PARTLY = False

    knet.NECK = CN()
    # A class of NECK_REGISTRY
    knet.NECK.NAME = "SemanticFPN"
    # Backbone features that it sums
    knet.NECK.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    # Stride of the maps that kernels convolve
    knet.NECK.STRIDE = 8
    # How its convolutions start: normal (the paper's, a deviation of 0.01), or msra (He et al.),
    # which learns sooner at a high rate: a step of 0.001 is a tenth of the paper's weights
    knet.NECK.INIT = "normal"

    knet.KERNEL_HEAD = CN()
    # A class of KERNEL_HEAD_REGISTRY: KernelHead (the paper's), or PointKernelHead, whose instance
    # kernels start where the middle of an object seems to be
    knet.KERNEL_HEAD.NAME = "KernelHead"
    # Of PointKernelHead: a stuff kernel starts with the score that the semantic branch gives its
    # class, as a thing kernel does with its point's; False: with the same in every image
    knet.KERNEL_HEAD.STUFF_SCORES = False

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
    # False: each stage makes masks and class scores anew (the paper's); True: it adds to those of
    # the stage before
    knet.KERNEL_UPDATE.RESIDUAL = False
    # Also predict the IoU of each instance kernel's mask with its object (not the paper's): class
    # scores of the results are multiplied by it. A semantic model has none
    knet.KERNEL_UPDATE.IOU_BRANCH = False

    # Semantic models: kernel update on top of a head that ends in a 1x1 classifier, for
    # MODEL.SEM_SEG_HEAD.NAME "KNetSemSegHead". MODEL.SEM_SEG_HEAD.* configures the base head;
    # its NUM_CLASSES may be -1: take it from the metadata of the data sets.
    knet.SEMANTIC = CN()
    # The head underneath: any of SEM_SEG_HEADS_REGISTRY
    knet.SEMANTIC.BASE_HEAD = "SemSegFCNHead"
    # Name of its classifier among its modules, e.g. "predictor"; "": found by itself
    knet.SEMANTIC.CLASSIFIER = ""
    # Channels that the kernel updater treats as one vector: a feature of 512 channels is two such
    # vectors that share its weights. Features of fewer channels are one.
    knet.SEMANTIC.UPDATE_CHANNELS = 256
    # Backbone feature of the auxiliary FCN head, "" for none; its channels and loss weight
    knet.SEMANTIC.AUXILIARY_IN_FEATURE = ""
    knet.SEMANTIC.AUXILIARY_CHANNELS = 256
    knet.SEMANTIC.AUXILIARY_WEIGHT = 0.4
    # Of a dice loss of each stage beside the cross entropy (not the paper's): rare classes count
    # as much as frequent ones. 0: none
    knet.SEMANTIC.DICE_WEIGHT = 0.0
    # Dropout2d before the classifier of SemSegFCNHead, SemSegPSPHead, SemSegASPPHead,
    # SemSegUPerHead and the auxiliary head
    knet.SEMANTIC.DROPOUT = 0.1


def _add_training_and_test(cfg: CN) -> None:
    knet = cfg.MODEL.KNET
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
    knet.LOSS.SEMANTIC_WEIGHT = 1.0
    # 0 leaves the rank loss out; a model without stuff classes never has it
    knet.LOSS.RANK_WEIGHT = 0.1
    # Of the semantic branch: focal (the paper's, also learns from cells without label), or
    # cross_entropy (of a softmax, over labelled cells alone; a model without stuff classes has
    # focal, as most of its cells have no label)
    knet.LOSS.SEMANTIC = "focal"
    # Of a dice loss of the semantic branch beside it: rare classes count as much as frequent ones.
    # 0: none (the paper's); a model without stuff classes never has it
    knet.LOSS.SEMANTIC_DICE_WEIGHT = 0.0
    # Several processes divide mask, dice, rank and semantic losses each by the counts of its own
    # images (process, as published), or by those of the whole batch (batch: the losses and
    # gradients of one process with all images)
    knet.LOSS.NORMALIZER = "process"
    # Losses look at so many cells of the mask stride's map, which takes less memory: rank and
    # semantic loss at random ones of each image, mask and dice loss mostly where a mask is unsure;
    # matching is done at the neck's stride. Of a semantic model: random pixels of each image.
    # 0: all (as published)
    knet.LOSS.SAMPLED_CELLS = 0
    # Of the point map of PointKernelHead
    knet.LOSS.POINT_WEIGHT = 1.0
    # Of the votes of PointKernelHead: how far from the middle of its object each cell votes. 0:
    # votes learn from the masks alone
    knet.LOSS.VOTE_WEIGHT = 0.0
    # Of KERNEL_UPDATE.IOU_BRANCH
    knet.LOSS.IOU_WEIGHT = 1.0

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
    # Instance: multiply each kernel's class scores by the mean probability inside its mask
    knet.TEST.MASK_QUALITY = False
    # Instance, with MASK_QUALITY: the power to which that mean is raised. Where class scores know
    # little (many classes, few images), a higher one lets the mask count more; scores get smaller
    knet.TEST.MASK_QUALITY_POWER = 1.0
    # Panoptic: the things above the score threshold take their pixels before stuff does
    knet.TEST.THINGS_FIRST = False
    # Enlarge the masks' logits to the size of the result, not their probabilities
    knet.TEST.ENLARGE_LOGITS = False


def _add_backbones(cfg: CN) -> None:
    # BatchNorm of the backbone normalises with its stored statistics in training too and never
    # updates them; scale and shift still learn. True needs pretrained weights.
    cfg.MODEL.BACKBONE.NORM_EVAL = True
    # Recompute the activations of ResNet, Swin and timm models in the backward pass: less memory,
    # more time, the same gradients
    cfg.MODEL.BACKBONE.CHECKPOINT = False

    # Swin Transformer (build_swin_backbone, build_swin_fpn_backbone); the values are Swin-T's
    cfg.MODEL.SWIN = swin = CN()
    swin.EMBED_DIM = 96
    swin.DEPTHS = [2, 2, 6, 2]
    swin.NUM_HEADS = [3, 6, 12, 24]
    swin.WINDOW_SIZE = 7
    swin.MLP_RATIO = 4.0
    swin.DROP_PATH_RATE = 0.2
    # Strides 4, 8, 16, 32
    swin.OUT_FEATURES = ["p0", "p1", "p2", "p3"]
    # As MODEL.BACKBONE.CHECKPOINT
    swin.CHECKPOINT = False

    # Any timm model with feature pyramids (build_timm_backbone, build_timm_fpn_backbone)
    cfg.MODEL.TIMM = timm = CN()
    # Its name in timm, e.g. "mobilenetv2_100"
    timm.NAME = ""
    # Let timm download its weights; without it MODEL.WEIGHTS may name a timm state dict
    timm.PRETRAINED = False
    # 8 or 16: dilated instead of strided further, where timm can; 0: the model's own
    timm.OUTPUT_STRIDE = 0
    # res2 to res5 are its features of stride 4, 8, 16, 32
    timm.OUT_FEATURES = ["res2", "res3", "res4", "res5"]


def _add_data(cfg: CN) -> None:
    # False: OpenCV's bilinear resize, as in the published recipe; True: Pillow's, antialiased
    cfg.INPUT.RESIZE_ANTIALIAS = False
    # How OpenCV resizes masks and label maps. "nearest", as in the published recipe, puts them half
    # a pixel to the right of the image and below it; "nearest-exact", as Pillow always does, on it
    cfg.INPUT.MASK_INTERPOLATION = "nearest"

    # Images that are not of 8 bits a channel: (low, high), the values that become 0 and 255, not
    # rounded, clipped beyond. (): 16 bits by their full range; 32 bits are refused
    cfg.INPUT.VALUE_RANGE = ()
    # Turn images upright as their EXIF orientation says, as Detectron2 does: annotations are of the
    # upright picture. False: of the picture as stored, and the tag is ignored
    cfg.INPUT.EXIF_ORIENTATION = True

    # Training sizes are multiplied by a uniform random number of this range, () for none: with
    # MIN_SIZE_TRAIN (512,), MAX_SIZE_TRAIN 2048 and (0.5, 2.0) the published ADE20K scaling
    cfg.INPUT.SCALE_RANGE = ()
    # Photometric distortion: brightness, contrast, saturation, hue
    cfg.INPUT.COLOR_AUG_SSD = False

    # So many images may turn out in training to be unreadable, or their annotations: each is logged
    # and another image taken instead; one more ends it. 0: the first does
    cfg.DATALOADER.MAX_UNREADABLE = 0

    # Images with a side (in pixels) below this are left out of training
    cfg.DATALOADER.MIN_IMAGE_SIDE = 32

    # (name, weight) of data sets whose images come more or less often than once; for
    # DATALOADER.SAMPLER_TRAIN WeightedTrainingSampler and WeightedCategoryTrainingSampler
    cfg.DATASETS.TRAIN_REPEAT_FACTOR = []

    # Data sets of your own, as a list of
    # panoptic: {NAME, IMAGE_ROOT, PANOPTIC_ROOT, PANOPTIC_JSON, INSTANCES_JSON (optional)},
    # instance: {NAME, IMAGE_ROOT, INSTANCES_JSON},
    # semantic: {NAME, IMAGE_ROOT, LABEL_ROOT, CLASSES, IGNORE_LABEL (optional, 255)};
    # relative paths start at the environment variable DETECTRON2_DATASETS (default: datasets).
    # Images to predict on alone, in DATASETS.TEST, need no PANOPTIC_ROOT or LABEL_ROOT, and no
    # annotations in their json
    cfg.DATASETS.CUSTOM = []


def _add_solver(cfg: CN) -> None:
    # Learning-rate factor of the backbone (without its feature pyramid)
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.25
    # ADAMW; MUON, which is AdamW but for the matrices (weights of convolutions and linear layers)
    # of feature pyramid, neck and heads; or SGD with Detectron2's SOLVER.MOMENTUM and NESTEROV
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    # Matrices that MUON leaves to AdamW: patterns (as of file names) of their names. Muon is for
    # hidden layers: those that predict learn worse by it
    cfg.SOLVER.NO_MUON = [
        *("*.predictor.*", "*.point_proj.*", "*.vote_proj.*", "kernel_head.kernel_proj.*"),
        *("*.instance_kernels.*", "*.semantic_kernels.*", "*.class_proj.*", "*.mask_proj.*"),
        "*.iou_branch.6.*",
    ]
    # Parameters without weight decay: patterns (as of file names) of their names
    cfg.SOLVER.NO_DECAY = []
    # So many of the last checkpoints are kept, beside the final one; 0: all
    cfg.SOLVER.CHECKPOINT_KEEP = 0
    # Steps whose loss is NaN or infinite: so many in a run are left out, with a warning; one more
    # ends it before any weight is changed
    cfg.SOLVER.MAX_BAD_STEPS = 0
    # The images of a step (IMS_PER_BATCH / processes) go through the model in so many parts, which
    # need the memory of one; the step is that of so many times the processes
    cfg.SOLVER.ACCUMULATE = 1
    # With SOLVER.AMP.ENABLED (and TEST.AMP) the network computes in float16 (a GPU) or bfloat16
    # (a GPU or a CPU)
    cfg.SOLVER.AMP.DTYPE = "float16"
    # One kernel for the optimizer's step instead of several; None: on a CPU, where torch has it
    # (2.3 has not)
    cfg.SOLVER.FUSED = None

    # A running average of the weights: what is evaluated, written as model file, and taken from
    # MODEL.WEIGHTS where the file has one
    cfg.MODEL_EMA = CN()
    cfg.MODEL_EMA.ENABLED = False
    # Of the average in each step; the rest are the new weights
    cfg.MODEL_EMA.DECAY = 0.999

    # Evaluation and predictor compute as SOLVER.AMP.DTYPE says, else in float32
    cfg.TEST.AMP = False


def _add_watching(cfg: CN) -> None:
    # At each evaluation, draw so many images of each of DATASETS.TEST (truth beside prediction)
    # into OUTPUT_DIR/pictures and TensorBoard
    cfg.TEST.PICTURES = 0
    # At each evaluation, measure the losses on DATASETS.TEST too: val_total_loss, val_loss_...
    cfg.TEST.VALIDATION_LOSS = False

    # Pass all numbers on to Weights & Biases or MLflow, if they are installed
    cfg.LOGGING = CN()
    cfg.LOGGING.WANDB = False
    cfg.LOGGING.MLFLOW = False
    # W&B's project, MLflow's experiment; the run's name there, "": that of OUTPUT_DIR
    cfg.LOGGING.PROJECT = "knet"
    cfg.LOGGING.RUN_NAME = ""


def _add_model_file(cfg: CN) -> None:
    # Beside the checkpoints, which hold the optimizer too, write OUTPUT_DIR/model.<FORMAT> when
    # training ends: weights, config and classes. "pth" or "safetensors"; "": none
    cfg.MODEL_FILE = CN()
    cfg.MODEL_FILE.FORMAT = ""
    # Matrices and convolutions in float16: half the size, three decimal digits
    cfg.MODEL_FILE.HALF = False
    # Write OUTPUT_DIR/model_best.<FORMAT, or pth> after each evaluation that is better than all
    # before by this metric, named as in metrics.json: "panoptic_seg/PQ", "segm/AP",
    # "sem_seg/mIoU", ...; "": none
    cfg.MODEL_FILE.BEST_METRIC = ""
    # Better is more (max) or less (min)
    cfg.MODEL_FILE.BEST_MODE = "max"


def _add_evaluation(cfg: CN) -> None:
    # Write the panoptic predictions, as COCO's server takes them: predictions.json and a PNG an
    # image. False saves time; those of data with images without ground truth are written always
    cfg.TEST.KEEP_PANOPTIC = True
    # Measure with panopticapi, by way of files, with pycocotools and with Detectron2's evaluators
    # instead of in memory: the same figures, later
    cfg.TEST.OFFICIAL_TOOLS = False
