"""Ways to spoil a small data set; those that write its json themselves give "written"."""

import json
import math

import numpy as np
from PIL import Image

from tests.data.datasets.folders import SemanticFolder, box, noise, rle


def image_of(folder, index=0):
    return sorted(p for p in folder.images.iterdir())[index]


def png_of(folder, index=0):
    root = folder.labels if isinstance(folder, SemanticFolder) else folder.pngs
    return sorted(root.iterdir())[index]


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def annotation(folder, **changes):
    """The first object: a cup, x 5 to 20, y 10 to 20, in 64 x 40."""
    folder.content["annotations"][0].update(changes)


def segment(folder, index=0, **changes):
    folder.content["annotations"][0]["segments_info"][index].update(changes)


def repainted(folder, change, index=0):
    """A label map or panoptic PNG with other values."""
    path = png_of(folder, index)
    pixels = np.array(Image.open(path))
    changed = change(pixels)
    Image.fromarray(pixels if changed is None else changed).save(path)


def two_images_one_file(folder):
    images = folder.content["images"]
    images[1]["file_name"] = images[0]["file_name"]


def in_text(folder, old, new):
    """A change that json.dumps does not make."""
    text = json.dumps(folder.content)
    assert old in text
    folder.json_file.write_text(text.replace(old, new, 1), encoding="utf-8")
    return "written"


def with_bom(folder):
    folder.json_file.write_text(json.dumps(folder.content), encoding="utf-8-sig")
    return "written"


def in_16_bit(folder):
    Image.fromarray(noise((40, 64))[:, :, 0].astype(np.uint16) * 257).save(image_of(folder))


def oriented(folder, orientation, json_size=None, turned=None, ending=".jpg"):
    """An image as a camera stores it: the stored picture has 64 x 40 pixels."""
    exif = Image.Exif()
    exif[274] = orientation
    path = image_of(folder)
    Image.open(path).convert("RGB").save(path.with_suffix(ending), exif=exif)
    path.unlink()
    entry = folder.content["images"][0]
    entry["file_name"] = path.with_suffix(ending).name
    if json_size is not None:
        entry["height"], entry["width"] = json_size
    if turned is not None:
        mask = np.zeros(json_size)
        mask[10:20, 10:20] = 1
        for each in folder.content["annotations"][:2]:
            each["segmentation"] = rle(mask)
            each["bbox"] = [10, 10, 10, 10]
            mask = np.roll(mask, 12, axis=0)


def with_palette(folder):
    path = png_of(folder)
    Image.open(path).quantize(16).save(path)


def from_1(labels):
    labels[labels != 255] += 1


def coloured(labels):
    return np.repeat(labels[..., None], 3, axis=2)


def as_jpeg(folder):
    path = png_of(folder)
    Image.open(path).save(path, format="JPEG")


def jpeg_beside(folder):
    path = png_of(folder)
    Image.open(path).save(path.with_suffix(".jpg"))
    path.unlink()


def same_pixels(folder):
    """In the val set, which is the second; under another name and in another format."""
    Image.open(image_of(folder)).save(folder.val.images / "copy.png")
    folder.val.content["images"][0]["file_name"] = "copy.png"
    folder.val.write()


def val_missing(folder):
    image_of(folder).unlink()
    image_of(folder.val).unlink()


def thing_in_val(folder):
    folder.val.content["categories"][1]["isthing"] = 1
    folder.val.write()


def other_class_in_val(folder):
    folder.val.content["categories"][0]["name"] = "mug"
    folder.val.write()


def every(folder, **changes):
    for each in folder.content["annotations"]:
        each.update(changes)


def other_ids(folder, new):
    """Category ids in another notation: cup 9, plate 4 become new(9), new(4)."""
    for each in folder.content["categories"]:
        each["id"] = new(each["id"])
    for each in folder.content["annotations"]:
        each["category_id"] = new(each["category_id"])


def many_cups(folder):
    cup = {"category_id": folder.CUP, "iscrowd": 0}
    folder.add([{**cup, "segmentation": box(2 * i, 2 * i, 5, 5)} for i in range(9)])


NAN = [[5.0, math.nan, 20.0, 10.0, 20.0, 20.0]]
HUGE = [[5.0, 1e12, 20.0, 10.0, 20.0, 20.0]]
PIXEL = np.zeros((40, 64))
PIXEL[3, 3] = 1
