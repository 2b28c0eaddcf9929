"""Results over images and frames: what is drawn, in which colours, with which names."""

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Instances

from knet.errors import UsageError
from knet.visualization import VideoDrawer, draw_result
from knet.visualization.colors import object_colors
from knet.visualization.segmentation import Segmentation, read_result
from knet.visualization.text import PlainTextVisualizer

SIZE = (60, 90)


def metadata(**changes):
    """Two things and a stuff class, by contiguous id; ids above 2 have neither name nor colour."""
    names, colors = ["cup", "plate", "wall"], [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    content = {"thing_classes": names, "stuff_classes": names}
    content.update(thing_colors=colors, stuff_colors=colors)
    return Metadata(name="dishes", **{**content, **changes})


def instances(masks, classes, scores=None):
    found = Instances(masks.shape[1:])
    found.pred_masks = torch.from_numpy(masks)
    found.pred_classes = torch.tensor(classes, dtype=torch.long)
    found.scores = torch.tensor(scores if scores is not None else [0.9] * len(masks))
    return {"instances": found}


def squares(count, side=12, gap=0, left=0, size=SIZE):
    """A row of squares: (count, H, W) bool."""
    masks = np.zeros((count, *size), dtype=bool)
    for i, mask in enumerate(masks):
        start = left + i * (side + gap)
        mask[20 : 20 + side, start : start + side] = True
    return masks


def panoptic(*segments):
    """Of (category, isthing, score) segments, one below the other."""
    ids = torch.zeros(SIZE, dtype=torch.int32)
    info = []
    for i, (category, isthing, score) in enumerate(segments, start=1):
        ids[(i - 1) * 20 : i * 20] = i
        info.append({"id": i, "category_id": category, "isthing": isthing, "score": score})
    return {"panoptic_seg": (ids, info)}


def semantic(labels, num_classes=3):
    scores = torch.zeros(num_classes, *labels.shape)
    return {"sem_seg": scores.scatter_(0, torch.from_numpy(labels)[None], 1.0)}


def grey(size=SIZE):
    return np.full((*size, 3), 100, np.uint8)


def color_at(picture, y, x):
    return tuple(int(v) for v in picture[y, x])


@pytest.fixture
def written(monkeypatch):
    """The names written."""
    texts = []
    monkeypatch.setattr(
        PlainTextVisualizer, "draw_text", lambda self, text, *_, **__: texts.append(text)
    )
    return texts


# ------------------------------------------------------------------------------------ what is drawn


def test_opacity_mixes_the_image_with_the_class_colour():
    labels = np.full(SIZE, 2)
    for opacity, expected in ((0.0, (100, 100, 100)), (0.5, (65, 65, 150)), (1.0, (30, 30, 200))):
        picture = draw_result(grey(), semantic(labels), metadata(), opacity=opacity, labels=False)
        assert color_at(picture, 30, 45) == expected


def test_the_image_given_stays_as_it_is():
    image = grey()
    draw_result(image, semantic(np.zeros(SIZE, int)), metadata())
    assert (image == 100).all()


def test_holes_of_a_mask_stay_open():
    ring = squares(1, side=30)
    ring[0, 30:40, 10:20] = False
    picture = draw_result(grey(), instances(ring, [0]), metadata(), labels=False)
    assert color_at(picture, 35, 15) == (100, 100, 100)
    assert color_at(picture, 25, 15) != (100, 100, 100)


def test_weak_things_are_left_out_but_never_stuff():
    result = panoptic((0, True, 0.9), (1, True, 0.2), (2, False, 0.2))
    picture = draw_result(grey(), result, metadata(), labels=False)
    assert color_at(picture, 30, 45) == (100, 100, 100)
    assert color_at(picture, 10, 45) != (100, 100, 100) != color_at(picture, 50, 45)
    picture = draw_result(grey(), result, metadata(), labels=False, score_threshold=0.1)
    assert color_at(picture, 30, 45) != (100, 100, 100)


def test_the_first_kind_that_there_is_or_the_one_wanted():
    wall = np.full(SIZE, 2)
    both = {**semantic(wall), **panoptic((0, True, 0.9))}
    drawn = {kind: draw_result(grey(), both, metadata(), kind=kind) for kind in (None, "semantic")}
    assert color_at(drawn[None], 50, 80) == (100, 100, 100)
    assert color_at(drawn["semantic"], 50, 80) != (100, 100, 100)


@pytest.mark.parametrize(
    "result, options, sentence",
    [
        (semantic(np.zeros(SIZE, int)), {"kind": "instance"}, "gives no instance result: draw sem"),
        (semantic(np.zeros(SIZE, int)), {"kind": "boxes"}, "kind 'boxes': give panoptic or"),
        ({}, {}, "result is empty"),
        (semantic(np.zeros((5, 7), int)), {}, "the result is 7 x 5, its image 90 x 60"),
        (semantic(np.zeros(SIZE, int)), {"opacity": 50}, "opacity is 50: give a number from 0 to"),
    ],
)
def test_what_cannot_be_drawn_is_told_in_a_sentence(result, options, sentence):
    with pytest.raises(UsageError, match=sentence):
        draw_result(grey(), result, metadata(), **options)


@pytest.mark.parametrize("image", [np.zeros(SIZE, np.uint8), np.zeros((*SIZE, 3), np.float32)])
def test_an_image_in_another_form_is_refused(image):
    with pytest.raises(UsageError, match="give uint8 RGB"):
        draw_result(image, semantic(np.zeros(SIZE, int)), metadata())


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (1, 40)])
def test_images_of_a_few_pixels(size):
    full = np.ones((2, *size), dtype=bool)
    ids = torch.ones(size, dtype=torch.int32)
    info = [{"id": 1, "category_id": 0, "isthing": True}]
    result = {
        **instances(full, [0, 1]),
        **semantic(np.zeros(size, int)),
        "panoptic_seg": (ids, info),
    }
    for kind in ("panoptic", "instance", "semantic"):
        picture = draw_result(grey(size), result, metadata(), kind=kind)
        assert picture.shape == (*size, 3) and picture.dtype == np.uint8
        assert (picture != 100).any()


