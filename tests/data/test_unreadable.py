"""Samples that cannot be read: replaced by others, counted, told, and the same after a resume."""

import logging
from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.utils.env import seed_all_rng

from knet.data.dataset_mapper import KNetDatasetMapper
from knet.data.datasets.custom import register_custom_datasets
from knet.data.resumable_loader import build_resumable_loader
from knet.data.unreadable import SampleReader, Unreadable
from knet.errors import DatasetError, UsageError
from tests.training_dicts import load_training_dicts


class Data:
    """The numbers from 0 on, some of which cannot be read."""

    def __init__(self, size, broken):
        self.size, self.broken = size, broken

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if index in self.broken:
            raise DatasetError(f"{index}.png is broken")
        return {"index": index}


def test_each_gets_another_and_always_the_same():
    read = SampleReader(Data(1000, range(100)), limit=99)
    before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    taken = []
    for index in range(100):
        sample, failures = read(index)
        assert failures[0] == (index, f"{index}.png is broken")
        assert read(index) == (sample, failures)
        taken.append(sample["index"])
    assert min(taken) >= 100 and len(set(taken)) > 80, "not the same few, nor their neighbours"
    assert before == (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert read(500) == ({"index": 500}, ())


def test_no_limit_is_the_error_itself():
    with pytest.raises(DatasetError, match=r"^3\.png is broken$"):
        SampleReader(Data(5, [3]))(3)


def test_nothing_that_can_be_read():
    with pytest.raises(DatasetError, match=r"^3 samples .*DATALOADER\.MAX_UNREADABLE 2: "):
        SampleReader(Data(5, range(5)), limit=2)(0)
    with pytest.raises(DatasetError, match=r"5 samples cannot be read.*0\.png.*"):
        SampleReader(Data(5, range(5)), limit=10)(0)


def test_other_errors_are_not_the_samples():
    class Wrong(Data):
        def __getitem__(self, index):
            raise UsageError("tifffile is missing")

    with pytest.raises(UsageError):
        SampleReader(Wrong(5, ()), limit=2)(0)


def test_each_is_counted_and_told_once(caplog):
    unreadable = Unreadable(2)
    with caplog.at_level(logging.WARNING, "knet"):
        for _ in range(3):
            unreadable.note(((7, "7.png is broken"),))
            unreadable.note(((9, "9.png is missing"), (7, "7.png is broken")))
    first, second = caplog.messages
    assert "1 of 2 that DATALOADER.MAX_UNREADABLE allows): 7.png is broken" in first
    assert "2 of 2" in second and "9.png is missing" in second
    again = Unreadable(2)
    again.load_state_dict(unreadable.state_dict())
    with pytest.raises(
        DatasetError, match=r"^3 samples .* 2: 7\.png is broken; 9\.png is missing; 8\.png is cut$"
    ):
        again.note(((8, "8.png is cut"),))


# ----------------------------------------------------------------------------------- the loader


@pytest.fixture
def config(tiny_config, pottery):
    """Seven images; one is cut off, one's PNG is missing."""
    pottery.add_ordinary(3)
    pottery.add_ordinary(2, size=(64, 62))
    pottery.write()
    path = pottery.images / "002.png"
    path.write_bytes(path.read_bytes()[:500])
    (pottery.pngs / "005.png").unlink()
    tiny_config.DATASETS.CUSTOM = [pottery.entry()]
    tiny_config.DATASETS.TRAIN = (pottery.name,)
    tiny_config.INPUT.MIN_SIZE_TRAIN = (40, 48, 56, 64)
    tiny_config.INPUT.COLOR_AUG_SSD = True
    tiny_config.DATALOADER.MAX_UNREADABLE = 2
    register_custom_datasets(tiny_config)
    return tiny_config


def loader(cfg, seed=7):
    seed_all_rng(seed)
    mapper = KNetDatasetMapper(cfg, is_train=True)
    return build_resumable_loader(cfg, dataset=load_training_dicts(cfg), mapper=mapper)


def told(batches, number):
    return [
        [(s["file_name"][-7:], s["image"].numpy().tobytes()) for s in batch]
        for batch in islice(batches, number)
    ]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("grouping", [False, True], ids=["plain", "grouped"])
def test_a_training_goes_on_and_resumes_exactly(config, caplog, workers, grouping):
    config.DATALOADER.NUM_WORKERS, config.DATALOADER.ASPECT_RATIO_GROUPING = workers, grouping
    with caplog.at_level(logging.WARNING, "knet"):
        straight = told(iter(loader(config)), 12)
    names = {name for batch in straight for name, _ in batch}
    assert names == {f"{i:03d}.png" for i in (1, 3, 4, 6, 7)}
    warnings = " ".join(m for m in caplog.messages if "cannot be read" in m)
    assert len([m for m in caplog.messages if "another is taken" in m]) == 2
    assert "002.png" in warnings and "005.png" in warnings
    for stop in (1, 3, 6):
        first = loader(config)
        assert told(iter(first), stop) == straight[:stop]
        state = first.state_dict()
        second = loader(config, seed=stop)
        assert second.load_state_dict(state) == ""
        assert told(iter(second), 5) == straight[stop : stop + 5]


@pytest.mark.parametrize("workers", [0, 2])
def test_one_more_than_allowed_ends_it(config, workers):
    config.DATALOADER.NUM_WORKERS, config.DATALOADER.MAX_UNREADABLE = workers, 1
    with pytest.raises(DatasetError, match=r"^2 samples .*MAX_UNREADABLE 1: .*00[25].*00[25]"):
        told(iter(loader(config)), 12)


def test_the_count_goes_on_after_a_resume(config):
    """One was found before, the other after: together more than are allowed."""
    config.DATALOADER.NUM_WORKERS = 0
    first, found = loader(config), []
    for _ in iter(first):
        found = first.state_dict()["unreadable"]["found"]
        if found:
            break
    assert len(found) == 1
    state = first.state_dict()
    config.DATALOADER.MAX_UNREADABLE = 1
    second = loader(config)
    second.load_state_dict(state)
    with pytest.raises(DatasetError, match=r"^2 samples cannot be read"):
        told(iter(second), 12)
