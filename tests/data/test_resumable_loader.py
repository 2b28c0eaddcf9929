"""The training loader gives what Detectron2's gives, and goes on anywhere as if never stopped."""

from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.data import build_detection_train_loader
from detectron2.utils.env import seed_all_rng

from knet.data.dataset_mapper import KNetDatasetMapper
from knet.data.datasets.custom import register_custom_datasets
from knet.data.resumable_loader import build_resumable_loader
from tests.training_dicts import load_training_dicts

SAMPLERS = ("TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler")
WORKERS = pytest.mark.parametrize("workers", [0, 1, 2])
GROUPING = pytest.mark.parametrize("grouping", [False, True], ids=["plain", "grouped"])


@pytest.fixture
def config(tiny_config, pottery):
    """Five images, two of them upright, in batches of two; each of random size, flip and colour."""
    pottery.add_ordinary(1)
    pottery.add_ordinary(2, size=(64, 62))
    pottery.write()
    tiny_config.DATASETS.CUSTOM = [pottery.entry()]
    tiny_config.DATASETS.TRAIN = (pottery.name,)
    tiny_config.INPUT.MIN_SIZE_TRAIN = (40, 48, 56, 64)
    tiny_config.INPUT.COLOR_AUG_SSD = True
    tiny_config.DATALOADER.RANDOM_SUBSET_RATIO = 0.8
    register_custom_datasets(tiny_config)
    return tiny_config


def loader(cfg, build=build_resumable_loader, seed=7):
    seed_all_rng(seed)
    dicts = load_training_dicts(cfg)
    for d in dicts:  # that Detectron2's sampler of rare classes wants
        d["annotations"] = [{"category_id": s["category_id"]} for s in d["segments_info"]]
    return build(cfg, dataset=dicts, mapper=KNetDatasetMapper(cfg, is_train=True))


def told(batches, number):
    """Names and pixels of so many batches, and what this process would draw next."""
    told = []
    for batch in islice(batches, number):
        assert not any("origin" in key for sample in batch for key in sample)
        told += [[(s["file_name"], s["image"].numpy().tobytes()) for s in batch]]
        told += [(np.random.random(), torch.rand(1).item())]  # as a model with dropout would
    return told


@WORKERS
@GROUPING
def test_a_new_training_sees_what_detectron2_shows(config, workers, grouping):
    config.DATALOADER.NUM_WORKERS, config.DATALOADER.ASPECT_RATIO_GROUPING = workers, grouping
    theirs = told(iter(loader(config, build_detection_train_loader)), 6)
    assert told(iter(loader(config)), 6) == theirs
    assert len({pixels for batch in theirs[::2] for _, pixels in batch}) > 8, "draws differ"


@pytest.mark.parametrize("sampler", SAMPLERS)
@WORKERS
@GROUPING
def test_it_goes_on_as_if_never_stopped(config, sampler, workers, grouping):
    config.DATALOADER.NUM_WORKERS, config.DATALOADER.ASPECT_RATIO_GROUPING = workers, grouping
    config.DATALOADER.SAMPLER_TRAIN = sampler
    straight = told(iter(loader(config)), 9)
    for stop in (1, 2, 5):  # with two workers: before the second has given anything, and later
        first = loader(config)
        batches = iter(first)
        assert told(batches, stop) == straight[: 2 * stop]
        for start in (stop, stop + 2):  # and once more
            state = first.state_dict()
            first = loader(config, seed=start)
            assert first.load_state_dict(state) == ""
            batches = iter(first)
            assert told(batches, 2) == straight[2 * start : 2 * start + 4]


def names(told_batches):
    return [name for batch in told_batches[::2] for name, _ in batch]


@pytest.mark.parametrize("before, after", [(0, 2), (2, 0), (2, 1)])
def test_other_workers_keep_the_order_of_the_images(config, before, after):
    config.DATALOADER.NUM_WORKERS, config.DATALOADER.ASPECT_RATIO_GROUPING = before, False
    straight = names(told(iter(loader(config)), 9))
    first = loader(config)
    told(iter(first), 3)
    config.DATALOADER.NUM_WORKERS = after
    second = loader(config, seed=1)
    assert "DATALOADER.NUM_WORKERS" in second.load_state_dict(first.state_dict())
    assert names(told(iter(second), 6)) == straight[6:]
    third = loader(config, seed=1)
    assert third.load_state_dict(second.state_dict()) == ""


def test_another_batch_size_keeps_the_order_of_the_images(config):
    config.DATALOADER.ASPECT_RATIO_GROUPING = False
    straight = names(told(iter(loader(config)), 9))
    first = loader(config)
    told(iter(first), 3)
    config.SOLVER.IMS_PER_BATCH = 3
    second = loader(config, seed=1)
    assert "images of a process" in second.load_state_dict(first.state_dict())
    assert names(told(iter(second), 4)) == straight[6:]


def test_other_data_start_from_their_beginning(config):
    first = loader(config)
    told(iter(first), 3)
    config.DATALOADER.MIN_IMAGE_SIDE = 50
    assert "data sets" in loader(config).load_state_dict(first.state_dict())
    config.DATALOADER.MIN_IMAGE_SIDE = 32
    config.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    assert "SAMPLER_TRAIN" in loader(config).load_state_dict(first.state_dict())