def test_nothing_found_gives_the_image():
    none = np.zeros((0, *SIZE), dtype=bool)
    drawer = VideoDrawer(metadata())
    for result in (instances(none, [], []), panoptic(), instances(squares(1), [0], [0.1])):
        assert (draw_result(grey(), result, metadata()) == grey()).all()
        assert (drawer(grey(), result) == grey()).all()


def test_an_empty_mask_is_no_error():
    masks = squares(2)
    masks[0] = False
    drawer = VideoDrawer(metadata())
    for _ in range(2):
        assert (drawer(grey(), instances(masks, [0, 0])) != 100).any()


# -------------------------------------------------------------------------------------------- names


def test_only_objects_that_can_carry_their_name_have_it(written):
    large, small = squares(1, side=40)[0], squares(1, side=5, left=60)[0]
    result = instances(np.stack([large, small]), [0, 1], [0.87, 0.9])
    draw_result(grey(), result, metadata())
    assert written == ["cup 87%"]
    del written[:]
    draw_result(grey(), result, metadata(), labels=False)
    assert written == []


def test_names_do_not_lie_upon_each_other(monkeypatch):
    size = (200, 300)
    masks = np.zeros((3, *size), dtype=bool)
    masks[:, 20:180, 40:260] = True  # the same object three times, and all its names are wanted
    boxes = []

    def measure(self):
        renderer = self.output.canvas.get_renderer()
        boxes.extend(text.get_window_extent(renderer) for text in self.output.ax.texts)
        return self.output

    monkeypatch.setattr(PlainTextVisualizer, "get_output", measure)
    draw_result(grey(size), instances(masks, [0, 1, 0]), metadata())
    assert len(boxes) == 3
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_ids_beyond_the_metadata_have_their_number_as_name(written):
    full = np.ones((1, 300, 300), dtype=bool)
    draw_result(grey((300, 300)), instances(full, [200]), metadata())
    draw_result(grey((300, 300)), semantic(np.full((300, 300), 5), 6), metadata())
    draw_result(grey((300, 300)), instances(full, [1]), Metadata(name="nothing"))
    assert written == ["200 90%", "5", "1 90%"]


# ------------------------------------------------------------------------------------------ colours


def distances(colors):
    """(S, S) of colours, 0..255; a thing is no neighbour of itself."""
    colors = 255 * np.array(colors)
    apart = np.linalg.norm(colors[:, None] - colors, axis=-1)
    np.fill_diagonal(apart, np.inf)
    return apart


