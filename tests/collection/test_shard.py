"""One shard, in this process: what its files hold, and what becomes of images that break."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from pycocotools import mask as mask_utils

from knet import Predictor
from knet.collection.folder import CollectionFolder
from knet.collection.join import join_shards
from knet.collection.settings import ModelSource, Settings
from knet.collection.shard import predict_shard
from knet.errors import UsageError
from knet.results import instance_annotations, label_map, panoptic_png_and_annotation
from tests.collection.conftest import images_of

KINDS = ("panoptic", "instance", "semantic")


class Killed(BaseException):
    """Leaves a shard as a process does that is killed."""


@pytest.fixture
def shard(model_file, image_folder, tmp_path):
    """Predicts on the nine images as one shard; called again, in another process's place."""
    settings = Settings(ModelSource(model_file), KINDS)
    paths = images_of(image_folder)
    images = pa.table({"image_id": range(11, 20), "image": paths})
    folder = CollectionFolder.create(str(tmp_path / "out"), settings.identity(), images, 100)
    predictor, _ = settings.predictor("cpu")

    def run(stream=None, batch_size=1):
        predictor.batch_size = batch_size
        predictor.stream = stream or Predictor.stream.__get__(predictor)
        return predict_shard(predictor, folder, 0)

    run.folder, run.paths, run.predictor = folder, paths, predictor
    return run


def rows_of(folder):
    return pq.read_table(folder.shard_file(0)).to_pylist()


def test_rows_hold_what_the_predictor_gives(shard):
    assert shard() == 1
    rows = rows_of(shard.folder)
    paths = [path for path in shard.paths if not path.endswith("e.png")]
    assert [row["image"] for row in rows] == paths
    for row in rows:
        result, classes = shard.predictor(row["image"]), shard.predictor.classes
        size = [row["height"], row["width"]]

        def mask(region, size=size):
            return mask_utils.decode({"size": size, "counts": region["counts"]}).astype(bool)

        segments, infos = result["panoptic_seg"]
        assert len(row["panoptic"]) == len(infos) > 1
        for region, info in zip(row["panoptic"], infos):
            assert np.array_equal(mask(region), segments == info["id"])
            for name in ("area", "score", "kernel", "isthing"):
                assert region[name] == info[name]
            assert region["category_name"] == info["category_name"]
            assert region["category_id"] == info["dataset_id"]
        instances = result["instances"]
        assert [region["kernel"] for region in row["instance"]] == instances.pred_kernels.tolist()
        for region, truth in zip(row["instance"], instances.pred_masks):
            assert np.array_equal(mask(region), truth) and region["area"] == truth.sum()
        labels = label_map({"sem_seg": result["sem_seg"]}, classes)
        for region in row["semantic"]:
            assert np.array_equal(mask(region), labels == region["category_id"])
        assert sum(region["area"] for region in row["semantic"]) == labels.size


def test_an_image_that_cannot_be_read_is_in_the_table_of_failures(shard):
    shard()
    (failure,) = shard.folder.failures().to_pylist()
    assert failure["image_id"] == 15 and failure["image"].endswith("e.png")
    assert "cannot read the image" in failure["reason"]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_an_image_that_the_model_cannot_take_does_not_take_others_with_it(
    shard, monkeypatch, batch_size
):
    shard()
    expected = [row for row in rows_of(shard.folder) if not row["image"].endswith("c.png")]
    forward = shard.predictor.model.forward
    height = Image.open(shard.paths[2]).height

    def no_memory_for_c(inputs):
        if any(each["height"] == height for each in inputs):
            raise torch.cuda.OutOfMemoryError("out of memory,\n use less")
        return forward(inputs)

    monkeypatch.setattr(shard.predictor.model, "forward", no_memory_for_c)
    assert shard(batch_size=batch_size) == 2
    assert [row["image"] for row in rows_of(shard.folder)] == [row["image"] for row in expected]
    if batch_size == 1:
        assert rows_of(shard.folder) == expected
    reasons = {row["image"]: row["reason"] for row in shard.folder.failures().to_pylist()}
    assert reasons[shard.paths[2]].endswith("too large for the memory: out of memory, use less")


def killed_at(shard, path, times):
    """A stream that is killed at an image, so many times."""
    deaths = []

    def stream(sources, workers):
        for prediction in Predictor.stream(shard.predictor, sources, workers):
            if prediction.source == path and len(deaths) < times:
                deaths.append(path)
                raise Killed
            yield prediction

    return stream


@pytest.mark.parametrize("times, failures", [(1, 1), (2, 1), (3, 2), (9, 2)])
def test_an_image_that_kills_its_process_again_and_again_is_a_failure(shard, times, failures):
    shard()
    expected = rows_of(shard.folder)
    stream, done = killed_at(shard, shard.paths[2], times), []
    while not done:
        try:
            done.append(shard(stream))
        except Killed:
            times -= 1
    assert done == [failures] and times == max(0, times)
    left = expected if failures == 1 else [r for r in expected if r["image"] != shard.paths[2]]
    assert rows_of(shard.folder) == left
    if failures == 2:
        reason = shard.folder.failures().to_pylist()[0]["reason"]
        assert reason == "the process was killed at it 2 times"
    shard.folder.tidy()
    assert sorted(path.name for path in shard.folder.path.iterdir()) == [
        *("collection.json", "failures", "images.parquet", "shards")
    ]


def test_joined_shards_are_coco_files(shard):
    shard()
    coco = join_shards(str(shard.folder.path))
    panoptic = json.loads((coco / "panoptic.json").read_text())
    names = [*(f"{name}.png" for name in "abcdfgh"), "more/a.png"]
    assert [image["file_name"] for image in panoptic["images"]] == names
    assert panoptic["images"][0] == {"id": 11, "file_name": "a.png", "width": 60, "height": 40}
    assert {c["id"] for c in panoptic["categories"]} == {
        c.dataset_id for c in shard.predictor.classes
    }
    instances = json.loads((coco / "instances.json").read_text())
    images = json.loads((coco / "images.json").read_text())
    assert {**images, "annotations": panoptic["annotations"]} == panoptic
    classes = shard.predictor.classes
    for annotation in panoptic["annotations"]:
        image_id, name = annotation["image_id"], annotation["file_name"]
        result = shard.predictor(shard.paths[image_id - 11])
        png, truth = panoptic_png_and_annotation(result, classes, file_name=name, image_id=image_id)
        assert annotation == truth
        assert np.array_equal(Image.open(coco / "panoptic" / name), png)
        labels = label_map({"sem_seg": result["sem_seg"]}, classes)
        assert np.array_equal(Image.open(coco / "labels" / name), labels)
        truth = instance_annotations(result, classes, image_id=image_id)
        assert [each for each in instances if each["image_id"] == image_id] == truth


def test_shards_that_are_not_all_done_are_not_joined(shard):
    with pytest.raises(UsageError, match=r"1 of 1 shards in .* are not done: predict on"):
        join_shards(str(shard.folder.path))
    with pytest.raises(UsageError, match="holds no collection's results"):
        join_shards(str(shard.folder.path.parent))
