"""Each fault that data may have, put into a clean data set, is found, named, and graded."""

import math

import pytest

from knet.data.checks import KINDS
from tests.conftest import PanopticFolder
from tests.data.checks.checking import check, errors, found, ordinary
from tests.data.checks.spoiling import (
    HUGE,
    NAN,
    PIXEL,
    annotation,
    as_jpeg,
    coloured,
    every,
    from_1,
    image_of,
    in_16_bit,
    in_text,
    jpeg_beside,
    many_cups,
    oriented,
    other_class_in_val,
    other_ids,
    png_of,
    repainted,
    same_pixels,
    segment,
    thing_in_val,
    truncate,
    two_images_one_file,
    val_missing,
    with_bom,
    with_palette,
)
from tests.data.datasets.folders import InstanceFolder, SemanticFolder, box, rle

FOLDERS = {"instance": InstanceFolder, "panoptic": PanopticFolder, "semantic": SemanticFolder}


@pytest.mark.parametrize("task", FOLDERS)
def test_clean_data(task, tmp_path):
    folders = [ordinary(FOLDERS[task], tmp_path, name) for name in ("train", "val")]
    report = check(*folders)
    assert not report.faults and not report.has_errors
    assert [len(each.sizes) for each in report.statistics.values()] == [2, 2]


# ------------------------------------------------------------------------------------- the faults


INSTANCE, PANOPTIC, SEMANTIC = "instance", "panoptic", "semantic"
FAULTS = []


def fault(name, task, kind, mention, spoil, *also):
    """
    Args:
        name: of the test.
        task: whose folder it is put into.
        kind: that tells of it.
        mention: what the sentence must say.
        spoil: puts it in; "written": the json too.
        also: kinds of further errors that it brings along.
    """
    FAULTS.append(pytest.param(task, kind, mention, spoil, also, id=name))


