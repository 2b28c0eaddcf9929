"""Pictures of panoptic results: what is drawn, how it is named and coloured, what is refused."""

import json
import os

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from PIL import Image

from knet.data.datasets.coco_panoptic import register_coco_panoptic
from knet.errors import DatasetError, UsageError
from knet.evaluation import PanopticEvaluator
from knet.visualization import draw_contact_sheet, draw_predictions
from knet.visualization.captions import CAPTION_HEIGHT
from knet.visualization.colors import colors_of_found, object_colors
from knet.visualization.pictures import GAP
from knet.visualization.segmentation import Segmentation
from knet.visualization.text import PlainTextVisualizer

NAME = "pictures_test"
SIZE = (96, 128)
# stuff comes before, between and behind things, and the ids have gaps
CATEGORIES = [
    {"id": 3, "name": "sky", "isthing": 0, "color": [120, 190, 240]},
    {"id": 5, "name": "disk", "isthing": 1, "color": [220, 20, 60]},
    {"id": 6, "name": "grass", "isthing": 0, "color": [90, 170, 70]},
    {"id": 9, "name": "box", "isthing": 1, "color": [130, 60, 200]},
]


def scene():
    """Ids (H, W) and segments_info: sky with a frame-shaped disk, two boxes, a crowd, void."""
    ids = np.zeros(SIZE, np.int32)
    ids[:50] = 1
    ids[10:40, 10:40] = 70_000  # needs the third byte of the PNG
    ids[20:30, 20:30] = 0  # its hole
    ids[10:40, 60:80], ids[10:40, 80:100] = 3, 4
    ids[60:80, 20:60] = 5
    segments = [
        {"id": 1, "category_id": 3, "iscrowd": 0},
        {"id": 70_000, "category_id": 5, "iscrowd": 0},
        {"id": 3, "category_id": 9, "iscrowd": 0},
        {"id": 4, "category_id": 9, "iscrowd": 0},
        {"id": 5, "category_id": 5, "iscrowd": 1},
    ]
    return ids, segments


def save_ids(ids, path):
    rgb = np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=-1).astype(np.uint8)
    Image.fromarray(rgb).save(path)


def write_annotations(folder, json_path, png_root, scenes, images):
    os.makedirs(folder / png_root, exist_ok=True)
    annotations = []
    for image, (ids, segments) in zip(images, scenes):
        name = os.path.splitext(image["file_name"])[0] + ".png"
        save_ids(ids, folder / png_root / name)
        for segment in segments:
            segment["area"] = int((ids == segment["id"]).sum())
        annotations.append({"image_id": image["id"], "file_name": name, "segments_info": segments})
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (folder / json_path).write_text(json.dumps(content))


def register(folder, scenes):
    """Writes and registers a data set of these scenes as NAME."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    images = []
    for i, (ids, _) in enumerate(scenes):
        height, width = ids.shape
        images.append({"id": i + 7, "file_name": f"{i:03d}.jpg", "height": height, "width": width})
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / images[-1]["file_name"])
    write_annotations(folder, "panoptic.json", "panoptic", scenes, images)
    register_coco_panoptic(
        NAME, str(folder), str(folder / "panoptic"), str(folder / "panoptic.json")
    )
    return images


@pytest.fixture
def dataset(tmp_path):
    """Registers scenes; predicts, in COCO's format, whatever a test says."""

    class Dataset:
        folder = tmp_path / "data"
        predictions = tmp_path / "predictions"

        def register(self, *scenes):
            self.images = register(self.folder, scenes)

        def predict(self, *scenes):
            self.predictions.mkdir(exist_ok=True)
            write_annotations(
                self.predictions, "predictions.json", "predictions", scenes, self.images
            )

        def draw(self, limit=None):
            return draw_predictions(str(self.predictions), NAME, str(tmp_path / "pictures"), limit)

    yield Dataset()
    if NAME in DatasetCatalog.list():
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)


