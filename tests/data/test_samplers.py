"""Samplers that repeat images of rare classes, or of some data sets, whatever the data's kind."""

import itertools

import pytest
import torch
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.utils.env import seed_all_rng

from knet.data.datasets.custom import register_custom_datasets
from knet.data.samplers import build_repeating_sampler
from knet.data.training_images import load_training_sets
from knet.engine.trainer import KNetTrainer
from knet.errors import UsageError


def images(*classes, key="segments_info"):
    """One image for each list of classes."""
    return [{key: [{"category_id": c} for c in each]} for each in classes]


def factors(cfg, **sets):
    sampler = build_repeating_sampler(cfg, list(sets.items()))
    return (sampler._int_part + sampler._frac_part).tolist()


@pytest.mark.parametrize("key", ["segments_info", "annotations"])
def test_images_of_rare_classes_come_more_often(tiny_config, key):
    tiny_config.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    tiny_config.DATALOADER.REPEAT_THRESHOLD = 0.8
    dicts = images([0], [0], [0], [0, 1], [], key=key)
    assert factors(tiny_config, a=dicts[:2], b=dicts[2:]) == [1, 1, 1, 2, 1]
    as_detectron2 = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        images([0], [0], [0], [0, 1], [], key="annotations"), 0.8
    )
    assert as_detectron2.tolist() == [1, 1, 1, 2, 1]


def test_data_sets_by_their_weight(tiny_config):
    tiny_config.DATALOADER.SAMPLER_TRAIN = "WeightedTrainingSampler"
    tiny_config.DATASETS.TRAIN_REPEAT_FACTOR = [("b", 3.0)]
    sets = {"a": images([0], [1]), "b": images([0])}
    assert factors(tiny_config, **sets) == [1, 1, 3]
    tiny_config.DATALOADER.SAMPLER_TRAIN = "WeightedCategoryTrainingSampler"
    tiny_config.DATALOADER.REPEAT_THRESHOLD = 1.0
    assert factors(tiny_config, **sets) == pytest.approx([1, 1, 3 / 2**0.5])
    tiny_config.DATASETS.TRAIN_REPEAT_FACTOR = [("c", 3.0)]
    with pytest.raises(UsageError, match=r"TRAIN_REPEAT_FACTOR names 'c'"):
        factors(tiny_config, **sets)


@pytest.mark.parametrize("weights", [["b"], [("b", "much")], [("b", 0.0)], [("b", float("nan"))]])
def test_weights_that_are_none(tiny_config, weights):
    tiny_config.DATALOADER.SAMPLER_TRAIN = "WeightedTrainingSampler"
    tiny_config.DATASETS.TRAIN_REPEAT_FACTOR = weights
    with pytest.raises(UsageError, match=r"DATASETS\.TRAIN_REPEAT_FACTOR"):
        factors(tiny_config, b=images([0]))


def test_label_maps_do_not_tell_their_classes(tiny_config):
    tiny_config.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    with pytest.raises(UsageError, match=r"x\.png .*SAMPLER_TRAIN TrainingSampler"):
        factors(tiny_config, a=[{"file_name": "x.png", "sem_seg_file_name": "y.png"}])


def test_detectron2_makes_the_others(tiny_config):
    for name in ("TrainingSampler", "RandomSubsetTrainingSampler", "Unknown"):
        tiny_config.DATALOADER.SAMPLER_TRAIN = name
        assert build_repeating_sampler(tiny_config, []) is None


@pytest.mark.parametrize(
    "sampler",
    ["TrainingSampler", "RepeatFactorTrainingSampler", "WeightedTrainingSampler"],
)
def test_a_loader_of_panoptic_data(tiny_config, pottery, sampler):
    tiny_config.DATASETS.CUSTOM = [pottery.write().entry()]
    tiny_config.DATASETS.TRAIN, tiny_config.DATASETS.TEST = ("pottery",), ()
    tiny_config.DATALOADER.SAMPLER_TRAIN, tiny_config.DATALOADER.NUM_WORKERS = sampler, 0
    register_custom_datasets(tiny_config)
    batches = itertools.islice(KNetTrainer.build_train_loader(tiny_config), 2)
    assert all(torch.is_tensor(x["image"]) for batch in batches for x in batch)


def test_a_sampler_that_nobody_knows(tiny_config):
    tiny_config.DATALOADER.SAMPLER_TRAIN = "FairSampler"
    with pytest.raises(UsageError, match=r"DATALOADER.*FairSampler"):
        KNetTrainer.build_train_loader(tiny_config)


def test_one_data_set_twice_counts_twice(tiny_config, shapes):
    tiny_config.DATASETS.TRAIN = (shapes.train, shapes.train)
    (name, first), (_, second) = load_training_sets(tiny_config)
    assert name == shapes.train and first and first == second


@pytest.mark.parametrize(
    "sampler",
    [
        "RepeatFactorTrainingSampler",
        "WeightedTrainingSampler",
        "WeightedCategoryTrainingSampler",
    ],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_with_repeated_images_goes_on_as_if_never_stopped(
    tiny_config, shapes, sampler, workers
):
    tiny_config.DATASETS.TRAIN, tiny_config.DATASETS.TEST = (shapes.train, shapes.val), ()
    tiny_config.DATASETS.TRAIN_REPEAT_FACTOR = [(shapes.val, 1.7)]
    tiny_config.DATALOADER.REPEAT_THRESHOLD = 0.9
    tiny_config.DATALOADER.SAMPLER_TRAIN = sampler
    tiny_config.DATALOADER.NUM_WORKERS = workers

    def loader(seed):
        seed_all_rng(seed)
        return KNetTrainer.build_train_loader(tiny_config)

    def told(batches, number):
        batches = itertools.islice(batches, number)
        return [(x["file_name"], x["image"].numpy().tobytes()) for b in batches for x in b]

    straight = told(iter(loader(7)), 24)  # more than all images once
    names = [name for name, _ in straight]
    assert max(map(names.count, names)) - min(map(names.count, names)) > 1, "some more often"
    first = loader(7)
    batches = iter(first)
    assert told(batches, 13) == straight[:26]
    state = first.state_dict()
    second = loader(8)
    assert second.load_state_dict(state) == ""
    assert told(iter(second), 11) == straight[26:]