fault("missing image", INSTANCE, "missing", "001.png", lambda f: image_of(f).unlink())
fault("missing in both sets", INSTANCE, "missing", "001.png", val_missing)
fault("missing png", PANOPTIC, "missing", "001.png", lambda f: png_of(f).unlink())
fault("missing json", PANOPTIC, "json", "pottery", lambda f: f.json_file.unlink() or "written")
fault("broken json", INSTANCE, "json", "dishes", lambda f: in_text(f, '"images"', "images"))
fault(
    "wrong size",
    INSTANCE,
    "image size",
    "64 x 40, its json says 65 x 40",
    lambda f: f.content["images"][1].update(width=65),
    "rle",
)
fault("one file, two ids", INSTANCE, "one file", "001.png", two_images_one_file)
fault(
    "one id, two files",
    INSTANCE,
    "same id",
    "id 1",
    lambda f: f.content["images"][1].update(id=1),
    "unknown image",
)
fault("truncated image", INSTANCE, "unreadable", "001.png", lambda f: truncate(image_of(f)))
fault("truncated png", PANOPTIC, "unreadable", "001.png", lambda f: truncate(png_of(f)))
fault("empty image", INSTANCE, "empty file", "001.png", lambda f: image_of(f).write_bytes(b""))
fault("empty label map", SEMANTIC, "empty file", "shelf0.png", lambda f: png_of(f).write_bytes(b""))
fault("no image", SEMANTIC, "unreadable", "shelf0.jpg", lambda f: image_of(f).write_text("404"))
fault("empty mask", INSTANCE, "no mask", "object 1 of", lambda f: annotation(f, segmentation=[]))
fault(
    "no mask",
    INSTANCE,
    "no mask",
    "object 1 of",
    lambda f: f.content["annotations"][0].pop("segmentation") and None,
)
fault(
    "mask outside",
    INSTANCE,
    "outside",
    "object 1 of",
    lambda f: annotation(f, segmentation=box(10, 70, 10, 15), bbox=[70, 10, 15, 10]),
)
fault(
    "mask over the border",
    INSTANCE,
    "over border",
    "x 5 to 95",
    lambda f: annotation(f, segmentation=box(10, 5, 10, 90), bbox=[5, 10, 59, 10]),
)
fault(
    "RLE of another size",
    INSTANCE,
    "rle",
    "",
    lambda f: annotation(f, segmentation=rle(PIXEL[:20])),
)
fault(
    "cut RLE",
    INSTANCE,
    "rle",
    "",
    lambda f: annotation(f, segmentation={"size": [40, 64], "counts": "1"}),
)
fault(
    "mask of one pixel",
    INSTANCE,
    "tiny",
    "1 pixels",
    lambda f: annotation(f, segmentation=rle(PIXEL), bbox=[3, 3, 1, 1]),
)
fault("narrow mask", INSTANCE, "tiny", "", lambda f: annotation(f, segmentation=box(1, 1, 0.5, 9)))
fault(
    "doubled object",
    INSTANCE,
    "doubled",
    "object 99 of",
    lambda f: f.content["annotations"].append({**f.content["annotations"][1], "id": 99}),
)
fault(
    "box of corners",
    INSTANCE,
    "box notation",
    "1 of",
    lambda f: annotation(f, bbox=[5, 10, 20, 20]),
)
fault(
    "box elsewhere", INSTANCE, "box elsewhere", "1 of", lambda f: annotation(f, bbox=[40, 2, 9, 9])
)
fault("box of zeros", INSTANCE, "box zero", "1 of", lambda f: annotation(f, bbox=[0, 0, 0, 0]))
fault("all crowd", INSTANCE, "nothing", "4 are crowd", lambda f: every(f, iscrowd=1))
fault("16 bits", INSTANCE, "16 bit", "001.png", in_16_bit)
fault("NaN", INSTANCE, "polygon", "no number", lambda f: annotation(f, segmentation=NAN))
fault("huge", INSTANCE, "polygon", "far outside", lambda f: annotation(f, segmentation=HUGE))
fault("no polygon", INSTANCE, "polygon", "'x'", lambda f: annotation(f, segmentation=[5, 6, "x"]))
fault(
    "png id not in json",
    PANOPTIC,
    "unknown segment",
    str(9 * 65793),
    lambda f: repainted(f, lambda p: p.__setitem__((0, 0), 9)),
)
fault(
    "segment not in png",
    PANOPTIC,
    "lost segment",
    "segment 8 is not",
    lambda f: f.content["annotations"][0]["segments_info"].append(
        {"id": 8, "category_id": 3, "iscrowd": 0, "area": 5}
    ),
)
fault("palette", PANOPTIC, "palette", "mode P", with_palette)
fault("segment area 0", PANOPTIC, "area", "the area 0", lambda f: segment(f, area=0))
fault("segment area wrong", PANOPTIC, "segment area", "the area 9", lambda f: segment(f, area=9))
fault("area 0", INSTANCE, "area", "150 pixels", lambda f: annotation(f, area=0))
fault("area wrong", INSTANCE, "area", "150 pixels", lambda f: annotation(f, area=1500))
fault("area NaN", INSTANCE, "area", "area nan", lambda f: annotation(f, area=math.nan))
fault(
    "image without annotation",
    PANOPTIC,
    "image without annotation",
    "002.png",
    lambda f: f.content["annotations"].pop(),
)
fault(
    "unknown category",
    PANOPTIC,
    "unknown category",
    "55",
    lambda f: segment(f, category_id=55),
    "unknown segment",
)
fault(
    "unknown image",
    PANOPTIC,
    "unknown image",
    "77",
    lambda f: f.content["annotations"][0].update(image_id=77),
)
fault(
    "unknown image of an object",
    INSTANCE,
    "unknown image",
    "77",
    lambda f: annotation(f, image_id=77),
)
fault(
    "png of wrong size", PANOPTIC, "png size", "64 x 20", lambda f: repainted(f, lambda p: p[:20])
)
fault(
    "label map in colours",
    SEMANTIC,
    "label channels",
    "3 channels",
    lambda f: repainted(f, coloured),
)
fault("label map as JPEG", SEMANTIC, "label format", "JPEG", as_jpeg)
fault(
    "label map ending in jpg",
    SEMANTIC,
    "label format",
    "shelf0.jpg",
    jpeg_beside,
    "image without label",
)
fault(
    "label map of wrong size",
    SEMANTIC,
    "png size",
    "64 x 20",
    lambda f: repainted(f, lambda p: p[:20]),
)
fault(
    "label 200",
    SEMANTIC,
    "label",
    "id 200",
    lambda f: repainted(f, lambda p: p.__setitem__((9, 9), 200)),
)
fault(
    "labels from 1",
    SEMANTIC,
    "labels from 1",
    "1 to 3",
    lambda f: [repainted(f, from_1, i) for i in (0, 1)],
    "label",
)
fault(
    "an ignored label map",
    SEMANTIC,
    "ignored",
    "shelf0",
    lambda f: repainted(f, lambda p: p.fill(255)),
)
fault(
    "all ignored",
    SEMANTIC,
    "nothing",
    "ignored",
    lambda f: [repainted(f, lambda p: p.fill(255), i) for i in (0, 1)],
)
fault(
    "label without image", SEMANTIC, "label without image", "shelf0", lambda f: image_of(f).unlink()
)
fault(
    "image without label", SEMANTIC, "image without label", "shelf0", lambda f: png_of(f).unlink()
)
fault(
    "class list too short",
    SEMANTIC,
    "label",
    "id 2",
    lambda f: setattr(f, "CLASSES", ("wall", "cup")),
)
fault(
    "class list too long",
    SEMANTIC,
    "absent class",
    "'fork'",
    lambda f: setattr(f, "CLASSES", ("wall", "cup", "plate", "fork")),
)
fault(
    "class that never occurs",
    INSTANCE,
    "absent class",
    "'fork'",
    lambda f: f.content["categories"].append({"id": 12, "name": "fork"}),
    "classes differ",
)
fault("shared by train and val", INSTANCE, "shared image", "copy.png", same_pixels)
fault(
    "EXIF 90, upright", INSTANCE, "exif", "orientation 6", lambda f: oriented(f, 6, (64, 40), True)
)
fault("EXIF 90, stored", INSTANCE, "exif size", "40 x 64", lambda f: oriented(f, 6))
fault("EXIF 180", INSTANCE, "exif flip", "orientation 3", lambda f: oriented(f, 3))
fault("BOM", INSTANCE, "bom", "dishes.json", with_bom)
fault("NaN in json", PANOPTIC, "nan", "NaN", lambda f: f.content.update(info={"x": math.nan}))
fault(
    "key twice",
    INSTANCE,
    "duplicate key",
    "'images'",
    lambda f: in_text(f, '"images"', '"images": [], "images"'),
)
fault("ids from 0", INSTANCE, "ids from 0", "id 0", lambda f: other_ids(f, lambda i: i - 4))
fault("ids as floats", INSTANCE, "id notation", "9.0", lambda f: other_ids(f, float))
fault("ids as text", INSTANCE, "id notation", "'9'", lambda f: other_ids(f, str))
fault("isthing of a segment", PANOPTIC, "isthing", "isthing 1", lambda f: segment(f, isthing=1))
fault("isthing of the val set", PANOPTIC, "isthing", "'wall'", thing_in_val)
fault(
    "isthing that is none",
    PANOPTIC,
    "category",
    "'x'",
    lambda f: f.content["categories"][0].update(isthing="x"),
    "isthing",
)
fault(
    "one name twice",
    PANOPTIC,
    "category",
    "have the name wall",
    lambda f: f.content["categories"][0].update(name="wall"),
    "classes differ",
)
fault("classes of the val set", PANOPTIC, "classes differ", "'mug'", other_class_in_val)
fault("more objects than kernels", INSTANCE, "kernels", "9 objects", many_cups)


@pytest.mark.parametrize("task, kind, mention, spoil, also", FAULTS)
def test_a_fault(task, kind, mention, spoil, also, tmp_path):
    names = {"instance": "dishes", "panoptic": "pottery", "semantic": "shelf"}
    folder = ordinary(FOLDERS[task], tmp_path, names[task])
    val = None
    if task != "semantic":
        folder.val = val = ordinary(FOLDERS[task], tmp_path, "val", count=3)
    if spoil(folder) != "written" and task != "semantic":
        folder.write()
    report = check(folder, val, **{"MODEL.KNET.NUM_KERNELS": 8})
    kinds = found(report)
    assert kind in kinds, kinds
    assert any(mention in sentence for sentence in kinds[kind]), kinds[kind]
    wanted = {kind} if KINDS[kind].severity == "error" else set()
    assert errors(report) - set(also) == wanted, kinds
    assert report.has_errors == bool(wanted | set(also))


def test_missing_files_of_both_sets_are_all_named(tmp_path):
    train, val = (ordinary(InstanceFolder, tmp_path, name) for name in ("train", "val"))
    for path in (*train.images.iterdir(), image_of(val)):
        path.unlink()
    assert len(found(check(train, val))["missing"]) == 3