def panels(file):
    """The three panels of a picture, without captions: each (h, w, 3)."""
    picture = np.asarray(Image.open(file).convert("RGB"))[CAPTION_HEIGHT:]
    width = (picture.shape[1] - 2 * GAP) // 3
    return [picture[:, i * (width + GAP) :][:, :width] for i in range(3)]


def is_grey(pixels):
    """Nothing is drawn here: the panels' images have no colour of their own."""
    return (pixels.max(axis=-1) == pixels.min(axis=-1)).all()


@pytest.fixture
def labels(monkeypatch):
    """The texts drawn, in their order."""
    texts, draw_text = [], PlainTextVisualizer.draw_text

    def spy(self, text, *args, **kwargs):
        texts.append(text)
        return draw_text(self, text, *args, **kwargs)

    monkeypatch.setattr(PlainTextVisualizer, "draw_text", spy)
    return texts


# --------------------------------------------------------------------------------------- pictures


def test_truth_predicted_by_the_evaluator_gives_two_equal_panels(dataset):
    dataset.register(scene())
    evaluator = PanopticEvaluator(NAME, str(dataset.predictions))
    evaluator.reset()
    ids, _ = scene()
    # the evaluator changes what it gets
    segments = [dict(s) for s in DatasetCatalog.get(NAME)[0]["segments_info"]]
    inputs = [{"file_name": "000.jpg", "image_id": dataset.images[0]["id"]}]
    evaluator.process(inputs, [{"panoptic_seg": (torch.from_numpy(ids), segments)}])
    assert evaluator.evaluate()["panoptic_seg"]["PQ"] == 100

    (file,) = dataset.draw()
    image, truth, prediction = panels(file)
    assert (truth == prediction).all()
    assert not is_grey(truth) and (image != truth).any()
    assert image.shape[:2] == (320, 427), "small images are enlarged"


def test_instances_keep_their_colour_when_the_prediction_orders_them_otherwise(dataset):
    ids, segments = scene()
    dataset.register((ids, segments))
    other_ids = np.select([ids == 3, ids == 4], [4, 3], ids)  # the two boxes swap ids
    dataset.predict((other_ids, segments[::-1]))
    _, truth, prediction = panels(dataset.draw()[0])
    assert (truth == prediction).all()


def test_segments_get_the_name_of_their_class(dataset, labels):
    ids, segments = scene()
    dataset.register((ids, segments))
    wrong = np.zeros_like(ids)
    wrong[:50, :60], wrong[:50, 60:] = 1, 2
    found = [{"id": 1, "category_id": 6}, {"id": 2, "category_id": 9, "score": 0.873}]
    dataset.predict((wrong, found))
    dataset.draw()
    assert sorted(labels[:5]) == ["box", "box", "disk", "disk (crowd)", "sky"]
    assert sorted(labels[5:]) == ["box 87%", "grass"]


def test_void_and_holes_stay_undrawn(dataset):
    dataset.register(scene())
    dataset.predict((np.zeros(SIZE, np.int32), []))
    _, truth, prediction = panels(dataset.draw()[0])
    assert is_grey(prediction)
    scale = truth.shape[0] / SIZE[0]
    row, column = (slice(round(22 * scale), round(28 * scale)),) * 2
    assert is_grey(truth[row, column]), "the hole of the disk"
    assert is_grey(truth[round(85 * scale) :])


def test_images_without_segments_and_false_positives_there(dataset, labels):
    empty = (np.zeros(SIZE, np.int32), [])
    dataset.register(empty, empty)
    dataset.predict(empty, scene())
    first, second = (panels(file) for file in dataset.draw())
    assert is_grey(first[1]) and is_grey(first[2]) and is_grey(second[1])
    assert not is_grey(second[2]) and "disk" in labels


def test_large_images_are_reduced_and_kept_small_on_disk(dataset):
    ids = np.ones((900, 1200), np.int32)
    segments = [{"id": 1, "category_id": 6, "iscrowd": 0}]
    dataset.register((ids, segments))
    dataset.predict((ids, segments))
    (file,) = dataset.draw()
    assert file.endswith("000.jpg")
    assert panels(file)[1].shape[:2] == (600, 800)