def test_neighbours_of_one_class_differ_clearly():
    grid = np.zeros((40, 96, 60), dtype=bool)
    for i, mask in enumerate(grid):
        y, x = 12 * (i // 5), 12 * (i % 5)
        mask[y : y + 12, x : x + 12] = True
    found = Segmentation.from_masks(grid, [{"category_id": 0, "isthing": True}] * 40, (96, 60))
    apart = distances(object_colors(found, metadata()))
    rows, columns = np.divmod(np.arange(40), 5)
    touching = abs(rows[:, None] - rows) + abs(columns[:, None] - columns) == 1
    assert apart[touching].min() > 60


def test_a_class_is_known_by_its_colour_among_others():
    classes = [0, 1] * 4
    masks = squares(8, side=8)
    found = read_result(instances(masks, classes), "instance", SIZE)
    colors = np.array(object_colors(found, metadata()))
    assert (colors[::2].argmax(axis=1) == 0).mean() >= 0.75, "cups are reddish"
    assert (colors[1::2].argmax(axis=1) == 1).mean() >= 0.75, "plates are greenish"
    assert distances(colors).min() > 20


def test_a_single_object_has_exactly_the_colour_of_its_class():
    found = read_result(panoptic((0, True, 1.0), (2, False, 1.0)), "panoptic", SIZE)
    cup, wall = object_colors(found, metadata())
    assert np.allclose(cup, np.array([200, 30, 30]) / 255)
    assert np.allclose(wall, np.array([30, 30, 200]) / 255)


def test_the_same_result_gives_the_same_picture():
    result = instances(squares(6, gap=2), [0] * 6)
    first, second = (draw_result(grey(), result, metadata()) for _ in range(2))
    assert (first == second).all()


# -------------------------------------------------------------------------------------------- video


@pytest.mark.parametrize("kind", ["panoptic", "instance"])
def test_colours_stay_with_moving_objects_in_any_order(kind):
    rng = np.random.default_rng(0)
    drawer = VideoDrawer(metadata(), kind, labels=False)
    seen = []
    for step in range(6):
        masks = squares(5, side=10, gap=4, left=2 * step)
        order = rng.permutation(5)
        result = instances(masks[order], [0] * 5)
        if kind == "panoptic":
            ids = torch.zeros(SIZE, dtype=torch.int32)
            for i in order:
                ids[torch.from_numpy(masks[i])] = int(i) + 1
            info = [{"id": int(i) + 1, "category_id": 0, "isthing": True} for i in order]
            result = {"panoptic_seg": (ids, info)}
        picture = drawer(grey(), result)
        seen.append([color_at(picture, 25, 2 * step + 14 * i + 5) for i in range(5)])
    assert len(set(seen[0])) == 5
    assert all(colors == seen[0] for colors in seen)


def test_an_object_that_is_lost_for_a_frame_has_its_colour_again():
    drawer = VideoDrawer(metadata(), labels=False)
    masks = squares(3, gap=3)
    all_of_them, two = instances(masks, [0] * 3), instances(masks[[0, 2]], [0] * 2)
    first = drawer(grey(), all_of_them)
    drawer(grey(), two)
    assert (drawer(grey(), all_of_them) == first).all()


def test_a_new_object_gets_a_colour_that_no_other_has():
    drawer = VideoDrawer(metadata(), labels=False)
    drawer(grey(), instances(squares(2, gap=3), [0, 0]))
    picture = drawer(grey(), instances(squares(3, gap=3), [0, 0, 0]))
    assert len({color_at(picture, 25, 15 * i + 5) for i in range(3)}) == 3


def test_frames_larger_than_what_is_compared():
    size = (700, 1300)
    drawer = VideoDrawer(metadata(), labels=False)
    masks = squares(4, side=101, gap=20, left=37, size=size)
    pictures = [drawer(grey(size), instances(m, [0] * 4)) for m in (masks, np.roll(masks, 15, 2))]
    centres = [(70, 37 + 121 * i + 50) for i in range(4)]
    first = [color_at(pictures[0], y, x) for y, x in centres]
    assert first == [color_at(pictures[1], y, x + 15) for y, x in centres] and len(set(first)) == 4


def test_semantic_frames_have_the_colours_of_their_classes():
    drawer = VideoDrawer(metadata(), "semantic", opacity=1.0, labels=False)
    for label, expected in ((0, (200, 30, 30)), (2, (30, 30, 200)), (0, (200, 30, 30))):
        assert color_at(drawer(grey(), semantic(np.full(SIZE, label))), 30, 45) == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_results_on_a_gpu():
    result = instances(squares(3), [0, 1, 0])
    on_gpu = {"instances": result["instances"].to("cuda")}
    assert (
        draw_result(grey(), on_gpu, metadata()) == draw_result(grey(), result, metadata())
    ).all()
