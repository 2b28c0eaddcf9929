"""Text of users in pictures: any characters, shown whole, never as a formula."""

import warnings

import matplotlib
import numpy as np
import pytest
from detectron2.data import Metadata

from knet.visualization import draw_result
from knet.visualization.captions import CAPTION_HEIGHT, draw_captions
from knet.visualization.text import BOX, PlainTextVisualizer, drawable
from tests.visualization.test_drawing import grey, instances

NAMES = [
    "$x_1$ 50% & \\alpha_",
    "$",
    "\U0001f600 smile",
    "\u732b",
    "\u0642\u0637\u0629 cat",
    "two\nlines",
    "nul\x00 tab\t \x7f",
    "not utf-8 \udcff",
    "",
    "a very long name " * 40,
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_class_can_be_drawn(name):
    metadata = Metadata(name="x", thing_classes=[name])
    size = (200, 300)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a glyph that is missing is one
        picture = draw_result(grey(size), instances(np.ones((1, *size), bool), [0]), metadata)
        strip = draw_captions([name], 300)[0]
    assert picture.shape == (*size, 3)
    assert name.strip() == "" or (strip < 128).any()


def texts_of(name):
    visualizer = PlainTextVisualizer(grey((50, 300)))
    visualizer.draw_text(name, (150, 10))
    return visualizer.output.ax.texts


def test_a_dollar_starts_no_formula():
    (text,) = texts_of("$x$ and $y$")
    assert text.get_text() == "$x$ and $y$" and not text.get_parse_math()


def test_characters_that_no_font_has_become_boxes_and_marks_vanish():
    text, _ = drawable("a\U000e0041b\U00012345c")  # a tag, and a cuneiform sign
    assert text == f"ab{BOX}c"


def test_a_font_of_the_machine_is_taken_for_what_the_default_lacks():
    # DejaVu Sans has no such letter, a font that comes with matplotlib has it
    sign = "\ue0c1"
    text, families = drawable(f"a{sign}")
    assert text == f"a{sign}" and len(families) == 2


@pytest.mark.skipif(matplotlib.__version_info__ >= (3, 11), reason="matplotlib does it")
@pytest.mark.parametrize(
    "text, seen",
    [
        ("\u05d0\u05d1\u05d2", "\u05d2\u05d1\u05d0"),
        ("\u05d0\u05d1 90%", "90% \u05d1\u05d0"),
        ("car \u05d0\u05d1 12 x", "car 12 \u05d1\u05d0 x"),
        ("car (\u05d0\u05d1) 12", "car (\u05d1\u05d0) 12"),
        ("car (\u05d0\u05d1)", "car (\u05d1\u05d0)"),
        ("(\u05d0\u05d1) car", "car (\u05d1\u05d0)"),
        ("\u05d0\u05d1 car 90%", "car 90% \u05d1\u05d0"),
        ("car 90%", "car 90%"),
    ],
)
def test_words_from_right_to_left_are_seen_so(text, seen):
    assert texts_of(text)[0].get_text() == seen


# ----------------------------------------------------------------------------------------- captions


def ink(strip):
    """Left and right border of what is written."""
    columns = np.flatnonzero((strip < 128).any(axis=(0, 2)))
    return columns[0], columns[-1]


def test_short_captions_have_one_line():
    strips = draw_captions(["photo", "ground truth", "prediction"], 320)
    assert [strip.shape for strip in strips] == [(CAPTION_HEIGHT, 320, 3)] * 3


@pytest.mark.parametrize("length", [40, 64, 200, 255])
def test_long_names_are_whole_and_all_captions_of_one_height(length):
    names = [("0123456789abcdef" * 16)[:length], "ground truth"]
    strips = draw_captions(names, 320)
    assert strips[0].shape == strips[1].shape
    left, right = ink(strips[0])
    assert left >= 2 and right < 318
    changed = [*names]
    for i in (0, length // 2, length - 1):  # each character is there to be seen
        changed[0] = names[0][:i] + "W" + names[0][i + 1 :]
        assert (draw_captions(changed, 320)[0] != strips[0]).any()


def test_of_an_endless_caption_start_and_end_are_left():
    name = "start" + "-" * 3000 + "end"
    strips = draw_captions([name], 320)
    assert len(strips[0]) < 150
    for changed in ("Start" + name[5:], name[:-3] + "End"):
        assert (draw_captions([changed], 320)[0] != strips[0]).any()


def test_lines_end_where_a_name_has_a_break():
    from knet.visualization.captions import _fit, _Measure

    text, _ = _fit("camera_left_front_2024-11-26_frame_000123_undistorted_final", _Measure(320))
    assert "\n" in text and all(line[-1] in "_-" for line in text.split("\n")[:-1])
