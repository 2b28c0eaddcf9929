"""The output folder: shards of fixed images, and results that are not mixed with others."""

import pyarrow as pa
import pytest

from knet.collection.folder import CollectionFolder
from knet.errors import UsageError

IDENTITY = {"weights": "abc", "classes": [], "kinds": ["panoptic"]}


def numbered(count):
    return pa.table({"image_id": range(count), "image": [f"/{i}.png" for i in range(count)]})


def create(path, identity=IDENTITY, images=None, shard_size=3):
    return CollectionFolder.create(str(path), identity, images or numbered(7), shard_size)


def row(image_id):
    image = {"image_id": image_id, "image": f"/{image_id}.png", "height": 1, "width": 1}
    return {**image, "panoptic": []}


def test_every_image_is_in_one_shard(tmp_path):
    folder = create(tmp_path / "out")
    shards = [folder.images(i) for i in range(folder.num_shards)]
    assert [len(shard) for shard in shards] == [3, 3, 1]
    assert [image["image_id"] for shard in shards for image in shard] == list(range(7))


def test_a_later_run_goes_on_with_what_is_not_done(tmp_path):
    create(tmp_path).finish(1, [row(3), row(4)], [{"image_id": 5, "image": "/5", "reason": "?"}])
    again = create(tmp_path)
    assert again.unfinished() == [0, 2]
    assert again.failures()["image_id"].to_pylist() == [5]


def test_a_shard_done_anew_has_its_own_failures_alone(tmp_path):
    folder = create(tmp_path)
    failure = {"image_id": 0, "image": "/0", "reason": "the disk was away"}
    folder.finish(0, [row(1), row(2)], [failure])
    folder.finish(0, [row(0), row(1), row(2)], [])
    assert len(folder.failures()) == 0


@pytest.mark.parametrize(
    "changes, name",
    [
        ({"images": numbered(8)}, "images"),
        ({"images": numbered(7).set_column(0, "image_id", [list(range(1, 8))])}, "images"),
        ({"shard_size": 4}, "shard_size"),
        ({"identity": {**IDENTITY, "weights": "abd"}}, "weights"),
        ({"identity": {**IDENTITY, "kinds": ["instance"]}}, "kinds"),
    ],
)
def test_other_images_or_settings_are_refused(tmp_path, changes, name):
    create(tmp_path)
    with pytest.raises(UsageError, match=rf"of other settings \({name}\): give another output"):
        create(tmp_path, **changes)


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match="holds other things"):
        create(tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        create(tmp_path / "thesis.tex")


def test_two_runs_do_not_write_to_one_folder(tmp_path):
    with (
        create(tmp_path).alone(),
        pytest.raises(UsageError, match="another run is writing"),
        create(tmp_path).alone(),
    ):
        pass


def test_a_start_that_was_stopped_is_repeated(tmp_path):
    create(tmp_path)
    (tmp_path / ".images.parquet.7.part").touch()  # was being written
    (tmp_path / "collection.json").unlink()  # written last
    assert create(tmp_path, images=numbered(2)).num_images == 2
