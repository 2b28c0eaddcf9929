"""What several test folders share: a small data set, a small model, the command line in process."""

import copy
import json
import logging
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import logger as d2_logger
from panopticapi.utils import id2rgb
from PIL import Image

from knet.data.datasets.shapes.dataset import register_all_shapes
from knet.engine.main import load_config, main
from tests.browser import browser, page  # noqa: F401  (fixtures)

REPO = Path(__file__).resolve().parents[1]
DEMO_CONFIG = str(REPO / "configs" / "demo" / "knet_panoptic_shapes.yaml")
REAL_DATA = REPO.parent / "shared" / "data"

# From the demo's fast form back to the published one
PUBLISHED_FORM = {
    "MODEL.KNET.NECK.INIT": "normal",
    "MODEL.KNET.KERNEL_HEAD.NAME": "KernelHead",
    "MODEL.KNET.KERNEL_UPDATE.RESIDUAL": False,
    "MODEL.KNET.KERNEL_UPDATE.IOU_BRANCH": False,
    "MODEL.KNET.LOSS.VOTE_WEIGHT": 0.0,
    "MODEL.KNET.LOSS.MASK_WEIGHT": 1.0,
    "MODEL.KNET.LOSS.SEMANTIC": "focal",
    "MODEL.KNET.LOSS.SEMANTIC_DICE_WEIGHT": 0.0,
    "MODEL.KNET.TEST.MASK_QUALITY": False,
    "MODEL.KNET.TEST.THINGS_FIRST": False,
    "MODEL.KNET.TEST.ENLARGE_LOGITS": False,
    "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR",
    "SOLVER.OPTIMIZER": "ADAMW",
}
# The demo's model, in the published form, and schedule made so small that a training step takes
# milliseconds.
TINY = {
    **PUBLISHED_FORM,
    "MODEL.DEVICE": "cpu",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.KNET.CHANNELS": 16,
    "MODEL.KNET.NUM_GROUPS": 4,
    "MODEL.KNET.NUM_KERNELS": 8,
    "MODEL.KNET.NUM_STAGES": 2,
    "MODEL.KNET.KERNEL_UPDATE.NUM_HEADS": 4,
    "MODEL.KNET.KERNEL_UPDATE.FEEDFORWARD_CHANNELS": 32,
    "INPUT.MIN_SIZE_TRAIN": (64,),
    "INPUT.MAX_SIZE_TRAIN": 96,
    "INPUT.MIN_SIZE_TEST": 64,
    "INPUT.MAX_SIZE_TEST": 96,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 2,
    "SOLVER.STEPS": (),
    "TEST.EXPECTED_RESULTS": [],
}


@dataclass(frozen=True)
class Names:
    """A registered data set: for DATASETS.TRAIN and DATASETS.TEST."""

    train: str
    val: str


@dataclass(frozen=True)
class Outcome:
    """How a call of ``train_net.py`` ended."""

    status: int
    out: str
    err: str

    def sentence(self) -> str:
        """What the user is told; fails unless it is one sentence and the status says error."""
        assert self.status == 1, self.out[-2000:]
        told = [line for line in self.err.splitlines() if line.startswith("train_net.py: ")]
        assert len(told) == 1, self.err
        assert self.err.strip().endswith(told[0]) and "Traceback" not in self.err, self.err
        return told[0]


class PanopticFolder:
    """A data set in COCO panoptic format that a test writes, and may spoil, by hand.

    Category ids do not rise, and stuff stands between the things.
    """

    CATEGORIES = (
        {"id": 3, "name": "cup", "isthing": 1},
        {"id": 7, "name": "wall", "isthing": 0},
        {"id": 2, "name": "plate", "isthing": 1},
    )
    CUP, WALL, PLATE = 3, 7, 2

    def __init__(self, root: Path, name: str = "pottery"):
        self.name = name
        self.images, self.pngs = root / f"{name}_images", root / f"{name}_panoptic"
        self.json_file = root / f"{name}.json"
        self.content = {
            "images": [],
            "annotations": [],
            "categories": copy.deepcopy(list(self.CATEGORIES)),
        }

    def add(
        self,
        ids: np.ndarray,
        segments: Dict[int, Tuple],
        image: Optional[np.ndarray] = None,
        stem: Optional[str] = None,
    ) -> None:
        """Write one image.

        Args:
            ids: (H, W) segment ids, 0 for void.
            segments: id -> (category id,) or (category id, iscrowd).
            image: (H, W, 3) uint8; noise unless given.
            stem: of both file names, may have folders.
        """
        image_id = len(self.content["images"]) + 1
        stem = stem or f"{image_id:03d}"
        height, width = ids.shape
        if image is None:
            image = np.random.default_rng(image_id).integers(0, 256, (height, width, 3), np.uint8)
        for folder, pixels in ((self.images, image), (self.pngs, id2rgb(ids))):
            (folder / stem).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{stem}.png")
        infos = [
            {
                "id": segment_id,
                "category_id": category[0],
                "iscrowd": int(category[1]) if len(category) > 1 else 0,
                "area": int((ids == segment_id).sum()),
            }
            for segment_id, category in segments.items()
        ]
        self.content["images"].append(
            {"id": image_id, "file_name": f"{stem}.png", "height": height, "width": width}
        )
        self.content["annotations"].append(
            {"image_id": image_id, "file_name": f"{stem}.png", "segments_info": infos}
        )

    def add_ordinary(self, count: int = 1, size: Tuple[int, int] = (40, 64)) -> None:
        """Images with a wall, two cups, a plate and void."""
        for _ in range(count):
            ids = np.full(size, 70000)  # needs all three bytes
            ids[:4] = 0
            ids[10:20, 5:20], ids[12:30, 30:40], ids[25:38, 44:60] = 1, 300, 5
            self.add(ids, {70000: (self.WALL,), 1: (self.CUP,), 300: (self.CUP,), 5: (self.PLATE,)})

    def write(self) -> "PanopticFolder":
        """Write the json as ``self.content`` is now."""
        self.json_file.write_text(json.dumps(self.content))
        return self

    def entry(self, **changes) -> dict:
        """For DATASETS.CUSTOM."""
        return {
            "NAME": self.name,
            "IMAGE_ROOT": str(self.images),
            "PANOPTIC_ROOT": str(self.pngs),
            "PANOPTIC_JSON": str(self.json_file),
            **changes,
        }

    def options(self) -> dict:
        """Train on it and evaluate on it."""
        return {
            "DATASETS.CUSTOM": [self.entry()],
            "DATASETS.TRAIN": (self.name,),
            "DATASETS.TEST": (self.name,),
        }