def test_limit_takes_the_first_images_and_a_sheet_shows_all_given(dataset, tmp_path):
    dataset.register(scene(), scene(), scene(), scene())
    dataset.predict(scene(), scene(), scene(), scene())
    files = dataset.draw(limit=3)
    assert [os.path.basename(file) for file in files] == ["000.png", "001.png", "002.png"]
    sheet = tmp_path / "sheet.png"
    draw_contact_sheet(files, str(sheet), columns=2)
    pixels = np.asarray(Image.open(sheet))
    drawn_rows = (pixels != 255).any(axis=(1, 2))
    assert np.count_nonzero(np.diff(drawn_rows.astype(int)) == 1) >= 2


def test_labels_of_things_at_the_border_lie_inside_the_picture(dataset, monkeypatch):
    ids = np.zeros(SIZE, np.int32)
    ids[:10, :10], ids[-10:, -10:] = 1, 2
    segments = [{"id": i, "category_id": 9, "iscrowd": 0} for i in (1, 2)]
    dataset.register((ids, segments))
    dataset.predict((ids, segments))
    boxes, get_image = [], PlainTextVisualizer.get_output

    def measure(self):
        boxes.extend(text.get_window_extent() for text in self.output.ax.texts)
        return get_image(self)

    monkeypatch.setattr(PlainTextVisualizer, "get_output", measure)
    _, truth, _ = panels(dataset.draw()[0])
    height, width = truth.shape[:2]
    assert len(boxes) == 4
    for box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height


# ---------------------------------------------------------------------------------------- colours


def test_a_false_positive_has_a_colour_that_no_true_instance_has():
    rows = np.eye(3, dtype=bool).repeat(2, axis=1)[:, None]  # three masks of two pixels each
    things = [{"category_id": 4, "isthing": True}] * 2
    truth = Segmentation.from_masks(rows[[0, 1]], things, (1, 6))
    prediction = Segmentation.from_masks(rows[[2, 1]], things, (1, 6))
    metadata = Metadata(name="x")
    first, second = object_colors(truth, metadata)
    false, found = colors_of_found(truth, (first, second), prediction, metadata)
    assert found == second and false not in (first, second)


def test_metadata_without_colours_is_enough(dataset):
    dataset.register(scene())
    dataset.predict(scene())
    metadata = MetadataCatalog.get(NAME)
    del metadata.thing_colors, metadata.stuff_colors
    _, truth, prediction = panels(dataset.draw()[0])
    assert not is_grey(truth) and (truth == prediction).all()


# ----------------------------------------------------------------------------------------- errors


def test_no_predictions_there(dataset):
    dataset.register(scene())
    with pytest.raises(UsageError, match=r"holds no predictions\.json or .*: give the folder"):
        dataset.draw()
    dataset.predictions.mkdir()
    (dataset.predictions / "predictions.json").write_text("[]")
    with pytest.raises(UsageError, match="no json of predictions: give the folder"):
        dataset.draw()


def test_data_set_that_is_not_registered(dataset):
    dataset.register(scene())
    dataset.predict(scene())
    with pytest.raises(UsageError, match="'no_such' is not registered"):
        draw_predictions(str(dataset.predictions), "no_such", str(dataset.folder))


def test_predictions_of_another_data_set(dataset):
    dataset.register(scene())
    ids, segments = scene()
    dataset.predict((ids, [{**s, "category_id": 77} for s in segments]))
    with pytest.raises(UsageError, match="has the category 77"):
        dataset.draw()
    dataset.predict((ids[:50], segments))
    with pytest.raises(DatasetError, match=r"is 128 x 50, its image .* is 128 x 96"):
        dataset.draw()
    dataset.images[0]["id"] = 12345
    dataset.predict((ids, segments))
    with pytest.raises(UsageError, match=f"no image of '{NAME}'"):
        dataset.draw()


def test_a_prediction_that_is_missing(dataset):
    dataset.register(scene())
    dataset.predict(scene())
    os.remove(dataset.predictions / "predictions" / "000.png")
    with pytest.raises(DatasetError, match=r"cannot read the image .*000\.png"):
        dataset.draw()