def pairs(options: dict) -> List[str]:
    """{key: value} -> the words that the command line takes."""
    return [str(word) for item in options.items() for word in item]


@pytest.fixture
def whole_float32():
    """No TF32, which a GPU's convolutions use by themselves."""
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = False
    yield
    for switch, value in zip(switches, before):
        switch.allow_tf32 = value


@pytest.fixture
def interruptible():
    """Ctrl-C ends this process and those it starts: a shell that starts it in the background has it
    ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Names:
    """A panoptic data set of 12 + 3 scenes in COCO format; read only."""
    root = tmp_path_factory.mktemp("datasets")
    register_all_shapes(str(root), prefix="tiny_shapes", scenes={"train": 12, "val": 3})
    return Names("tiny_shapes_panoptic_train", "tiny_shapes_panoptic_val")


@pytest.fixture
def tiny_options(shapes, tmp_path) -> dict:
    """Options that shrink the demo config; change some and give them to `pairs`."""
    return {
        **TINY,
        "DATASETS.TRAIN": (shapes.train,),
        "DATASETS.TEST": (shapes.val,),
        "OUTPUT_DIR": str(tmp_path / "output"),
    }


@pytest.fixture
def tiny_config(tiny_options):
    """The same as a config."""
    return load_config(DEMO_CONFIG, pairs(tiny_options))


@pytest.fixture
def pottery(tmp_path) -> PanopticFolder:
    """Two ordinary images; its json is not written yet."""
    folder = PanopticFolder(tmp_path)
    folder.add_ordinary(2)
    return folder


@pytest.fixture
def train_net(capsys):
    """Calls ``train_net.py``'s main function; a traceback that a user would get fails the test."""

    def run(*flags: str, config_file: str = DEMO_CONFIG, options: dict) -> Outcome:
        capsys.readouterr()
        try:
            status = main(["--config-file", config_file, *flags, *pairs(options)])
        except Exception as error:
            capsys.readouterr()  # the log is long
            raise AssertionError(f"the user gets a traceback: {error!r}") from error
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run


@pytest.fixture
def real_data() -> Path:
    """The folder of real annotated images; skips where it is not at hand."""
    if not REAL_DATA.is_dir():
        pytest.skip("the real images are not beside the project (../shared/data)")
    return REAL_DATA


@pytest.fixture
def real_coco(real_data, tmp_path) -> Path:
    """Eight real COCO images to train on and four to test, as DETECTRON2_DATASETS wants them."""
    theirs, ours = real_data / "coco", tmp_path / "datasets" / "coco"
    (ours / "annotations").mkdir(parents=True)
    for split, count in (("train2017", 8), ("val2017", 4)):
        for folder in (split, f"panoptic_{split}"):
            (ours / folder).symlink_to(theirs / folder)
        name = Path("annotations") / f"panoptic_{split}.json"
        content = json.loads((theirs / name).read_text())
        content["annotations"] = content["annotations"][:count]
        (ours / name).write_text(json.dumps(content))
    return ours.parent


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """The tensors are tiny: a second thread would only wait, and on a busy machine for long."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # for the programs that tests start
        yield


@pytest.fixture(autouse=True)
def _clean_catalogs():
    """Takes out of Detectron2's catalogs what the test has put in."""
    before = [(catalog, set(catalog)) for catalog in (DatasetCatalog, MetadataCatalog)]
    yield
    for catalog, names in before:
        for name in set(catalog) - names:
            catalog.remove(name)


@pytest.fixture(autouse=True)
def _clean_loggers():
    """Detectron2 binds its loggers to the stdout and the folder of the moment: undo that."""
    loggers = [logging.getLogger(name) for name in ("knet", "detectron2", "fvcore")]
    before = [(log, log.handlers[:], log.level, log.propagate) for log in loggers]
    yield
    for log, handlers, level, propagate in before:
        log.handlers[:], log.propagate = handlers, propagate
        log.setLevel(level)
    d2_logger.setup_logger.cache_clear()
